//! Pilots: the estimates against their theory, over many frames.

use semlink_channel::pilots::{self, Estimate, Estimator};
use semlink_channel::{ChannelConfig, ChannelState, Complex32, Error, FrameKey, SnrDb, noise};

const FRAMES: u64 = 20_000;

fn key(frame: u64) -> FrameKey {
    FrameKey { seed: 11, link: 2, stream: 3, frame }
}

fn rayleigh(snr_db: f32) -> ChannelConfig {
    ChannelConfig::rayleigh(SnrDb::try_new(snr_db).unwrap())
}

/// A frame of k QPSK symbols and p pilots over block fading, as it arrives.
fn arrive(channel: &ChannelConfig, frame: u64, p: usize, k: usize) -> (ChannelState, Vec<Complex32>, Vec<Complex32>) {
    let mut payload: Vec<Complex32> =
        (0..k).map(|i| Complex32::from_polar(1.0, (i * i + frame as usize) as f32 % 4.0 * 1.570_796_4)).collect();
    let state = channel.apply(key(frame), &mut payload).state;
    let mut sounding = pilots::sequence(p);
    pilots::apply(key(frame), &state, &mut sounding);
    (state, sounding, payload)
}

/// State and estimate of every frame.
fn estimates(snr_db: f32, p: usize, k: usize, estimator: Estimator) -> Vec<(ChannelState, Estimate)> {
    let channel = rayleigh(snr_db);
    let of = |frame| {
        let (state, sounding, payload) = arrive(&channel, frame, p, k);
        (state, pilots::estimate(&sounding, &payload, estimator).unwrap())
    };
    (0..FRAMES).map(of).collect()
}

#[test]
fn pilots_have_unit_magnitude_and_a_flat_spectrum() {
    for p in [2usize, 3, 8, 13, 64] {
        let s = pilots::sequence(p);
        assert!(s.iter().all(|s| (s.norm() - 1.0).abs() < 1e-5));
        // A Zadoff-Chu sequence: every coefficient of its Fourier transform has magnitude sqrt(p).
        for m in 0..p {
            let phase = |n: usize| Complex32::from_polar(1.0, -std::f32::consts::TAU * (m * n % p) as f32 / p as f32);
            let sum: Complex32 = s.iter().enumerate().map(|(n, s)| s * phase(n)).sum();
            assert!(
                (sum.norm() - (p as f32).sqrt()).abs() < 1e-3 * p as f32,
                "p = {p}, coefficient {m}: {}",
                sum.norm()
            );
        }
    }
}

#[test]
fn the_error_of_the_fading_estimate_is_what_theory_says() {
    for snr_db in [-10.0, 0.0, 10.0, 20.0] {
        let n0 = 10f64.powf(f64::from(-snr_db) / 10.0);
        for p in [2usize, 8, 32] {
            for (estimator, theory) in [(Estimator::Ls, n0 / p as f64), (Estimator::Mmse, n0 / (p as f64 + n0))] {
                let found = estimates(snr_db, p, 64, estimator);
                let squares = found.iter().map(|(state, e)| f64::from((e.h - state.h[0]).norm_sqr()));
                let error = squares.sum::<f64>() / FRAMES as f64;
                // Of an exponential law's mean the deviation is 1 / sqrt(20,000) = 0.7 %. MMSE weighs by an estimate of N0: two pilots at
                // low SNR give a poor one, which costs up to half as much again.
                let (low, high) = if p == 2 && estimator == Estimator::Mmse { (0.96, 1.5) } else { (0.97, 1.06) };
                let ratio = error / theory;
                assert!((low..high).contains(&ratio), "{estimator}, p = {p}, {snr_db} dB: {ratio} of theory");
            }
        }
    }
}

#[test]
fn noise_is_estimated_from_both_sources_better_than_from_either() {
    let (p, k) = (8, 64);
    for snr_db in [-10.0, 0.0, 10.0, 20.0] {
        let n0 = 10f64.powf(f64::from(-snr_db) / 10.0);
        let channel = rayleigh(snr_db);
        let sent = pilots::sequence(p);
        // Mean and mean squared error, relative to N0: what pilots leave, excess power of the payload, both.
        let (mut means, mut squares) = ([0.0; 3], [0.0; 3]);
        for frame in 0..FRAMES {
            let (_, sounding, payload) = arrive(&channel, frame, p, k);
            let estimate = pilots::estimate(&sounding, &payload, Estimator::Ls).unwrap();
            let h = estimate.h;
            let left: f64 = sent.iter().zip(&sounding).map(|(s, y)| f64::from((y - h * s).norm_sqr())).sum();
            let power = payload.iter().map(|y| f64::from(y.norm_sqr())).sum::<f64>() / k as f64;
            let excess = (power - f64::from(h.norm_sqr())) / (1.0 - 1.0 / p as f64);
            for (i, found) in [left / (p - 1) as f64, excess, f64::from(estimate.noise_var)].into_iter().enumerate() {
                means[i] += found / n0 / FRAMES as f64;
                squares[i] += (found / n0 - 1.0).powi(2) / FRAMES as f64;
            }
        }
        assert!((means[2] - 1.0).abs() < 0.06, "{snr_db} dB: {} of N0 on average", means[2]);
        let single = squares[0].min(squares[1]);
        assert!(squares[2] < 1.02 * single, "{snr_db} dB: {squares:?}");
    }
}

#[test]
fn pilots_follow_from_the_key_and_leave_the_payload_alone() {
    let channel = rayleigh(3.0);
    let (state, first, payload) = arrive(&channel, 5, 16, 32);
    let (_, again, same) = arrive(&channel, 5, 16, 32);
    let (_, short, with_fewer) = arrive(&channel, 5, 4, 32);
    let (_, other, _) = arrive(&channel, 6, 16, 32);
    assert_eq!((&first, &payload), (&again, &same));
    assert_eq!(payload, with_fewer, "pilots change the payload's noise");
    assert_ne!(first, other);
    // Noise of its own: neither that of the payload nor, by another sequence, another noise.
    let noise_of = |y: &[Complex32], p: usize| -> Vec<Complex32> {
        y.iter().zip(pilots::sequence(p)).map(|(y, s)| y - state.h[0] * s).collect()
    };
    let mut of_payload = vec![Complex32::ZERO; 16];
    noise::fill(key(5), state.noise_var, &mut of_payload);
    for (i, (a, b)) in noise_of(&first, 16).iter().zip(&of_payload).enumerate() {
        assert!((a - b).norm() > 1e-4, "noise {i} of pilots and payload is the same");
    }
    for (a, b) in noise_of(&first, 16).iter().zip(noise_of(&short, 4)) {
        assert!((a - b).norm() < 1e-5);
    }
}

#[test]
fn what_cannot_be_estimated_from_is_refused_by_name() {
    let one = Complex32::ONE;
    let nan = Complex32::new(f32::NAN, 0.0);
    for count in [0, 1, 1025] {
        let error = pilots::estimate(&vec![one; count], &[one; 8], Estimator::Mmse).unwrap_err();
        assert!(error.to_string().contains(&format!("pilots is {count}")), "{error}");
    }
    assert!(matches!(
        pilots::estimate(&[one, nan], &[one; 8], Estimator::Ls),
        Err(Error::NonFinite { field: "pilots", index: 1, .. })
    ));
    assert!(matches!(
        pilots::estimate(&[one; 2], &[nan], Estimator::Ls),
        Err(Error::NonFinite { field: "symbols", index: 0, .. })
    ));
    assert!(pilots::estimate(&[one; 2], &[], Estimator::Ls).is_err());
    assert!("zf".parse::<Estimator>().unwrap_err().contains("ls or mmse"));
}
