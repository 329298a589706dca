//! Which number of channel uses a channel calls for: pure, from a table of measured accuracies.

use std::{fmt, str::FromStr};

use semlink_channel::{ChannelKind, ChannelUses};
use semlink_codec::{AccuracyPoint, Manifest};

/// Accuracies that differ by no more are taken for the same: a tenth of a point.
const TIE: f64 = 0.001;

/// The setting: a fixed number of channel uses, or a choice per batch; as text `auto` or the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// The smallest rate that reaches the target accuracy at the reported channel.
    Auto,
    /// Always this many channel uses.
    Fixed(ChannelUses),
}

/// What a receiver says about the channel.
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
    /// Ascending in SNR; one for each kind, SNR and number of uses.
    points: Vec<Point>,
    /// When nothing is lost on the way.
    clean: f64,
}

impl RateTable {
    /// A table of the codec's `rates`, at least one, and its measured `points`; points that are not finite are left out. Where a table has
    /// several for one kind, SNR and number of uses (Rician channels of several K), the lowest accuracy counts. `clean` is the accuracy
    /// when nothing is lost on the way; where it is not known, the best of the table stands for it.
    pub fn new(mut rates: Vec<ChannelUses>, mut points: Vec<Point>, clean: Option<f64>) -> RateTable {
        rates.sort_unstable();
        points.retain(|point| point.snr_db.is_finite() && point.accuracy.is_finite());
        let key = |point: &Point| (point.kind, point.uses);
        points.sort_by(|a, b| {
            a.snr_db.total_cmp(&b.snr_db).then(key(a).cmp(&key(b))).then(a.accuracy.total_cmp(&b.accuracy))
        });
        points.dedup_by(|next, first| next.snr_db == first.snr_db && key(next) == key(first));
        let best = points.iter().map(|point| point.accuracy).fold(0.0, f64::max);
        RateTable { rates, points, clean: clean.filter(|clean| clean.is_finite()).unwrap_or(best) }
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
            manifest.clean_accuracy,
        )
    }

    /// The codec's rate of `k` channel uses, if it has one.
    pub fn get(&self, k: usize) -> Option<ChannelUses> {
        self.rates.iter().copied().find(|uses| uses.get() == k)
    }

    /// The codec's rates, ascending.
    pub fn rates(&self) -> &[ChannelUses] {
        &self.rates
    }

    /// The codec's rates for a message: `8, 16, 32`.
    pub fn listed(&self) -> String {
        let rates: Vec<String> = self.rates.iter().map(ChannelUses::to_string).collect();
        rates.join(", ")
    }

    /// Bits that tell which of the codec's rates a frame has: ceil(log2 R).
    pub fn side_information_bits(&self) -> u32 {
        self.rates.len().max(1).next_power_of_two().trailing_zeros()
    }

    /// Whether any rate reaches `target`, a fraction of the clean accuracy, at any measured point; a table without points says nothing.
    ///
    /// # Errors
    /// What the best point reaches, and where.
    pub fn check(&self, target: f64) -> Result<(), String> {
        let Some(best) = self.points.iter().max_by(|a, b| a.accuracy.total_cmp(&b.accuracy)) else { return Ok(()) };
        if best.accuracy >= target * self.clean {
            return Ok(());
        }
        let reached = best.accuracy / self.clean;
        Err(format!(
            "{target} of the clean accuracy is out of reach: the best is {reached:.3}, with k = {} over {} at {} dB",
            best.uses, best.kind, best.snr_db
        ))
    }

    /// The smallest rate whose accuracy is at least `target` times the clean one; where none is, the best, and among those within a tenth of
    /// a point of it the smallest.
    ///
    /// Accuracy is interpolated linearly over SNR and held constant outside the tabulated range. A channel of unknown kind is taken for the
    /// worst of all measured. Without measurements it is the largest rate, the most robust one.
    pub fn choose(&self, target: f64, condition: Condition) -> ChannelUses {
        let reached: Vec<(ChannelUses, f64)> =
            self.rates.iter().filter_map(|&uses| Some((uses, self.expected(condition, uses)?))).collect();
        let best = reached.iter().map(|&(_, accuracy)| accuracy).fold(f64::MIN, f64::max);
        let enough = (target * self.clean).min(best - TIE);
        reached.into_iter().find(|&(_, accuracy)| accuracy >= enough).map_or_else(|| self.fallback(), |(uses, _)| uses)
    }

    /// The largest rate: what is sent when nothing is known of the channel.
    pub fn fallback(&self) -> ChannelUses {
        self.rates.last().copied().unwrap_or(ChannelUses::MAX)
    }

    fn expected(&self, condition: Condition, uses: ChannelUses) -> Option<f64> {
        match condition.kind {
            Some(kind) => self.accuracy(kind, uses, condition.snr_db),
            None => {
                let all = ChannelKind::ALL.into_iter().filter_map(|kind| self.accuracy(kind, uses, condition.snr_db));
                all.min_by(f64::total_cmp)
            }
        }
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

    fn awgn(snr_db: f32) -> Condition {
        Condition { snr_db, kind: Some(ChannelKind::Awgn) }
    }

    /// Clean accuracy 0.9. At 0 dB only 256 is good, at 10 dB 16 is as good, at 20 dB 8 is; Rayleigh needs 64 everywhere.
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
                point(Rayleigh, 10.0, 256, 0.8505),
            ],
            Some(0.9),
        )
    }

    #[test]
    fn the_smallest_rate_that_reaches_the_target_is_chosen() {
        // 0.98 x 0.9 = 0.882; 0.9 x 0.9 = 0.81.
        for (target, snr_db, expected) in
            [(0.98, 0.0, 256), (0.98, 10.0, 16), (0.98, 20.0, 8), (0.9, 0.0, 64), (0.85, 10.0, 8)]
        {
            assert_eq!(table().choose(target, awgn(snr_db)).get(), expected, "{target} at {snr_db} dB");
        }
    }

    #[test]
    fn where_the_target_is_out_of_reach_the_best_is_chosen() {
        // Over Rayleigh 256 is ahead of 64 by half a tenth of a point, which is nothing.
        let rayleigh = Condition { snr_db: 10.0, kind: Some(ChannelKind::Rayleigh) };
        assert_eq!(table().choose(0.98, rayleigh).get(), 64);
        assert_eq!(table().choose(1.0, awgn(0.0)).get(), 256);
    }

    #[test]
    fn a_channel_of_unknown_kind_is_taken_for_the_worst() {
        assert_eq!(table().choose(0.9, Condition { snr_db: 10.0, kind: None }).get(), 64);
        assert_eq!(table().choose(0.6, Condition { snr_db: 10.0, kind: None }).get(), 16);
    }

    #[test]
    fn between_two_snrs_the_accuracy_is_interpolated() {
        // At 9 dB by hand: 16 reaches 0.60 + 0.9 x 0.296 = 0.8664, 64 reaches 0.85 + 0.9 x 0.05 = 0.895.
        assert_eq!(table().choose(0.98, awgn(9.0)).get(), 64);
        // At 5 dB: 64 reaches 0.875, 256 reaches 0.895.
        assert_eq!(table().choose(0.98, awgn(5.0)).get(), 256);
        // Outside the table its edge holds.
        assert_eq!(table().choose(0.98, awgn(-40.0)).get(), 256);
        assert_eq!(table().choose(0.98, awgn(90.0)).get(), 8);
    }

    #[test]
    fn without_a_measurement_it_is_the_largest() {
        let unmeasured = Condition { snr_db: 10.0, kind: Some(ChannelKind::Rician) };
        assert_eq!(table().choose(0.98, unmeasured).get(), 256);
        let odd = RateTable::new([8, 80, 48].map(uses).to_vec(), vec![], None);
        assert_eq!(odd.choose(0.98, awgn(10.0)).get(), 80);
        assert_eq!(odd.check(1.0), Ok(()));
    }

    #[test]
    fn of_several_measurements_the_lowest_counts() {
        let rician = |accuracy| point(ChannelKind::Rician, 10.0, 8, accuracy);
        let table = RateTable::new(
            [8, 16].map(uses).to_vec(),
            vec![rician(0.9), rician(0.5), rician(0.8), point(ChannelKind::Rician, 10.0, 16, 0.9)],
            None,
        );
        let at = Condition { snr_db: 10.0, kind: Some(ChannelKind::Rician) };
        assert_eq!((table.choose(0.9, at).get(), table.choose(0.5, at).get()), (16, 8));
    }

    #[test]
    fn a_target_beyond_the_table_is_refused_with_the_best_there_is() {
        assert_eq!(table().check(1.0), Ok(()));
        let low = RateTable::new(vec![uses(8)], vec![point(ChannelKind::Awgn, 20.0, 8, 0.81)], Some(0.9));
        let refusal = low.check(0.98).expect_err("out of reach");
        assert!(refusal.contains("0.900, with k = 8 over awgn at 20 dB"), "{refusal}");
    }

    #[test]
    fn points_that_are_not_finite_are_ignored() {
        let points = vec![
            point(ChannelKind::Awgn, 0.0, 8, f64::NAN),
            point(ChannelKind::Awgn, f32::NAN, 8, 0.9),
            point(ChannelKind::Awgn, 0.0, 16, 0.5),
        ];
        let table = RateTable::new([8, 16].map(uses).to_vec(), points, None);
        assert_eq!(table.choose(0.98, awgn(0.0)).get(), 16);
    }

    #[test]
    fn a_length_takes_the_bits_that_number_the_rates() {
        for (rates, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (6, 3), (8, 3), (9, 4)] {
            let table = RateTable::new((1..=rates).map(uses).collect(), vec![], None);
            assert_eq!(table.side_information_bits(), bits, "{rates} rates");
        }
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
