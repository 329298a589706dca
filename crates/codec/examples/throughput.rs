//! What an image costs in serving: preparation, encoder and decoder of the shipped bundle, at several batch sizes and numbers of threads.
//!
//! `cargo run --release -p semlink-codec --example throughput [BUNDLE [PART]]` prints the best of many short runs, which other work on the
//! machine disturbs least.

use std::error::Error;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use semlink_channel::{ChannelConfig, ChannelUses, FrameKey, SnrDb};
use semlink_codec::{Csi, DecoderHalf, EncoderHalf, EncoderState, ImageLimits, Input, Received, testing};

const IMAGES: usize = 64;
const TIME: Duration = Duration::from_millis(600);

fn main() -> Result<(), Box<dyn Error>> {
    let shipped = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../assets/fashion-mnist");
    let bundle = std::env::args_os().nth(1).map_or_else(shipped, PathBuf::from);
    let only = std::env::args().nth(2);
    semlink_nn::runtime::init(Some(1))?;
    let (encoder, decoder) = (EncoderHalf::open(&bundle)?, DecoderHalf::open(&bundle)?);
    let limits = ImageLimits::default();
    let files: Vec<Vec<u8>> = (0..IMAGES as u64).map(testing::png).collect();
    let inputs = files.iter().map(|file| encoder.prepare(file, &limits)).collect::<Result<Vec<Input>, _>>()?;
    let state = EncoderState { snr_db: Some(10.0), kind: None, uses: ChannelUses::try_new(64)? };
    let states = vec![state; IMAGES];
    let channel = ChannelConfig::awgn(SnrDb::try_new(10.0)?);
    let mut frames = Vec::new();
    for (i, mut symbols) in encoder.encode(&inputs, &states)?.into_iter().enumerate() {
        let applied = channel.apply(FrameKey { seed: 1, link: 0, stream: 0, frame: i as u64 }, &mut symbols);
        frames.push(Received { symbols, csi: Csi::Perfect(applied.state) });
    }
    println!("{:<8} {:>5} {:>7} {:>9} {:>10}", "part", "batch", "threads", "us/image", "images/s");
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let report = |part: &str, batch: usize, run: &mut (dyn FnMut() + Send)| {
            if only.as_ref().is_some_and(|only| only != part) {
                return;
            }
            let best = pool.install(|| best(run)).as_secs_f64() / batch as f64;
            println!("{part:<8} {batch:>5} {threads:>7} {:>9.1} {:>10.0}", best * 1e6, 1.0 / best);
        };
        if threads == 1 {
            report("prepare", IMAGES, &mut || {
                files.iter().for_each(|file| drop(black_box(encoder.prepare(file, &limits))))
            });
        }
        for batch in [1, 8, 64] {
            report("encode", batch, &mut || drop(black_box(encoder.encode(&inputs[..batch], &states[..batch]))));
        }
        for batch in [1, 8, 64] {
            report("decode", batch, &mut || drop(black_box(decoder.decode(&frames[..batch]))));
        }
    }
    Ok(())
}

/// The shortest of all runs within [`TIME`].
fn best(run: &mut (dyn FnMut() + Send)) -> Duration {
    let (start, mut best) = (Instant::now(), Duration::MAX);
    run();
    while start.elapsed() < TIME {
        let one = Instant::now();
        run();
        best = best.min(one.elapsed());
    }
    best
}
