//! What is written is what is read, to the bit.

mod support;

use std::fs;

use num_complex::Complex32;
use proptest::prelude::*;
use semlink_recording::{FrameSymbols, MAX_FRAME_SYMBOLS, Note, Recorder, Recording, Side, Start};
use serde_json::{Value, json};
use support::{Made, c, note, record, split, start};

#[test]
fn bytes_of_the_data_files() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), "golden");
    // `struct.pack("<8f", 1, 0, 0.5, -0.25, -0.0, 1e-40, 1, 0)` of Python, and so on.
    let before = "0000803f000000000000003f000080be00000080c21601000000803f00000000";
    let after = "0000c03f000000000000803e000000bfffff7f7fffff7fff0000c03f00000000";
    for (side, expected) in [("before", before), ("after", after)] {
        let data = fs::read(dir.path().join(format!("golden-{side}.sigmf-data"))).unwrap();
        assert_eq!(data.iter().map(|b| format!("{b:02x}")).collect::<String>(), expected, "{side}");
    }
}

#[test]
fn a_pair_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = record(dir.path(), "a.pair_1-x");
    assert_eq!(before, dir.path().join("a.pair_1-x-before.sigmf-meta"));
    assert_eq!(after, dir.path().join("a.pair_1-x-after.sigmf-meta"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "no unfinished files are left");

    // By the meta file, the data file and the stem.
    for path in [after.clone(), after.with_extension("sigmf-data"), after.with_extension("")] {
        let recording = Recording::open(path).unwrap();
        assert_eq!(recording.path(), after);
        assert_eq!(recording.samples(), 4);
        assert_eq!((recording.link(), recording.link_key()), (Some("uplink"), Some(u64::MAX - 1)));
        assert_eq!((recording.side(), recording.sample_rate_hz()), (Some(Side::After), Some(250_000.0)));
        assert_eq!(recording.profile(4), Some(&json!({ "kind": "awgn" })));
        assert_eq!(recording.profile(5), None);
        assert_eq!(recording.global()["core:version"], "1.2.0");
        assert_eq!(recording.global()["core:description"], start().description);
        let frames = recording.frames().unwrap();
        assert_eq!((frames[0].note, frames[0].start), (note(7, 1, 2), 0));
        assert_eq!((frames[1].note, frames[1].start), (note(u64::MAX, 0, 1), 3));
        assert_eq!(frames.len(), 2);
        let (pilots, symbols) = recording.read_frame(&frames[0]).unwrap();
        assert_eq!((pilots, symbols), (vec![c(1.5, 0.0)], vec![c(0.25, -0.5), c(f32::MAX, f32::MIN)]));
        assert_eq!(recording.read(3, 1).unwrap(), [c(1.5, 0.0)]);
        assert_eq!(recording.read(4, 0).unwrap(), []);
    }
    assert_eq!(Recording::open(&before).unwrap().side(), Some(Side::Before));
    assert_eq!(Recording::open(&before).unwrap().read(2, 1).unwrap()[0].re.to_bits(), (-0.0f32).to_bits());

    let text = fs::read_to_string(&after).unwrap();
    let meta: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(meta["annotations"][1]["core:label"], format!("frame {}/{}", u64::MAX, (1u64 << 53) + 1));
    assert_eq!(meta["annotations"][1]["semlink:frame_id"], u64::MAX);
    assert_eq!(meta["captures"][0]["core:sample_start"], 0);
    assert!(text.contains("\"semlink:snr_db_requested\":7.3,"), "f32 as it is written by people");
}

#[test]
fn a_lost_frame_may_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), "lossy", Start { sample_rate_hz: None, ..start() }).unwrap();
    let sent = [c(1.0, 1.0), c(2.0, 2.0)];
    let lost = Note { lost: true, snr_db_realised: None, ..note(1, 1, 1) };
    recorder.frame(&lost, split(&sent, 1), FrameSymbols::default()).unwrap();
    // Or everything, where what was lost is known.
    recorder.frame(&lost, split(&sent, 1), split(&sent, 1)).unwrap();
    recorder.frame(&note(2, 0, 2), split(&sent, 0), split(&sent, 0)).unwrap();
    let (before, after) = recorder.finish().unwrap();
    let (before, after) = (Recording::open(before).unwrap(), Recording::open(after).unwrap());
    assert_eq!((before.samples(), after.samples(), after.sample_rate_hz()), (6, 4, None));
    assert_eq!(before.frames().unwrap()[0].note, lost);
    let frames = after.frames().unwrap();
    assert_eq!(frames[0].note, Note { pilots: 0, symbols: 0, ..lost });
    assert_eq!(after.read_frame(&frames[0]).unwrap(), (vec![], vec![]));
    assert_eq!(frames[1].note, lost);
    assert_eq!((frames[2].start, frames[2].note.symbols), (2, 2));
}

#[test]
fn no_frames_are_a_recording_too() {
    let dir = tempfile::tempdir().unwrap();
    let (before, _) = Recorder::create(dir.path(), "empty", start()).unwrap().finish().unwrap();
    let recording = Recording::open(before).unwrap();
    assert_eq!(recording.samples(), 0);
    assert!(recording.frames().unwrap().is_empty());
}

#[test]
fn the_largest_frame() {
    let dir = tempfile::tempdir().unwrap();
    let symbols: Vec<Complex32> = (0..MAX_FRAME_SYMBOLS).map(|i| c(i as f32, -0.5)).collect();
    let mut recorder = Recorder::create(dir.path(), "large", start()).unwrap();
    for _ in 0..2 {
        recorder.frame(&note(0, 1024, 65_536), split(&symbols, 1024), split(&symbols, 1024)).unwrap();
    }
    let recording = Recording::open(recorder.finish().unwrap().1).unwrap();
    let frame = recording.frames().unwrap()[1];
    let (pilots, payload) = recording.read_frame(&frame).unwrap();
    assert_eq!([pilots, payload].concat(), symbols);
}

#[test]
fn foreign_recordings_open() {
    let foreign = Made::foreign(5).edit(|meta| {
        meta["global"]["core:sample_rate"] = 48_000.into();
        meta["global"]["core:dataset"] = "x.sigmf-data".into();
        meta["collection"] = json!({});
        // Overlapping ones, without end or longer than a frame are as SigMF allows.
        meta["annotations"] = json!([
            { "core:sample_start": 0, "core:sample_count": 4, "core:label": "burst", "other:x": [[1]] },
            { "core:sample_start": 2, "core:sample_count": 3 },
            { "core:sample_start": 2 },
        ]);
    });
    let recording = foreign.open().unwrap();
    assert_eq!((recording.samples(), recording.sample_rate_hz()), (5, Some(48_000.0)));
    assert_eq!(
        (recording.link(), recording.link_key(), recording.side(), recording.profile(0)),
        (None, None, None, None)
    );
    assert_eq!(recording.read(1, 2).unwrap(), [c(1.0, -1.0), c(2.0, -2.0)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_note_and_any_symbols(
        numbers in any::<[u64; 5]>(),
        snrs in (-60f32..100.0, proptest::option::of(any::<f32>().prop_filter("finite", |x| x.is_finite()))),
        lost in any::<bool>(),
        frames in proptest::collection::vec(
            proptest::collection::vec(any::<[f32; 2]>().prop_filter("finite", |s| s.iter().all(|x| x.is_finite())), 1..9), 0..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(dir.path(), "p", start()).unwrap();
        let mut written = Vec::new();
        for (i, symbols) in frames.iter().enumerate() {
            let symbols: Vec<Complex32> = symbols.iter().map(|[re, im]| c(*re, *im)).collect();
            let pilots = i % symbols.len();
            let [id, stream, sequence, seed, profile_version] = numbers.map(|n| n.rotate_left(i as u32));
            let note = Note {
                id, stream, sequence, seed, profile_version, pilots, symbols: symbols.len() - pilots,
                snr_db_requested: snrs.0, snr_db_realised: snrs.1, lost,
            };
            recorder.frame(&note, split(&symbols, pilots), split(&symbols, pilots)).unwrap();
            written.push((note, symbols));
        }
        let (before, after) = recorder.finish().unwrap();
        for path in [before, after] {
            let recording = Recording::open(path).unwrap();
            let frames = recording.frames().unwrap();
            prop_assert_eq!(frames.len(), written.len());
            for (frame, (note, symbols)) in frames.iter().zip(&written) {
                prop_assert_eq!(&frame.note, note);
                let (pilots, payload) = recording.read_frame(frame).unwrap();
                prop_assert_eq!(pilots.len(), note.pilots);
                prop_assert_eq!(support::bytes(&[pilots, payload].concat()), support::bytes(symbols));
            }
        }
    }
}
