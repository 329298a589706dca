//! A frame's draws are a function of its key and of nothing else.

use rand::RngCore;
use semlink_channel::{
    Chain, ChannelConfig, ChannelKind, ChannelState, Complex32, FrameKey, RicianK, SnrDb, Substream, iq, noise,
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
    let golden: [(u32, Substream, [u64; 2]); 5] = [
        (0, Substream::Scatter, [0xda61_8def_acdc_8e61, 0xe3b5_0e7b_399b_8e24]),
        (0, Substream::Noise, [0x2101_3c0c_883f_c3c5, 0x9c7b_40e6_4cad_92ed]),
        (0, Substream::LineOfSight, [0x7d34_3087_d93e_baf2, 0xda4f_4303_31a9_e882]),
        (1, Substream::PhaseNoise, [0x520a_d89b_a639_b866, 0xb6fe_5b86_b1e5_c2fd]),
        (2, Substream::PhaseNoise, [0x3369_abda_d38e_4c66, 0x8f56_443d_8a1f_b40d]),
    ];
    for (stage, substream, words) in golden {
        let mut generator = KEY.draws(stage).generator(substream);
        assert_eq!([generator.next_u64(), generator.next_u64()], words, "{substream:?} of stage {stage}");
    }
    assert_eq!(KEY.generator(Substream::Noise), KEY.draws(0).generator(Substream::Noise));
}

/// Index of a draw, its real and imaginary part.
type GoldenDraw = (usize, f64, f64);

/// Values from golden/gaussian.py, which computes them from the keystream in double precision.
#[test]
fn gaussian_draws_are_box_and_mullers() {
    const COUNT: usize = 130;
    #[rustfmt::skip]
    let golden: [(Substream, [GoldenDraw; 8]); 3] = [
        (Substream::Scatter, [
            (0, 0.377_984_371_005, -0.499_814_254_294),
            (1, 0.938_470_260_534, -0.781_534_296_855),
            (2, 0.823_636_568_197, -0.813_515_499_398),
            (7, 0.160_472_631_855, -0.506_941_639_250),
            (8, 0.376_712_913_269, -1.078_207_881_735),
            (63, 0.716_410_665_798, 0.812_567_686_025),
            (64, -1.327_658_267_225, 0.341_761_434_702),
            (129, -0.781_406_993_274, 0.359_802_813_257),
        ]),
        (Substream::Noise, [
            (0, 0.547_538_587_746, 0.575_234_083_610),
            (1, -0.840_460_734_559, -0.706_532_419_852),
            (2, 0.208_091_651_628, -2.045_991_697_456),
            (7, -1.441_946_003_762, -0.567_673_989_930),
            (8, -0.167_992_592_825, -1.086_740_511_223),
            (63, 0.167_899_497_168, 0.128_285_944_404),
            (64, 0.750_573_253_928, 0.730_560_159_652),
            (129, 0.691_262_083_822, -0.567_589_486_418),
        ]),
        (Substream::PilotNoise, [
            (0, -0.803_540_156_297, 0.049_520_495_600),
            (1, -0.869_005_660_594, 0.259_838_388_148),
            (2, 0.430_533_540_398, 0.268_352_506_304),
            (7, 0.469_227_351_010, 0.892_820_785_031),
            (8, -1.939_153_931_714, -0.779_827_193_177),
            (63, 0.474_900_648_214, -0.068_038_706_926),
            (64, 0.861_803_541_948, 0.172_103_436_920),
            (129, 0.343_776_420_817, -0.312_016_887_849),
        ]),
    ];
    for (substream, expected) in golden {
        let draws = match substream {
            Substream::Scatter => {
                ChannelConfig { coherence: 1, ..ChannelConfig::rayleigh(SnrDb::try_new(0.0).unwrap()) }
                    .draw(KEY, COUNT)
                    .h
            }
            Substream::Noise => {
                let mut draws = vec![Complex32::ZERO; COUNT];
                noise::fill(KEY, 1.0, &mut draws);
                draws
            }
            _ => {
                let chain = Chain::from(ChannelConfig::awgn(SnrDb::try_new(0.0).unwrap()));
                let mut pilots = vec![Complex32::ZERO; COUNT];
                chain.apply(KEY, chain.snr(), &mut pilots, &mut ones(1));
                pilots
            }
        };
        for (index, re, im) in expected {
            let (found, magnitude) = (draws[index], re.hypot(im));
            let error = (f64::from(found.re) - re).hypot(f64::from(found.im) - im);
            assert!(error < 1e-6 * magnitude, "{substream:?}, draw {index}: {found}, expected {re} {im}");
        }
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
