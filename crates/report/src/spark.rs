//! A plot of one line of text.

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A bar for each value between `low` and `high`, of at most `width`: neighbours of longer rows are averaged. What is no number is a blank.
pub fn spark(values: &[f64], low: f64, high: f64, width: usize) -> String {
    let width = width.max(1);
    let bar = |value: f64| {
        let share = (value - low) / (high - low);
        // No number compares as less.
        match share.is_finite() {
            true => BARS[((share * BARS.len() as f64) as usize).min(BARS.len() - 1)],
            false => ' ',
        }
    };
    if values.len() <= width {
        return values.iter().map(|value| bar(*value)).collect();
    }
    let piece = |i: usize| &values[i * values.len() / width..(i + 1) * values.len() / width];
    (0..width).map(|i| bar(piece(i).iter().sum::<f64>() / piece(i).len() as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_rise_with_the_values() {
        assert_eq!(spark(&[0.0, 0.5, 1.0, 7.0, -7.0, f64::NAN], 0.0, 1.0, 10), "▁▅██▁ ");
        assert_eq!(spark(&[0.0, 0.0, 1.0, 1.0], 0.0, 1.0, 2), "▁█");
        assert_eq!(spark(&[3.0, 3.0], 3.0, 3.0, 5), "  ");
        assert_eq!(spark(&[], 0.0, 1.0, 5), "");
    }
}
