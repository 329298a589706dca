//! The sweep as a picture.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use semlink_channel::{ChannelConfig, ChannelKind, ChannelUses, RicianK, SnrDb, limit};

use crate::sweep::Point;

/// What the curves are compared with.
#[derive(Debug, Clone, Default)]
pub struct Curves {
    /// Accuracy with no channel in between, if known.
    pub clean: Option<f64>,
    /// Classes to tell apart.
    pub classes: usize,
    /// K of the Rician channel.
    pub k_factor: RicianK,
}

impl Curves {
    /// The physical limit at a point: see `semlink_channel::limit`.
    pub fn limit(&self, kind: ChannelKind, snr_db: f32, uses: f64) -> Option<f64> {
        let snr = SnrDb::try_new(snr_db).ok()?;
        let channel = match kind {
            ChannelKind::Awgn => ChannelConfig::awgn(snr),
            ChannelKind::Rayleigh => ChannelConfig::rayleigh(snr),
            ChannelKind::Rician => ChannelConfig::rician(snr, self.k_factor),
        };
        limit::accuracy(self.clean?, self.classes, &channel, ChannelUses::try_new(uses.round() as usize).ok()?).ok()
    }
}

const SIZE: (u32, u32) = (760, 460);
const COLOURS: [RGBColor; 3] = [RGBColor(0, 90, 181), RGBColor(220, 50, 32), RGBColor(0, 130, 90)];

/// Accuracy over SNR: a line with intervals for each channel, its limit dashed, clean accuracy dotted.
///
/// # Errors
/// No points.
pub fn svg(points: &[Point], curves: &Curves) -> Result<String> {
    let mut text = String::new();
    draw(&mut text, points, curves).map_err(|error| anyhow!("sweep.svg: {error}"))?;
    Ok(text)
}

fn draw(text: &mut String, points: &[Point], curves: &Curves) -> Result<(), Box<dyn std::error::Error>> {
    let snrs = || points.iter().map(|p| p.snr_db);
    let (low, high) = (snrs().fold(f32::INFINITY, f32::min), snrs().fold(f32::NEG_INFINITY, f32::max));
    if low > high {
        return Err("there are no points".into());
    }
    let floor = points.iter().map(|p| p.ci95[0]).fold(1.0, f64::min);
    let floor = (floor * 10.0).floor() / 10.0;
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Accuracy over the channel's SNR (dashed: physical limit)", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(low - 0.5..high + 0.5, floor..1.0)?;
    chart
        .configure_mesh()
        .x_desc("Es/N0 in dB")
        .y_desc("top-1 accuracy")
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .light_line_style(RGBColor(240, 240, 240))
        .draw()?;
    for (kind, colour) in ChannelKind::ALL.into_iter().zip(COLOURS) {
        let mut own: Vec<_> = points.iter().filter(|p| p.channel == kind).collect();
        let Some(first) = own.first() else { continue };
        let name = format!("{kind}, k = {:.0}", first.k);
        own.sort_by(|a, b| a.snr_db.total_cmp(&b.snr_db));
        let curve = own.iter().map(|p| (p.snr_db, p.accuracy));
        chart
            .draw_series(LineSeries::new(curve.clone(), colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(curve.map(|at| Circle::new(at, 3, colour.filled())))?;
        chart.draw_series(own.iter().map(|p| PathElement::new([(p.snr_db, p.ci95[0]), (p.snr_db, p.ci95[1])], colour)))?;
        let limits = own.iter().filter_map(|p| Some((p.snr_db, curves.limit(kind, p.snr_db, p.k)?)));
        chart.draw_series(DashedLineSeries::new(limits, 5, 4, colour.stroke_width(1)))?;
    }
    if let Some(clean) = curves.clean {
        let line = [(low - 0.5, clean), (high + 0.5, clean)];
        chart
            .draw_series(DashedLineSeries::new(line, 2, 4, BLACK.stroke_width(1)))?
            .label(format!("no channel: {:.1} %", 100.0 * clean))
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLACK));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.9))
        .border_style(RGBColor(200, 200, 200))
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_names_its_axes_and_draws_limits() {
        let curves = Curves { clean: Some(0.92), classes: 10, k_factor: RicianK::default() };
        let svg = svg(&crate::files::tests::points(), &curves).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["Es/N0 in dB", "top-1 accuracy", "awgn, k = 64", "rayleigh, k = 64", "no channel: 92.0 %"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(super::svg(&[], &curves).is_err());
    }

    #[test]
    fn the_limit_is_that_of_the_design() {
        // AWGN, 10 classes, k = 64, -10 dB: P = 0.974.
        let curves = Curves { clean: Some(1.0), classes: 10, k_factor: RicianK::default() };
        assert!((curves.limit(ChannelKind::Awgn, -10.0, 64.0).unwrap() - 0.974).abs() < 0.0015);
    }
}
