//! The pages about the arms: `docs/CAT-TABLES.md` and `docs/cat-baselines.svg`.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};
use plotters::prelude::*;
use plotters::style::FontDesc;
use semlink_channel::ChannelKind;

use super::{ARMS, Arm, Small};
use crate::results::root;

/// `docs/CAT-TABLES.md`: every point of CAT and of the pairs, and the arms side by side at k = 64.
pub(super) fn tables(arms: &[Arm]) -> Result<()> {
    let mut page = String::from(
        "# Accuracy against SNR, for every k\n\nWritten by `cargo run --release -p semlink-bench -- cat` from \
         `bench/results/cat-arms.json`, which has the intervals. Accuracy in %, in brackets the points that the limit lies above it; \
         Fashion-MNIST test split, 10,000 images, each sent over ten draws of a fading channel (ablations, and baselines but the MLP codec: two).\n",
    );
    for (name, heading) in
        [("cat", "CAT, 10 classes"), ("pairs", "Two images to a frame, 100 joint classes"), ("mlp", "The MLP codec")]
    {
        let Some(arm) = arms.iter().find(|arm| arm.name == name) else { continue };
        let mut rates: Vec<usize> = arm.points.iter().map(|p| p.k).collect();
        rates.sort_unstable();
        rates.dedup();
        let columns: String = rates.iter().map(|k| format!(" k = {k} |")).collect();
        writeln!(page, "\n## {heading}\n\nClean {:.2} %.\n\n| channel | dB |{columns}", 100.0 * arm.clean)?;
        writeln!(page, "|---|---|{}", "---|".repeat(rates.len()))?;
        let key = |p: &Small| (p.channel, p.snr_db.to_bits(), p.k_factor_db.map(f32::to_bits), p.pilots);
        for row in arm.points.chunk_by(|a, b| key(a) == key(b)) {
            let mut channel = row[0].channel.to_string();
            if let Some(db) = row[0].k_factor_db {
                write!(channel, ", K {db} dB")?;
            }
            if row[0].pilots > 0 {
                write!(channel, ", {} pilots", row[0].pilots)?;
            }
            write!(page, "| {channel} | {} |", row[0].snr_db)?;
            row.iter().try_for_each(|p| write!(page, " {:.2} ({:.2}) |", 100.0 * p.accuracy, p.gap()))?;
            writeln!(page)?;
        }
        if let Some(first) = arm.mismatch.first() {
            let rows: Vec<&[Small]> =
                arm.mismatch.chunk_by(|a, b| (a.channel, a.snr_db) == (b.channel, b.snr_db)).collect();
            let told = |p: &Small| p.told_snr_db.map_or("nothing".into(), |db| format!("{db} dB"));
            let columns: String = rows[0].iter().map(|p| format!(" told {} |", told(p))).collect();
            writeln!(
                page,
                "\nThe encoder told another SNR than there is, k = {}:\n\n| channel | dB |{columns}",
                first.k
            )?;
            writeln!(page, "|---|---|{}", "---|".repeat(rows[0].len()))?;
            for row in rows {
                write!(page, "| {} | {} |", row[0].channel, row[0].snr_db)?;
                row.iter().try_for_each(|p| write!(page, " {:.2} |", 100.0 * p.accuracy))?;
                writeln!(page)?;
            }
        }
    }
    writeln!(page, "\n## Baselines and ablations, k = 64 (conference scheme: k = 256)\n")?;
    let snrs = [-10.0f32, -5.0, 0.0, 5.0, 10.0, 20.0];
    let columns: String =
        ["AWGN", "Rayleigh"].iter().flat_map(|kind| snrs.map(|db| format!(" {kind} {db} dB |"))).collect();
    writeln!(page, "| codec | clean |{columns}\n|---|---|{}", "---|".repeat(2 * snrs.len()))?;
    let line =
        |page: &mut String, what: &str, clean: f64, at: &dyn Fn(ChannelKind, f32) -> Option<f64>| -> Result<()> {
            let clean = if clean.is_nan() { "-".to_owned() } else { format!("{:.2}", 100.0 * clean) };
            write!(page, "| {what} | {clean} |")?;
            for kind in [ChannelKind::Awgn, ChannelKind::Rayleigh] {
                for db in snrs {
                    let value = at(kind, db).map_or("-".into(), |v| format!("{:.2}", 100.0 * v));
                    write!(page, " {value} |")?;
                }
            }
            Ok(writeln!(page)?)
        };
    for (name, _, what) in ARMS.iter().filter(|(_, _, what)| !what.is_empty()) {
        let Some(arm) = arms.iter().find(|arm| arm.name == *name) else { continue };
        let k = if *name == "conference" { 256 } else { 64 };
        let at = |kind: ChannelKind, db: f32| {
            arm.points.iter().find(|p| p.channel == kind && p.snr_db == db && p.k == k && p.pilots == 0)
        };
        if *name == "cat" {
            line(&mut page, "the label at the transmitter (the limit)", arm.clean, &|kind, db| {
                Some(at(kind, db)?.limit)
            })?;
        }
        line(&mut page, what, arm.clean, &|kind, db| Some(at(kind, db)?.accuracy))?;
        if !arm.digital.is_empty() {
            let at = |kind: ChannelKind, db: f32| {
                arm.digital.iter().find(|p| p.0 == kind && p.1 == db && p.2 == k).map(|p| p.3)
            };
            line(&mut page, "JPEG over an ideal code, the teacher decides", f64::NAN, &at)?;
        }
    }
    fs::write(root().join("docs/CAT-TABLES.md"), page).context("docs/CAT-TABLES.md")
}

/// `docs/cat-baselines.svg`: accuracy over SNR of all codecs at k = 64.
pub(super) fn draw(arms: &[Arm]) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let Some(cat) = arms.iter().find(|arm| arm.name == "cat") else { return Ok(()) };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (1080, 460)).into_drawing_area();
        root.fill(&WHITE)?;
        for (kind, area) in [ChannelKind::Awgn, ChannelKind::Rayleigh].into_iter().zip(root.split_evenly((1, 2))) {
            let font = |size: u32| FontDesc::from(("sans-serif", size));
            let mut chart = ChartBuilder::on(&area)
                .caption(format!("{kind}, k = 64"), font(18))
                .margin(12)
                .x_label_area_size(36)
                .y_label_area_size(44)
                .build_cartesian_2d(-10f32..20f32, 10f64..100f64)?;
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(BLACK.mix(0.12))
                .label_style(font(12))
                .x_desc("Es/N0 in dB")
                .y_desc("accuracy in %")
                .draw()?;
            let of = |arm: &Arm, k: usize, value: fn(&Small) -> f64| -> Vec<(f32, f64)> {
                let wanted = |p: &&Small| p.channel == kind && p.k == k && p.pilots == 0;
                arm.points.iter().filter(wanted).map(|p| (p.snr_db, 100.0 * value(p))).collect()
            };
            chart
                .draw_series(DashedLineSeries::new(of(cat, 64, |p| p.limit), 5, 4, BLACK.stroke_width(1)))?
                .label("limit")
                .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK.stroke_width(1)));
            let named: Vec<_> = ARMS.iter().filter(|(_, _, what)| !what.is_empty()).collect();
            for (i, (name, _, what)) in named.iter().enumerate() {
                let Some(arm) = arms.iter().find(|arm| arm.name == *name) else { continue };
                // The conference scheme has one length only.
                let k = if arm.points.iter().any(|p| p.k == 64) {
                    64
                } else {
                    arm.points.iter().map(|p| p.k).max().unwrap_or(64)
                };
                let line = of(arm, k, |p| p.accuracy);
                let what = if k == 64 { (*what).to_owned() } else { format!("{what} (k = {k})") };
                let color = HSLColor(i as f64 / named.len() as f64, 0.75, 0.42);
                let width = if *name == "cat" { 3 } else { 1 };
                chart
                    .draw_series(LineSeries::new(line, color.stroke_width(width)).point_size(2))?
                    .label(what)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(width)));
            }
            let digital = arms.iter().flat_map(|arm| &arm.digital).filter(|p| p.0 == kind && p.2 == 64);
            let digital: Vec<(f32, f64)> = digital.map(|p| (p.1, 100.0 * p.3)).collect();
            chart
                .draw_series(LineSeries::new(digital, BLACK.mix(0.5).stroke_width(1)).point_size(2))?
                .label("JPEG over an ideal code")
                .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK.mix(0.5).stroke_width(1)));
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::LowerRight)
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.2))
                .label_font(font(11))
                .draw()?;
        }
        root.present()?;
    }
    Ok(fs::write(root().join("docs/cat-baselines.svg"), svg)?)
}
