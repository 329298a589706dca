//! What one client or one bad frame does must not reach the others; streams that break and services that stop.

mod support;

use futures::stream;
use semlink_proto::v1::{self, link_client::LinkClient};
use support::{frame, pair};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

fn code(report: &v1::FrameReport) -> Option<Code> {
    report.error.as_ref().map(|error| Code::from_i32(error.code))
}

/// All clients share the stream to the next Link: what that Link would refuse by ending the stream must not be sent.
#[tokio::test]
async fn a_frame_too_large_for_the_next_link_is_refused_alone() {
    let (emulator, mirror, _frames) = pair(5.0, |_| {}).await;
    // With one coefficient a symbol the frame that goes on is larger than the one that came.
    emulator.set(|change| (change.kind, change.coherence) = (Some(v1::ChannelKind::Rayleigh.into()), Some(1))).await;
    let symbols: Vec<u8> = [1_f32, 0.0].iter().flat_map(|axis| axis.to_le_bytes()).collect();
    let near_the_limit =
        v1::Frame { codec_id: "x".repeat((4 << 20) - (520 << 10)), symbols: symbols.repeat(65_536).into(), ..frame(7) };
    let reports =
        emulator.transmit((0..20).map(|id| if id == 7 { near_the_limit.clone() } else { frame(id) }).collect()).await;
    for report in &reports {
        let expected = (report.id == 7).then_some(Code::InvalidArgument);
        assert_eq!(code(report), expected, "{:?}", report.error);
    }
    emulator.stop().await;
    mirror.stop().await;
}

#[tokio::test]
async fn frames_without_symbols_and_symbols_beyond_floats_are_refused() {
    let (emulator, mirror, _frames) = pair(5.0, |config| config.channel = "rayleigh".parse().expect("a kind")).await;
    let huge = f32::MAX.to_le_bytes().repeat(2 * 64);
    let bad = [v1::Frame { symbols: Default::default(), ..frame(0) }, v1::Frame { symbols: huge.into(), ..frame(1) }];
    let reports = emulator.transmit(bad.into_iter().chain([frame(2)]).collect()).await;
    let codes: Vec<_> = reports.iter().map(code).collect();
    assert_eq!(codes, [Some(Code::InvalidArgument), Some(Code::InvalidArgument), None], "{reports:?}");
    emulator.stop().await;
    mirror.stop().await;
}

/// A message above the limit of 4 MiB cannot be answered under its id: the stream says so at its end.
#[tokio::test]
async fn a_stream_that_breaks_says_why_after_the_reports_of_what_came_before() {
    let (emulator, mirror, _frames) = pair(5.0, |_| {}).await;
    let too_large = v1::Frame { symbols: vec![0; 5 << 20].into(), ..frame(2) };
    let mut link = LinkClient::new(emulator.channel().await);
    let frames = stream::iter([frame(0), frame(1), too_large]);
    let mut reports = link.transmit(frames).await.expect("a stream").into_inner();
    let mut ids = Vec::new();
    let status = loop {
        match reports.message().await {
            Ok(Some(report)) => ids.push(report.id),
            Ok(None) => panic!("a broken stream ends as if all were well"),
            Err(status) => break status,
        }
    };
    ids.sort_unstable();
    assert_eq!(ids, [0, 1]);
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    // Others are not concerned.
    assert_eq!(code(&emulator.transmit(vec![frame(3)]).await[0]), None);
    emulator.stop().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_shutdown_answers_what_was_read_and_ends_open_streams_cleanly() {
    let (emulator, mirror, _frames) = pair(5.0, |_| {}).await;
    let (send, frames) = mpsc::unbounded_channel();
    let mut link = LinkClient::new(emulator.channel().await);
    let mut reports = link.transmit(UnboundedReceiverStream::new(frames)).await.expect("a stream").into_inner();
    send.send(frame(1)).expect("an open stream");
    assert_eq!(reports.message().await.expect("a report").map(|report| report.id), Some(1));
    // The client's half stays open.
    emulator.stop().await;
    assert_eq!(reports.message().await.expect("a clean end"), None);
    drop(send);
    mirror.stop().await;
}
