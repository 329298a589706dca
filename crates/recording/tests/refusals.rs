//! Every fault is refused by its own name, with the file and the field.

mod support;

use std::fs;

use num_complex::Complex32;
use proptest::prelude::*;
use semlink_recording::{Error, FrameSymbols, Note, Recorder, Recording, Start};
use serde_json::{Value, json};
use support::{Made, bytes, c, note, record, says, split, start};

const META: &str = "x.sigmf-meta";
const DATA: &str = "x.sigmf-data";

/// One refused change of a good recording.
macro_rules! refused {
    ($made:expr, $error:pat, $file:expr, $($part:expr),+) => {{
        let error = $made.error();
        assert!(matches!(error, $error), "{error:?}");
        says(&error, $file, &[$($part),+]);
    }};
}

fn own(edit: impl FnOnce(&mut Value)) -> Made {
    Made::own().edit(edit)
}

#[test]
fn files_that_are_not_there() {
    let made = Made::own();
    assert!(made.open().is_ok());
    fs::remove_file(made.path("sigmf-data")).unwrap();
    refused!(made, Error::NoData { .. }, DATA, "no such data file");
    fs::remove_file(made.path("sigmf-meta")).unwrap();
    refused!(made, Error::NotFound { .. }, META, "no such file");
}

#[test]
fn an_unfinished_recording() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), "cut", start()).unwrap();
    recorder.frame(&note(1, 0, 1), split(&[Complex32::ONE], 0), split(&[Complex32::ONE], 0)).unwrap();
    drop(recorder);
    assert_eq!(fs::read(dir.path().join("cut-before.sigmf-data.part")).unwrap(), bytes(&[Complex32::ONE]));
    for name in ["cut-before", "cut-before.sigmf-meta", "cut-before.sigmf-data", "cut-before.sigmf-meta.part"] {
        let error = Recording::open(dir.path().join(name)).unwrap_err();
        assert!(matches!(error, Error::Unfinished { .. }), "{error:?}");
        says(&error, "cut-before.sigmf-meta.part", &["was not finished"]);
    }
    // Neither is it overwritten.
    let error = Recorder::create(dir.path(), "cut", start()).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    says(&error, "cut-before.sigmf-meta.part", &["exists"]);
    // Stopped between the renaming of the data and that of the meta file.
    fs::rename(dir.path().join("cut-after.sigmf-data.part"), dir.path().join("cut-after.sigmf-data")).unwrap();
    assert!(matches!(Recording::open(dir.path().join("cut-after")), Err(Error::Unfinished { .. })));
    // A meta file whose data is unfinished.
    let made = Made::own();
    fs::rename(made.path("sigmf-data"), made.path("sigmf-data.part")).unwrap();
    refused!(made, Error::Unfinished { .. }, "x.sigmf-data.part", "was not finished");
}

#[test]
fn truncated_at_every_length() {
    let made = Made::own();
    // As the recorder writes it, not as this test's JSON library does.
    let whole = fs::read(made.path("sigmf-meta").with_file_name("source-after.sigmf-meta")).unwrap();
    made.text(&whole);
    assert!(made.open().is_ok());
    for length in 0..whole.len() {
        made.text(&whole[..length]);
        let error = made.error();
        match &error {
            Error::Truncated { .. } => says(&error, META, &["truncated JSON", "line "]),
            // The JSON library does not see the end of the file within a number.
            Error::Json { .. } => says(&error, META, &["invalid number"]),
            _ => panic!("{length}: {error:?}"),
        }
    }
    let data = fs::read(made.path("sigmf-data")).unwrap();
    made.text(&whole);
    for length in 0..data.len() {
        made.data(&data[..length]);
        assert!(matches!(made.error(), Error::PartialSymbol { .. } | Error::TooShort { .. }), "{:?}", made.error());
    }
}

#[test]
fn no_sigmf() {
    let made = Made::own();
    for text in ["not JSON", "{\"global\":{},}", "[{},[],[]]", "7", "{} {}", "{\"global\":\u{1}}"] {
        made.text(text.as_bytes());
        refused!(made, Error::Json { .. }, META, "not SigMF JSON", "line ");
    }
    made.text(b"{\"global\":{\"\xff\":1},\"captures\":[],\"annotations\":[]}");
    refused!(made, Error::Json { .. }, META, "not SigMF JSON");
    for section in ["global", "captures", "annotations"] {
        let made = own(|meta| drop(meta.as_object_mut().unwrap().remove(section)));
        refused!(made, Error::Section { .. }, META, section, "is missing");
        let made = own(|meta| meta[section] = 5.into());
        refused!(made, Error::Json { .. }, META, "invalid type: integer `5`");
    }
    for section in ["captures", "annotations"] {
        let made = own(|meta| meta[section] = json!([[1, 2]]));
        refused!(made, Error::Json { .. }, META, "expected an object");
    }
    let text = serde_json::to_string(&made.meta).unwrap();
    made.text(text.replace("\"captures\":[", "\"captures\":[],\"captures\":[").as_bytes());
    refused!(made, Error::Json { .. }, META, "captures is there twice");
}

#[test]
fn fields_of_global() {
    for found in ["ci16_le", "cf64_le", "cf32_be", "rf32_le"] {
        let made = own(|meta| meta["global"]["core:datatype"] = found.into());
        refused!(made, Error::Unsupported { .. }, META, "core:datatype", found, "must be cf32_le");
    }
    let made = own(|meta| drop(meta["global"].as_object_mut().unwrap().remove("core:datatype")));
    refused!(made, Error::Global { .. }, META, "core:datatype", "is missing", "cf32_le");
    for (field, value, found) in [
        ("core:num_channels", json!(2), "2"),
        ("core:offset", json!(100), "100"),
        ("core:trailing_bytes", json!(3), "3"),
        ("core:metadata_only", json!(true), "true"),
        ("core:dataset", json!("other.wav"), "other.wav"),
        ("core:extensions", json!([{ "name": "spread", "version": "1.0.0", "optional": false }]), "spread"),
    ] {
        let made = own(|meta| meta["global"][field] = value);
        refused!(made, Error::Unsupported { .. }, META, field, found, "must be");
    }
    for (field, value, needed) in [
        ("core:sample_rate", json!("1e6"), "a number above 0"),
        ("core:sample_rate", json!(0), "a number above 0"),
        ("core:sha512", json!("abc"), "128 hexadecimal digits"),
        ("semlink:link", json!(1), "text"),
        ("semlink:link_key", json!(-1), "a whole number"),
        ("semlink:side", json!("middle"), "before or after"),
        ("semlink:profiles", json!([]), "an object"),
    ] {
        let made = own(|meta| meta["global"][field] = value);
        refused!(made, Error::Global { .. }, META, field, needed);
    }
}

#[test]
fn positions() {
    for (section, index) in [("annotations", 1), ("captures", 0)] {
        for (value, found) in [(json!(-1), "-1"), (json!(0.5), "0.5"), (json!("0"), "0"), (json!(null), "missing")] {
            let made = own(|meta| meta[section][index]["core:sample_start"] = value);
            let place = format!("{section}[{index}]");
            refused!(made, Error::Segment { .. }, META, &place, "core:sample_start", found, "a whole number");
        }
    }
    let made = own(|meta| meta["annotations"][0]["core:sample_count"] = (-3).into());
    refused!(made, Error::Segment { .. }, META, "annotations[0]", "core:sample_count is -3");
    let made = own(|meta| meta["annotations"].as_array_mut().unwrap().swap(0, 1));
    refused!(made, Error::Segment { .. }, META, "annotations[1]", "core:sample_start is 0", "at least 3", "sort");
    let made = own(|meta| meta["captures"] = json!([{ "core:sample_start": 2 }, { "core:sample_start": 1 }]));
    refused!(made, Error::Segment { .. }, META, "captures[1]", "core:sample_start is 1");
    let made = own(|meta| meta["annotations"][1]["core:sample_start"] = 2.into());
    refused!(
        made,
        Error::Segment { .. },
        META,
        "annotations[1]",
        "core:sample_start is 2",
        "the end of the frame before"
    );
    let made = own(|meta| meta["annotations"][1]["core:sample_start"] = u64::MAX.into());
    refused!(made, Error::Segment { .. }, META, "annotations[1]", "core:sample_count is too large");
    let made = own(|meta| meta["annotations"][1]["core:sample_count"] = 66_561.into());
    refused!(made, Error::FrameTooLong { .. }, META, "annotations[1]", "core:sample_count is 66561", "at most 66560");
    let made = own(|meta| meta["captures"][0]["core:header_bytes"] = 44.into());
    refused!(made, Error::Unsupported { .. }, META, "core:header_bytes is 44", "must be 0");
}

#[test]
fn data_that_does_not_fit() {
    let made = own(|meta| meta["annotations"][1]["core:sample_count"] = 2.into());
    refused!(
        made,
        Error::TooShort { .. },
        DATA,
        "truncated",
        "4 symbols",
        "annotations[1]",
        "core:sample_count",
        "ends at 5"
    );
    let made = Made::foreign(3).edit(|meta| meta["annotations"] = json!([{ "core:sample_start": 4 }]));
    refused!(made, Error::TooShort { .. }, DATA, "annotations[0]", "ends at 4");
    let made = Made::own();
    let mut data = fs::read(made.path("sigmf-data")).unwrap();
    data.extend([0; 3]);
    made.data(&data);
    refused!(made, Error::PartialSymbol { .. }, DATA, "35 bytes", "multiple of 8");
    data.truncate(32);
    data[17] ^= 1;
    made.data(&data);
    refused!(made, Error::Checksum { .. }, DATA, "core:sha512", "damaged");
    // Upper-case digits are the same checksum.
    let sum = made.meta["global"]["core:sha512"].as_str().unwrap().to_uppercase();
    assert!(own(|meta| meta["global"]["core:sha512"] = sum.into()).open().is_ok());
}

#[test]
fn sizes_above_the_limits() {
    let made = Made::own();
    // Nothing but a length: the file is sparse.
    fs::File::create(made.path("sigmf-meta")).unwrap().set_len((1 << 30) + 1).unwrap();
    refused!(made, Error::MetaTooLarge { .. }, META, "1073741825 bytes", "at most 1073741824");
    let made = own(|meta| meta["global"]["core:comment"] = "x".repeat(32 << 20).into());
    refused!(made, Error::Global { .. }, META, "at most 33554432");
    let made = own(|meta| {
        let mut deep = json!(0);
        (0..200).for_each(|_| deep = json!([deep]));
        meta["global"]["semlink:profiles"]["4"] = deep;
    });
    refused!(made, Error::Json { .. }, META, "recursion limit");
}

#[test]
fn symbols_that_are_not_there_or_not_finite() {
    let made = Made::foreign(5);
    let recording = made.open().unwrap();
    for (start, count) in [(0, 6), (5, 1), (6, 0), (u64::MAX, 1), (0, usize::MAX)] {
        let error = recording.read(start, count).unwrap_err();
        assert!(matches!(error, Error::Range { .. }), "{error:?}");
        says(&error, DATA, &["there are 5"]);
    }
    let made = made.reseal(&bytes(&[c(0.0, 0.0), c(1.0, f32::NAN), c(f32::INFINITY, 0.0)]));
    let recording = made.open().unwrap();
    says(&recording.read(0, 3).unwrap_err(), DATA, &["symbol 1 is", "must be finite"]);
    says(&recording.read(2, 1).unwrap_err(), DATA, &["symbol 2 is", "inf"]);
    assert!(recording.read(0, 1).is_ok());
    // A frame of elsewhere.
    let own = Made::own();
    let own = own.open().unwrap();
    let mut frame = own.frames().unwrap()[1];
    assert!(matches!(recording.read_frame(&frame), Err(Error::Range { .. })));
    (frame.note.pilots, frame.note.symbols) = (usize::MAX, usize::MAX);
    assert!(matches!(own.read_frame(&frame), Err(Error::Range { .. })));
}

#[test]
fn annotations_that_are_no_frames() {
    let foreign =
        Made::foreign(3).edit(|meta| meta["annotations"] = json!([{ "core:sample_start": 0, "core:sample_count": 3 }]));
    let error = foreign.open().unwrap().frames().unwrap_err();
    says(&error, META, &["annotations[0]", "semlink:frame_id is missing"]);
    let error = Made::foreign(3).open().unwrap().frames().unwrap_err();
    says(&error, META, &["global", "semlink:side is missing"]);
    for field in ["frame_id", "stream", "sequence", "pilots", "snr_db_requested", "seed", "profile_version", "lost"] {
        let field = format!("semlink:{field}");
        let lacking = own(|meta| drop(meta["annotations"][1].as_object_mut().unwrap().remove(&field)));
        says(&lacking.open().unwrap().frames().unwrap_err(), META, &["annotations[1]", &field, "is missing"]);
        let wrong = own(|meta| meta["annotations"][1][&field] = "text".into());
        says(&wrong.open().unwrap().frames().unwrap_err(), META, &["annotations[1]", &field, "is text", "must be"]);
    }
    for (field, value) in [
        ("semlink:snr_db_realised", json!(true)),
        ("semlink:snr_db_requested", json!(1e300)),
        ("semlink:frame_id", json!(-1)),
        ("semlink:pilots", json!(2)),
        ("core:sample_count", json!(null)),
    ] {
        let made = own(|meta| meta["annotations"][1][field] = value);
        says(&made.open().unwrap().frames().unwrap_err(), META, &["annotations[1]", field]);
    }
    // What is not known may be absent as well as null.
    let made = own(|meta| drop(meta["annotations"][1].as_object_mut().unwrap().remove("semlink:snr_db_realised")));
    assert_eq!(made.open().unwrap().frames().unwrap()[1].note.snr_db_realised, None);
}

#[test]
fn what_a_recorder_refuses() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["", ".", "..", ".hidden", "a/b", "a\\b", "ü", "a b", "a\0", &"x".repeat(201)] {
        let error = Recorder::create(dir.path(), name, start()).unwrap_err();
        assert!(matches!(error, Error::Name { .. }), "{error:?}");
    }
    for (bad, field) in [
        (Start { sample_rate_hz: Some(f64::NAN), ..start() }, "sample_rate_hz"),
        (Start { sample_rate_hz: Some(0.0), ..start() }, "sample_rate_hz"),
        (Start { link: "x".repeat(65_537), ..start() }, "link"),
        (Start { description: "x".repeat(65_537), ..start() }, "description"),
    ] {
        says(&Recorder::create(dir.path(), "n", bad).unwrap_err(), "n-before.sigmf-meta", &[field, "must"]);
    }
    assert!(matches!(Recorder::create(&dir.path().join("none"), "n", start()), Err(Error::Io { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of what was refused");
    for extension in ["before.sigmf-meta", "after.sigmf-data", "after.sigmf-meta.part"] {
        let path = dir.path().join(format!("n-{extension}"));
        fs::write(&path, "").unwrap();
        says(&Recorder::create(dir.path(), "n", start()).unwrap_err(), extension, &["exists"]);
        fs::remove_file(path).unwrap();
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let mut recorder = Recorder::create(dir.path(), "n", start()).unwrap();
    let (one, none) = ([Complex32::ONE], FrameSymbols::default());
    let good = split(&one, 0);
    let infinite = [c(0.0, f32::INFINITY)];
    for (note, before, after, parts) in [
        (note(9, 1, 1), good, good, ["frame 9: pilots", "the note says 1"]),
        (note(9, 0, 2), good, good, ["frame 9: symbols", "the note says 2"]),
        (note(9, 0, 1), good, none, ["frame 9: symbols", "has 0 values"]),
        (Note { lost: true, ..note(9, 0, 1) }, none, none, ["frame 9: symbols", "has 0 values"]),
        (note(9, 1_025, 65_536), good, good, ["frame 9: pilots + symbols", "at most 66560"]),
        (note(9, 0, 1), good, split(&infinite, 0), ["symbol 0 is", "must be finite"]),
        (Note { snr_db_requested: f32::NAN, ..note(9, 0, 1) }, good, good, ["snr_db_requested is NaN", "finite"]),
        (Note { snr_db_realised: Some(f32::NEG_INFINITY), ..note(9, 0, 1) }, good, good, ["snr_db_realised", "finite"]),
    ] {
        says(&recorder.frame(&note, before, after).unwrap_err(), "n-", &parts);
    }
    recorder.profile(1, &json!({ "kind": "awgn" })).unwrap();
    recorder.profile(1, &json!({ "kind": "awgn" })).unwrap();
    says(&recorder.profile(1, &json!({})).unwrap_err(), "n-before.sigmf-meta", &["profile 1", "differs"]);
    says(
        &recorder.profile(2, &"x".repeat(16 << 20).into()).unwrap_err(),
        "n-before.sigmf-meta",
        &["profile 2", "16777216"],
    );
    let mut deep = json!(0);
    (0..33).for_each(|_| deep = json!([deep]));
    says(&recorder.profile(2, &deep).unwrap_err(), "n-before.sigmf-meta", &["profile 2", "32 levels"]);
    // None of this harmed it, and a file that has come up meanwhile is not overwritten.
    recorder.profile(2, &deep[0]).unwrap();
    recorder.frame(&note(9, 0, 1), good, good).unwrap();
    assert_eq!(recorder.frames(), 1);
    fs::write(dir.path().join("n-after.sigmf-data"), "mine").unwrap();
    says(&recorder.finish().unwrap_err(), "n-after.sigmf-data", &["exists"]);
    assert_eq!(fs::read(dir.path().join("n-after.sigmf-data")).unwrap(), b"mine");
}

/// JSON of any shape, with keys that mean something more often than not.
fn any_json() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from)
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number,
        (0u64..6).prop_map(Value::from),
        "[a-z]{0,6}".prop_map(Value::from),
        Just(Value::from("cf32_le")),
    ];
    const KNOWN: [&str; 15] = [
        "global",
        "captures",
        "annotations",
        "core:datatype",
        "core:sample_start",
        "core:sample_count",
        "core:sha512",
        "core:sample_rate",
        "core:extensions",
        "core:dataset",
        "semlink:pilots",
        "semlink:frame_id",
        "semlink:side",
        "semlink:taps",
        "semlink:profiles",
    ];
    let key = prop_oneof![proptest::sample::select(&KNOWN[..]).prop_map(str::to_owned), "[a-z:]{0,4}"];
    leaf.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Whatever can be asked of a recording, which must not panic.
fn exercise(made: &Made) {
    let _ = semlink_recording::read_responses(made.path("sigmf-meta"));
    if let Ok(recording) = made.open() {
        let _ = (recording.link(), recording.link_key(), recording.profile(0), recording.read(0, 2));
        for frame in recording.frames().unwrap_or_default() {
            let _ = recording.read_frame(frame);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_json_does_not_panic(whole in any_json(), global in any_json(), captures in any_json(), annotations in any_json()) {
        let made = Made::foreign(4);
        made.text(whole.to_string().as_bytes());
        exercise(&made);
        let parts = json!({ "global": made.meta["global"], "captures": captures, "annotations": [annotations] });
        made.text(parts.to_string().as_bytes());
        exercise(&made);
        let parts = json!({ "global": global, "captures": [], "annotations": annotations });
        made.text(parts.to_string().as_bytes());
        exercise(&made);
    }

    #[test]
    fn any_field_of_any_type_does_not_panic(value in any_json(), index in 0usize..2, field in 0usize..40) {
        let made = Made::own();
        let fields: Vec<String> = made.meta["annotations"][index].as_object().unwrap().keys().cloned().collect();
        let field = &fields[field % fields.len()];
        exercise(&made.edit(|meta| meta["annotations"][index][field.as_str()] = value));
    }

    #[test]
    fn any_bytes_do_not_panic(text in any::<Vec<u8>>(), data in any::<Vec<u8>>(), at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let made = Made::own();
        let mut whole = fs::read(made.path("sigmf-meta")).unwrap();
        let at = at.index(whole.len());
        whole[at] = byte;
        made.text(&whole);
        exercise(&made);
        made.data(&data);
        exercise(&made);
        made.text(&text);
        exercise(&made);
    }
}

#[test]
fn the_second_recording_of_a_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), "twice");
    says(&Recorder::create(dir.path(), "twice", start()).unwrap_err(), "twice-before.sigmf-meta", &["exists"]);
}
