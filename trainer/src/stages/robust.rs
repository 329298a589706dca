//! Stage `robust`, stage 2 of RKD-SC: channel codec and classifier learn through simulated channels.
//!
//! Each training frame draws its own channel kind, SNR, number of channel uses, fading and noise. Loss for one frame, g the decoder's features,
//! f' the teacher's, v the variance of f', c the receiver's classifier, t the teacher's decision, y the label:
//! feature |g - f'|^2 / (features v) + logits T^2 KL(t || softmax(c(g))) + task CE(y, softmax(c(g))).

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semlink_channel::{ChannelConfig, ChannelKind, ChannelUses, FrameKey, RicianK, SnrDb, limit};
use semlink_codec::{Condition, DecoderNetwork, EncoderNetwork, Passage, through_channel};
use semlink_nn::{Mode, Params, checkpoint, ops};
use serde_json::json;

use super::cache::Cache;
use super::distill::{self, Student, divergence};
use super::{CODEC_FILE, Context, Stage};
use crate::Result;
use crate::data::{Data, accuracy};
use crate::fit::Objective;
use crate::recipe::{Recipe, RobustConfig};

/// Separates this stage's draws from those of others: the `link` of its frame keys.
const TRAINING_LINK: u64 = 0x7472_6169;
const VALIDATION_LINK: u64 = 0x7661_6c69;

/// Grid on which an epoch is validated.
const VALIDATION_SNR_DB: [f32; 4] = [-10.0, 0.0, 10.0, 20.0];
const VALIDATION_KINDS: [ChannelKind; 2] = [ChannelKind::Awgn, ChannelKind::Rayleigh];

/// The student's features, which do not change in this stage.
struct Features {
    /// \[images, features\] for each view of the training split.
    train: Vec<Vec<f32>>,
    validation: Tensor,
    len: usize,
}

struct Task<'a> {
    encoder: semlink_codec::CatEncoder,
    decoder: DecoderNetwork,
    features: &'a Features,
    cache: &'a Cache,
    clean_accuracy: f64,
    recipe: &'a Recipe,
    data: &'a Data,
}

/// What one training frame meets.
fn draw(config: &RobustConfig, rates: &[usize], epoch: usize, index: usize) -> Result<(Condition, Passage)> {
    let key = FrameKey { seed: config.fit.seed, link: TRAINING_LINK, stream: epoch as u64, frame: index as u64 };
    let mut seed = [0; 32];
    for (part, value) in seed.chunks_exact_mut(8).zip([key.seed, key.link ^ 1, key.stream, key.frame]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    let mut rng = ChaCha8Rng::from_seed(seed);
    let snr = SnrDb::try_new(rng.random_range(config.snr_db[0]..=config.snr_db[1]))?;
    let k_factor = RicianK::try_new_db(rng.random_range(config.k_factor_db[0]..=config.k_factor_db[1]))?;
    let at = rng.random::<f64>() * (config.awgn + config.rayleigh + config.rician);
    let mut channel = if at < config.awgn {
        ChannelConfig::awgn(snr)
    } else if at < config.awgn + config.rayleigh {
        ChannelConfig::rayleigh(snr)
    } else {
        ChannelConfig::rician(snr, k_factor)
    };
    let uses = rates[rng.random_range(0..rates.len())];
    // A quarter of the fading frames see several blocks.
    if channel.kind != ChannelKind::Awgn && rng.random::<f32>() < 0.25 {
        channel.coherence = (uses / [2, 4, 8][rng.random_range(0..3)]).max(1);
    }
    let told = rng.random::<f64>() >= config.unknown;
    // Without channel state a receiver cannot undo fading: only frames over AWGN are ever decoded blindly.
    let csi = channel.kind != ChannelKind::Awgn || rng.random::<f32>() >= 0.05;
    let condition =
        Condition { snr_db: told.then_some(snr.db()), frame_snr_db: None, kind: told.then_some(channel.kind), uses };
    Ok((condition, Passage { state: channel.draw(key, uses), key, uses, csi }))
}

impl Objective for Task<'_> {
    fn samples(&self) -> usize {
        self.data.train.len()
    }

    fn loss(&self, epoch: usize, samples: &[usize]) -> Result<Tensor> {
        let config = &self.recipe.robust;
        let view = self.cache.view(epoch);
        let drawn =
            samples.iter().map(|i| draw(config, &self.recipe.cat.rates, epoch, *i)).collect::<Result<Vec<_>>>()?;
        let (conditions, passages): (Vec<_>, Vec<_>) = drawn.into_iter().unzip();
        let len = self.features.len;
        let rows: Vec<f32> =
            samples.iter().flat_map(|i| &self.features.train[view][i * len..(i + 1) * len]).copied().collect();
        let features = Tensor::from_vec(rows, (samples.len(), len), &Device::Cpu)?;
        let (taught, taught_logits) = self.cache.batch(view, samples)?;
        let sent = self.encoder.forward(&features, &conditions)?;
        let decoded = self.decoder.cat.forward(&through_channel(&sent, &passages)?)?;
        let logits = self.decoder.classifier.forward(&decoded)?;
        let distance = ops::mse(&decoded, &taught, None)?.affine(config.feature_weight / self.cache.variance, 0.0)?;
        let decision = divergence(&logits, &taught_logits, config.temperature)?.affine(config.logit_weight, 0.0)?;
        let targets = self.data.train.targets(samples, 0.0)?;
        let task = ops::cross_entropy(&logits, &targets, None)?.affine(config.task_weight, 0.0)?;
        Ok(((distance + decision)? + task)?)
    }

    /// The worst gap to the physical limit over the grid comes first, negated: an epoch that forgets one SNR is not kept.
    fn validate(&self, weights: &Params) -> Result<Vec<(String, f64)>> {
        let (encoder, decoder) = build(weights, self.recipe, self.data.input.channels)?;
        let labels = self.data.validation.labels();
        let (mut worst, mut sum, mut points) = (0f64, 0.0, 0.0);
        let mut figures = Vec::new();
        for kind in VALIDATION_KINDS {
            for snr_db in VALIDATION_SNR_DB {
                for uses in [self.recipe.cat.rates.first(), self.recipe.cat.rates.get(3), self.recipe.cat.rates.last()]
                {
                    let Some(&uses) = uses else { continue };
                    let snr = SnrDb::try_new(snr_db)?;
                    let channel = match kind {
                        ChannelKind::Awgn => ChannelConfig::awgn(snr),
                        _ => ChannelConfig::rayleigh(snr),
                    };
                    let measured = measure(&encoder, &decoder, &self.features.validation, labels, &channel, uses)?;
                    let classes = self.recipe.classes();
                    let bound = limit::accuracy(self.clean_accuracy, classes, &channel, ChannelUses::try_new(uses)?)?;
                    worst = worst.max(bound - measured);
                    sum += bound - measured;
                    points += 1.0;
                    if snr_db.abs() == 10.0 && uses == 64 {
                        figures.push((format!("{kind} {snr_db} dB k {uses}"), measured));
                    }
                }
            }
        }
        // Mean and worst together: the worst alone is as noisy as its one point.
        figures.insert(0, ("-gap".into(), -(sum / points + 0.25 * worst)));
        figures.push(("worst gap".into(), worst));
        Ok(figures)
    }
}

/// Accuracy over one channel at one length; the encoder is told the channel.
fn measure(
    encoder: &semlink_codec::CatEncoder,
    decoder: &DecoderNetwork,
    features: &Tensor,
    labels: &[u8],
    channel: &ChannelConfig,
    uses: usize,
) -> Result<f64> {
    let mut logits = Vec::new();
    for (part, labels) in labels.chunks(1000).enumerate() {
        let features = features.narrow(0, part * 1000, labels.len())?;
        let condition =
            Condition { snr_db: Some(channel.snr.db()), frame_snr_db: None, kind: Some(channel.kind), uses };
        let key = |i: usize| FrameKey {
            seed: 1,
            link: VALIDATION_LINK,
            stream: u64::from(channel.snr.db().to_bits()) << 32 | uses as u64,
            frame: (part * 1000 + i) as u64,
        };
        let passages: Vec<_> = (0..labels.len())
            .map(|i| Passage { state: channel.draw(key(i), uses), key: key(i), uses, csi: true })
            .collect();
        let sent = encoder.forward(&features, &vec![condition; labels.len()])?;
        logits.push(decoder.classifier.forward(&decoder.cat.forward(&through_channel(&sent, &passages)?)?)?);
    }
    accuracy(&Tensor::cat(&logits, 0)?, labels)
}

/// Both halves but for the student; `channels` of the images name no parameter here.
fn build(params: &Params, recipe: &Recipe, _channels: usize) -> Result<(semlink_codec::CatEncoder, DecoderNetwork)> {
    let features = recipe.student.features();
    let [_, cat_encoder] = EncoderNetwork::PREFIXES;
    Ok((
        semlink_codec::CatEncoder::new(&params.sub(cat_encoder), &recipe.cat, features)?,
        DecoderNetwork::new(params, &recipe.cat, features, recipe.classes())?,
    ))
}

/// Trains the codec and writes it together with the student.
pub(crate) fn run(context: &Context) -> Result<()> {
    let (recipe, data) = (context.recipe, context.data()?);
    let (student, cache) = (Student::load(context)?, Cache::load(context)?);
    let apply = |images: &Tensor| Ok(student.encoder.forward(images, Mode::Eval)?);
    let indices: Vec<usize> = (0..data.train.len()).collect();
    let views = (0..recipe.cache.views).map(|view| {
        let mut rows = Vec::new();
        for part in indices.chunks(250) {
            let images = data.train.augmented(part, &recipe.cache.augment, recipe.cache.seed, view)?;
            rows.extend(apply(&images)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(rows)
    });
    let train = views.collect::<Result<Vec<_>>>()?;
    let validation = data.validation.map(apply)?;
    let clean_accuracy = accuracy(&student.classifier.forward(&validation)?, data.validation.labels())?;
    let features = Features { train, validation, len: recipe.student.features() };
    let job = context.job(Stage::Robust, recipe.robust.fit);
    let mut trained = job.run(|params| {
        let (encoder, decoder) = build(params, recipe, data.input.channels)?;
        Ok(Task { encoder, decoder, features: &features, cache: &cache, clean_accuracy, recipe, data })
    })?;
    let student = checkpoint::load(&context.need(distill::FILE, "distill")?, &Device::Cpu)?;
    let prefix = format!("{}.", Student::ENCODER);
    trained.extend(student.tensors.into_iter().filter(|(name, _)| name.starts_with(&prefix)));
    let about = BTreeMap::from([
        ("format".to_owned(), "semlink codec, version 1".to_owned()),
        ("cat".to_owned(), json!(recipe.cat).to_string()),
    ]);
    Ok(checkpoint::save(&context.dir.join(CODEC_FILE), &trained, &about)?)
}
