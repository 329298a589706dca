//! Several taps: the tapped delay line against the tables of TR 38.901, and played back responses.

use std::sync::Arc;

use semlink_channel::{Chain, ChannelKind, Complex32, Error, FrameKey, Passed, Responses, StageSpec};

mod support;

use support::{SIGMAS, assert_mean, chain, linear, mean_and_error, qpsk, random_qpsk, send, send_noiseless, sinc};

fn key(frame: u64) -> FrameKey {
    FrameKey { seed: 1, link: 4, stream: 0, frame }
}

/// (delay, power in dB) of a profile as the standard prints them, the line of sight apart from the scatter of its path.
fn standard(profile: &str) -> Vec<(f64, f64)> {
    let rows = include_str!("golden/tdl_38_901.csv").lines().filter(|line| !line.starts_with('#'));
    let rows = rows.map(|line| line.split(',').collect::<Vec<_>>()).filter(|row| row[0] == profile);
    rows.map(|row| (row[1].parse().unwrap(), row[2].parse().unwrap())).collect()
}

/// E|h_l|^2 for `count` taps from lag `first` on, as the equation has it, and the sum that it scales to 1. The lags of the equation count from delay 0.
fn delay_profile(paths: &[(f64, f64)], count: usize) -> (Vec<f64>, f64) {
    let total: f64 = paths.iter().map(|(_, db)| linear(*db)).sum();
    // The taps begin 6 before delay 0.
    let tap = |l: usize| paths.iter().map(|(at, db)| linear(*db) / total * sinc(l as f64 - 6.0 - at).powi(2)).sum();
    let profile: Vec<f64> = (0..count).map(tap).collect();
    let kept = profile.iter().sum();
    (profile.iter().map(|p| p / kept).collect(), kept)
}

/// |h_l|^2 of many frames, for each tap, and the number of taps before lag 0.
fn tap_powers(stage: &str, frames: u64) -> (Vec<Vec<f64>>, usize) {
    let chain = chain(&[stage, "awgn,snr_db=10"]);
    let mut powers = Vec::new();
    let mut cursor = 0;
    for frame in 0..frames {
        let passed = send(&chain, key(frame), &mut qpsk(2));
        let taps = passed.taps.unwrap();
        assert_eq!(taps.values.len(), taps.count, "one response a frame");
        powers.resize(taps.count, Vec::new());
        powers.iter_mut().zip(&taps.values).for_each(|(powers, h)| powers.push(f64::from(h.norm_sqr())));
        cursor = (-taps.first) as usize;
        assert_eq!(passed.state.h[0], taps.values[cursor]);
    }
    (powers, cursor)
}

/// E|h_l|^2 = c^2 sum p_m sinc^2(l - R tau_m), and its sum is 1: each tap within five standard errors.
#[test]
fn power_delay_profile_is_that_of_the_table() {
    for (profile, spread_ns, paths) in
        [("A", 300.0, 23), ("B", 500.0, 23), ("C", 77.0, 24), ("D", 300.0, 14), ("E", 150.0, 15)]
    {
        let table = standard(profile);
        assert_eq!(table.len(), paths);
        // 10 million symbols a second.
        let in_symbols: Vec<_> = table.iter().map(|(delay, db)| (delay * spread_ns * 1e-9 * 1e7, *db)).collect();
        let stage = format!("tdl,profile={profile},delay_spread_ns={spread_ns},symbol_rate_hz=1e7");
        check_profile(&stage, &in_symbols);
    }
    let custom = "tdl,profile=custom,delays_ns=0:150:1425,powers_db=-1:0:-6,symbol_rate_hz=1e7,k_factor_db=5";
    check_profile(custom, &[(0.0, -1.0), (1.5, 0.0), (14.25, -6.0)]);
    // The worst case: half way between two taps, where 3 % of the power lies beyond the taps.
    check_profile("tdl,profile=custom,delays_ns=500,powers_db=0,symbol_rate_hz=1e6", &[(0.5, 0.0)]);
}

fn check_profile(stage: &str, paths: &[(f64, f64)]) {
    let (powers, cursor) = tap_powers(stage, 20_000);
    let (expected, kept) = delay_profile(paths, powers.len());
    println!("{stage}: {} taps, lag 0 is {cursor}, kept of the pulses {kept:.4}", powers.len());
    assert!(kept > 0.968);
    let strongest = expected.iter().fold(0.0, |most: f64, p| most.max(*p));
    assert!(expected[cursor] > (1.0 - 1e-9) * strongest, "lag 0 is the strongest tap");
    let mut worst: f64 = 0.0;
    for (l, (powers, expected)) in powers.iter().zip(&expected).enumerate() {
        let (found, error) = mean_and_error(powers);
        worst = worst.max((found - expected).abs() / error);
        // What rounding leaves of sin(pi l) counts as nothing.
        assert!((found - expected).abs() <= SIGMAS * error + 1e-12, "{stage}, tap {l}: {found}, expected {expected}");
    }
    println!("    worst tap: {worst:.2} standard errors");
    let totals: Vec<f64> = (0..powers[0].len()).map(|frame| powers.iter().map(|tap| tap[frame]).sum()).collect();
    assert_mean("    E sum |h_l|^2", &totals, 1.0);
}

/// With no delay spread all paths of D and E fall into one tap: a line of sight of power A^2 in scatter, together 1, for which
/// E|h|^4 = 2 - A^4; A^2 is the line of sight's share of the table.
#[test]
fn line_of_sight_of_d_and_e_is_that_of_the_table() {
    for (profile, k_db) in [("D", 13.3), ("E", 22.0)] {
        let table = standard(profile);
        assert_eq!((table[0].0, table[1].0), (0.0, 0.0));
        assert!((table[0].1 - table[1].1 - k_db).abs() < 1e-9, "K of the first path as the standard gives it");
        let share = linear(table[0].1) / table.iter().map(|(_, db)| linear(*db)).sum::<f64>();
        let (powers, cursor) = tap_powers(&format!("tdl,profile={profile},delay_spread_ns=0"), 50_000);
        let others = powers.iter().enumerate().filter(|(l, _)| *l != cursor);
        assert!(others.flat_map(|(_, powers)| powers).all(|p| *p == 0.0));
        let fourth: Vec<f64> = powers[cursor].iter().map(|p| p * p).collect();
        assert_mean(&format!("TDL-{profile}, E|h|^4"), &fourth, 2.0 - share * share);
    }
}

/// Delays of whole symbols have one tap each, without leakage, and a custom K is that of the first path.
#[test]
fn whole_delays_have_exactly_their_taps() {
    let (powers, cursor) = tap_powers(
        "tdl,profile=custom,delays_ns=0:1000:3000,powers_db=0:-3:-6,symbol_rate_hz=1e6,k_factor_db=8",
        20_000,
    );
    assert_eq!(cursor, 6);
    let total = 1.0 + linear(-3.0) + linear(-6.0);
    for (l, powers) in powers.iter().enumerate() {
        let db = match l {
            6 => 0.0,
            7 => -3.0,
            9 => -6.0,
            _ => {
                assert!(powers.iter().all(|p| *p == 0.0), "tap {l}");
                continue;
            }
        };
        let p = linear(db) / total;
        assert_mean(&format!("tap {l}"), powers, p);
        // E|h|^4 = p^2 (2 - (K/(K+1))^2), K = 0 for all but the first.
        let share = if l == 6 { linear(8.0) / (1.0 + linear(8.0)) } else { 0.0 };
        let fourth: Vec<f64> = powers.iter().map(|p| p * p).collect();
        assert_mean(&format!("tap {l}, E|h|^4"), &fourth, p * p * (2.0 - share * share));
    }
}

/// y_n = sum_l h_l x_(n-l) in double precision from the responses that are told, silence before and after.
fn convolve(sent: &[Complex32], passed: &Passed) -> Vec<Complex32> {
    let taps = passed.taps.as_ref().unwrap();
    let response =
        |n: usize| &taps.values[n.checked_div(passed.state.coherence).unwrap_or(0) * taps.count..][..taps.count];
    let received = |n: usize| {
        let (mut re, mut im) = (0.0, 0.0);
        for (lag, h) in (i64::from(taps.first)..).zip(response(n)) {
            let from = usize::try_from(n as i64 - lag).ok();
            if let Some(x) = from.and_then(|from| sent.get(from)) {
                re += f64::from(h.re) * f64::from(x.re) - f64::from(h.im) * f64::from(x.im);
                im += f64::from(h.re) * f64::from(x.im) + f64::from(h.im) * f64::from(x.re);
            }
        }
        Complex32::new(re as f32, im as f32)
    };
    (0..sent.len()).map(received).collect()
}

#[test]
fn symbols_are_convolved_with_the_taps_that_are_told() {
    for motion in ["", ",coherence=7", ",doppler=0.01", ",doppler=0.01,coherence=5,spacing=100"] {
        let stage = format!("tdl,profile=E,delay_spread_ns=400,symbol_rate_hz=5e6{motion}");
        let chain = chain(&[&stage, "awgn,snr_db=90"]);
        for symbols in [1usize, 3, 50, 333] {
            let sent = qpsk(symbols);
            let mut received = sent.clone();
            let passed = send_noiseless(&chain, key(9), &mut received);
            let blocks = if passed.state.coherence == 0 { 1 } else { symbols.div_ceil(passed.state.coherence) };
            let taps = passed.taps.as_ref().unwrap();
            assert_eq!((passed.state.h.len(), taps.values.len()), (blocks, blocks * taps.count));
            for (n, (found, expected)) in received.iter().zip(convolve(&sent, &passed)).enumerate() {
                assert!(
                    (found - expected).norm() < 2e-6,
                    "{stage}, {symbols} symbols, {n}: {found}, expected {expected}"
                );
            }
        }
    }
}

/// Pilots are filtered on their own by the first block's response.
#[test]
fn pilots_meet_the_first_response() {
    let chain = chain(&["tdl,profile=A,delay_spread_ns=200,symbol_rate_hz=1e7,coherence=10", "awgn,snr_db=100"]);
    let (sent, mut pilots, mut symbols) = (qpsk(16), qpsk(16), qpsk(30));
    let mut passed = chain.apply(key(3), chain.snr(), &mut pilots, &mut symbols);
    passed.state.coherence = 0;
    for (found, expected) in pilots.iter().zip(convolve(&sent, &passed)) {
        assert!((found - expected).norm() < 1e-4);
    }
}

/// Responses of a long frame are too many to be told; the state with one tap still is.
#[test]
fn too_many_responses_are_not_told() {
    let chain = chain(&["tdl,delay_spread_ns=100,symbol_rate_hz=1e7,doppler=0.001", "awgn,snr_db=10"]);
    let mut symbols = qpsk(65_536);
    let passed = send(&chain, key(0), &mut symbols);
    assert_eq!((passed.taps, passed.state.h.len()), (None, 65_536));
    passed.state.validate(65_536).unwrap();
}

/// y - h x, with the h that a receiver with one tap is told, has the N0 that it is told: in whatever order other stages stand.
#[test]
fn what_is_told_explains_what_arrives() {
    let tdl = "tdl,profile=B,delay_spread_ns=150,symbol_rate_hz=1e7";
    let blocks = "tdl,profile=C,delay_spread_ns=150,symbol_rate_hz=1e7,coherence=100";
    let moving = "tdl,profile=D,delay_spread_ns=300,symbol_rate_hz=1e7,doppler=0.002";
    for stages in [
        vec![tdl, "awgn,snr_db=12"],
        vec![blocks, "awgn,snr_db=5"],
        vec![moving, "awgn,snr_db=15"],
        vec!["shadowing,sigma_db=6", tdl, "awgn,snr_db=12"],
        vec![tdl, "shadowing,sigma_db=6", "awgn,snr_db=12"],
        vec!["awgn,snr_db=3", tdl],
        vec!["awgn,snr_db=3", "shadowing,sigma_db=3", tdl],
        vec![tdl, "impulsive,probability=0.05,power_db=3", "awgn,snr_db=12"],
    ] {
        let chain = chain(&stages);
        const SYMBOLS: usize = 1_000;
        // What is left in parts of what is told, with other symbols in each frame, since the taps are correlated.
        let left: Vec<f64> = (0..1_000)
            .map(|frame| {
                let sent = random_qpsk(frame, SYMBOLS);
                let mut received = sent.clone();
                let state = send(&chain, key(frame), &mut received).state;
                state.validate(SYMBOLS).unwrap();
                // Silence lies beyond the ends.
                let inner = 60..SYMBOLS - 60;
                let left =
                    inner.clone().map(|n| (received[n] - state.coefficient(n) * sent[n]).norm_sqr()).sum::<f32>();
                f64::from(left / inner.len() as f32 / state.noise_var)
            })
            .collect();
        assert_mean(&format!("{stages:?}, left over told"), &left, 1.0);
    }
}

#[test]
fn kinds_follow_the_profile() {
    for (stage, kind) in [
        ("tdl", ChannelKind::Rayleigh),
        ("tdl,profile=C", ChannelKind::Rayleigh),
        ("tdl,profile=D", ChannelKind::Rician),
        ("tdl,profile=E", ChannelKind::Rician),
        ("tdl,profile=custom,delays_ns=0,powers_db=0", ChannelKind::Rayleigh),
        ("tdl,profile=custom,delays_ns=0,powers_db=0,k_factor_db=3", ChannelKind::Rician),
    ] {
        let chain = chain(&[stage, "awgn,snr_db=0"]);
        assert_eq!(chain.kind(), kind);
        assert_eq!(send(&chain, key(0), &mut qpsk(9)).state.kind, kind);
    }
}

/// Three responses of two taps, the second the stronger.
fn recorded() -> Responses {
    let values = [(0.5, 0.0), (1.0, 0.0), (0.0, 0.5), (0.0, -1.0), (0.25, 0.0), (0.0, 2.0)];
    Responses { taps: 2, values: values.map(|(re, im)| Complex32::new(re, im)).into() }
}

fn playback(stage: &str, responses: Responses) -> Result<Chain, Error> {
    let library =
        |name: &str| if name == "hall" { Ok(responses.clone()) } else { Err("there is no such recording".to_owned()) };
    let specs: [StageSpec; 2] = [stage.parse().unwrap(), "awgn,snr_db=90".parse().unwrap()];
    Chain::with_library(&specs, &library)
}

/// y_n = sum h_l x_(n-l) with response frame / frames mod 3; the stronger tap has lag 0, and unit scale makes the mean power 1.
#[test]
fn recorded_responses_are_played_frame_after_frame() {
    // (1.25 + 1.25 + 4.0625) / 3
    let mean = (6.5625f32 / 3.0).sqrt();
    for (stage, scale, frames) in [
        ("playback,file=hall", mean.recip(), 1),
        ("playback,file=hall,scale=unit,frames=3", mean.recip(), 3),
        ("playback,file=hall,scale=none,frames=2", 1.0, 2),
    ] {
        let chain = playback(stage, recorded()).unwrap();
        assert_eq!((chain.kind(), chain.has_blocks()), (ChannelKind::Rayleigh, false));
        let sent = qpsk(40);
        let mut power = 0.0;
        for frame in 0..18 {
            let mut received = sent.clone();
            let passed = send_noiseless(&chain, key(frame), &mut received);
            let number = (frame as usize / frames) % 3;
            let expected: Vec<Complex32> = recorded().values[2 * number..][..2].iter().map(|h| h * scale).collect();
            let taps = passed.taps.clone().unwrap();
            assert_eq!((taps.first, taps.count), (-1, 2));
            assert!(taps.values.iter().zip(&expected).all(|(a, b)| (a - b).norm() < 1e-6));
            assert_eq!(passed.state.h, [taps.values[1]]);
            for (found, expected) in received.iter().zip(convolve(&sent, &passed)) {
                assert!((found - expected).norm() < 2e-6, "{stage}, frame {frame}");
            }
            let noise_var = taps.values[0].norm_sqr() + chain.snr().noise_var();
            assert!((passed.state.noise_var - noise_var).abs() < 1e-6);
            power += taps.values.iter().map(|h| h.norm_sqr()).sum::<f32>() / 18.0;
        }
        assert!((power - mean * mean * scale * scale).abs() < 1e-5, "{stage}: {power}");
    }
}

#[test]
fn recordings_that_cannot_be_played_are_refused() {
    let message = |stage, responses| playback(stage, responses).unwrap_err().to_string();
    let with = |taps, values: &[Complex32]| Responses { taps, values: Arc::from(values) };
    let hall = "playback,file=hall";
    for (found, expected) in [
        (message("playback,file=street", recorded()), "impulse responses \"street\": there is no such recording"),
        (message(hall, with(0, &[])), "impulse responses \"hall\": there are none"),
        (message(hall, with(2, &[])), "impulse responses \"hall\": there are none"),
        (
            message(hall, with(2, &[Complex32::ONE; 5])),
            "impulse responses \"hall\": 5 coefficients are no whole number of responses of 2",
        ),
        (
            message(hall, with(2, &[Complex32::ONE, Complex32::new(f32::NAN, 0.0)])),
            "impulse responses \"hall\": coefficient 1 is not finite",
        ),
        (message(hall, with(1, &[Complex32::ZERO; 3])), "playback: file is all zero, must be responses with power"),
        (
            message(hall, with(1_025, &[Complex32::ONE; 1_025])),
            "playback: file is of 1025 taps, must be of at most 1024",
        ),
    ] {
        assert_eq!(found, expected);
    }
    let none = Chain::new(&["playback,file=hall".parse().unwrap(), "awgn,snr_db=0".parse().unwrap()]).unwrap_err();
    assert_eq!(none.to_string(), "impulse responses \"hall\": there is no directory of recordings");
}
