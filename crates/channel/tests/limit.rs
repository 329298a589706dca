//! The physical limit, against the published table, closed forms and a simulation.

use std::f64::consts::PI;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use semlink_channel::{ChannelConfig, ChannelKind, ChannelUses, Error, RicianK, SnrDb, limit};

fn snr(db: f64) -> SnrDb {
    SnrDb::try_new(db as f32).unwrap()
}

fn uses(k: usize) -> ChannelUses {
    ChannelUses::try_new(k).unwrap()
}

fn linear(db: f64) -> f64 {
    10f64.powf(db / 10.0)
}

/// Q(x), the normal upper tail, by a midpoint sum of Craig's formula: independent of the crate's erfc.
fn q(x: f64) -> f64 {
    craig(|sin2| (-x * x / (2.0 * sin2)).exp())
}

/// (1/pi) times the integral over theta in (0, pi/2) of f(sin^2 theta).
fn craig(f: impl Fn(f64) -> f64) -> f64 {
    const POINTS: usize = 10_000;
    let term = |i: usize| f(((i as f64 + 0.5) / POINTS as f64 * PI / 2.0).sin().powi(2));
    (0..POINTS).map(term).sum::<f64>() / (2.0 * POINTS as f64)
}

/// The table of the project's design, 10 classes.
#[test]
fn table_of_ten_classes() {
    let db = [-10.0, -6.0, -2.0, 2.0, 6.0, 10.0, 18.0];
    let awgn: [(usize, [f64; 6]); 4] = [
        (8, [0.452, 0.707, 0.944, 0.999, 1.0, 1.0]),
        (16, [0.637, 0.901, 0.997, 1.0, 1.0, 1.0]),
        (64, [0.974, 1.0, 1.0, 1.0, 1.0, 1.0]),
        (256, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ];
    let rayleigh: [(usize, [f64; 7]); 4] = [
        (8, [0.406, 0.592, 0.771, 0.891, 0.953, 0.981, 0.997]),
        (16, [0.544, 0.731, 0.867, 0.942, 0.976, 0.990, 0.999]),
        (64, [0.809, 0.912, 0.963, 0.985, 0.994, 0.998, 1.0]),
        (256, [0.943, 0.976, 0.991, 0.996, 0.999, 0.999, 1.0]),
    ];
    let check = |channel: ChannelConfig, k: usize, expected: f64| {
        let p = limit::detection(10, &channel, uses(k)).unwrap();
        assert!((p - expected).abs() <= 0.0015, "{channel:?}, k {k}: {p}, table {expected}");
    };
    for (k, row) in awgn {
        for (db, expected) in db.into_iter().zip(row) {
            check(ChannelConfig::awgn(snr(db)), k, expected);
        }
    }
    for (k, row) in rayleigh {
        for (db, expected) in db.into_iter().zip(row) {
            check(ChannelConfig::rayleigh(snr(db)), k, expected);
        }
    }
}

/// Two simplex waveforms are x and -x: antipodal signalling with the energy of the whole frame.
#[test]
fn two_classes_over_awgn_are_antipodal() {
    for k in [1, 4, 64] {
        for db in [-60.0, -20.0, -5.0, 0.0, 7.0, 100.0] {
            let p = limit::detection(2, &ChannelConfig::awgn(snr(db)), uses(k)).unwrap();
            let expected = 1.0 - q((2.0 * k as f64 * linear(db)).sqrt());
            assert!((p - expected).abs() < 1e-7, "k {k}, {db} dB: {p}, expected {expected}");
        }
    }
}

/// Antipodal signalling over one Rayleigh block: (1 + sqrt(s / (1 + s))) / 2 with s = k Es/N0.
#[test]
fn two_classes_over_rayleigh_have_the_textbook_error() {
    for db in [-60.0, -20.0, -5.0, 0.0, 10.0, 30.0, 60.0, 100.0] {
        let s = 8.0 * linear(db);
        let p = limit::detection(2, &ChannelConfig::rayleigh(snr(db)), uses(8)).unwrap();
        let expected = 0.5 * (1.0 + (s / (1.0 + s)).sqrt());
        assert!((p - expected).abs() < 1e-6, "{db} dB: {p}, expected {expected}");
    }
}

/// Antipodal signalling over independent Rician blocks of equal and unequal length: Craig's integral over the product of the blocks'
/// moment-generating functions (Simon and Alouini, *Digital Communication over Fading Channels*).
#[test]
fn two_classes_over_blocks_have_the_error_of_craigs_integral() {
    let cases = [(8, 0), (8, 8), (8, 4), (64, 16), (64, 1), (10, 4), (64, 48), (256, 100), (1_024, 1), (3, 1_000)];
    for (k, coherence) in cases {
        for k_factor_db in [-40.0, 0.0, 6.0, 15.0, 22.0, 30.0, 60.0] {
            for db in [-20.0, -10.0, -3.0, 5.0] {
                let channel = ChannelConfig {
                    coherence,
                    ..ChannelConfig::rician(snr(db), RicianK::try_new_db(k_factor_db).unwrap())
                };
                let kf = linear(f64::from(k_factor_db));
                let length = if coherence == 0 { k } else { coherence };
                let blocks: Vec<f64> =
                    (0..k).step_by(length).map(|start| length.min(k - start) as f64 * linear(db)).collect();
                let expected = 1.0
                    - craig(|sin2| {
                        let ln_mgf = |snr: &f64| {
                            let denominator = 1.0 + kf + snr / sin2;
                            ((1.0 + kf) / denominator).ln() - kf * (snr / sin2) / denominator
                        };
                        blocks.iter().map(ln_mgf).sum::<f64>().exp()
                    });
                let p = limit::detection(2, &channel, uses(k)).unwrap();
                assert!((p - expected).abs() < 2e-5, "{channel:?}, k {k}: {p}, expected {expected}");
            }
        }
    }
}

/// 10 classes, Rician with K = 3 dB, two blocks: waveforms drawn up as a regular simplex, sent and detected by correlation.
#[test]
fn agrees_with_a_simulation() {
    const CLASSES: usize = 10;
    const FRAMES: usize = 60_000;
    const BLOCK: usize = 8;
    let kf = linear(3.0);
    let n0 = linear(8.0);
    let mut rng = ChaCha8Rng::seed_from_u64(20);
    let mut correct = 0;
    for _ in 0..FRAMES {
        // Each block of 8 uses carries a simplex of energy 8 on its own: x_i = sqrt(8 M/(M-1)) (e_i - mean) in its real dimensions, so that
        // the correlation with x_i is, up to what all classes share, that with sqrt(8 M/(M-1)) e_i.
        let mut metric = [0f64; CLASSES];
        for _ in 0..2 {
            let los = (kf / (kf + 1.0)).sqrt();
            let mut scatter = || rng.sample::<f64, _>(StandardNormal) * (0.5 / (kf + 1.0)).sqrt();
            let gain = (los + scatter()).powi(2) + scatter().powi(2);
            let amplitude = (BLOCK as f64 * CLASSES as f64 / (CLASSES - 1) as f64).sqrt();
            for (class, metric) in metric.iter_mut().enumerate() {
                let noise = rng.sample::<f64, _>(StandardNormal) * (n0 / 2.0 * gain).sqrt();
                *metric += amplitude * (if class == 0 { gain * amplitude } else { 0.0 } + noise);
            }
        }
        correct += usize::from(metric[1..].iter().all(|other| *other < metric[0]));
    }
    let simulated = correct as f64 / FRAMES as f64;
    let channel =
        ChannelConfig { coherence: BLOCK, ..ChannelConfig::rician(snr(-8.0), RicianK::try_new_db(3.0).unwrap()) };
    let p = limit::detection(CLASSES, &channel, uses(2 * BLOCK)).unwrap();
    // four standard errors
    let tolerance = 4.0 * (p * (1.0 - p) / FRAMES as f64).sqrt();
    assert!((0.3..0.9).contains(&p) && (p - simulated).abs() < tolerance, "{p}, simulated {simulated}");
}

#[test]
fn many_classes_and_extremes() {
    let p = |classes, db, k| limit::detection(classes, &ChannelConfig::awgn(snr(db)), uses(k)).unwrap();
    for classes in [2, 10, 100, 1_000, 10_000] {
        let m = classes as f64;
        assert!((p(classes, -60.0, 1) * m - 1.0).abs() < 0.02 * m.ln(), "guessing: {}", p(classes, -60.0, 1));
        assert!((p(classes, 100.0, 65_536) - 1.0).abs() < 1e-9);
        // The union bound: 1 - P <= (M-1) Q(d / sqrt 2) for orthogonal signals, tight at high SNR.
        let d = (2.0 * 64.0 * linear(-1.0) * m / (m - 1.0)).sqrt();
        let bound = (m - 1.0) * q(d / 2f64.sqrt());
        let error = 1.0 - p(classes, -1.0, 64);
        assert!(error <= bound + 1e-12 && error >= 0.9 * bound - 1e-12, "{classes}: {error}, bound {bound}");
    }
}

#[test]
fn accuracy_mixes_in_the_classifiers_own_errors() {
    let channel = ChannelConfig::rayleigh(snr(-6.0));
    let p = limit::detection(10, &channel, uses(16)).unwrap();
    assert_eq!(limit::accuracy(1.0, 10, &channel, uses(16)).unwrap(), p);
    let expected = 0.92 * p + 0.08 * (1.0 - p) / 9.0;
    assert!((limit::accuracy(0.92, 10, &channel, uses(16)).unwrap() - expected).abs() < 1e-12);
}

#[test]
fn refuses_impossible_arguments() {
    let channel = ChannelConfig { kind: ChannelKind::Awgn, ..ChannelConfig::rayleigh(snr(0.0)) };
    for (accuracy, classes, field) in
        [(f64::NAN, 10, "clean_accuracy"), (1.1, 10, "clean_accuracy"), (0.5, 1, "classes"), (0.5, 10_001, "classes")]
    {
        match limit::accuracy(accuracy, classes, &channel, uses(8)) {
            Err(Error::OutOfRange { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{accuracy}, {classes}: {other:?}"),
        }
    }
}
