//! Chains: order, draws that do not depend on what else there is, and what a receiver is told.

use semlink_channel::{
    Chain, ChannelConfig, ChannelKind, Complex32, Error, FrameKey, RicianK, SnrDb, StageSpec, Value, models, power,
};

mod support;

use support::{chain, qpsk, send, send_noiseless};

const KEY: FrameKey = FrameKey { seed: 3, link: 1, stream: 4, frame: 15 };

/// A stage of each model, with parameters that let it do something; playback needs a library and is in `tdl.rs`.
const STAGES: [&str; 15] = [
    "awgn,snr_db=10",
    "rayleigh",
    "rayleigh,coherence=7",
    "rayleigh,doppler=0.01,spacing=100",
    "rician,coherence=4,k_factor_db=3",
    "rician,doppler=0.02",
    "tdl,delay_spread_ns=2000,coherence=16",
    "tdl,profile=D,delay_spread_ns=2000,doppler=0.01",
    "shadowing,sigma_db=4",
    "cfo,offset=0.01,phase_deg=20",
    "phase_noise,linewidth=0.001",
    "iq_imbalance,gain_db=1,phase_deg=4,dc_i=0.01",
    "adc,bits=4",
    "impulsive,probability=0.2",
    "gilbert_elliott,to_bad=0.2",
];

fn bits(symbols: &[Complex32]) -> Vec<[u32; 2]> {
    symbols.iter().map(|x| [x.re.to_bits(), x.im.to_bits()]).collect()
}

/// A chain of this stage and noise.
fn with_noise(stage: &str) -> Chain {
    if stage.starts_with("awgn") { chain(&[stage]) } else { chain(&[stage, "awgn,snr_db=20"]) }
}

#[test]
fn every_model_is_among_the_stages_tested_here() {
    for model in models::ALL.into_iter().filter(|model| model.name != "playback") {
        assert!(STAGES.iter().any(|stage| stage.split(',').next() == Some(model.name)), "{}", model.name);
    }
}

#[test]
fn same_key_same_bits_and_every_frame_its_own() {
    for stage in STAGES {
        let chain = with_noise(stage);
        let through = |key| {
            let mut symbols = qpsk(100);
            let passed = send(&chain, key, &mut symbols);
            (bits(&symbols), passed)
        };
        assert_eq!(through(KEY), through(KEY), "{stage}");
        for other in [
            FrameKey { seed: 0, ..KEY },
            FrameKey { link: 0, ..KEY },
            FrameKey { stream: 0, ..KEY },
            FrameKey { frame: 14, ..KEY },
        ] {
            assert_ne!(through(KEY).0, through(other).0, "{stage}, {other:?}");
        }
    }
}

/// "the first payload symbols never depend on how many pilots there are", says `Model`.
#[test]
fn the_payload_does_not_depend_on_the_pilots() {
    for stage in STAGES {
        let chain = with_noise(stage);
        let through = |pilots: usize| {
            let (mut before, mut symbols) = (qpsk(pilots), qpsk(50));
            let passed = chain.apply(KEY, chain.snr(), &mut before, &mut symbols);
            (bits(&symbols), passed.state, before)
        };
        let (plain, state, _) = through(0);
        let (few, few_state, _) = through(2);
        let (many, many_state, pilots) = through(64);
        assert_eq!((&plain, &state), (&few, &few_state), "{stage}");
        assert_eq!((&plain, &state), (&many, &many_state), "{stage}");
        assert!(pilots.iter().zip(&qpsk(64)).any(|(y, x)| y != x), "{stage} leaves pilots alone");
    }
}

/// A shorter frame meets the first coefficients, impulses, erasures and noise of a longer one. Where several taps look ahead, its last symbols
/// differ, since nothing follows them.
#[test]
fn a_short_frame_meets_what_a_long_one_begins_with() {
    for stage in STAGES {
        let chain = with_noise(stage);
        let (mut long, mut short) = (qpsk(100), qpsk(48));
        let (of_long, of_short) = (send(&chain, KEY, &mut long), send(&chain, KEY, &mut short));
        let ahead = of_short.taps.as_ref().map_or(0, |taps| (-taps.first) as usize);
        assert_eq!(bits(&long[..48 - ahead]), bits(&short[..48 - ahead]), "{stage}");
        for symbol in 0..48 {
            assert_eq!(of_long.state.coefficient(symbol), of_short.state.coefficient(symbol), "{stage}");
        }
    }
}

#[test]
fn order_matters() {
    let through = |stages: &[&str]| {
        let mut symbols = qpsk(64);
        let passed = send(&chain(stages), KEY, &mut symbols);
        (symbols, passed)
    };
    let (converted, _) = through(&["awgn,snr_db=5", "adc,bits=2"]);
    let levels = [-2.25, -0.75, 0.75, 2.25];
    assert!(converted.iter().all(|x| levels.contains(&x.re) && levels.contains(&x.im)));
    let (noisy, _) = through(&["adc,bits=2", "awgn,snr_db=5"]);
    assert!(!noisy.iter().any(|x| levels.contains(&x.re)));

    // Noise before the fading fades with it: h2 (h1 x + n1), N0 = |h2|^2 N1.
    let (_, after) = through(&["rayleigh", "awgn,snr_db=5"]);
    let (_, before) = through(&["awgn,snr_db=5", "rayleigh"]);
    assert_eq!(after.state.h, before.state.h);
    let faded = after.state.noise_var * after.state.h[0].norm_sqr();
    assert!((before.state.noise_var - faded).abs() < 1e-6 * faded);
    assert_ne!(after.snr_db_realised, before.snr_db_realised, "the first is the SNR behind the fading");
}

/// A stage's draws do not change when others are added, before or behind it.
#[test]
fn draws_do_not_depend_on_the_other_stages() {
    let h = |stages: &[&str]| send(&chain(stages), KEY, &mut qpsk(60)).state.h;
    let fading = "rician,coherence=6";
    let alone = h(&[fading, "awgn,snr_db=8"]);
    assert_eq!(alone, h(&["cfo,offset=0.1", "phase_noise", fading, "adc", "awgn,snr_db=-8", "impulsive"]));
    let noise = |stages: &[&str]| {
        let mut symbols = vec![Complex32::ZERO; 60];
        send(&chain(stages), KEY, &mut symbols);
        bits(&symbols)
    };
    let plain = noise(&["awgn,snr_db=8"]);
    assert_eq!(plain, noise(&["rayleigh,doppler=0.1", "gilbert_elliott", "awgn,snr_db=8"]));
    assert_eq!(plain, noise(&["shadowing", "cfo,offset=0.1", "rician", "awgn,snr_db=8"]));

    // Phase noise of a first stage, told from the payload itself.
    let phases = |stages: &[&str]| {
        let mut symbols = vec![Complex32::ONE; 60];
        send_noiseless(&chain(stages), KEY, &mut symbols);
        symbols
    };
    let first = phases(&["phase_noise,linewidth=0.01", "awgn,snr_db=60"]);
    let with_more = phases(&["impulsive,probability=0", "phase_noise,linewidth=0.01", "cfo", "awgn,snr_db=60"]);
    assert!(first.iter().zip(&with_more).all(|(a, b)| (a - b).norm() < 1e-6));
}

/// Stages of one model draw independently, wherever they stand, and the first of them draws what it draws alone.
#[test]
fn two_stages_of_one_model_draw_differently() {
    for model in [
        "phase_noise,linewidth=0.01",
        "shadowing,sigma_db=5",
        "gilbert_elliott,to_bad=0.3",
        "impulsive,probability=0.5",
    ] {
        let through = |stages: &[&str]| {
            let mut symbols = vec![Complex32::ONE; 80];
            send_noiseless(&chain(stages), KEY, &mut symbols);
            symbols
        };
        let one = through(&[model, "awgn,snr_db=60"]);
        // What the second does, and the third: were they the same draws, they would do what the first does again.
        for before in [vec![], vec!["cfo"], vec!["cfo", "adc,bits=24,full_scale=1000"]] {
            let two: Vec<&str> = before.iter().copied().chain([model, model, "awgn,snr_db=60"]).collect();
            let three: Vec<&str> = before.iter().copied().chain([model, model, model, "awgn,snr_db=60"]).collect();
            let (two, three) = (through(&two), through(&three));
            let again = |first: &[Complex32], second: &[Complex32]| -> Vec<Complex32> {
                // Multiplicative models: the quotient is what the stage did. Impulses: the difference, moved to 1.
                let stage = |(a, b): (&Complex32, &Complex32)| {
                    if model.starts_with("impulsive") {
                        b - a + Complex32::ONE
                    } else if a.norm() < 1e-3 {
                        *b
                    } else {
                        b / a
                    }
                };
                first.iter().zip(second).map(stage).collect()
            };
            let differ = |a: &[Complex32], b: &[Complex32]| a.iter().zip(b).any(|(a, b)| (a - b).norm() > 1e-2);
            let (second, third) = (again(&one, &two), again(&two, &three));
            assert!(
                differ(&one, &second) && differ(&second, &third) && differ(&one, &third),
                "{model} after {before:?}"
            );
        }
    }
}

/// The chain of a configuration is the configuration, bit for bit, and so is the chain of its text.
#[test]
fn a_configuration_is_a_chain() {
    for kind in ChannelKind::ALL {
        for (db, coherence) in [(0.1f32, 0), (12.3, 1), (-7.0, 9), (100.0, 1_000)] {
            let config = ChannelConfig {
                kind,
                snr: SnrDb::try_new(db).unwrap(),
                k_factor: RicianK::try_new_db((db + 0.1).min(60.0)).unwrap(),
                coherence,
            };
            let chain = Chain::from(config);
            assert_eq!((chain.kind(), chain.snr()), (kind, config.snr));
            assert_eq!(chain.has_blocks(), kind != ChannelKind::Awgn && coherence != 0);
            let text: Vec<String> = chain.specs().iter().map(StageSpec::to_string).collect();
            let read = support::chain(&text.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(read.specs(), chain.specs());
            for symbols in [0, 1, 64, 100] {
                let (mut a, mut b, mut c) = (qpsk(symbols), qpsk(symbols), qpsk(symbols));
                let applied = config.apply(KEY, &mut a);
                let passed = send(&chain, KEY, &mut b);
                let again = send(&read, KEY, &mut c);
                assert_eq!((bits(&a), &applied.state), (bits(&b), &passed.state), "{config:?}");
                assert_eq!((bits(&a), &applied.state), (bits(&c), &again.state), "{text:?}");
                assert_eq!(applied.snr_db_realised.to_bits(), passed.snr_db_realised.to_bits());
            }
        }
    }
}

/// The SNR can be another for each frame, without building anything anew.
#[test]
fn a_frame_can_have_an_snr_of_its_own() {
    let (asked, other) = (SnrDb::try_new(5.0).unwrap(), chain(&["rayleigh", "awgn,snr_db=20"]));
    let (mut a, mut b) = (qpsk(64), qpsk(64));
    let ramped = other.apply(KEY, asked, &mut [], &mut a);
    let built = send(&chain(&["rayleigh", "awgn,snr_db=5"]), KEY, &mut b);
    assert_eq!((bits(&a), ramped), (bits(&b), built));
}

/// Power of what comes to the noise over the power of the noise, of this frame.
#[test]
fn the_realised_snr_is_that_of_the_frame() {
    let chain = chain(&["shadowing,sigma_db=6", "rayleigh,doppler=0.01", "awgn,snr_db=4", "adc"]);
    let (mut symbols, mut noise) = (qpsk(500), vec![Complex32::ZERO; 500]);
    let sent = symbols.clone();
    let passed = send(&chain, KEY, &mut symbols);
    semlink_channel::noise::fill(KEY, chain.snr().noise_var(), &mut noise);
    let clean: Vec<Complex32> = sent.iter().enumerate().map(|(i, x)| passed.state.coefficient(i) * x).collect();
    let expected = 10.0 * (power::mean_power(&clean) / power::mean_power(&noise)).log10();
    assert!((f64::from(passed.snr_db_realised) - expected).abs() < 1e-3);
    assert!(send(&chain, KEY, &mut []).snr_db_realised.is_nan());
    assert_eq!(send(&chain, KEY, &mut [Complex32::ZERO; 9]).snr_db_realised, f32::NEG_INFINITY);
}

/// Whatever single stage at whatever end of its ranges: symbols stay finite, and the state is one that a receiver accepts.
#[test]
fn the_ends_of_all_ranges_are_sound() {
    use semlink_channel::Kind;
    for model in models::ALL.into_iter().filter(|model| model.name != "playback") {
        let base = |spec: StageSpec| if model.name == "awgn" { spec.with("snr_db", 0.0) } else { spec };
        for parameter in model.parameters {
            let ends = match parameter.kind {
                Kind::Number(least, most, _) => vec![Value::Number(least), Value::Number(most)],
                Kind::Whole(least, most, _) => vec![Value::Number(least as f64), Value::Number(most as f64)],
                Kind::Choice(names) => {
                    let names = names.iter().filter(|name| **name != "custom");
                    names.map(|name| Value::Text((*name).to_owned())).collect()
                }
                Kind::Numbers(..) | Kind::Responses => continue,
            };
            for value in ends {
                let mut spec = base(StageSpec::new(model.name)).with_value(parameter.name, value);
                match (model.name, parameter.name) {
                    ("tdl", "k_factor_db") => {
                        let list = |x: f64| Value::Numbers(vec![x]);
                        spec = spec.with_value("profile", Value::Text("custom".into()));
                        spec = spec.with_value("delays_ns", list(0.0)).with_value("powers_db", list(0.0));
                    }
                    // The default delay spread at this rate spans more symbols than there may be taps.
                    ("tdl", "symbol_rate_hz") => spec = spec.with("delay_spread_ns", 0.0),
                    ("tdl", "delay_spread_ns") => spec = spec.with("symbol_rate_hz", 1e5),
                    _ => {}
                }
                let mut stages = vec![spec];
                if model.name != "awgn" {
                    stages.push(StageSpec::new("awgn").with("snr_db", 10.0));
                }
                let chain = Chain::new(&stages).unwrap();
                for (symbols, frame) in [(0, 0), (1, 1), (100, u64::MAX)] {
                    let (mut pilots, mut y) = (qpsk(5), qpsk(symbols));
                    let passed = chain.apply(FrameKey { frame, ..KEY }, chain.snr(), &mut pilots, &mut y);
                    assert!(y.iter().chain(&pilots).all(|y| y.is_finite()), "{stages:?}: {y:?}");
                    passed.state.validate(symbols).unwrap_or_else(|error| panic!("{stages:?}: {error}"));
                }
            }
        }
    }
}

#[test]
fn stages_that_make_no_chain_are_refused() {
    let message = |stages: &[&str]| {
        let specs: Vec<StageSpec> = stages.iter().map(|stage| stage.parse().unwrap()).collect();
        let error = Chain::new(&specs).unwrap_err();
        assert!(matches!(error, Error::Chain { .. }), "{error:?}");
        error.to_string()
    };
    let noise = "awgn,snr_db=1";
    let (none, two) = (message(&[]), message(&[noise, "adc", noise]));
    assert_eq!(none, "stages: 0 are awgn, exactly one must be: it gives the channel its SNR");
    assert_eq!(message(&["rayleigh"]), none);
    assert_eq!(two, "stages: 2 are awgn, exactly one must be: it gives the channel its SNR");
    for pair in [["rayleigh", "rician"], ["rayleigh", "rayleigh"], ["tdl", "rayleigh"]] {
        let found = message(&[pair[0], pair[1], noise]);
        assert_eq!(found, "stages: 2 are fading, at most one may be: chain two emulators instead");
    }
    let mut many = vec!["adc"; 32];
    many.push(noise);
    assert_eq!(message(&many), "stages: there are 33, at most 32 are accepted");
    Chain::new(&many[1..].iter().map(|stage| stage.parse().unwrap()).collect::<Vec<_>>()).unwrap();
}
