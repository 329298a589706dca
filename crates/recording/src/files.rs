//! The two files of a recording, by name.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

const META: &str = "sigmf-meta";
const DATA: &str = "sigmf-data";
const PART: &str = "part";

/// Meta and data file of one recording.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) meta: PathBuf,
    pub(crate) data: PathBuf,
}

impl Pair {
    /// From the meta file, the data file, one of these unfinished, or what their names have in common.
    pub(crate) fn of(path: &Path) -> Pair {
        let has =
            |path: &Path, names: &[&str]| path.extension().is_some_and(|found| names.iter().any(|name| found == *name));
        let mut stem = path.to_path_buf();
        if has(&stem, &[PART]) && stem.file_stem().is_some_and(|name| has(Path::new(name), &[META, DATA])) {
            stem.set_extension("");
        }
        if has(&stem, &[META, DATA]) {
            stem.set_extension("");
        }
        Pair { meta: with(&stem, META), data: with(&stem, DATA) }
    }

    /// The names that the files have while they are written.
    pub(crate) fn parts(&self) -> Pair {
        Pair { meta: with(&self.meta, PART), data: with(&self.data, PART) }
    }

    /// # Errors
    /// [`Error::Exists`] if one of the files is there, finished or not.
    pub(crate) fn refuse_existing(&self) -> Result<()> {
        let parts = self.parts();
        for path in [&self.meta, &self.data, &parts.meta, &parts.data] {
            if exists(path)? {
                return Err(Error::Exists { path: path.clone() });
            }
        }
        Ok(())
    }
}

/// Whether there is something of that name, be it a link to nothing.
pub(crate) fn exists(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Io { path: path.into(), action: "look for the file", source }),
    }
}

/// Appends, where `Path::with_extension` would replace what follows a dot in the stem.
fn with(path: &Path, extension: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(extension);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_recording_leads_to_it() {
        for name in ["d/a.b", "d/a.b.sigmf-meta", "d/a.b.sigmf-data", "d/a.b.sigmf-meta.part", "d/a.b.sigmf-data.part"]
        {
            let pair = Pair::of(Path::new(name));
            assert_eq!(pair.meta, Path::new("d/a.b.sigmf-meta"), "{name}");
            assert_eq!(pair.data, Path::new("d/a.b.sigmf-data"), "{name}");
            assert_eq!(pair.parts().data, Path::new("d/a.b.sigmf-data.part"));
        }
        assert_eq!(Pair::of(Path::new("x.part")).meta, Path::new("x.part.sigmf-meta"));
    }
}
