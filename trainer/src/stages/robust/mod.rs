//! Stage `robust`, stage 2 of RKD-SC: channel codec and classifier learn through simulated channels.
//!
//! Each training frame draws its own channel kind, SNR, number of channel uses, fading and noise, what the encoder is told of them and how the
//! receiver comes to know them. Loss for one frame, g the decoder's features, f' the teacher's, v the variance of f', c the receiver's
//! classifier, t the teacher's decision, y the label, s the student's decision, and w = E / (E + E0), E = k Es/N0 the frame's energy and E0
//! that of `teacher_energy_db`: w (feature |g - f'|^2 / (features v) + logits T^2 KL(t || softmax(c(g))))
//! + (task + (1 - w) logits) CE(w y + (1 - w) s, softmax(c(g))).

mod air;
pub(crate) mod calibrate;
pub(crate) mod codec;
pub(crate) mod config;
pub(crate) mod frames;
pub(crate) mod measure;
mod uncoded;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use semlink_channel::{ChannelConfig, ChannelKind, ChannelUses, RicianK, SnrDb, limit};
use semlink_codec::{Calibration, Classifier, EncoderNetwork, Passage, StudentNet, through_channel};
use semlink_nn::{Mode, Params, checkpoint, ops};
use serde_json::json;

use self::calibrate::Sample;
use self::codec::Codec;
use self::config::JointStart;
use self::frames::Frames;
use self::measure::{Setting, Sounding};
use super::cache::Cache;
use super::distill::{self, Student, divergence};
use super::{CODEC_FILE, Context, Stage};
use crate::data::{Split, accuracy};
use crate::fit::Objective;
use crate::recipe::Recipe;
use crate::{Result, json};

/// Temperatures of the trained codec.
pub(crate) const CALIBRATION_FILE: &str = "calibration.json";

/// Separates the validation's noise from all other.
const VALIDATION_LINK: u64 = 0x7661_6c69;
const CALIBRATION_LINK: u64 = 0x6361_6c69;
/// Grid on which an epoch is validated.
const VALIDATION_SNR_DB: [f32; 4] = [-10.0, 0.0, 10.0, 20.0];
/// K of the Rician channel there.
const VALIDATION_K_FACTOR_DB: f32 = 5.0;
/// Validation frames at each point of a grid: an epoch's validation stays shorter than the epoch.
const VALIDATION_FRAMES: usize = 2000;
/// SNRs at which the calibration listens, and parts of the validation split that take turns at them.
const CALIBRATION_SNRS: usize = 12;
const CALIBRATION_PARTS: usize = 4;
/// Pairs the images of frames.
const PAIRING_SEED: u64 = 0x7061_6972;

struct Task<'a> {
    codec: Codec,
    /// Learns along, if there is one.
    student: Option<StudentNet>,
    /// That of a student that stays as it is.
    classifier: Option<&'a Classifier>,
    frames: &'a Frames,
    validation: &'a Frames,
    grid: &'a [Bounded],
    cache: &'a Cache,
    context: &'a Context<'a>,
}

/// An operating point and the accuracy that no codec exceeds there.
struct Bounded {
    setting: Setting,
    bound: f64,
}

impl Objective for Task<'_> {
    fn samples(&self) -> usize {
        self.frames.len()
    }

    fn loss(&self, epoch: usize, samples: &[usize]) -> Result<Tensor> {
        let recipe = self.context.recipe;
        let config = &recipe.robust;
        let view = self.cache.view(epoch);
        let members = self.frames.members(epoch, samples);
        let drawn =
            samples.iter().map(|i| air::draw(config, &recipe.cat.rates, epoch, *i)).collect::<Result<Vec<_>>>()?;
        let (conditions, passages): (Vec<_>, Vec<Passage>) = drawn.into_iter().unzip();
        let taught = members.iter().map(|images| self.cache.batch(view, images)).collect::<Result<Vec<_>>>()?;
        let (taught, taught_logits): (Vec<_>, Vec<_>) = taught.into_iter().unzip();
        let features = match &self.student {
            None => self.frames.features(view, &members)?,
            Some(student) => {
                let (views, train) = (&recipe.cache, &self.context.data()?.train);
                student.forward(&train.augmented(samples, &views.augment, views.seed, view)?, Mode::Train)?
            }
        };
        let sent = self.codec.encode(&features, &conditions)?;
        let (decoded, logits) = self.codec.decode(through_channel(&sent, &passages)?)?;
        let shares = teacher_shares(config.teacher_energy_db, &passages);
        let weights = |of: &dyn Fn(f32) -> f32| {
            Tensor::from_vec(shares.iter().map(|w| of(*w)).collect::<Vec<f32>>(), shares.len(), &self.context.device)
        };
        let teacher = weights(&|w| w)?;
        let (logit_weight, task_weight) = (config.logit_weight as f32, config.task_weight as f32);
        let task = weights(&|w| task_weight + (1.0 - w) * logit_weight)?;
        let distance = ops::mse(&decoded, &Tensor::cat(&taught, 1)?, Some(&teacher))?;
        let distance = distance.affine(config.feature_weight / self.cache.variance, 0.0)?;
        let decision = divergence(&logits, &frames::joint(&taught_logits)?, config.temperature, Some(&teacher))?;
        let task = ops::cross_entropy(&logits, &self.targets(view, &members, &teacher)?, Some(&task))?;
        let decision = decision.affine(config.logit_weight, 0.0)?;
        Ok(((distance + decision)? + task)?)
    }

    /// The gaps to the physical limit over the grid come first, negated: an epoch that forgets one SNR is not kept.
    fn validate(&self, weights: &Params) -> Result<Vec<(String, f64)>> {
        let recipe = self.context.recipe;
        let codec = Codec::new(weights, recipe)?;
        let (split, fresh);
        let frames = match &self.student {
            None => self.validation,
            Some(_) => {
                split = self.context.data()?.validation.first(VALIDATION_FRAMES)?;
                fresh = frames_of(recipe, &split, &student_net(self.context, weights)?)?;
                &fresh
            }
        };
        let sounding = Sounding {
            codec: &codec,
            frames,
            part: 0..VALIDATION_FRAMES,
            seed: recipe.robust.fit.seed,
            link: VALIDATION_LINK,
        };
        let (mut worst, mut sum) = (f64::MIN, 0.0);
        for Bounded { setting, bound } in self.grid {
            let gap = bound - correct(&sounding, setting)?;
            worst = worst.max(gap);
            sum += gap;
        }
        let mean = sum / self.grid.len() as f64;
        // Mean and worst together: the worst alone is as noisy as its one point.
        Ok(vec![("-gap".into(), -(mean + 0.25 * worst)), ("mean gap".into(), mean), ("worst gap".into(), worst)])
    }
}

impl Task<'_> {
    /// What frames should be taken for, \[n, classes\]: the label with weight w, the student's own decision with 1 - w. Nothing tells more of
    /// the label than that decision, and a frame of little energy that also tells how sure it is of it tells it less reliably.
    fn targets(&self, view: usize, members: &[Vec<usize>], shares: &Tensor) -> Result<Tensor> {
        let labels = self.frames.targets(members)?;
        let Some(classifier) = self.classifier else { return Ok(labels) };
        let decided = members.iter().map(|images| {
            let logits = classifier.forward(&self.frames.features(view, std::slice::from_ref(images))?)?;
            Ok(logits.argmax(1)?.to_vec1::<u32>()?.into_iter().map(|class| class as u8).collect())
        });
        let decided = self.frames.one_hot(&self.frames.joint_classes(&decided.collect::<Result<Vec<Vec<u8>>>>()?))?;
        let shares = shares.unsqueeze(1)?;
        Ok((labels.broadcast_mul(&shares)? + decided.broadcast_mul(&shares.affine(-1.0, 1.0)?)?)?)
    }
}

/// E / (E + E0) for each frame.
fn teacher_shares(half_db: Option<f32>, passages: &[Passage]) -> Vec<f32> {
    let half = half_db.map_or(0.0, |db| 10f32.powf(db / 10.0));
    let energy = passages.iter().map(|passage| passage.uses as f32 / passage.state.noise_var);
    energy.map(|energy| energy / (energy + half)).collect()
}

/// Share of frames that are decided rightly.
fn correct(sounding: &Sounding<'_>, setting: &Setting) -> Result<f64> {
    let (mut right, mut frames) = (0.0, 0);
    sounding.run(setting, 1, |heard| {
        right += accuracy(&heard.logits, heard.labels)? * heard.labels.len() as f64;
        frames += heard.labels.len();
        Ok(())
    })?;
    Ok(right / frames.max(1) as f64)
}

/// The points at which an epoch is validated.
fn grid(recipe: &Recipe, clean_accuracy: f64, classes: usize) -> Result<Vec<Bounded>> {
    let rates = &recipe.cat.rates;
    let mut uses = vec![rates[0], rates[rates.len() / 2], rates[rates.len() - 1]];
    uses.dedup();
    let mut grid = Vec::new();
    for kind in ChannelKind::ALL {
        for snr_db in VALIDATION_SNR_DB {
            for &uses in &uses {
                let k_factor = RicianK::try_new_db(VALIDATION_K_FACTOR_DB)?;
                let channel = ChannelConfig { kind, k_factor, ..ChannelConfig::awgn(SnrDb::try_new(snr_db)?) };
                let bound = limit::accuracy(clean_accuracy, classes, &channel, ChannelUses::try_new(uses)?)?;
                grid.push(Bounded { setting: Setting::known(channel, uses), bound });
            }
        }
    }
    Ok(grid)
}

/// The student's encoder among a codec's parameters.
pub(crate) fn student_net(context: &Context, params: &Params) -> Result<StudentNet> {
    let channels = context.data()?.input.channels;
    Ok(StudentNet::new(&params.sub(Student::ENCODER), &context.student()?, channels)?)
}

/// What frames of validation or test images carry.
pub(crate) fn frames_of(recipe: &Recipe, split: &Split, student: &StudentNet) -> Result<Frames> {
    let features = split.map(|images| Ok(student.forward(images, Mode::Eval)?))?.flatten_all()?.to_vec1()?;
    Frames::new(vec![features], split.labels(), recipe.classes(), recipe.robust.images_per_frame, PAIRING_SEED)
        .on(split.device())
}

/// The share of frames that the student of stage 1 decides rightly with its own classifier.
pub(crate) fn clean_accuracy(split: &Split, student: &Student, frames: &Frames) -> Result<f64> {
    frames.clean_accuracy(&split.map(|images| Ok(student.forward(images, Mode::Eval)?.1))?)
}

/// Trains the codec and writes it together with the student, and its calibration.
pub(crate) fn run(context: &Context) -> Result<()> {
    let (recipe, data) = (context.recipe, context.data()?);
    let cache = Cache::load(context)?;
    let new_frames = |views| {
        let per_frame = recipe.robust.images_per_frame;
        Frames::new(views, data.train.labels(), recipe.classes(), per_frame, PAIRING_SEED).on(&context.device)
    };
    let mut job = context.job(Stage::Robust, recipe.robust.fit);
    let student = match recipe.robust.joint {
        Some(JointStart::Random) => None,
        _ => Some(Student::load(context)?),
    };
    let tensors = match &student {
        None => BTreeMap::new(),
        Some(_) => {
            let file = checkpoint::load(&context.need(distill::FILE, "distill")?, &context.device)?;
            let prefix = format!("{}.", Student::ENCODER);
            file.tensors.into_iter().filter(|(name, _)| name.starts_with(&prefix)).collect()
        }
    };
    let views = match (&student, recipe.robust.joint) {
        (Some(student), None) => distill::views(context, &student.encoder)?,
        _ => Vec::new(),
    };
    let frames = new_frames(views)?;
    let split = data.validation.first(VALIDATION_FRAMES)?;
    let (validation, clean) = match &student {
        Some(student) => {
            let frames = frames_of(recipe, &split, &student.encoder)?;
            let clean = clean_accuracy(&split, student, &frames)?;
            (frames, clean)
        }
        // Any value does: it shifts all epochs' gaps alike.
        None => (new_frames(Vec::new())?, 1.0),
    };
    let grid = grid(recipe, clean, frames.classes())?;
    match (&student, recipe.robust.joint) {
        (_, Some(_)) => job.start.clone_from(&tensors),
        (Some(student), None) if recipe.cat.codewords == frames.classes() && Codec::has_codebook(recipe) => {
            job.start = decision(&student.classifier, recipe)?;
        }
        _ => {}
    }
    let mut trained = job.run(|params| {
        let codec = Codec::new(params, recipe)?;
        codec.fit(&frames)?;
        Ok(Task {
            codec,
            classifier: student.as_ref().filter(|_| recipe.robust.joint.is_none()).map(|student| &student.classifier),
            student: recipe.robust.joint.map(|_| student_net(context, params)).transpose()?,
            frames: &frames,
            validation: &validation,
            grid: &grid,
            cache: &cache,
            context,
        })
    })?;
    if !context.leads() {
        return Ok(());
    }
    if recipe.robust.joint.is_none() {
        trained.extend(tensors);
    }
    let params = Params::frozen(trained.clone());
    let all = frames_of(recipe, &data.validation, &student_net(context, &params)?)?;
    let calibration = calibrate(recipe, &Codec::new(&params, recipe)?, &all)?;
    json::write(&context.dir.join(CALIBRATION_FILE), &calibration)?;
    let about = BTreeMap::from([
        ("format".to_owned(), "semlink codec, version 1".to_owned()),
        ("cat".to_owned(), json!(recipe.cat).to_string()),
    ]);
    Ok(checkpoint::save(&context.dir.join(CODEC_FILE), &trained, &about)?)
}

/// Scores of a codebook that begins as the student's decision: a codeword for each class. For frames of several images the scores of their
/// classes add up; an encoder left to itself adds codewords of single images up instead, which lie closer together.
fn decision(classifier: &Classifier, recipe: &Recipe) -> Result<BTreeMap<String, Tensor>> {
    let (weight, bias) = classifier.weights();
    let weight = weight.to_vec2::<f32>()?;
    let bias = bias.map_or_else(|| Ok(vec![0.0; weight.len()]), |bias| bias.to_vec1::<f32>())?;
    let (images, classes) = (recipe.robust.images_per_frame, recipe.classes());
    let joint = classes.pow(images as u32);
    let (mut rows, mut sums) = (Vec::new(), Vec::new());
    for class in 0..joint {
        let digits = (0..images).rev().map(|place| class / classes.pow(place as u32) % classes);
        let digits: Vec<usize> = digits.collect();
        rows.extend(digits.iter().flat_map(|digit| weight[*digit].iter().copied()));
        sums.push(digits.iter().map(|digit| bias[*digit]).sum::<f32>());
    }
    let columns = rows.len() / joint;
    let name = |tensor: &str| format!("{}.codebook.scores.{tensor}", EncoderNetwork::PREFIXES[1]);
    Ok(BTreeMap::from([
        (name("weight"), Tensor::from_vec(rows, (joint, columns), &Device::Cpu)?),
        (name("bias"), Tensor::from_vec(sums, joint, &Device::Cpu)?),
    ]))
}

/// Fits the temperatures over all lengths, kinds and SNRs that the codec was trained for.
fn calibrate(recipe: &Recipe, codec: &Codec, validation: &Frames) -> Result<Calibration> {
    let [low, high] = recipe.robust.snr_db;
    let mut sample = Sample::default();
    let share = validation.len().div_ceil(CALIBRATION_PARTS);
    for kind in ChannelKind::ALL {
        for step in 0..CALIBRATION_SNRS {
            let snr = SnrDb::try_new(low + (high - low) * step as f32 / (CALIBRATION_SNRS - 1) as f32)?;
            let channel = ChannelConfig { kind, ..ChannelConfig::awgn(snr) };
            for (i, &uses) in recipe.cat.rates.iter().enumerate() {
                let start = (step + i) % CALIBRATION_PARTS * share;
                let sounding = Sounding {
                    codec,
                    frames: validation,
                    part: start..start + share,
                    seed: recipe.robust.fit.seed,
                    link: CALIBRATION_LINK,
                };
                let setting = Setting::known(channel, uses);
                sounding.run(&setting, 1, |heard| {
                    let rows = heard.logits.to_vec2::<f32>()?;
                    for ((logits, label), condition) in rows.into_iter().zip(heard.labels).zip(&heard.conditions) {
                        if let Some(energy_db) = Calibration::energy_db(condition) {
                            sample.push(uses, energy_db, *label, logits);
                        }
                    }
                    Ok(())
                })?;
            }
        }
    }
    Ok(sample.fit())
}
