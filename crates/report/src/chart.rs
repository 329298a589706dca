//! Lines, bands and points over two axes, as SVG.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::FontDesc;

use crate::escape::plain;
use crate::style::{FAINT, INK, PAPER, rgb};
use crate::{Error, Result, Tone, escape};

/// Width and height of a chart alone, beside another, and of one in a picture of several.
const SIZE: (u32, u32) = (760, 480);
const SMALL: (u32, u32) = (520, 380);
const PANEL: (u32, u32) = (420, 400);

/// A chart. What is no number is left out.
#[derive(Clone, Debug)]
pub struct Chart {
    title: String,
    x: Axis,
    y: Axis,
    legend: Corner,
    lines: Vec<Line>,
}

/// An axis: what it says and where it goes.
#[derive(Clone, Debug)]
pub struct Axis {
    label: String,
    ends: Option<(f64, f64)>,
}

/// Where the legend stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "corners")]
pub enum Corner {
    LowerRight,
    UpperRight,
    UpperLeft,
}

/// How points are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "strokes")]
pub enum Stroke {
    Solid,
    Thin,
    Dashed,
    Dotted,
    None,
}

/// What stands at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "marks")]
pub enum Mark {
    Circle,
    Triangle,
    Square,
    Cross,
    Ring,
}

impl Mark {
    /// The mark of the `index`-th line, from the start again where there are more.
    pub fn nth(index: usize) -> Mark {
        [Mark::Circle, Mark::Triangle, Mark::Square, Mark::Cross, Mark::Ring][index % 5]
    }
}

/// Points that belong together.
#[derive(Clone, Debug)]
pub struct Line {
    name: String,
    tone: Tone,
    stroke: Stroke,
    mark: Option<Mark>,
    points: Vec<(f64, f64)>,
    /// x, low and high of an interval.
    intervals: Vec<(f64, f64, f64)>,
}

/// A picture of this program's making: an SVG element.
#[derive(Clone, Debug)]
pub struct Svg {
    markup: String,
    title: String,
    light: bool,
}

impl Axis {
    /// From `low` to `high`; around them where they are the same.
    pub fn fixed(label: &str, low: f64, high: f64) -> Axis {
        Axis { label: plain(label), ends: Some((low, high)) }
    }

    /// As far as the points go, with some room.
    pub fn fitted(label: &str) -> Axis {
        Axis { label: plain(label), ends: None }
    }

    fn range(&self, values: impl Iterator<Item = f64>) -> Range<f64> {
        let (low, high) = match self.ends {
            Some(ends) => ends,
            None => {
                let (low, high) =
                    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
                let room = 0.06 * (high - low);
                (low - room, high + room)
            }
        };
        match (low.is_finite() && high.is_finite(), high > low) {
            (true, true) => low..high,
            (true, false) => low - 1.0..low + 1.0,
            (false, _) => 0.0..1.0,
        }
    }
}

impl Line {
    /// A solid line without marks.
    pub fn new(name: impl Into<String>, tone: Tone, points: impl IntoIterator<Item = (f64, f64)>) -> Line {
        let mut points: Vec<_> = points.into_iter().collect();
        points.retain(|(x, y)| x.is_finite() && y.is_finite());
        Line { name: plain(&name.into()), tone, stroke: Stroke::Solid, mark: None, points, intervals: Vec::new() }
    }

    /// Joined so.
    pub fn stroke(self, stroke: Stroke) -> Line {
        Line { stroke, ..self }
    }

    /// A mark at each point.
    pub fn mark(self, mark: Mark) -> Line {
        Line { mark: Some(mark), ..self }
    }

    /// A bar at each point and a band along the line: x, low and high.
    pub fn intervals(mut self, intervals: impl IntoIterator<Item = (f64, f64, f64)>) -> Line {
        self.intervals = intervals.into_iter().collect();
        self.intervals.retain(|(x, low, high)| x.is_finite() && low.is_finite() && high.is_finite());
        self
    }
}

impl Chart {
    /// Empty.
    pub fn new(title: impl Into<String>, x: Axis, y: Axis) -> Chart {
        Chart { title: plain(&title.into()), x, y, legend: Corner::LowerRight, lines: Vec::new() }
    }

    /// With its legend there.
    pub fn legend(self, legend: Corner) -> Chart {
        Chart { legend, ..self }
    }

    /// Adds a line; a later one is drawn over an earlier one. One without a name is not in the legend.
    pub fn push(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// Draws it alone.
    ///
    /// # Errors
    /// The drawing library's.
    pub fn svg(&self) -> Result<Svg> {
        self.of_size(SIZE)
    }

    /// Draws it for a place beside another.
    ///
    /// # Errors
    /// The drawing library's.
    pub fn small_svg(&self) -> Result<Svg> {
        self.of_size(SMALL)
    }

    fn of_size(&self, size: (u32, u32)) -> Result<Svg> {
        let mut markup = String::new();
        let drawn = (|| {
            let root = SVGBackend::with_string(&mut markup, size).into_drawing_area();
            root.fill(&rgb(PAPER[0]))?;
            self.draw(&root, 13)?;
            root.present()?;
            Ok::<(), Box<dyn std::error::Error>>(())
        })();
        drawn.map_err(|error| Error::Draw { title: self.title.clone(), what: error.to_string() })?;
        Ok(Svg { markup, title: self.title.clone(), light: false })
    }

    fn draw(&self, area: &DrawingArea<SVGBackend<'_>, Shift>, size: u32) -> Result<(), Box<dyn std::error::Error>> {
        let ink = rgb(INK[0]);
        let font = |size: u32| FontDesc::from(("sans-serif", size)).color(&ink);
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let ends = || self.lines.iter().flat_map(|line| &line.intervals);
        let xs = self.x.range(points().map(|p| p.0).chain(ends().map(|i| i.0)));
        let ys = self.y.range(points().map(|p| p.1).chain(ends().flat_map(|i| [i.1, i.2])));
        let spans = (xs.end - xs.start, ys.end - ys.start);
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, font(size + 4))
            .margin(14)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(xs, ys)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(rgb(FAINT[0]))
            .axis_style(ink)
            .label_style(font(size))
            .x_desc(&self.x.label)
            .y_desc(&self.y.label)
            .x_label_formatter(&|x| number(*x, spans.0))
            .y_label_formatter(&|y| number(*y, spans.1))
            .draw()?;
        for line in &self.lines {
            line.draw(&mut chart)?;
        }
        if self.lines.iter().any(|line| !line.name.is_empty()) {
            chart
                .configure_series_labels()
                .position(match self.legend {
                    Corner::LowerRight => SeriesLabelPosition::LowerRight,
                    Corner::UpperRight => SeriesLabelPosition::UpperRight,
                    Corner::UpperLeft => SeriesLabelPosition::UpperLeft,
                })
                .background_style(rgb(PAPER[0]).mix(0.85))
                .border_style(rgb(FAINT[0]))
                .label_font(font(size))
                .draw()?;
        }
        Ok(())
    }
}

type Plane<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

impl Line {
    fn draw<'a, 'b: 'a>(&self, chart: &mut Plane<'a, 'b>) -> Result<(), Box<dyn std::error::Error>> {
        let color = self.tone.light();
        if self.intervals.len() > 1 && self.stroke != Stroke::None {
            let low = self.intervals.iter().map(|(x, low, _)| (*x, *low));
            let band: Vec<_> = low.chain(self.intervals.iter().rev().map(|(x, _, high)| (*x, *high))).collect();
            chart.draw_series([Polygon::new(band, color.mix(0.15))])?;
        }
        let bars = self.intervals.iter().map(|(x, low, high)| PathElement::new([(*x, *low), (*x, *high)], color));
        chart.draw_series(bars)?;
        let (stroke, mark) = (self.stroke, self.mark);
        let points = self.points.iter().copied();
        let series = match stroke {
            Stroke::Solid => chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?,
            Stroke::Thin => chart.draw_series(LineSeries::new(points, color.stroke_width(1)))?,
            Stroke::Dashed => chart.draw_series(DashedLineSeries::new(points, 6, 4, color.stroke_width(1)))?,
            Stroke::Dotted => chart.draw_series(DashedLineSeries::new(points, 2, 3, color.stroke_width(2)))?,
            Stroke::None => chart.draw_series(std::iter::empty::<Circle<(f64, f64), i32>>())?,
        };
        if !self.name.is_empty() {
            series.label(&self.name).legend(move |(x, y)| {
                let dashes = match stroke {
                    Stroke::Solid | Stroke::Thin => [(0, 18); 3],
                    Stroke::Dashed => [(0, 5), (7, 12), (14, 18)],
                    Stroke::Dotted => [(0, 2), (7, 9), (14, 16)],
                    Stroke::None => [(9, 9); 3],
                };
                let width = if matches!(stroke, Stroke::Solid | Stroke::Dotted) { 2 } else { 1 };
                let [a, b, c] =
                    dashes.map(|(from, to)| PathElement::new([(from, 0), (to, 0)], color.stroke_width(width)));
                EmptyElement::at((x, y)) + a + b + c + outline(mark, 9, color)
            });
        }
        if let Some(mark) = mark {
            let at = |point: &(f64, f64)| EmptyElement::at(*point) + outline(Some(mark), 0, color);
            chart.draw_series(self.points.iter().map(at))?;
        }
        Ok(())
    }
}

/// A mark `shift` pixels right of the origin: nothing for none.
fn outline(mark: Option<Mark>, shift: i32, color: RGBColor) -> Polygon<(i32, i32)> {
    let place = |points: &[(i32, i32)]| points.iter().map(|(x, y)| (x + shift, *y)).collect::<Vec<_>>();
    // Circles as polygons, so that every mark is one element.
    let round = |radius: f64| -> Vec<(i32, i32)> {
        let turn = |i: i32| f64::from(i) * std::f64::consts::TAU / 12.0;
        (0..12).map(|i| ((radius * turn(i).cos()).round() as i32, (radius * turn(i).sin()).round() as i32)).collect()
    };
    let points = match mark {
        None => Vec::new(),
        Some(Mark::Circle) => round(3.6),
        Some(Mark::Triangle) => vec![(0, -5), (5, 4), (-5, 4)],
        Some(Mark::Square) => vec![(-4, -4), (4, -4), (4, 4), (-4, 4)],
        Some(Mark::Cross) => {
            vec![
                (-5, -3),
                (-3, -5),
                (0, -2),
                (3, -5),
                (5, -3),
                (2, 0),
                (5, 3),
                (3, 5),
                (0, 2),
                (-3, 5),
                (-5, 3),
                (-2, 0),
            ]
        }
        // Twice around, the second time back: what is between is filled.
        Some(Mark::Ring) => {
            let (outer, inner) = (round(6.5), round(4.2));
            let back = inner.iter().chain(inner.first()).rev().copied().collect::<Vec<_>>();
            outer.iter().chain(outer.first()).copied().chain(back).collect()
        }
    };
    Polygon::new(place(&points), color.filled())
}

/// Several charts beside and below each other in one picture.
///
/// # Errors
/// The drawing library's.
pub fn panels(title: &str, charts: &[Chart], columns: usize) -> Result<Svg> {
    let columns = charts.len().clamp(1, columns.max(1));
    let rows = charts.len().div_ceil(columns).max(1);
    let mut markup = String::new();
    let drawn = (|| {
        let size = (PANEL.0 * columns as u32, PANEL.1 * rows as u32);
        let root = SVGBackend::with_string(&mut markup, size).into_drawing_area();
        root.fill(&rgb(PAPER[0]))?;
        for (chart, area) in charts.iter().zip(root.split_evenly((rows, columns))) {
            chart.draw(&area, 12)?;
        }
        root.present()?;
        Ok::<(), Box<dyn std::error::Error>>(())
    })();
    drawn.map_err(|error| Error::Draw { title: title.to_owned(), what: error.to_string() })?;
    Ok(Svg { markup, title: title.to_owned(), light: false })
}

impl Svg {
    /// A picture drawn elsewhere in this program, as one `svg` element of colours that suit light paper: it stays light.
    pub fn light(markup: impl Into<String>, title: impl Into<String>) -> Svg {
        Svg { markup: markup.into(), title: title.into(), light: true }
    }

    /// The file's content.
    pub fn markup(&self) -> &str {
        &self.markup
    }

    /// What the picture shows.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// For a page: named for those who do not see it.
    pub(crate) fn inline(&self) -> String {
        let title = escape(&self.title);
        let class = if self.light { "chart light" } else { "chart" };
        let start = format!("<svg class=\"{class}\" role=\"img\" aria-label=\"{title}\"");
        let named = self.markup.trim().replacen("<svg", &start, 1);
        match named.find('>') {
            Some(end) => format!("{}<title>{title}</title>{}", &named[..=end], &named[end + 1..]),
            None => named,
        }
    }
}

/// A tick's text; `span` is what the axis covers.
fn number(value: f64, span: f64) -> String {
    let (scaled, unit, span) = match span.max(value.abs()) {
        most if most >= 2e6 => (value / 1e6, "M", span / 1e6),
        most if most >= 2e4 => (value / 1e3, "k", span / 1e3),
        _ => (value, "", span),
    };
    let digits = (1.0 - span.max(1e-9).log10().floor()).clamp(0.0, 6.0) as usize;
    // No minus before a zero.
    let text = format!("{scaled:.digits$}");
    let zero = text.trim_start_matches('-').chars().all(|c| matches!(c, '0' | '.'));
    format!("{}{unit}", if zero { text.trim_start_matches('-') } else { &text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let mut chart = Chart::new("a <b> & \"c\"", Axis::fixed("x", 0.0, 10.0), Axis::fixed("y in %", 0.0, 100.0));
        let line = Line::new("one", Tone::Blue, [(0.0, 50.0), (10.0, 75.0), (5.0, f64::NAN)]);
        chart.push(line.mark(Mark::Circle).intervals([(0.0, 45.0, 55.0), (10.0, 70.0, 80.0)]));
        chart.push(Line::new("<script>", Tone::Orange, [(0.0, 10.0), (10.0, 20.0)]).stroke(Stroke::Dashed));
        chart
    }

    #[test]
    fn points_stand_where_the_axes_say() {
        let svg = chart().svg().unwrap();
        let parsed = roxmltree::Document::parse(svg.markup()).unwrap();
        // The band is the first polygon: four corners, of which x and y are linear in the data.
        let band = parsed.descendants().find(|node| node.has_tag_name("polygon")).unwrap();
        let corners: Vec<Vec<f64>> = band
            .attribute("points")
            .unwrap()
            .split_whitespace()
            .map(|pair| pair.split(',').map(|x| x.parse().unwrap()).collect())
            .collect();
        assert_eq!(corners.len(), 4);
        let pixels = corners[0][1] - corners[3][1];
        assert!(pixels > 30.0, "10 % of the height: {corners:?}");
        assert!((corners[1][1] - corners[2][1] - pixels).abs() <= 1.0, "{corners:?}");
        assert!((corners[0][1] - corners[1][1] - 2.5 * pixels).abs() <= 2.0, "25 % higher: {corners:?}");
        assert!(!svg.markup().contains("NaN"));
    }

    #[test]
    fn names_are_text_and_a_page_can_read_the_picture_out() {
        let inline = chart().svg().unwrap().inline();
        let parsed = roxmltree::Document::parse(&inline).unwrap();
        let root = parsed.root_element();
        assert_eq!((root.attribute("role"), root.attribute("aria-label")), (Some("img"), Some("a <b> & \"c\"")));
        assert_eq!(root.first_element_child().map(|node| node.tag_name().name()), Some("title"));
        assert!(parsed.descendants().all(|node| !node.has_tag_name("script")));
        assert!(parsed.descendants().any(|node| node.text().is_some_and(|text| text.trim() == "<script>")));
    }

    #[test]
    fn a_chart_without_points_and_one_of_a_single_point_are_drawn() {
        let empty = Chart::new("", Axis::fitted("x"), Axis::fitted("y"));
        assert!(empty.svg().unwrap().markup().ends_with("</svg>\n"));
        let mut single = Chart::new("", Axis::fixed("x", 3.0, 3.0), Axis::fitted("y"));
        single.push(Line::new("", Tone::Blue, [(3.0, 1.0)]).mark(Mark::Square).stroke(Stroke::None));
        let both = panels("two", &[empty, single], 3).unwrap();
        assert!(roxmltree::Document::parse(both.markup()).is_ok());
        assert!(!both.markup().contains("NaN") && !both.markup().contains("inf"));
    }

    #[test]
    fn ticks_are_short_and_differ() {
        for (value, span, text) in [
            (-5.0, 30.0, "-5"),
            (0.3, 1.0, "0.3"),
            (-0.0001, 30.0, "0"),
            (80.0, 100.0, "80"),
            (250_000.0, 100_000.0, "250k"),
            (4_200_000.0, 1_000_000.0, "4.2M"),
            (1500.0, 3000.0, "1500"),
        ] {
            assert_eq!(number(value, span), text, "{value} of {span}");
        }
    }
}
