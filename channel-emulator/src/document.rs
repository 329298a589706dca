//! A file of links, in TOML: what an emulator starts with and what `semlink channel populate` sends it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::links::LinkConfig;
use crate::schedule::Schedule;

/// ```toml
/// [[links]]
/// name = "default"
/// next = "http://127.0.0.1:50053"
/// stages = [{ model = "rayleigh", doppler = 0.01 }, { model = "awgn", snr_db = 10 }]
/// schedule = { axis = "frames", points = [[0, 20], [5000, -5]] }
/// ```
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    links: Vec<Entry>,
}

/// A link whose schedule may come from a trace.
#[derive(Debug, Deserialize)]
struct Entry {
    schedule: Option<EntrySchedule>,
    #[serde(flatten)]
    link: toml::Table,
}

#[derive(Debug, Deserialize)]
struct EntrySchedule {
    /// Relative to the file of links.
    trace: Option<PathBuf>,
    #[serde(flatten)]
    schedule: toml::Table,
}

/// The links of a file, in order; whether their channels can be shows when they are created.
///
/// # Errors
/// A file that cannot be read or is no such document, with the line or the link; a trace with the line.
pub fn read_links(path: &Path) -> Result<Vec<LinkConfig>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let wrong = |error: toml::de::Error| format!("{}: {error}", path.display());
    let document: Document = toml::from_str(&text).map_err(wrong)?;
    if document.links.is_empty() {
        return Err(format!("{}: no links, expected [[links]] with name, next and stages", path.display()));
    }
    let directory = path.parent().unwrap_or(Path::new(""));
    (1..).zip(document.links).map(|(number, entry)| entry.link(path, number, directory)).collect()
}

impl Entry {
    fn link(self, path: &Path, number: usize, directory: &Path) -> Result<LinkConfig, String> {
        let Entry { schedule, mut link } = self;
        let name =
            link.get("name").and_then(toml::Value::as_str).map_or(number.to_string(), |name| format!("{name:?}"));
        let wrong = |error: String| format!("{}: link {name}: {}", path.display(), error.trim_end());
        if let Some(EntrySchedule { trace, mut schedule }) = schedule {
            if let Some(trace) = trace {
                let points = Schedule::points_of(&directory.join(trace)).map_err(wrong)?;
                let points = points
                    .into_iter()
                    .map(|(at, snr_db)| toml::Value::Array(vec![at.into(), f64::from(snr_db).into()]));
                if schedule.insert("points".into(), toml::Value::Array(points.collect())).is_some() {
                    return Err(wrong("schedule has points and trace, must have one of them".to_owned()));
                }
            }
            link.insert("schedule".into(), schedule.into());
        }
        let link: LinkConfig = link.try_into().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
        Ok(link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<LinkConfig>, String> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("links.toml");
        std::fs::write(&path, text).expect("a file");
        std::fs::write(directory.path().join("snr.csv"), "0,10\n5,-2.5\n").expect("a file");
        std::fs::write(directory.path().join("bad.csv"), "0,10\n5,?\n").expect("a file");
        read_links(&path)
    }

    const GOOD: &str =
        "[[links]]\nname = 'a'\nnext = 'http://127.0.0.1:1'\nstages = [{ model = 'awgn', snr_db = 3 }]\n";

    #[test]
    fn links_have_their_defaults_and_traces_their_points() {
        let text = format!("{GOOD}schedule = {{ axis = 'frames', trace = 'snr.csv' }}\n{}", GOOD.replace("'a'", "'b'"));
        let links = read(&text).expect("links");
        assert_eq!((links.len(), links[0].csi, links[0].seed), (2, crate::CsiMode::Perfect, 0));
        assert_eq!(links[0].schedule.as_ref().expect("a schedule").points, [(0.0, 10.0), (5.0, -2.5)]);
        assert_eq!(links[1], LinkConfig { name: "b".into(), schedule: None, ..links[0].clone() });
        assert!(links[0].profile(None).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("links = 3".to_owned(), "line 1"),
            (String::new(), "no links"),
            (format!("{GOOD}colour = 'red'\n"), "unknown field `colour`"),
            (GOOD.replace("next", "nxt"), "link \"a\": "),
            (GOOD.replace("name = 'a'", "seed = -1"), "link 1: "),
            (format!("{GOOD}schedule = {{ axis = 'frames', trace = 'bad.csv' }}\n"), "bad.csv, line 2"),
            (format!("{GOOD}schedule = {{ axis = 'days', points = [[0, 1]] }}\n"), "days"),
            (format!("{GOOD}transport = {{ lost = 0.5 }}\n"), "unknown field `lost`"),
        ];
        for (text, named) in cases {
            let error = read(&text).expect_err("no links");
            assert!(error.contains("links.toml") && error.contains(named), "{error}");
        }
    }
}
