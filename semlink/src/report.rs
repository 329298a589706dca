//! `--report`: what a sweep was and what it found, as a page to hand on.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use bytes::Bytes;
use semlink_codec::AccuracyPoint;
use semlink_report::{
    Axis, Cell, Chart, Confusion, Corner, Document, Image, Line, Output, Reliability, Section, Table,
};

use crate::demo::About;
use crate::files::{Point, SAMPLES, Sweep};
use crate::images::{Class, Dataset};
use crate::plot::{self, Clean};

/// SNRs at which sample images are shown.
const COLUMNS: usize = 5;
/// A sample image of more bytes is made smaller.
const LARGE: usize = 32 << 10;
/// Then its longer side has so many pixels.
const SIDE: u32 = 112;

/// What there is to tell of a sweep.
pub(crate) struct Story<'a> {
    pub(crate) sweep: &'a Sweep,
    pub(crate) dataset: &'a Dataset,
    pub(crate) about: Option<&'a About>,
    /// Channel uses, as asked for.
    pub(crate) rate: String,
    /// Which services.
    pub(crate) services: String,
    pub(crate) began: SystemTime,
    pub(crate) took: Duration,
}

/// Writes the page.
pub(crate) fn write(story: &Story<'_>, output: Output) -> Result<()> {
    let html = story.document()?.html();
    Ok(output.write(&html)?)
}

impl Story<'_> {
    fn document(&self) -> Result<Document> {
        let Sweep { dataset, points, .. } = self.sweep;
        let kinds: Vec<String> = plot::channels(self.sweep).map(|kind| kind.to_string()).collect();
        let lead = format!(
            "{} images of {dataset} at each of {} settings of the channel ({}), sent as symbols and decided at the other end.",
            points.first().map_or(0, |point| point.images),
            points.len(),
            kinds.join(", ")
        );
        let maker = format!("Made by semlink {} on {}.", env!("CARGO_PKG_VERSION"), date(self.began + self.took));
        let mut document = Document::new(format!("Sweep of {dataset}"), lead, maker);
        document.push(self.run());
        document.push(self.accuracy()?);
        document.push(self.samples());
        document.push(self.confusion());
        document.push(self.calibration()?);
        Ok(document)
    }

    fn run(&self) -> Section {
        let mut section = Section::new("What was run");
        let codec = self.sweep.codec_id.as_deref().unwrap_or("not known: no --bundle was given");
        let mut facts = vec![
            ("command", command_line()),
            ("version", format!("semlink {}", env!("CARGO_PKG_VERSION"))),
            ("began", date(self.began)),
            ("took", format!("{:.1} s", self.took.as_secs_f64())),
            ("services", self.services.clone()),
            ("codec", codec.to_owned()),
        ];
        if let Some(about) = self.about {
            let manifest = &about.manifest;
            let made = &manifest.provenance;
            facts.push(("bundle", format!("{}, made {}", about.path.display(), manifest.created)));
            facts.push((
                "trained by",
                format!("recipe {}, seed {}, on data {}", made.recipe, made.seed, made.data_hash),
            ));
            facts.push(("teacher", made.teacher.clone()));
            let [low, high] = manifest.snr_range_db;
            facts.push(("trained for", format!("{low} to {high} dB; k of {}", list(manifest.rates()))));
            facts.push(("classes", manifest.labels.join(", ")));
        }
        facts.push(("data set", format!("{}, {} images", self.dataset.name, self.dataset.images.len())));
        facts.push(("channel uses", self.rate.clone()));
        // The first profile of each channel; the others differ in their SNR.
        for kind in plot::channels(self.sweep) {
            let first = self.sweep.points.iter().find(|point| point.channel == kind);
            facts.extend(first.map(|point| ("channel", point.details.profile.clone())));
        }
        facts.push(("repeats", "each point has a stream number of its own and its images count from 0: with the same seed the noise is the same".to_owned()));
        section.facts(facts);
        section
    }

    fn accuracy(&self) -> Result<Section> {
        let mut section = Section::new("Accuracy over SNR");
        let clean = self.about.and_then(About::clean);
        let evaluated = self.about.map_or(&[][..], |about| &about.manifest.accuracy);
        let caption = match clean {
            Some(Clean { accuracy, .. }) => format!(
                "Top-1 accuracy with its 95 % Wilson interval. Dashed: the error of optimal waveforms over as many channel uses, for a transmitter \
                 that knows the class as often as the codec is right when nothing is lost ({:.2} % of the whole test split); points over other \
                 images may lie above it. Dotted: what the bundle's own evaluation found with the same k.",
                100.0 * accuracy
            ),
            None => "Top-1 accuracy with its 95 % Wilson interval. Without a bundle that states its accuracy there is no limit to draw.".to_owned(),
        };
        section.figure(&plot::svg(self.sweep, clean, evaluated)?, &caption);
        let columns = [
            "channel",
            "SNR dB",
            "k",
            "pilots",
            "side bits",
            "CSI",
            "accuracy",
            "95 % interval",
            "limit",
            "bundle's own",
            "measured dB",
            "images/s",
        ];
        let mut table = Table::new("Every point: accuracy, what it cost and how fast it went", columns);
        for point in &self.sweep.points {
            table.row(row(point, clean, evaluated)?);
        }
        section.table(&table);
        Ok(section)
    }

    fn samples(&self) -> Section {
        let mut section = Section::new("Images and decisions");
        let images: Vec<_> = self.dataset.images.iter().take(SAMPLES).collect();
        let labels = self.labels();
        for kind in plot::channels(self.sweep) {
            let points = spread(&plot::of(self.sweep, kind), COLUMNS);
            let head =
                ["image".to_owned()].into_iter().chain(points.iter().map(|point| format!("{} dB", point.snr_db)));
            let mut table = Table::new(format!("The first images over {kind}: decision and confidence"), head);
            for (place, image) in images.iter().enumerate() {
                let name = image.class.name(&labels);
                let picture = picture(&image.file, &name);
                let first =
                    picture.map_or_else(|| Cell::text(name.clone()), |picture| Cell::Picture(picture, name.clone()));
                let cells = points.iter().map(|point| match point.details.samples.get(place) {
                    Some(Some(shown)) => Cell::Verdict {
                        right: shown.right,
                        text: format!("{} {:.0} %", shown.label, 100.0 * shown.confidence),
                    },
                    _ => Cell::text("not answered"),
                });
                table.row([first].into_iter().chain(cells));
            }
            section.table(&table);
        }
        section
    }

    fn confusion(&self) -> Section {
        let mut section = Section::new("What is taken for what");
        section.text("Rows are true classes, columns decisions, at the lowest, the middle and the highest SNR of each channel. Framed: right.");
        let labels = self.labels();
        for kind in plot::channels(self.sweep) {
            section.heading(&kind.to_string());
            section.side_by_side(|many| {
                for point in spread(&plot::of(self.sweep, kind), 3) {
                    let caption = format!("{kind} at {} dB, {:.2} % right", point.snr_db, 100.0 * point.accuracy);
                    many.column(|one| {
                        one.table(&confusion(point, &labels).table(&caption, &labels));
                    });
                }
            });
        }
        section
    }

    fn calibration(&self) -> Result<Section> {
        let mut section = Section::new("Is it as sure as it is right?");
        section.text(
            "Decisions by confidence, all SNRs of a channel together; on the dashed line they are right as often as they claim. ECE, the expected \
             calibration error, is how far the two are apart on average (15 bins).",
        );
        let mut pictures = Vec::new();
        let mut table =
            Table::new("Expected calibration error at each point", ["channel", "SNR dB", "ECE", "decisions"]);
        let mut errors = Chart::new("ECE over SNR", Axis::fitted("Es/N0 in dB"), Axis::fitted("ECE in %"))
            .legend(Corner::UpperRight);
        for kind in plot::channels(self.sweep) {
            let points = plot::of(self.sweep, kind);
            let mut all = Reliability::default();
            points.iter().for_each(|point| all.merge(&point.details.reliability));
            pictures.push((all.chart(&kind.to_string()).small_svg()?, all));
            let (tone, mark) = plot::look(kind);
            let line = points.iter().map(|p| (f64::from(p.snr_db), 100.0 * p.details.reliability.error()));
            errors.push(Line::new(kind.to_string(), tone, line).mark(mark));
            for point in points {
                let reliability = &point.details.reliability;
                let numbers = [
                    Cell::number(Some(point.snr_db)),
                    Cell::percent(reliability.error()),
                    Cell::number(Some(reliability.total())),
                ];
                table.row([Cell::text(kind.to_string())].into_iter().chain(numbers));
            }
        }
        pictures.push((errors.small_svg()?, Reliability::default()));
        section.side_by_side(|many| {
            for (svg, all) in &pictures {
                let caption = match all.total() {
                    0 => "The expected calibration error of each point.".to_owned(),
                    decisions => {
                        format!("{decisions} decisions in bins of confidence; bars are 95 % Wilson intervals.")
                    }
                };
                many.figure(svg, &caption);
            }
        });
        section.table(&table);
        Ok(section)
    }

    /// Names of the classes by index: the bundle's, else those that were met in decisions, else numbers.
    fn labels(&self) -> Vec<String> {
        if let Some(about) = self.about {
            return about.manifest.labels.clone();
        }
        let mut names: BTreeMap<u32, &str> = BTreeMap::new();
        for point in &self.sweep.points {
            names.extend(point.details.names.iter().map(|(index, name)| (*index, name.as_str())));
        }
        let most = names.keys().max().map_or(0, |last| *last as usize + 1);
        // A damaged answer may name any index.
        let most = most.min(names.len().saturating_mul(16));
        let mut labels: Vec<String> =
            (0..most as u32).map(|i| names.get(&i).map_or_else(|| i.to_string(), |name| (*name).to_owned())).collect();
        // Classes that the data names and the codec never decided for.
        for point in &self.sweep.points {
            for (class, _) in point.details.decided.keys() {
                if let Class::Label(label) = class
                    && !labels.contains(label)
                {
                    labels.push(label.clone());
                }
            }
        }
        labels
    }
}

fn row(point: &Point, clean: Option<Clean>, evaluated: &[AccuracyPoint]) -> Result<Vec<Cell>> {
    let limit = match clean {
        // A curve of one point.
        Some(clean) => plot::limits(&[point], clean, point.snr_db, point.snr_db)?
            .first()
            .map(|(_, percent)| format!("{percent:.2} %")),
        None => None,
    };
    let own =
        evaluated.iter().find(|e| plot::is_evaluation_of(e, point)).map(|e| format!("{:.2} %", 100.0 * e.accuracy));
    let mean = |value: f64| Cell::Number(if value.fract() == 0.0 { value.to_string() } else { format!("{value:.1}") });
    Ok(vec![
        Cell::text(point.channel.to_string()),
        Cell::number(Some(point.snr_db)),
        mean(point.k),
        mean(point.pilots),
        mean(point.side_information_bits),
        Cell::text(point.csi.clone()),
        Cell::percent(point.accuracy),
        Cell::Number(format!("{:.2} to {:.2}", 100.0 * point.ci95[0], 100.0 * point.ci95[1])),
        Cell::number(limit),
        Cell::number(own),
        Cell::number(point.snr_db_measured.map(|db| format!("{db:.2}"))),
        Cell::Number(format!("{:.0}", point.images_per_second)),
    ])
}

fn confusion(point: &Point, labels: &[String]) -> Confusion {
    let mut confusion = Confusion::default();
    for ((class, decided), times) in &point.details.decided {
        let truth = match class {
            Class::Index(index) => Some(*index),
            Class::Label(label) => {
                labels.iter().position(|name| name == label).and_then(|index| u32::try_from(index).ok())
            }
        };
        if let Some(truth) = truth {
            confusion.add(truth, *decided, *times);
        }
    }
    confusion
}

/// At most `most` of them, with both ends.
fn spread<'a>(points: &[&'a Point], most: usize) -> Vec<&'a Point> {
    let last = points.len().saturating_sub(1);
    let steps = most.min(points.len()).saturating_sub(1).max(1);
    let mut places: Vec<usize> = (0..=steps).map(|i| (i * last + steps / 2) / steps).collect();
    places.dedup();
    places.into_iter().filter_map(|place| points.get(place).copied()).collect()
}

/// The file as it is, or a small copy of a large one.
fn picture(file: &Bytes, name: &str) -> Option<Image> {
    if file.len() <= LARGE {
        return Image::of(file, name);
    }
    let small = image::load_from_memory(file).ok()?.thumbnail(SIDE, SIDE);
    let mut png = std::io::Cursor::new(Vec::new());
    small.to_rgb8().write_to(&mut png, image::ImageFormat::Png).ok()?;
    Image::of(png.get_ref(), name)
}

/// What was typed; arguments with blanks in quotes.
fn command_line() -> String {
    let quoted = |argument: std::ffi::OsString| {
        let argument = argument.to_string_lossy().into_owned();
        if argument.is_empty() || argument.contains(char::is_whitespace) { format!("{argument:?}") } else { argument }
    };
    std::env::args_os().map(quoted).collect::<Vec<_>>().join(" ")
}

/// To the second, UTC.
fn date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn list(numbers: &[usize]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use semlink_channel::ChannelKind;

    use super::*;
    use crate::files::tests::sweep;
    use crate::files::{Details, Shown};
    use crate::images::Labelled;

    #[test]
    fn ends_and_middle_are_chosen() {
        let sweep = sweep();
        let points: Vec<&Point> = (0..7).map(|i| &sweep.points[i % 4]).collect();
        let places = |n: usize, most: usize| {
            let chosen = spread(&points[..n], most);
            chosen.iter().map(|point| points.iter().position(|p| std::ptr::eq(*p, *point)).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!((places(1, 3), places(2, 3), places(3, 3)), (vec![0], vec![0, 1], vec![0, 1, 2]));
        assert_eq!(places(4, 5), [0, 1, 2, 3]);
        assert!(spread(&[], 3).is_empty());
    }

    #[test]
    fn a_sweep_without_bundle_over_labelled_folders_is_told_with_the_names_it_met() {
        let mut sweep = sweep();
        sweep.dataset = "<script>alert(1)</script>".to_owned();
        let class = |label: &str| Class::Label(label.to_owned());
        for point in &mut sweep.points {
            let mut reliability = Reliability::default();
            reliability.push(0.9, true);
            point.details = Details {
                profile: "awgn".into(),
                decided: BTreeMap::from([((class("coat"), 1), 3), ((class("b&b"), 1), 2)]),
                names: BTreeMap::from([(1, "coat".to_owned())]),
                reliability,
                samples: vec![Some(Shown { label: "coat".into(), confidence: 0.9, right: false })],
            };
        }
        let file = semlink_codec::testing::png(1);
        let image = |class| Labelled { name: "x.png".into(), file: file.clone().into(), class };
        let dataset = Dataset { name: sweep.dataset.clone(), images: vec![image(class("b&b")), image(class("coat"))] };
        let story = Story {
            sweep: &sweep,
            dataset: &dataset,
            about: None,
            rate: "64".into(),
            services: "\"><b>".into(),
            began: SystemTime::UNIX_EPOCH,
            took: Duration::from_secs(1),
        };
        let html = story.document().unwrap().html();
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        let parsed = roxmltree::Document::parse_with_options(&html, options).unwrap();
        assert!(parsed.descendants().all(|node| !node.has_tag_name("script") && !node.has_tag_name("b")));
        // A row for the class that was never decided for, too: taken for coat twice.
        let row = parsed
            .descendants()
            .find(|n| n.has_tag_name("tr") && n.first_element_child().and_then(|c| c.text()) == Some("b&b"));
        let cells: Vec<_> = row.unwrap().children().filter_map(|cell| cell.text()).collect();
        assert_eq!(cells, ["b&b", "0", "2", "0", "0.0 %"]);
        assert_eq!(html.matches("not answered").count(), 2 * 2, "the second image at each point");
        assert!(plot::channels(&sweep).eq([ChannelKind::Awgn, ChannelKind::Rayleigh]));
    }
}
