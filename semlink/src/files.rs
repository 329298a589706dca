//! What a sweep leaves behind: `sweep.json` and `sweep.csv`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use semlink_channel::{ChannelConfig, ChannelKind};
use semlink_report::Reliability;
use serde::{Serialize, Serializer};

use crate::images::Class;

/// Columns of `sweep.csv`.
const COLUMNS: &str = "channel,snr_db,k,pilots,csi,images,correct,accuracy,ci95_low,ci95_high,snr_db_measured,images_per_second,side_information_bits";

/// A finished sweep, as `sweep.json` holds it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sweep {
    /// Of the bundle; null where the bundle was not at hand.
    pub(crate) codec_id: Option<String>,
    pub(crate) dataset: String,
    pub(crate) points: Vec<Point>,
}

/// Accuracy at one setting of the channel.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Point {
    pub(crate) channel: ChannelKind,
    /// As requested: Es/N0 in dB, averaged over fading.
    pub(crate) snr_db: f32,
    /// Payload channel uses, the mean over the images where they differ.
    #[serde(serialize_with = "whole")]
    pub(crate) k: f64,
    /// Pilot symbols, likewise.
    #[serde(serialize_with = "whole")]
    pub(crate) pilots: f64,
    pub(crate) csi: String,
    pub(crate) images: usize,
    pub(crate) correct: usize,
    /// `correct / images`.
    pub(crate) accuracy: f64,
    /// 95 % Wilson interval of `accuracy`.
    pub(crate) ci95: [f64; 2],
    /// Mean over the images of the SNR in dB that the receiver reported (`LinkInfo.snr_db_estimated`); null when it knew none.
    pub(crate) snr_db_measured: Option<f64>,
    /// From the first request to the last answer.
    pub(crate) images_per_second: f64,
    /// What it takes to tell the receiver k, in bits for each frame; neither k nor the pilots count it.
    #[serde(serialize_with = "whole")]
    pub(crate) side_information_bits: f64,
    /// The channel in full, for the limit.
    #[serde(skip)]
    pub(crate) config: ChannelConfig,
    /// What a report shows besides.
    #[serde(skip)]
    pub(crate) details: Details,
}

/// What is remembered of a point's answers for a report.
#[derive(Debug, Clone, Default)]
pub(crate) struct Details {
    /// The channel as the emulator told it, in words.
    pub(crate) profile: String,
    /// True class, class decided, how often.
    pub(crate) decided: BTreeMap<(Class, u32), u64>,
    /// What the codec calls the classes that it decided for.
    pub(crate) names: BTreeMap<u32, String>,
    pub(crate) reliability: Reliability,
    /// Decisions about the first images of the data set, as many as there are of at most [`SAMPLES`].
    pub(crate) samples: Vec<Option<Shown>>,
}

/// A decision about an image that is shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shown {
    pub(crate) label: String,
    pub(crate) confidence: f32,
    pub(crate) right: bool,
}

/// Images that a report shows.
pub(crate) const SAMPLES: usize = 8;

impl Sweep {
    /// Writes `sweep.json` and `sweep.csv` into a folder that exists.
    pub(crate) fn write(&self, out: &Path) -> Result<()> {
        for (name, text) in [("sweep.json", self.json()?), ("sweep.csv", self.csv())] {
            let path = out.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// What `sweep.json` holds.
    pub(crate) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    fn csv(&self) -> String {
        let mut text = format!("{COLUMNS}\n");
        for p in &self.points {
            let measured = p.snr_db_measured.map_or_else(String::new, |db| db.to_string());
            let [low, high] = p.ci95;
            text += &format!(
                "{},{},{},{},{},{},{},{},{low},{high},{measured},{},{}\n",
                p.channel,
                p.snr_db,
                p.k,
                p.pilots,
                p.csi,
                p.images,
                p.correct,
                p.accuracy,
                p.images_per_second,
                p.side_information_bits
            );
        }
        text
    }
}

/// Makes the folder for a sweep's files: before the sweep, so that nobody waits for results that cannot be kept.
pub(crate) fn prepare(out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("--out {}", out.display()))
}

/// A mean of integers is written as an integer where it is one.
fn whole<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 && (0.0..=9e15).contains(value) {
        serializer.serialize_u64(*value as u64)
    } else {
        serializer.serialize_f64(*value)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use semlink_channel::SnrDb;

    use super::*;

    /// Two channels at -5 and 5 dB.
    pub(crate) fn sweep() -> Sweep {
        let point = |channel, snr_db: f32, correct| Point {
            channel,
            snr_db,
            k: 64.0,
            pilots: 0.0,
            csi: "perfect".into(),
            images: 200,
            correct,
            accuracy: correct as f64 / 200.0,
            ci95: [correct as f64 / 200.0 - 0.05, correct as f64 / 200.0 + 0.05],
            snr_db_measured: Some(f64::from(snr_db)),
            images_per_second: 1234.5,
            side_information_bits: 3.0,
            config: ChannelConfig { kind: channel, ..ChannelConfig::awgn(SnrDb::try_new(snr_db).unwrap()) },
            details: Details::default(),
        };
        let points = vec![
            point(ChannelKind::Awgn, -5.0, 150),
            point(ChannelKind::Awgn, 5.0, 180),
            point(ChannelKind::Rayleigh, -5.0, 100),
            point(ChannelKind::Rayleigh, 5.0, 160),
        ];
        Sweep { codec_id: Some("abc".into()), dataset: "sample".into(), points }
    }

    #[test]
    fn json_has_the_documented_fields_and_no_others() {
        let mut sweep = sweep();
        sweep.points[1].k = 48.5;
        let json = serde_json::to_value(&sweep).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&json), ["codec_id", "dataset", "points"]);
        let mut expected = [
            "channel",
            "snr_db",
            "k",
            "pilots",
            "csi",
            "images",
            "correct",
            "accuracy",
            "ci95",
            "snr_db_measured",
            "images_per_second",
            "side_information_bits",
        ];
        expected.sort_unstable();
        let mut found = keys(&json["points"][0]);
        found.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(json["points"][0]["channel"], "awgn");
        assert_eq!(json["points"][0]["k"], serde_json::json!(64));
        assert_eq!(json["points"][1]["k"], serde_json::json!(48.5));
        assert_eq!(json["points"][2]["ci95"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn csv_has_a_line_for_each_point_with_as_many_fields_as_columns() {
        let mut sweep = sweep();
        sweep.points[0].snr_db_measured = None;
        let csv = sweep.csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], COLUMNS);
        assert_eq!(lines.len(), 5);
        assert!(lines.iter().all(|line| line.split(',').count() == 13), "{csv}");
        assert!(lines[1].starts_with("awgn,-5,64,0,perfect,200,150,0.75,0.7,"), "{csv}");
    }
}
