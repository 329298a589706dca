//! Tables.

use std::fmt::Write as _;

use crate::{Image, escape};

/// A table with a caption; the first cell of each row names it.
#[derive(Clone, Debug)]
pub struct Table {
    caption: String,
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
    heat: bool,
}

/// A cell.
#[derive(Clone, Debug)]
pub enum Cell {
    /// Left.
    Text(String),
    /// Right, with digits of one width.
    Number(String),
    /// A decision, with a sign before it.
    Verdict {
        /// Whether it is right.
        right: bool,
        /// What was decided.
        text: String,
    },
    /// A picture, with a text beside it.
    Picture(Image, String),
    /// A count on a background of a shade.
    Shade {
        /// From 0 to 8.
        level: usize,
        /// On the diagonal: framed.
        diagonal: bool,
        /// The count.
        text: String,
    },
}

impl Table {
    /// Without rows yet.
    pub fn new<S: Into<String>>(caption: impl Into<String>, columns: impl IntoIterator<Item = S>) -> Table {
        let columns = columns.into_iter().map(Into::into).collect();
        Table { caption: caption.into(), columns, rows: Vec::new(), heat: false }
    }

    /// As a heat map: small cells, names of columns upright.
    pub(crate) fn heat(self) -> Table {
        Table { heat: true, ..self }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Without rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn html(&self) -> String {
        // Wider than the page: scrolled by mouse, finger or keyboard.
        let caption = escape(&self.caption);
        let class = if self.heat { " class=\"heat\"" } else { "" };
        let mut html = format!(
            "<div class=\"wide\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\"><table{class}>\n\
             <caption>{caption}</caption>\n<thead><tr>"
        );
        let first = self.rows.first();
        for (i, column) in self.columns.iter().enumerate() {
            let class = match first.and_then(|row| row.get(i)) {
                _ if self.heat && i > 0 => " class=\"c\"",
                Some(Cell::Number(_)) if i > 0 => " class=\"n\"",
                _ => "",
            };
            let _ = write!(html, "<th scope=\"col\"{class}>{}</th>", escape(column));
        }
        html += "</tr></thead>\n<tbody>\n";
        for row in &self.rows {
            html += "<tr>";
            for (i, cell) in row.iter().enumerate() {
                let (class, content) = cell.html();
                let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
                let _ = match i {
                    0 => write!(html, "<th scope=\"row\"{class}>{content}</th>"),
                    _ => write!(html, "<td{class}>{content}</td>"),
                };
            }
            html += "</tr>\n";
        }
        html + "</tbody>\n</table></div>\n"
    }
}

impl Cell {
    /// A number, or a dash where there is none.
    pub fn number(value: Option<impl ToString>) -> Cell {
        Cell::Number(value.map_or_else(|| "\u{2013}".to_owned(), |value| value.to_string()))
    }

    /// A share as a percentage with two digits.
    pub fn percent(share: f64) -> Cell {
        Cell::Number(format!("{:.2} %", 100.0 * share))
    }

    /// Left.
    pub fn text(text: impl Into<String>) -> Cell {
        Cell::Text(text.into())
    }

    /// Class and content.
    fn html(&self) -> (String, String) {
        match self {
            Cell::Text(text) => (String::new(), escape(text)),
            Cell::Number(text) => ("n".to_owned(), escape(text)),
            Cell::Verdict { right, text } => {
                let (class, sign, said) =
                    if *right { ("right", '\u{2713}', "right") } else { ("wrong", '\u{2717}', "wrong") };
                let sign = format!("<span role=\"img\" aria-label=\"{said}\">{sign}</span>");
                (String::new(), format!("<span class=\"{class}\">{sign} {}</span>", escape(text)))
            }
            Cell::Picture(image, text) => (String::new(), format!("{} {}", image.html(), escape(text))),
            Cell::Shade { level, diagonal, text } => {
                let frame = if *diagonal { " d" } else { "" };
                (format!("h{}{frame}", (*level).min(crate::style::SHADES - 1)), escape(text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_are_named_and_verdicts_are_said() {
        let mut table = Table::new("t <i>", ["what", "how many"]);
        table.row([Cell::text("<b>"), Cell::number(Some(3))]);
        table.row([Cell::text("b"), Cell::Verdict { right: false, text: "coat".into() }]);
        let html = table.html();
        let parsed = roxmltree::Document::parse(&html).unwrap();
        let of = |name: &str| parsed.descendants().filter(|node| node.has_tag_name(name)).collect::<Vec<_>>();
        assert_eq!(of("caption")[0].text(), Some("t <i>"));
        let scopes: Vec<_> = of("th").iter().map(|node| (node.attribute("scope"), node.text())).collect();
        let (col, row) = (Some("col"), Some("row"));
        assert_eq!(scopes, [(col, Some("what")), (col, Some("how many")), (row, Some("<b>")), (row, Some("b"))]);
        assert!(of("span").iter().any(|node| node.attribute("aria-label") == Some("wrong")));
    }
}
