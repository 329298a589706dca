//! Frames of a link, before and after its channel, on their way to files.

use std::path::Path;
use std::sync::Arc;

use semlink_channel::{Complex32, FrameKey};
use semlink_recording::{FrameSymbols, Note, Recorder, Start};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::metrics;
use crate::profile::Profile;

/// Frames that may wait to be written; beyond it the link is held back, as nothing may be left out.
const QUEUE: usize = 64;

/// One frame.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) note: Note,
    pub(crate) profile: Arc<Profile>,
    pub(crate) before: Symbols,
    pub(crate) after: Symbols,
}

/// Pilots and payload.
#[derive(Debug, Clone, Default)]
pub(crate) struct Symbols {
    pub(crate) pilots: Vec<Complex32>,
    pub(crate) payload: Vec<Complex32>,
}

/// A recording under way.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) name: String,
    pub(crate) entries: mpsc::Sender<Entry>,
    written: JoinHandle<Result<Done, String>>,
    _counted: metrics::Open,
}

/// A recording that is finished.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) frames: u64,
    pub(crate) before: String,
    pub(crate) after: String,
}

impl Symbols {
    fn as_frame(&self) -> FrameSymbols<'_> {
        FrameSymbols { pilots: &self.pilots, symbols: &self.payload }
    }
}

impl Recording {
    /// Opens the files.
    ///
    /// # Errors
    /// What is wrong with the name, or files that are there already or cannot be made.
    pub(crate) fn start(
        directory: &Path,
        name: &str,
        link: &str,
        key: u64,
        counted: metrics::Open,
    ) -> Result<Recording, String> {
        let start = Start {
            link: link.to_owned(),
            hop_key: key,
            sample_rate_hz: None,
            description: format!("frames of link {link} of a semlink channel emulator"),
        };
        let recorder = Recorder::create(directory, name, start).map_err(|error| error.to_string())?;
        let (entries, queue) = mpsc::channel(QUEUE);
        let written = tokio::task::spawn_blocking(move || write(recorder, queue));
        Ok(Recording { name: name.to_owned(), entries, written, _counted: counted })
    }

    /// Writes what was given to it and finishes the files.
    ///
    /// # Errors
    /// What went wrong with the files.
    pub(crate) async fn stop(self) -> Result<Done, String> {
        drop(self.entries);
        self.written.await.map_err(|error| error.to_string())?
    }
}

/// Ends when all senders are gone. After a fault the frames are taken and left out: a full disk must not stop a link.
fn write(mut recorder: Recorder, mut queue: mpsc::Receiver<Entry>) -> Result<Done, String> {
    let mut fault = None;
    while let Some(entry) = queue.blocking_recv() {
        if fault.is_none() {
            let Entry { note, profile, before, after } = &entry;
            let written = recorder
                .profile(note.profile_version, &profile.to_json())
                .and_then(|()| recorder.frame(note, before.as_frame(), after.as_frame()));
            if let Err(error) = written {
                tracing::warn!(%error, "the recording has ended");
                fault = Some(error.to_string());
            }
        }
    }
    if let Some(fault) = fault {
        return Err(fault);
    }
    let frames = recorder.frames();
    let (before, after) = recorder.finish().map_err(|error| error.to_string())?;
    Ok(Done { frames, before: before.display().to_string(), after: after.display().to_string() })
}

/// What a recording says of a frame.
pub(crate) fn note(id: u64, key: FrameKey, version: u64, snr_db: f32, realised: f32) -> Note {
    Note {
        id,
        stream: key.stream,
        sequence: key.frame,
        seed: key.seed,
        profile_version: version,
        snr_db_requested: snr_db,
        snr_db_realised: realised.is_finite().then_some(realised),
        ..Note::default()
    }
}
