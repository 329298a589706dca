//! Frames that come again, because the stream of their first report broke: one decision each, on whatever streams they come.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use semlink_codec::Manifest;
use semlink_proto::v1;
use support::{Receiver, error, frame, received};
use tonic::{Code, Streaming};

const ORIGIN: u64 = 77;
const FRAMES: u64 = 60;
const DECIDED: &str = r#"semlink_receiver_frames_total{code="OK"}"#;
const REPEATED: &str = "semlink_receiver_repeated_frames_total";

/// The frame of this number, under an id of its stream.
fn named(manifest: &Manifest, id: u64, number: u64) -> v1::Frame {
    v1::Frame { origin: ORIGIN, number, ..frame(&manifest.codec_id, id, &received(number, 64)) }
}

/// A report without the id that its frame has in the stream.
fn told(report: &v1::FrameReport) -> v1::FrameReport {
    assert_eq!(report.error, None);
    v1::FrameReport { id: 0, ..report.clone() }
}

/// The numbers of so many decisions, and that there is no further one: that of a last frame follows them.
async fn announced(receiver: &Receiver, events: &mut Streaming<v1::DecisionEvent>, count: u64) -> BTreeSet<u64> {
    receiver.transmit(vec![frame(&receiver.manifest.codec_id, 1, &received(1, 64))]).await;
    let mut numbers = BTreeSet::new();
    for _ in 0..count {
        let event = events.message().await.expect("a subscription").expect("a decision");
        assert_eq!(event.origin, ORIGIN);
        assert!(numbers.insert(event.number), "frame {} was decided twice", event.number);
    }
    let last = events.message().await.expect("a subscription").expect("a decision");
    assert_eq!(last.origin, 0, "frame {} was decided twice", last.number);
    numbers
}

#[tokio::test]
async fn the_same_frames_on_two_streams_at_once_are_decided_once() {
    let (receiver, page, _log) = Receiver::observed(1).await;
    let mut events = receiver.decisions().await;
    let frames = |from: u64| (0..FRAMES).map(|number| named(&receiver.manifest, from + number, number)).collect();
    let (one, other) = tokio::join!(receiver.transmit(frames(0)), receiver.transmit(frames(1000)));
    for (number, (one, other)) in (0..).zip(one.iter().zip(&other)) {
        assert_eq!((one.id, other.id), (number, 1000 + number));
        assert_eq!(told(one), told(other));
    }
    assert_eq!(one.len() as u64, FRAMES);
    assert_eq!(announced(&receiver, &mut events, FRAMES).await, (0..FRAMES).collect());
    let samples = page.samples().await;
    // The last one announces nothing of these.
    samples.assert(DECIDED, FRAMES as f64 + 1.0);
    samples.assert(REPEATED, FRAMES as f64);
    samples.assert(r#"semlink_batch_size_sum{model="decoder"}"#, FRAMES as f64 + 1.0);
}

#[tokio::test]
async fn frames_whose_sender_left_before_the_report_are_decided_once() {
    let (receiver, page, _log) = Receiver::observed(2).await;
    let mut events = receiver.decisions().await;
    let frames = |id: u64| (0..FRAMES).map(move |number| (id + number, number));
    // Some are decided by then, some are under way, some have not arrived.
    let mut link = receiver.link().await;
    let sent = frames(0).map(|(id, number)| named(&receiver.manifest, id, number)).collect::<Vec<_>>();
    let sent = futures::StreamExt::chain(tokio_stream::iter(sent), futures::stream::pending());
    let mut reports = link.transmit(sent).await.expect("a stream").into_inner();
    let first = reports.message().await.expect("a stream").expect("a report");
    drop((reports, link));

    let again: Vec<_> = frames(1000).map(|(id, number)| named(&receiver.manifest, id, number)).collect();
    let again = receiver.transmit(again).await;
    assert_eq!(told(&again[first.id as usize]), told(&first), "what was reported is reported again");
    let reports: BTreeMap<u64, _> = again.iter().map(|report| (report.id, told(report))).collect();
    let once_more: Vec<_> = frames(2000).map(|(id, number)| named(&receiver.manifest, id, number)).collect();
    for report in receiver.transmit(once_more).await {
        assert_eq!(told(&report), reports[&(report.id - 1000)]);
    }
    assert_eq!(announced(&receiver, &mut events, FRAMES).await, (0..FRAMES).collect());
    page.samples().await.assert(DECIDED, FRAMES as f64 + 1.0);
}

#[tokio::test]
async fn frames_without_a_name_are_new_each_time() {
    let (receiver, page, _log) = Receiver::observed(3).await;
    let nameless = |id| v1::Frame { origin: 0, ..named(&receiver.manifest, id, 5) };
    let mut events = receiver.decisions().await;
    let reports = [receiver.transmit(vec![nameless(1), nameless(2)]).await, receiver.transmit(vec![nameless(3)]).await];
    for report in reports.iter().flatten() {
        told(report);
        let event = events.message().await.expect("a subscription").expect("a decision");
        assert_eq!((event.origin, event.number), (0, 5));
    }
    let samples = page.samples().await;
    samples.assert(DECIDED, 3.0);
    samples.assert(REPEATED, 0.0);
}

/// As when a transmitter's next attempt meets a receiver that has been given the codec meanwhile.
#[tokio::test]
async fn a_refusal_is_not_remembered() {
    let (receiver, page, _log) = Receiver::observed(4).await;
    let foreign = v1::Frame { codec_id: "another".to_owned(), ..named(&receiver.manifest, 1, 5) };
    for _ in 0..2 {
        let reports = receiver.transmit(vec![foreign.clone()]).await;
        assert_eq!(error(&reports[0]).code(), Code::FailedPrecondition);
    }
    told(&receiver.transmit(vec![named(&receiver.manifest, 1, 5)]).await[0]);
    let samples = page.samples().await;
    samples.assert(r#"semlink_receiver_frames_total{code="FAILED_PRECONDITION"}"#, 2.0);
    samples.assert(DECIDED, 1.0);
    samples.assert(REPEATED, 0.0);
}
