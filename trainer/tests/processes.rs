//! Real processes of the trainer that train together.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use semlink_codec::images::cifar::Cifar;
use semlink_nn::checkpoint;
use semlink_trainer::testing::write_cifar;
use tempfile::TempDir;

/// A run of a small recipe in a folder of its own.
struct Run {
    data: TempDir,
    out: TempDir,
}

impl Run {
    fn new() -> Self {
        let run = Self { data: tempfile::tempdir().unwrap(), out: tempfile::tempdir().unwrap() };
        write_cifar(Cifar::Ten, run.data.path(), 20).unwrap();
        run
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_semlink-trainer"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["run", "tests/recipes/cifar10-clip.toml"]);
        command.args(["--device", "cpu", "--threads", "1", "--data"]).arg(self.data.path());
        command.arg("--out").arg(self.out.path()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// The weights in a file of the run.
    fn weights(&self, file: &str) -> Vec<(String, Vec<f32>)> {
        let tensors = checkpoint::load(&self.out.path().join(file), &Device::Cpu).unwrap().tensors;
        let values = |t: candle_core::Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        tensors.into_iter().map(|(name, t)| (name, values(t))).collect()
    }

    /// Nothing that was being written is left.
    fn is_tidy(&self) -> bool {
        fs::read_dir(self.out.path()).unwrap().all(|entry| !entry.unwrap().path().to_string_lossy().ends_with(".tmp"))
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Lines of a process's standard error.
fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok)
}

#[test]
fn processes_of_this_host_and_processes_that_meet_end_with_the_same_weights() {
    let started_here = Run::new();
    let output = started_here.command(&["--processes", "2", "--stage", "teacher"]).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    // One process shows progress.
    let text = errors(&output);
    assert_eq!(text.matches("epoch 4/4").count(), 1, "{text}");

    let meeting = Run::new();
    let arguments = ["--stage", "teacher", "--world-size", "2", "--rendezvous"];
    let mut first = meeting.command(&[&arguments[..], &["127.0.0.1:0", "--rank", "0"]].concat()).spawn().unwrap();
    let mut said = lines(&mut first);
    let waits = said.next().unwrap();
    let address = waits.split(' ').find(|word| word.starts_with("127.0.0.1:")).unwrap_or_else(|| panic!("{waits}"));
    let mut second = meeting.command(&[&arguments[..], &[address]].concat());
    let second = second.env("SEMLINK_RANK", "1").output().unwrap();
    let rest: Vec<String> = said.collect();
    assert!(first.wait().unwrap().success() && second.status.success(), "{rest:?} {}", errors(&second));
    assert_eq!(errors(&second), "", "only process 0 says something");
    assert_eq!(started_here.weights("teacher.safetensors"), meeting.weights("teacher.safetensors"));

    // One process alone: the probe has no batch-norm.
    let alone = Run::new();
    assert!(alone.command(&["--stage", "teacher"]).output().unwrap().status.success());
    let pairs = alone.weights("teacher.safetensors").into_iter().zip(meeting.weights("teacher.safetensors"));
    for ((name, a), (same, b)) in pairs {
        let worst = a.iter().zip(&b).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(name == same && worst < 1e-3, "{name}: {worst}");
    }
}

/// Kills one of two processes while they train; what the other says, and how it ends.
fn kill_one(run: &Run, arguments: &[&str], victim: impl FnOnce(&Child) -> u32) -> (Vec<String>, Option<i32>) {
    let changes = ["--set", "teacher.fit.epochs=100000", "--peer-timeout", "30"];
    let mut first = run.command(&[&changes[..], arguments].concat()).spawn().unwrap();
    let mut said = lines(&mut first);
    // Training has begun.
    assert!(said.any(|line| line.contains("epoch 2/100000")));
    let killed = Instant::now();
    assert!(Command::new("kill").args(["-KILL", &victim(&first).to_string()]).status().unwrap().success());
    let rest: Vec<String> = said.filter(|line| !line.contains(" epoch ")).collect();
    let status = first.wait().unwrap();
    assert!(killed.elapsed() < Duration::from_secs(30), "{:?}", killed.elapsed());
    (rest, status.code())
}

/// The one process that `parent` started.
#[cfg(target_os = "linux")]
fn child_of(parent: &Child) -> u32 {
    let tasks = fs::read_dir(format!("/proc/{}/task", parent.id())).unwrap();
    let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let all: Vec<u32> = children
        .flat_map(|text| text.split(' ').filter_map(|pid| pid.trim().parse().ok()).collect::<Vec<_>>())
        .collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]
}

#[cfg(target_os = "linux")]
#[test]
fn a_killed_process_ends_all_of_this_host_with_one_line_and_the_run_can_be_resumed() {
    let run = Run::new();
    let (said, code) = kill_one(&run, &["--processes", "2", "--stage", "teacher"], child_of);
    assert_eq!((said.len(), code), (1, Some(1)), "{said:?}");
    assert!(said[0].starts_with("semlink-trainer: process 1 was lost: ") && said[0].contains("signal: 9"), "{said:?}");
    assert!(run.is_tidy());
    let saved = checkpoint::load(&run.out.path().join("teacher.checkpoint.safetensors"), &Device::Cpu).unwrap();
    assert!(saved.metadata["step"].parse::<usize>().unwrap() > 0);
    let again = ["--set", "teacher.fit.epochs=100000", "--stage", "teacher", "--resume", "--processes", "2"];
    let mut again = run.command(&again).spawn().unwrap();
    let first = lines(&mut again).find(|line| line.contains("epoch")).unwrap();
    again.kill().unwrap();
    again.wait().unwrap();
    assert!(!first.contains("epoch 1/"), "{first}");
}

#[test]
fn a_process_that_lost_the_leader_says_so() {
    let run = Run::new();
    let common = ["--stage", "teacher", "--set", "teacher.fit.epochs=100000", "--world-size", "2", "--rendezvous"];
    let mut first = run.command(&[&common[..], &["127.0.0.1:0"]].concat()).spawn().unwrap();
    let mut said = lines(&mut first);
    let waits = said.next().unwrap();
    let address = waits.split(' ').find(|word| word.starts_with("127.0.0.1:")).unwrap();
    let second = run.command(&[&common[..], &[address, "--rank", "1"]].concat()).spawn().unwrap();
    assert!(said.any(|line| line.contains("epoch 2/100000")));
    first.kill().unwrap();
    first.wait().unwrap();
    let second = second.wait_with_output().unwrap();
    let text = errors(&second);
    assert_eq!((second.status.code(), text.lines().count()), (Some(1), 1), "{text}");
    assert!(text.contains("process 0 was lost: its connection closed"), "{text}");
}

#[test]
fn what_cannot_be_is_said_before_anything_starts() {
    let run = Run::new();
    let fails = |arguments: &[&str]| {
        let output = run.command(arguments).output().unwrap();
        (output.status.code(), errors(&output))
    };
    let (code, text) = fails(&["--processes", "17"]);
    assert_eq!((code, text.lines().count()), (Some(64), 1), "{text}");
    for fit in ["teacher.fit.batch = 16", "distill.fit.batch = 16", "robust.fit.batch = 16"] {
        assert!(text.contains(&format!("{fit}, expected at least the 17 processes")), "{text}");
    }
    for (arguments, expected) in [
        (&["--world-size", "2"][..], "needs --rendezvous"),
        (&["--rank", "1"], "--rank 1: expected 0 to 0"),
        (&["--processes", "2", "--world-size", "2"], "--processes starts all processes itself"),
        (&["--processes", "0"], "1..=1024"),
    ] {
        let (code, text) = fails(arguments);
        assert!(code == Some(2) && text.contains(expected), "{arguments:?}: {code:?} {text}");
    }
    // No machine has so many GPUs.
    let (code, text) = fails(&["--processes", "2", "--device", "cuda:90", "--stage", "teacher"]);
    assert!(code == Some(1) && text.contains("GPU 90: "), "{code:?} {text}");
    assert!(!Path::new(&run.out.path().join("teacher.safetensors")).exists());
}
