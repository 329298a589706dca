//! Impulse responses in files.

mod support;

use std::path::Path;

use num_complex::Complex32;
use semlink_recording::{Error, MAX_TAPS, read_responses, write_responses};
use serde_json::json;
use support::{Made, c, says};

const META: &str = "x.sigmf-meta";

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for (taps, responses, rate) in [(1, 1, None), (3, 2, Some(1e6)), (MAX_TAPS, 9, None)] {
        let values: Vec<Complex32> = (0..taps * responses).map(|i| c(i as f32, 0.5 - i as f32)).collect();
        let stem = dir.path().join(format!("taps.{taps}"));
        let meta = write_responses(&stem, taps, &values, rate).unwrap();
        assert_eq!(meta, dir.path().join(format!("taps.{taps}.sigmf-meta")));
        let read = read_responses(&stem).unwrap();
        assert_eq!((read.taps, read.values, read.sample_rate_hz), (taps, values.clone(), rate));
        assert!(matches!(write_responses(&meta, taps, &values, rate), Err(Error::Exists { .. })));
    }
}

#[test]
fn one_annotation_per_response() {
    let made = Made::foreign(7).edit(|meta| {
        meta["annotations"] =
            json!([{ "core:sample_start": 1, "core:sample_count": 2 }, { "core:sample_start": 4, "core:sample_count": 2 }]);
    });
    let read = read_responses(made.path("sigmf-data")).unwrap();
    assert_eq!(read.taps, 2);
    assert_eq!(read.values.iter().map(|value| value.re).collect::<Vec<_>>(), [1.0, 2.0, 4.0, 5.0]);
}

#[test]
fn what_the_writer_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let write =
        |taps, values: &[Complex32], rate| write_responses(&dir.path().join("x"), taps, values, rate).unwrap_err();
    let six = [Complex32::ONE; 6];
    says(&write(0, &six, None), META, &["taps is 0", "1 to 1024"]);
    says(&write(1_025, &six, None), META, &["taps is 1025", "1 to 1024"]);
    says(&write(4, &six, None), META, &["responses has 6 values", "multiple of the 4 taps"]);
    says(&write(1, &[], None), META, &["responses has 0 values"]);
    says(
        &write(1, &vec![Complex32::ONE; (1 << 24) + 1], None),
        META,
        &["responses has 16777217 values", "1 to 16777216"],
    );
    says(&write(1, &six, Some(-1.0)), META, &["sample_rate_hz is -1", "above 0"]);
    says(&write(1, &[c(0.0, 0.0), c(f32::NAN, 0.0)], None), "x.sigmf-data", &["symbol 1 is", "must be finite"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(matches!(write_responses(Path::new("/nowhere/x"), 1, &six, None), Err(Error::Io { .. })));
}

#[test]
fn what_the_reader_refuses() {
    let read = |made: Made| read_responses(made.path("sigmf-meta")).unwrap_err();
    says(&read(Made::own()), META, &["semlink:side", "these are frames"]);
    says(&read(Made::foreign(6)), META, &["semlink:taps is missing", "annotation per response"]);
    let taps = |symbols, value| Made::foreign(symbols).edit(|meta| meta["global"]["semlink:taps"] = value);
    says(&read(taps(6, json!(0))), META, &["semlink:taps is 0", "1 to 1024"]);
    says(&read(taps(6, json!(1_025))), META, &["semlink:taps is 1025"]);
    says(&read(taps(6, json!("3"))), META, &["semlink:taps is no whole number"]);
    says(&read(taps(6, json!(4))), META, &["semlink:taps is 4", "6 symbols"]);
    says(&read(taps(0, json!(4))), META, &["semlink:taps", "0 values"]);
    let annotated = |annotations| Made::foreign(6).edit(|meta| meta["annotations"] = annotations);
    let span = |start: u64, count: u64| json!({ "core:sample_start": start, "core:sample_count": count });
    says(&read(annotated(json!([span(0, 0)]))), META, &["core:sample_count is 0"]);
    says(&read(annotated(json!([{ "core:sample_start": 0 }]))), META, &["core:sample_count is no whole number"]);
    says(
        &read(annotated(json!([span(0, 2), span(2, 3)]))),
        META,
        &["core:sample_count of annotations[1] is 3", "must be 2"],
    );
    says(&read(annotated(json!([span(0, 2), span(1, 2)]))), META, &["annotations[1]", "within the response before"]);
    // Too many values are refused before they are read: the data is sparse.
    let made = taps(0, json!(1));
    std::fs::File::options().write(true).open(made.path("sigmf-data")).unwrap().set_len(8 * ((1 << 24) + 1)).unwrap();
    says(&read(made), META, &["16777217 values", "1 to 16777216"]);
}
