//! Recordings as an emulator and the command line read them.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use num_complex::Complex32;
use semlink_recording::{FrameSymbols, Note, Recorder, Recording, Start, read_responses, write_responses};
use serde_json::{Value, json};

use crate::edit::Source;
use crate::pair::{self, Pair};

static BASES: LazyLock<[Pair; 4]> = LazyLock::new(|| {
    // Else every edit of the data would end at the checksum; the corpus has files with theirs.
    recordings().map(|mut pair| {
        if let Some(global) = pair.document.get_mut("global").and_then(Value::as_object_mut) {
            global.remove("core:sha512");
        }
        pair
    })
});
static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(folder);

/// Files that many calls write: in memory where that can be.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).expect("a folder")
}

thread_local! {
    static STEM: PathBuf = DIR.path().join(format!("{:?}", std::thread::current().id()).replace(['(', ')'], ""));
}

/// A meta file and its data. The first byte: below 128 the lowest two bits say which of [`recordings`] is edited, else both files are there in full.
pub fn sigmf(data: &[u8]) {
    let mut source = Source::new(data);
    let first = source.byte();
    if first >= 128 {
        let (meta, data) = pair::split(&mut source);
        read(meta, data);
    } else {
        let Pair { document, data } = pair::edited(&BASES[usize::from(first) % BASES.len()], &mut source);
        read(document.to_string().as_bytes(), &data);
    }
}

fn read(meta: &[u8], data: &[u8]) {
    STEM.with(|stem| {
        let write = |extension: &str, bytes: &[u8]| {
            std::fs::write(stem.with_extension(extension), bytes).expect("a file in a folder of our own");
        };
        write("sigmf-meta", meta);
        write("sigmf-data", data);
        opened(stem);
    });
}

fn opened(stem: &Path) {
    let named = |error: semlink_recording::Error| {
        let text = error.to_string();
        assert!(text.contains("sigmf"), "no file is named: {text}");
    };
    match Recording::open(stem) {
        Ok(recording) => {
            let _ = (recording.link(), recording.link_key(), recording.side(), recording.profile(0));
            assert!(recording.sample_rate_hz().is_none_or(f64::is_finite));
            match recording.frames() {
                Ok(frames) => {
                    for frame in frames {
                        match recording.read_frame(frame) {
                            Ok((pilots, symbols)) => {
                                assert_eq!((pilots.len(), symbols.len()), (frame.note.pilots, frame.note.symbols));
                            }
                            Err(error) => named(error),
                        }
                    }
                }
                Err(error) => named(error),
            }
            match recording.read(0, usize::try_from(recording.samples()).unwrap_or(usize::MAX)) {
                Ok(symbols) => assert!(symbols.iter().all(|symbol| symbol.is_finite())),
                Err(error) => named(error),
            }
        }
        Err(error) => named(error),
    }
    match read_responses(stem) {
        Ok(responses) => {
            assert!(responses.taps > 0 && !responses.values.is_empty());
            assert!(responses.values.len().is_multiple_of(responses.taps));
        }
        Err(error) => named(error),
    }
}

/// Frames before and after a channel, impulse responses, and those of another program.
pub fn recordings() -> [Pair; 4] {
    let dir = tempfile::tempdir().expect("a folder");
    let symbols: Vec<Complex32> = (0..6u8).map(|i| Complex32::new(f32::from(i) - 2.5, 0.5)).collect();
    let (pilots, payload) = symbols.split_at(2);
    let start =
        Start { link: "uplink".into(), hop_key: 3, sample_rate_hz: Some(1e6), description: "two frames".into() };
    let mut recorder = Recorder::create(dir.path(), "run", start).expect("a recorder");
    recorder.profile(0, &json!({ "snr_db": 10 })).expect("a profile");
    for id in 0..2 {
        let note =
            Note { id, pilots: 2, symbols: 4, snr_db_requested: 10.0, snr_db_realised: Some(9.5), ..Note::default() };
        let frame = FrameSymbols { pilots, symbols: payload };
        recorder.frame(&note, frame, frame).expect("a frame");
    }
    let (before, after) = recorder.finish().expect("a recording");
    let responses = write_responses(&dir.path().join("responses"), 3, &symbols, Some(1e6)).expect("responses");
    let [before, after, responses] = [before, after, responses].map(|meta| {
        let document = serde_json::from_slice(&std::fs::read(&meta).expect("a file")).expect("JSON");
        Pair { document, data: std::fs::read(meta.with_extension("sigmf-data")).expect("a file") }
    });
    let foreign = json!({
        "global": { "core:datatype": "cf32_le", "core:version": "1.0.0", "core:sample_rate": 1000 },
        "captures": [{ "core:sample_start": 0 }],
        "annotations": [{ "core:sample_start": 0, "core:sample_count": 3 }, { "core:sample_start": 3, "core:sample_count": 3 }],
    });
    let foreign = Pair { document: foreign, data: responses.data.clone() };
    [before, after, responses, foreign]
}
