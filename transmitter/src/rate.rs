//! Which number of channel uses a frame gets: pure, from a table of measured accuracies and the last reported channel.

use std::{fmt, str::FromStr};

use semlink_channel::{ChannelKind, ChannelUses};
use semlink_codec::{AccuracyPoint, Manifest};

/// How far below the best tabulated accuracy a cheaper rate may lie, as a fraction: half a point.
pub const TOLERANCE: f64 = 0.005;

/// The setting: a fixed number of channel uses, or a choice per batch; as text `auto` or the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// The smallest rate whose accuracy at the reported channel is within [`TOLERANCE`] of the best.
    Auto,
    /// Always this many channel uses.
    Fixed(ChannelUses),
}

/// What the receiver last said about the channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Condition {
    /// Average SNR in dB.
    pub snr_db: f32,
    /// The fading model, where it is known.
    pub kind: Option<ChannelKind>,
}

/// One measured accuracy of a codec.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The fading model it was measured with.
    pub kind: ChannelKind,
    /// Average SNR in dB.
    pub snr_db: f32,
    /// Payload channel uses.
    pub uses: ChannelUses,
    /// Top-1 accuracy as a fraction, 0 to 1.
    pub accuracy: f64,
}

/// The rates of a codec and what each reaches.
#[derive(Debug, Clone)]
pub struct RateTable {
    /// Ascending.
    rates: Vec<ChannelUses>,
    /// Ascending in SNR.
    points: Vec<Point>,
}

impl RateTable {
    /// A table of the codec's `rates`, at least one, and its measured `points`; points that are not finite are left out.
    pub fn new(mut rates: Vec<ChannelUses>, mut points: Vec<Point>) -> RateTable {
        rates.sort_unstable();
        points.retain(|point| point.snr_db.is_finite() && point.accuracy.is_finite());
        points.sort_by(|a, b| a.snr_db.total_cmp(&b.snr_db));
        RateTable { rates, points }
    }

    /// The table of a codec, from its manifest; a rate that cannot be one is left out.
    pub fn of(manifest: &Manifest) -> RateTable {
        let uses = |k: usize| ChannelUses::try_new(k).ok();
        let point = |point: &AccuracyPoint| {
            let AccuracyPoint { channel: kind, snr_db, k, accuracy, .. } = *point;
            Some(Point { kind, snr_db, uses: uses(k)?, accuracy })
        };
        RateTable::new(
            manifest.rates().iter().filter_map(|&k| uses(k)).collect(),
            manifest.accuracy.iter().filter_map(point).collect(),
        )
    }

    /// The codec's rate of `k` channel uses, if it has one.
    pub fn get(&self, k: usize) -> Option<ChannelUses> {
        self.rates.iter().copied().find(|uses| uses.get() == k)
    }

    /// The codec's rates for a message: `8, 16, 32`.
    pub fn listed(&self) -> String {
        let rates: Vec<String> = self.rates.iter().map(ChannelUses::to_string).collect();
        rates.join(", ")
    }

    /// The number of channel uses for a frame.
    ///
    /// `Auto` takes the smallest rate whose accuracy, interpolated linearly over SNR and held constant outside the tabulated range,
    /// is within [`TOLERANCE`] of the best rate's. Without a reported channel, or without measurements of its kind, it falls back to
    /// the codec's largest rate, the most robust one.
    pub fn choose(&self, rate: Rate, condition: Option<Condition>) -> ChannelUses {
        match rate {
            Rate::Fixed(uses) => uses,
            Rate::Auto => condition.and_then(|condition| self.cheapest(condition)).unwrap_or_else(|| self.fallback()),
        }
    }

    fn cheapest(&self, condition: Condition) -> Option<ChannelUses> {
        let kind = condition.kind?;
        let reached: Vec<(ChannelUses, f64)> =
            self.rates.iter().filter_map(|&uses| Some((uses, self.accuracy(kind, uses, condition.snr_db)?))).collect();
        let best = reached.iter().map(|&(_, accuracy)| accuracy).max_by(f64::total_cmp)?;
        reached.into_iter().find(|&(_, accuracy)| accuracy >= best - TOLERANCE).map(|(uses, _)| uses)
    }

    /// Accuracy of one rate at an SNR, as a fraction; `None` without measurements.
    fn accuracy(&self, kind: ChannelKind, uses: ChannelUses, snr_db: f32) -> Option<f64> {
        let of_rate = || self.points.iter().filter(|point| point.kind == kind && point.uses == uses);
        let below = of_rate().rev().find(|point| point.snr_db <= snr_db);
        let above = of_rate().find(|point| point.snr_db > snr_db);
        match (below, above) {
            (Some(below), Some(above)) => {
                let part = f64::from((snr_db - below.snr_db) / (above.snr_db - below.snr_db));
                Some(below.accuracy + part * (above.accuracy - below.accuracy))
            }
            (Some(edge), None) | (None, Some(edge)) => Some(edge.accuracy),
            (None, None) => None,
        }
    }

    fn fallback(&self) -> ChannelUses {
        self.rates.last().copied().unwrap_or(ChannelUses::MAX)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rate::Auto => f.pad("auto"),
            Rate::Fixed(uses) => fmt::Display::fmt(uses, f),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        if text == "auto" {
            return Ok(Rate::Auto);
        }
        text.parse::<ChannelUses>()
            .map(Rate::Fixed)
            .map_err(|_| format!("rate is {text:?}, must be auto or a number of channel uses"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(k: usize) -> ChannelUses {
        ChannelUses::try_new(k).expect("a valid number of uses")
    }

    fn point(kind: ChannelKind, snr_db: f32, k: usize, accuracy: f64) -> Point {
        Point { kind, snr_db, uses: uses(k), accuracy }
    }

    fn awgn(snr_db: f32) -> Option<Condition> {
        Some(Condition { snr_db, kind: Some(ChannelKind::Awgn) })
    }

    /// At 0 dB only 256 is good, at 10 dB 16 is as good, at 20 dB 8 is; Rayleigh needs 64 everywhere.
    fn table() -> RateTable {
        use ChannelKind::{Awgn, Rayleigh};
        RateTable::new(
            [64, 8, 256, 16].map(uses).to_vec(),
            vec![
                point(Awgn, 20.0, 8, 0.899),
                point(Awgn, 10.0, 8, 0.80),
                point(Awgn, 0.0, 8, 0.40),
                point(Awgn, 0.0, 16, 0.60),
                point(Awgn, 10.0, 16, 0.896),
                point(Awgn, 20.0, 16, 0.90),
                point(Awgn, 0.0, 64, 0.85),
                point(Awgn, 10.0, 64, 0.90),
                point(Awgn, 20.0, 64, 0.90),
                point(Awgn, 0.0, 256, 0.89),
                point(Awgn, 10.0, 256, 0.90),
                point(Awgn, 20.0, 256, 0.90),
                point(Rayleigh, 10.0, 8, 0.50),
                point(Rayleigh, 10.0, 16, 0.60),
                point(Rayleigh, 10.0, 64, 0.85),
                point(Rayleigh, 10.0, 256, 0.854),
            ],
        )
    }

    #[test]
    fn auto_takes_the_smallest_rate_within_half_a_point_of_the_best() {
        let table = table();
        for (snr_db, expected) in [(0.0, 256), (10.0, 16), (20.0, 8)] {
            assert_eq!(table.choose(Rate::Auto, awgn(snr_db)).get(), expected, "{snr_db} dB");
        }
    }

    #[test]
    fn the_kind_decides_too() {
        let rayleigh = Condition { snr_db: 10.0, kind: Some(ChannelKind::Rayleigh) };
        assert_eq!(table().choose(Rate::Auto, Some(rayleigh)).get(), 64);
    }

    #[test]
    fn between_two_snrs_the_accuracy_is_interpolated() {
        // At 9 dB by hand: 16 reaches 0.60 + 0.9 x 0.296 = 0.8664, 64 reaches 0.85 + 0.9 x 0.05 = 0.895, 256 reaches 0.899.
        assert_eq!(table().choose(Rate::Auto, awgn(9.0)).get(), 64);
        // At 8 dB: 64 reaches 0.89, 256 reaches 0.898: 0.8 points apart.
        assert_eq!(table().choose(Rate::Auto, awgn(8.0)).get(), 256);
    }

    #[test]
    fn outside_the_table_its_edge_holds() {
        assert_eq!(table().choose(Rate::Auto, awgn(-40.0)).get(), 256);
        assert_eq!(table().choose(Rate::Auto, awgn(90.0)).get(), 8);
    }

    #[test]
    fn without_a_report_or_a_measurement_it_is_the_largest() {
        let unknown_kind = Condition { snr_db: 10.0, kind: None };
        let unmeasured = Condition { snr_db: 10.0, kind: Some(ChannelKind::Rician) };
        for condition in [None, Some(unknown_kind), Some(unmeasured)] {
            assert_eq!(table().choose(Rate::Auto, condition).get(), 256);
        }
        let odd = RateTable::new([8, 80, 48].map(uses).to_vec(), vec![]);
        assert_eq!(odd.choose(Rate::Auto, awgn(10.0)).get(), 80);
    }

    #[test]
    fn points_that_are_not_finite_are_ignored() {
        let points = vec![
            point(ChannelKind::Awgn, 0.0, 8, f64::NAN),
            point(ChannelKind::Awgn, f32::NAN, 8, 0.9),
            point(ChannelKind::Awgn, 0.0, 16, 0.5),
        ];
        let table = RateTable::new([8, 16].map(uses).to_vec(), points);
        assert_eq!(table.choose(Rate::Auto, awgn(0.0)).get(), 16);
    }

    #[test]
    fn fixed_ignores_the_channel() {
        let fixed = Rate::Fixed(uses(16));
        assert_eq!(table().choose(fixed, awgn(0.0)).get(), 16);
        assert_eq!(table().choose(fixed, None).get(), 16);
    }

    #[test]
    fn text_round_trips_and_nonsense_is_refused() {
        for text in ["auto", "8", "256"] {
            let rate: Rate = text.parse().expect("a valid rate");
            assert_eq!(rate.to_string(), text);
        }
        for text in ["", "Auto", "0", "-8", "1e9", "70000"] {
            let error = text.parse::<Rate>().expect_err(text);
            assert!(error.contains("auto or a number"), "{error}");
        }
    }
}
