//! The part of a meta file that concerns the whole recording.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{Error, Result, Side, meta::shown};

pub(crate) const SHA512: &str = "core:sha512";
pub(crate) const LINK: &str = "semlink:link";
pub(crate) const LINK_KEY: &str = "semlink:link_key";
pub(crate) const SIDE: &str = "semlink:side";
pub(crate) const PROFILES: &str = "semlink:profiles";
pub(crate) const TAPS: &str = "semlink:taps";
const DATATYPE: &str = "core:datatype";
const SAMPLE_RATE: &str = "core:sample_rate";
const CF32_LE: &str = "cf32_le";
/// As the schema of SigMF has it.
const MAX_SAMPLE_RATE_HZ: f64 = 1e12;

/// What every recording of this crate has, without the checksum.
pub(crate) fn new(description: &str, sample_rate_hz: Option<f64>) -> Map<String, Value> {
    let mut global = Map::new();
    let mut put = |field: &str, value: Value| global.insert(field.into(), value);
    put(DATATYPE, CF32_LE.into());
    put("core:version", "1.2.0".into());
    put("core:num_channels", 1.into());
    put("core:recorder", concat!("semlink-recording ", env!("CARGO_PKG_VERSION")).into());
    put("core:description", description.into());
    put("core:extensions", json!([{ "name": "semlink", "version": "1.0.0", "optional": true }]));
    if let Some(rate) = sample_rate_hz {
        put(SAMPLE_RATE, rate.into());
    }
    global
}

/// # Errors
/// [`Error::Value`] for a rate that SigMF cannot express.
pub(crate) fn check_rate(rate: Option<f64>, path: &Path) -> Result<()> {
    match rate {
        Some(rate) if !rate_is_valid(rate) => {
            let what = format!("is {rate}, must be above 0 and at most 1e12");
            Err(Error::Value { path: path.into(), field: "sample_rate_hz".into(), what })
        }
        _ => Ok(()),
    }
}

fn rate_is_valid(rate: f64) -> bool {
    rate > 0.0 && rate <= MAX_SAMPLE_RATE_HZ
}

/// What this crate reads of `global`, checked.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) sample_rate_hz: Option<f64>,
    pub(crate) sha512: Option<String>,
    pub(crate) link_key: Option<u64>,
    pub(crate) side: Option<Side>,
}

/// Checks `global` of the meta file at `path`.
///
/// # Errors
/// [`Error::Unsupported`] for another datatype and for forms of SigMF that keep the samples elsewhere, [`Error::Global`] for fields of a
/// wrong type.
pub(crate) fn check(global: &Map<String, Value>, path: &Path, data_name: &str) -> Result<Known> {
    let fault = |field, what: String| Error::Global { path: path.into(), field, what };
    let unsupported =
        |field, found: &Value, needed| Error::Unsupported { path: path.into(), field, found: shown(found), needed };
    let wrong = |field, found: &Value, needed: &str| fault(field, format!("is {}, must be {needed}", shown(found)));

    match global.get(DATATYPE) {
        None => return Err(fault(DATATYPE, "is missing, must be cf32_le".into())),
        Some(Value::String(found)) if found == CF32_LE => {}
        Some(found) => return Err(unsupported(DATATYPE, found, CF32_LE)),
    }
    for (field, needed, text) in [
        ("core:num_channels", json!(1), "1"),
        ("core:offset", json!(0), "0"),
        ("core:trailing_bytes", json!(0), "0"),
        ("core:metadata_only", json!(false), "false"),
        ("core:dataset", json!(data_name), "absent, the data beside it as .sigmf-data"),
    ] {
        if let Some(found) = global.get(field).filter(|found| **found != needed) {
            return Err(unsupported(field, found, text));
        }
    }
    // An extension that is not optional changes what the rest means.
    for extension in global.get("core:extensions").and_then(Value::as_array).into_iter().flatten() {
        let optional = extension.get("optional").and_then(Value::as_bool) != Some(false);
        if !optional && extension.get("name").and_then(Value::as_str) != Some("semlink") {
            let name = extension.get("name").unwrap_or(&Value::Null);
            return Err(unsupported("core:extensions", name, "semlink, or optional"));
        }
    }

    let sample_rate_hz = match global.get(SAMPLE_RATE) {
        None => None,
        Some(found) => match found.as_f64().filter(|rate| rate_is_valid(*rate)) {
            Some(rate) => Some(rate),
            None => return Err(wrong(SAMPLE_RATE, found, "a number above 0 and at most 1e12")),
        },
    };
    let sha512 = match global.get(SHA512) {
        None => None,
        Some(Value::String(text)) if text.len() == 128 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Some(text.to_ascii_lowercase())
        }
        Some(found) => return Err(wrong(SHA512, found, "128 hexadecimal digits")),
    };
    if let Some(found) = global.get(LINK).filter(|found| !found.is_string()) {
        return Err(wrong(LINK, found, "text"));
    }
    let link_key = match global.get(LINK_KEY) {
        None => None,
        Some(found) => Some(found.as_u64().ok_or_else(|| wrong(LINK_KEY, found, "a whole number from 0 to 2^64 - 1"))?),
    };
    let side = match global.get(SIDE).map(|found| (found, found.as_str())) {
        None => None,
        Some((_, Some("before"))) => Some(Side::Before),
        Some((_, Some("after"))) => Some(Side::After),
        Some((found, _)) => return Err(wrong(SIDE, found, "before or after")),
    };
    if let Some(found) = global.get(PROFILES).filter(|found| !found.is_object()) {
        return Err(wrong(PROFILES, found, "an object of profiles by version"));
    }
    Ok(Known { sample_rate_hz, sha512, link_key, side })
}
