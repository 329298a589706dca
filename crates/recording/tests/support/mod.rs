//! Small recordings, good ones and ones to be damaged.

#![allow(dead_code, reason = "not every test file uses all of it")]

use std::fs;
use std::path::{Path, PathBuf};

use num_complex::Complex32;
use semlink_recording::{Error, FrameSymbols, Note, Recorder, Recording, Result, Start};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

pub(crate) fn start() -> Start {
    Start {
        link: "uplink".into(),
        hop_key: u64::MAX - 1,
        sample_rate_hz: Some(250_000.0),
        description: "for \"tests\"\n".into(),
    }
}

/// Two frames, of 1 + 2 and 0 + 1 symbols.
pub(crate) fn record(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let mut recorder = Recorder::create(dir, name, start()).unwrap();
    recorder.profile(4, &json!({ "kind": "awgn" })).unwrap();
    let (before, after) =
        ([c(1.0, 0.0), c(0.5, -0.25), c(-0.0, 1e-40)], [c(1.5, 0.0), c(0.25, -0.5), c(f32::MAX, f32::MIN)]);
    recorder.frame(&note(7, 1, 2), split(&before, 1), split(&after, 1)).unwrap();
    recorder.frame(&note(u64::MAX, 0, 1), split(&before[..1], 0), split(&after[..1], 0)).unwrap();
    assert_eq!(recorder.frames(), 2);
    recorder.finish().unwrap()
}

pub(crate) fn c(re: f32, im: f32) -> Complex32 {
    Complex32::new(re, im)
}

pub(crate) fn split(all: &[Complex32], pilots: usize) -> FrameSymbols<'_> {
    FrameSymbols { pilots: &all[..pilots], symbols: &all[pilots..] }
}

pub(crate) fn note(id: u64, pilots: usize, symbols: usize) -> Note {
    Note {
        id,
        stream: u64::MAX,
        sequence: (1 << 53) + 1,
        pilots,
        symbols,
        seed: u64::MAX - 2,
        profile_version: 4,
        snr_db_requested: 7.3,
        snr_db_realised: Some(-6.1),
        lost: false,
    }
}

/// A recording to be damaged, `x.sigmf-meta` and `x.sigmf-data` in a folder of its own.
pub(crate) struct Made {
    dir: tempfile::TempDir,
    pub(crate) meta: Value,
}

impl Made {
    /// As [`record`] writes it on the second side.
    pub(crate) fn own() -> Made {
        let dir = tempfile::tempdir().unwrap();
        let (_, after) = record(dir.path(), "source");
        fs::copy(after.with_extension("sigmf-data"), dir.path().join("x.sigmf-data")).unwrap();
        let meta = serde_json::from_slice(&fs::read(after).unwrap()).unwrap();
        Made { dir, meta }.write()
    }

    /// As little as SigMF asks for, with `symbols` symbols (0, 0), (1, -1), (2, -2) ...
    pub(crate) fn foreign(symbols: usize) -> Made {
        let meta = json!({ "global": { "core:datatype": "cf32_le", "core:version": "1.0.0" }, "captures": [], "annotations": [] });
        let made = Made { dir: tempfile::tempdir().unwrap(), meta };
        let values: Vec<Complex32> = (0..symbols).map(|i| c(i as f32, -(i as f32))).collect();
        made.data(&bytes(&values));
        made.write()
    }

    pub(crate) fn edit(mut self, edit: impl FnOnce(&mut Value)) -> Made {
        edit(&mut self.meta);
        self.write()
    }

    fn write(self) -> Made {
        self.text(&serde_json::to_vec(&self.meta).unwrap());
        self
    }

    pub(crate) fn text(&self, text: &[u8]) {
        fs::write(self.path("sigmf-meta"), text).unwrap();
    }

    pub(crate) fn data(&self, data: &[u8]) {
        fs::write(self.path("sigmf-data"), data).unwrap();
    }

    /// Changes the data and the checksum with it.
    pub(crate) fn reseal(self, data: &[u8]) -> Made {
        self.data(data);
        let sum: String = Sha512::digest(data).iter().map(|b| format!("{b:02x}")).collect();
        self.edit(|meta| meta["global"]["core:sha512"] = sum.into())
    }

    pub(crate) fn path(&self, extension: &str) -> PathBuf {
        self.dir.path().join("x").with_extension(extension)
    }

    pub(crate) fn open(&self) -> Result<Recording> {
        Recording::open(self.path("sigmf-meta"))
    }

    pub(crate) fn error(&self) -> Error {
        self.open().expect_err("a refused recording")
    }
}

pub(crate) fn bytes(symbols: &[Complex32]) -> Vec<u8> {
    symbols.iter().flat_map(|s| [s.re.to_le_bytes(), s.im.to_le_bytes()].concat()).collect()
}

/// That the message names the file and says all of `parts`.
#[track_caller]
pub(crate) fn says(error: &Error, file: &str, parts: &[&str]) {
    let message = error.to_string();
    for part in [&[file], parts].concat() {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    assert!(!message.contains('\n'), "{message:?}");
}
