//! What the decoder's logits are worth, fitted on the validation split.

use std::collections::BTreeMap;

use rayon::prelude::*;
use semlink_codec::{Calibration, CalibrationPoint};

/// Width of a bin in dB of energy.
const BIN_DB: f32 = 3.0;
/// Fewest frames of a bin.
const ENOUGH: usize = 1000;
/// Floors to choose from.
const FLOORS: [f32; 9] = [0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.11, 0.15];

/// Logits of frames, their length and the energy that they arrived with.
#[derive(Default)]
pub(crate) struct Sample {
    frames: BTreeMap<usize, Vec<Frame>>,
}

/// Energy in dB, class, logits.
type Frame = (f32, u8, Vec<f32>);

impl Sample {
    pub(crate) fn push(&mut self, k: usize, energy_db: f32, label: u8, logits: Vec<f32>) {
        self.frames.entry(k).or_default().push((energy_db, label, logits));
    }

    /// Temperature and floor of least loss for each length and bin of energy; a bin of few frames joins the next.
    pub(crate) fn fit(mut self) -> Calibration {
        let mut bins = Vec::new();
        for (k, frames) in &mut self.frames {
            frames.sort_by(|a, b| a.0.total_cmp(&b.0));
            let mut rest = frames.as_slice();
            while let Some((low, ..)) = rest.first() {
                let end = rest.partition_point(|frame| frame.0 < low + BIN_DB).max(ENOUGH).min(rest.len());
                // What would be too few is taken along.
                let end = if rest.len() - end < ENOUGH { rest.len() } else { end };
                let (bin, others) = rest.split_at(end);
                bins.push((*k, bin));
                rest = others;
            }
        }
        let mut points: Vec<CalibrationPoint> = bins.par_iter().map(|(k, bin)| best(*k, bin)).collect();
        points.dedup_by(|next, before| next.k == before.k && next.energy_db <= before.energy_db);
        Calibration(points)
    }
}

/// Golden-section search over ln T for each floor.
fn best(k: usize, frames: &[Frame]) -> CalibrationPoint {
    const RATIO: f32 = 0.618_034;
    let energy_db = frames.iter().map(|frame| frame.0).sum::<f32>() / frames.len() as f32;
    let at = |ln: f32, floor: f32| CalibrationPoint { k, energy_db, temperature: ln.exp(), floor };
    let loss =
        |point: CalibrationPoint| frames.iter().map(|(_, label, logits)| surprise(&point, logits, *label)).sum::<f64>();
    let fitted = FLOORS.iter().map(|floor| {
        let (mut low, mut high) = (-1.5f32, 1.5f32);
        let (mut a, mut b) = (high - RATIO * (high - low), low + RATIO * (high - low));
        let (mut at_a, mut at_b) = (loss(at(a, *floor)), loss(at(b, *floor)));
        while high - low > 1e-2 {
            if at_a < at_b {
                (high, b, at_b) = (b, a, at_a);
                a = high - RATIO * (high - low);
                at_a = loss(at(a, *floor));
            } else {
                (low, a, at_a) = (a, b, at_b);
                b = low + RATIO * (high - low);
                at_b = loss(at(b, *floor));
            }
        }
        let point = at(0.5 * (low + high), *floor);
        (loss(point), point)
    });
    fitted.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(at(0.0, 0.0), |(_, point)| point)
}

/// - ln of the probability that the decision is as right or wrong as it is: only the confidence in the decision is to be calibrated.
fn surprise(point: &CalibrationPoint, logits: &[f32], label: u8) -> f64 {
    let probabilities = point.probabilities(logits);
    let best = probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    let (class, confidence) = best.map_or((0, 1.0), |(class, p)| (class, f64::from(*p)));
    let p = if class == usize::from(label) { confidence } else { 1.0 - confidence };
    -p.max(1e-9).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_temperature_is_found_again() {
        // Class 0 has logit z, class 1 has 0; labels come with the frequencies of temperature T: sigma(z / T).
        let mut sample = Sample::default();
        for (energy_db, temperature) in [(0.0f32, 2.0f64), (20.0, 0.5)] {
            for z in [0.5f64, 1.0, 2.0] {
                let p = 1.0 / (1.0 + (-z / temperature).exp());
                let zeros = (1000.0 * p).round() as usize;
                (0..1000).for_each(|i| sample.push(8, energy_db, u8::from(i >= zeros), vec![z as f32, 0.0]));
            }
        }
        let Calibration(points) = sample.fit();
        assert_eq!(points.len(), 2);
        for (point, expected) in points.iter().zip([2.0, 0.5]) {
            assert!((point.temperature / expected - 1.0).abs() < 0.02, "{point:?}, expected {expected}");
        }
    }
}
