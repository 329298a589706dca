//! The Python examples of `clients/python` against running services with the shipped bundle.
//!
//! `SEMLINK_PYTHON` names an interpreter that has the packages of `clients/python/requirements.txt`; without one the tests do nothing and say so.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use image::GrayImage;
use semlink_channel::SnrDb;
use semlink_codec::images::idx;
use serde_json::Value;
use support::{listener, path, semlink, stderr, stdout};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Images of the sample that are sent.
const IMAGES: usize = 20;

/// The examples with their stubs, and the services that they talk to.
struct Examples {
    python: PathBuf,
    dir: TempDir,
    transmitter: String,
    emulator: String,
    receiver: String,
    /// Ends the services.
    _runtime: Runtime,
}

/// Killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// An interpreter with these modules.
fn python(modules: &str) -> Option<PathBuf> {
    let Some(python) = std::env::var_os("SEMLINK_PYTHON").filter(|path| !path.is_empty()).map(PathBuf::from) else {
        eprintln!("skipped: SEMLINK_PYTHON names no interpreter with the packages of clients/python/requirements.txt");
        return None;
    };
    let output = Command::new(&python).arg("-c").arg(format!("import {modules}")).output();
    match output {
        Ok(output) if output.status.success() => Some(python),
        Ok(output) => {
            eprintln!("skipped: {} cannot import {modules}: {}", python.display(), stderr(&output));
            None
        }
        Err(error) => {
            eprintln!("skipped: SEMLINK_PYTHON, {}: {error}", python.display());
            None
        }
    }
}

impl Examples {
    /// Makes the stubs as the manual says and starts the services: AWGN of 10 dB, frames that depend on nothing but image and id.
    fn start(python: PathBuf) -> Examples {
        let (examples, dir) = (repository().join("clients/python"), TempDir::new().expect("a folder"));
        let generated =
            Command::new("sh").arg(examples.join("generate.sh")).arg(dir.path()).env("PYTHON", &python).output();
        stdout(&generated.expect("a shell"));
        let runtime = Runtime::new().expect("a runtime");
        let (receiver_listener, receiver) = listener(&runtime);
        let (emulator_listener, emulator) = listener(&runtime);
        let (transmitter_listener, transmitter) = listener(&runtime);
        let bundle = repository().join("assets/fashion-mnist");
        let forever = std::future::pending::<()>;
        runtime.spawn(semlink_receiver::serve(receiver_listener, semlink_receiver::Config::new(&bundle), forever()));
        let config = semlink_channel_emulator::Config::new(receiver.clone(), SnrDb::try_new(10.0).expect("an SNR"));
        runtime.spawn(semlink_channel_emulator::serve(emulator_listener, config, forever()));
        let rate = "64".parse().expect("a rate");
        let mut config = semlink_transmitter::Config::new(emulator.clone(), &bundle, rate);
        config.feedback_age = 0.0;
        runtime.spawn(semlink_transmitter::serve(transmitter_listener, config, forever()));
        Examples { python, dir, transmitter, emulator, receiver, _runtime: runtime }
    }

    /// `python SCRIPT.py ARGUMENTS`, with the stubs made for this test and no others.
    fn command(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(repository().join("clients/python").join(script)).args(arguments);
        // Stubs that someone made beside the examples may be old: what lies there is looked at last.
        let paths = std::env::join_paths([self.dir.path(), &repository().join("clients/python")]);
        command.env("PYTHONPATH", paths.expect("paths")).env("PYTHONSAFEPATH", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Output {
        self.command(script, arguments).output().expect("the interpreter runs")
    }
}

/// The first images of the sample as PNG files, and their classes.
fn files(dir: &TempDir) -> (Vec<String>, Vec<u64>) {
    let sample = repository().join("assets/sample");
    let (images, labels) = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz");
    let read = idx::read(&sample.join(images), &sample.join(labels), 10).expect("the sample");
    let write = |index: usize| {
        let file = path(dir, &format!("{index}.png"));
        let pixels = read.image(index).expect("an image").to_vec();
        let image = GrayImage::from_raw(read.width as u32, read.height as u32, pixels).expect("its pixels");
        image.save(&file).expect("a file");
        file
    };
    ((0..IMAGES).map(write).collect(), read.labels.iter().take(IMAGES).map(|label| u64::from(*label)).collect())
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect()
}

fn field<'a>(objects: &'a [Value], name: &str) -> Vec<&'a Value> {
    objects.iter().map(|object| &object[name]).collect()
}

#[test]
fn the_examples_get_the_decisions_that_the_command_line_gets() {
    let Some(python) = python("grpc, grpc_tools") else { return };
    let examples = Examples::start(python);
    let (files, classes) = files(&examples.dir);
    let files: Vec<&str> = files.iter().map(String::as_str).collect();

    // A subscriber that counts from before the first image on.
    let everything = (3 * IMAGES).to_string();
    let subscriber = examples
        .command("subscribe.py", &["--receiver", &examples.receiver, "--count", &everything])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut subscriber = Running(subscriber.expect("the interpreter runs"));
    let mut told = String::new();
    let mut errors = BufReader::new(subscriber.0.stderr.take().expect("standard error"));
    errors.read_line(&mut told).expect("a line");
    assert_eq!(told, "listening\n");

    let sent = objects(&stdout(&semlink(["send", "--json", "--to", &examples.transmitter].iter().chain(&files))));
    let right = sent.iter().zip(&classes).filter(|(sent, class)| sent["index"] == **class).count();
    assert!(sent.len() == IMAGES && right >= IMAGES - 4, "{right} of {} right", sent.len());
    for more in [&[][..], &["--unary"]] {
        let arguments = [&["--json", "--to", &examples.transmitter][..], more, &files].concat();
        let classified = objects(&stdout(&examples.run("classify.py", &arguments)));
        for name in ["image", "index", "label", "k", "unsure"] {
            assert_eq!(field(&classified, name), field(&sent, name), "{name} {more:?}");
        }
        for (ours, theirs) in field(&classified, "confidence").iter().zip(field(&sent, "confidence")) {
            let apart = ours.as_f64().expect("a number") - theirs.as_f64().expect("a number");
            assert!(apart.abs() < 1e-4, "confidence {ours}, the command line's {theirs}");
        }
    }

    let mut events = String::new();
    subscriber.0.stdout.take().expect("standard output").read_to_string(&mut events).expect("text");
    let mut events = objects(&events);
    assert_eq!(events.len(), 3 * IMAGES);
    events.sort_by_key(|event| event["sequence"].as_u64());
    // Three times each, by the number that the client gave it.
    for (of_one, sent) in events.chunks(3).zip(&sent) {
        assert!(of_one.iter().all(|event| event["label"] == sent["label"]), "{of_one:?}, not {}", sent["label"]);
    }
}

#[test]
fn the_sample_and_a_sweep_show_what_the_channel_does() {
    let Some(python) = python("grpc, grpc_tools") else { return };
    let examples = Examples::start(python);
    let text = stdout(&examples.run("classify.py", &["--to", &examples.transmitter, "--sample", "20"]));
    let right: usize =
        text.lines().last().and_then(|line| line.strip_suffix(" of 20 right")?.parse().ok()).unwrap_or(0);
    assert!(text.lines().count() == 21 && right >= 16, "{text}");

    let to = ["--to", &examples.transmitter, "--control", &examples.emulator, "--snr=-30,20", "--images", "100"];
    let text = stdout(&examples.run("sweep.py", &to));
    let points: Vec<Vec<f64>> = text
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect())
        .collect();
    let [low, high] = &points[..] else { panic!("{text}") };
    assert_eq!((low[0], high[0]), (-30.0, 20.0));
    // Ten classes: nothing but guesses arrives at -30 dB.
    assert!(low[1] < 40.0 && high[1] >= 85.0, "{text}");
}

#[test]
fn what_is_wrong_is_told_by_image_or_in_one_line() {
    let Some(python) = python("grpc, grpc_tools") else { return };
    let examples = Examples::start(python);
    let bad = path(&examples.dir, "bad.png");
    fs::write(&bad, b"no image").expect("a file");
    for more in [&[][..], &["--unary"]] {
        let arguments = [&["--json", "--to", &examples.transmitter, "--sample", "1"][..], more, &[&bad]].concat();
        let output = examples.run("classify.py", &arguments);
        let found = objects(&String::from_utf8(output.stdout.clone()).expect("UTF-8"));
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(found[0]["error"].as_str().expect("an error").contains("not an image"), "{found:?}");
        // The one that is good is decided all the same.
        assert!(found[1]["label"].is_string(), "{found:?}");
    }
    let unused = std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a free port");
    let output = examples.run("classify.py", &["--to", &unused.to_string(), "--sample", "1"]);
    assert!(
        !output.status.success() && stderr(&output).starts_with("classify.py: UNAVAILABLE: "),
        "{}",
        stderr(&output)
    );
}

#[test]
fn reflection_describes_every_service_to_a_generic_client() {
    let Some(python) = python("grpc, grpc_tools, grpc_reflection") else { return };
    let examples = Examples::start(python);
    for (url, expected) in [
        (
            &examples.transmitter,
            &[
                "grpc.health.v1.Health",
                "  Check(grpc.health.v1.HealthCheckRequest) returns (grpc.health.v1.HealthCheckResponse)",
                "semlink.v1.Transmitter",
                "  Classify(semlink.v1.ClassifyRequest) returns (semlink.v1.ClassifyResponse)",
                "  ClassifyStream(stream semlink.v1.ClassifyRequest) returns (stream semlink.v1.ClassifyResponse)",
            ][..],
        ),
        (
            &examples.emulator,
            &[
                "semlink.v1.ChannelControl",
                "  SetChannel(semlink.v1.SetChannelRequest) returns (semlink.v1.ChannelProfile)",
                "semlink.v1.Link",
            ],
        ),
        (
            &examples.receiver,
            &[
                "semlink.v1.Decisions",
                "  Subscribe(semlink.v1.SubscribeRequest) returns (stream semlink.v1.DecisionEvent)",
                "  Transmit(stream semlink.v1.Frame) returns (stream semlink.v1.FrameReport)",
            ],
        ),
    ] {
        let text = stdout(&examples.run("services.py", &["--of", url]));
        for line in expected {
            assert!(text.lines().any(|found| found == *line), "{line:?} is missing in\n{text}");
        }
    }
}
