//! The channel emulator: noise in process beside NumPy, then the service on loopback.

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use semlink_channel::{ChannelConfig, Complex32, FrameKey, SnrDb};
use semlink_channel_emulator::testing::Instruments;
use semlink_proto::v1::{self, channel_control_client::ChannelControlClient};
use semlink_service::wire;
use serde_json::{Value, json};

use crate::measure::{median, median_ms, peer, quantile, ratio, row};
use crate::process::Memory;
use crate::results::{Row, record};
use crate::rig::{self, Load, PingPong, Rates, Sink, runtime};

const TOPIC: &str = "emulator";
/// Symbols of a large frame: as many as the wire allows.
const LARGE: usize = 65_536;
/// Symbols of a small frame.
const SMALL: usize = 64;
/// Rates of which the median counts.
const PERIODS: usize = 5;
/// Frames of each path in the latency measurement, sent in blocks by turns.
const LATENCY_FRAMES: usize = 20_000;
const LATENCY_BLOCKS: usize = 20;

const RIG: &str = "AWGN 10 dB; the release binary as its own process, client and sink with a thread each in this one, on the same 2 cores";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// AWGN in process beside NumPy.
    Awgn,
    /// Symbols per second through gRPC in large frames.
    Large,
    /// Small frames per second through gRPC.
    Small,
    /// What the emulator adds to a frame's way.
    Latency,
    /// What counting a frame costs.
    Instruments,
    /// Resident memory with many links.
    Memory,
    /// The tests that check the models against their laws and the service against itself.
    Statistics,
}

pub(crate) fn run(python: &Path, only: Option<Part>) -> Result<()> {
    let wanted = |part| only.is_none_or(|only| only == part);
    if wanted(Part::Awgn) {
        record(TOPIC, vec![awgn(python)?])?;
    }
    if wanted(Part::Large) {
        record(TOPIC, vec![large()?])?;
    }
    if wanted(Part::Small) {
        record(TOPIC, small()?)?;
    }
    if wanted(Part::Latency) {
        record(TOPIC, latency()?)?;
    }
    if wanted(Part::Instruments) {
        record(TOPIC, vec![instruments()])?;
    }
    if wanted(Part::Statistics) {
        record(TOPIC, statistics()?)?;
    }
    if wanted(Part::Memory) {
        record(TOPIC, vec![memory()?])?;
    }
    Ok(())
}

fn command(part: &str) -> String {
    format!("emulator --only {part}")
}

/// One frame after another through the channel, in place, against `x += n` of NumPy.
fn awgn(python: &Path) -> Result<Row> {
    const FRAMES: u64 = 160;
    const ROUNDS: usize = 5;
    let config = ChannelConfig::awgn(SnrDb::try_new(10.0)?);
    let total = FRAMES as f64 * LARGE as f64;
    let mut symbols: Vec<Complex32> = (0..LARGE).map(|i| Complex32::from_polar(1.0, i as f32)).collect();
    let mut state = config.draw(FrameKey { seed: 1, link: 0, stream: 0, frame: 0 }, LARGE);
    let mut frame = 0;
    let mut through = || {
        for _ in 0..FRAMES {
            frame += 1;
            config.apply_into(FrameKey { seed: 1, link: 0, stream: 0, frame }, &mut symbols, &mut state);
        }
        // Noise adds up from frame to frame, slowly: 0.1 each.
        black_box(&mut symbols);
        Ok(())
    };
    let arguments = [LARGE.to_string(), FRAMES.to_string(), ROUNDS.to_string()];
    let (ratio, ours, theirs, answer) =
        ratio(|| median_ms(ROUNDS, &mut through), || peer(python, "numpy_awgn.py", &arguments))?;
    let what = "AWGN in process, one core: symbols per second over NumPy's";
    let mut row = row(what, 1.0 / ratio, "ratio", "higher", json!(2), json!(6), &command("awgn"));
    let rate = |ms: f64| total / ms / 1e3;
    let of = |kind: &str| answer[kind].as_f64().context("the peer gave no rate").map(|rate| rate / 1e6);
    row.peer = answer["peer"].as_str().map(str::to_owned);
    row.note = format!(
        "{:.1} against {:.1} million symbols/s, frames of {LARGE}, y = x + n in place; NumPy in the last turn: float32 {:.1}, float64 {:.1}",
        rate(ours),
        rate(theirs),
        of("float32")?,
        of("float64")?
    );
    Ok(row)
}

/// What a load reached through the emulator and without it.
struct Measured {
    load: Load,
    /// Frames per second, median.
    rate: f64,
    /// The same client straight to the sink.
    direct: f64,
    rates: Rates,
    memory: Memory,
}

impl Measured {
    fn take(load: Load) -> Result<Measured> {
        let sink = Sink::start()?;
        let emulator = rig::emulator(&sink.url())?;
        runtime()?.block_on(async {
            let direct = median(load.run(&sink.url(), 2, || Ok(0.0)).await?.frames);
            let rates = load.run(&emulator.url(), PERIODS, || emulator.cpu()).await?;
            Ok(Measured { load, rate: median(rates.frames.clone()), direct, rates, memory: emulator.memory()? })
        })
    }

    fn note(&self, per_frame: f64, unit: &str) -> String {
        format!(
            "{} frames under way a stream; {RIG}; straight to the sink: {:.3e} {unit}; the emulator took {:.2} cores, {:.1} us a frame, \
             {:.0} MiB, at most {:.0}",
            self.load.outstanding,
            self.direct * per_frame,
            self.rates.cores,
            self.rates.frame * 1e6,
            self.memory.now,
            self.memory.peak
        )
    }
}

fn large() -> Result<Row> {
    let measured = Measured::take(Load { streams: 1, outstanding: 32, symbols: LARGE, own_links: false })?;
    let symbols = LARGE as f64;
    let what = "through gRPC, one stream of frames of 65,536 symbols";
    let (must, aim) = (json!(30.72e6), json!(100e6));
    let mut row = row(what, measured.rate * symbols, "symbols/s", "higher", must, aim, &command("large"));
    row.note = measured.note(symbols, "symbols/s");
    Ok(row)
}

fn small() -> Result<Vec<Row>> {
    let marks: [(usize, &str, Value, Value); 2] = [
        (1, "through gRPC, frames of 64 symbols, one stream", json!(20e3), json!(60e3)),
        (8, "through gRPC, frames of 64 symbols, 8 streams on 8 connections", json!(40e3), json!(120e3)),
    ];
    let mut rows = Vec::new();
    for (streams, what, must, aim) in marks {
        let measured = Measured::take(Load { streams, outstanding: 512, symbols: SMALL, own_links: false })?;
        let mut row = row(what, measured.rate, "frames/s", "higher", must, aim, &command("small"));
        row.note = measured.note(1.0, "frames/s");
        rows.push(row);
    }
    Ok(rows)
}

fn latency() -> Result<Vec<Row>> {
    let sink = Sink::start()?;
    let emulator = rig::emulator(&sink.url())?;
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    runtime()?.block_on(async {
        let mut straight = PingPong::open(&sink.url(), 0, SMALL).await?;
        let mut hop = PingPong::open(&emulator.url(), 1, SMALL).await?;
        straight.round_trips(1000).await?;
        hop.round_trips(1000).await?;
        for _ in 0..LATENCY_BLOCKS {
            direct.extend(straight.round_trips(LATENCY_FRAMES / LATENCY_BLOCKS).await?);
            through.extend(hop.round_trips(LATENCY_FRAMES / LATENCY_BLOCKS).await?);
        }
        anyhow::Ok(())
    })?;
    let marks = [("median", 0.5, json!(0.5), json!(0.1)), ("99th percentile", 0.99, json!(2), json!(0.4))].into_iter();
    let rows = marks.map(|(name, share, must, aim)| {
        let (without, with) = (quantile(&mut direct, share), quantile(&mut through, share));
        let what = format!("latency that the emulator adds, frames of 64 symbols, {name}");
        let mut row = row(&what, (with - without) / 1e3, "ms", "lower", must, aim, &command("latency"));
        row.note = format!(
            "{name} {with:.0} us with it, {without:.0} us without, {LATENCY_FRAMES} frames each, one at a time, blocks in turn; {RIG}"
        );
        row
    });
    Ok(rows.collect())
}

/// Runs tests and counts those that fail.
fn statistics() -> Result<Vec<Row>> {
    let suites: [(&str, &str); 4] = [
        ("noise on 10^7 samples against its law, each test at 1 %", "--test noise"),
        ("Rayleigh, Rice, Doppler and delay profiles against their laws", "--test fading --test tdl"),
        ("uncoded error rates against the closed forms, 99 % interval", "--test error_rates"),
        (
            "frames the same to the bit whatever order and concurrency",
            "--test link --test links --test channel -- a_replay_in_another_order recordings_hold_both a_recording_is_replayed",
        ),
    ];
    let run = |(what, tests): (&str, &str)| {
        let command = format!("cargo test --workspace {tests}");
        let arguments = command.split(' ').skip(1);
        let output = Command::new("cargo").args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let count = |word: &str| -> usize {
            let results = text.lines().filter(|line| line.starts_with("test result"));
            let counts =
                results.filter_map(|line| line.split(word).next()?.split_whitespace().last()?.parse::<usize>().ok());
            counts.sum()
        };
        let (passed, failed) = (count(" passed"), count(" failed"));
        ensure!(passed + failed > 0, "{command}: {}", String::from_utf8_lossy(&output.stderr));
        let mut row =
            row(&format!("{what}: tests that fail"), failed as f64, "tests", "lower", json!(0), Value::Null, "");
        row.command = command;
        row.note = format!("{passed} pass");
        Ok(row)
    };
    suites.into_iter().map(run).collect()
}

/// Time that counting takes of a frame.
fn instruments() -> Row {
    const FRAMES: u32 = 1_000_000;
    let instruments = Instruments::default();
    let run = |threads: u32| {
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..FRAMES).for_each(|frame| instruments.count(frame)));
            }
        });
        start.elapsed().as_nanos() as f64 / f64::from(FRAMES)
    };
    let least = |threads| (0..PERIODS).map(|_| run(threads)).fold(f64::INFINITY, f64::min);
    let what = "counting a frame in the emulator's instruments, one thread";
    let mut row = row(what, least(1), "ns", "lower", Value::Null, Value::Null, &command("instruments"));
    row.note = format!("two threads that do nothing else, so wait for each other: {:.0} ns each", least(2));
    row
}

fn memory() -> Result<Row> {
    const IDLE: usize = 1000;
    const BUSY: usize = 100;
    let sink = Sink::start()?;
    let emulator = rig::emulator(&sink.url())?;
    let alone = emulator.memory()?.now;
    let stages: Vec<_> =
        ["rayleigh", "awgn,snr_db=10"].iter().map(|text| Ok(wire::stage(&text.parse()?))).collect::<Result<_>>()?;
    let link = |name: String| v1::LinkSettings { name, next: sink.url(), stages: stages.clone(), ..Default::default() };
    let links = (0..IDLE).map(|i| link(format!("idle-{i}"))).chain((0..BUSY).map(|i| link(format!("busy-{i}"))));
    let request = v1::PopulateLinksRequest { links: links.collect() };
    let (created, rates) = runtime()?.block_on(async {
        let mut control = ChannelControlClient::connect(emulator.url()).await?;
        let done = control.populate_links(request).await?.into_inner();
        ensure!(done.created.len() == IDLE + BUSY, "{} links were made", done.created.len());
        let created = emulator.memory()?.now;
        let load = Load { streams: BUSY, outstanding: 64, symbols: SMALL, own_links: true };
        anyhow::Ok((created, load.run(&emulator.url(), PERIODS, || emulator.cpu()).await?))
    })?;
    let memory = emulator.memory()?;
    let what = "resident memory of the emulator with 1,000 idle links and 100 busy, at most";
    let mut row = row(what, memory.peak, "MiB", "lower", json!(200), json!(60), &command("memory"));
    row.note = format!(
        "{alone:.0} MiB at the start, {created:.0} with all links made, {:.0} at the end; 64 frames of 64 symbols under way on each busy link, \
         each with a connection of its own on both sides, {:.0} frames/s in all",
        memory.now,
        median(rates.frames)
    );
    Ok(row)
}
