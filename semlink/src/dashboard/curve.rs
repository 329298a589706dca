//! Accuracy over SNR, counted while images flow.

use std::collections::BTreeMap;

use semlink_channel::stats::wilson;
use serde::Serialize;

/// Bins that are kept: 1 dB wide, a few channels and rates.
const MOST: usize = 4096;

/// What a bin counts: 1 dB around an SNR, over one kind of channel, with one setting of the rate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bin {
    pub(super) channel: &'static str,
    /// As it was asked for: `auto` or a number of channel uses.
    pub(super) rate: String,
    pub(super) snr_db: i32,
}

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    images: usize,
    correct: usize,
    uses: u64,
}

/// All bins since they were last cleared.
#[derive(Debug, Default)]
pub(super) struct Curve(BTreeMap<Bin, Tally>);

/// A point of the curve.
#[derive(Debug, Serialize)]
pub(super) struct Point {
    channel: &'static str,
    rate: String,
    snr_db: i32,
    images: usize,
    accuracy: f64,
    ci95: [f64; 2],
    /// Channel uses, the mean.
    uses: f64,
}

impl Curve {
    pub(super) fn add(&mut self, bin: Bin, right: bool, uses: u32) {
        if self.0.len() >= MOST && !self.0.contains_key(&bin) {
            return;
        }
        let tally = self.0.entry(bin).or_default();
        tally.images += 1;
        tally.correct += usize::from(right);
        tally.uses += u64::from(uses);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// (SNR in dB, mean channel uses) of what was counted over this channel with this rate.
    pub(super) fn uses(&self, channel: &str, rate: &str) -> Vec<(f32, u32)> {
        let there = self.0.iter().filter(|(bin, _)| bin.channel == channel && bin.rate == rate);
        there.map(|(bin, tally)| (bin.snr_db as f32, (tally.mean_uses().round() as u32).max(1))).collect()
    }
}

impl Tally {
    fn mean_uses(&self) -> f64 {
        self.uses as f64 / self.images.max(1) as f64
    }
}

impl Serialize for Curve {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(|(bin, tally)| {
            let accuracy = tally.correct as f64 / tally.images.max(1) as f64;
            Point {
                channel: bin.channel,
                rate: bin.rate.clone(),
                snr_db: bin.snr_db,
                images: tally.images,
                accuracy,
                ci95: wilson(accuracy, tally.images),
                uses: tally.mean_uses(),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_counts_for_itself_and_has_its_interval() {
        let bin = |snr_db| Bin { channel: "awgn", rate: "auto".to_owned(), snr_db };
        let mut curve = Curve::default();
        for i in 0..263 {
            curve.add(bin(3), i < 81, if i == 0 { 8 + 262 } else { 7 });
        }
        curve.add(bin(-4), true, 64);
        let points = serde_json::to_value(&curve).expect("JSON");
        assert_eq!((&points[0]["snr_db"], &points[1]["snr_db"]), (&(-4).into(), &3.into()));
        // Newcombe (1998), table I, method 3: 81 of 263.
        for (found, published) in [(&points[1]["ci95"][0], 0.2553), (&points[1]["ci95"][1], 0.3662)] {
            assert!((found.as_f64().expect("a number") - published).abs() < 5e-5, "{points}");
        }
        assert_eq!(points[1]["uses"], 8.0);
        assert_eq!(curve.uses("awgn", "auto"), [(-4.0, 64), (3.0, 8)]);
        assert!(curve.uses("awgn", "64").is_empty() && curve.uses("rician", "auto").is_empty());
    }
}
