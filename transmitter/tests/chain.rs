//! Images through transmitter, channel emulator and receiver, over gRPC.

mod support;

use semlink_proto::v1::{self, GetCodecRequest, SubscribeRequest, decisions_client::DecisionsClient};
use support::{Builder, classify_all, decided, request};

#[tokio::test]
async fn every_image_of_a_stream_is_decided_under_its_id() {
    let chain = Builder { snr_db: 7.0, ..Builder::default() }.start().await;
    let answers = classify_all(&mut chain.client().await, (0..300).map(request)).await;
    assert_eq!(answers.iter().map(|answer| answer.id).collect::<Vec<u64>>(), (0..300).collect::<Vec<u64>>());
    for answer in &answers {
        assert_eq!(answer.error, None);
        let decision = answer.decision.as_ref().expect("a decision");
        assert_eq!(decision.label, chain.manifest.labels[decision.index as usize]);
        assert!(decision.confidence > 0.0 && decision.confidence <= 1.0, "{decision:?}");
        let link = answer.link.as_ref().expect("what the link did");
        assert_eq!((link.uses, link.pilots), (64, 0));
        assert!((link.bandwidth_ratio - 64.0 / 784.0).abs() < 1e-6, "{link:?}");
        assert!(link.profile_version.is_some());
        let snr_db = link.snr_db_estimated.expect("perfect channel state");
        assert!((snr_db - 7.0).abs() < 1e-3, "{snr_db} dB");
        assert!(link.timings.is_some());
    }
    chain.stop().await;
}

#[tokio::test]
async fn a_link_without_an_emulator_works() {
    let chain = Builder { emulator: false, ..Builder::default() }.start().await;
    let answers = classify_all(&mut chain.client().await, (0..20).map(request)).await;
    for answer in &answers {
        decided(answer);
        let link = answer.link.as_ref().expect("what the link did");
        assert_eq!((link.profile_version, link.snr_db_estimated), (None, None));
    }
    chain.stop().await;
}

#[tokio::test]
async fn a_decision_does_not_depend_on_the_batch_nor_the_order() {
    let chain = Builder { snr_db: 0.0, ..Builder::default() }.start().await;
    let mut client = chain.client().await;
    let mut alone = Vec::new();
    for id in 0..40 {
        alone.push(client.classify(request(id)).await.expect("a decision").into_inner());
    }
    let together = classify_all(&mut client, (0..40).map(request)).await;
    let backwards = classify_all(&mut client, (0..40).rev().map(request)).await;
    let alone: Vec<_> = alone.iter().map(decided).collect();
    assert_eq!(alone, together.iter().map(decided).collect::<Vec<_>>());
    assert_eq!(alone, backwards.iter().map(decided).collect::<Vec<_>>());
    chain.stop().await;
}

#[tokio::test]
async fn a_replay_is_bit_identical_and_another_stream_is_not() {
    let first = Builder { snr_db: 0.0, ..Builder::default() }.start().await;
    let seen = classify_all(&mut first.client().await, (0..60).map(request)).await;
    let again = classify_all(&mut first.client().await, (0..60).map(request)).await;
    let other = (0..60).map(|id| v1::ClassifyRequest { stream: 6, ..request(id) });
    let other = classify_all(&mut first.client().await, other).await;
    first.stop().await;

    let second = Builder { snr_db: 0.0, ..Builder::default() }.start().await;
    let elsewhere = classify_all(&mut second.client().await, (0..60).map(request)).await;
    second.stop().await;

    let bits = |answers: &[_]| answers.iter().map(decided).collect::<Vec<_>>();
    assert_eq!(bits(&seen), bits(&again));
    assert_eq!(bits(&seen), bits(&elsewhere));
    assert_ne!(bits(&seen), bits(&other), "another stream meets other noise");
}

#[tokio::test]
async fn a_client_may_ask_for_its_channel_uses() {
    let chain = Builder::default().start().await;
    let rates = [8_u32, 16, 32, 64, 128, 256];
    let requests = (0..60).map(move |id| {
        let uses = rates.get(id as usize % 7).copied();
        v1::ClassifyRequest { uses, ..request(id) }
    });
    for answer in classify_all(&mut chain.client().await, requests).await {
        let expected = rates.get(answer.id as usize % 7).copied().unwrap_or(64);
        let link = answer.link.expect("what the link did");
        assert_eq!(link.uses, expected);
        assert!((link.bandwidth_ratio - expected as f32 / 784.0).abs() < 1e-6, "{link:?}");
    }
    chain.stop().await;
}

#[tokio::test]
async fn the_codec_says_what_may_be_asked_of_it() {
    let chain = Builder { configure: Box::new(|config| config.pilots = 5), ..Builder::default() }.start().await;
    let mut client = chain.client().await;
    let codec = client.get_codec(GetCodecRequest {}).await.expect("a codec").into_inner();
    assert_eq!((&codec.codec_id, &codec.labels), (&chain.manifest.codec_id, &chain.manifest.labels));
    assert_eq!((codec.default_uses, codec.pilots, codec.clean_accuracy), (Some(64), 5, chain.manifest.clean_accuracy));
    for &uses in &codec.uses {
        let answer = client.classify(v1::ClassifyRequest { uses: Some(uses), ..request(1) }).await.expect("a decision");
        assert_eq!(answer.into_inner().link.map(|link| link.uses), Some(uses));
    }
    let refused = client.classify(v1::ClassifyRequest { uses: Some(63), ..request(1) }).await.expect_err("no rate");
    assert!(codec.uses.iter().all(|uses| refused.message().contains(&uses.to_string())), "{refused}");
    chain.stop().await;
}

#[tokio::test]
async fn subscribers_see_every_decision() {
    let chain = Builder::default().start().await;
    let mut consumer = DecisionsClient::new(chain.receiver.channel().await);
    let mut events = consumer.subscribe(SubscribeRequest {}).await.expect("a subscription").into_inner();
    let answers = classify_all(&mut chain.client().await, (0..50).map(request)).await;
    let mut seen = Vec::new();
    for _ in 0..50 {
        let event = events.message().await.expect("no lag").expect("an event");
        assert_eq!((event.stream, event.uses, event.codec_id.as_str()), (5, 64, chain.manifest.codec_id.as_str()));
        let decision = event.decision.expect("a decision");
        seen.push((event.sequence, decision.index, decision.label, decision.confidence.to_bits()));
    }
    seen.sort();
    assert_eq!(seen, answers.iter().map(decided).collect::<Vec<_>>());
    // An open subscription does not hold a shutdown back.
    chain.stop().await;
}
