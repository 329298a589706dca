//! Colours and the style sheet, for light and dark.

use std::fmt::Write as _;

use plotters::style::RGBColor;

/// Red, green, blue.
pub(crate) type Rgb = (u8, u8, u8);

pub(crate) const PAPER: [Rgb; 2] = [(255, 255, 255), (20, 24, 29)];
pub(crate) const INK: [Rgb; 2] = [(27, 31, 36), (230, 234, 238)];
/// Lines of a grid; never text.
pub(crate) const FAINT: [Rgb; 2] = [(217, 222, 228), (57, 66, 77)];

/// Shades of a heat map. The deepest still carries the ink in either scheme.
pub(crate) const SHADES: usize = 9;
const DEEPEST: [f64; 2] = [0.62, 0.5];

/// Colours that tell lines apart, readable as text on either paper. A line also has its dashes or marks: none is told by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "colours")]
pub enum Tone {
    Blue,
    Orange,
    Green,
    Purple,
    Ochre,
    Grey,
}

impl Tone {
    /// All of them; grey last.
    pub const ALL: [Tone; 6] = [Tone::Blue, Tone::Orange, Tone::Green, Tone::Purple, Tone::Ochre, Tone::Grey];

    /// The tone of the `index`-th line, from the start again where there are more.
    pub fn nth(index: usize) -> Tone {
        Self::ALL[index % Self::ALL.len()]
    }

    /// On light and on dark paper.
    pub(crate) const fn rgb(self) -> [Rgb; 2] {
        match self {
            Tone::Blue => [(31, 94, 168), (111, 177, 255)],
            Tone::Orange => [(184, 64, 22), (255, 148, 102)],
            Tone::Green => [(28, 116, 64), (99, 207, 143)],
            Tone::Purple => [(122, 62, 157), (207, 155, 242)],
            Tone::Ochre => [(128, 98, 0), (224, 184, 74)],
            Tone::Grey => [(91, 102, 114), (167, 178, 190)],
        }
    }

    pub(crate) fn light(self) -> RGBColor {
        rgb(self.rgb()[0])
    }
}

pub(crate) fn rgb((r, g, b): Rgb) -> RGBColor {
    RGBColor(r, g, b)
}

/// Background of shade `level` of a heat map in scheme 0 (light) or 1 (dark).
pub(crate) fn shade(scheme: usize, level: usize) -> Rgb {
    let share = DEEPEST[scheme] * level as f64 / (SHADES - 1) as f64;
    let (from, to) = (PAPER[scheme], Tone::Blue.rgb()[scheme]);
    let mix = |a: u8, b: u8| (f64::from(a) + share * (f64::from(b) - f64::from(a))).round() as u8;
    (mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}

fn hex((r, g, b): Rgb) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

/// The style sheet of a document. Charts carry the light colours in their elements, as a file of their own does; for dark paper the sheet
/// exchanges them one by one.
pub(crate) fn sheet() -> String {
    let mut css = format!(":root{{{}}}\n", variables(0));
    let mut dark = format!(":root{{{}}}\n", variables(1));
    let pairs = [PAPER, INK, FAINT].into_iter().chain(Tone::ALL.map(Tone::rgb));
    for [light, other] in pairs {
        for property in ["fill", "stroke"] {
            let _ = writeln!(dark, ".chart [{property}=\"{}\"]{{{property}:{}}}", hex(light), hex(other));
        }
    }
    // On paper all is light.
    let _ = writeln!(css, "@media screen and (prefers-color-scheme:dark){{\n{dark}}}");
    css += RULES;
    for level in 0..SHADES {
        let _ = writeln!(css, ".h{level}{{background:var(--h{level})}}");
    }
    css + PRINT
}

fn variables(scheme: usize) -> String {
    let mut text = format!("--paper:{};--ink:{};--faint:{};", hex(PAPER[scheme]), hex(INK[scheme]), hex(FAINT[scheme]));
    let named = [("blue", Tone::Blue), ("green", Tone::Green), ("orange", Tone::Orange), ("grey", Tone::Grey)];
    for (name, tone) in named {
        let _ = write!(text, "--{name}:{};", hex(tone.rgb()[scheme]));
    }
    for level in 0..SHADES {
        let _ = write!(text, "--h{level}:{};", hex(shade(scheme, level)));
    }
    text
}

const RULES: &str = "\
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem 1rem 3rem;max-width:72rem;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0}
h2{font-size:1.3rem;margin:2.2rem 0 .6rem;border-bottom:2px solid var(--faint);padding-bottom:.2rem}
h3{font-size:1.05rem;margin:1.4rem 0 .4rem}
p{margin:.5rem 0;max-width:46rem}
a{color:var(--blue)}
a:focus-visible,[tabindex]:focus-visible{outline:3px solid var(--blue);outline-offset:2px}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;list-style:none;padding:0}
.note{border-left:4px solid var(--orange);padding:.3rem .8rem}
.facts{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.2rem 1rem;margin:.6rem 0}
.facts dt{color:var(--grey)}
.facts dd{margin:0;unicode-bidi:isolate}
figure{margin:1rem 0}
figcaption,caption{color:var(--grey);font-size:.9rem;text-align:left;padding:.3rem 0}
.wide{overflow-x:auto}
.chart{display:block;width:100%;height:auto;min-width:30rem}
.light{background:#FFFFFF;border:1px solid var(--faint)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
th,td{padding:.25rem .55rem;border-bottom:1px solid var(--faint);text-align:left;vertical-align:middle;unicode-bidi:isolate;overflow-wrap:break-word}
thead th{vertical-align:bottom}
.n{text-align:right;white-space:nowrap}
.heat th,.heat td{padding:.2rem .35rem;overflow-wrap:normal}
.heat td{text-align:right;border:1px solid var(--faint);min-width:2.1rem}
.heat tbody th{white-space:nowrap}
.heat thead th.c{writing-mode:vertical-rl;text-align:left}
.heat td.d{outline:2px solid var(--ink);outline-offset:-2px;font-weight:600}
.right{color:var(--green)}
.wrong{color:var(--orange);font-weight:600;text-decoration:underline}
.sample{vertical-align:middle;width:3.5rem;height:3.5rem;object-fit:contain;image-rendering:pixelated;background:#808080}
.many{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,31rem),1fr));gap:0 1.5rem}
pre{overflow-x:auto;border:1px solid var(--faint);padding:.6rem;font-size:.85rem;white-space:pre-wrap}
footer{margin-top:3rem;border-top:1px solid var(--faint);color:var(--grey);font-size:.9rem}
";

const PRINT: &str = "\
@media print{
body{max-width:none;padding:0;font-size:11pt}
nav{display:none}
.wide{overflow:visible}
.chart{min-width:0}
figure,tr,.facts,.many>*{break-inside:avoid}
.many{display:block}
.many>*{display:inline-block;vertical-align:top;margin-right:.8rem}
.many>figure{width:47%}
h2,h3,caption{break-after:avoid}
td{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
";

#[cfg(test)]
mod tests {
    use super::*;

    /// WCAG 2.1: relative luminance, and the contrast of two colours.
    fn contrast(a: Rgb, b: Rgb) -> f64 {
        let linear = |c: u8| {
            let c = f64::from(c) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        let luminance = |(r, g, b): Rgb| 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn every_text_is_readable_in_both_schemes() {
        // Black on white is 21 by definition.
        assert!((contrast((0, 0, 0), (255, 255, 255)) - 21.0).abs() < 1e-9);
        for scheme in [0, 1] {
            for text in Tone::ALL.map(|tone| tone.rgb()[scheme]).into_iter().chain([INK[scheme]]) {
                let found = contrast(text, PAPER[scheme]);
                assert!(found >= 4.5, "scheme {scheme}: {text:?} has {found}");
            }
            for level in 0..SHADES {
                let found = contrast(INK[scheme], shade(scheme, level));
                assert!(found >= 4.5, "scheme {scheme}: shade {level} has {found}");
            }
        }
    }

    #[test]
    fn the_sheet_exchanges_every_colour_of_a_chart() {
        let sheet = sheet();
        for tone in Tone::ALL {
            let [light, dark] = tone.rgb();
            assert!(sheet.contains(&format!(".chart [stroke=\"{}\"]{{stroke:{}}}", hex(light), hex(dark))));
        }
        assert_eq!(sheet.matches('{').count(), sheet.matches('}').count());
        assert!(!sheet.contains("url(") && !sheet.contains("@import"));
    }
}
