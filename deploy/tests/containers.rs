//! The services as containers on networks of an edge host and a server: what users deploy, from the images that they deploy. Skipped with a message where no
//! Docker engine answers or the images are not built.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures::StreamExt as _;
use image::{ExtendedColorType, ImageEncoder as _, codecs::png::PngEncoder};
use semlink_codec::images::idx;
use semlink_deploy::{
    Hosts, LIMITED, Run, Stack, docker, healthy, inspect, log, missing, receiver, tag, url, wait_for,
};
use semlink_proto::v1::ClassifyRequest;
use semlink_proto::v1::transmitter_client::TransmitterClient;
use tokio::sync::{Mutex, MutexGuard, mpsc};
use tokio_stream::wrappers::ReceiverStream;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The engine, for one test at a time: they measure what a host bears. None where there is none.
async fn engine() -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::const_new(());
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return None;
    }
    Some(ONE.lock().await)
}

/// The shipped sample as PNG files, with their classes.
fn sample() -> Vec<(Vec<u8>, u32)> {
    let dir = root().join("assets/sample");
    let (images, labels) = (dir.join("t10k-images-idx3-ubyte.gz"), dir.join("t10k-labels-idx1-ubyte.gz"));
    let read = idx::read(&images, &labels, 10).expect("the sample");
    let encode = |(i, label): (usize, &u8)| {
        let mut file = Vec::new();
        let pixels = read.image(i).expect("an image");
        let size = (read.width as u32, read.height as u32);
        PngEncoder::new(&mut file).write_image(pixels, size.0, size.1, ExtendedColorType::L8).expect("a PNG");
        (file, u32::from(*label))
    };
    read.labels.iter().enumerate().map(encode).collect()
}

async fn client(hosts: &Hosts) -> TransmitterClient<tonic::transport::Channel> {
    let address = url(&hosts.transmitter, 50051).expect("a port");
    TransmitterClient::connect(address).await.expect("a connection")
}

/// What became of a stream of images.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    answered: BTreeMap<u64, u32>,
    correct: u32,
    failed: u32,
}

/// Streams `count` images with at most 64 under way; `at(n)` is called after n answers.
async fn stream(hosts: &mut Hosts, count: u64, mut at: impl FnMut(&mut Hosts, u64)) -> Tally {
    let images = sample();
    let mut client = client(hosts).await;
    let (send, queue) = mpsc::channel(64);
    let of = |id: u64| &images[id as usize % images.len()];
    let requests: Vec<ClassifyRequest> = (0..count)
        .map(|id| ClassifyRequest { id, image: of(id).0.clone().into(), label: Some(of(id).1), ..Default::default() })
        .collect();
    tokio::spawn(async move {
        for request in requests {
            if send.send(request).await.is_err() {
                return;
            }
        }
    });
    let mut answers = client.classify_stream(ReceiverStream::new(queue)).await.expect("a stream").into_inner();
    let mut tally = Tally::default();
    while let Some(answer) = answers.next().await {
        let answer = answer.expect("an answer");
        *tally.answered.entry(answer.id).or_default() += 1;
        match answer.decision {
            Some(decision) => tally.correct += u32::from(decision.index == of(answer.id).1),
            None => tally.failed += 1,
        }
        at(hosts, tally.answered.len() as u64);
    }
    tally
}

fn each_once(tally: &Tally, count: u64) {
    assert_eq!(tally.answered.len() as u64, count, "images without an answer");
    assert!(tally.answered.values().all(|times| *times == 1), "images answered twice");
}

/// Both halves of the shipped bundle in a folder that anybody may read.
fn shipped(dir: &Path) {
    for file in ["bundle.json", "encoder.safetensors", "decoder.safetensors"] {
        std::fs::copy(root().join("assets/fashion-mnist").join(file), dir.join(file)).expect("a copy");
    }
    readable(dir);
}

fn readable(dir: &Path) {
    let mode = |path: &Path, mode: &str| {
        assert!(Command::new("chmod").arg(mode).arg(path).status().expect("chmod").success());
    };
    mode(dir, "755");
    for file in std::fs::read_dir(dir).expect("a folder") {
        mode(&file.expect("a file").path(), "644");
    }
}

#[tokio::test]
async fn images_hold_one_program_that_runs_as_nobody() {
    let Some(_engine) = engine().await else { return };
    for name in ["semlink-transmitter", "semlink-channel-emulator", "semlink-receiver"] {
        let image = inspect(&format!("{name}:{}", tag())).expect("an image");
        assert_eq!(image["Config"]["User"], "65532:65532", "{name}");
        assert_eq!(image["Config"]["Entrypoint"][0], format!("/{name}"), "{name}");
        assert_eq!(image["Config"]["Healthcheck"]["Test"][2], "--check-health", "{name}");
        for label in ["title", "description", "version", "revision", "licenses"] {
            let label = format!("org.opencontainers.image.{label}");
            assert!(image["Config"]["Labels"][&label].is_string(), "{name} has no label {label}");
        }
        // No shell to run: the engine finds none.
        let shell = docker(&["run", "--rm", "--entrypoint", "/bin/sh", &format!("{name}:{}", tag()), "-c", "true"]);
        assert!(shell.unwrap_err().to_string().contains("/bin/sh"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edge_and_server_classify_and_a_client_container_sweeps_the_snr_live() {
    let Some(_engine) = engine().await else { return };
    let bundle = root().join("assets/fashion-mnist");
    let mut hosts = Hosts::start("sweep", &bundle, &[]).expect("hosts");
    let tally = stream(&mut hosts, 1000, |_, _| ()).await;
    each_once(&tally, 1000);
    assert_eq!(tally.failed, 0);
    // The shipped bundle's accuracy at 10 dB is about 94 %; a wrong wiring gives 10 %.
    assert!(tally.correct > 900, "{} of 1000 decided correctly", tally.correct);

    let sample = root().join("assets/sample");
    let out_dir = tempfile::tempdir().expect("a folder");
    assert!(Command::new("chmod").arg("777").arg(out_dir.path()).status().expect("chmod").success());
    let volume = format!("{}:/out", out_dir.path().display());
    let (status, out, err) = hosts
        .stack
        .run(&Run {
            image: "semlink",
            network: "radio",
            alias: "client",
            mounts: vec![(&sample, "/sample")],
            environment: vec!["SEMLINK_PLAINTEXT=next".into()],
            flags: vec!["--volume", &volume],
            arguments: [
                "sweep",
                "--to",
                "http://transmitter:50051",
                "--control",
                "http://emulator:50052",
                "--data",
                "/sample",
                "--snr",
                "-20,20",
                "--channel",
                "awgn",
                "--images",
                "200",
                "--out",
                "/out/sweep",
            ]
            .map(str::to_owned)
            .to_vec(),
            ..Run::default()
        })
        .expect("a client");
    assert_eq!(status, 0, "{out}\n{err}");
    let found = std::fs::read_to_string(out_dir.path().join("sweep/sweep.json")).expect("sweep.json");
    let found: serde_json::Value = serde_json::from_str(&found).expect("JSON");
    let accuracy = |i: usize| found["points"][i]["accuracy"].as_f64().expect("an accuracy");
    // A channel of -20 dB leaves little, one of 20 dB nearly all: the emulator was told.
    assert!(accuracy(0) < 0.6 && accuracy(1) > 0.88, "{out}");
    assert!(log(&hosts.emulator).expect("a log").contains("serving"));
}

#[tokio::test]
async fn the_dashboard_shows_the_link_of_the_other_containers() {
    let Some(_engine) = engine().await else { return };
    let mut hosts = Hosts::start("dashboard", &root().join("assets/fashion-mnist"), &[]).expect("hosts");
    let arguments = "dashboard --data /images --to http://transmitter:50051 --control http://emulator:50052";
    let dashboard = hosts.stack.start(&Run {
        image: "semlink",
        network: "radio",
        alias: "dashboard",
        environment: vec!["SEMLINK_DASHBOARD=0.0.0.0:50080".into(), "SEMLINK_PLAINTEXT=listen,next".into()],
        mounts: vec![(&root().join("assets/sample"), "/images")],
        publish: Some(50080),
        arguments: arguments.split(' ').map(str::to_owned).collect(),
        ..Run::default()
    });
    let dashboard = dashboard.expect("a dashboard");
    let address = url(&dashboard, 50080).expect("a port").replace("http://", "");
    // Docker takes connections for a container that does not listen yet, and ends them.
    let right = wait_for("a right decision on the page", || {
        let mut page = TcpStream::connect(&address)?;
        page.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(page, "GET /events HTTP/1.1\r\nhost: {address}\r\n\r\n")?;
        let mut lines = BufReader::new(page).lines().map_while(Result::ok);
        Ok(lines.find(|line| line.contains("\"right\":true")))
    });
    if let Err(error) = right {
        panic!("{error}: {}", log(&dashboard).unwrap_or_default());
    }
    docker(&["stop", &dashboard]).expect("an end");
    assert_eq!(inspect(&dashboard).expect("a container")["State"]["ExitCode"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_network_is_cut_and_the_receiver_replaced() {
    let Some(_engine) = engine().await else { return };
    let bundle = root().join("assets/fashion-mnist");
    let mut hosts = Hosts::start("cut", &bundle, &LIMITED).expect("hosts");
    let limits = inspect(&hosts.transmitter).expect("a container");
    assert_eq!(limits["HostConfig"]["NanoCpus"], 500_000_000);
    assert_eq!(limits["HostConfig"]["Memory"], 128 * 1024 * 1024);
    let tally = stream(&mut hosts, 3000, |hosts, answers| {
        if answers == 1000 {
            hosts.stack.disconnect(&hosts.transmitter, "radio").expect("a cut");
            // How long the hosts do not see each other, as a cable that is pulled and put back.
            std::thread::sleep(Duration::from_secs(3));
            hosts.stack.connect(&hosts.transmitter, "radio", "transmitter").expect("a network that is whole again");
        }
        if answers == 2000 {
            docker(&["rm", "--force", &hosts.receiver]).expect("a receiver that dies");
            let bundle = hosts.bundle.clone();
            hosts.receiver = hosts.stack.start(&receiver(&bundle)).expect("another receiver");
        }
    })
    .await;
    each_once(&tally, 3000);
    assert_eq!(tally.failed, 0, "{}", log(&hosts.transmitter).expect("a log"));
    assert!(tally.correct > 2700, "{} of 3000 decided correctly", tally.correct);
    let state = inspect(&hosts.transmitter).expect("a container");
    assert_eq!(state["State"]["OOMKilled"], false);
    assert_eq!(state["RestartCount"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_bundle_is_rolled_out_under_a_stream() {
    let Some(_engine) = engine().await else { return };
    let dir = tempfile::tempdir().expect("a folder");
    shipped(dir.path());
    let mut hosts = Hosts::start("roll", dir.path(), &[]).expect("hosts");
    let another = tempfile::tempdir().expect("a folder");
    semlink_codec::testing::write_bundle(another.path(), 5).expect("a bundle");
    let mut rolled = false;
    let folder = dir.path().to_owned();
    let tally = stream(&mut hosts, 3000, |_, answers| {
        if answers >= 1000 && !rolled {
            rolled = true;
            for file in ["decoder.safetensors", "encoder.safetensors", "bundle.json"] {
                let fresh = folder.join(format!("{file}.new"));
                std::fs::copy(another.path().join(file), &fresh).expect("a copy");
                assert!(Command::new("chmod").arg("644").arg(&fresh).status().expect("chmod").success());
                std::fs::rename(&fresh, folder.join(file)).expect("a file that is replaced at once");
            }
        }
    })
    .await;
    each_once(&tally, 3000);
    assert_eq!(tally.failed, 0, "{}", log(&hosts.transmitter).expect("a log"));
    let loaded = |container: &str| Ok(log(container)?.matches("codec_id").count().ge(&2).then_some(()));
    wait_for("the receiver's second codec", || loaded(&hosts.receiver)).expect("a roll-out");
}

/// Runs a service that cannot start: its exit status and what it says.
fn refused(stack: &Stack, how: &Run<'_>) -> (i32, String) {
    let (status, _, err) = stack.run(how).expect("docker");
    (status, err)
}

#[tokio::test]
async fn what_is_missing_or_wrong_ends_a_container_with_its_status_and_one_line() {
    let Some(_engine) = engine().await else { return };
    let stack = Stack::new("wrong");
    let empty = tempfile::tempdir().expect("a folder");
    readable(empty.path());
    let bundle = root().join("assets/fashion-mnist");
    let plain = || vec!["SEMLINK_PLAINTEXT=listen,next".to_owned()];
    let with = |more: &[&str]| plain().into_iter().chain(more.iter().map(|s| (*s).to_owned())).collect::<Vec<_>>();
    let receiver = Run { image: "semlink-receiver", environment: plain(), ..Run::default() };
    let transmitter = Run {
        image: "semlink-transmitter",
        environment: with(&["SEMLINK_NEXT=http://emulator:50052"]),
        mounts: vec![(&bundle, "/bundle")],
        ..Run::default()
    };
    let emulator = Run { image: "semlink-channel-emulator", environment: plain(), ..Run::default() };
    let cases = [
        // No bundle mounted: the image's own folder is empty.
        (receiver.clone(), 64, "/bundle"),
        (Run { mounts: vec![], ..transmitter.clone() }, 64, "/bundle"),
        // A certificate that is not there.
        (
            Run {
                environment: with(&["SEMLINK_TLS_CERT=/certificates/a.pem", "SEMLINK_TLS_KEY=/certificates/a.key"]),
                mounts: vec![(&bundle, "/bundle")],
                ..receiver.clone()
            },
            64,
            "/certificates/a.pem",
        ),
        // Neither a next hop nor links.
        (emulator.clone(), 2, "--next"),
        (Run { environment: plain(), ..transmitter.clone() }, 2, "--next"),
        // A folder that cannot be written.
        (
            Run {
                environment: with(&["SEMLINK_NEXT=http://receiver:50053", "SEMLINK_RECORDINGS=/nowhere"]),
                ..emulator.clone()
            },
            64,
            "/nowhere",
        ),
        // One that is there, but in the image, which is read-only.
        (
            Run {
                environment: with(&["SEMLINK_NEXT=http://receiver:50053", "SEMLINK_RECORDINGS=/recordings"]),
                ..emulator.clone()
            },
            64,
            "/recordings",
        ),
        // A variable with a wrong value.
        (
            Run {
                environment: with(&["SEMLINK_NEXT=http://receiver:50053", "SEMLINK_SNR_DB=loud"]),
                ..emulator.clone()
            },
            64,
            "loud",
        ),
        (
            Run {
                environment: with(&["SEMLINK_RATE=13", "SEMLINK_NEXT=http://emulator:50052"]),
                ..transmitter.clone()
            },
            64,
            "13",
        ),
        // Plaintext that nobody asked for.
        (Run { environment: vec![], mounts: vec![(&bundle, "/bundle")], ..receiver.clone() }, 64, "plaintext"),
    ];
    for (how, expected, names) in &cases {
        let (status, err) = refused(&stack, how);
        assert_eq!(status, *expected, "{how:?}: {err}");
        assert!(err.contains(names), "{names} is not named: {err}");
        if *expected == 64 {
            assert_eq!(err.lines().count(), 1, "{err}");
        }
    }
}

/// A fresh volume takes the folder's owner from the image: with the wrong one its user could not write.
#[tokio::test]
async fn the_emulator_records_into_a_volume() {
    let Some(_engine) = engine().await else { return };
    let mut stack = Stack::new("record");
    let environment =
        ["SEMLINK_NEXT=http://127.0.0.1:50053", "SEMLINK_RECORDINGS=/recordings", "SEMLINK_PLAINTEXT=listen"];
    let mut run = Run { image: "semlink-channel-emulator", alias: "emulator", ..Run::default() };
    run.environment = environment.map(str::to_owned).to_vec();
    run.flags = vec!["--volume", "/recordings"];
    let emulator = stack.start(&run).expect("an emulator");
    healthy(&emulator, "/semlink-channel-emulator").expect("an emulator that serves");
    let command = |arguments: &[&str]| {
        let network = format!("container:{emulator}");
        let arguments = arguments.iter().map(|s| (*s).to_owned()).collect();
        let flags = vec!["--network", network.as_str()];
        stack.run(&Run { image: "semlink", flags, arguments, ..Run::default() }).expect("a client")
    };
    for asked in [&["channel", "record", "start", "walk"][..], &["channel", "record", "stop"]] {
        let (status, _, err) = command(asked);
        assert_eq!(status, 0, "{asked:?}: {err}");
    }
}

#[tokio::test]
async fn a_program_for_another_architecture_is_refused_by_name() {
    let Some(_engine) = engine().await else { return };
    let dir = tempfile::tempdir().expect("a folder");
    // The head of a program for 64-bit Arm (ELF machine 183), or for x86-64 (62) on Arm.
    let foreign: u8 = if cfg!(target_arch = "x86_64") { 183 } else { 62 };
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, foreign, 0, 1, 0, 0, 0];
    elf.resize(120, 0);
    let path = dir.path().join("foreign");
    std::fs::write(&path, elf).expect("a file");
    assert!(Command::new("chmod").arg("755").arg(&path).status().expect("chmod").success());
    let volume = format!("{}:/foreign:ro", path.display());
    let image = format!("semlink-receiver:{}", tag());
    let error =
        docker(&["run", "--rm", "--volume", &volume, "--entrypoint", "/foreign", &image]).unwrap_err().to_string();
    assert!(error.contains("exec format error"), "{error}");
}

#[tokio::test]
async fn a_crash_loop_leaves_the_bundle_as_it_is() {
    let Some(_engine) = engine().await else { return };
    let dir = tempfile::tempdir().expect("a folder");
    shipped(dir.path());
    let content = |dir: &Path| -> BTreeMap<_, _> {
        let files = std::fs::read_dir(dir).expect("a folder").map(|file| file.expect("a file").path());
        files.map(|path| (path.clone(), std::fs::read(path).expect("a file"))).collect()
    };
    let before = content(dir.path());
    let mut stack = Stack::new("loop");
    stack.network("server").expect("a network");
    // A setting that cannot be used ends it after the bundle was read; the engine starts it again and again.
    let mut how = receiver(dir.path());
    how.environment.push("SEMLINK_MAX_BATCH=0".into());
    how.flags = vec!["--restart", "always"];
    let container = stack.start(&how).expect("a receiver");
    let restarts = || Ok(inspect(&container)?["RestartCount"].as_u64().filter(|count| *count >= 3));
    wait_for("three restarts", restarts).expect("a crash loop");
    assert!(log(&container).expect("a log").lines().all(|line| line.contains("--max-batch")), "{:?}", log(&container));
    docker(&["rm", "--force", &container]).expect("an end");
    assert_eq!(content(dir.path()), before);
}
