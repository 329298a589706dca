//! Whether a page can be used by keyboard, read aloud, read at all, and read on a telephone. Needs nothing but the browser; [`crate::axe`]
//! knows many more rules.
//!
//! Colours are computed from styles, not from what is drawn: text on a background image is a violation, because nobody can tell; text
//! over elements that are no ancestors of it is taken as lying on its ancestors, except in SVG, where shapes behind it count. Frames and
//! shadow trees are not looked into.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::page::{Page, Scheme};
use crate::{Error, PATIENCE};

const SCRIPT: &str = include_str!("accessibility.js");
const DESKTOP: u32 = 1280;
/// The width that a page has to make do with.
const TELEPHONE: u32 = 360;

/// Something that keeps people out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What it breaks.
    pub rule: Rule,
    /// A selector of the element.
    pub subject: String,
    /// What was found.
    pub detail: String,
}

/// What a page has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Every control has a name, as the browser tells it to a screen reader.
    Name,
    /// Tab reaches every control, in the order of the document, and nothing else.
    Keyboard,
    /// Text has a contrast of 4.5:1, large text 3:1, in light and in dark.
    Contrast,
    /// Nothing scrolls sideways at 360 pixels.
    Width,
}

#[derive(Debug, Deserialize)]
struct Found {
    subject: String,
    detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.rule, self.subject, self.detail)
    }
}

/// A page as it is in one window.
struct Check<'a> {
    page: &'a Page,
    world: u64,
    found: Vec<Violation>,
}

/// All violations of a page, in a wide window and in a narrow one, in light and in dark. Afterwards the window is wide and the colours are
/// those of the browser; the focus is nowhere.
///
/// # Errors
///
/// If the browser has gone or the page loads another document meanwhile.
pub fn check(page: &Page) -> Result<Vec<Violation>, Error> {
    let mut check = Check { page, world: page.world()?, found: Vec::new() };
    check.ask::<Value>(SCRIPT)?;
    for width in [TELEPHONE, DESKTOP] {
        page.viewport(width, 900)?;
        check.settle()?;
        check.names()?;
        check.keyboard()?;
        for (scheme, name) in [(Scheme::Light, "light"), (Scheme::Dark, "dark")] {
            page.color_scheme(Some(scheme))?;
            check.settle()?;
            let found: Vec<Found> = check.ask("accessibility.contrast()")?;
            for Found { subject, detail } in found {
                check.add(Rule::Contrast, subject, format!("in {name}, {detail}"));
            }
        }
        page.color_scheme(None)?;
        if width == TELEPHONE {
            check.settle()?;
            let found: Vec<Found> = check.ask(&format!("accessibility.tooWide({width})"))?;
            for Found { subject, detail } in found {
                check.add(Rule::Width, subject, detail);
            }
        }
    }
    check.settle()?;
    Ok(check.found)
}

impl Check<'_> {
    fn ask<T: DeserializeOwned>(&self, script: &str) -> Result<T, Error> {
        self.page.evaluate_in(Some(self.world), PATIENCE, script)
    }

    fn settle(&self) -> Result<(), Error> {
        self.ask::<Value>("accessibility.settle()").map(drop)
    }

    /// What holds in both windows is told once.
    fn add(&mut self, rule: Rule, subject: String, detail: String) {
        let violation = Violation { rule, subject, detail };
        if !self.found.contains(&violation) {
            self.found.push(violation);
        }
    }

    fn names(&mut self) -> Result<(), Error> {
        let tree = self.page.call("Accessibility.getFullAXTree", json!({}))?;
        let nodes = tree.get("nodes").and_then(Value::as_array);
        let nodes: HashMap<u64, &Value> = nodes
            .into_iter()
            .flatten()
            .filter_map(|node| Some((node.get("backendDOMNodeId")?.as_u64()?, node)))
            .collect();
        let subjects: Vec<String> = self.ask("accessibility.controls().map(accessibility.selector)")?;
        for (number, subject) in subjects.into_iter().enumerate() {
            let told = nodes.get(&self.node(number)?);
            let ignored = told.and_then(|node| node.get("ignored")).and_then(Value::as_bool).unwrap_or(true);
            let name = told.and_then(|node| node.pointer("/name/value")).and_then(Value::as_str).unwrap_or_default();
            if ignored {
                self.add(Rule::Name, subject, "it is hidden from screen readers and yet a control".into());
            } else if name.trim().is_empty() {
                self.add(Rule::Name, subject, "it has no accessible name: give it a label".into());
            }
        }
        Ok(())
    }

    /// The browser's number of a control.
    fn node(&self, number: usize) -> Result<u64, Error> {
        let expression = format!("accessibility.controls()[{number}]");
        let found = self.page.call(
            "Runtime.evaluate",
            json!({"expression": expression, "contextId": self.world, "objectGroup": "accessibility"}),
        )?;
        let object = found.pointer("/result/objectId").cloned().unwrap_or_default();
        let described = self.page.call("DOM.describeNode", json!({"objectId": object}))?;
        let node = described.pointer("/node/backendNodeId").and_then(Value::as_u64);
        node.ok_or(Error::Answer { method: "DOM.describeNode".into(), missing: "backendNodeId" })
    }

    fn keyboard(&mut self) -> Result<(), Error> {
        for subject in self.ask::<Vec<String>>("accessibility.deaf()")? {
            self.add(Rule::Keyboard, subject, "it has the role of a control and cannot have the focus".into());
        }
        for subject in self.ask::<Vec<String>>("accessibility.jumping()")? {
            self.add(Rule::Keyboard, subject, "its tabindex takes it out of the order of the document".into());
        }
        let expected: Vec<String> = self.ask("accessibility.begin()")?;
        let mut met: Vec<(i64, String)> = Vec::new();
        // Some controls have several stops of their own, such as a date: the focus stays on the element meanwhile.
        for _ in 0..expected.len() * 4 + 8 {
            self.page.press("Tab")?;
            let Some(stop) = self.ask::<Option<(i64, String)>>("accessibility.at()")? else { break };
            if met.last() == Some(&stop) {
                continue;
            }
            if met.contains(&stop) {
                break;
            }
            met.push(stop);
        }
        self.ask::<Value>("accessibility.rewind()")?;
        for (_, other) in met.iter().filter(|(number, _)| *number < 0) {
            self.add(Rule::Keyboard, other.clone(), "Tab stops there, and it is no control".into());
        }
        let order: Vec<usize> = met.iter().filter_map(|(number, _)| usize::try_from(*number).ok()).collect();
        for (number, subject) in expected.iter().enumerate() {
            if !order.contains(&number) {
                self.add(Rule::Keyboard, subject.clone(), "Tab does not reach it".into());
            }
        }
        for pair in order.windows(2) {
            if let [before, after] = pair
                && before > after
            {
                let name = |number: &usize| expected.get(*number).cloned().unwrap_or_default();
                self.add(
                    Rule::Keyboard,
                    name(after),
                    format!("Tab reaches it after {}, which stands behind it", name(before)),
                );
            }
        }
        Ok(())
    }
}
