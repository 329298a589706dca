//! What can go wrong with a report.

use std::path::PathBuf;

/// A report that cannot be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A picture.
    #[error("the picture {title:?} cannot be drawn: {what}")]
    Draw {
        /// What it is called.
        title: String,
        /// What the drawing library says.
        what: String,
    },
    /// A file.
    #[error("{}: {what}; name a file in a folder that can be written", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// A folder where a file is to be.
    #[error("{}: is a folder; name a file in it", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
    },
}

/// With this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
