//! Whether a decision that is 90 % sure is right in 90 % of the cases.

use semlink_channel::stats::wilson;
use serde::{Deserialize, Serialize};

use crate::{Axis, Chart, Corner, Line, Mark, Stroke, Tone};

/// Bins of equal width between 0 and 1.
const BINS: usize = 15;

/// Decisions by their confidence, for the expected calibration error with bins of 1/15 (Guo et al. 2017).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reliability {
    bins: [Bin; BINS],
}

/// Decisions of like confidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "(u64, f64, u64)", into = "(u64, f64, u64)")]
pub struct Bin {
    /// How many.
    pub decisions: u64,
    /// Sum of their confidences.
    pub confidence: f64,
    /// How many were right.
    pub right: u64,
}

impl From<(u64, f64, u64)> for Bin {
    fn from((decisions, confidence, right): (u64, f64, u64)) -> Self {
        Bin { decisions, confidence, right }
    }
}

impl From<Bin> for (u64, f64, u64) {
    fn from(bin: Bin) -> Self {
        (bin.decisions, bin.confidence, bin.right)
    }
}

impl Reliability {
    /// Adds a decision: its probability, and whether it was right.
    pub fn push(&mut self, confidence: f32, right: bool) {
        let confidence = if confidence.is_finite() { confidence } else { 0.0 };
        let place = ((confidence * BINS as f32).ceil() as usize).clamp(1, BINS) - 1;
        if let Some(bin) = self.bins.get_mut(place) {
            bin.decisions += 1;
            bin.confidence += f64::from(confidence);
            bin.right += u64::from(right);
        }
    }

    /// Adds the decisions of another.
    pub fn merge(&mut self, other: &Reliability) {
        for (bin, more) in self.bins.iter_mut().zip(&other.bins) {
            bin.decisions += more.decisions;
            bin.confidence += more.confidence;
            bin.right += more.right;
        }
    }

    /// From the least confident to the most.
    pub fn bins(&self) -> &[Bin] {
        &self.bins
    }

    /// Decisions in all.
    pub fn total(&self) -> u64 {
        self.bins.iter().map(|bin| bin.decisions).sum()
    }

    /// The expected calibration error, 0 to 1: how far confidence and accuracy are apart, on average over the decisions.
    pub fn error(&self) -> f64 {
        let apart = self.bins.iter().map(|bin| (bin.confidence - bin.right as f64).abs()).sum::<f64>();
        apart / self.total().max(1) as f64
    }

    /// Share of right decisions over confidence, bin by bin with 95 % intervals; on the diagonal all would be as sure as they are right.
    pub fn chart(&self, title: &str) -> Chart {
        let title = format!("{title}: ECE {:.2} %", 100.0 * self.error());
        let mut chart =
            Chart::new(title, Axis::fixed("confidence", 0.0, 1.0), Axis::fixed("share that is right", 0.0, 1.0))
                .legend(Corner::LowerRight);
        chart.push(Line::new("as sure as right", Tone::Grey, [(0.0, 0.0), (1.0, 1.0)]).stroke(Stroke::Dashed));
        let filled = || self.bins.iter().filter(|bin| bin.decisions > 0);
        let at = |bin: &Bin| (bin.confidence / bin.decisions as f64, bin.right as f64 / bin.decisions as f64);
        let intervals = filled().map(|bin| {
            let [low, high] = wilson(at(bin).1, bin.decisions as usize);
            (at(bin).0, low, high)
        });
        let line = Line::new("decisions, with their 95 % intervals", Tone::Blue, filled().map(at));
        chart.push(line.stroke(Stroke::None).mark(Mark::Circle).intervals(intervals));
        chart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Reliability {
        let mut made = Reliability::default();
        // 10 decisions at 0.9 of which 8 are right, 10 at 0.5 of which 6 are right.
        (0..10).for_each(|i| made.push(0.9, i < 8));
        (0..10).for_each(|i| made.push(0.5, i < 6));
        made
    }

    #[test]
    fn the_error_is_the_mean_gap_of_the_bins() {
        // (|9 - 8| + |5 - 6|) / 20
        assert!((made().error() - 0.1).abs() < 1e-6, "{}", made().error());
        let mut twice = made();
        twice.merge(&made());
        assert!((twice.error() - 0.1).abs() < 1e-6);
        assert_eq!((twice.total(), Reliability::default().error()), (40, 0.0));
    }

    #[test]
    fn its_picture_names_the_error_and_json_gives_it_back() {
        let svg = made().chart("awgn").svg().unwrap();
        assert!(svg.markup().contains("awgn: ECE 10.00 %"));
        let json = serde_json::to_string(&made()).unwrap();
        assert_eq!(serde_json::from_str::<Reliability>(&json).unwrap(), made());
        // Confidences outside of 0 to 1, and none at all, have a bin, too.
        let mut odd = Reliability::default();
        [f32::NAN, -1.0, 0.0, 1.0, 7.0].into_iter().for_each(|confidence| odd.push(confidence, true));
        assert_eq!((odd.total(), odd.error().is_finite()), (5, true));
    }
}
