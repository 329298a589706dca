//! The picture of a report.

use std::path::Path;

use semlink_report::{Axis, Chart, Corner, Line, Mark, Stroke, Svg, Tone, panels};

use crate::report::{Point, Report};
use crate::{Error, Result};

/// Panels beside each other.
const COLUMNS: usize = 3;

/// Draws accuracy over SNR as SVG: a panel for each channel, a line for each k, its limit dashed.
///
/// # Errors
/// A report without points; the folder takes no file.
pub(crate) fn write(report: &Report, path: &Path) -> Result<()> {
    if report.points.is_empty() {
        return Err(Error::Report { path: path.to_owned(), what: "there are no points to draw".into() });
    }
    Ok(semlink_nn::checkpoint::write_atomically(path, svg(report)?.markup().as_bytes())?)
}

/// The same picture.
pub(crate) fn svg(report: &Report) -> Result<Svg> {
    let charts: Vec<Chart> = channels(report).iter().map(|channel| panel(report, channel)).collect();
    Ok(panels("Accuracy over SNR for each channel and k", &charts, COLUMNS)?)
}

/// The channels of a report's points as they are called in tables, in their order.
pub(crate) fn channels(report: &Report) -> Vec<String> {
    let mut channels: Vec<String> = Vec::new();
    for channel in report.points.iter().map(Point::channel_text) {
        if !channels.contains(&channel) {
            channels.push(channel);
        }
    }
    channels
}

/// An empty chart of accuracy over the SNR of these points.
pub(crate) fn frame(title: &str, points: &[&Point]) -> Chart {
    let low = points.iter().map(|p| p.snr_db).fold(f32::MAX, f32::min);
    let high = points.iter().map(|p| p.snr_db).fold(f32::MIN, f32::max);
    let (low, high) = (f64::from(low), f64::from(high.max(low + 1.0)));
    // Where curves mostly are not.
    let mean = points.iter().map(|p| p.accuracy).sum::<f64>() / points.len().max(1) as f64;
    let legend = if mean < 0.5 { Corner::UpperRight } else { Corner::LowerRight };
    Chart::new(title, Axis::fixed("Es/N0 in dB", low, high), Axis::fixed("accuracy in %", 0.0, 100.0)).legend(legend)
}

/// Without a channel: what the student reaches.
pub(crate) fn clean(report: &Report, points: &[&Point], name: &str) -> Line {
    let level = 100.0 * report.clean;
    Line::new(name, Tone::Grey, points.iter().map(|p| (f64::from(p.snr_db), level))).stroke(Stroke::Thin)
}

fn panel(report: &Report, channel: &str) -> Chart {
    let points: Vec<&Point> = report.points.iter().filter(|p| p.channel_text() == channel).collect();
    let mut rates: Vec<usize> = points.iter().map(|p| p.k).collect();
    rates.sort_unstable();
    rates.dedup();
    let mut chart = frame(channel, &points);
    chart.push(clean(report, &points, ""));
    for (i, k) in rates.iter().enumerate() {
        let mut line: Vec<&&Point> = points.iter().filter(|p| p.k == *k).collect();
        line.sort_by(|a, b| a.snr_db.total_cmp(&b.snr_db));
        let at = |y: fn(&Point) -> f64| line.iter().map(|p| (f64::from(p.snr_db), 100.0 * y(p))).collect::<Vec<_>>();
        let tone = Tone::nth(i);
        chart.push(Line::new("", tone, at(|p| p.limit)).stroke(Stroke::Dashed));
        chart.push(Line::new(format!("k = {k}"), tone, at(|p| p.accuracy)).mark(Mark::nth(i)));
    }
    chart
}
