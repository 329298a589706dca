//! Stage `evaluate`: accuracy on the test split, which no other stage reads, over simulated channels.

use std::fs;
use std::io::Cursor;
use std::time::Instant;

use semlink_channel::{ChannelConfig, ChannelKind, ChannelUses, RicianK, SnrDb, limit, stats::wilson};
use semlink_codec::{Calibration, CsiSource};
use semlink_nn::{Mode, Params, checkpoint};
use semlink_report::{Confusion, Image, Reliability};

use super::digital::Digital;
use super::distill::Student;
use super::robust::codec::Codec;
use super::robust::frames::Frames;
use super::robust::measure::{Setting, Sounding};
use super::robust::{self, CALIBRATION_FILE};
use super::teacher::Teacher;
use super::{CODEC_FILE, Context};
use crate::data::{self, Split, accuracy};
use crate::progress::Progress;
use crate::report::{Detail, DigitalPoint, Network, Point, Report, Sample};
use crate::{Error, Result, json, plot};

/// The report's file.
pub(crate) const FILE: &str = "report.json";
/// Test images that it shows.
const SAMPLES: usize = 8;
/// Channel uses at which decisions are recorded, where the codec has them.
const DETAILED_USES: usize = 64;

/// The student alone.
pub(crate) fn student(context: &Context) -> Result<Network> {
    let student = Student::load(context)?;
    let test = data::test_split(context.recipe, &context.data_dir, &context.device)?;
    let logits = test.map(|images| Ok(student.forward(images, Mode::Eval)?.1))?;
    network(context, &test, accuracy(&logits, test.labels())?)
}

/// The student's sizes and an accuracy of it.
fn network(context: &Context, test: &Split, accuracy: f64) -> Result<Network> {
    let ((height, width), n) = (test.size(), test.len());
    let cost = context.student()?.cost(height, width, context.recipe.data.mean.len());
    Ok(Network { params: cost.params, macs: cost.macs, accuracy, ci95: wilson(accuracy, n), images: n })
}

/// Measures and writes `report.json` and `report.svg`.
pub(crate) fn run(context: &Context) -> Result<()> {
    let recipe = context.recipe;
    let codec = checkpoint::load(&context.need(CODEC_FILE, "robust")?, &context.device)?;
    let params = Params::frozen(codec.tensors);
    let codec = Codec::new(&params, recipe)?;
    let calibration: Calibration = json::read(&context.need(CALIBRATION_FILE, "robust")?)?;
    let test = data::test_split(recipe, &context.data_dir, &context.device)?;
    let teacher_net = Teacher::load(context)?;
    let logits = test.map(|images| Ok(teacher_net.forward(images, Mode::Eval)?.1))?;
    let teacher_accuracy = accuracy(&logits, test.labels())?;
    let ((height, width), n) = (test.size(), test.len());
    let cost = teacher_net.cost(recipe, height, width);
    let teacher = Network {
        params: cost.params,
        macs: cost.macs,
        accuracy: teacher_accuracy,
        ci95: wilson(teacher_accuracy, n),
        images: n,
    };
    let frames = robust::frames_of(recipe, &test, &robust::student_net(context, &params)?)?;
    // A student that learnt along has no classifier but the codec's.
    let (student, student_accuracy) = match recipe.robust.joint {
        None => {
            let student = Student::load(context)?;
            (Some(self::student(context)?), robust::clean_accuracy(&test, &student, &frames)?)
        }
        Some(_) => (None, 0.0),
    };
    let mut measurement =
        Measurement { context, codec: &codec, calibration: &calibration, frames: &frames, clean: student_accuracy };
    // Nothing is lost at the highest SNR with all channel uses; what the codec then reaches is what its classifier makes of the features.
    let highest = ChannelConfig::awgn(SnrDb::try_new(recipe.robust.snr_db[1])?);
    let (lossless, _) = measurement.at(&Setting::known(highest, codec.max_uses()), 1)?;
    measurement.clean = lossless.accuracy.max(student_accuracy);
    let [encoder, decoder] = Codec::cost(recipe);
    let (points, details) = measurement.sweep()?;
    let report = Report {
        dataset: recipe.name.clone(),
        teacher,
        student: match student {
            Some(student) => student,
            None => network(context, &test, lossless.accuracy)?,
        },
        encoder_params: encoder.params,
        encoder_macs: encoder.macs,
        decoder_params: decoder.params,
        decoder_macs: decoder.macs,
        classes: frames.classes(),
        clean: measurement.clean,
        points,
        mismatch: measurement.mismatch()?,
        digital: if recipe.evaluate.digital { measurement.digital(&test, &teacher_net)? } else { Vec::new() },
        details,
        samples: if recipe.robust.images_per_frame == 1 { samples(&test)? } else { Vec::new() },
    };
    report.write(&context.dir.join(FILE))?;
    plot::write(&report, &context.dir.join("report.svg"))?;
    let table = table_text(&report);
    fs::write(context.dir.join("report.txt"), &table)
        .map_err(|source| Error::Io { path: context.dir.join("report.txt"), source })?;
    match context.json {
        true => println!("{}", serde_json::json!(report)),
        false => println!("{table}"),
    }
    Ok(())
}

/// The first test images, to be shown.
fn samples(test: &Split) -> Result<Vec<Sample>> {
    let (height, width) = test.size();
    let one = |(index, class): (usize, &u8)| -> Result<Option<Sample>> {
        let (pixels, size) = (test.image(index), (width as u32, height as u32));
        let colours = match pixels.len() / (height * width).max(1) {
            1 => image::ExtendedColorType::L8,
            3 => image::ExtendedColorType::Rgb8,
            // No picture that a page could show.
            _ => return Ok(None),
        };
        let mut png = Cursor::new(Vec::new());
        let written = image::ImageEncoder::write_image(
            image::codecs::png::PngEncoder::new(&mut png),
            pixels,
            size.0,
            size.1,
            colours,
        );
        written.map_err(|e| Error::Split(format!("test image {index}: {e}")))?;
        let image = Image::of(png.get_ref(), "");
        Ok(image.map(|image| Sample { class: u32::from(*class), png: image.base64().to_owned() }))
    };
    test.labels().iter().take(SAMPLES).enumerate().filter_map(|found| one(found).transpose()).collect()
}

/// The trained codec, the test images' frames and what counts as clean.
struct Measurement<'a> {
    context: &'a Context<'a>,
    codec: &'a Codec,
    calibration: &'a Calibration,
    frames: &'a Frames,
    clean: f64,
}

impl Measurement<'_> {
    /// Every channel, SNR and length, with perfect channel state information and with pilots.
    fn sweep(&self) -> Result<(Vec<Point>, Vec<Detail>)> {
        let config = &self.context.recipe.evaluate;
        let mut settings = Vec::new();
        for &kind in &config.channels {
            let factors = if kind == ChannelKind::Rician { &config.k_factor_db[..] } else { &[0.0] };
            for k_factor_db in factors {
                for &snr_db in &config.snr_db {
                    let channel = self.channel(kind, snr_db, *k_factor_db)?;
                    settings.extend(self.context.recipe.cat.rates.iter().map(|k| Setting::known(channel, *k)));
                }
            }
        }
        // A transmitter learns the SNR from reports, which pilots also give, but not the kind of channel.
        let piloted: Vec<Setting> = config
            .pilots
            .iter()
            .flat_map(|&count| {
                let plain = settings.iter().filter(|s| s.channel.kind != ChannelKind::Rician);
                plain.map(move |s| Setting { csi: CsiSource::Pilots(count), told_kind: None, ..*s })
            })
            .collect();
        settings.extend(piloted);
        let found = self.all("evaluate", &settings)?;
        let (points, details): (Vec<Point>, Vec<Detail>) = found.into_iter().unzip();
        let chosen = chosen(&points, &self.context.recipe.cat.rates);
        let details = details.into_iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(detail, _)| detail);
        Ok((points, details.collect()))
    }

    /// One length, with encoders that are told another SNR than there is, or none.
    fn mismatch(&self) -> Result<Vec<Point>> {
        let config = &self.context.recipe.evaluate;
        let Some(uses) = config.mismatch_uses else { return Ok(Vec::new()) };
        let mut settings = Vec::new();
        for kind in [ChannelKind::Awgn, ChannelKind::Rayleigh] {
            for &snr_db in &config.mismatch_snr_db {
                let known = Setting::known(self.channel(kind, snr_db, 0.0)?, uses);
                let told = config.mismatch_snr_db.iter().map(|told| Some(*told));
                settings.extend(told.map(|told_db| Setting { told_db, ..known }));
                settings.push(Setting { told_db: None, told_kind: None, ..known });
            }
        }
        Ok(self.all("mismatch", &settings)?.into_iter().map(|(point, _)| point).collect())
    }

    /// The digital scheme over AWGN and Rayleigh fading.
    fn digital(&self, test: &Split, teacher: &Teacher) -> Result<Vec<DigitalPoint>> {
        let (recipe, digital) = (self.context.recipe, Digital::new(test, teacher)?);
        let mut points = Vec::new();
        for channel in [ChannelKind::Awgn, ChannelKind::Rayleigh] {
            for &snr_db in &recipe.evaluate.snr_db {
                for &k in &recipe.cat.rates {
                    let (accuracy, fits) = digital.at(&self.channel(channel, snr_db, 0.0)?, k, recipe.evaluate.seed);
                    points.push(DigitalPoint { channel, snr_db, k, accuracy, fits });
                }
            }
        }
        Ok(points)
    }

    fn channel(&self, kind: ChannelKind, snr_db: f32, k_factor_db: f32) -> Result<ChannelConfig> {
        let k_factor = RicianK::try_new_db(k_factor_db)?;
        Ok(ChannelConfig { kind, k_factor, ..ChannelConfig::awgn(SnrDb::try_new(snr_db)?) })
    }

    fn all(&self, what: &'static str, settings: &[Setting]) -> Result<Vec<(Point, Detail)>> {
        let mut progress = Progress::new(what, settings.len(), 0, self.frames.len());
        let mut points = Vec::with_capacity(settings.len());
        for setting in settings {
            let draws =
                if setting.channel.kind == ChannelKind::Awgn { 1 } else { self.context.recipe.evaluate.fading_draws };
            points.push(self.at(setting, draws)?);
            progress.tick(points.len());
        }
        progress.finish();
        Ok(points)
    }

    /// Sends every frame `draws` times.
    fn at(&self, setting: &Setting, draws: usize) -> Result<(Point, Detail)> {
        let Setting { channel, uses, told_db, csi, .. } = *setting;
        let sounding = Sounding {
            codec: self.codec,
            frames: self.frames,
            part: 0..self.frames.len(),
            seed: self.context.recipe.evaluate.seed,
            link: 0,
        };
        let started = Instant::now();
        let (mut correct, mut power) = (0, [0.0; 2]);
        let (mut confusion, mut reliability) = (Confusion::default(), Reliability::default());
        // Batches come in order, each with all its draws; the first draw of the first batch has the samples.
        let mut decisions: Vec<(u32, f32)> = Vec::new();
        let shown = SAMPLES.min(self.frames.len());
        sounding.run(setting, draws, |heard| {
            let logits = heard.logits.to_vec2::<f32>()?;
            for ((logits, condition), label) in logits.iter().zip(&heard.conditions).zip(heard.labels) {
                let probabilities = self.calibration.at(condition).probabilities(logits);
                let best = probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
                if let Some((class, confidence)) = best {
                    let right = class == usize::from(*label);
                    correct += usize::from(right);
                    reliability.push(*confidence, right);
                    confusion.push(u32::from(*label), class as u32);
                    if decisions.len() < shown {
                        decisions.push((class as u32, *confidence));
                    }
                }
            }
            power[0] += heard.power[0];
            power[1] += heard.power[1];
            Ok(())
        })?;
        let (n, images) = (self.frames.len(), self.frames.len() * draws);
        let accuracy = correct as f64 / images as f64;
        let limit = limit::accuracy(self.clean, self.frames.classes(), &channel, ChannelUses::try_new(uses)?)?;
        let (csi, pilots) = match csi {
            CsiSource::Perfect => ("perfect", 0),
            CsiSource::Pilots(count) => ("pilots", count),
            CsiSource::None => ("none", 0),
        };
        let k_factor_db = (channel.kind == ChannelKind::Rician).then_some(channel.k_factor.db());
        let (kind, snr_db, calibration_error) = (channel.kind, channel.snr.db(), reliability.error());
        let detail = Detail { channel: kind, k_factor_db, snr_db, k: uses, confusion, reliability, decisions };
        let point = Point {
            channel: kind,
            snr_db,
            k_factor_db,
            k: uses,
            pilots,
            csi: csi.into(),
            told_snr_db: told_db,
            images,
            draws,
            correct,
            accuracy,
            ci95: wilson(accuracy, n),
            snr_db_measured: (10.0 * (power[0] / power[1]).log10()) as f32,
            images_per_second: images as f64 / started.elapsed().as_secs_f64().max(1e-9),
            limit,
            gap: limit - accuracy,
            calibration_error,
        };
        Ok((point, detail))
    }
}

/// Whether a point's decisions are recorded: those with perfect CSI at the lowest, the middle and the highest SNR of each channel, with one
/// number of channel uses.
fn chosen(points: &[Point], rates: &[usize]) -> Vec<bool> {
    let middle = rates.get(rates.len() / 2).copied();
    let uses = rates.iter().copied().find(|k| *k == DETAILED_USES).or(middle);
    let of = |point: &Point| (point.channel, point.k_factor_db.map(f32::to_bits));
    let counts = |point: &Point| point.csi == "perfect" && Some(point.k) == uses;
    let is_chosen = |point: &Point| {
        let same = points.iter().filter(|other| counts(other) && of(other) == of(point));
        let mut snrs: Vec<f32> = same.map(|other| other.snr_db).collect();
        snrs.sort_by(f32::total_cmp);
        snrs.dedup();
        let ends = [snrs.first(), snrs.get(snrs.len() / 2), snrs.last()];
        counts(point) && ends.into_iter().flatten().any(|snr| *snr == point.snr_db)
    };
    points.iter().map(is_chosen).collect()
}

/// Accuracy in % by channel and SNR (rows) and k (columns), the gap to the limit in brackets.
fn table_text(report: &Report) -> String {
    let mut rates: Vec<usize> = report.points.iter().map(|p| p.k).collect();
    rates.sort_unstable();
    rates.dedup();
    let percent = |value: f64| 100.0 * value;
    let mut text = format!(
        "teacher {:.2} %, {} parameters; student {:.2} %, {} parameters, {} multiply-accumulates; clean {:.2} %, {} classes\n\
         channel encoder {} parameters, {} multiply-accumulates; decoder {}, {}\n\
         accuracy in %, in brackets the points that the limit is above it\n",
        percent(report.teacher.accuracy),
        report.teacher.params,
        percent(report.student.accuracy),
        report.student.params,
        report.student.macs,
        percent(report.clean),
        report.classes,
        report.encoder_params,
        report.encoder_macs,
        report.decoder_params,
        report.decoder_macs,
    );
    text += &format!("{:<22}{:>6} ", "channel", "dB");
    rates.iter().for_each(|k| text += &format!("{:>15}", format!("k = {k}")));
    let same = |a: &Point, b: &Point| {
        (a.channel, a.snr_db, a.k_factor_db, a.pilots) == (b.channel, b.snr_db, b.k_factor_db, b.pilots)
    };
    for row in report.points.chunk_by(same) {
        text += &format!("\n{:<22}{:>6} ", row[0].channel_text(), row[0].snr_db);
        for point in row {
            text += &format!("{:>15}", format!("{:.2} ({:.2})", percent(point.accuracy), percent(point.gap)));
        }
    }
    for row in report.digital.chunk_by(|a, b| (a.channel, a.snr_db) == (b.channel, b.snr_db)) {
        text += &format!("\n{:<22}{:>6} ", format!("{}, JPEG", row[0].channel), row[0].snr_db);
        row.iter().for_each(|point| text += &format!("{:>15}", format!("{:.2}       ", percent(point.accuracy))));
    }
    if let Some(first) = report.mismatch.first() {
        text += &format!(
            "\n\nk = {}, accuracy in % by the SNR that the encoder is told\n{:<22}{:>6} ",
            first.k, "channel", "dB"
        );
        let rows: Vec<&[Point]> =
            report.mismatch.chunk_by(|a, b| (a.channel, a.snr_db) == (b.channel, b.snr_db)).collect();
        for point in rows.first().copied().unwrap_or_default() {
            text += &format!("{:>9}", point.told_snr_db.map_or("nothing".into(), |db| format!("{db} dB")));
        }
        for row in rows {
            text += &format!("\n{:<22}{:>6} ", row[0].channel_text(), row[0].snr_db);
            row.iter().for_each(|point| text += &format!("{:>9.2}", percent(point.accuracy)));
        }
    }
    text
}
