//! Bundles that change under a running receiver.

mod support;

use std::fs;
use std::path::Path;

use semlink_codec::{BundleDraft, Labels, MANIFEST_FILE, Manifest, testing};
use semlink_receiver::Config;
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

/// Labels of `names`, all in one place, for a bundle of 16 features.
fn labels(names: &[&str], teacher: &str) -> Labels {
    let rows: Vec<Vec<f32>> =
        (0..names.len()).map(|i| (0..16).map(|j| ((i * 7 + j * 3) % 5) as f32 - 2.0).collect()).collect();
    Labels::new(names.iter().map(|name| (*name).to_owned()).collect(), &rows, 20.0, teacher, "a photo of a {}")
        .expect("labels")
}

/// A bundle whose features lie in the space of some teacher.
fn open_bundle(dir: &Path, seed: u64, space: &str) -> Manifest {
    let draft = BundleDraft { feature_space: Some(space.to_owned()), ..testing::draft() };
    testing::write_draft(dir, seed, draft).expect("a bundle")
}

#[tokio::test]
async fn labels_change_live_and_what_cannot_be_decided_among_changes_nothing() {
    let space = format!("sha256:{}", "ab".repeat(32));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("labels.safetensors");
    labels(&["cat", "dog"], &space).write(&file).expect("a file");
    let log = support::log::Log::capture();
    let receiver = Receiver::start_with(1, |config| {
        open_bundle(&config.bundles[0], 1, &space);
        config.labels = Some(file.clone());
        config.top = 5;
        support::page::Page::on_any_port(&mut config.service);
    });
    let receiver = receiver.await;
    let page = support::page::Page::of(&log, 1).await;
    let codec = open_bundle(tempfile::tempdir().expect("a directory").path(), 1, &space).codec_id;
    let decide = async || {
        let report = receiver.transmit(vec![frame(&codec, 1, &received(1, 64))]).await.remove(0);
        let decision = report.decision.expect("a decision");
        let mut names: Vec<String> = decision.top.iter().map(|candidate| candidate.label.clone()).collect();
        assert_eq!(names.first(), Some(&decision.label));
        names.sort_unstable();
        names
    };
    assert_eq!(decide().await, ["cat", "dog"]);

    labels(&["heron", "ibis", "stork"], &space).write(&file).expect("a file");
    page.reaches(TAKEN, 1.0).await;
    assert_eq!(decide().await, ["heron", "ibis", "stork"]);

    // Of another teacher, and no labels at all.
    const REFUSED: &str = r#"semlink_bundle_reloads_total{result="refused"}"#;
    labels(&["a", "b"], &format!("sha256:{}", "cd".repeat(32))).write(&file).expect("a file");
    page.reaches(REFUSED, 1.0).await;
    fs::write(&file, "no labels").expect("a file");
    page.reaches(REFUSED, 2.0).await;
    assert_eq!(decide().await, ["heron", "ibis", "stork"]);

    // A bundle that comes in is given the labels, too; one of another space is refused.
    let next = open_bundle(receiver.bundle.path(), 2, &space);
    page.reaches(TAKEN, 2.0).await;
    let report = receiver.transmit(vec![frame(&next.codec_id, 2, &received(2, 64))]).await.remove(0);
    let label = report.decision.expect("a decision").label;
    assert!(["heron", "ibis", "stork"].contains(&label.as_str()), "{label}");
    testing::write_bundle(receiver.bundle.path(), 3).expect("a bundle");
    page.reaches(REFUSED, 3.0).await;
}

#[tokio::test]
async fn a_receiver_does_not_begin_with_labels_of_another_space() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("labels.safetensors");
    labels(&["cat", "dog"], &format!("sha256:{}", "ab".repeat(32))).write(&file).expect("a file");
    let (bundle, _) = support::bundle(1);
    for (file, expected) in [(file, "features of its own"), (dir.path().join("none"), "--labels")] {
        let config = Config { labels: Some(file), ..Config::new(bundle.path()) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let served = semlink_receiver::serve(listener, config, std::future::pending::<()>());
        let refused = served.await.expect_err("a refusal").to_string();
        assert!(refused.contains(expected), "{refused}");
    }
}
