//! The way to the next Link: matching, failure and recovery.

mod support;

use semlink_service::peer::{LinkClient, NextHop};
use support::{Manner, Service, frame};
use tokio::net::TcpListener;
use tonic::{Code, Status};

fn client(url: &str) -> LinkClient {
    LinkClient::new(url.parse::<NextHop>().expect("an address"))
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
    for url in ["http://127.0.0.1:50053", "http://[::1]:1", "http://receiver.example:50053/"] {
        assert_eq!(url.parse::<NextHop>().expect(url).as_str(), url);
    }
    for url in [
        "",
        "receiver",
        "receiver:50053",
        "http://",
        "http://receiver",
        "http://:1",
        "https://a:1",
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
        tokio::spawn(async move { client.transmit(frame(7, sequence)).await })
    });
    for (sequence, sent) in (0..).zip(sent.collect::<Vec<_>>()) {
        let report = sent.await.expect("no panic").expect("a report");
        assert_eq!((report.id, report.decode_us), (7, sequence));
    }
    drop(client);
    next.stop().await;
}

#[tokio::test]
async fn a_peer_that_is_not_there_fails_each_frame_by_name_and_works_once_it_is_back() {
    let url = nobody().await;
    let client = client(&url);
    for sequence in 0..3 {
        let status = client.transmit(frame(1, sequence)).await.expect_err("nobody listens");
        unavailable(&status, &url);
        assert!(status.message().contains("refused"), "{status}");
    }
    for _ in 0..2 {
        let listener = TcpListener::bind(url.trim_start_matches("http://")).await.expect("the same port");
        let next = Service::start_on(listener, Manner::Reports);
        assert_eq!(client.transmit(frame(1, 9)).await.expect("a report").decode_us, 9);
        next.stop().await;
        unavailable(&client.transmit(frame(1, 10)).await.expect_err("it has stopped"), &url);
    }
}

#[tokio::test]
async fn a_peer_that_leaves_fails_what_waits() {
    let next = Service::start(|_| Manner::Leaves).await;
    let client = client(&next.url);
    let (one, other) = futures::join!(client.transmit(frame(1, 1)), client.transmit(frame(2, 2)));
    unavailable(&one.expect_err("no report"), &next.url);
    unavailable(&other.expect_err("no report"), &next.url);
    drop(client);
    next.stop().await;
}

/// Connections are accepted by the system; no program answers.
#[tokio::test]
async fn a_peer_that_accepts_and_never_answers_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let client = client(&url);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.transmit(frame(1, 1)).await }
    });
    // The connection is there; from here on the only thing to wait for is time.
    let accepted = silent.accept().await.expect("a connection");
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    unavailable(&waiting.await.expect("no panic").expect_err("no answer"), &url);
    assert!(began.elapsed().as_secs() <= 5, "{:?}", began.elapsed());
    drop(accepted);
}

/// A caller that leaves gives up its place and nothing else.
#[tokio::test]
async fn a_caller_that_leaves_does_not_disturb_the_others() {
    let next = Service::start(Manner::Swaps).await;
    let client = client(&next.url);
    let leaving = client.transmit(frame(1, 1));
    let left = futures::future::select(Box::pin(leaving), Box::pin(tokio::task::yield_now())).await;
    drop(left);
    let (one, other) = futures::join!(client.transmit(frame(1, 3)), client.transmit(frame(2, 4)));
    assert_eq!((one.expect("a report").decode_us, other.expect("a report").decode_us), (3, 4));
    drop(client);
    next.stop().await;
}
