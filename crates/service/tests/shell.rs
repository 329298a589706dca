//! The server's life: health, reflection and the end.

mod support;

use futures::stream;
use semlink_proto::v1::link_client::LinkClient;
use semlink_service::Shell;
use support::{Manner, Service, frame};
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

async fn health(channel: &Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(channel.clone()).check(request).await.expect("a known service").into_inner().status()
}

#[tokio::test]
async fn health_and_reflection_know_the_services() {
    let service = Service::start(Manner::Reports).await;
    let channel = service.channel().await;
    for name in ["", "semlink.v1.Link"] {
        assert_eq!(health(&channel, name).await, ServingStatus::Serving, "{name:?}");
    }
    let request = |asked| ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
    let asked = [
        request(MessageRequest::ListServices(String::new())),
        request(MessageRequest::FileContainingSymbol("semlink.v1.Link".to_owned())),
    ];
    let mut answers = ServerReflectionClient::new(channel.clone())
        .server_reflection_info(stream::iter(asked))
        .await
        .expect("reflection")
        .into_inner();
    let listed = answers.message().await.expect("an answer").and_then(|answer| answer.message_response);
    let Some(MessageResponse::ListServicesResponse(listed)) = listed else { panic!("no list: {listed:?}") };
    for name in ["semlink.v1.Link", "grpc.health.v1.Health"] {
        assert!(listed.service.iter().any(|service| service.name == name), "{listed:?}");
    }
    let file = answers.message().await.expect("an answer").and_then(|answer| answer.message_response);
    assert!(matches!(file, Some(MessageResponse::FileDescriptorResponse(_))), "{file:?}");
    drop((answers, channel));
    service.stop().await;
}

/// What a generic tool needs to describe everything: each file by the name that another imports it under, and symbols in them.
#[tokio::test]
async fn reflection_leads_to_every_file_in_both_versions() {
    use prost::Message as _;
    use tonic_reflection::pb::v1alpha::{
        ServerReflectionRequest as OldRequest, server_reflection_client::ServerReflectionClient as OldClient,
        server_reflection_request::MessageRequest as OldMessage,
        server_reflection_response::MessageResponse as OldAnswer,
    };
    let service = Service::start(Manner::Reports).await;
    let channel = service.channel().await;
    let mut wanted = vec!["semlink/v1/semlink.proto".to_owned()];
    let mut seen = Vec::new();
    while let Some(name) = wanted.pop() {
        if seen.contains(&name) {
            continue;
        }
        let asked = MessageRequest::FileByFilename(name.clone());
        let asked = ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
        let answers = ServerReflectionClient::new(channel.clone()).server_reflection_info(stream::iter([asked])).await;
        let answer = answers.expect("reflection").into_inner().message().await.expect("an answer").expect("one");
        let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else {
            panic!("{name}: {answer:?}")
        };
        for file in files.file_descriptor_proto {
            let file = semlink_proto::prost_types::FileDescriptorProto::decode(&file[..]).expect("a descriptor");
            wanted.extend(file.dependency);
        }
        seen.push(name);
    }
    assert!(seen.contains(&"google/protobuf/struct.proto".to_owned()), "{seen:?}");
    for symbol in ["semlink.v1.Frame", "google.protobuf.Struct", "grpc.health.v1.Health"] {
        let asked = OldMessage::FileContainingSymbol(symbol.to_owned());
        let asked = OldRequest { host: String::new(), message_request: Some(asked) };
        let answers = OldClient::new(channel.clone()).server_reflection_info(stream::iter([asked])).await;
        let answer = answers.expect("reflection").into_inner().message().await.expect("an answer").expect("one");
        assert!(matches!(answer.message_response, Some(OldAnswer::FileDescriptorResponse(_))), "{symbol}: {answer:?}");
    }
    drop(channel);
    service.stop().await;
}

#[tokio::test]
async fn a_service_says_itself_when_it_is_ready() {
    let shell = Shell::new("test");
    let reporter = shell.health_reporter();
    reporter.not_serving();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let service = Service::start_shell(listener, shell, Manner::Reports);
    let channel = service.channel().await;
    let mut watch = HealthClient::new(channel.clone());
    let request = HealthCheckRequest { service: "semlink.v1.Link".to_owned() };
    let mut watch = watch.watch(request).await.expect("a watch").into_inner();
    let mut seen = async || watch.message().await.expect("no error").map(|told| told.status());
    assert_eq!(seen().await, Some(ServingStatus::NotServing));
    reporter.serving();
    assert_eq!(seen().await, Some(ServingStatus::Serving));
    assert_eq!(health(&channel, "").await, ServingStatus::Serving);
    reporter.not_serving();
    assert_eq!(seen().await, Some(ServingStatus::NotServing));
    reporter.serving();
    assert_eq!(seen().await, Some(ServingStatus::Serving));
    // Open watches are told and end: they do not hold the shutdown back.
    let stopping = service.stopping();
    assert_eq!(seen().await, Some(ServingStatus::NotServing));
    assert_eq!(seen().await, None);
    // Too late.
    reporter.serving();
    stopping.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn open_streams_end_with_the_drain_and_what_was_read_is_answered() {
    let service = Service::start(Manner::Reports).await;
    let mut link = LinkClient::new(service.channel().await);
    let frames = futures::StreamExt::chain(stream::iter([frame(1, 1)]), stream::pending());
    let mut reports = link.transmit(frames).await.expect("a stream").into_inner();
    assert_eq!(reports.message().await.expect("a report").map(|report| report.id), Some(1));
    service.stop().await;
    assert_eq!(reports.message().await.expect("a clean end"), None);
}

#[tokio::test]
async fn a_stream_that_never_ends_is_cut_off_at_the_deadline() {
    let service = Service::start(|_| Manner::Hangs).await;
    let mut link = LinkClient::new(service.channel().await);
    let reports = link.transmit(stream::iter([frame(1, 1)])).await.expect("a stream").into_inner();
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    service.stop().await;
    assert!((10..=11).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    drop(reports);
}
