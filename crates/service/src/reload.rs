//! When a bundle on disk has changed.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How often a directory is looked at.
pub const PERIOD: Duration = Duration::from_secs(1);

/// Watches the files of a directory.
///
/// By looking at it again and again: that works on every file system, also where a directory is swapped by a link, as Kubernetes does with
/// mounted volumes.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    seen: Stamp,
}

/// Names, sizes, times and numbers of the files.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Stamp(Vec<(PathBuf, u64, Option<SystemTime>, u64)>);

impl Directory {
    /// Changes count from now on; best called before the files are read.
    pub fn watch(path: impl Into<PathBuf>) -> Directory {
        let path = path.into();
        Directory { seen: Stamp::of(&path), path }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it has changed since the last look. One that is gone has not: what was read from it is still good.
    pub fn has_changed(&mut self) -> bool {
        let now = Stamp::of(&self.path);
        if now.0.is_empty() || now == self.seen {
            return false;
        }
        self.seen = now;
        true
    }

    /// Forgets the last look, so that the next one finds a change.
    pub fn look_again(&mut self) {
        self.seen = Stamp::default();
    }
}

impl Stamp {
    fn of(path: &Path) -> Stamp {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries
            .filter_map(|entry| {
                // Through links, to the file that would be read.
                let metadata = std::fs::metadata(entry.path()).ok()?;
                metadata.is_file().then(|| (entry.path(), metadata.len(), metadata.modified().ok(), number(&metadata)))
            })
            .collect();
        files.sort_unstable();
        Stamp(files)
    }
}

#[cfg(unix)]
fn number(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn number(_: &Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_changed_once_for_each_change() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str| dir.path().join(name);
        std::fs::write(file("a"), "1").expect("a file");
        let mut watched = Directory::watch(dir.path());
        assert!(!watched.has_changed());
        // Same name, same size, and maybe the same time: but another file.
        std::fs::write(file("b"), "2").expect("a file");
        assert!(watched.has_changed());
        std::fs::rename(file("b"), file("a")).expect("a rename");
        assert!(watched.has_changed() && !watched.has_changed());
        watched.look_again();
        assert!(watched.has_changed() && !watched.has_changed());
        std::fs::remove_file(file("a")).expect("a removal");
        assert!(!watched.has_changed());
    }
}
