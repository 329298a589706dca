//! The binary as scripts use it: results, files, exit status and the one line that says what went wrong.

mod support;

use std::fs;
use std::net::TcpListener as Port;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use futures::stream::Pending;
use semlink_proto::v1::transmitter_server::{Transmitter, TransmitterServer};
use semlink_proto::v1::{ClassifyRequest, ClassifyResponse, CodecInfo, GetCodecRequest};
use serde_json::Value;
use support::{Chain, IMAGES, assets, command, listener, path, semlink, stderr, stdout, sweep_json};
use tokio::sync::mpsc;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

#[test]
fn a_demo_measures_every_point_and_leaves_its_files() {
    let dir = assets();
    let (bundle, data) = (path(&dir, "bundle"), path(&dir, "data"));
    let manifest: Value =
        serde_json::from_slice(&fs::read(dir.path().join("bundle/bundle.json")).expect("a manifest")).expect("JSON");
    let run = |out: &str| {
        let flags = ["--images", "12", "--snr", "-10:20:30", "--channel", "awgn,rayleigh,rician", "--rate", "32"];
        let folders = ["--bundle", &bundle, "--data", &data, "--out", out];
        stdout(&semlink(["demo"].iter().chain(&flags).chain(&folders)))
    };
    let out = path(&dir, "out/nested");
    let text = run(&out);
    assert!(text.contains("rayleigh") && text.contains("Es/N0 in dB") && text.contains("sweep.svg"), "{text}");

    let sweep = sweep_json(&out);
    assert_eq!(sweep["codec_id"], manifest["codec_id"]);
    assert_eq!(sweep["dataset"], "t10k-images-idx3-ubyte");
    let points = sweep["points"].as_array().expect("points");
    let settings: Vec<(&str, f64)> =
        points.iter().map(|p| (p["channel"].as_str().expect("a name"), p["snr_db"].as_f64().expect("dB"))).collect();
    let kinds = ["awgn", "rayleigh", "rician"];
    assert_eq!(settings, kinds.map(|kind| [(kind, -10.0), (kind, 20.0)]).concat());
    for point in points {
        assert_eq!((&point["images"], &point["k"], &point["csi"]), (&12.into(), &32.into(), &"perfect".into()));
        let (correct, accuracy) = (point["correct"].as_f64().expect("a count"), point["accuracy"].as_f64());
        assert_eq!(accuracy, Some(correct / 12.0));
        // With perfect channel state the receiver knows what was asked for.
        let measured = point["snr_db_measured"].as_f64().expect("known");
        assert!((measured - point["snr_db"].as_f64().expect("dB")).abs() < 0.01, "{point}");
        assert!(point["images_per_second"].as_f64().expect("a rate") > 0.0);
    }
    let csv = fs::read_to_string(PathBuf::from(&out).join("sweep.csv")).expect("sweep.csv");
    assert_eq!(csv.lines().count(), 1 + points.len());
    let svg = fs::read_to_string(PathBuf::from(&out).join("sweep.svg")).expect("sweep.svg");
    assert!(svg.starts_with("<svg") && svg.contains("accuracy in %"));

    // The same streams and ids meet the same noise.
    let again = path(&dir, "again");
    run(&again);
    let correct = |sweep: &Value| -> Vec<Value> {
        sweep["points"].as_array().expect("points").iter().map(|p| p["correct"].clone()).collect()
    };
    assert_eq!(correct(&sweep_json(&again)), correct(&sweep));
}

/// The page as a parser sees it: nothing that runs, nothing from elsewhere.
fn parsed(html: &str) -> roxmltree::Document<'_> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let parsed = roxmltree::Document::parse_with_options(html, options).unwrap_or_else(|error| panic!("{error}"));
    for node in parsed.descendants() {
        assert!(!node.has_tag_name("script"));
        for attribute in node.attributes().filter(|a| ["src", "href"].contains(&a.name())) {
            let value = attribute.value();
            assert!(value.starts_with('#') || value.starts_with("data:image/png;base64,"), "{value}");
        }
    }
    parsed
}

#[test]
fn a_demo_writes_a_report_that_says_what_its_files_say() {
    let dir = assets();
    let (bundle, data) = (path(&dir, "bundle"), path(&dir, "data"));
    let (out, report) = (path(&dir, "out"), path(&dir, "report.html"));
    let flags = ["demo", "--images", "10", "--snr", "-10,5,20", "--channel", "awgn,rayleigh", "--rate", "32", "--json"];
    let folders = ["--bundle", &bundle, "--data", &data, "--out", &out, "--report", &report];
    let output = semlink(flags.iter().chain(&folders));
    let text = stdout(&output);
    // What scripts read is the file's content, and nothing but lines for people is on standard error.
    let printed: Value = serde_json::from_str(&text).expect("JSON");
    let sweep = sweep_json(&out);
    assert_eq!(printed, sweep);
    let told = stderr(&output);
    assert!(told.lines().count() >= 6 && told.contains("point 6 of 6, 0 s left"), "a line for each point: {told}");
    assert!(text.chars().chain(told.chars()).all(|c| c == '\n' || !c.is_control()), "{told:?}");

    let html = fs::read_to_string(&report).expect("a report");
    let parsed = parsed(&html);
    let texts = |name: &str| -> Vec<String> {
        let of = parsed.descendants().filter(|node| node.tag_name().name() == name);
        of.map(|node| node.descendants().filter(|n| n.is_text()).filter_map(|n| n.text()).collect()).collect()
    };
    let headings = [
        "What was run",
        "Accuracy over SNR",
        "Images and decisions",
        "What is taken for what",
        "Is it as sure as it is right?",
    ];
    assert_eq!(texts("h2"), headings);
    let facts = texts("dd");
    let codec = sweep["codec_id"].as_str().expect("an id");
    for fact in [codec, "32", "--snr -10,5,20", "seed 0"] {
        assert!(facts.iter().any(|found| found.contains(fact)), "{fact}: {facts:?}");
    }
    // Six points, eight images and two channels of samples; every matrix counts the ten images.
    assert_eq!(texts("img").len(), 2 * 8);
    let points = sweep["points"].as_array().expect("points");
    for point in points {
        let accuracy = format!("{:.2} %", 100.0 * point["accuracy"].as_f64().expect("a share"));
        assert!(texts("td").contains(&accuracy), "{accuracy}");
    }
    let matrices = parsed.descendants().filter(|node| node.attribute("class") == Some("heat"));
    let counts: Vec<u32> = matrices
        .map(|matrix| {
            let shaded =
                matrix.descendants().filter(|cell| cell.attribute("class").is_some_and(|class| class.starts_with('h')));
            shaded.filter_map(|cell| cell.text()?.parse::<u32>().ok()).sum()
        })
        .collect();
    assert_eq!(counts, [10; 6]);
    let pictures = texts("title");
    assert!(pictures.iter().any(|title| title.starts_with("rayleigh: ECE ")), "{pictures:?}");
}

#[test]
fn a_report_that_cannot_be_kept_is_refused_before_the_sweep() {
    let dir = assets();
    let (bundle, data, out) = (path(&dir, "bundle"), path(&dir, "data"), path(&dir, "out"));
    let folders = ["demo", "--images", "12", "--bundle", &bundle, "--data", &data, "--out", &out];
    for (report, why) in [(path(&dir, "none/report.html"), "No such file"), (path(&dir, "data"), "is a folder")] {
        let refused = semlink(folders.iter().copied().chain(["--report", &report]));
        assert_eq!(refused.status.code(), Some(1));
        let told = stderr(&refused);
        assert!(told.starts_with("semlink: --report: ") && told.contains(&report) && told.contains(why), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    assert!(!Path::new(&out).join("sweep.json").exists(), "nothing was measured");
}

#[test]
fn shells_get_completions_of_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = stdout(&semlink(["completions", shell]));
        assert!(
            ["demo", "sweep", "send", "--report"].iter().all(|word| script.contains(word.trim_start_matches('-'))),
            "{shell}"
        );
    }
    assert_eq!(semlink(["completions", "sh"]).status.code(), Some(2));
}

#[test]
fn the_models_are_json_for_scripts() {
    let models = stdout(&semlink(["channel", "models", "--json"]));
    let names: Vec<Value> =
        models.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["model"].clone()).collect();
    let printed = stdout(&semlink(["channel", "models"]));
    assert!(!names.is_empty());
    for name in &names {
        let name = name.as_str().expect("a name");
        assert!(printed.lines().any(|line| line.starts_with(&format!("{name}: "))), "{name}");
    }
}

#[test]
fn a_sweep_of_running_services_leaves_the_channel_as_it_was() {
    let dir = assets();
    let chain = Chain::start(&dir.path().join("bundle"));
    let (to, control, data, out) = (&chain.transmitter, &chain.emulator, path(&dir, "data"), path(&dir, "out"));
    let urls = ["--to", to, "--control", control];
    let report = path(&dir, "report.html");
    let flags = [
        "--data",
        &data,
        "--out",
        &out,
        "--snr",
        "0,10",
        "--channel",
        "rayleigh",
        "--rate",
        "auto",
        "--report",
        &report,
    ];
    stdout(&semlink(["sweep"].iter().chain(&urls).chain(&flags)));
    let html = fs::read_to_string(&report).expect("a report");
    parsed(&html);
    assert!(html.contains("no --bundle was given") && html.contains(control.as_str()));
    let sweep = sweep_json(&out);
    assert_eq!(sweep["codec_id"], Value::Null, "no bundle at hand");
    assert_eq!(sweep["points"].as_array().expect("points").len(), 2);
    assert_eq!(sweep["points"][0]["images"], IMAGES);

    let get = stdout(&semlink(["channel", "get", "--json", "--control", control]));
    let profile: Value = serde_json::from_str(&get).expect("JSON");
    assert_eq!((&profile["channel"], &profile["snr_db"]), (&"awgn".into(), &7.0.into()));
}

#[test]
fn a_sweep_of_automatic_rate_shows_it_falling_as_the_snr_rises() {
    let dir = assets();
    let bundle = dir.path().join("bundle");
    let manifest = bundle.join("bundle.json");
    let mut described: Value = serde_json::from_slice(&fs::read(&manifest).expect("a manifest")).expect("JSON");
    let point = |(snr_db, k, accuracy): (i32, u32, f64)| serde_json::json!({"channel": "awgn", "snr_db": snr_db, "k": k, "accuracy": accuracy, "images": 1000});
    // 8 is good from 20 dB, 32 from 5 dB, 128 from -10 dB.
    let table = [(5, 8, 0.4), (20, 8, 0.9), (-10, 32, 0.4), (5, 32, 0.9), (-10, 128, 0.9)];
    described["accuracy"] = table.map(point).into_iter().collect();
    described["clean_accuracy"] = 0.9.into();
    fs::write(&manifest, described.to_string()).expect("a manifest");
    // Its transmitter has a fixed rate: the sweep asks for another.
    let chain = Chain::start(&bundle);
    let (data, out) = (path(&dir, "data"), path(&dir, "out"));
    let urls = ["--to", &chain.transmitter, "--control", &chain.emulator];
    let flags = ["--data", &data, "--out", &out, "--snr", "-10,7,25", "--channel", "awgn", "--rate", "auto"];
    stdout(&semlink(["sweep"].iter().chain(&urls).chain(&flags)));
    let sweep = sweep_json(&out);
    let points = sweep["points"].as_array().expect("points");
    let k: Vec<&Value> = points.iter().map(|p| &p["k"]).collect();
    assert_eq!(k, [128, 32, 8]);
    assert!(points.iter().all(|p| p["side_information_bits"] == 3), "six rates: {points:?}");
}

/// A transmitter that says when an image has come and never answers.
struct Silent(mpsc::UnboundedSender<()>);

#[tonic::async_trait]
impl Transmitter for Silent {
    type ClassifyStreamStream = Pending<Result<ClassifyResponse, Status>>;

    async fn classify(&self, _: Request<ClassifyRequest>) -> Result<Response<ClassifyResponse>, Status> {
        self.0.send(()).expect("the test waits");
        std::future::pending().await
    }

    async fn classify_stream(
        &self,
        _: Request<Streaming<ClassifyRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        Ok(Response::new(futures::stream::pending()))
    }

    async fn get_codec(&self, _: Request<GetCodecRequest>) -> Result<Response<CodecInfo>, Status> {
        Ok(Response::new(CodecInfo::default()))
    }
}

#[cfg(unix)]
#[test]
fn a_sweep_that_is_stopped_leaves_the_channel_as_it_was() {
    let dir = assets();
    let chain = Chain::start(&dir.path().join("bundle"));
    let (listener, to) = listener(&chain.runtime);
    let (came, mut coming) = mpsc::unbounded_channel();
    let server = Server::builder().add_service(TransmitterServer::new(Silent(came)));
    chain.runtime.spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let (data, out) = (path(&dir, "data"), path(&dir, "out"));
    for signal in ["-INT", "-TERM"] {
        let mut sweep = command();
        sweep.args(["sweep", "--to", &to, "--control", &chain.emulator, "--data", &data, "--out", &out]);
        sweep.args(["--snr", "-10", "--channel", "rayleigh"]);
        let sweep = sweep.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        // The channel has been changed by now, and the image is on its way for ever.
        chain.runtime.block_on(coming.recv()).expect("an image");
        let sent = Command::new("kill").arg(signal).arg(sweep.id().to_string()).status().expect("kill runs");
        assert!(sent.success());
        let output = sweep.wait_with_output().expect("an end");
        assert_eq!(output.status.code(), Some(1), "{signal}: {}", stderr(&output));
        assert_eq!(stderr(&output), "semlink: stopped before the end; nothing was written\n");
        let get = stdout(&semlink(["channel", "get", "--json", "--control", &chain.emulator]));
        let profile: Value = serde_json::from_str(&get).expect("JSON");
        assert_eq!((&profile["channel"], &profile["snr_db"]), (&"awgn".into(), &7.0.into()));
        assert_ne!(profile["version"], 0, "it was changed in between");
    }
    assert!(!Path::new(&out).join("sweep.json").exists());
}

#[test]
fn the_channel_is_set_and_reset() {
    let dir = assets();
    let chain = Chain::start(&dir.path().join("bundle"));
    let control = ["--control", &chain.emulator];
    let channel = |flags: &[&str]| stdout(&semlink(["channel"].iter().chain(flags).chain(&control)));
    let set = channel(&[
        "set",
        "--snr-db",
        "-3.5",
        "--channel",
        "rician",
        "--k-factor-db",
        "-1",
        "--coherence",
        "8",
        "--csi",
        "none",
        "--seed",
        "9",
    ]);
    assert_eq!(set, "rician, SNR -3.5 dB, K -1 dB, coherence 8 symbols, CSI none, seed 9 (version 1)\n");
    assert_eq!(channel(&["get"]), set);
    let reset: Value = serde_json::from_str(&channel(&["reset", "--json"])).expect("JSON");
    assert_eq!((&reset["channel"], &reset["snr_db"], &reset["version"]), (&"awgn".into(), &7.0.into(), &2.into()));
}

#[test]
fn a_bad_image_does_not_stop_the_others() {
    let dir = assets();
    let chain = Chain::start(&dir.path().join("bundle"));
    let (good, bad, none) = (path(&dir, "good.png"), path(&dir, "bad.png"), path(&dir, "none.png"));
    fs::write(&good, semlink_codec::testing::png(1)).expect("a file");
    fs::write(&bad, b"no image").expect("a file");
    let output = semlink(["send", "--to", &chain.transmitter, &bad, &none, &good]);
    assert_eq!(output.status.code(), Some(1));
    let (text, errors) = (String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output));
    assert!(text.starts_with(&format!("{good}: ")) && text.contains("k = 64") && text.lines().count() == 1, "{text}");
    assert!(errors.contains("bad.png") && errors.contains("none.png") && errors.contains("2 of 3"), "{errors}");

    let text = stdout(&semlink(["send", "--json", "--to", &chain.transmitter, &good]));
    let object: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&object["image"], &object["k"]), (&good.into(), &64.into()));
    assert!(
        object["label"].is_string() && object["confidence"].as_f64().is_some_and(|c| c > 0.0 && c <= 1.0),
        "{object}"
    );
}

#[test]
fn wrong_usage_is_status_2() {
    let usages: [&[&str]; 10] = [
        &[],
        &["demo", "--snr", "nan"],
        &["demo", "--snr", "0:200:50"],
        &["demo", "--channel", "tropo"],
        &["demo", "--rate", "0"],
        &["demo", "--images", "0"],
        &["send"],
        &["channel", "set"],
        &["channel", "set", "--snr-db", "NaN"],
        &["channel", "get", "--control", "localhost"],
    ];
    for usage in usages {
        let output = semlink(usage);
        assert_eq!(output.status.code(), Some(2), "{usage:?}: {}", stderr(&output));
    }
}

#[test]
fn what_is_not_there_is_named_in_one_line_and_status_1() {
    let dir = assets();
    // A port that was free a moment ago.
    let address = Port::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a free port");
    let url = format!("http://{address}");
    let image = path(&dir, "image.png");
    fs::write(&image, semlink_codec::testing::png(1)).expect("a file");
    let (bundle, data, missing) = (path(&dir, "bundle"), path(&dir, "data"), path(&dir, "missing"));
    let out = path(&dir, "out");
    let failures: [(&[&str], &str); 6] = [
        (&["send", "--to", &url, &image], &url),
        (&["channel", "get", "--control", &url], &url),
        (&["sweep", "--to", &url, "--control", &url, "--data", &data, "--out", &out], &url),
        (&["demo", "--bundle", &missing, "--data", &data, "--out", &out], &missing),
        (&["demo", "--bundle", &bundle, "--data", &missing, "--out", &out], &missing),
        (&["demo", "--bundle", &bundle, "--data", &data, "--rate", "63", "--out", &out], "--rate 63"),
    ];
    for (arguments, named) in failures {
        let output = semlink(arguments);
        let errors = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
        assert!(errors.contains(named), "{errors}");
        let lines = errors.lines().filter(|line| line.starts_with("semlink: ")).count();
        assert_eq!((lines, errors.lines().last().is_some_and(|line| line.contains(named))), (1, true), "{errors}");
    }
}

#[test]
fn an_image_is_given_up_after_its_timeout() {
    let dir = assets();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (transmitter, url) = listener(&runtime);
    // It keeps images for 30 seconds; nobody is behind it.
    let nobody = Port::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let rate = "64".parse().expect("a rate");
    let config = semlink_transmitter::Config::new(format!("http://{nobody}"), dir.path().join("bundle"), rate);
    runtime.spawn(semlink_transmitter::serve(transmitter, config, std::future::pending()));
    let file = dir.path().join("image.png");
    image::GrayImage::new(28, 28).save(&file).expect("an image");
    let began = std::time::Instant::now();
    let sent = semlink(["send", "--to", &url, "--timeout", "0.3", &file.display().to_string()]);
    assert_eq!(sent.status.code(), Some(1));
    let told = stderr(&sent);
    // Whichever notices first: the command, or the transmitter, which also knows why.
    let late = told.contains("not answered within 0.3 s") || told.contains(&format!("next hop http://{nobody}"));
    assert!(told.contains("image.png") && late, "{told}");
    assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());
}
