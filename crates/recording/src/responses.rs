//! Impulse responses of channels, measured or drawn, as SigMF recordings.

use std::path::{Path, PathBuf};

use num_complex::Complex32;

use crate::{
    Error, MAX_RESPONSE_VALUES, MAX_TAPS, Recording, Result, files::Pair, global, meta::SAMPLE_COUNT,
    recorder::first_non_finite, sink::Sink,
};

/// Impulse responses of equal length, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Responses {
    /// Taps of each, 1 to [`MAX_TAPS`].
    pub taps: usize,
    /// All of them: tap t of response r at `r * taps + t`.
    pub values: Vec<Complex32>,
    /// Taps per second, where it is known.
    pub sample_rate_hz: Option<f64>,
}

/// Writes impulse responses of `taps` taps each, one after the other, and returns the meta file. `stem` is the path without
/// `.sigmf-meta`; `global` holds `semlink:taps`.
///
/// # Errors
/// [`Error::Value`] unless there are 1 to [`MAX_TAPS`] taps, at least one response, a whole number of them and at most
/// [`MAX_RESPONSE_VALUES`] values, [`Error::NonFinite`], [`Error::Exists`], [`Error::Io`].
pub fn write_responses(
    stem: &Path,
    taps: usize,
    responses: &[Complex32],
    sample_rate_hz: Option<f64>,
) -> Result<PathBuf> {
    let files = Pair::of(stem);
    let fault = |field: &str, what: String| Err(Error::Value { path: files.meta.clone(), field: field.into(), what });
    if taps == 0 || taps > MAX_TAPS {
        return fault("taps", format!("is {taps}, must be 1 to {MAX_TAPS}"));
    }
    if responses.is_empty() || responses.len() > MAX_RESPONSE_VALUES || !responses.len().is_multiple_of(taps) {
        let limits = format!("must have 1 to {MAX_RESPONSE_VALUES}, a multiple of the {taps} taps");
        return fault("responses", format!("has {} values, {limits}", responses.len()));
    }
    if let Some((index, value)) = first_non_finite(responses) {
        return Err(Error::NonFinite { path: files.data, index, value: value.to_string() });
    }
    global::check_rate(sample_rate_hz, &files.meta)?;
    files.refuse_existing()?;
    let mut sink = Sink::create(files)?;
    sink.symbols(responses)?;
    let mut global = global::new("Impulse responses of a channel, one after the other", sample_rate_hz);
    global.insert(global::TAPS.into(), taps.into());
    sink.seal(global)?;
    sink.publish_data()?;
    sink.publish_meta()
}

/// Reads impulse responses: of [`write_responses`], or of other programs, with `semlink:taps` in `global` or else one annotation per
/// response, all of the same `core:sample_count`; what lies between annotations is left out.
///
/// # Errors
/// Those of [`Recording::open`] and [`Recording::read`]; [`Error::Responses`] for a recording of frames, for more or fewer taps than 1 to
/// [`MAX_TAPS`], for none or more than [`MAX_RESPONSE_VALUES`] values, for a response that is cut, and for annotations of different counts
/// or that overlap.
pub fn read_responses(path: impl AsRef<Path>) -> Result<Responses> {
    let recording = Recording::open(path)?;
    let fault = |field, what: String| Error::Responses { path: recording.path().into(), field, what };
    if recording.has_frames() {
        return Err(fault(global::SIDE, "is there: these are frames, not impulse responses".into()));
    }
    let (taps, values) = match recording.global().get(global::TAPS) {
        Some(value) => {
            let taps = taps_of(value.as_u64()).map_err(|what| fault(global::TAPS, what))?;
            let samples = values_of(recording.samples()).map_err(|what| fault(global::TAPS, what))?;
            if samples % taps != 0 {
                return Err(fault(global::TAPS, format!("is {taps}, but the {samples} symbols are no multiple of it")));
            }
            (taps, recording.read(0, samples)?)
        }
        None => annotated(&recording, &fault)?,
    };
    Ok(Responses { taps, values, sample_rate_hz: recording.sample_rate_hz() })
}

fn annotated(recording: &Recording, fault: &impl Fn(&'static str, String) -> Error) -> Result<(usize, Vec<Complex32>)> {
    let spans = recording.spans();
    let Some(first) = spans.first() else {
        return Err(fault(
            global::TAPS,
            "is missing, and there is no annotation per response; add one or the other".into(),
        ));
    };
    let taps = taps_of(first.count).map_err(|what| fault(SAMPLE_COUNT, what))?;
    let total = spans.len() as u64 * taps as u64;
    let total = values_of(total).map_err(|what| fault(SAMPLE_COUNT, what))?;
    let mut end = 0;
    for (index, span) in spans.iter().enumerate() {
        if span.count != first.count {
            let found = span.count.map_or("missing".into(), |count| count.to_string());
            return Err(fault(
                SAMPLE_COUNT,
                format!("of annotations[{index}] is {found}, must be {taps} as that of the first"),
            ));
        }
        if span.start < end {
            return Err(fault(SAMPLE_COUNT, format!("of annotations[{index}]: it begins within the response before")));
        }
        end = span.end();
    }
    // They do not overlap and lie within the data, which is thus at least as large as what is reserved.
    let mut values = Vec::with_capacity(total);
    for span in spans {
        values.extend(recording.read(span.start, taps)?);
    }
    Ok((taps, values))
}

fn taps_of(found: Option<u64>) -> Result<usize, String> {
    let taps = found.and_then(|taps| usize::try_from(taps).ok()).filter(|taps| (1..=MAX_TAPS).contains(taps));
    taps.ok_or_else(|| match found {
        Some(found) => format!("is {found}, must be 1 to {MAX_TAPS} taps"),
        None => format!("is no whole number, must be 1 to {MAX_TAPS} taps"),
    })
}

fn values_of(found: u64) -> Result<usize, String> {
    let values = usize::try_from(found).ok().filter(|values| (1..=MAX_RESPONSE_VALUES).contains(values));
    values.ok_or_else(|| format!("does not fit: {found} values, must be 1 to {MAX_RESPONSE_VALUES}"))
}
