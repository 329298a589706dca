//! Both halves as the services use them: power, prefixes, independence of the batch, refusals.

use std::sync::OnceLock;

use proptest::prelude::*;
use semlink_channel::{
    ChannelConfig, ChannelKind, ChannelState, ChannelUses, Complex32, FrameKey, RicianK, SnrDb, power,
};
use semlink_codec::{
    Csi, Decision, DecoderHalf, EncoderHalf, EncoderState, Error, ImageError, ImageLimits, Input, Received, testing,
};

const RATES: [usize; 6] = [8, 16, 32, 64, 128, 256];

fn halves() -> &'static (EncoderHalf, DecoderHalf) {
    static HALVES: OnceLock<(EncoderHalf, DecoderHalf)> = OnceLock::new();
    HALVES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        testing::write_bundle(dir.path(), 3).unwrap();
        (EncoderHalf::open(dir.path()).unwrap(), DecoderHalf::open(dir.path()).unwrap())
    })
}

fn input(seed: u64) -> Input {
    halves().0.prepare(&testing::png(seed), &ImageLimits::default()).unwrap()
}

fn state(uses: usize, snr_db: Option<f32>, kind: Option<ChannelKind>) -> EncoderState {
    EncoderState { snr_db, kind, uses: ChannelUses::try_new(uses).unwrap() }
}

/// Images and states of every rate, several SNRs and all kinds, known and unknown.
fn mixed() -> (Vec<Input>, Vec<EncoderState>) {
    let kinds = [Some(ChannelKind::Awgn), None, Some(ChannelKind::Rayleigh), Some(ChannelKind::Rician)];
    let states = (0..24).map(|i| state(RATES[i % 6], (i % 5 != 0).then_some(i as f32 * 1.3 - 10.0), kinds[i % 4]));
    ((0..24).map(input).collect(), states.collect())
}

/// The frames of [`mixed`] after channels of all kinds, with and without channel state.
fn received() -> Vec<Received> {
    let (inputs, states) = mixed();
    let frames = halves().0.encode(&inputs, &states).unwrap();
    let send = |(i, mut symbols): (usize, Vec<Complex32>)| {
        let snr = SnrDb::try_new(i as f32 * 1.3 - 10.0).unwrap();
        let channel = match i % 3 {
            0 => ChannelConfig::awgn(snr),
            1 => ChannelConfig { coherence: 16, ..ChannelConfig::rayleigh(snr) },
            _ => ChannelConfig::rician(snr, RicianK::default()),
        };
        let applied = channel.apply(FrameKey { seed: 1, link: 0, stream: 0, frame: i as u64 }, &mut symbols);
        Received { symbols, csi: if i % 4 == 3 { Csi::None } else { Csi::Perfect(applied.state) } }
    };
    frames.into_iter().enumerate().map(send).collect()
}

#[test]
fn halves_are_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<EncoderHalf>();
    shared::<DecoderHalf>();
}

#[test]
fn every_frame_has_its_length_and_power_1() {
    let (inputs, states) = mixed();
    for (frame, state) in halves().0.encode(&inputs, &states).unwrap().iter().zip(&states) {
        assert_eq!(frame.len(), state.uses.get());
        // Each of 2 k squares is rounded to f32.
        assert!((power::mean_power(frame) - 1.0).abs() < 1e-6, "k = {}: {}", frame.len(), power::mean_power(frame));
    }
}

#[test]
fn a_frame_does_not_depend_on_the_others_of_its_batch() {
    let (inputs, states) = mixed();
    let together = halves().0.encode(&inputs, &states).unwrap();
    for (i, together) in together.iter().enumerate() {
        let alone = halves().0.encode(&inputs[i..=i], &states[i..=i]).unwrap();
        for (a, b) in alone[0].iter().zip(together) {
            assert!((a - b).norm() < 1e-5, "image {i}: {a} alone, {b} together");
        }
    }
}

#[test]
fn a_decision_does_not_depend_on_the_others_of_its_batch() {
    let frames = received();
    let together = halves().1.decode(&frames).unwrap();
    for (i, together) in together.iter().enumerate() {
        let alone = halves().1.decode(&frames[i..=i]).unwrap();
        for (a, b) in alone[0].probabilities.iter().zip(&together.probabilities) {
            assert!((a - b).abs() < 1e-5, "frame {i}: {a} alone, {b} together");
        }
    }
    let mut reversed = frames;
    reversed.reverse();
    for (a, b) in halves().1.decode(&reversed).unwrap().iter().rev().zip(&together) {
        assert_eq!(a.index, b.index);
    }
}

#[test]
fn probabilities_sum_to_1_and_the_decision_is_their_largest() {
    for Decision { index, confidence, probabilities } in halves().1.decode(&received()).unwrap() {
        assert_eq!(probabilities.len(), 10);
        assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        assert!(probabilities.iter().all(|p| (0.0..=confidence).contains(p)));
        assert_eq!(probabilities[index], confidence);
    }
}

#[test]
fn image_state_and_symbols_reach_the_other_end() {
    let (encoder, decoder) = halves();
    let known = state(64, Some(10.0), Some(ChannelKind::Awgn));
    let encode = |seed, state| encoder.encode(&[input(seed)], &[state]).unwrap().remove(0);
    let frame = encode(1, known);
    assert_ne!(frame, encode(2, known), "the image");
    assert_ne!(frame, encode(1, EncoderState { snr_db: Some(-5.0), ..known }), "the SNR");
    assert_ne!(frame, encode(1, EncoderState { snr_db: None, ..known }), "not knowing it");
    assert_ne!(frame, encode(1, EncoderState { kind: Some(ChannelKind::Rayleigh), ..known }), "the kind");
    let decode = |symbols: &[Complex32], noise_var| {
        let state = ChannelState { kind: ChannelKind::Awgn, h: vec![Complex32::ONE], coherence: 0, noise_var };
        decoder
            .decode(&[Received { symbols: symbols.to_vec(), csi: Csi::Perfect(state) }])
            .unwrap()
            .remove(0)
            .probabilities
    };
    assert_ne!(decode(&frame, 0.1), decode(&encode(2, known), 0.1), "the symbols");
    assert_ne!(decode(&frame, 0.1), decode(&frame, 1.0), "the noise");
}

#[test]
fn an_snr_beyond_the_trained_range_counts_as_its_edge() {
    let encode = |snr| halves().0.encode(&[input(1)], &[state(32, Some(snr), None)]).unwrap();
    assert_eq!(encode(20.0), encode(60.0));
    assert_eq!(encode(-10.0), encode(-40.0));
    assert_ne!(encode(20.0), encode(-10.0));
}

#[test]
fn nothing_in_nothing_out() {
    assert!(halves().0.encode(&[], &[]).unwrap().is_empty());
    assert!(halves().1.decode(&[]).unwrap().is_empty());
}

#[test]
fn a_number_of_uses_outside_the_set_is_refused_by_both() {
    let error = halves().0.encode(&[input(1)], &[state(63, None, None)]).unwrap_err();
    assert!(matches!(&error, Error::Rate { uses: 63, rates } if *rates == RATES), "{error}");
    for uses in [0, 1, 63, 257] {
        let frame = Received { symbols: vec![Complex32::ONE; uses], csi: Csi::None };
        let error = halves().1.decode(&[frame]).unwrap_err();
        assert!(matches!(&error, Error::Rate { uses: u, .. } if *u == uses), "{error}");
    }
}

#[test]
fn bad_inputs_are_refused() {
    let (encoder, decoder) = halves();
    let good = state(8, None, None);
    let error = encoder.encode(&[input(1)], &[]).unwrap_err();
    assert!(matches!(error, Error::Size { expected: 1, got: 0, .. }), "{error}");
    let short = Input { pixels: vec![0.0; 3], ..input(1) };
    let error = encoder.encode(&[short], &[good]).unwrap_err();
    assert!(matches!(error, Error::Size { expected: 784, got: 3, .. }), "{error}");
    for snr in [f32::NAN, f32::INFINITY, -61.0, 101.0] {
        let error = encoder.encode(&[input(1)], &[state(8, Some(snr), None)]).unwrap_err();
        assert!(matches!(error, Error::Channel(_)), "{snr}: {error}");
    }
    let nan = Input { pixels: vec![f32::NAN; 784], ..input(1) };
    let error = encoder.encode(&[nan], &[good]).unwrap_err();
    assert!(matches!(error, Error::Channel(semlink_channel::Error::NonFinite { .. })), "{error}");

    let frame = |symbol, h, noise_var| Received {
        symbols: vec![symbol; 8],
        csi: Csi::Perfect(ChannelState { kind: ChannelKind::Rayleigh, h, coherence: 0, noise_var }),
    };
    let nan = Complex32::new(f32::NAN, 0.0);
    let one = Complex32::ONE;
    for bad in [
        frame(nan, vec![one], 0.1),
        frame(one, vec![nan], 0.1),
        frame(one, vec![one; 2], 0.1),
        frame(one, vec![one], 0.0),
        frame(one, vec![one], f32::NAN),
        Received { symbols: vec![nan; 8], csi: Csi::None },
    ] {
        let error = decoder.decode(std::slice::from_ref(&bad)).unwrap_err();
        assert!(matches!(error, Error::Channel(_)), "{bad:?}: {error}");
    }
}

#[test]
fn image_faults_come_through() {
    let prepare = |bytes: &[u8]| halves().0.prepare(bytes, &ImageLimits::default());
    assert_eq!(prepare(&[]), Err(ImageError::Empty));
    assert_eq!(prepare(b"hello"), Err(ImageError::UnknownFormat));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is received decodes to probabilities or is refused; finite symbols of a sane size are never refused.
    #[test]
    fn finite_frames_are_decided(
        rate in 0usize..6,
        amplitude in 1e-6f32..1e3,
        gain in 1e-6f32..1e3,
        noise_exponent in -12f32..6.0,
        known in any::<bool>(),
    ) {
        let symbols: Vec<Complex32> =
            (0..RATES[rate]).map(|i| Complex32::from_polar(amplitude, i as f32)).collect();
        let (h, noise_var) = (vec![Complex32::new(gain, -gain)], 10f32.powf(noise_exponent));
        let state = ChannelState { kind: ChannelKind::Rayleigh, h, coherence: 0, noise_var };
        let csi = if known { Csi::Perfect(state) } else { Csi::None };
        let decision = &halves().1.decode(&[Received { symbols, csi }]).unwrap()[0];
        prop_assert!((decision.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }
}
