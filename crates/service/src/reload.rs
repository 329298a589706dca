//! When a bundle on disk has changed.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::Drain;

/// How often a directory is looked at.
const PERIOD: Duration = Duration::from_secs(1);

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

    /// Whether the files are others than at the last look. A directory that is gone has not changed: what was read from it is still good.
    fn differs(&mut self, now: Stamp) -> bool {
        if now.0.is_empty() || now == self.seen {
            return false;
        }
        self.seen = now;
        true
    }

    /// Waits until it has changed and gives what `open` makes of it, on a thread where files may be read; `None` once the drain begins.
    pub async fn next<T: Send + 'static>(
        &mut self,
        drain: &Drain,
        open: impl FnOnce(&Path) -> Result<T, String> + Send + 'static,
    ) -> Option<Result<T, String>> {
        loop {
            tokio::select! {
                () = drain.started() => return None,
                () = tokio::time::sleep(PERIOD) => {}
            }
            let path = self.path.clone();
            let now = tokio::task::spawn_blocking(move || Stamp::of(&path)).await.unwrap_or_default();
            if self.differs(now) {
                break;
            }
        }
        let path = self.path.clone();
        // A panic is a bundle that cannot be read.
        let opened = tokio::task::spawn_blocking(move || open(&path)).await;
        Some(opened.unwrap_or_else(|error| Err(error.to_string())))
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
        let has_changed = |watched: &mut Directory| watched.differs(Stamp::of(dir.path()));
        assert!(!has_changed(&mut watched));
        // Same name, same size, and maybe the same time: but another file.
        std::fs::write(file("b"), "2").expect("a file");
        assert!(has_changed(&mut watched));
        std::fs::rename(file("b"), file("a")).expect("a rename");
        assert!(has_changed(&mut watched) && !has_changed(&mut watched));
        watched.look_again();
        assert!(has_changed(&mut watched) && !has_changed(&mut watched));
        std::fs::remove_file(file("a")).expect("a removal");
        assert!(!has_changed(&mut watched));
    }
}
