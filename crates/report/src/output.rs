//! A file that is there whole or not at all.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::{Error, Result};

/// Where a report will be. Its folder takes a file already, so that nobody works for a result that cannot be kept; what is not written leaves
/// nothing behind.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    file: NamedTempFile,
}

impl Output {
    /// Reserves `path`; a file that is there stays as it is until [`write`](Self::write).
    ///
    /// # Errors
    /// The folder is not there or takes no file, or `path` is a folder itself.
    pub fn prepare(path: &Path) -> Result<Output> {
        if path.is_dir() {
            return Err(Error::Folder { path: path.to_owned() });
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".report-").suffix(".tmp");
        // For others to read, as far as the process's mask allows.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        match builder.tempfile_in(folder) {
            Ok(file) => Ok(Output { path: path.to_owned(), file }),
            Err(error) => Err(failed(path, &error)),
        }
    }

    /// Where the file will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// The disk is full, or the folder has gone.
    pub fn write(mut self, text: &str) -> Result<()> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.as_file().sync_all());
        let kept = written.and_then(|()| self.file.persist(&self.path).map_err(|error| error.error));
        kept.map(drop).map_err(|error| failed(&self.path, &error))
    }
}

/// What the system says, without the name of the temporary file.
fn failed(path: &Path, error: &io::Error) -> Error {
    let text = error.to_string();
    let what = text.split(" at path ").next().unwrap_or_default().to_owned();
    Error::Write { path: path.to_owned(), what }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_an_abandoned_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.html");
        fs::write(&path, "before").unwrap();
        let output = Output::prepare(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        output.write("after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        drop(Output::prepare(&path).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_takes_no_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = dir.path().join("none/report.html");
        let text = Output::prepare(&nowhere).unwrap_err().to_string();
        assert!(
            text.starts_with(&format!("{}: No such file", nowhere.display())) && !text.contains(".report-"),
            "{text}"
        );
        assert!(matches!(Output::prepare(dir.path()), Err(Error::Folder { .. })));
    }
}
