//! Bundles that change under a running receiver.

mod support;

use std::fs;

use semlink_codec::{MANIFEST_FILE, Manifest, testing};
use support::{Receiver, error, frame, received};
use tonic::Code;

const TAKEN: &str = r#"semlink_bundle_reloads_total{result="ok"}"#;

#[tokio::test]
async fn so_many_codecs_of_a_bundle_are_held_and_the_oldest_goes() {
    let (receiver, page, _log) = Receiver::observed(1).await;
    let mut ids = vec![receiver.manifest.codec_id.clone()];
    // And back to one that is still held.
    for (taken, seed) in [(1.0, 2), (2.0, 3), (3.0, 2)] {
        ids.push(testing::write_bundle(receiver.bundle.path(), seed).expect("a bundle").codec_id);
        page.reaches(TAKEN, taken).await;
        let frames = (0..).zip(&ids).map(|(id, codec)| frame(codec, id, &received(id, 64)));
        let reports = receiver.transmit(frames.collect()).await;
        let held = &ids[ids.len() - 2..];
        for (report, id) in reports.iter().zip(&ids) {
            if held.contains(id) {
                assert!(report.decision.is_some(), "{report:?}");
                continue;
            }
            let status = error(report);
            assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
            assert!(held.iter().chain([id]).all(|named| status.message().contains(named)), "{status}");
        }
        page.samples().await.assert("semlink_bundle_codecs", 2.0);
    }
}

/// The id covers the weights alone.
#[tokio::test]
async fn a_description_that_changes_without_the_weights_is_taken_too() {
    let (receiver, page, _log) = Receiver::observed(1).await;
    let sent = || vec![frame(&receiver.manifest.codec_id, 1, &received(1, 64))];
    let before = receiver.transmit(sent()).await.remove(0).decision.expect("a decision");
    let labels = (0..receiver.manifest.classes()).map(|class| format!("class {class}")).collect();
    let manifest = Manifest { labels, ..receiver.manifest.clone() };
    let next = receiver.bundle.path().join("next");
    fs::write(&next, serde_json::to_string(&manifest).expect("JSON")).expect("a file");
    fs::rename(next, receiver.bundle.path().join(MANIFEST_FILE)).expect("a replacement");
    page.reaches(TAKEN, 1.0).await;
    let after = receiver.transmit(sent()).await.remove(0).decision.expect("a decision");
    assert_eq!((after.index, after.confidence), (before.index, before.confidence));
    assert_eq!(
        (after.label, &before.label),
        (format!("class {}", before.index), &receiver.manifest.labels[before.index as usize])
    );
    page.samples().await.assert("semlink_bundle_codecs", 1.0);
}
