//! A link in one file, with nothing but this crate: QPSK frames through fading, noise and a converter of 8 bits, and the bit errors beside
//! what theory says of the channel without the converter.
//!
//! Run: `cargo run --release -p semlink-channel --example link`

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semlink_channel::{Chain, Complex32, FrameKey, SnrDb, StageSpec, equalize, power};

/// Symbols of a frame, and frames of each SNR.
const SYMBOLS: usize = 1_000;
const FRAMES: u64 = 1_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A channel is a list of stages, which symbols pass in order. A stage is written as on a command line or in a file, or built.
    // Exactly one is `awgn`: it gives the channel its SNR. docs/CHANNELS.md has all models with their parameters.
    let stages = [
        "rayleigh,doppler=0.01".parse()?,
        StageSpec::new("awgn").with("snr_db", 10.0),
        StageSpec::new("adc").with("bits", 8.0).with("full_scale", 4.0),
    ];
    let chain = Chain::new(&stages)?;
    for stage in chain.specs() {
        println!("stage {stage}");
    }
    // A mistake is refused with the model, the parameter and its range.
    let mistake = Chain::new(&["rayleigh,doppler=2".parse()?, "awgn,snr_db=10".parse()?]);
    println!("refused: {}", mistake.err().map_or_else(String::new, |error| error.to_string()));

    println!("\n{:>6} {:>12} {:>12} {:>12}", "SNR dB", "realised dB", "bit errors", "closed form");
    for snr_db in [0.0f32, 5.0, 10.0, 15.0, 20.0] {
        // A frame may have another SNR than the chain was built with: this is how schedules and ramps work.
        let snr = SnrDb::try_new(snr_db)?;
        let mut draws = ChaCha8Rng::seed_from_u64(1);
        let (mut errors, mut sent_power, mut noise_power) = (0, 0.0, 0.0);
        for frame in 0..FRAMES {
            // QPSK: one bit on each axis, mean power 1.
            let bits: Vec<[bool; 2]> = (0..SYMBOLS).map(|_| draws.random()).collect();
            let sign = |bit: bool| if bit { 1.0 } else { -1.0 };
            let mut symbols: Vec<Complex32> = bits.iter().map(|[i, q]| Complex32::new(sign(*i), sign(*q))).collect();
            power::normalize(&mut symbols)?;

            // The key decides everything random: the same key gives the same bits, in whatever order frames are sent. No pilots here.
            let key = FrameKey { seed: 7, link: 0, stream: 0, frame };
            let passed = chain.apply(key, snr, &mut [], &mut symbols);

            // A receiver that is told the channel undoes it; without that, `pilots` has estimators.
            let received = equalize::mmse(&symbols, &passed.state)?;
            let wrong = |(x, bits): (&Complex32, &[bool; 2])| {
                usize::from((x.re > 0.0) != bits[0]) + usize::from((x.im > 0.0) != bits[1])
            };
            errors += received.symbols.iter().zip(&bits).map(wrong).sum::<usize>();

            // The realised SNR of one frame scatters with the fading; summed over frames it comes near the one asked for.
            let gain = passed.state.h.iter().map(|h| f64::from(h.norm_sqr())).sum::<f64>() / SYMBOLS as f64;
            sent_power += gain;
            noise_power += gain / 10f64.powf(f64::from(passed.snr_db_realised) / 10.0);
        }
        let rate = errors as f64 / (2 * SYMBOLS) as f64 / FRAMES as f64;
        // Over Rayleigh fading, g = Es/N0: (1 - sqrt(g / (2 + g))) / 2. The converter adds its own, hardly any with 8 bits.
        let g = 10f64.powf(f64::from(snr_db) / 10.0);
        let expected = 0.5 * (1.0 - (g / (2.0 + g)).sqrt());
        let realised = 10.0 * (sent_power / noise_power).log10();
        println!("{snr_db:>6} {realised:>12.2} {rate:>12.3e} {expected:>12.3e}");
    }
    Ok(())
}
