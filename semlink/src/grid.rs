//! The SNRs of a sweep, as they are written on the command line.

use std::fmt;
use std::str::FromStr;

use semlink_channel::SnrDb;

/// Points that one range may have: a slip such as a step of 1e-6 is refused before it fills memory.
const MOST_POINTS: usize = 10_000;

/// SNRs in dB in the order of the sweep, at least one: a list `-10,0,10` or a range `A:B:STEP` with both ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SnrGrid(Vec<SnrDb>);

impl SnrGrid {
    /// The SNRs, in order.
    pub(crate) fn points(&self) -> &[SnrDb] {
        &self.0
    }
}

impl FromStr for SnrGrid {
    type Err = String;

    fn from_str(text: &str) -> Result<SnrGrid, String> {
        let points = match text.split(':').collect::<Vec<_>>()[..] {
            [list] => list.split(',').map(number).collect::<Result<Vec<f64>, _>>()?,
            [first, last, step] => range(number(first)?, number(last)?, number(step)?)?,
            _ => {
                return Err(format!(
                    "{text:?} is neither a list such as -10,0,10 nor a range A:B:STEP such as -10:20:5"
                ));
            }
        };
        // Rounded to f32 here, once: all that follows computes with what is printed.
        points
            .into_iter()
            .map(|db| SnrDb::try_new(db as f32).map_err(|e| e.to_string()))
            .collect::<Result<_, _>>()
            .map(SnrGrid)
    }
}

impl fmt::Display for SnrGrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let points: Vec<String> = self.0.iter().map(|snr| snr.db().to_string()).collect();
        f.write_str(&points.join(","))
    }
}

fn number(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(format!("{text:?} is no SNR in dB, expected a finite number")),
    }
}

fn range(first: f64, last: f64, step: f64) -> Result<Vec<f64>, String> {
    if step == 0.0 || (last - first) * step < 0.0 {
        return Err(format!("a step of {step} dB does not lead from {first} to {last}"));
    }
    // A step such as 0.1 has no exact binary form: the last point counts when it is missed by rounding alone.
    let steps = ((last - first) / step + 1e-9).floor();
    if steps >= MOST_POINTS as f64 {
        return Err(format!("{first}:{last}:{step} has more than {MOST_POINTS} points"));
    }
    Ok((0..=steps as usize).map(|i| first + i as f64 * step).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn db(text: &str) -> Vec<f32> {
        text.parse::<SnrGrid>().unwrap().points().iter().map(|snr| snr.db()).collect()
    }

    #[test]
    fn lists_and_ranges() {
        assert_eq!(db("-10:20:5"), [-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0]);
        assert_eq!(db("20:10:-5"), [20.0, 15.0, 10.0]);
        assert_eq!(db("0:1:0.1").len(), 11);
        assert_eq!(db("0:9:5"), [0.0, 5.0]);
        assert_eq!(db("3:3:1"), [3.0]);
        assert_eq!(db("-3, 0,7.5"), [-3.0, 0.0, 7.5]);
    }

    #[test]
    fn what_is_no_grid_is_refused() {
        for text in
            ["", "nan", "0,inf", "1,,2", "0:10", "0:10:0", "0:10:-1", "0:1:1e-7", "0:10:5:1", "-61", "0,100.5", "ten"]
        {
            assert!(text.parse::<SnrGrid>().is_err(), "{text:?}");
        }
    }
}
