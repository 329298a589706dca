//! The networks in training: every parameter learns through the channel, and what is trained is what is served.

use candle_core::{Device, Tensor};
use semlink_channel::{ChannelConfig, ChannelKind, FrameKey, RicianK, SnrDb};
use semlink_codec::{
    Condition, Csi, CsiSource, DecoderHalf, DecoderNetwork, EncoderHalf, EncoderNetwork, EncoderState, ImageLimits,
    Input, Passage, Received, testing, through_channel, write_bundle,
};
use semlink_nn::optim::{AdamW, AdamWConfig, Optimizer};
use semlink_nn::{Mode, Params, grad, ops};

const RATES: [usize; 6] = [8, 16, 32, 64, 128, 256];

struct Codec {
    params: Params,
    encoder: EncoderNetwork,
    decoder: DecoderNetwork,
}

/// One image per rate, each with a channel of its own.
struct Batch {
    inputs: Vec<Input>,
    configs: Vec<ChannelConfig>,
    passages: Vec<Passage>,
}

impl Codec {
    fn new(seed: u64) -> Self {
        let draft = testing::draft();
        let params = Params::init(seed, &Device::Cpu);
        let encoder = EncoderNetwork::new(&params, &draft.student, &draft.cat, 1).unwrap();
        let decoder = DecoderNetwork::new(&params, &draft.cat, draft.student.features(), 10).unwrap();
        Self { params, encoder, decoder }
    }

    /// Logits of a batch after its channels.
    fn logits(&self, batch: &Batch, mode: Mode) -> Tensor {
        let features = self.encoder.student.forward(&batch.images(), mode).unwrap();
        let x = self.encoder.cat.forward(&features, &batch.conditions()).unwrap();
        let estimates = through_channel(&x, &batch.passages).unwrap();
        self.decoder.classifier.forward(&self.decoder.cat.forward(&estimates).unwrap()).unwrap()
    }
}

impl Batch {
    fn new(frames: usize) -> Self {
        let spec = testing::draft().input;
        let prepare = |i| spec.prepare(&testing::png(i as u64), &ImageLimits::default()).unwrap();
        let config = |i: usize| {
            let snr = SnrDb::try_new(i as f32 - 3.0).unwrap();
            match ChannelKind::ALL[i % 3] {
                ChannelKind::Awgn => ChannelConfig::awgn(snr),
                ChannelKind::Rayleigh => ChannelConfig { coherence: 16, ..ChannelConfig::rayleigh(snr) },
                ChannelKind::Rician => ChannelConfig::rician(snr, RicianK::default()),
            }
        };
        let configs: Vec<_> = (0..frames).map(config).collect();
        let passage = |(i, config): (usize, &ChannelConfig)| {
            let uses = RATES[i % 6];
            let key = key(i);
            Passage {
                state: config.draw(key, uses),
                key,
                uses,
                csi: [CsiSource::Perfect, CsiSource::Pilots(4), CsiSource::Perfect, CsiSource::None][i % 4],
            }
        };
        let passages = configs.iter().enumerate().map(passage).collect();
        Self { inputs: (0..frames).map(prepare).collect(), configs, passages }
    }

    fn images(&self) -> Tensor {
        let pixels: Vec<f32> = self.inputs.iter().flat_map(|input| input.pixels.clone()).collect();
        Tensor::from_vec(pixels, (self.inputs.len(), 28, 28, 1), &Device::Cpu).unwrap()
    }

    fn conditions(&self) -> Vec<Condition> {
        let condition = |p: &Passage| Condition {
            snr_db: Some(p.state.snr_db()),
            frame_snr_db: None,
            kind: Some(p.state.kind),
            uses: p.uses,
        };
        self.passages.iter().map(condition).collect()
    }

    fn targets(&self) -> Tensor {
        let one_hot = (0..self.inputs.len()).flat_map(|i| (0..10).map(move |c| f32::from(u8::from(c == i % 10))));
        Tensor::from_vec(one_hot.collect::<Vec<_>>(), (self.inputs.len(), 10), &Device::Cpu).unwrap()
    }
}

fn key(i: usize) -> FrameKey {
    FrameKey { seed: 11, link: 0, stream: 0, frame: i as u64 }
}

#[test]
fn every_variable_learns_through_the_channel() {
    let (codec, batch) = (Codec::new(1), Batch::new(12));
    let loss = ops::cross_entropy(&codec.logits(&batch, Mode::Train), &batch.targets(), None).unwrap();
    let grads = loss.backward().unwrap();
    grad::check_every_var_has_gradient(&codec.params.vars(), &grads).unwrap();
}

#[test]
fn images_are_learnt_through_noise() {
    let (codec, batch) = (Codec::new(2), Batch::new(12));
    let mut optimizer = AdamW::new(codec.params.vars(), AdamWConfig::default()).unwrap();
    let loss = || ops::cross_entropy(&codec.logits(&batch, Mode::Train), &batch.targets(), None).unwrap();
    let before = loss().to_scalar::<f32>().unwrap();
    for _ in 0..60 {
        optimizer.step(&loss().backward().unwrap(), 3e-3).unwrap();
    }
    let after = loss().to_scalar::<f32>().unwrap();
    // ln 10 = 2.3 is a guess; noise and all, these twelve draws can be learnt by heart.
    assert!(before > 2.0 && after < 0.5 * before, "{before} before, {after} after");
}

#[test]
fn what_is_trained_is_what_is_served() {
    let (codec, batch) = (Codec::new(3), Batch::new(12));
    // Statistics that are not the initial ones, so that folding batch-norm is put to the test.
    codec.logits(&batch, Mode::Train);
    let trained = ops::softmax(&codec.logits(&batch, Mode::Eval)).unwrap().to_vec2::<f32>().unwrap();

    let dir = tempfile::tempdir().unwrap();
    write_bundle(dir.path(), testing::draft(), &codec.params.tensors().unwrap()).unwrap();
    let (encoder, decoder) = (EncoderHalf::open(dir.path()).unwrap(), DecoderHalf::open(dir.path()).unwrap());
    let states: Vec<_> = batch
        .passages
        .iter()
        .map(|p| EncoderState {
            snr_db: Some(p.state.snr_db()),
            kind: Some(p.state.kind),
            uses: p.uses.try_into().unwrap(),
        })
        .collect();
    let mut frames = encoder.encode(&batch.inputs, &states).unwrap();
    let received: Vec<_> = frames
        .iter_mut()
        .zip(batch.configs.iter().zip(&batch.passages))
        .map(|(symbols, (config, passage))| {
            let state = config.apply(passage.key, symbols).state;
            let csi = Csi::observe(passage.csi, passage.key, &state, symbols).unwrap();
            Received { symbols: symbols.clone(), csi }
        })
        .collect();
    for (i, (decision, trained)) in decoder.decode(&received).unwrap().iter().zip(&trained).enumerate() {
        for (served, trained) in decision.probabilities.iter().zip(trained) {
            assert!((served - trained).abs() < 1e-5, "image {i}: {served} in service, {trained} in training");
        }
    }
}

#[test]
fn both_halves_count_their_parameters() {
    use semlink_codec::{CatDecoder, CatEncoder, Classifier};
    let (codec, draft) = (Codec::new(4), testing::draft());
    let student = draft.student.cost(28, 28, 1);
    let features = draft.student.features();
    let counted = [
        ("student", student.params),
        ("cat_encoder", CatEncoder::cost(&draft.cat, features).params),
        ("cat_decoder", CatDecoder::cost(&draft.cat, features).params),
        ("classifier", Classifier::cost(features, 10).params),
    ];
    for (name, count) in counted {
        assert_eq!(count, codec.params.sub(name).count(), "{name}");
    }
}

#[test]
fn multiply_accumulates_of_the_transformer_by_hand() {
    use semlink_codec::{CatDecoder, CatEncoder};
    let cat = testing::draft().cat;
    // Conditions: 8 numbers and 6 rates to 32 to 32. Encoder: 16 features to 8 tokens of 8; one block; 64 reals per token.
    // Codebook: scores of 10 codewords of 64, sharpness, two shares of 8.
    let condition = 14 * 32 + 32 * 32;
    let block = |d: u64| 8 * (3 * d * d + d * d + 2 * d * 2 * d) + 2 * 8 * 8 * d + 32 * 6 * d;
    let codebook = 16 * 10 + 10 * 64 + 32 + 2 * 32 * 8;
    let encoder = condition + 16 * 64 + codebook + block(8) + 32 * 16 + 8 * 8 * 64;
    assert_eq!(CatEncoder::cost(&cat, 16).macs, encoder);
    // Decoder: 96 numbers per token to 16; one block; 128 to 32 to 16.
    let decoder = condition + 8 * 96 * 16 + 32 * 32 + block(16) + 128 * 32 + 32 * 16;
    assert_eq!(CatDecoder::cost(&cat, 16).macs, decoder);
}
