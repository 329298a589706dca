//! A sweep as text: a table and a plot.

use semlink_channel::ChannelKind;

use crate::files::{Point, Sweep};

/// Rows of the plot between 0 and 100 %.
const ROWS: usize = 20;
/// Columns of the plot between its lowest and highest SNR.
const COLUMNS: usize = 60;

/// A line for each point.
pub(crate) fn table(sweep: &Sweep) -> String {
    let mut text = format!(
        "{:<9} {:>7} {:>6}  {:>8}  {:>15}  {:>11}  {:>9}\n",
        "channel", "SNR dB", "k", "accuracy", "95 % interval", "measured dB", "images/s"
    );
    for p in &sweep.points {
        let measured = p.snr_db_measured.map_or_else(|| "-".to_owned(), |db| format!("{db:.2}"));
        let k = if p.k.fract() == 0.0 { p.k.to_string() } else { format!("{:.1}", p.k) };
        let interval = format!("{:.2} to {:.2}", 100.0 * p.ci95[0], 100.0 * p.ci95[1]);
        let accuracy = format!("{:.2} %", 100.0 * p.accuracy);
        text += &format!(
            "{:<9} {:>7} {k:>6}  {accuracy:>8}  {interval:>15}  {measured:>11}  {:>9.0}\n",
            p.channel, p.snr_db, p.images_per_second
        );
    }
    text
}

/// Accuracy over SNR, a mark for each point; where channels meet, the later one is seen.
pub(crate) fn plot(sweep: &Sweep) -> String {
    let snrs = || sweep.points.iter().map(|p| p.snr_db);
    let (low, high) = (snrs().fold(f32::MAX, f32::min), snrs().fold(f32::MIN, f32::max));
    let mut cells = vec![vec![' '; COLUMNS + 1]; ROWS + 1];
    for p in &sweep.points {
        if let Some(cell) = cells.get_mut(row(p)).and_then(|row| row.get_mut(column(p.snr_db, low, high))) {
            *cell = mark(p.channel);
        }
    }
    let mut text = String::from("accuracy in %\n");
    for (i, cells) in cells.iter().enumerate() {
        let percent = 100 - i * 100 / ROWS;
        let label = if percent.is_multiple_of(20) { format!("{percent:>4} ┤") } else { "     │".to_owned() };
        text += &label;
        text += cells.iter().collect::<String>().trim_end();
        text.push('\n');
    }
    text += &format!("     └{}\n", "─".repeat(COLUMNS + 1));
    let ends = (low.to_string(), high.to_string());
    text += &match low < high {
        true => format!("      {}{:>width$}  Es/N0 in dB\n", ends.0, ends.1, width = COLUMNS + 1 - ends.0.len()),
        false => format!("      {:>width$}  Es/N0 in dB\n", ends.0, width = COLUMNS / 2 + 1),
    };
    let legend: Vec<String> = ChannelKind::ALL
        .into_iter()
        .filter(|kind| sweep.points.iter().any(|p| p.channel == *kind))
        .map(|kind| format!("{} {kind}", mark(kind)))
        .collect();
    text + "      " + &legend.join("   ") + "\n"
}

/// From the top.
fn row(point: &Point) -> usize {
    ROWS - (point.accuracy.clamp(0.0, 1.0) * ROWS as f64).round() as usize
}

fn column(snr_db: f32, low: f32, high: f32) -> usize {
    if low < high { ((snr_db - low) / (high - low) * COLUMNS as f32).round() as usize } else { COLUMNS / 2 }
}

fn mark(kind: ChannelKind) -> char {
    match kind {
        ChannelKind::Awgn => '●',
        ChannelKind::Rayleigh => '▲',
        ChannelKind::Rician => '■',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::sweep;

    #[test]
    fn marks_stand_where_the_points_are() {
        let plot = plot(&sweep());
        let lines: Vec<Vec<char>> = plot.lines().map(|line| line.chars().collect()).collect();
        // One heading, 21 rows, axis, ends, legend; six characters before the first column.
        assert_eq!(lines.len(), 25);
        // 75 % at the lowest SNR, 90 % at the highest; 50 % and 80 % for Rayleigh.
        assert_eq!((lines[1 + 5][6], lines[1 + 2][66]), ('●', '●'));
        assert_eq!((lines[1 + 10][6], lines[1 + 4][66]), ('▲', '▲'));
        assert_eq!(plot.matches('●').count(), 3, "two points and the legend:\n{plot}");
        assert!(plot.contains(" 100 ┤") && plot.contains("   0 ┤"), "{plot}");
        assert!(plot.ends_with("● awgn   ▲ rayleigh\n"), "{plot}");
    }

    #[test]
    fn one_point_is_a_plot_too() {
        let mut sweep = sweep();
        sweep.points.truncate(1);
        assert_eq!(plot(&sweep).matches('●').count(), 2);
    }

    #[test]
    fn the_table_has_aligned_columns() {
        let table = table(&sweep());
        let widths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths.len(), 5);
        assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
        assert!(table.contains("75.00 %") && table.contains("70.00 to 80.00"), "{table}");
    }
}
