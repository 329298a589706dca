//! Writes a small pair of recordings with noise of its own, to try tools on: `record DIR [NAME]`.
//!
//! `bench/peers/sigmf_check.py DIR/demo --awgn` checks it with the `sigmf` package of Python.

use std::f64::consts::TAU;
use std::path::Path;

use num_complex::Complex32;
use semlink_recording::{Error, FrameSymbols, Note, Recorder, Start};

/// xorshift64*; good enough for a demonstration, not for a channel.
struct Toy(u64);

impl Toy {
    /// In (0, 1].
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 + 1.0) / (1u64 << 53) as f64
    }

    /// CN(0, variance), by Box and Muller.
    fn normal(&mut self, variance: f64) -> Complex32 {
        let (radius, angle) = ((-variance * self.uniform().ln()).sqrt(), TAU * self.uniform());
        Complex32::new((radius * angle.cos()) as f32, (radius * angle.sin()) as f32)
    }

    fn frame(&mut self, length: usize, variance: f64) -> Vec<Complex32> {
        (0..length).map(|_| self.normal(variance)).collect()
    }
}

fn power(symbols: &[Complex32]) -> f64 {
    symbols.iter().map(|symbol| f64::from(symbol.norm_sqr())).sum()
}

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let Some(dir) = arguments.next() else {
        eprintln!("usage: record DIR [NAME]");
        std::process::exit(64);
    };
    let name = arguments.next().map_or("demo".into(), |name| name.to_string_lossy().into_owned());
    match record(Path::new(&dir), &name) {
        Ok(()) => {}
        Err(error) => {
            eprintln!("record: {error}");
            std::process::exit(1);
        }
    }
}

fn record(dir: &Path, name: &str) -> Result<(), Error> {
    const SNR_DB: f32 = 7.3;
    let start = Start {
        link: "example".into(),
        hop_key: u64::MAX,
        sample_rate_hz: Some(1e6),
        description: "Gaussian symbols with additive white Gaussian noise".into(),
    };
    let mut recorder = Recorder::create(dir, name, start)?;
    recorder.profile(3, &serde_json::json!({ "kind": "awgn", "snr_db": SNR_DB }))?;
    let mut toy = Toy(0x5eed);
    let noise_var = 10f64.powf(f64::from(SNR_DB) / -10.0);
    for sequence in 0..50 {
        let pilots = vec![Complex32::ONE; (sequence % 3) as usize * 4];
        let sent = toy.frame(16 + 13 * sequence as usize, 1.0);
        let mut pass =
            |sent: &[Complex32]| sent.iter().map(|symbol| symbol + toy.normal(noise_var)).collect::<Vec<_>>();
        let (pilots_left, left) = (pass(&pilots), pass(&sent));
        let noise: Vec<_> = left.iter().zip(&sent).map(|(left, sent)| left - sent).collect();
        let lost = sequence % 20 == 19;
        let note = Note {
            id: u64::MAX - sequence,
            stream: 2,
            sequence,
            pilots: pilots.len(),
            symbols: sent.len(),
            seed: (1 << 53) + 1,
            profile_version: 3,
            snr_db_requested: SNR_DB,
            snr_db_realised: (!lost).then(|| (10.0 * (power(&sent) / power(&noise)).log10()) as f32),
            lost,
        };
        let after = if lost { FrameSymbols::default() } else { FrameSymbols { pilots: &pilots_left, symbols: &left } };
        recorder.frame(&note, FrameSymbols { pilots: &pilots, symbols: &sent }, after)?;
    }
    let (before, after) = recorder.finish()?;
    println!("{}\n{}", before.display(), after.display());
    Ok(())
}
