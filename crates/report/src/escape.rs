//! Text from outside, made safe.

/// `text` for the content of an element or a quoted attribute. Characters that no document may hold become U+FFFD.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            '\t' | '\n' => safe.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// `text` for a drawing library that escapes, but takes characters that no document may hold.
pub(crate) fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') { '\u{fffd}' } else { c };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_gives_back_what_was_escaped() {
        for text in ["<script>alert('1')</script>", "\" onload=\"x", "&amp;", "]]> -->", "ü 日本 \u{202e}x"] {
            let element = format!("<a b=\"{0}\">{0}</a>", escape(text));
            let parsed = roxmltree::Document::parse(&element).unwrap();
            let root = parsed.root_element();
            assert_eq!((root.text(), root.attribute("b")), (Some(text), Some(text)));
        }
        assert_eq!(escape("a\0b\x1b[31m\u{ffff}"), "a\u{fffd}b\u{fffd}[31m\u{fffd}");
    }
}
