//! Settings and bundles that cannot be served: exit status 64 and one message that says what. And what a good start offers.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::{Builder, bundle};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

const NEXT: &str = "http://127.0.0.1:1";

fn command(bundle: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semlink-transmitter"));
    command.args(["--listen", "127.0.0.1:0", "--next", NEXT, "--bundle"]).arg(bundle).args(more);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SEMLINK_")) {
        command.env_remove(name);
    }
    command
}

fn start(bundle: &Path, more: &[&str]) -> Output {
    command(bundle, more).output().expect("the binary runs")
}

#[track_caller]
fn assert_wrong_configuration(output: &Output, names: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{said}");
    for name in names {
        assert!(said.contains(name), "{said:?} does not name {name:?}");
    }
}

#[test]
fn a_missing_bundle_is_named() {
    let (dir, _) = bundle(7);
    let missing = dir.path().join("nowhere");
    assert_wrong_configuration(&start(&missing, &[]), &["nowhere", "bundle.json"]);
}

#[test]
fn a_missing_half_is_named() {
    let (dir, _) = bundle(7);
    fs::remove_file(dir.path().join("encoder.safetensors")).expect("it was there");
    assert_wrong_configuration(&start(dir.path(), &[]), &["encoder.safetensors"]);
}

#[test]
fn the_other_half_in_its_place_is_named() {
    let (dir, _) = bundle(7);
    fs::copy(dir.path().join("decoder.safetensors"), dir.path().join("encoder.safetensors")).expect("a copy");
    assert_wrong_configuration(&start(dir.path(), &[]), &["encoder.safetensors"]);
}

#[test]
fn a_flipped_byte_is_found() {
    let (dir, _) = bundle(7);
    let file = dir.path().join("encoder.safetensors");
    let mut bytes = fs::read(&file).expect("the half");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("written");
    assert_wrong_configuration(&start(dir.path(), &[]), &["encoder.safetensors"]);
}

#[test]
fn bad_settings_are_reported_together() {
    let (dir, _) = bundle(7);
    let more =
        ["--queue", "0", "--max-batch", "0", "--in-flight", "0", "--feedback-age", "-1", "--max-image-bytes", "0"];
    let named = ["queue", "max-batch", "in-flight", "feedback-age", "max-image-bytes"];
    assert_wrong_configuration(&start(dir.path(), &more), &named);
    for target in ["0", "-0.5", "1.01", "NaN", "inf"] {
        let more = ["--rate", "auto", "--target", target, "--queue", "0"];
        let named = [&format!("--target: {target}, expected above 0 and at most 1"), "--queue"];
        assert_wrong_configuration(&start(dir.path(), &more), &named);
    }
}

#[test]
fn a_target_that_no_rate_reaches_is_refused_with_the_best_there_is() {
    let (dir, manifest) = bundle(7);
    let manifest = semlink_codec::Manifest { clean_accuracy: Some(0.9), ..manifest };
    support::tabulate(dir.path(), &manifest, &[(-10.0, 8, 0.3), (20.0, 8, 0.63), (20.0, 64, 0.81)]);
    let more = ["--rate", "auto", "--target", "0.95", "--queue", "0"];
    let named = ["--target", "0.95", "0.900", "k = 64", "awgn", "20 dB", "--queue"];
    assert_wrong_configuration(&start(dir.path(), &more), &named);
}

#[test]
fn a_rate_that_the_codec_does_not_have_is_refused_with_those_it_has() {
    let (dir, _) = bundle(7);
    assert_wrong_configuration(&start(dir.path(), &["--rate", "63"]), &["63", "8, 16, 32, 64, 128, 256"]);
}

#[test]
fn wrong_usage_is_status_2() {
    let (dir, _) = bundle(7);
    for more in [&["--rate", "fast"][..], &["--no-such-flag"]] {
        let output = start(dir.path(), more);
        assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn sigterm_and_sigint_end_the_binary_with_status_0() {
    let (dir, _) = bundle(7);
    for signal in ["-TERM", "-INT"] {
        let mut binary = command(dir.path(), &["--log-format", "json"]);
        let mut binary = binary.stderr(Stdio::piped()).spawn().expect("the binary runs");
        let mut log = BufReader::new(binary.stderr.take().expect("a pipe")).lines();
        let serving = log.by_ref().map(|line| line.expect("text")).find(|line| line.contains("serving"));
        let serving: serde_json::Value = serde_json::from_str(&serving.expect("it serves")).expect("JSON");
        let address = serving["fields"]["address"].as_str().expect("the address that it listens on");
        // An answer says that it is past its start, and so listens for signals: HTTP/2's preface and SETTINGS, for its SETTINGS.
        let mut connection = TcpStream::connect(address).expect("a listening service");
        connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("sent");
        connection.read_exact(&mut [0; 9]).expect("an answer");
        drop(connection);
        let sent = Command::new("kill").arg(signal).arg(binary.id().to_string()).status().expect("kill runs");
        assert!(sent.success());
        // Read to the end, so that the binary never waits for its log to be read.
        let rest: Vec<String> = log.map(|line| line.expect("text")).collect();
        assert_eq!(binary.wait().expect("an end").code(), Some(0), "{signal}: {rest:?}");
    }
}

#[tokio::test]
async fn health_and_reflection_tell_what_is_served() {
    let chain = Builder::default().start().await;
    for (service, name) in [(&chain.transmitter, "semlink.v1.Transmitter"), (&chain.receiver, "semlink.v1.Link")] {
        let channel = service.channel().await;
        for asked in ["", name] {
            let request = HealthCheckRequest { service: asked.to_owned() };
            let health = HealthClient::new(channel.clone()).check(request).await.expect("a known service").into_inner();
            assert_eq!(health.status(), ServingStatus::Serving, "{asked:?}");
        }
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut answers = ServerReflectionClient::new(channel)
            .server_reflection_info(futures::stream::iter([request]))
            .await
            .expect("reflection")
            .into_inner();
        let answer = answers.message().await.expect("an answer").expect("an answer");
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
            panic!("no list of services: {answer:?}");
        };
        assert!(list.service.iter().any(|service| service.name == name), "{list:?}");
    }
    chain.stop().await;
}
