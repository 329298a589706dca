//! The models without memory of their own taps, each against its closed form. Moments have tolerances of five standard errors; what is
//! deterministic is compared value for value. Fading is in `fading.rs`, several taps in `tdl.rs`, noise in `noise.rs`.

use std::f64::consts::{PI, TAU};

use semlink_channel::{Chain, Complex32, FrameKey, SnrDb, noise};

mod support;

use support::{
    KS_HUNDREDTH, SIGMAS, assert_mean, chain, decibel, kolmogorov_smirnov, linear, mean, normal_cdf, qpsk, send,
    send_noiseless,
};

fn key(frame: u64) -> FrameKey {
    FrameKey { seed: 1, link: 0, stream: 6, frame }
}

/// What a frame of ones becomes, pilots before it, with as little noise as there can be.
fn ones(chain: &Chain, key: FrameKey, pilots: usize, symbols: usize) -> (Vec<Complex32>, Vec<Complex32>) {
    let (mut before, mut payload) = (vec![Complex32::ONE; pilots], vec![Complex32::ONE; symbols]);
    chain.apply(key, SnrDb::MAX, &mut before, &mut payload);
    (before, payload)
}

/// y_t = x_t e^(j (2 pi offset t + phase)), t from the first payload symbol of frame 0.
#[test]
fn cfo_turns_symbols_at_a_constant_rate() {
    let (offset, phase_deg) = (-0.0123, 30f64);
    for spacing in [0u64, 250] {
        let chain =
            chain(&[&format!("cfo,offset={offset},phase_deg={phase_deg},spacing={spacing}"), "awgn,snr_db=100"]);
        for frame in [0, 1, 7, 1 << 30] {
            let (pilots, payload) = ones(&chain, key(frame), 5, 300);
            for (t, y) in (-5i64..).zip(pilots.iter().chain(&payload)) {
                let t = (frame * spacing) as f64 + t as f64;
                let (sin, cos) = (TAU * (offset * t).fract() + phase_deg.to_radians()).sin_cos();
                let error = (f64::from(y.re) - cos).hypot(f64::from(y.im) - sin);
                assert!(error < 1e-4, "spacing {spacing}, frame {frame}, time {t}: {y}, error {error}");
            }
        }
    }
}

/// E[e^(j (phi_(t+s) - phi_t))] = e^(-pi linewidth s), phi_0 = 0, also from pilots to payload; increments are normal.
#[test]
fn phase_noise_is_a_wiener_process() {
    const FRAMES: u64 = 20_000;
    let linewidth = 0.002;
    let chain = chain(&[&format!("phase_noise,linewidth={linewidth}"), "awgn,snr_db=100"]);
    let frames: Vec<_> = (0..FRAMES).map(|frame| ones(&chain, key(frame), 8, 160)).collect();
    assert!(frames.iter().all(|(_, payload)| (payload[0] - Complex32::ONE).norm() < 1e-4));
    let at = |frame: &(Vec<Complex32>, Vec<Complex32>), t: i64| -> Complex32 {
        if t < 0 { frame.0[(8 + t) as usize] } else { frame.1[t as usize] }
    };
    for (from, to) in [(0, 1), (0, 50), (0, 159), (40, 120), (-8, -1), (-1, 0), (-8, 100)] {
        let turns: Vec<Complex32> = frames.iter().map(|frame| at(frame, to) * at(frame, from).conj()).collect();
        let expected = (-PI * linewidth * (to - from) as f64).exp();
        let what = format!("phase noise from {from} to {to}");
        assert_mean(&what, &turns.iter().map(|z| f64::from(z.re)).collect::<Vec<_>>(), expected);
        assert_mean(&format!("{what}, imaginary"), &turns.iter().map(|z| f64::from(z.im)).collect::<Vec<_>>(), 0.0);
    }
    let deviation = (TAU * linewidth).sqrt();
    let steps: Vec<f64> = frames.iter().map(|(_, y)| f64::from((y[101] * y[100].conj()).arg())).collect();
    let statistic = kolmogorov_smirnov(&steps, |x| normal_cdf(x / deviation));
    println!("phase noise, steps: sqrt(n) D = {statistic:.4}, critical {KS_HUNDREDTH}");
    assert!(statistic < KS_HUNDREDTH);
    let next: Vec<f64> = frames
        .iter()
        .map(|(_, y)| f64::from((y[101] * y[100].conj()).arg() * (y[102] * y[101].conj()).arg()))
        .collect();
    assert_mean("phase noise, product of successive steps", &next, 0.0);
}

/// y = mu x + nu x* + d: of a tone at f, what lies at -f is |nu|^2 / |mu|^2 of it, with mu = (1 + g e^(-j phi)) / 2 and
/// nu = (1 - g e^(j phi)) / 2; d lies at 0.
#[test]
fn iq_imbalance_has_its_image_and_offset() {
    const N: usize = 1_024;
    const BIN: usize = 37;
    let turn = |i: usize| {
        let (sin, cos) = (TAU * (i % N) as f64 / N as f64).sin_cos();
        Complex32::new(cos as f32, sin as f32)
    };
    let tone: Vec<Complex32> = (0..N).map(|t| turn(BIN * t)).collect();
    for (gain_db, phase_deg) in [(1.0f64, 3.0f64), (-2.0, 10.0), (0.5, 0.0), (0.0, -5.0)] {
        let stage = format!("iq_imbalance,gain_db={gain_db},phase_deg={phase_deg},dc_i=0.1,dc_q=-0.2");
        let mut y = tone.clone();
        send_noiseless(&chain(&[&stage, "awgn,snr_db=60"]), key(0), &mut y);
        let bin = |bin: usize| -> Complex32 {
            y.iter().enumerate().map(|(t, y)| y * turn(bin * t).conj()).sum::<Complex32>() / N as f32
        };
        let g = 10f64.powf(gain_db / 20.0);
        let (sin, cos) = phase_deg.to_radians().sin_cos();
        let mu = (0.5 * (1.0 + g * cos)).hypot(0.5 * g * sin);
        let nu = (0.5 * (1.0 - g * cos)).hypot(0.5 * g * sin);
        let rejection = decibel(f64::from(bin(BIN).norm_sqr() / bin(N - BIN).norm_sqr()));
        println!("{stage}: image rejection {rejection:.4} dB, expected {:.4}", 20.0 * (mu / nu).log10());
        assert!((rejection - 20.0 * (mu / nu).log10()).abs() < 1e-3);
        assert!((bin(0) - Complex32::new(0.1, -0.2)).norm() < 1e-5);
    }
    // In words: I stays, Q is g times as large and turned towards I.
    let mut y = [Complex32::new(1.0, 0.0), Complex32::new(0.0, 1.0)];
    send_noiseless(&chain(&["iq_imbalance,gain_db=6.0205999,phase_deg=30", "awgn,snr_db=60"]), key(0), &mut y);
    assert!(
        (y[0] - Complex32::new(1.0, -1.0)).norm() < 1e-5 && (y[1] - Complex32::new(0.0, 3f32.sqrt())).norm() < 1e-5
    );
}

/// With noise before the converter its input is spread over many levels, and known.
fn convert(stage: &str, snr_db: f32, symbols: usize) -> (Vec<Complex32>, Vec<Complex32>) {
    let chain = chain(&[&format!("awgn,snr_db={snr_db}"), stage]);
    let (mut input, mut output) = (vec![Complex32::ZERO; symbols], vec![Complex32::ZERO; symbols]);
    noise::fill(key(0), chain.snr().noise_var(), &mut input);
    send(&chain, key(0), &mut output);
    (input, output)
}

/// The error of many levels is uniform: variance D^2 / 12 on each axis, D = 2 full_scale / 2^bits.
#[test]
fn adc_has_the_noise_of_its_step() {
    for (bits, full_scale) in [(6u32, 4.0f64), (8, 5.0), (12, 4.5)] {
        let (input, output) = convert(&format!("adc,bits={bits},full_scale={full_scale}"), 0.0, 200_000);
        let step = 2.0 * full_scale / f64::from(1u32 << bits);
        // Below 4e-8 of all noise of variance 1/2 lies beyond four.
        let error = |part: fn(&Complex32) -> f32| -> Vec<f64> {
            let errors = input.iter().zip(&output).map(|(x, y)| f64::from(part(y)) - f64::from(part(x)));
            errors.filter(|e| e.abs() <= step).map(|e| e / step).collect()
        };
        for errors in [error(|z| z.re), error(|z| z.im)] {
            assert!(errors.len() > 199_990);
            let squares: Vec<f64> = errors.iter().map(|e| e * e).collect();
            assert_mean(&format!("{bits} bits, error variance in D^2"), &squares, 1.0 / 12.0);
            assert!(kolmogorov_smirnov(&errors, |e| e + 0.5) < KS_HUNDREDTH);
        }
    }
}

#[test]
fn adc_has_exactly_its_levels_and_clips() {
    for (bits, full_scale, levels) in [
        (1, 3.0, vec![-1.5, 1.5]),
        (2, 3.0, vec![-2.25, -0.75, 0.75, 2.25]),
        (3, 4.0, vec![-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]),
    ] {
        // N0 = 100: far beyond full scale.
        let (input, output) = convert(&format!("adc,bits={bits},full_scale={full_scale}"), -20.0, 20_000);
        let step = 2.0 * full_scale / f32::powi(2.0, bits);
        let mut seen = Vec::new();
        for (x, y) in input.iter().zip(&output) {
            for (x, y) in [(x.re, y.re), (x.im, y.im)] {
                let nearest =
                    levels.iter().fold(
                        levels[0],
                        |best: f32, level| {
                            if (level - x).abs() < (best - x).abs() { *level } else { best }
                        },
                    );
                assert!(y == nearest || (x / step).fract().abs() < 1e-4, "{bits} bits: {x} became {y}, not {nearest}");
                seen.push(y);
            }
        }
        seen.sort_by(f32::total_cmp);
        seen.dedup();
        assert_eq!(seen, levels);
    }
    let (input, output) = convert("adc,bits=24,full_scale=1", -20.0, 1_000);
    for (x, y) in input.iter().zip(&output) {
        assert!((x.re.clamp(-1.0, 1.0) - y.re).abs() < 2e-7 && (x.im.clamp(-1.0, 1.0) - y.im).abs() < 2e-7);
    }
}

/// y = x + b g: b of the given probability, |g|^2 exponential of the given power, and where b = 0 nothing changes.
#[test]
fn impulses_have_their_rate_and_power() {
    const N: usize = 1_000_000;
    let (probability, power_db) = (0.03, 12.0);
    let plain = chain(&["awgn,snr_db=5"]);
    let struck = chain(&[&format!("impulsive,probability={probability},power_db={power_db}"), "awgn,snr_db=5"]);
    let (mut background, mut received) = (qpsk(N), qpsk(N));
    let without = send(&plain, key(0), &mut background).state;
    let with = send(&struck, key(0), &mut received).state;
    let impulses: Vec<Complex32> =
        received.iter().zip(&background).filter(|(y, x)| y != x).map(|(y, x)| y - x).collect();
    let rate = impulses.len() as f64 / N as f64;
    let error = (probability * (1.0 - probability) / N as f64).sqrt();
    println!("impulses: rate {rate:.5}, expected {probability}, {:+.2} standard errors", (rate - probability) / error);
    assert!((rate - probability).abs() < SIGMAS * error);
    let powers: Vec<f64> = impulses.iter().map(|g| f64::from(g.norm_sqr()) / linear(power_db)).collect();
    assert_mean("impulses: power over the one asked for", &powers, 1.0);
    let statistic = kolmogorov_smirnov(&powers, |p| 1.0 - (-p).exp());
    println!("impulses: sqrt(n) D = {statistic:.4} against the exponential law, critical {KS_HUNDREDTH}");
    assert!(statistic < KS_HUNDREDTH);
    let told = f64::from(without.noise_var) + probability * linear(power_db);
    assert!((f64::from(with.noise_var) - told).abs() < 1e-6 * told);
    // Pilots are struck as well, independently.
    let (mut pilots, mut symbols) = (vec![Complex32::ZERO; 1_000], vec![Complex32::ZERO; 1_000]);
    struck.apply(key(1), SnrDb::MAX, &mut pilots, &mut symbols);
    let count = |symbols: &[Complex32]| symbols.iter().filter(|x| x.norm() > 1e-3).count();
    assert!((10..60).contains(&count(&pilots)) && (10..60).contains(&count(&symbols)));
    assert!(pilots.iter().zip(&symbols).any(|(a, b)| (a.norm() > 1e-3) != (b.norm() > 1e-3)));
}

/// 20 log10 g ~ N(0, sigma_db^2), the same over `frames` frames.
#[test]
fn shadowing_is_normal_in_decibels() {
    const FRAMES: u64 = 20_000;
    let sigma = 7.0;
    let gains = |frames: u64| -> Vec<f64> {
        let chain = chain(&[&format!("shadowing,sigma_db={sigma},frames={frames}"), "awgn,snr_db=100"]);
        let gain = |frame| {
            let mut y = vec![Complex32::ONE; 3];
            let state = send_noiseless(&chain, key(frame), &mut y).state;
            assert!(y.iter().all(|y| (y - state.h[0]).norm() <= 1e-6 * state.h[0].norm() + 1e-9));
            assert_eq!((state.h.len(), state.h[0].im), (1, 0.0));
            20.0 * f64::from(state.h[0].re).log10()
        };
        (0..FRAMES).map(gain).collect()
    };
    let each = gains(1);
    assert_mean("shadowing, mean in dB", &each, 0.0);
    let squares: Vec<f64> = each.iter().map(|g| g * g).collect();
    assert_mean("shadowing, variance in dB^2", &squares, sigma * sigma);
    let statistic = kolmogorov_smirnov(&each, |g| normal_cdf(g / sigma));
    println!("shadowing: sqrt(n) D = {statistic:.4}, critical {KS_HUNDREDTH}");
    assert!(statistic < KS_HUNDREDTH);
    let products: Vec<f64> = each.windows(2).map(|g| g[0] * g[1] / (sigma * sigma)).collect();
    assert_mean("shadowing, correlation of successive frames", &products, 0.0);
    let fours = gains(4);
    for (at, four) in fours.chunks(4).enumerate() {
        assert!(four.iter().all(|g| *g == four[0]) && four[0] == each[at], "frames {} to {}", 4 * at, 4 * at + 3);
    }
}

/// Erasures of a chain of two states: stationary rate to_bad / (to_bad + to_good), bursts of mean length 1 / to_good.
#[test]
fn erasures_come_in_bursts_of_the_right_length() {
    const N: usize = 2_000_000;
    let (to_bad, to_good) = (0.02, 0.25);
    let chain = chain(&[&format!("gilbert_elliott,to_bad={to_bad},to_good={to_good}"), "awgn,snr_db=40"]);
    let mut y = vec![Complex32::ONE; N];
    let state = send_noiseless(&chain, key(0), &mut y).state;
    assert_eq!((state.coherence, state.h.len()), (1, N));
    let erased: Vec<bool> = state.h.iter().map(|h| *h == Complex32::ZERO).collect();
    assert!(state.h.iter().all(|h| *h == Complex32::ZERO || *h == Complex32::ONE));
    assert!(y.iter().zip(&state.h).all(|(y, h)| (y - h).norm() < 1e-6), "erased where the state says so");
    assert!((state.noise_var - chain.snr().noise_var()).abs() < 1e-9);

    let expected = to_bad / (to_bad + to_good);
    let rate = mean(erased.iter().map(|e| f64::from(u8::from(*e))));
    // Successive states have the correlation 1 - to_bad - to_good, which widens the error of their mean.
    let memory = 1.0 - to_bad - to_good;
    let error = (expected * (1.0 - expected) * (1.0 + memory) / (1.0 - memory) / N as f64).sqrt();
    println!("erasures: rate {rate:.5}, expected {expected:.5}, {:+.2} standard errors", (rate - expected) / error);
    assert!((rate - expected).abs() < SIGMAS * error);
    let runs = |of: bool| -> Vec<f64> {
        let runs = erased.chunk_by(|a, b| a == b).filter(|run| run[0] == of);
        runs.map(|run| run.len() as f64).collect()
    };
    assert_mean("erasures: burst", &runs(true), 1.0 / to_good);
    assert_mean("erasures: gap", &runs(false), 1.0 / to_bad);
}

/// From the first symbol on, and across the border between pilots and payload, the states are stationary.
#[test]
fn erasures_are_stationary_over_pilots_and_payload() {
    const FRAMES: u64 = 40_000;
    let (to_bad, to_good) = (0.1, 0.3);
    let chain = chain(&["gilbert_elliott,to_bad=0.1,to_good=0.3,erase_good=0.05,erase_bad=0.9", "awgn,snr_db=100"]);
    let frames: Vec<_> = (0..FRAMES)
        .map(|frame| {
            let (pilots, payload) = ones(&chain, key(frame), 3, 3);
            let erased = |y: &Complex32| f64::from(u8::from(y.norm() < 0.5));
            pilots.iter().chain(&payload).map(erased).collect::<Vec<_>>()
        })
        .collect();
    let bad = to_bad / (to_bad + to_good);
    let rate = (1.0 - bad) * 0.05 + bad * 0.9;
    for at in 0..6 {
        let erased: Vec<f64> = frames.iter().map(|frame| frame[at]).collect();
        assert_mean(&format!("erasures at {}", at as i32 - 3), &erased, rate);
        if at > 0 {
            // Covariance of the states, bad (1 - bad) (1 - to_bad - to_good), times that of how much they differ.
            let joint: Vec<f64> = frames.iter().map(|frame| frame[at] * frame[at - 1]).collect();
            let covariance = bad * (1.0 - bad) * (1.0 - to_bad - to_good) * 0.85f64.powi(2);
            assert_mean(&format!("erasures at {} and before", at as i32 - 3), &joint, rate * rate + covariance);
        }
    }
}

/// A frame that is lost altogether has a state that a receiver can work with, wherever the noise stands.
#[test]
fn a_frame_of_erasures_has_a_valid_state() {
    let all = "gilbert_elliott,to_bad=1,to_good=0";
    for stages in [vec![all, "awgn,snr_db=7"], vec!["awgn,snr_db=7", all]] {
        let chain = chain(&stages);
        let mut y = qpsk(10);
        let state = send(&chain, key(0), &mut y).state;
        state.validate(10).unwrap();
        assert_eq!((state.h, state.noise_var), (vec![Complex32::ZERO; 10], chain.snr().noise_var()));
    }
}
