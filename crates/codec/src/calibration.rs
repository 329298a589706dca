//! Calibrated confidence: what the decoder's logits are worth, by the energy that a frame arrived with.

use serde::{Deserialize, Serialize};

use crate::Condition;

/// How logits of frames of one length and energy become probabilities: (1 - floor) softmax(z / temperature) + floor / classes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationPoint {
    /// Channel uses of the frames.
    pub k: usize,
    /// k |h|^2 / N0 as the receiver knows it, in dB.
    pub energy_db: f32,
    /// Logits are divided by it; above 1 lowers confidence.
    pub temperature: f32,
    /// Share of decisions that are left open however sure the decoder is of what was sent: the transmitter's own errors.
    pub floor: f32,
}

/// Temperature scaling (Guo et al. 2017) with a floor, both depending on the frame: what makes a decoder too sure of itself at low SNR, the
/// noise, is not what does at high SNR, the student's training images. No decision changes.
///
/// Points are ascending in k and energy; linear in between energies, constant beyond. Without points of its k a frame's logits are taken as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Calibration(pub Vec<CalibrationPoint>);

impl CalibrationPoint {
    const NEUTRAL: Self = Self { k: 0, energy_db: 0.0, temperature: 1.0, floor: 0.0 };

    /// Probabilities of all classes; they sum to 1.
    pub fn probabilities(&self, logits: &[f32]) -> Vec<f32> {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut p: Vec<f32> = logits.iter().map(|z| ((z - most) / self.temperature).exp()).collect();
        let sum: f32 = p.iter().sum();
        let floor = self.floor / p.len().max(1) as f32;
        p.iter_mut().for_each(|p| *p = (1.0 - self.floor) * *p / sum + floor);
        p
    }
}

impl Calibration {
    /// Every fault, naming its field.
    pub(crate) fn faults(&self) -> Vec<String> {
        let ok = |p: &CalibrationPoint| {
            p.energy_db.is_finite() && (0.01..=100.0).contains(&p.temperature) && (0.0..1.0).contains(&p.floor)
        };
        let mut faults = Vec::new();
        if let Some(at) = self.0.iter().position(|point| !ok(point)) {
            faults.push(format!(
                "calibration[{at}]: expected a finite energy_db, a temperature in [0.01, 100] and a floor in [0, 1)"
            ));
        }
        let ordered =
            |a: &CalibrationPoint, b: &CalibrationPoint| a.k < b.k || (a.k == b.k && a.energy_db < b.energy_db);
        if !self.0.windows(2).all(|pair| ordered(&pair[0], &pair[1])) {
            faults.push("calibration: k and energy_db must ascend".to_owned());
        }
        faults
    }

    /// Energy of a frame, k times its SNR, in dB; none if the receiver knows nothing of it.
    pub fn energy_db(condition: &Condition) -> Option<f32> {
        condition.frame_snr_db.map(|db| db + 10.0 * (condition.uses as f32).log10())
    }

    /// What holds for a frame; without channel state information, what holds for the highest energy.
    pub fn at(&self, condition: &Condition) -> CalibrationPoint {
        let from = self.0.partition_point(|point| point.k < condition.uses);
        let to = self.0.partition_point(|point| point.k <= condition.uses);
        let points = self.0.get(from..to).unwrap_or_default();
        let Some(last) = points.last() else { return CalibrationPoint::NEUTRAL };
        let Some(energy_db) = Self::energy_db(condition) else { return *last };
        let above = points.partition_point(|point| point.energy_db <= energy_db);
        match (above.checked_sub(1).and_then(|i| points.get(i)), points.get(above)) {
            (Some(low), Some(high)) => {
                let part = (energy_db - low.energy_db) / (high.energy_db - low.energy_db);
                let between = |low: f32, high: f32| low + part * (high - low);
                CalibrationPoint {
                    k: condition.uses,
                    energy_db,
                    temperature: between(low.temperature, high.temperature),
                    floor: between(low.floor, high.floor),
                }
            }
            (Some(edge), None) | (None, Some(edge)) => *edge,
            (None, None) => CalibrationPoint::NEUTRAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(frame_snr_db: Option<f32>) -> Condition {
        Condition { snr_db: None, frame_snr_db, kind: None, uses: 100 }
    }

    fn point(energy_db: f32, temperature: f32, floor: f32) -> CalibrationPoint {
        CalibrationPoint { k: 100, energy_db, temperature, floor }
    }

    #[test]
    fn between_two_energies_the_points_are_interpolated_and_beyond_them_held() {
        let calibration = Calibration(vec![point(10.0, 2.0, 0.1), point(30.0, 1.0, 0.0)]);
        // 100 uses add 20 dB.
        for (frame_snr_db, temperature, floor) in [
            (-40.0, 2.0, 0.1),
            (-10.0, 2.0, 0.1),
            (-5.0, 1.75, 0.075),
            (0.0, 1.5, 0.05),
            (10.0, 1.0, 0.0),
            (40.0, 1.0, 0.0),
        ] {
            let found = calibration.at(&condition(Some(frame_snr_db)));
            assert!((found.temperature - temperature).abs() < 1e-6, "{frame_snr_db} dB: {found:?}");
            assert!((found.floor - floor).abs() < 1e-6, "{frame_snr_db} dB: {found:?}");
        }
        assert_eq!(calibration.at(&condition(None)).temperature, 1.0);
        let other = Condition { uses: 64, ..condition(Some(-40.0)) };
        assert_eq!(calibration.at(&other), CalibrationPoint::NEUTRAL, "measured for another k");
        assert_eq!(Calibration::default().at(&condition(Some(0.0))), CalibrationPoint::NEUTRAL);
    }

    #[test]
    fn probabilities_are_those_of_the_formula() {
        // softmax((ln 4, 0) / 2) = (2, 1) / 3; with a floor of 0.3: 0.7 x 2/3 + 0.15.
        let p = point(0.0, 2.0, 0.3).probabilities(&[4f32.ln(), 0.0]);
        assert!((p[0] - (0.7 * 2.0 / 3.0 + 0.15)).abs() < 1e-6 && (p[0] + p[1] - 1.0).abs() < 1e-6, "{p:?}");
        let p = CalibrationPoint::NEUTRAL.probabilities(&[f32::NAN, 0.0]);
        assert!(p.iter().any(|p| p.is_nan()), "no number may come of a NaN: {p:?}");
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (points, expected) in [
            (vec![point(0.0, 1.0, 0.0), point(0.0, 1.0, 0.0)], "ascend"),
            (vec![point(0.0, 1.0, 0.0), point(1.0, 0.0, 0.0)], "calibration[1]"),
            (vec![point(f32::NAN, 1.0, 0.0)], "calibration[0]"),
            (vec![point(0.0, 1.0, 1.0)], "calibration[0]"),
        ] {
            let faults = Calibration(points).faults().join("; ");
            assert!(faults.contains(expected), "{faults}");
        }
    }
}
