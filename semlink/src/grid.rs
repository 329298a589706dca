//! What a sweep goes through.

use std::str::FromStr;

use semlink_channel::{ChannelKind, SnrDb};

/// Points that one sweep may have for each channel.
const MOST: usize = 1000;

/// SNR values: a list `-10,0,10` or a range `FROM:TO:STEP`, both ends included.
#[derive(Clone, Debug, PartialEq)]
pub struct SnrGrid(pub Vec<SnrDb>);

impl FromStr for SnrGrid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| part.trim().parse::<f32>().map_err(|_| format!("{part:?} is no number"));
        let values = match text.split(':').collect::<Vec<_>>().as_slice() {
            [_] => text.split(',').map(number).collect::<Result<Vec<_>, _>>()?,
            [from, to, step] => range(number(from)?, number(to)?, number(step)?)?,
            _ => return Err("expected a list such as -10,0,10 or a range FROM:TO:STEP".into()),
        };
        let values = values.into_iter().map(|snr| SnrDb::try_new(snr).map_err(|error| error.to_string()));
        values.collect::<Result<_, _>>().map(Self)
    }
}

fn range(from: f32, to: f32, step: f32) -> Result<Vec<f32>, String> {
    // Written so that NaN is refused as well.
    if !(step > 0.0 && to >= from) {
        return Err(format!(
            "{from}:{to}:{step} is no range, expected FROM:TO:STEP with FROM at most TO and STEP above 0"
        ));
    }
    let count = ((to - from) / step + 1e-3).floor();
    if count >= MOST as f32 {
        return Err(format!("{from}:{to}:{step} has more than {MOST} points"));
    }
    Ok((0..=count as usize).map(|i| from + i as f32 * step).collect())
}

/// Channel kinds, separated by commas.
#[derive(Clone, Debug, PartialEq)]
pub struct Kinds(pub Vec<ChannelKind>);

impl FromStr for Kinds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(|kind| kind.trim().parse().map_err(|e: semlink_channel::Error| e.to_string()))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Channel uses of each image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As the transmitter chooses.
    Auto,
    /// This number.
    Fixed(u32),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(uses)) if uses > 0 => Ok(Self::Fixed(uses)),
            _ => Err(format!("{text:?}, expected auto or a number of channel uses")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<f32> {
        text.parse::<SnrGrid>().unwrap().0.iter().map(|snr| snr.db()).collect()
    }

    #[test]
    fn lists_and_ranges() {
        assert_eq!(values("-10, 0,2.5"), [-10.0, 0.0, 2.5]);
        assert_eq!(values("-10:20:5"), [-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0]);
        assert_eq!(values("0:1:0.1").len(), 11);
        assert_eq!(values("3:3:1"), [3.0]);
    }

    #[test]
    fn what_is_no_grid_is_refused() {
        for text in
            ["", "a", "1:2", "1:2:0", "2:1:1", "1:2:-1", "NaN", "inf", "101", "-61", "0:10:NaN", "0:100:0.0001", "1,,2"]
        {
            assert!(text.parse::<SnrGrid>().is_err(), "{text}");
        }
        assert!("awgn,fog".parse::<Kinds>().is_err());
        for text in ["0", "-3", "fast", ""] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
