//! A value made of the contents of files, made anew when they change.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::config::Problems;

/// No file of certificates, keys or tokens is larger; of one that is, no more is read.
const LARGEST: u64 = 1 << 20;
/// A caller that asks at every call reads files at most this often.
const PAUSE: Duration = Duration::from_secs(1);

/// A file and the setting that names it.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) setting: &'static str,
    pub(super) path: PathBuf,
}

/// What is wrong with which of the sources.
pub(super) type Faults = Vec<(usize, String)>;

type Make<T> = dyn Fn(&[Vec<u8>]) -> Result<T, Faults> + Send + Sync;

/// The value of some files. Contents are compared, not times: a swapped symbolic link (as Kubernetes does it) and a copied file
/// with an old date are changes, a touched file is none. Contents that cannot be used leave the value as it was.
pub(super) struct Reread<T> {
    sources: Vec<Source>,
    make: Box<Make<T>>,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// Of the contents last looked at, usable or not: each is judged, and told of, once.
    seen: [u8; 32],
    looked: Instant,
    value: Arc<T>,
}

/// What re-reading found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Same,
    Replaced,
    /// The old value stays.
    Refused,
}

impl Source {
    fn label(&self) -> String {
        format!("{} {}", self.setting, self.path.display())
    }

    fn read(&self) -> Result<Vec<u8>, String> {
        let mut contents = Vec::new();
        let file = File::open(&self.path).map_err(|error| error.to_string())?;
        file.take(LARGEST + 1).read_to_end(&mut contents).map_err(|error| error.to_string())?;
        if contents.len() as u64 > LARGEST {
            return Err(format!("more than {LARGEST} bytes"));
        }
        Ok(contents)
    }
}

impl<T> Reread<T> {
    /// Reads the files; all that is wrong with them is noted.
    pub(super) fn open(
        sources: Vec<Source>,
        make: impl Fn(&[Vec<u8>]) -> Result<T, Faults> + Send + Sync + 'static,
        problems: &mut Problems,
    ) -> Option<Reread<T>> {
        let (seen, contents) = look(&sources);
        match contents.and_then(|contents| make(&contents)) {
            Ok(value) => {
                let state = Mutex::new(State { seen, looked: Instant::now(), value: Arc::new(value) });
                Some(Reread { sources, make: Box::new(make), state })
            }
            Err(faults) => {
                for (setting, fault) in labelled(&sources, faults) {
                    problems.add(&setting, fault);
                }
                None
            }
        }
    }

    /// As of the last look.
    pub(super) fn current(&self) -> Arc<T> {
        Arc::clone(&self.state().value)
    }

    /// After a look at the files, unless the last one was a moment ago.
    pub(super) fn fresh(&self) -> Arc<T> {
        let due = {
            let mut state = self.state();
            let due = state.looked.elapsed() >= PAUSE;
            if due {
                // Whoever comes meanwhile does not look, too.
                state.looked = Instant::now();
            }
            due
        };
        if due {
            self.reread();
        }
        self.current()
    }

    /// Looks at the files now.
    pub(super) fn reread(&self) -> Outcome {
        let (seen, contents) = look(&self.sources);
        {
            let mut state = self.state();
            state.looked = Instant::now();
            if state.seen == seen {
                return Outcome::Same;
            }
            state.seen = seen;
        }
        match contents.and_then(|contents| (self.make)(&contents)) {
            Ok(value) => {
                self.state().value = Arc::new(value);
                for source in &self.sources {
                    tracing::info!(setting = source.setting, file = %source.path.display(), "changed file is in use");
                }
                Outcome::Replaced
            }
            Err(faults) => {
                for (setting, fault) in labelled(&self.sources, faults) {
                    tracing::warn!(file = setting, fault, "changed file cannot be used; the old contents stay in use");
                }
                Outcome::Refused
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files' contents, and a digest of them or of why there are none.
fn look(sources: &[Source]) -> ([u8; 32], Result<Vec<Vec<u8>>, Faults>) {
    let mut digest = Sha256::new();
    let (mut contents, mut faults) = (Vec::new(), Vec::new());
    for (index, source) in sources.iter().enumerate() {
        let read = source.read();
        let (tag, bytes) = match &read {
            Ok(bytes) => (1_u8, bytes.as_slice()),
            Err(fault) => (0, fault.as_bytes()),
        };
        digest.update([tag]);
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
        match read {
            Ok(bytes) => contents.push(bytes),
            Err(fault) => faults.push((index, fault)),
        }
    }
    (digest.finalize().into(), if faults.is_empty() { Ok(contents) } else { Err(faults) })
}

fn labelled(sources: &[Source], faults: Faults) -> impl Iterator<Item = (String, String)> {
    faults.into_iter().map(|(index, fault)| (sources.get(index).map(Source::label).unwrap_or_default(), fault))
}
