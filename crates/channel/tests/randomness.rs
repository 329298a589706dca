//! A frame's draws are a function of its key and of nothing else.

use rand::RngCore;
use semlink_channel::{
    ChannelConfig, ChannelKind, ChannelState, Complex32, FrameKey, RicianK, SnrDb, Substream, iq, noise,
};

const KEY: FrameKey = FrameKey { seed: 1, link: 2, stream: 3, frame: 0x0123_4567_89ab_cdef };

fn config(kind: ChannelKind, db: f32) -> ChannelConfig {
    let snr = SnrDb::try_new(db).unwrap();
    ChannelConfig { kind, coherence: 4, ..ChannelConfig::rician(snr, RicianK::default()) }
}

fn ones(symbols: usize) -> Vec<Complex32> {
    vec![Complex32::new(1.0, 0.0); symbols]
}

/// The bytes that a frame of ones arrives as.
fn received(key: FrameKey, config: ChannelConfig) -> Vec<u8> {
    let mut symbols = ones(64);
    config.apply(key, &mut symbols);
    iq::encode(&symbols)
}

/// Values from golden/chacha8.py, which writes ChaCha8 out from its definition.
#[test]
fn generator_is_chacha8_keyed_by_the_four_numbers() {
    let golden: [(Substream, [u64; 2]); 3] = [
        (Substream::Scatter, [0xda61_8def_acdc_8e61, 0xe3b5_0e7b_399b_8e24]),
        (Substream::Noise, [0x2101_3c0c_883f_c3c5, 0x9c7b_40e6_4cad_92ed]),
        (Substream::LineOfSight, [0x7d34_3087_d93e_baf2, 0xda4f_4303_31a9_e882]),
    ];
    for (substream, words) in golden {
        let mut generator = KEY.generator(substream);
        assert_eq!([generator.next_u64(), generator.next_u64()], words, "{substream:?}");
    }
}

#[test]
fn same_key_same_bytes_other_key_other_bytes() {
    for kind in ChannelKind::ALL {
        let config = config(kind, 3.0);
        let reference = received(KEY, config);
        assert_eq!(received(KEY, config), reference);
        for other in [
            FrameKey { seed: 0, ..KEY },
            FrameKey { link: 0, ..KEY },
            FrameKey { stream: 0, ..KEY },
            FrameKey { frame: 0, ..KEY },
            FrameKey { frame: KEY.frame + 1, ..KEY },
            FrameKey { seed: KEY.link, link: KEY.seed, ..KEY },
            FrameKey { seed: KEY.seed + (1 << 32), ..KEY },
        ] {
            let bytes = received(other, config);
            assert!(bytes.chunks(8).zip(reference.chunks(8)).all(|(a, b)| a != b), "{kind}, {other:?}");
        }
    }
}

#[test]
fn order_does_not_matter() {
    let config = config(ChannelKind::Rician, 0.0);
    let frame = |frame| received(FrameKey { frame, ..KEY }, config);
    let forwards: Vec<_> = (0..50).map(frame).collect();
    let mut backwards: Vec<_> = (0..50).rev().map(frame).collect();
    backwards.reverse();
    assert_eq!(forwards, backwards);
}

#[test]
fn noise_is_the_same_whatever_the_fading_and_scales_with_the_snr() {
    let mut low = ones(64);
    noise::fill(KEY, 1.0, &mut low);
    let mut high = ones(64);
    noise::fill(KEY, 0.01, &mut high);
    assert!(low.iter().zip(&high).all(|(a, b)| (a * 0.1 - b).norm() < 1e-6));
    let mut prefix = ones(8);
    noise::fill(KEY, 1.0, &mut prefix);
    assert_eq!(prefix, low[..8]);

    for kind in ChannelKind::ALL {
        let mut symbols = ones(64);
        let state = config(kind, 0.0).apply(KEY, &mut symbols).state;
        let length = if state.coherence == 0 { 64 } else { state.coherence };
        for (i, (y, n)) in symbols.iter().zip(&low).enumerate() {
            assert_eq!(*y, state.h[i / length] + n, "{kind}, symbol {i}");
        }
    }
}

#[test]
fn fading_does_not_depend_on_the_snr_or_on_the_frames_length() {
    for kind in ChannelKind::ALL {
        let long = config(kind, 20.0).draw(KEY, 64).h;
        let short = config(kind, -20.0).draw(KEY, 8).h;
        assert_eq!(long[..short.len()], short);
    }
}

#[test]
fn states_that_are_used_again_change_nothing() {
    let mut state = ChannelState { kind: ChannelKind::Awgn, h: ones(100), coherence: 9, noise_var: 7.0 };
    for kind in ChannelKind::ALL {
        let config = config(kind, 5.0);
        let (mut a, mut b) = (ones(30), ones(30));
        let applied = config.apply(KEY, &mut a);
        let snr = config.apply_into(KEY, &mut b, &mut state);
        assert_eq!((&a, &applied.state, applied.snr_db_realised), (&b, &state, snr));
        assert_eq!(config.draw(KEY, 30), state);
        state.validate(30).unwrap();
    }
}

#[test]
fn empty_frames_do_no_harm() {
    for kind in ChannelKind::ALL {
        let applied = config(kind, 5.0).apply(KEY, &mut []);
        assert!(applied.snr_db_realised.is_nan());
        applied.state.validate(0).unwrap();
    }
}
