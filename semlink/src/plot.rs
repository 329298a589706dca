//! The picture of a sweep: `sweep.svg`.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;
use plotters::style::FontDesc;
use semlink_channel::{ChannelKind, ChannelUses, SnrDb, limit};

use crate::files::{Point, Sweep};

const SIZE: (u32, u32) = (760, 480);
/// Points of a limit's curve.
const CURVE: usize = 60;

/// What the bundle says that the limit needs. It was measured on the whole test split, with the classifier that taught the student: points
/// of a sweep over other images, or of a codec with a better classifier, may lie above the limit that follows from it, so the picture
/// names the accuracy that the limit assumes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clean {
    /// Accuracy without a channel, as a fraction.
    pub(crate) accuracy: f64,
    pub(crate) classes: usize,
}

/// Draws `sweep.svg` into a folder that exists; the limit and the clean accuracy only where the bundle states one.
pub(crate) fn write(sweep: &Sweep, clean: Option<Clean>, out: &Path) -> Result<()> {
    let path = out.join("sweep.svg");
    fs::write(&path, svg(sweep, clean)?).with_context(|| path.display().to_string())
}

fn svg(sweep: &Sweep, clean: Option<Clean>) -> Result<String> {
    let mut svg = String::new();
    draw(sweep, clean, &mut svg).map_err(|error| anyhow!("sweep.svg: {error}"))?;
    Ok(svg)
}

fn draw(sweep: &Sweep, clean: Option<Clean>, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let snrs = || sweep.points.iter().map(|p| p.snr_db);
    let (low, high) = (snrs().fold(f32::MAX, f32::min), snrs().fold(f32::MIN, f32::max));
    // A single point gets an axis around it.
    let (low, high) = if high > low { (low, high) } else { (low - 1.0, high + 1.0) };
    let font = |size: u32| FontDesc::from(("sans-serif", size));
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title(sweep), font(18))
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(52)
        .build_cartesian_2d(low..high, 0f64..100f64)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(font(13))
        .x_desc("Es/N0 in dB")
        .y_desc("top-1 accuracy in %")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    if let Some(Clean { accuracy, .. }) = clean {
        let level = 100.0 * accuracy;
        chart
            .draw_series(LineSeries::new([(low, level), (high, level)], BLACK.mix(0.5)))?
            .label(format!("{level:.1} %: the bundle's accuracy without a channel"))
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLACK.mix(0.5)));
    }
    for kind in ChannelKind::ALL {
        let mut points: Vec<&Point> = sweep.points.iter().filter(|p| p.channel == kind).collect();
        points.sort_by(|a, b| a.snr_db.total_cmp(&b.snr_db));
        if points.is_empty() {
            continue;
        }
        let color = color(kind);
        let band = points.iter().map(|p| (p.snr_db, 100.0 * p.ci95[0]));
        let band: Vec<_> = band.chain(points.iter().rev().map(|p| (p.snr_db, 100.0 * p.ci95[1]))).collect();
        chart.draw_series([Polygon::new(band, color.mix(0.15))])?;
        let bars = points.iter().map(|p| {
            PathElement::new([(p.snr_db, 100.0 * p.ci95[0]), (p.snr_db, 100.0 * p.ci95[1])], color.stroke_width(1))
        });
        chart.draw_series(bars)?;
        let found = points.iter().map(|p| (p.snr_db, 100.0 * p.accuracy));
        chart
            .draw_series(LineSeries::new(found, color.stroke_width(2)).point_size(3))?
            .label(format!("{kind}, with its 95 % interval"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        if let Some(clean) = clean {
            let curve = limits(&points, clean, low, high)?;
            chart
                .draw_series(DashedLineSeries::new(curve, 5, 4, color.stroke_width(1)))?
                .label(format!("{kind}, physical limit given {:.1} %", 100.0 * clean.accuracy))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 6, y)], color.stroke_width(1)));
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .label_font(font(13))
        .draw()?;
    root.present()?;
    Ok(())
}

fn title(sweep: &Sweep) -> String {
    let mut uses: Vec<f64> = sweep.points.iter().map(|p| p.k).collect();
    uses.sort_by(f64::total_cmp);
    uses.dedup();
    let images = sweep.points.first().map_or(0, |p| p.images);
    match uses[..] {
        [k] => format!("{}: accuracy over the link, k = {k} channel uses, {images} images a point", sweep.dataset),
        _ => format!("{}: accuracy over the link, k chosen for each image, {images} images a point", sweep.dataset),
    }
}

/// The limit of the points' channel over SNR, in percent, for the number of channel uses they had (rounded where it is a mean): a curve
/// where it is the same for all, else from point to point.
fn limits(points: &[&Point], clean: Clean, low: f32, high: f32) -> Result<Vec<(f32, f64)>> {
    let at = |point: &Point, snr_db: f32| -> Result<(f32, f64)> {
        let uses = ChannelUses::try_new(point.k.round() as usize)?;
        let channel = semlink_channel::ChannelConfig { snr: SnrDb::try_new(snr_db)?, ..point.config };
        Ok((snr_db, 100.0 * limit::accuracy(clean.accuracy, clean.classes, &channel, uses)?))
    };
    match points {
        [first, rest @ ..] if rest.iter().all(|point| point.k == first.k) => {
            (0..=CURVE).map(|i| at(first, low + (high - low) * i as f32 / CURVE as f32)).collect()
        }
        _ => points.iter().map(|point| at(point, point.snr_db)).collect(),
    }
}

fn color(kind: ChannelKind) -> RGBColor {
    match kind {
        ChannelKind::Awgn => RGBColor(31, 94, 168),
        ChannelKind::Rayleigh => RGBColor(196, 72, 28),
        ChannelKind::Rician => RGBColor(38, 128, 74),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::sweep;

    #[test]
    fn the_picture_names_its_axes_channels_and_limit() {
        let with_limit = svg(&sweep(), Some(Clean { accuracy: 0.9, classes: 10 })).unwrap();
        for text in
            ["Es/N0 in dB", "accuracy in %", "k = 64", "sample", "awgn", "rayleigh", "physical limit given 90.0 %"]
        {
            assert!(with_limit.contains(text), "{text}");
        }
        assert!(!with_limit.contains("NaN"));
        assert!(!svg(&sweep(), None).unwrap().contains("limit"));
    }

    #[test]
    fn where_k_differs_the_limit_is_that_of_each_point() {
        let clean = Clean { accuracy: 0.9, classes: 10 };
        let mut sweep = sweep();
        (sweep.points[0].k, sweep.points[1].k) = (64.0, 8.0);
        let points: Vec<&Point> = sweep.points[..2].iter().collect();
        let found = limits(&points, clean, -5.0, 5.0).unwrap();
        let expected = [(-5.0, 64), (5.0, 8)].map(|(snr_db, k)| {
            let channel = semlink_channel::ChannelConfig::awgn(SnrDb::try_new(snr_db).unwrap());
            let uses = ChannelUses::try_new(k).unwrap();
            (snr_db, 100.0 * limit::accuracy(0.9, 10, &channel, uses).unwrap())
        });
        assert_eq!(found, expected);
        assert_eq!(limits(&points[..1], clean, -5.0, 5.0).unwrap().len(), CURVE + 1);
    }

    /// Checks that every element is closed in order, that attributes are quoted and that text has no bare `<` or `&`.
    fn assert_well_formed(svg: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut roots = 0;
        for part in svg.split('<').skip(1) {
            let (tag, text) = part.split_once('>').unwrap_or_else(|| panic!("no end of <{part}"));
            assert!(!text.contains('>'), "{text:?}");
            let entity = |rest: &str| ["amp;", "lt;", "gt;", "quot;", "apos;", "#"].iter().any(|e| rest.starts_with(e));
            assert!(part.split('&').skip(1).all(entity), "bare & in {part:?}");
            assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
                continue;
            }
            roots += usize::from(open.is_empty());
            if !tag.ends_with('/') {
                open.push(tag.split_whitespace().next().expect("a name"));
            }
        }
        assert_eq!((open.len(), roots), (0, 1), "one element holds all others");
    }

    #[test]
    fn the_picture_is_well_formed_whatever_the_data_set_is_called() {
        assert_well_formed(&svg(&sweep(), Some(Clean { accuracy: 0.9, classes: 10 })).unwrap());
        let odd = Sweep { dataset: "cats & <dogs>".into(), ..sweep() };
        let odd = svg(&odd, None).unwrap();
        assert_well_formed(&odd);
        assert!(odd.contains("cats &amp; &lt;dogs&gt;"), "the name is still there");
    }

    #[test]
    fn one_point_is_a_picture_too() {
        let mut sweep = sweep();
        sweep.points.truncate(1);
        assert!(svg(&sweep, Some(Clean { accuracy: 0.9, classes: 10 })).unwrap().ends_with("</svg>\n"));
    }
}
