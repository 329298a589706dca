//! Tables and plots for a terminal, in plain text.

use std::fmt::Write as _;

use crate::plot::Curves;
use crate::sweep::Point;

/// Head of the table whose rows [`row`] gives.
pub const HEAD: &str = "channel    SNR dB    k   accuracy   95 % interval    limit   SNR measured   images/s";

/// One point as a row.
pub fn row(point: &Point, curves: &Curves) -> String {
    let percent = |x: f64| format!("{:.1}", 100.0 * x);
    let limit = curves.limit(point.channel, point.snr_db, point.k).map_or("-".into(), percent);
    let measured = point.snr_db_measured.map_or("-".into(), |snr| format!("{snr:.1}"));
    let [low, high] = point.ci95.map(percent);
    format!(
        "{:<9} {:>7.1} {:>4.0} {:>8} % {:>7} .. {:<5} {:>6} {:>14} {:>10.0}",
        point.channel.to_string(),
        point.snr_db,
        point.k,
        percent(point.accuracy),
        low,
        high,
        limit,
        measured,
        point.images_per_second
    )
}

const HEIGHT: usize = 12;
const COLUMN: usize = 7;

/// Accuracy over SNR in characters: a letter for each channel (A, R or K as in Rician K), `-` for its limit.
pub fn plot(points: &[Point], curves: &Curves) -> String {
    let mut snrs: Vec<f32> = points.iter().map(|p| p.snr_db).collect();
    snrs.sort_by(f32::total_cmp);
    snrs.dedup();
    let floor = points.iter().map(|p| p.accuracy).fold(1.0, f64::min);
    let floor = ((floor * 10.0).floor() / 10.0).min(0.9);
    let line = |accuracy: f64| ((1.0 - accuracy) / (1.0 - floor) * (HEIGHT - 1) as f64).round().clamp(0.0, (HEIGHT - 1) as f64) as usize;
    let mut grid = vec![vec![' '; snrs.len() * COLUMN]; HEIGHT];
    let mut set = |row: usize, column: usize, mark: char| {
        if let Some(cell) = grid.get_mut(row).and_then(|row| row.get_mut(column)) {
            *cell = mark;
        }
    };
    for point in points {
        let Some(position) = snrs.iter().position(|snr| *snr == point.snr_db) else { continue };
        let (offset, mark) = match point.channel {
            semlink_channel::ChannelKind::Awgn => (2, 'A'),
            semlink_channel::ChannelKind::Rayleigh => (3, 'R'),
            semlink_channel::ChannelKind::Rician => (4, 'K'),
        };
        let column = position * COLUMN + offset;
        if let Some(limit) = curves.limit(point.channel, point.snr_db, point.k) {
            set(line(limit), column, '-');
        }
        set(line(point.accuracy), column, mark);
    }
    let mut text = String::new();
    for (i, cells) in grid.iter().enumerate() {
        let accuracy = 1.0 - (1.0 - floor) * i as f64 / (HEIGHT - 1) as f64;
        let cells: String = cells.iter().collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:>6.1} % |{}", 100.0 * accuracy, cells.trim_end());
    }
    let labels: String = snrs.iter().map(|snr| format!("{:^COLUMN$}", snr)).collect();
    let _ = writeln!(text, "         +{}\n          {} dB", "-".repeat(snrs.len() * COLUMN), labels.trim_end());
    text.push_str("          A: AWGN, R: Rayleigh, K: Rician, -: physical limit where it is above\n");
    text
}

#[cfg(test)]
mod tests {
    use semlink_channel::RicianK;

    use super::*;

    #[test]
    fn better_points_stand_higher() {
        let curves = Curves { clean: Some(0.95), classes: 10, k_factor: RicianK::default() };
        let text = plot(&crate::files::tests::points(), &curves);
        let line_of = |mark: char, nth: usize| text.lines().enumerate().filter(|(_, l)| l.split('|').nth(1).is_some_and(|l| l.contains(mark))).nth(nth);
        // A at 0.9 above A at 0.5, R at 0.7 between them.
        let (best, worst) = (line_of('A', 0).unwrap().0, line_of('A', 1).unwrap().0);
        let middle = line_of('R', 0).unwrap().0;
        assert!(best < middle && middle < worst, "{text}");
        assert!(text.contains("-10") && text.contains("50.0 %"), "{text}");
    }

    #[test]
    fn a_row_shows_accuracy_interval_and_limit() {
        let curves = Curves { clean: Some(1.0), classes: 10, k_factor: RicianK::default() };
        let row = row(&crate::files::tests::points()[0], &curves);
        assert_eq!(row.split_whitespace().collect::<Vec<_>>()[..7], ["awgn", "-10.0", "64", "50.0", "%", "40.0", ".."], "{row}");
        assert!(row.contains("97.4"), "{row}");
    }
}
