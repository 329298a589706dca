//! The way to the next Link: matching, failure and recovery.

mod support;

use std::time::Duration;

use semlink_proto::v1;
use semlink_service::metrics::PeerMetrics;
use semlink_service::peer::{LinkClient, NextHop};
use semlink_service::security::Credentials;
use semlink_service::shell::Limits;
use semlink_service::{Shell, ShellConfig};
use support::{Manner, Service, frame};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::{Code, Status};

fn client(url: &str) -> LinkClient {
    LinkClient::new(url.parse::<NextHop>().expect("an address"), Credentials::none(), PeerMetrics::default())
}

/// Far away.
fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Nearly over.
fn soon() -> Instant {
    Instant::now() + Duration::from_millis(200)
}

async fn transmit(client: &LinkClient, frame: v1::Frame, deadline: Instant) -> Result<v1::FrameReport, Status> {
    client.transmit(frame, deadline).await.map(|reported| reported.report)
}

fn unavailable(status: &Status, url: &str) {
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains(url), "{status}");
}

/// An address that nobody listens on.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

#[test]
fn an_address_is_http_with_host_and_port() {
    for url in ["http://127.0.0.1:50053", "https://a:1", "http://[::1]:1", "http://receiver.example:50053/"] {
        assert_eq!(url.parse::<NextHop>().expect(url).as_str(), url);
    }
    for url in [
        "",
        "receiver",
        "receiver:50053",
        "http://",
        "http://receiver",
        "http://:1",
        "http://a:99999",
        "http://a:1/path",
        "http://a b:1",
    ] {
        let problem = url.parse::<NextHop>().expect_err(url);
        assert!(problem.contains("http://HOST:PORT"), "{problem}");
    }
}

#[tokio::test]
async fn reports_come_to_their_frames_whatever_their_order() {
    let next = Service::start(Manner::Swaps).await;
    let client = client(&next.url);
    // The same id from many callers: it is theirs, not the stream's.
    let sent = (0..200).map(|sequence| {
        let client = client.clone();
        tokio::spawn(async move { transmit(&client, frame(7, sequence), later()).await })
    });
    for (sequence, sent) in (0..).zip(sent.collect::<Vec<_>>()) {
        let report = sent.await.expect("no panic").expect("a report");
        assert_eq!((report.id, report.decode_us), (7, sequence));
    }
    drop(client);
    next.stop().await;
}

#[tokio::test]
async fn a_peer_that_is_not_there_fails_each_frame_by_name_at_its_deadline_and_works_once_it_is_back() {
    let url = nobody().await;
    let client = client(&url);
    for sequence in 0..2 {
        let status = transmit(&client, frame(1, sequence), soon()).await.expect_err("nobody listens");
        unavailable(&status, &url);
        assert!(status.message().contains("refused"), "{status}");
    }
    for _ in 0..2 {
        // A frame that is sent before the peer is there waits for it.
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { transmit(&client, frame(1, 9), later()).await }
        });
        while client.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let listener = TcpListener::bind(url.trim_start_matches("http://")).await.expect("the same port");
        let next = Service::start_on(listener, Manner::Reports);
        assert_eq!(waiting.await.expect("no panic").expect("a report").decode_us, 9);
        next.stop().await;
        unavailable(&transmit(&client, frame(1, 10), soon()).await.expect_err("it has stopped"), &url);
    }
}

/// Its stream breaks under every frame, again and again: in the end the frames are given up, and say why.
#[tokio::test(start_paused = true)]
async fn a_peer_that_leaves_at_every_frame_fails_it_in_the_end() {
    let next = Service::start(|_| Manner::Leaves).await;
    let client = client(&next.url);
    let began = Instant::now();
    let deadline = began + Duration::from_secs(3600);
    let status = transmit(&client, frame(1, 1), deadline).await.expect_err("no report");
    unavailable(&status, &next.url);
    assert!(status.message().contains("sent 16 times"), "{status}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    drop(client);
    next.stop().await;
}

/// A peer that reports nothing is no reason to send a frame again, nor to wait beyond its deadline.
#[tokio::test]
async fn a_frame_without_a_report_ends_at_its_deadline() {
    let next = Service::start(|_| Manner::Hangs).await;
    let client = client(&next.url);
    let status = transmit(&client, frame(1, 1), soon()).await.expect_err("no report");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains(&next.url), "{status}");
    assert_eq!(client.waiting(), 0);
    drop(client);
    next.stopping().abort();
}

/// Connections are accepted by the system; no program answers.
#[tokio::test]
async fn a_peer_that_accepts_and_never_answers_gets_no_frames() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let client = client(&url);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { transmit(&client, frame(1, 1), Instant::now() + Duration::from_secs(10)).await }
    });
    // The connection is there; from here on the only thing to wait for is time.
    let accepted = silent.accept().await.expect("a connection");
    tokio::time::pause();
    let status = waiting.await.expect("no panic").expect_err("no answer");
    unavailable(&status, &url);
    assert!(status.message().contains("no answer within"), "{status}");
    assert_eq!(*client.open_streams().borrow(), 0);
    drop(accepted);
}

/// `localhost` is two addresses on most systems: each gets a stream, and the one that goes is left out.
#[tokio::test]
async fn all_addresses_behind_a_name_are_used_and_a_dead_one_is_left_out() {
    let one = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = one.local_addr().expect("an address").port();
    let resolved: Vec<_> = tokio::net::lookup_host(("localhost", port)).await.expect("a host").collect();
    let (true, Ok(other)) = (resolved.len() >= 2, TcpListener::bind(("::1", port)).await) else {
        eprintln!("skipped: localhost is one address here, {resolved:?}");
        return;
    };
    let services = [Service::start_on(one, Manner::Reports), Service::start_on(other, Manner::Reports)];
    let client = client(&format!("http://localhost:{port}"));
    client.keep_open();
    let mut open = client.open_streams();
    open.wait_for(|open| *open == 2).await.expect("two streams");
    let [one, other] = services;
    one.stop().await;
    open.wait_for(|open| *open == 1).await.expect("one is left");
    for sequence in 0..20 {
        assert_eq!(transmit(&client, frame(1, sequence), later()).await.expect("a report").decode_us, sequence);
    }
    drop(client);
    other.stop().await;
}

/// A caller that leaves gives up its place and nothing else.
#[tokio::test]
async fn a_caller_that_leaves_does_not_disturb_the_others() {
    let next = Service::start(Manner::Swaps).await;
    let client = client(&next.url);
    let leaving = transmit(&client, frame(1, 1), later());
    let left = futures::future::select(Box::pin(leaving), Box::pin(tokio::task::yield_now())).await;
    drop(left);
    let (one, other) = futures::join!(transmit(&client, frame(1, 3), later()), transmit(&client, frame(2, 4), later()));
    assert_eq!((one.expect("a report").decode_us, other.expect("a report").decode_us), (3, 4));
    drop(client);
    next.stop().await;
}

#[tokio::test]
async fn a_link_at_rest_is_opened_again_and_counts_as_no_loss() {
    let limits = Limits { idle: Duration::from_millis(50), ..Limits::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let shell = Shell::with("test", ShellConfig { limits, ..ShellConfig::default() });
    let next = Service::start_shell(listener, shell, Manner::Tells);
    let metrics = PeerMetrics::default();
    let hop = next.url.parse::<NextHop>().expect("an address");
    let client = LinkClient::new(hop, Credentials::none(), metrics.clone());
    transmit(&client, frame(1, 1), later()).await.expect("a report");
    while metrics.connects.get() < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(metrics.disconnects.get(), 0);
    transmit(&client, frame(2, 2), later()).await.expect("a report");
    next.stop().await;
}
