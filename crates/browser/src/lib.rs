//! Drives Chromium from tests and measurements: pages are opened, clicked, typed into, weighed and checked for accessibility as a person
//! would meet them.
//!
//! The browser is asked over the Chrome DevTools Protocol on a pair of pipes (`--remote-debugging-pipe`), not over its WebSocket. So there
//! is no port that others could use, no WebSocket library, and the browser ends by itself when the test that started it dies. Ready-made
//! clients exist. On two cores `chromiumoxide` adds minutes to a cold build and 138 packages, with bindings of the whole protocol for the
//! two dozen commands that are used here; the build script of `headless_chrome` generates such bindings, too, and needs a network.
//!
//! All calls block: tests and measurements read from top to bottom. No call waits longer than [`PATIENCE`] or the timeout that it is given.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod accessibility;
pub mod axe;
mod browser;
mod input;
mod network;
mod page;
mod pipe;

use std::path::PathBuf;
use std::time::Duration;

pub use browser::Browser;
pub use network::{Problem, Request};
pub use page::{Page, Scheme};

/// How long the browser may take to answer a command, to start, and to load a page.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What can go wrong with a browser or on a page.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be started.
    #[error("{}: cannot start: {source}", .program.display())]
    Start {
        /// What was to be started.
        program: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// It has ended, or its pipe has.
    #[error("the browser has gone: {0}")]
    Gone(String),
    /// It refused a command.
    #[error("{method}: {message}")]
    Refused {
        /// The command.
        method: String,
        /// What the browser says.
        message: String,
    },
    /// It answered something that this crate does not understand.
    #[error("{method}: an answer without {missing}")]
    Answer {
        /// The command.
        method: String,
        /// What was expected in it.
        missing: &'static str,
    },
    /// Something took too long.
    #[error("not within {after:?}: {what}")]
    Late {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
    /// A page cannot be loaded.
    #[error("{url}: {message}")]
    Load {
        /// Its address.
        url: String,
        /// What the browser says.
        message: String,
    },
    /// A script threw.
    #[error("{message} in: {script}")]
    Script {
        /// The beginning of it.
        script: String,
        /// The exception.
        message: String,
    },
    /// What a script gave is of another type than was asked for.
    #[error("{script} gave something else: {source}")]
    Value {
        /// The beginning of it.
        script: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// No element fits.
    #[error("no element fits {0}")]
    Missing(String),
    /// The pointer cannot get at an element.
    #[error("{selector} cannot be clicked: {by} is in its place")]
    Covered {
        /// The element.
        selector: String,
        /// What the pointer meets instead.
        by: String,
    },
    /// No key is called so.
    #[error("no key is called {0}")]
    Key(String),
    /// A file cannot be read.
    #[error("{}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The page complained: exceptions, console errors, failed requests.
    #[error("the page complained: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Problems(Vec<Problem>),
}

/// The beginning of a script, for messages.
fn shown(script: &str) -> String {
    const MOST: usize = 200;
    match script.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", script.get(..end).unwrap_or_default()),
        None => script.to_owned(),
    }
}
