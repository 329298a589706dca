//! What stage `evaluate` found.

use semlink_report::{Axis, Cell, Chart, Corner, Image, Line, Mark, Section, Stroke, Table, Tone};

use crate::Result;
use crate::plot;
use crate::report::{Detail, DigitalPoint, Point, Report};

/// Channel uses that are compared with baselines, where the codec has them.
const USUAL: usize = 64;

pub(super) fn accuracy(report: &Report) -> Result<Section> {
    let mut section = Section::new("Accuracy over SNR");
    let caption = format!(
        "Top-1 accuracy on the test split for every channel and number of channel uses k. Dashed: the limit, the error of optimal waveforms over as \
         many channel uses for a transmitter that knows the class as often as the codec is right when nothing is lost ({:.2} %, grey).",
        100.0 * report.clean
    );
    if !report.points.is_empty() {
        section.figure(&plot::svg(report)?, &caption);
    }
    let uses = usual(report);
    let mut pictures = Vec::new();
    for channel in plot::channels(report) {
        pictures.push(compared(report, &channel, uses).small_svg()?);
    }
    section.heading(&format!("With k = {uses}: interval, limit and baselines"));
    section.side_by_side(|many| {
        for svg in &pictures {
            many.figure(svg, svg.title());
        }
    });
    let jpeg = match report.digital.is_empty() {
        true => "JPEG as a baseline was not measured.",
        false => {
            "JPEG: the smallest file that fits over an ideal channel code, classified by the teacher; where none fits, guessed."
        }
    };
    section.text(jpeg);
    section.table(&points("Every operating point", &report.points, &report.digital));
    if !report.mismatch.is_empty() {
        section.heading("Told another SNR than there is, or none");
        section.table(&mismatch(&report.mismatch));
    }
    Ok(section)
}

pub(super) fn samples(report: &Report, labels: &[String]) -> Section {
    let mut section = Section::new("Images and decisions");
    if report.samples.is_empty() {
        return section;
    }
    for details in by_channel(report) {
        let Some(first) = details.first() else { continue };
        let head = ["image".to_owned()].into_iter().chain(details.iter().map(|detail| format!("{} dB", detail.snr_db)));
        let caption =
            format!("The first test images over {}, k = {}: decision and confidence", first.channel_text(), first.k);
        let mut table = Table::new(caption, head);
        for (place, sample) in report.samples.iter().enumerate() {
            let truth = name(labels, sample.class);
            let picture = Image::of_base64(&sample.png, truth.clone());
            let image =
                picture.map_or_else(|| Cell::text(truth.clone()), |picture| Cell::Picture(picture, truth.clone()));
            let cells = details.iter().map(|detail| match detail.decisions.get(place) {
                Some((class, confidence)) => {
                    let text = format!("{} {:.0} %", name(labels, *class), 100.0 * confidence);
                    Cell::Verdict { right: *class == sample.class, text }
                }
                None => Cell::text("not recorded"),
            });
            table.row([image].into_iter().chain(cells));
        }
        section.table(&table);
    }
    section
}

pub(super) fn confusion(report: &Report, labels: &[String]) -> Section {
    let mut section = Section::new("What is taken for what");
    if report.details.is_empty() {
        section.note("The evaluation did not record it; a newer one does: run stage evaluate again.");
        return section;
    }
    section.text("Rows are true classes, columns decisions, at the lowest, the middle and the highest SNR of each channel. Framed: right.");
    // For frames of several images a class is a combination.
    let labels = if report.classes == labels.len() { labels } else { &[] };
    for details in by_channel(report) {
        let Some(first) = details.first() else { continue };
        section.heading(&first.channel_text());
        section.side_by_side(|many| {
            for detail in details {
                let caption = format!("{} at {} dB, k = {}", detail.channel_text(), detail.snr_db, detail.k);
                many.column(|one| {
                    one.table(&detail.confusion.table(&caption, labels));
                });
            }
        });
    }
    section
}

pub(super) fn calibration(report: &Report) -> Result<Section> {
    let mut section = Section::new("Is it as sure as it is right?");
    section.text(
        "Decisions by confidence; on the dashed line they are right as often as they claim. ECE, the expected calibration error, is how far the two are \
         apart on average (15 bins).",
    );
    let mut pictures = Vec::new();
    for details in by_channel(report) {
        for detail in details {
            let title = format!("{} at {} dB", detail.channel_text(), detail.snr_db);
            pictures.push(detail.reliability.chart(&title).small_svg()?);
        }
    }
    let uses = usual(report);
    let mut errors =
        Chart::new(format!("ECE over SNR, k = {uses}"), Axis::fitted("Es/N0 in dB"), Axis::fitted("ECE in %"));
    errors = errors.legend(Corner::UpperRight);
    for (i, channel) in plot::channels(report).into_iter().enumerate() {
        let points = of(report, &channel, uses);
        let line = points.iter().map(|p| (f64::from(p.snr_db), 100.0 * p.calibration_error));
        errors.push(Line::new(channel, Tone::nth(i), line).mark(Mark::nth(i)));
    }
    pictures.push(errors.small_svg()?);
    section.side_by_side(|many| {
        for svg in &pictures {
            many.figure(svg, svg.title());
        }
    });
    Ok(section)
}

/// The number of channel uses that pictures of one are of.
fn usual(report: &Report) -> usize {
    let recorded = report.details.first().map(|detail| detail.k);
    let mut rates: Vec<usize> = report.points.iter().map(|point| point.k).collect();
    rates.sort_unstable();
    rates.dedup();
    let middle = rates.get(rates.len() / 2).copied();
    recorded.or(rates.into_iter().find(|k| *k == USUAL)).or(middle).unwrap_or(0)
}

/// By rising SNR.
fn of<'a>(report: &'a Report, channel: &str, uses: usize) -> Vec<&'a Point> {
    let mut points: Vec<&Point> = report.points.iter().filter(|p| p.k == uses && p.channel_text() == channel).collect();
    points.sort_by(|a, b| a.snr_db.total_cmp(&b.snr_db));
    points
}

fn by_channel(report: &Report) -> Vec<Vec<&Detail>> {
    let mut groups: Vec<Vec<&Detail>> = Vec::new();
    for detail in &report.details {
        match groups
            .iter_mut()
            .find(|group| group.first().is_some_and(|first| first.channel_text() == detail.channel_text()))
        {
            Some(group) => group.push(detail),
            None => groups.push(vec![detail]),
        }
    }
    groups
}

fn compared(report: &Report, channel: &str, uses: usize) -> Chart {
    let points = of(report, channel, uses);
    let mut chart = plot::frame(channel, &points);
    let name = format!("{:.1} %: without a channel", 100.0 * report.clean);
    chart.push(plot::clean(report, &points, &name));
    let at = |point: &Point, y: f64| (f64::from(point.snr_db), 100.0 * y);
    let line = Line::new("codec, with its 95 % interval", Tone::Blue, points.iter().map(|p| at(p, p.accuracy)));
    let intervals = points.iter().map(|p| (f64::from(p.snr_db), 100.0 * p.ci95[0], 100.0 * p.ci95[1]));
    chart.push(line.mark(Mark::Circle).intervals(intervals));
    chart.push(Line::new("limit", Tone::Blue, points.iter().map(|p| at(p, p.limit))).stroke(Stroke::Dashed));
    // The baseline knows one channel of each kind, without pilots.
    let kind = points.first().filter(|p| p.k_factor_db.is_none() && p.pilots == 0).map(|p| p.channel);
    let jpeg = report.digital.iter().filter(|p| Some(p.channel) == kind && p.k == uses);
    let jpeg: Vec<(f64, f64)> = jpeg.map(|p| (f64::from(p.snr_db), 100.0 * p.accuracy)).collect();
    if !jpeg.is_empty() {
        chart
            .push(Line::new("JPEG over an ideal code", Tone::Orange, jpeg).stroke(Stroke::Dotted).mark(Mark::Triangle));
    }
    chart
}

fn points(caption: &str, points: &[Point], digital: &[DigitalPoint]) -> Table {
    let columns =
        ["channel", "SNR dB", "k", "CSI", "accuracy", "95 % interval", "limit", "gap", "JPEG", "ECE", "images"];
    let mut table = Table::new(caption, columns);
    for point in points {
        let same = |d: &&DigitalPoint| {
            (d.channel, d.snr_db, d.k) == (point.channel, point.snr_db, point.k)
                && point.k_factor_db.is_none()
                && point.pilots == 0
        };
        let jpeg = digital.iter().find(same).map(|d| format!("{:.2} %", 100.0 * d.accuracy));
        table.row([
            Cell::text(point.channel_text()),
            Cell::number(Some(point.snr_db)),
            Cell::number(Some(point.k)),
            Cell::text(point.csi.clone()),
            Cell::percent(point.accuracy),
            Cell::Number(format!("{:.2} to {:.2}", 100.0 * point.ci95[0], 100.0 * point.ci95[1])),
            Cell::percent(point.limit),
            Cell::Number(format!("{:.2}", 100.0 * point.gap)),
            Cell::number(jpeg),
            Cell::percent(point.calibration_error),
            Cell::number(Some(point.images)),
        ]);
    }
    table
}

fn mismatch(points: &[Point]) -> Table {
    let k = points.first().map_or(0, |point| point.k);
    let rows: Vec<&[Point]> = points.chunk_by(|a, b| (a.channel, a.snr_db) == (b.channel, b.snr_db)).collect();
    let told = |point: &Point| point.told_snr_db.map_or_else(|| "nothing".to_owned(), |db| format!("{db} dB"));
    let head = ["channel", "SNR dB"].map(str::to_owned).into_iter();
    let head = head.chain(rows.first().into_iter().flat_map(|row| row.iter().map(told)));
    let mut table = Table::new(format!("k = {k}: accuracy by what the encoder is told"), head);
    for row in rows {
        let Some(first) = row.first() else { continue };
        let start = [Cell::text(first.channel_text()), Cell::number(Some(first.snr_db))];
        table.row(start.into_iter().chain(row.iter().map(|point| Cell::percent(point.accuracy))));
    }
    table
}

fn name(labels: &[String], class: u32) -> String {
    labels.get(class as usize).cloned().unwrap_or_else(|| class.to_string())
}
