//! `Decisions.Subscribe` over the wire; what happens to slow consumers is tested beside the broadcast itself.

mod support;

use futures::StreamExt as _;
use support::{Receiver, frame, received};

#[tokio::test]
async fn a_subscriber_sees_each_decision_made_after_it_came() {
    let receiver = Receiver::start(1).await;
    let codec_id = receiver.manifest.codec_id.clone();
    let early = receiver.transmit(vec![frame(&codec_id, 999, &received(999, 8))]).await;
    assert_eq!(early.len(), 1);

    let first = receiver.decisions().await;
    let second = receiver.decisions().await;
    let mut frames: Vec<_> = (0..40).map(|id| frame(&codec_id, id, &received(id, 64))).collect();
    // A refused frame decides nothing.
    frames[7].codec_id = "another".to_owned();
    let reports = receiver.transmit(frames).await;

    for subscriber in [first, second] {
        let mut events: Vec<_> = subscriber.take(39).map(|event| event.expect("no lag")).collect().await;
        events.sort_by_key(|event| event.frame_id);
        let decided = reports.iter().filter(|report| report.decision.is_some());
        for (event, report) in events.iter().zip(decided) {
            assert_eq!((event.frame_id, event.stream, event.sequence), (report.id, 5, 1000 + report.id));
            assert_eq!(event.codec_id, codec_id);
            assert_eq!(
                (&event.decision, event.uses, event.snr_db_estimated),
                (&report.decision, report.uses, report.snr_db_estimated)
            );
        }
        assert_eq!(events.len(), 39);
    }
}

#[tokio::test]
async fn a_shutdown_ends_subscriptions() {
    let receiver = Receiver::start(2).await;
    let mut events = receiver.decisions().await;
    let served = receiver.stop();
    assert!(events.next().await.is_none());
    served.await.expect("no panic").expect("a clean end");
}
