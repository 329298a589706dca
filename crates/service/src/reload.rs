//! When a bundle or another file on disk has changed.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::Drain;

/// How often a directory is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// Watches the files of a directory, or one file.
///
/// By looking at it again and again: that works on every file system, also where a directory is swapped by a link, as Kubernetes does with
/// mounted volumes.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    seen: Stamp,
}

/// The files by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Stamp(Vec<File>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct File {
    path: PathBuf,
    length: u64,
    modified: Option<SystemTime>,
    inode: Inode,
}

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

/// Which file it is, and when the system last noted a change of it: also of one that was written with an old time, as copies that
/// preserve times are, or that could not be read before.
#[cfg(unix)]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Inode {
    device: u64,
    number: u64,
    changed: (i64, i64),
}

#[cfg(unix)]
impl Inode {
    fn of(metadata: &std::fs::Metadata) -> Inode {
        use std::os::unix::fs::MetadataExt as _;
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Inode { device: metadata.dev(), number: metadata.ino(), changed }
    }
}

/// Not known here.
#[cfg(not(unix))]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Inode;

#[cfg(not(unix))]
impl Inode {
    fn of(_: &std::fs::Metadata) -> Inode {
        Inode
    }
}

impl Stamp {
    fn of(path: &Path) -> Stamp {
        let paths: Vec<PathBuf> = match std::fs::read_dir(path) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            // Not a directory, or not there.
            Err(_) => vec![path.to_owned()],
        };
        let mut files: Vec<_> = paths
            .into_iter()
            .filter_map(|path| {
                // Through links, to the file that would be read.
                let metadata = std::fs::metadata(&path).ok()?;
                metadata.is_file().then(|| File {
                    path,
                    length: metadata.len(),
                    modified: metadata.modified().ok(),
                    inode: Inode::of(&metadata),
                })
            })
            .collect();
        files.sort_unstable();
        Stamp(files)
    }
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
        // One file alone, whatever happens beside it.
        let mut alone = Directory::watch(file("c"));
        let mut has_changed = || alone.differs(Stamp::of(&file("c")));
        assert!(!has_changed());
        std::fs::write(file("d"), "1").expect("a file");
        assert!(!has_changed());
        std::fs::write(file("c"), "1").expect("a file");
        assert!(has_changed() && !has_changed());
    }

    /// As `cp --preserve` leaves it: only the system's own clock tells.
    #[cfg(unix)]
    #[test]
    fn a_file_that_is_written_with_its_old_time_has_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        std::fs::write(&path, "1").expect("a file");
        let file = std::fs::File::options().write(true).open(&path).expect("a file");
        let modified = file.metadata().and_then(|metadata| metadata.modified()).expect("a time");
        let mut watched = Directory::watch(dir.path());
        let began = std::time::Instant::now();
        // Again and again, as the clock of file systems has coarse steps.
        loop {
            std::fs::write(&path, "2").expect("a file");
            file.set_modified(modified).expect("a time");
            if watched.differs(Stamp::of(dir.path())) {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "no change in 10 s");
        }
        assert_eq!(file.metadata().and_then(|metadata| metadata.modified()).expect("a time"), modified);
    }
}
