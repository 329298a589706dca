//! The page.

use std::fmt::Write as _;

use crate::{Svg, Table, escape, style};

/// Nothing may be fetched, whatever is in the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// A page with sections.
#[derive(Clone, Debug)]
pub struct Document {
    title: String,
    lead: String,
    maker: String,
    sections: Vec<Section>,
}

/// A part of the page under a heading.
#[derive(Clone, Debug)]
pub struct Section {
    title: String,
    body: String,
}

impl Document {
    /// `lead` says in a sentence what the reader holds, `maker` what made it.
    pub fn new(title: impl Into<String>, lead: impl Into<String>, maker: impl Into<String>) -> Document {
        Document { title: title.into(), lead: lead.into(), maker: maker.into(), sections: Vec::new() }
    }

    /// Adds a section; one without content is left out.
    pub fn push(&mut self, section: Section) {
        if !section.body.is_empty() {
            self.sections.push(section);
        }
    }

    /// The file.
    pub fn html(&self) -> String {
        let (title, style) = (escape(&self.title), style::sheet());
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\" />\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{}\" />\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\n\
             <meta name=\"color-scheme\" content=\"light dark\" />\n<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n\
             <header><h1>{title}</h1>\n<p>{}</p></header>\n<nav aria-label=\"Contents\"><ul>\n",
            escape(POLICY),
            escape(&self.lead)
        );
        for (i, section) in self.sections.iter().enumerate() {
            let _ = writeln!(html, "<li><a href=\"#s{i}\">{}</a></li>", escape(&section.title));
        }
        html += "</ul></nav>\n<main>\n";
        for (i, section) in self.sections.iter().enumerate() {
            let Section { title, body } = section;
            let title = escape(title);
            let _ =
                writeln!(html, "<section aria-labelledby=\"s{i}\">\n<h2 id=\"s{i}\">{title}</h2>\n{body}</section>");
        }
        let _ = write!(html, "</main>\n<footer><p>{}</p></footer>\n</body>\n</html>\n", escape(&self.maker));
        html
    }
}

impl Section {
    /// Empty.
    pub fn new(title: impl Into<String>) -> Section {
        Section { title: title.into(), body: String::new() }
    }

    /// A heading within.
    pub fn heading(&mut self, text: &str) -> &mut Self {
        let _ = writeln!(self.body, "<h3>{}</h3>", escape(text));
        self
    }

    /// A paragraph.
    pub fn text(&mut self, text: &str) -> &mut Self {
        let _ = writeln!(self.body, "<p>{}</p>", escape(text));
        self
    }

    /// A paragraph that is not to be overlooked.
    pub fn note(&mut self, text: &str) -> &mut Self {
        let _ = writeln!(self.body, "<p class=\"note\">{}</p>", escape(text));
        self
    }

    /// Text as it is, such as a recipe.
    pub fn verbatim(&mut self, text: &str) -> &mut Self {
        let _ = writeln!(self.body, "<pre>{}</pre>", escape(text));
        self
    }

    /// Names and what they stand for.
    pub fn facts<N: AsRef<str>, V: AsRef<str>>(&mut self, facts: impl IntoIterator<Item = (N, V)>) -> &mut Self {
        self.body += "<dl class=\"facts\">\n";
        for (name, value) in facts {
            let _ = writeln!(self.body, "<dt>{}</dt><dd>{}</dd>", escape(name.as_ref()), escape(value.as_ref()));
        }
        self.body += "</dl>\n";
        self
    }

    /// A table.
    pub fn table(&mut self, table: &Table) -> &mut Self {
        self.body += &table.html();
        self
    }

    /// A picture with what is to be seen in it.
    pub fn figure(&mut self, svg: &Svg, caption: &str) -> &mut Self {
        // Wider than a phone: scrolled by mouse, finger or keyboard.
        let (svg, caption, label) = (svg.inline(), escape(caption), escape(svg.title()));
        let _ = writeln!(
            self.body,
            "<figure><div class=\"wide\" role=\"region\" aria-label=\"{label}\" tabindex=\"0\">{svg}</div>\
             <figcaption>{caption}</figcaption></figure>"
        );
        self
    }

    /// What `fill` adds, side by side where there is room.
    pub fn side_by_side(&mut self, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Section::new("");
        fill(&mut inner);
        if !inner.body.is_empty() {
            let _ = writeln!(self.body, "<div class=\"many\">\n{}</div>", inner.body);
        }
        self
    }

    /// One column of [`side_by_side`](Self::side_by_side).
    pub fn column(&mut self, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Section::new("");
        fill(&mut inner);
        let _ = writeln!(self.body, "<div>\n{}</div>", inner.body);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Axis, Cell, Chart, Image, Line, Tone};

    const HOSTILE: [&str; 4] = [
        "<script src=http://evil.example/x.js></script>",
        "\"><img src=x onerror=alert(1)>",
        "</style></title></svg>]]>",
        "javascript:alert(1)//\u{1b}[31m\0",
    ];

    fn page(name: &str) -> String {
        let mut document = Document::new(name, name, name);
        let mut section = Section::new(name);
        let mut table = Table::new(name, [name, "n"]);
        table.row([Cell::text(name), Cell::number(Some(name))]);
        table.row([Cell::text(name), Cell::Verdict { right: true, text: name.to_owned() }]);
        let image = Image::of(b"\x89PNG", name).unwrap();
        table.row([Cell::Picture(image, name.to_owned()), Cell::number(None::<u8>)]);
        let mut chart = Chart::new(name, Axis::fitted(name), Axis::fitted(name));
        chart.push(Line::new(name, Tone::Blue, [(0.0, 1.0), (1.0, 2.0)]));
        let svg = chart.svg().unwrap();
        section
            .text(name)
            .note(name)
            .heading(name)
            .verbatim(name)
            .facts([(name, name)])
            .table(&table)
            .figure(&svg, name);
        section.side_by_side(|many| {
            many.column(|one| {
                one.table(&table);
            });
        });
        document.push(section);
        document.push(Section::new("empty"));
        document.html()
    }

    /// The page as a parser sees it.
    fn parsed(html: &str) -> roxmltree::Document<'_> {
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        roxmltree::Document::parse_with_options(html, options).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn hostile_names_stay_text_wherever_they_stand() {
        for name in HOSTILE {
            let html = page(name);
            let parsed = parsed(&html);
            for node in parsed.descendants().filter(|node| node.is_element()) {
                assert!(node.tag_name().name() != "script", "{name}");
                for attribute in node.attributes() {
                    assert!(!attribute.name().starts_with("on"), "{name}: {}", attribute.name());
                    if ["src", "href"].contains(&attribute.name()) {
                        let local = attribute.value().starts_with('#') || attribute.value().starts_with("data:image/");
                        assert!(local, "{name}: {}", attribute.value());
                    }
                }
            }
            let heading = parsed.descendants().find(|node| node.has_tag_name("h2")).unwrap();
            let shown: String = name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            assert_eq!(heading.text(), Some(shown.as_str()));
        }
    }

    #[test]
    fn the_page_names_its_language_parts_and_pictures() {
        let html = page("plain");
        let parsed = parsed(&html);
        let of = |name: &str| parsed.descendants().filter(|node| node.tag_name().name() == name).collect::<Vec<_>>();
        assert_eq!(of("html")[0].attribute("lang"), Some("en"));
        assert_eq!((of("h1").len(), of("h2").len()), (1, 1), "an empty section is left out");
        assert!(of("svg").iter().all(|svg| svg.attribute("role") == Some("img")));
        assert!(of("img").iter().all(|image| image.attribute("alt").is_some_and(|alt| !alt.is_empty())));
        for link in of("a") {
            let target = link.attribute("href").and_then(|href| href.strip_prefix('#'));
            assert!(parsed.descendants().any(|node| node.attribute("id") == target), "{target:?}");
        }
        assert!(html.contains("default-src &#39;none&#39;"));
    }
}
