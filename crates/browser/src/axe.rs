//! axe-core, the rules that most accessibility tools share, run in a page. It is no part of this repository (its licence is MPL-2.0): the
//! environment variable `SEMLINK_AXE` names the file `axe.min.js` of one of the packages that bring it, such as `axe-playwright-python`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Error, Page};

/// A rule of axe-core that a page breaks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Violation {
    /// Name of the rule, e.g. `color-contrast`.
    pub id: String,
    /// `minor`, `moderate`, `serious` or `critical`.
    pub impact: String,
    /// What the rule asks for.
    pub help: String,
    /// The elements that break it.
    pub selectors: Vec<String>,
}

const RUN: &str = "axe.run(document, {resultTypes: ['violations']}).then(({violations}) => violations.map(({id, impact, help, nodes}) =>
    ({id, impact: impact ?? 'minor', help, selectors: nodes.map(node => node.target.flat().join(' '))})))";

/// The file that `SEMLINK_AXE` names. `None`, with a message, without: the check skips.
pub fn file() -> Option<PathBuf> {
    let named = std::env::var_os("SEMLINK_AXE").filter(|named| !named.is_empty()).map(PathBuf::from);
    if named.is_none() {
        eprintln!("skipped: axe-core; SEMLINK_AXE=FILE names its axe.min.js, see crates/browser/requirements.txt");
    }
    named
}

/// What a page breaks in the window and the colours that it has.
///
/// # Errors
///
/// [`Error::File`] if the file cannot be read, [`Error::Script`] if it is not axe-core.
pub fn check(page: &Page, file: &Path) -> Result<Vec<Violation>, Error> {
    let source = fs::read_to_string(file).map_err(|source| Error::File { path: file.to_owned(), source })?;
    // In a world of its own: the page keeps its variables.
    let world = Some(page.world()?);
    page.evaluate_in::<serde_json::Value>(world, crate::PATIENCE, &format!("{source}\n;null"))?;
    page.evaluate_in(world, crate::PATIENCE, RUN)
}
