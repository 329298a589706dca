//! The picture of a report.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::FontDesc;

use crate::report::{Point, Report};
use crate::{Error, Result};

/// Width and height of the panel of one channel, in pixels.
const PANEL: (u32, u32) = (420, 400);
/// Panels beside each other.
const COLUMNS: usize = 3;

/// Draws accuracy over SNR as SVG: a panel for each channel, a line for each k, its limit dashed.
///
/// # Errors
/// A report without points; the folder takes no file.
pub(crate) fn write(report: &Report, path: &Path) -> Result<()> {
    let mut channels: Vec<String> = report.points.iter().map(Point::channel_text).collect();
    channels.dedup();
    if channels.is_empty() {
        return Err(Error::Report { path: path.to_owned(), what: "there are no points to draw".into() });
    }
    let mut svg = String::new();
    draw(report, &channels, &mut svg).map_err(|e| Error::Report { path: path.to_owned(), what: e.to_string() })?;
    Ok(semlink_nn::checkpoint::write_atomically(path, svg.as_bytes())?)
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(report: &Report, channels: &[String], svg: &mut String) -> Drawn {
    let columns = channels.len().min(COLUMNS);
    let rows = channels.len().div_ceil(columns);
    let root = SVGBackend::with_string(svg, (PANEL.0 * columns as u32, PANEL.1 * rows as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    for (channel, area) in channels.iter().zip(root.split_evenly((rows, columns))) {
        panel(report, channel, &area)?;
    }
    root.present()?;
    Ok(())
}

fn panel(report: &Report, channel: &str, area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Drawn {
    let points: Vec<&Point> = report.points.iter().filter(|p| p.channel_text() == channel).collect();
    let mut rates: Vec<usize> = points.iter().map(|p| p.k).collect();
    rates.sort_unstable();
    rates.dedup();
    let low = points.iter().map(|p| p.snr_db).fold(f32::MAX, f32::min);
    let high = points.iter().map(|p| p.snr_db).fold(f32::MIN, f32::max);
    let font = |size: u32| FontDesc::from(("sans-serif", size));
    let mut chart = ChartBuilder::on(area)
        .caption(channel, font(18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(44)
        .build_cartesian_2d(low..high.max(low + 1.0), 0f64..100f64)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(font(12))
        .x_desc("Es/N0 in dB")
        .y_desc("accuracy in %")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    // Without a channel: what the student reaches.
    let clean = 100.0 * report.clean;
    chart.draw_series(LineSeries::new([(low, clean), (high, clean)], BLACK.mix(0.4)))?;
    for (i, k) in rates.iter().enumerate() {
        let color = HSLColor(0.66 * (1.0 - i as f64 / (rates.len().max(2) - 1) as f64), 0.75, 0.42);
        let mut line: Vec<&&Point> = points.iter().filter(|p| p.k == *k).collect();
        line.sort_by(|a, b| a.snr_db.total_cmp(&b.snr_db));
        let limit = line.iter().map(|p| (p.snr_db, 100.0 * p.limit));
        chart.draw_series(DashedLineSeries::new(limit, 4, 4, color.stroke_width(1)))?;
        let found = line.iter().map(|p| (p.snr_db, 100.0 * p.accuracy));
        chart
            .draw_series(LineSeries::new(found, color.stroke_width(2)).point_size(3))?
            .label(format!("k = {k}"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .label_font(font(12))
        .draw()?;
    Ok(())
}
