//! The picture of a sweep: `sweep.svg`, and in a report.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use semlink_channel::{ChannelKind, ChannelUses, SnrDb, limit};
use semlink_codec::AccuracyPoint;
use semlink_report::{Axis, Chart, Line, Mark, Stroke, Svg, Tone};

use crate::files::{Point, Sweep};

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
    fs::write(&path, svg(sweep, clean, &[])?.markup()).with_context(|| path.display().to_string())
}

/// The same picture; with what the bundle's own evaluation measured, if that is given.
pub(crate) fn svg(sweep: &Sweep, clean: Option<Clean>, evaluated: &[AccuracyPoint]) -> Result<Svg> {
    let (low, high) = ends(sweep);
    let (x, y) = ("Es/N0 in dB", "top-1 accuracy in %");
    let mut chart = Chart::new(title(sweep), Axis::fixed(x, low, high), Axis::fixed(y, 0.0, 100.0));
    if let Some(Clean { accuracy, .. }) = clean {
        let level = 100.0 * accuracy;
        let name = format!("{level:.1} %: the bundle's accuracy without a channel");
        chart.push(Line::new(name, Tone::Grey, [(low, level), (high, level)]).stroke(Stroke::Thin));
    }
    for kind in channels(sweep) {
        let points = of(sweep, kind);
        let (tone, mark) = look(kind);
        let at = |point: &Point| f64::from(point.snr_db);
        let found = points.iter().map(|p| (at(p), 100.0 * p.accuracy));
        let intervals = points.iter().map(|p| (at(p), 100.0 * p.ci95[0], 100.0 * p.ci95[1]));
        let name = format!("{kind}, with its 95 % interval");
        chart.push(Line::new(name, tone, found).mark(mark).intervals(intervals));
        if let Some(clean) = clean {
            let curve = limits(&points, clean, low as f32, high as f32)?;
            let name = format!("{kind}, physical limit given {:.1} %", 100.0 * clean.accuracy);
            chart.push(Line::new(name, tone, curve).stroke(Stroke::Dashed));
        }
        let same = |e: &&AccuracyPoint| points.iter().any(|point| is_evaluation_of(e, point));
        let evaluated: Vec<&AccuracyPoint> = evaluated.iter().filter(same).collect();
        if let Some(first) = evaluated.first() {
            let name = format!("{kind}, the bundle's evaluation with {} images", first.images);
            let line = evaluated.iter().map(|e| (f64::from(e.snr_db), 100.0 * e.accuracy));
            chart.push(Line::new(name, tone, line).stroke(Stroke::Dotted));
        }
    }
    Ok(chart.svg()?)
}

/// Whether the bundle's evaluation measured this very setting. Of Rician fading it does not say with which K.
pub(crate) fn is_evaluation_of(evaluated: &AccuracyPoint, point: &Point) -> bool {
    let same = (evaluated.channel, evaluated.snr_db) == (point.channel, point.snr_db);
    same && evaluated.k as f64 == point.k && point.channel != ChannelKind::Rician
}

/// The lowest and the highest SNR.
fn ends(sweep: &Sweep) -> (f64, f64) {
    let snrs = || sweep.points.iter().map(|p| p.snr_db);
    let (low, high) = (snrs().fold(f32::MAX, f32::min), snrs().fold(f32::MIN, f32::max));
    // A single point gets an axis around it.
    let (low, high) = if high > low { (low, high) } else { (low - 1.0, high + 1.0) };
    (f64::from(low), f64::from(high))
}

/// Those of a sweep, in the order of all.
pub(crate) fn channels(sweep: &Sweep) -> impl Iterator<Item = ChannelKind> {
    ChannelKind::ALL.into_iter().filter(|kind| sweep.points.iter().any(|p| p.channel == *kind))
}

/// The points of a channel by rising SNR.
pub(crate) fn of(sweep: &Sweep, kind: ChannelKind) -> Vec<&Point> {
    let mut points: Vec<&Point> = sweep.points.iter().filter(|p| p.channel == kind).collect();
    points.sort_by(|a, b| a.snr_db.total_cmp(&b.snr_db));
    points
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
pub(crate) fn limits(points: &[&Point], clean: Clean, low: f32, high: f32) -> Result<Vec<(f64, f64)>> {
    let at = |point: &Point, snr_db: f32| -> Result<(f64, f64)> {
        let uses = ChannelUses::try_new(point.k.round() as usize)?;
        let channel = semlink_channel::ChannelConfig { snr: SnrDb::try_new(snr_db)?, ..point.config };
        Ok((f64::from(snr_db), 100.0 * limit::accuracy(clean.accuracy, clean.classes, &channel, uses)?))
    };
    match points {
        [first, rest @ ..] if rest.iter().all(|point| point.k == first.k) => {
            (0..=CURVE).map(|i| at(first, low + (high - low) * i as f32 / CURVE as f32)).collect()
        }
        _ => points.iter().map(|point| at(point, point.snr_db)).collect(),
    }
}

pub(crate) fn look(kind: ChannelKind) -> (Tone, Mark) {
    match kind {
        ChannelKind::Awgn => (Tone::Blue, Mark::Circle),
        ChannelKind::Rayleigh => (Tone::Orange, Mark::Triangle),
        ChannelKind::Rician => (Tone::Green, Mark::Square),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::sweep;

    #[test]
    fn the_picture_names_its_axes_channels_and_limit() {
        let with_limit = svg(&sweep(), Some(Clean { accuracy: 0.9, classes: 10 }), &[]).unwrap();
        let with_limit = with_limit.markup();
        for text in
            ["Es/N0 in dB", "accuracy in %", "k = 64", "sample", "awgn", "rayleigh", "physical limit given 90.0 %"]
        {
            assert!(with_limit.contains(text), "{text}");
        }
        assert!(!with_limit.contains("NaN"));
        assert!(!svg(&sweep(), None, &[]).unwrap().markup().contains("limit"));
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
            (f64::from(snr_db), 100.0 * limit::accuracy(0.9, 10, &channel, uses).unwrap())
        });
        assert_eq!(found, expected);
        assert_eq!(limits(&points[..1], clean, -5.0, 5.0).unwrap().len(), CURVE + 1);
    }

    #[test]
    fn the_bundles_own_figures_stand_beside_where_they_are_of_the_same_settings() {
        let point = |snr_db, k| AccuracyPoint { channel: ChannelKind::Awgn, snr_db, k, accuracy: 0.8, images: 777 };
        let with = |evaluated: &[AccuracyPoint]| svg(&sweep(), None, evaluated).unwrap().markup().to_owned();
        assert!(with(&[point(-5.0, 64), point(5.0, 64)]).contains("evaluation with 777 images"));
        assert!(!with(&[point(-5.0, 32), point(4.0, 64)]).contains("777"));
    }

    #[test]
    fn the_picture_is_well_formed_whatever_the_data_set_is_called() {
        let odd = Sweep { dataset: "cats & <dogs>".into(), ..sweep() };
        let odd = svg(&odd, Some(Clean { accuracy: 0.9, classes: 10 }), &[]).unwrap();
        let parsed = roxmltree::Document::parse(odd.markup()).unwrap();
        let named = |node: roxmltree::Node<'_, '_>| node.text().is_some_and(|text| text.contains("cats & <dogs>"));
        assert!(parsed.descendants().any(named), "the name is still there");
    }

    #[test]
    fn one_point_is_a_picture_too() {
        let mut sweep = sweep();
        sweep.points.truncate(1);
        let svg = svg(&sweep, Some(Clean { accuracy: 0.9, classes: 10 }), &[]).unwrap();
        assert!(svg.markup().ends_with("</svg>\n"));
    }
}
