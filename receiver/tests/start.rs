//! What the receiver needs to start, and what it says when that is not there.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use futures::StreamExt as _;
use support::{Receiver, bundle, link_name, refusal};
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

#[tokio::test]
async fn health_and_reflection_answer() {
    let receiver = Receiver::start(1).await;
    let mut health = HealthClient::new(receiver.channel().await);
    for service in ["", link_name(), "semlink.v1.Decisions"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await.expect("an answer").into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }

    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(receiver.channel().await);
    let answers = reflection.server_reflection_info(tokio_stream::iter([list])).await.expect("an answer");
    let answer = answers.into_inner().next().await.expect("an answer").expect("no error");
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
        panic!("a list, not {answer:?}");
    };
    let names: Vec<String> = services.service.into_iter().map(|service| service.name).collect();
    for name in [link_name(), "semlink.v1.Decisions", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|listed| listed == name), "{name} is not in {names:?}");
    }
}

#[tokio::test]
async fn the_encoders_half_is_not_needed() {
    let receiver = Receiver::start_with(2, |config| {
        fs::remove_file(config.bundles[0].join("encoder.safetensors")).expect("the encoder's half");
    })
    .await;
    receiver.channel().await;
}

#[tokio::test]
async fn a_bundle_that_cannot_be_served_is_refused_by_name() {
    type Break = fn(&Path);
    let cases: [(Break, &[&str]); 6] = [
        (|dir| fs::remove_file(dir.join("decoder.safetensors")).expect("a file"), &["decoder.safetensors", "missing"]),
        (|dir| fs::remove_file(dir.join("bundle.json")).expect("a file"), &["bundle.json", "missing"]),
        (|dir| fs::write(dir.join("bundle.json"), "{").expect("a file"), &["bundle.json"]),
        (swap, &["decoder.safetensors", "encoder"]),
        (flip_a_byte, &["decoder.safetensors", "damaged"]),
        (other_codec, &["decoder.safetensors", "of another bundle"]),
    ];
    for (i, (spoil, texts)) in cases.into_iter().enumerate() {
        let (dir, _) = bundle(3);
        spoil(dir.path());
        let message = refusal(dir.path()).await.to_string();
        for text in texts {
            assert!(message.contains(text), "case {i}: {message}");
        }
    }
}

#[test]
fn the_program_ends_with_64_and_one_line_for_a_wrong_bundle() {
    let (dir, _) = bundle(4);
    fs::remove_file(dir.path().join("decoder.safetensors")).expect("a file");
    let output = program(&["--listen", "127.0.0.1:0", "--bundle", &dir.path().display().to_string()]);
    let errors = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(64), "{errors}");
    assert!(errors.contains("decoder.safetensors"), "{errors}");
    assert_eq!(errors.trim_end().lines().count(), 1, "{errors}");
}

#[test]
fn the_program_ends_with_64_and_names_every_wrong_setting() {
    let (dir, _) = bundle(5);
    let bundle = dir.path().display().to_string();
    let zero =
        ["--listen", "127.0.0.1:0", "--bundle", &bundle, "--queue", "0", "--max-batch", "0", "--decision-lag", "0"];
    let output = program(&zero);
    let errors = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(64), "{errors}");
    for flag in ["queue", "max-batch", "decision-lag"] {
        assert!(errors.contains(flag), "{errors}");
    }
}

// With a worker: the test itself blocks on the program while the connection goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_program_serves_until_sigterm_and_ends_with_0() {
    let (dir, _) = bundle(6);
    let mut command = Command::new(env!("CARGO_BIN_EXE_semlink-receiver"));
    command.args(["--listen", "127.0.0.1:0", "--log-format", "json", "--bundle"]).arg(dir.path());
    let mut program = Running(command.env_clear().stderr(Stdio::piped()).spawn().expect("the program runs"));
    let log = BufReader::new(program.0.stderr.take().expect("a pipe"));
    let mut log = log.lines().map(|line| line.expect("a line"));
    let address = log
        .find_map(|line| Some(line.split_once("\"address\":\"")?.1.split_once('"')?.0.to_owned()))
        .expect("a line with the address");
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
    let mut health = HealthClient::new(endpoint.connect().await.expect("a connection"));
    health.check(HealthCheckRequest::default()).await.expect("an answer");
    drop(health);

    let asked = Command::new("sh").args(["-c", &format!("kill -TERM {}", program.0.id())]).status();
    assert!(asked.expect("a shell").success());
    let rest: Vec<String> = log.collect();
    let status = program.0.wait().expect("an end");
    assert_eq!(status.code(), Some(0), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("draining")), "{rest:?}");
}

/// Ends the program with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // A failure: it has ended already.
        let _ = self.0.kill();
    }
}

#[test]
fn the_program_ends_with_2_for_wrong_usage() {
    assert_eq!(program(&["--no-such-flag"]).status.code(), Some(2));
}

fn program(arguments: &[&str]) -> std::process::Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_semlink-receiver"));
    program.args(arguments).env_clear().output().expect("the program runs")
}

fn swap(dir: &Path) {
    fs::copy(dir.join("encoder.safetensors"), dir.join("decoder.safetensors")).expect("a file");
}

fn flip_a_byte(dir: &Path) {
    let path = dir.join("decoder.safetensors");
    let mut bytes = fs::read(&path).expect("a file");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(path, bytes).expect("a file");
}

fn other_codec(dir: &Path) {
    let (other, _) = bundle(99);
    fs::copy(other.path().join("decoder.safetensors"), dir.join("decoder.safetensors")).expect("a file");
}
