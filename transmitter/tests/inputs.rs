//! Bad images and wishes: one clear error each, under the id, and the stream goes on.

mod support;

use semlink_codec::testing::png;
use semlink_proto::v1::{ClassifyRequest, ClassifyResponse, Error};
use support::log::Log;
use support::page::Page;
use support::{Builder, assert_refused, classify_all, decided, request};
use tonic::{Code, Status};

/// CRC-32 of PNG chunks, by its definition (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0_u32, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1))))
}

/// A PNG whose header says `side` x `side` pixels, with hardly any data behind it.
fn pixel_bomb(side: u32) -> Vec<u8> {
    let mut file = png(1);
    file[16..20].copy_from_slice(&side.to_be_bytes());
    file[20..24].copy_from_slice(&side.to_be_bytes());
    let crc = crc32(&file[12..29]);
    file[29..33].copy_from_slice(&crc.to_be_bytes());
    file
}

/// Every file that is no acceptable image, with what the error must name.
fn bad_files() -> Vec<(Vec<u8>, &'static str)> {
    let good = png(1);
    let truncated = good[..good.len() / 2].to_vec();
    let huge = [good, vec![0; 9 << 20]].concat();
    vec![
        (Vec::new(), "empty"),
        (truncated, "cannot be decoded"),
        (huge, "at most 8388608"),
        (b"these are words, not pixels".to_vec(), "not an image"),
        (pixel_bomb(60_000), "60000 x 60000"),
    ]
}

fn with_image(id: u64, image: Vec<u8>) -> ClassifyRequest {
    ClassifyRequest { image: image.into(), ..request(id) }
}

fn error(answer: &ClassifyResponse) -> Status {
    assert_eq!(answer.decision, None);
    let Error { code, message } = answer.error.clone().expect("an error");
    Status::new(Code::from_i32(code), message)
}

#[tokio::test]
async fn a_bad_image_fails_its_call_by_name() {
    let chain = Builder::default().start().await;
    let mut client = chain.client().await;
    for (file, named) in bad_files() {
        let status = client.classify(with_image(1, file)).await.expect_err(named);
        assert_refused(&status, Code::InvalidArgument, &[named]);
    }
    decided(&client.classify(request(2)).await.expect("a decision").into_inner());
    chain.stop().await;
}

#[tokio::test]
async fn a_bad_image_in_a_stream_is_counted_and_costs_nobody_else() {
    let log = Log::capture();
    let configure = |config: &mut semlink_transmitter::Config| Page::on_any_port(&mut config.service);
    let chain = Builder { configure: Box::new(configure), ..Builder::default() }.start().await;
    let page = Page::of(&log, 1).await;
    let mut client = chain.client().await;
    let good = classify_all(&mut client, (0..60).map(request)).await;
    let bad: Vec<_> = (0..).map(|i| i * 11 + 3).zip(bad_files()).collect();
    let mut requests: Vec<ClassifyRequest> = (0..60).map(request).collect();
    for (at, (file, _)) in &bad {
        requests[*at] = with_image(*at as u64, file.clone());
    }
    let answers = classify_all(&mut client, requests).await;
    assert_eq!(answers.len(), 60);
    for (answer, good) in answers.iter().zip(&good) {
        match bad.iter().find(|(at, _)| *at as u64 == answer.id) {
            Some((_, (_, named))) => assert_refused(&error(answer), Code::InvalidArgument, &[named]),
            None => assert_eq!(decided(answer), decided(good)),
        }
    }
    let samples = page.samples().await;
    samples.assert(r#"semlink_transmitter_images_total{code="INVALID_ARGUMENT"}"#, bad.len() as f64);
    samples.assert(r#"semlink_transmitter_images_total{code="OK"}"#, (120 - bad.len()) as f64);
    // The batches that they were in went on.
    samples.assert(r#"semlink_batch_panics_total{model="encoder"}"#, 0.0);
    chain.stop().await;
}

#[tokio::test]
async fn channel_uses_that_the_codec_does_not_have_are_refused_with_those_it_has() {
    let chain = Builder::default().start().await;
    let mut client = chain.client().await;
    for k in [0, 7, 65, u32::MAX] {
        let wish = |id| ClassifyRequest { uses: Some(k), ..request(id) };
        let named = [k.to_string(), "8, 16, 32, 64, 128, 256".to_owned()];
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        let status = client.classify(wish(1)).await.expect_err("a refusal");
        assert_refused(&status, Code::InvalidArgument, &named);
        let answers = classify_all(&mut client, [request(0), wish(1), request(2)]).await;
        decided(&answers[0]);
        assert_refused(&error(&answers[1]), Code::InvalidArgument, &named);
        decided(&answers[2]);
    }
    let both = ClassifyRequest { uses: Some(8), auto: true, ..request(1) };
    let status = client.classify(both).await.expect_err("a refusal");
    assert_refused(&status, Code::InvalidArgument, &["uses is 8 and auto is set"]);
    chain.stop().await;
}

#[tokio::test]
async fn another_codec_at_the_receiver_is_named_with_ours() {
    let (ours, manifest) = support::bundle(1);
    let (theirs, other) = support::bundle(2);
    let receiver = support::receiver(theirs.path()).await;
    let transmitter = support::transmitter(support::config(receiver.url(), ours.path())).await;
    let mut client = semlink_proto::v1::transmitter_client::TransmitterClient::new(transmitter.channel().await);
    let status = client.classify(request(1)).await.expect_err("a refusal");
    assert_refused(&status, Code::FailedPrecondition, &[&manifest.codec_id, &other.codec_id]);
    let answers = classify_all(&mut client, [request(1)]).await;
    assert_refused(&error(&answers[0]), Code::FailedPrecondition, &[&manifest.codec_id, &other.codec_id]);
    transmitter.stop().await;
    receiver.stop().await;
}
