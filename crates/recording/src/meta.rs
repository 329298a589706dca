//! Meta files as they are read: streamed, and each annotation reduced at once to what is used of it, since there may be millions.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::{Frame, MAX_ANNOTATIONS, MAX_FRAME_SYMBOLS, Note};

pub(crate) const SAMPLE_START: &str = "core:sample_start";
pub(crate) const SAMPLE_COUNT: &str = "core:sample_count";
const WHOLE: &str = "a whole number from 0 to 2^64 - 1";

/// The three parts, as far as they are there.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) global: Option<Box<RawValue>>,
    pub(crate) captures: Option<Captures>,
    pub(crate) annotations: Option<Annotations>,
}

/// The first thing that is wrong with a capture or an annotation.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) index: usize,
    pub(crate) field: &'static str,
    pub(crate) kind: FaultKind,
}

#[derive(Debug, Clone)]
pub(crate) enum FaultKind {
    /// What is wrong, and what would be right.
    Wrong(String),
    /// Symbols of a frame, too many.
    TooLong(u64),
    /// SigMF that this program does not read.
    Unsupported { found: String, needed: &'static str },
}

/// Where a part of the recording lies. Without a count it goes on to the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) count: Option<u64>,
}

impl Span {
    pub(crate) fn end(self) -> u64 {
        self.start.saturating_add(self.count.unwrap_or(0))
    }
}

/// Captures: only where they begin.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    pub(crate) spans: Vec<Span>,
    pub(crate) fault: Option<Fault>,
}

/// All annotations up to the first fault.
#[derive(Debug, Default)]
pub(crate) struct Annotations {
    pub(crate) spans: Vec<Span>,
    /// As many as are frames, up to the first annotation that is none.
    pub(crate) frames: Vec<Frame>,
    /// Why that one is none.
    pub(crate) no_frame: Option<Fault>,
    /// End of the last one that has a field of a frame.
    pub(crate) frame_end: Option<u64>,
    pub(crate) fault: Option<Fault>,
}

#[derive(Deserialize)]
struct RawCapture {
    #[serde(rename = "core:sample_start")]
    start: Option<Value>,
    #[serde(rename = "core:header_bytes")]
    header_bytes: Option<Value>,
}

#[derive(Deserialize)]
struct RawAnnotation {
    #[serde(rename = "core:sample_start")]
    start: Option<Value>,
    #[serde(rename = "core:sample_count")]
    count: Option<Value>,
    #[serde(rename = "semlink:frame_id")]
    id: Option<Value>,
    #[serde(rename = "semlink:stream")]
    stream: Option<Value>,
    #[serde(rename = "semlink:sequence")]
    sequence: Option<Value>,
    #[serde(rename = "semlink:pilots")]
    pilots: Option<Value>,
    #[serde(rename = "semlink:snr_db_requested")]
    snr_db_requested: Option<Value>,
    #[serde(rename = "semlink:snr_db_realised")]
    snr_db_realised: Option<Value>,
    #[serde(rename = "semlink:seed")]
    seed: Option<Value>,
    #[serde(rename = "semlink:profile_version")]
    profile_version: Option<Value>,
    #[serde(rename = "semlink:lost")]
    lost: Option<Value>,
}

type Check<T> = Result<T, (&'static str, FaultKind)>;

fn wrong<T>(field: &'static str, what: String) -> Check<T> {
    Err((field, FaultKind::Wrong(what)))
}

/// A value in a message, shortened.
pub(crate) fn shown(value: &Value) -> String {
    const LONGEST: usize = 64;
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        other => other.to_string(),
    };
    if text.chars().count() > LONGEST { text.chars().take(LONGEST).chain("...".chars()).collect() } else { text }
}

fn field<T>(field: &'static str, value: Option<&Value>, needed: &str, read: impl Fn(&Value) -> Option<T>) -> Check<T> {
    match value.map(|value| (value, read(value))) {
        Some((_, Some(read))) => Ok(read),
        Some((value, None)) => wrong(field, format!("is {}, must be {needed}", shown(value))),
        None => wrong(field, format!("is missing, must be {needed}")),
    }
}

fn whole(name: &'static str, value: Option<&Value>) -> Check<u64> {
    field(name, value, WHOLE, Value::as_u64)
}

fn db(name: &'static str, value: Option<&Value>) -> Check<f32> {
    field(name, value, "a number in dB", |value| value.as_f64().map(|db| db as f32).filter(|db| db.is_finite()))
}

impl RawCapture {
    fn check(&self) -> Check<Span> {
        if let Some(found) = self.header_bytes.as_ref().filter(|found| found.as_u64() != Some(0)) {
            return Err(("core:header_bytes", FaultKind::Unsupported { found: shown(found), needed: "0" }));
        }
        Ok(Span { start: whole(SAMPLE_START, self.start.as_ref())?, count: None })
    }
}

impl RawAnnotation {
    fn span(&self) -> Check<Span> {
        let start = whole(SAMPLE_START, self.start.as_ref())?;
        let count = self.count.as_ref().map(|count| whole(SAMPLE_COUNT, Some(count))).transpose()?;
        if start.checked_add(count.unwrap_or(0)).is_none() {
            return wrong(SAMPLE_COUNT, "is too large: the end is beyond 2^64".into());
        }
        Ok(Span { start, count })
    }

    fn is_frame(&self) -> bool {
        let numbers = [&self.id, &self.stream, &self.sequence, &self.pilots, &self.seed, &self.profile_version];
        numbers.into_iter().chain([&self.snr_db_requested, &self.snr_db_realised, &self.lost]).any(Option::is_some)
    }

    fn frame(&self, span: Span) -> Check<Frame> {
        let id = whole("semlink:frame_id", self.id.as_ref())?;
        let stream = whole("semlink:stream", self.stream.as_ref())?;
        let sequence = whole("semlink:sequence", self.sequence.as_ref())?;
        let pilots = whole("semlink:pilots", self.pilots.as_ref())?;
        let seed = whole("semlink:seed", self.seed.as_ref())?;
        let profile_version = whole("semlink:profile_version", self.profile_version.as_ref())?;
        let snr_db_requested = db("semlink:snr_db_requested", self.snr_db_requested.as_ref())?;
        let realised = self.snr_db_realised.as_ref();
        let snr_db_realised = realised.map(|value| db("semlink:snr_db_realised", Some(value))).transpose()?;
        let lost = field("semlink:lost", self.lost.as_ref(), "true or false", Value::as_bool)?;
        let Some(count) = span.count else {
            return wrong(SAMPLE_COUNT, format!("is missing, must be {WHOLE}"));
        };
        // The count is within the limit of a frame by now, and so are both parts.
        let (Ok(first), Some(Ok(symbols))) = (pilots.try_into(), count.checked_sub(pilots).map(usize::try_from)) else {
            return wrong("semlink:pilots", format!("is {pilots}, must be at most core:sample_count ({count})"));
        };
        let note = Note {
            id,
            stream,
            sequence,
            pilots: first,
            symbols,
            seed,
            profile_version,
            snr_db_requested,
            snr_db_realised,
            lost,
        };
        Ok(Frame { note, start: span.start })
    }
}

/// A list of which each object is reduced when it has been read.
trait Reduce: Default {
    const WHAT: &'static str;
    type Raw: DeserializeOwned;
    fn spans(&self) -> &[Span];
    fn faulty(&self) -> bool;
    fn set_fault(&mut self, fault: Fault);
    fn push(&mut self, index: usize, raw: Self::Raw) -> Check<()>;

    /// Segments must follow each other, in captures and in annotations.
    fn ordered(&self, span: Span) -> Check<()> {
        match self.spans().last() {
            Some(last) if span.start < last.start => wrong(
                SAMPLE_START,
                format!("is {}, must be at least {} as the one before: sort them", span.start, last.start),
            ),
            _ => Ok(()),
        }
    }
}

impl Reduce for Captures {
    const WHAT: &'static str = "a list of captures";
    type Raw = RawCapture;

    fn spans(&self) -> &[Span] {
        &self.spans
    }

    fn faulty(&self) -> bool {
        self.fault.is_some()
    }

    fn set_fault(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    fn push(&mut self, _index: usize, raw: RawCapture) -> Check<()> {
        let span = raw.check()?;
        self.ordered(span)?;
        self.spans.push(span);
        Ok(())
    }
}

impl Reduce for Annotations {
    const WHAT: &'static str = "a list of annotations";
    type Raw = RawAnnotation;

    fn spans(&self) -> &[Span] {
        &self.spans
    }

    fn faulty(&self) -> bool {
        self.fault.is_some()
    }

    fn set_fault(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    fn push(&mut self, index: usize, raw: RawAnnotation) -> Check<()> {
        let span = raw.span()?;
        self.ordered(span)?;
        if raw.is_frame() {
            if let Some(count) = span.count.filter(|count| *count > MAX_FRAME_SYMBOLS as u64) {
                return Err((SAMPLE_COUNT, FaultKind::TooLong(count)));
            }
            // Annotations of other programs may overlap, frames may not.
            if let Some(end) = self.frame_end.filter(|end| span.start < *end) {
                return wrong(
                    SAMPLE_START,
                    format!("is {}, must be at least {end}, the end of the frame before", span.start),
                );
            }
            self.frame_end = Some(span.end());
        }
        if self.no_frame.is_none() {
            match raw.frame(span) {
                Ok(frame) => self.frames.push(frame),
                Err((field, kind)) => self.no_frame = Some(Fault { index, field, kind }),
            }
        }
        self.spans.push(span);
        Ok(())
    }
}

/// Reads only objects, where derived code would take a list of values, too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Map(PhantomData))
    }
}

struct List<T>(T);

impl<'de, T: Reduce> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seq<T>(PhantomData<T>);
        impl<'de, T: Reduce> Visitor<'de> for Seq<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::WHAT)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut list = T::default();
                for index in 0.. {
                    if list.faulty() {
                        // The rest is read only to find out whether it is JSON at all.
                        while seq.next_element::<IgnoredAny>()?.is_some() {}
                        break;
                    }
                    let Some(Object(raw)) = seq.next_element()? else { break };
                    let pushed = if index < MAX_ANNOTATIONS {
                        list.push(index, raw)
                    } else {
                        wrong(SAMPLE_START, format!("is of one too many, there must be at most {MAX_ANNOTATIONS}"))
                    };
                    if let Err((field, kind)) = pushed {
                        list.set_fault(Fault { index, field, kind });
                    }
                }
                Ok(List(list))
            }
        }
        deserializer.deserialize_seq(Seq(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of global, captures and annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut document = Document::default();
                while let Some(key) = map.next_key::<String>()? {
                    let twice = match key.as_str() {
                        "global" => document.global.replace(map.next_value()?).is_some(),
                        "captures" => document.captures.replace(map.next_value::<List<Captures>>()?.0).is_some(),
                        "annotations" => {
                            document.annotations.replace(map.next_value::<List<Annotations>>()?.0).is_some()
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            false
                        }
                    };
                    if twice {
                        return Err(A::Error::custom(format!("{key} is there twice")));
                    }
                }
                Ok(document)
            }
        }
        deserializer.deserialize_map(Parts)
    }
}
