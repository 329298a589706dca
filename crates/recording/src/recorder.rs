//! Writing the pair of recordings of one link.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use num_complex::Complex32;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    Error, FrameSymbols, MAX_FRAME_SYMBOLS, MAX_PROFILE_BYTES, MAX_TEXT_BYTES, Note, Result, Side, Start, files::Pair,
    global, sink::Sink,
};

/// Levels of nesting that a profile may have; readers of JSON give up at 128.
const PROFILE_DEPTH: usize = 32;

/// Writes `NAME-before` and `NAME-after` of one link, a `.sigmf-meta` and a `.sigmf-data` file each.
///
/// Until [`Recorder::finish`] the four files end in `.part`. A recorder that is dropped, or whose process dies, leaves them so, and
/// [`crate::Recording::open`] says that the recording was not finished. Memory does not grow with the frames. Files are not synced to
/// the disk.
///
/// `global` holds `semlink:link` and `semlink:link_key` ([`Start`]), `semlink:side` ([`Side`]) and `semlink:profiles`: an object of channel
/// profiles by version. The fields of a frame are those of [`Note`].
#[derive(Debug)]
pub struct Recorder {
    start: Start,
    before: Sink,
    after: Sink,
    profiles: BTreeMap<u64, Value>,
    profile_bytes: usize,
    frames: u64,
    broken: bool,
}

/// One frame as it is written; SigMF's own fields first.
#[derive(Serialize)]
struct Annotation {
    #[serde(rename = "core:sample_start")]
    start: u64,
    #[serde(rename = "core:sample_count")]
    count: usize,
    #[serde(rename = "core:label")]
    label: String,
    #[serde(rename = "core:generator")]
    generator: &'static str,
    #[serde(rename = "semlink:frame_id")]
    id: u64,
    #[serde(rename = "semlink:stream")]
    stream: u64,
    #[serde(rename = "semlink:sequence")]
    sequence: u64,
    #[serde(rename = "semlink:pilots")]
    pilots: usize,
    #[serde(rename = "semlink:snr_db_requested")]
    snr_db_requested: f32,
    #[serde(rename = "semlink:snr_db_realised")]
    snr_db_realised: Option<f32>,
    #[serde(rename = "semlink:seed")]
    seed: u64,
    #[serde(rename = "semlink:profile_version")]
    profile_version: u64,
    #[serde(rename = "semlink:lost")]
    lost: bool,
}

impl Recorder {
    /// Begins `DIR/NAME-before` and `DIR/NAME-after`; the folder must exist.
    ///
    /// # Errors
    /// [`Error::Name`] unless the name is 1 to 200 of `A-Z a-z 0-9 . _ -` and begins with no dot, [`Error::Value`] for a [`Start`] outside
    /// its limits, [`Error::Exists`] if one of the files is there, finished or not, [`Error::Io`].
    pub fn create(dir: &Path, name: &str, start: Start) -> Result<Recorder> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > 200 || name.starts_with('.') || !name.bytes().all(allowed) {
            return Err(Error::Name { name: name.chars().take(256).collect() });
        }
        let pair = |side: Side| Pair::of(&dir.join(format!("{name}-{}.sigmf-meta", side.as_str())));
        let (before, after) = (pair(Side::Before), pair(Side::After));
        for (field, text) in [("link", &start.link), ("description", &start.description)] {
            if text.len() > MAX_TEXT_BYTES {
                let what = format!("has {} bytes, must have at most {MAX_TEXT_BYTES}", text.len());
                return Err(Error::Value { path: before.meta, field: field.into(), what });
            }
        }
        global::check_rate(start.sample_rate_hz, &before.meta)?;
        before.refuse_existing()?;
        after.refuse_existing()?;
        let before = Sink::create(before)?;
        let after = match Sink::create(after) {
            Ok(after) => after,
            Err(e) => {
                before.discard();
                return Err(e);
            }
        };
        Ok(Recorder { start, before, after, profiles: BTreeMap::new(), profile_bytes: 0, frames: 0, broken: false })
    }

    /// Remembers the channel profile of a version; again the same is nothing.
    ///
    /// # Errors
    /// [`Error::Value`] if that version had another profile before, if one is nested deeper than 32 levels, or if all together exceed
    /// 16 MiB as JSON.
    pub fn profile(&mut self, version: u64, profile: &Value) -> Result<()> {
        let fault = |recorder: &Recorder, what: String| {
            let path = recorder.before.meta_path().to_path_buf();
            Err(Error::Value { path, field: format!("profile {version}"), what })
        };
        if let Some(known) = self.profiles.get(&version) {
            let same = known == profile;
            return if same {
                Ok(())
            } else {
                fault(self, "differs from the one noted before; give it a new version".into())
            };
        }
        if deeper_than(profile, PROFILE_DEPTH) {
            return fault(self, format!("is nested deeper than {PROFILE_DEPTH} levels"));
        }
        let bytes = self.profile_bytes + profile.to_string().len() + 32;
        if bytes > MAX_PROFILE_BYTES {
            return fault(
                self,
                format!(
                    "makes more than {MAX_PROFILE_BYTES} bytes of profiles; finish this recording and begin another"
                ),
            );
        }
        self.profile_bytes = bytes;
        self.profiles.insert(version, profile.clone());
        Ok(())
    }

    /// Appends one frame to both recordings. Of a lost frame, `after` may be empty.
    ///
    /// # Errors
    /// [`Error::Value`] for lengths that are not those of the note, more than [`MAX_FRAME_SYMBOLS`], or SNRs that are not finite,
    /// [`Error::NonFinite`] for such symbols; nothing is written then. [`Error::Full`] at the limits of what a reader accepts. After an
    /// [`Error::Io`] the recording cannot go on: [`Error::Broken`].
    pub fn frame(&mut self, note: &Note, before: FrameSymbols<'_>, after: FrameSymbols<'_>) -> Result<()> {
        self.usable()?;
        self.check_note(note)?;
        check_symbols(&self.before, note, before, false)?;
        check_symbols(&self.after, note, after, note.lost)?;
        for sink in [&self.before, &self.after] {
            if !sink.has_room() {
                return Err(Error::Full { path: sink.meta_path().into(), frames: self.frames });
            }
        }
        let written = append(&mut self.before, note, before).and_then(|()| append(&mut self.after, note, after));
        self.broken = written.is_err();
        self.frames += u64::from(written.is_ok());
        written
    }

    /// Frames recorded so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Ends the recordings and gives the files their names: the meta files before and after the channel.
    ///
    /// # Errors
    /// [`Error::Broken`] after a failed write, [`Error::Exists`] if a file of a final name has come up meanwhile, [`Error::Io`].
    pub fn finish(mut self) -> Result<(PathBuf, PathBuf)> {
        self.usable()?;
        let globals = [self.global(Side::Before), self.global(Side::After)];
        for (sink, global) in [&mut self.before, &mut self.after].into_iter().zip(globals) {
            sink.seal(global)?;
        }
        // The meta files last: a recording counts as finished once its meta file has its name.
        self.before.publish_data()?;
        self.after.publish_data()?;
        Ok((self.before.publish_meta()?, self.after.publish_meta()?))
    }

    fn usable(&self) -> Result<()> {
        if self.broken { Err(Error::Broken { path: self.before.meta_path().into() }) } else { Ok(()) }
    }

    fn check_note(&self, note: &Note) -> Result<()> {
        let fault = |field: &str, what: String| {
            let field = format!("frame {}: {field}", note.id);
            Err(Error::Value { path: self.before.meta_path().into(), field, what })
        };
        let symbols = note.pilots.saturating_add(note.symbols);
        if symbols > MAX_FRAME_SYMBOLS {
            return fault("pilots + symbols", format!("is {symbols}, must be at most {MAX_FRAME_SYMBOLS}"));
        }
        let snrs = [("snr_db_requested", Some(note.snr_db_requested)), ("snr_db_realised", note.snr_db_realised)];
        for (field, snr_db) in snrs {
            if let Some(snr_db) = snr_db.filter(|snr_db| !snr_db.is_finite()) {
                return fault(field, format!("is {snr_db}, must be finite"));
            }
        }
        Ok(())
    }

    fn global(&self, side: Side) -> Map<String, Value> {
        let mut global = global::new(&self.start.description, self.start.sample_rate_hz);
        let profiles = self.profiles.iter().map(|(version, profile)| (version.to_string(), profile.clone()));
        global.insert(global::LINK.into(), self.start.link.clone().into());
        global.insert(global::LINK_KEY.into(), self.start.hop_key.into());
        global.insert(global::SIDE.into(), side.as_str().into());
        global.insert(global::PROFILES.into(), Value::Object(profiles.collect()));
        global
    }
}

fn check_symbols(sink: &Sink, note: &Note, given: FrameSymbols<'_>, may_be_empty: bool) -> Result<()> {
    if may_be_empty && given.len() == 0 {
        return Ok(());
    }
    let mut index = sink.samples();
    for (field, given, expected) in [("pilots", given.pilots, note.pilots), ("symbols", given.symbols, note.symbols)] {
        if given.len() != expected {
            let what = format!("has {} values, the note says {expected}", given.len());
            return Err(Error::Value {
                path: sink.data_path().into(),
                field: format!("frame {}: {field}", note.id),
                what,
            });
        }
        if let Some((offset, symbol)) = first_non_finite(given) {
            return Err(Error::NonFinite {
                path: sink.data_path().into(),
                index: index + offset,
                value: symbol.to_string(),
            });
        }
        index += given.len() as u64;
    }
    Ok(())
}

/// Index and value.
pub(crate) fn first_non_finite(symbols: &[Complex32]) -> Option<(u64, Complex32)> {
    (0..).zip(symbols).find(|(_, symbol)| !symbol.is_finite()).map(|(index, symbol)| (index, *symbol))
}

fn append(sink: &mut Sink, note: &Note, frame: FrameSymbols<'_>) -> Result<()> {
    let start = sink.samples();
    sink.symbols(frame.pilots)?;
    sink.symbols(frame.symbols)?;
    sink.annotation(&Annotation {
        start,
        count: frame.len(),
        label: format!("frame {}/{}", note.stream, note.sequence),
        generator: "semlink",
        id: note.id,
        stream: note.stream,
        sequence: note.sequence,
        pilots: frame.pilots.len(),
        snr_db_requested: note.snr_db_requested,
        snr_db_realised: note.snr_db_realised,
        seed: note.seed,
        profile_version: note.profile_version,
        lost: note.lost,
    })
}

/// Whether objects and lists are nested in more than `levels` levels.
fn deeper_than(value: &Value, levels: usize) -> bool {
    match (value, levels.checked_sub(1)) {
        (Value::Array(_) | Value::Object(_), None) => true,
        (Value::Array(values), Some(levels)) => values.iter().any(|value| deeper_than(value, levels)),
        (Value::Object(values), Some(levels)) => values.values().any(|value| deeper_than(value, levels)),
        _ => false,
    }
}
