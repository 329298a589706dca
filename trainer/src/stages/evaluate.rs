//! Stage `evaluate`: accuracy on the test split, which no other stage reads, over simulated channels.

use std::fs;
use std::time::Instant;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use semlink_channel::{
    ChannelConfig, ChannelKind, ChannelState, ChannelUses, Complex32, FrameKey, RicianK, SnrDb, limit, stats::wilson,
};
use semlink_codec::{Classifier, Condition, DecoderNetwork, EncoderNetwork, Estimates};
use semlink_nn::{Mode, Params, checkpoint};

use super::distill::Student;
use super::teacher::Teacher;
use super::{CODEC_FILE, Context};
use crate::data::{self, accuracy};
use crate::progress::Progress;
use crate::report::{Network, Point, Report};
use crate::{Result, plot};

/// The report's file.
pub(crate) const FILE: &str = "report.json";

/// Frames that go through the networks together.
const BATCH: usize = 500;

/// Both halves of the codec and what the student makes of the test images.
struct Measurement<'a> {
    encoder: EncoderNetwork,
    decoder: DecoderNetwork,
    /// \[n, features\] each.
    features: Vec<Tensor>,
    labels: &'a [u8],
    seed: u64,
}

/// One frame after the channel.
struct Frame {
    symbols: Vec<Complex32>,
    state: ChannelState,
    signal_power: f64,
    noise_power: f64,
}

impl Measurement<'_> {
    /// Sends every image `draws` times.
    fn at(&self, channel: &ChannelConfig, uses: usize, draws: usize) -> Result<Found> {
        let condition =
            Condition { snr_db: Some(channel.snr.db()), frame_snr_db: None, kind: Some(channel.kind), uses };
        let mut found = Found::default();
        let labels = self.labels.chunks(BATCH);
        for ((part, features), labels) in self.features.iter().enumerate().zip(labels) {
            let sent = self.encoder.cat.forward(features, &vec![condition; labels.len()])?.to_vec2::<f32>()?;
            for draw in 0..draws {
                let frame = |(row, x): (usize, &Vec<f32>)| {
                    let frame = (part * BATCH + row) as u64;
                    send(channel, FrameKey { seed: self.seed, link: 0, stream: draw as u64, frame }, &x[..2 * uses])
                };
                let frames: Vec<Frame> = sent.par_iter().enumerate().map(frame).collect();
                let received = frames.iter().map(|f| (f.symbols.as_slice(), Some(&f.state)));
                let estimates = Estimates::receive(received, self.encoder.cat.max_uses())?;
                let logits = self.decoder.classifier.forward(&self.decoder.cat.forward(&estimates)?)?;
                found.correct += (accuracy(&logits, labels)? * labels.len() as f64).round() as usize;
                found.signal_power += frames.iter().map(|f| f.signal_power).sum::<f64>();
                found.noise_power += frames.iter().map(|f| f.noise_power).sum::<f64>();
            }
        }
        Ok(found)
    }
}

#[derive(Default)]
struct Found {
    correct: usize,
    signal_power: f64,
    noise_power: f64,
}

/// Sends interleaved symbols.
fn send(channel: &ChannelConfig, key: FrameKey, reals: &[f32]) -> Frame {
    let sent: Vec<Complex32> = reals.chunks_exact(2).map(|x| Complex32::new(x[0], x[1])).collect();
    let mut symbols = sent.clone();
    let state = channel.apply(key, &mut symbols).state;
    let h = state.h.first().copied().unwrap_or(Complex32::ONE);
    let (mut signal_power, mut noise_power) = (0.0, 0.0);
    for (x, y) in sent.iter().zip(&symbols) {
        let arrived = h * x;
        signal_power += f64::from(arrived.norm_sqr());
        noise_power += f64::from((y - arrived).norm_sqr());
    }
    Frame { symbols, state, signal_power, noise_power }
}

/// The student alone.
pub(crate) fn student(context: &Context) -> Result<Network> {
    let student = Student::load(context)?;
    let test = data::test_split(context.recipe, &context.data_dir)?;
    let ((height, width), n) = (test.size(), test.len());
    let logits = test.map(|images| Ok(student.forward(images, Mode::Eval)?.1))?;
    let accuracy = accuracy(&logits, test.labels())?;
    let cost = context.student()?.cost(height, width, context.recipe.data.mean.len());
    Ok(Network { params: cost.params, macs: cost.macs, accuracy, ci95: wilson(accuracy, n), images: n })
}

/// Measures and writes `report.json` and `report.svg`.
pub(crate) fn run(context: &Context) -> Result<()> {
    let recipe = context.recipe;
    let codec = checkpoint::load(&context.need(CODEC_FILE, "robust")?, &Device::Cpu)?;
    let params = Params::frozen(codec.tensors);
    let channels = context.data()?.input.channels;
    let config = context.student()?;
    let encoder = EncoderNetwork::new(&params, &config, &recipe.cat, channels)?;
    let decoder = DecoderNetwork::new(&params, &recipe.cat, config.features(), recipe.classes())?;
    params.check_all_used()?;
    let (teacher, student) = (Teacher::load(context)?, Student::load(context)?);

    let test = data::test_split(recipe, &context.data_dir)?;
    let (height, width) = test.size();
    let n = test.len();
    let network = |params, macs, accuracy| Network { params, macs, accuracy, ci95: wilson(accuracy, n), images: n };
    let taught = test.map(|images| Ok(teacher.forward(images, Mode::Eval)?.1))?;
    let features = test.map(|images| Ok(encoder.student.forward(images, Mode::Eval)?))?;
    let cost = recipe.teacher.network.cost(height, width, channels)
        + Classifier::cost(recipe.teacher.network.features, recipe.classes());
    let teacher_found = network(cost.params, cost.macs, accuracy(&taught, test.labels())?);
    let cost = config.cost(height, width, channels);
    let student_found =
        network(cost.params, cost.macs, accuracy(&student.classifier.forward(&features)?, test.labels())?);
    eprintln!("evaluate teacher {:.4}, student {:.4}", teacher_found.accuracy, student_found.accuracy);

    let parts = (0..n).step_by(BATCH).map(|start| Ok(features.narrow(0, start, BATCH.min(n - start))?));
    let features = parts.collect::<Result<Vec<_>>>()?;
    let measurement = Measurement { encoder, decoder, features, labels: test.labels(), seed: recipe.evaluate.seed };
    let highest = ChannelConfig::awgn(SnrDb::try_new(recipe.robust.snr_db[1])?);
    let uses = recipe.cat.rates.last().copied().unwrap_or(0);
    let through = measurement.at(&highest, uses, 1)?.correct as f64 / n as f64;
    let clean = student_found.accuracy.max(through);
    let points = measure(context, &measurement, clean)?;
    let (teacher, student) = (teacher_found, student_found);
    let report = Report { dataset: recipe.name.clone(), teacher, student, clean, points };
    report.write(&context.dir.join(FILE))?;
    plot::write(&report, &context.dir.join("report.svg"))?;
    let table = context.dir.join("report.txt");
    let text = table_text(&report);
    fs::write(&table, &text).map_err(|source| crate::Error::Io { path: table, source })?;
    println!("{text}");
    Ok(())
}

fn measure(context: &Context, measurement: &Measurement<'_>, clean: f64) -> Result<Vec<Point>> {
    let (recipe, config) = (context.recipe, &context.recipe.evaluate);
    let k_factor = RicianK::try_new_db(config.k_factor_db)?;
    let n = measurement.labels.len();
    let total = config.channels.len() * config.snr_db.len() * recipe.cat.rates.len();
    let mut progress = Progress::new("evaluate", total, 0, n);
    let mut points = Vec::with_capacity(total);
    for &kind in &config.channels {
        let draws = if kind == ChannelKind::Awgn { 1 } else { config.fading_draws };
        for &snr_db in &config.snr_db {
            let channel = ChannelConfig { kind, k_factor, ..ChannelConfig::awgn(SnrDb::try_new(snr_db)?) };
            for &k in &recipe.cat.rates {
                let started = Instant::now();
                let found = measurement.at(&channel, k, draws)?;
                let images = n * draws;
                let accuracy = found.correct as f64 / images as f64;
                points.push(Point {
                    channel: kind,
                    snr_db,
                    k_factor_db: (kind == ChannelKind::Rician).then_some(config.k_factor_db),
                    k,
                    pilots: 0,
                    csi: "perfect".into(),
                    images,
                    draws,
                    correct: found.correct,
                    accuracy,
                    ci95: wilson(accuracy, n),
                    snr_db_measured: (10.0 * (found.signal_power / found.noise_power).log10()) as f32,
                    images_per_second: images as f64 / started.elapsed().as_secs_f64().max(1e-9),
                    limit: limit::accuracy(clean, recipe.classes(), &channel, ChannelUses::try_new(k)?)?,
                });
                progress.tick(points.len());
            }
        }
    }
    progress.finish();
    Ok(points)
}

/// Accuracy in % by channel and SNR (rows) and k (columns), the limit in brackets.
fn table_text(report: &Report) -> String {
    let mut rates: Vec<usize> = report.points.iter().map(|p| p.k).collect();
    rates.sort_unstable();
    rates.dedup();
    let mut text = format!(
        "teacher {:.2} %, {} parameters; student {:.2} %, {} parameters, {} multiply-accumulates; clean {:.2} %\n",
        100.0 * report.teacher.accuracy,
        report.teacher.params,
        100.0 * report.student.accuracy,
        report.student.params,
        report.student.macs,
        100.0 * report.clean
    );
    text += &format!("{:<9}{:>6} ", "channel", "dB");
    rates.iter().for_each(|k| text += &format!("{:>16}", format!("k = {k}")));
    for row in report.points.chunk_by(|a, b| a.channel == b.channel && a.snr_db == b.snr_db) {
        text += &format!("\n{:<9}{:>6} ", row[0].channel.as_str(), row[0].snr_db);
        for point in row {
            text += &format!("{:>16}", format!("{:.2} ({:.2})", 100.0 * point.accuracy, 100.0 * point.limit));
        }
    }
    text
}
