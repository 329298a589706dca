//! Clients that mean no good, or do none: each is cut off with a status, a count and a line in the log, and nobody else notices.

mod support;

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use semlink_proto::v1::{self, link_client::LinkClient};
use semlink_service::shell::{Counters, Limits, Reason};
use semlink_service::{Shell, ShellConfig};
use support::log::Log;
use support::raw::{Raw, RawCall, connect, status};
use support::{Beside, Manner, Service, frame, stop_the_clock, transmit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

async fn start(limits: Limits, manner: impl FnOnce(semlink_service::Drain) -> Manner) -> (Service, Counters) {
    let shell = Shell::with("test", ShellConfig { limits, ..ShellConfig::default() });
    let counters = shell.counters();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    (Service::start_shell(listener, shell, manner), counters)
}

fn refused(counters: &Counters, reason: &'static str) -> u64 {
    counters.connections_refused.get_or_create(&Reason { reason }).get()
}

fn stalled(counters: &Counters, reason: &'static str) -> u64 {
    counters.stalled.get_or_create(&Reason { reason }).get()
}

async fn is_served(service: &Service) {
    transmit(service.channel().await).await.expect("another client is served");
}

/// The same where the service answers no frames.
async fn is_well(service: &Service) {
    let mut health = HealthClient::new(service.channel().await);
    health.check(HealthCheckRequest::default()).await.expect("another client is served");
}

/// Reads until the service closes the connection.
async fn until_closed(tcp: &mut TcpStream) {
    let mut bytes = Vec::new();
    // An error: it was reset, which closes it, too.
    let _ = tcp.read_to_end(&mut bytes).await;
}

#[tokio::test]
async fn a_connection_that_does_not_begin_in_time_is_closed() {
    let log = Log::capture();
    let (service, counters) = start(Limits::default(), Manner::Tells).await;
    let began = Instant::now();
    let mut silent = connect(&service).await;
    let (mut reader, mut writer) = connect(&service).await.into_split();
    is_served(&service).await;
    let _steps = stop_the_clock();
    let drip = async {
        for byte in PREFACE {
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let mut rest = Vec::new();
    let read = reader.read_to_end(&mut rest);
    tokio::select! {
        () = async { tokio::join!(until_closed(&mut silent), read).0 } => {}
        () = drip => panic!("a byte in a second was good enough"),
    }
    assert!((5..=6).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    tokio::time::resume();
    assert_eq!(refused(&counters, "preface"), 2);
    log.has(&["WARN", "peer=127.0.0.1:", "preface", "within 5 s"]);
    is_served(&service).await;
    service.stop().await;
    assert_eq!(counters.connections.get(), 0);
}

/// A port that is tried is no attack.
#[tokio::test]
async fn a_connection_that_ends_before_it_begins_is_not_counted() {
    let log = Log::capture();
    let (service, counters) = start(Limits::default(), Manner::Tells).await;
    let mut tcp = connect(&service).await;
    tcp.shutdown().await.expect("an end");
    until_closed(&mut tcp).await;
    assert_eq!(refused(&counters, "preface"), 0);
    assert!(!log.text().contains("WARN"), "{}", log.text());
    service.stop().await;
}

#[tokio::test]
async fn a_message_a_byte_at_a_time_ends_its_stream() {
    let began = Instant::now();
    let log = Log::capture();
    let (service, counters) = start(Limits::default(), Manner::Tells).await;
    let mut raw = Raw::connect(&service, &h2::client::Builder::new()).await;
    let RawCall { answer, mut body } = raw.transmit(&[]).await;
    // A message of 100 bytes.
    body.send_data(Bytes::from_static(&[0, 0, 0, 0, 100]), false).expect("sent");
    is_served(&service).await;
    let _steps = stop_the_clock();
    let drip = tokio::spawn(async move {
        while body.send_data(Bytes::from_static(&[1]), false).is_ok() {
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    });
    let answer = answer.await.expect("an answer");
    let (code, message) = status(answer).await;
    assert_eq!(code, Code::DeadlineExceeded, "{message}");
    assert!((300..=310).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    drip.await.expect("it cannot go on");
    tokio::time::resume();
    assert_eq!(stalled(&counters, "slow"), 1);
    log.has(&["WARN", "peer=127.0.0.1:", "slow", "/semlink.v1.Link/Transmit"]);
    is_served(&service).await;
    service.stop().await;
}

#[tokio::test]
async fn a_stream_that_nothing_is_sent_on_ends_and_one_that_only_listens_does_not() {
    let began = Instant::now();
    let log = Log::capture();
    let (service, counters) = start(Limits::default(), Manner::Tells).await;
    let (quiet, quiet_counters) = start(Limits::default(), |_| Manner::Hangs).await;
    let mut idle = LinkClient::new(service.channel().await);
    let frames = futures::StreamExt::chain(stream::iter([frame(1, 1)]), stream::pending());
    let mut reports = idle.transmit(frames).await.expect("a stream").into_inner();
    // Its client has ended its side.
    let mut listening = LinkClient::new(quiet.channel().await);
    let mut nothing = listening.transmit(stream::empty::<v1::Frame>()).await.expect("a stream").into_inner();
    assert_eq!(reports.message().await.expect("a report").map(|report| report.id), Some(1));
    is_served(&service).await;
    let _steps = stop_the_clock();
    let status = reports.message().await.expect_err("it ends");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("idle"), "{status}");
    assert!((300..=310).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let waited = tokio::time::timeout(Duration::from_secs(3000), nothing.message()).await;
    assert!(waited.is_err(), "{waited:?}");
    assert_eq!((stalled(&counters, "idle"), stalled(&quiet_counters, "idle")), (1, 0));
    drop((nothing, listening, idle));
    tokio::time::resume();
    log.has(&["WARN", "peer=127.0.0.1:", "idle", "/semlink.v1.Link/Transmit"]);
    is_served(&service).await;
    service.stop().await;
    quiet.stop().await;
}

/// The request of a stream that its service does not read either cannot be told; its stream is reset.
#[tokio::test]
async fn an_idle_stream_that_nobody_reads_is_reset() {
    let began = Instant::now();
    let log = Log::capture();
    let (service, counters) = start(Limits::default(), |_| Manner::Deaf).await;
    let mut link = LinkClient::new(service.channel().await);
    let mut reports = link.transmit(stream::pending::<v1::Frame>()).await.expect("a stream").into_inner();
    is_well(&service).await;
    let _steps = stop_the_clock();
    reports.message().await.expect_err("it is reset");
    assert!((600..=620).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(stalled(&counters, "idle"), 1);
    tokio::time::resume();
    log.has(&["WARN", "peer=127.0.0.1:", "idle"]);
    is_well(&service).await;
    drop((reports, link));
    service.stop().await;
    assert_eq!(counters.calls.get(), 0);
}

#[tokio::test]
async fn a_client_that_never_reads_loses_its_stream_and_no_other() {
    let began = Instant::now();
    let log = Log::capture();
    let (service, counters) = start(Limits::default(), Manner::Floods).await;
    // Room on the connection, none on the stream: only this stream is stuck.
    let mut raw = Raw::connect(&service, h2::client::Builder::new().initial_connection_window_size(1 << 24)).await;
    let stuck = raw.transmit(&[]).await;
    let mut unread = stuck.answer.await.expect("an answer").into_body();
    let read = raw.transmit(&[]).await;
    let mut reads = read.answer.await.expect("an answer").into_body();
    let _steps = stop_the_clock();
    // The other one reads, now and then, for as long as the service has patience with the first.
    while stalled(&counters, "unread") == 0 {
        let some = reads.data().await.expect("no end").expect("no reset");
        reads.flow_control().release_capacity(some.len()).expect("read");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed().as_secs() < 400);
    }
    assert!(began.elapsed().as_secs() >= 300, "{:?}", began.elapsed());
    let error = loop {
        match unread.data().await.expect("no end") {
            // What had been sent already.
            Ok(bytes) => drop(bytes),
            Err(error) => break error,
        }
    };
    assert!(error.is_reset(), "{error}");
    reads.data().await.expect("no end").expect("the other stream goes on");
    tokio::time::resume();
    log.has(&["WARN", "peer=127.0.0.1:", "unread"]);
    is_served(&service).await;
    drop((stuck.body, read.body, reads));
    drop(raw);
    service.stop().await;
}

/// A client may end its side first: that is how it says that it is done.
#[tokio::test]
async fn a_half_closed_stream_is_answered_to_the_end() {
    let log = Log::capture();
    let (service, counters) = start(Limits::default(), Manner::Swaps).await;
    let mut link = LinkClient::new(service.channel().await);
    let frames = (0..1000).map(|sequence| frame(sequence, sequence));
    let mut reports = link.transmit(stream::iter(frames)).await.expect("a stream").into_inner();
    let first = reports.message().await.expect("a stream").expect("a report");
    is_served(&service).await;
    let rest = futures::TryStreamExt::try_collect::<Vec<_>>(reports).await.expect("a clean end");
    let mut ids: Vec<u64> = rest.iter().chain([&first]).map(|report| report.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..1000).collect::<Vec<u64>>());
    assert_eq!(["idle", "slow", "unread"].map(|reason| stalled(&counters, reason)), [0; 3]);
    assert!(!log.text().contains("WARN"), "{}", log.text());
    service.stop().await;
}

#[tokio::test]
async fn a_message_over_the_limit_ends_its_stream() {
    let log = Log::capture();
    let (service, counters) = start(Limits::default(), Manner::Tells).await;
    // Even on the same connection.
    let channel = service.channel().await;
    let mut beside = Beside::open(channel.clone()).await;
    let large = v1::Frame { symbols: vec![0; 5 << 20].into(), ..frame(1, 1) };
    let mut link = LinkClient::new(channel);
    let mut reports = link.transmit(stream::iter([large])).await.expect("a stream").into_inner();
    let status = reports.message().await.expect_err("it is too large");
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert_eq!(counters.messages_refused.get_or_create(&Reason { reason: "size" }).get(), 1);
    log.has(&["WARN", "peer=127.0.0.1:", "size", "/semlink.v1.Link/Transmit"]);
    beside.goes_on().await;
    is_served(&service).await;
    drop((beside, reports, link));
    service.stop().await;
}

/// Nothing of it needs to have arrived, so nothing can have been inflated.
#[tokio::test]
async fn a_compressed_message_is_refused_before_it_is_read() {
    let log = Log::capture();
    let (service, counters) = start(Limits::default(), Manner::Tells).await;
    let mut beside = Beside::open(service.channel().await).await;
    let mut raw = Raw::connect(&service, &h2::client::Builder::new()).await;
    let by_header = raw.transmit(&[("grpc-encoding", "gzip")]).await;
    let (code, message) = status(by_header.answer.await.expect("an answer")).await;
    assert_eq!(code, Code::Unimplemented, "{message}");
    let mut by_flag = raw.transmit(&[]).await;
    // Compressed, a million bytes to come.
    by_flag.body.send_data(Bytes::from_static(&[1, 0, 15, 66, 64]), false).expect("sent");
    let (code, message) = status(by_flag.answer.await.expect("an answer")).await;
    assert_eq!(code, Code::Unimplemented, "{message}");
    assert!(message.contains("compressed"), "{message}");
    assert_eq!(counters.messages_refused.get_or_create(&Reason { reason: "compressed" }).get(), 2);
    log.has(&["WARN", "peer=127.0.0.1:", "compressed"]);
    beside.goes_on().await;
    is_served(&service).await;
    drop(beside);
    service.stop().await;
}

#[tokio::test]
async fn malformed_http2_ends_its_connection_only() {
    let log = Log::capture();
    let (service, counters) = start(Limits::default(), Manner::Tells).await;
    let mut beside = Beside::open(service.channel().await).await;
    // HEADERS that begin a call, RST_STREAM that takes it back.
    let taken_back = |id: u8| {
        let begun = [0, 0, 3, 1, 4, 0, 0, 0, id, 0x83, 0x84, 0x86];
        [&begun[..], &[0, 0, 4, 3, 0, 0, 0, 0, id, 0, 0, 0, 8]].concat()
    };
    let resets = (0..100).flat_map(|call| taken_back(2 * call + 1)).collect::<Vec<u8>>();
    let garbage: [(&str, Vec<u8>); 7] = [
        ("another protocol", b"GET / HTTP/1.1\r\nHost: test\r\n\r\n".to_vec()),
        ("no settings", [PREFACE, &[0, 0, 0, 0, 0, 0, 0, 0, 1]].concat()),
        ("data on stream 0", [PREFACE, SETTINGS, &[0, 0, 1, 0, 0, 0, 0, 0, 0, 7]].concat()),
        ("a frame over the limit", [PREFACE, SETTINGS, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat()),
        ("noise", [PREFACE, SETTINGS, &[0xa5; 4096]].concat()),
        ("headers that are none", [PREFACE, SETTINGS, &[0, 0, 4, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]].concat()),
        ("too many resets", [PREFACE, SETTINGS, &resets].concat()),
    ];
    for (count, (what, bytes)) in (1..).zip(garbage) {
        let mut tcp = connect(&service).await;
        let peer = tcp.local_addr().expect("an address");
        // An error: it was closed meanwhile.
        let _ = tcp.write_all(&bytes).await;
        tokio::time::timeout(Duration::from_secs(60), until_closed(&mut tcp)).await.expect(what);
        assert_eq!(refused(&counters, "protocol"), count, "{what}\n{}", log.text());
        if count == 1 {
            log.has(&["WARN", &format!("peer={peer}"), "protocol"]);
        }
        beside.goes_on().await;
    }
    is_served(&service).await;
    drop(beside);
    service.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let log = Log::capture();
    let (service, counters) = start(Limits { connections: 1, ..Limits::default() }, Manner::Tells).await;
    let first = service.channel().await;
    transmit(first.clone()).await.expect("served");
    let mut second = connect(&service).await;
    until_closed(&mut second).await;
    assert_eq!(refused(&counters, "full"), 1);
    log.has(&["WARN", &format!("peer={}", second.local_addr().expect("an address")), "--max-connections"]);
    transmit(first.clone()).await.expect("served");
    drop(first);
    while counters.connections.get() > 0 {
        tokio::task::yield_now().await;
    }
    is_served(&service).await;
    service.stop().await;
}

#[tokio::test]
async fn a_full_house_says_so_with_advice_and_still_tells_its_health() {
    let log = Log::capture();
    let (service, counters) = start(Limits { calls: 1, ..Limits::default() }, Manner::Tells).await;
    let channel = service.channel().await;
    let mut beside = Beside::open(channel.clone()).await;
    assert_eq!(counters.calls.get(), 1);
    let status = transmit(channel.clone()).await.expect_err("no room");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").expect("advice").to_str().expect("text"), "500");
    let delay = status.get_details_retry_info().expect("advice").retry_delay;
    assert_eq!(delay, Some(Duration::from_millis(500)));
    assert_eq!(counters.calls_refused.get(), 1);
    log.has(&["WARN", "peer=127.0.0.1:", "--max-calls", "/semlink.v1.Link/Transmit"]);
    beside.goes_on().await;
    is_well(&service).await;
    drop(beside);
    while counters.calls.get() > 0 {
        tokio::task::yield_now().await;
    }
    transmit(channel).await.expect("room again");
    service.stop().await;
}

#[tokio::test]
async fn a_connection_without_calls_is_closed_in_time() {
    let began = Instant::now();
    let (service, counters) = start(Limits::default(), Manner::Tells).await;
    let raw = Raw::connect(&service, &h2::client::Builder::new()).await;
    let _steps = stop_the_clock();
    let Raw { requests, connection } = raw;
    connection.await.expect("no panic").expect("a goodbye");
    assert!((300..=310).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    drop(requests);
    tokio::time::resume();
    is_served(&service).await;
    service.stop().await;
    assert_eq!(counters.connections.get(), 0);
}

#[tokio::test]
async fn the_numbers_have_names_and_help() {
    let counters = Counters::default();
    let metrics = semlink_service::metrics::Metrics::new("test");
    counters.register(&metrics);
    counters.connections.inc();
    let text = metrics.encode();
    for line in [
        "semlink_connections 1",
        "semlink_connections_refused_total{reason=\"full\"} 0",
        "semlink_authentication_refused_total{reason=\"expired\"} 0",
        "semlink_calls 0",
        "semlink_calls_refused_total 0",
        "semlink_messages_refused_total{reason=\"size\"} 0",
        "semlink_stalled_calls_total{reason=\"unread\"} 0",
        "semlink_security_files_reread_total{result=\"failed\"} 0",
    ] {
        assert!(text.lines().any(|told| told == line), "{line} not in:\n{text}");
    }
}
