//! The `sigmf` package of Python as the judge of what is written. Needs a Python that has it, named by `SEMLINK_BENCH_PYTHON` or else
//! `python3`; without one the test says so and passes.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use num_complex::Complex32;
use semlink_recording::{FrameSymbols, Note, Recorder, write_responses};
use support::{c, note, split, start};

fn python() -> Option<PathBuf> {
    let python = PathBuf::from(env::var_os("SEMLINK_BENCH_PYTHON").unwrap_or("python3".into()));
    let found = Command::new(&python).args(["-c", "import numpy, sigmf"]).output();
    found.is_ok_and(|output| output.status.success()).then_some(python)
}

fn check(python: &Path, stem: &Path, options: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/peers/sigmf_check.py");
    Command::new(python).arg(script).arg(stem).args(options).output().unwrap()
}

#[track_caller]
fn passes(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn fails(output: &Output, message: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains(message), "{message:?} is not in {stderr:?}");
}

/// Frames at 20 dB, since noise is a tenth of the symbol in another direction; one is lost.
fn record(dir: &Path, name: &str) {
    let mut recorder = Recorder::create(dir, name, start()).unwrap();
    recorder.profile(4, &serde_json::json!({ "kind": "awgn" })).unwrap();
    for i in 0..9u64 {
        let sent: Vec<Complex32> = (0..40 + i).map(|k| Complex32::cis(k as f32)).collect();
        let left: Vec<Complex32> = sent.iter().map(|x| x + x * c(0.0, 0.1)).collect();
        let lost = i == 4;
        let note = Note { snr_db_realised: (!lost).then_some(20.0), lost, ..note(u64::MAX - i, 4, sent.len() - 4) };
        let after = if lost { FrameSymbols::default() } else { split(&left, 4) };
        recorder.frame(&note, split(&sent, 4), after).unwrap();
    }
    recorder.finish().unwrap();
}

#[test]
fn the_package_reads_what_is_written() {
    let Some(python) = python() else {
        eprintln!("skipped: no Python with numpy and sigmf; set SEMLINK_BENCH_PYTHON");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    record(dir.path(), "good");
    let summary = passes(&check(&python, &at("good"), &["--awgn"]));
    assert_eq!((summary["frames"].as_u64(), summary["snr_compared"].as_u64()), (Some(9), Some(8)));
    Recorder::create(dir.path(), "empty", start()).unwrap().finish().unwrap();
    assert_eq!(passes(&check(&python, &at("empty"), &[]))["frames"], 0);

    // And it does look.
    record(dir.path(), "bad");
    let meta = fs::read_to_string(at("bad-after.sigmf-meta")).unwrap();
    let edit = |from: &str, to: &str| fs::write(at("bad-after.sigmf-meta"), meta.replacen(from, to, 1)).unwrap();
    edit("\"semlink:seed\":", "\"semlink:sed\":");
    fails(&check(&python, &at("bad"), &[]), "semlink:seed");
    edit("18446744073709551615,\"semlink:stream", "18446744073709551614,\"semlink:stream");
    fails(&check(&python, &at("bad"), &[]), "semlink:frame_id");
    edit("\"core:version\":\"1.2.0\"", "\"core:num_channels\":\"x\"");
    fails(&check(&python, &at("bad"), &[]), "Error");
    edit("", "");
    for side in ["before", "after"] {
        let path = at(&format!("bad-{side}.sigmf-meta"));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("realised\":20.0", "realised\":20.02", 1)).unwrap();
    }
    fails(&check(&python, &at("bad"), &["--awgn"]), "noted 20.0200 dB");
    let mut data = fs::read(at("bad-before.sigmf-data")).unwrap();
    data[100] ^= 1;
    fs::write(at("bad-before.sigmf-data"), data).unwrap();
    fails(&check(&python, &at("bad"), &[]), "hash");

    let meta = write_responses(&at("responses"), 2, &[Complex32::ONE; 6], Some(1e6)).unwrap();
    let code = "import sys, warnings, sigmf; warnings.simplefilter('error'); r = sigmf.fromfile(sys.argv[1]); r.validate(); print(len(r.read_samples()))";
    let output = Command::new(&python).args(["-c", code]).arg(meta).output().unwrap();
    assert_eq!(passes(&output), 6);
}
