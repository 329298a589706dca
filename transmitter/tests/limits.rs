//! The next hop gone, slow or telling something; too much work; a shutdown in the middle of a stream.

mod support;

use futures::{StreamExt as _, stream};
use semlink_proto::v1::{ChannelKind, ClassifyRequest, Error, transmitter_client::TransmitterClient};
use semlink_transmitter::Config;
use support::air::Air;
use support::{Service, assert_refused, bundle, classify_all, config, decided, receiver_on, request, transmitter};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

async fn client(transmitter: &Service) -> TransmitterClient<Channel> {
    TransmitterClient::new(transmitter.channel().await)
}

#[tokio::test]
async fn without_a_next_hop_each_request_fails_and_works_again_once_it_is_back() {
    let (dir, _) = bundle(7);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let transmitter = transmitter(config(format!("http://{address}"), dir.path())).await;
    let hasty = |id| ClassifyRequest { timeout_ms: 200, ..request(id) };
    let mut client = client(&transmitter).await;
    let named = address.to_string();

    for round in 0..2 {
        let status = client.classify(hasty(1)).await.expect_err("nobody listens");
        assert_refused(&status, Code::Unavailable, &[&named]);
        for answer in classify_all(&mut client, (0..5).map(hasty)).await {
            let Error { code, message } = answer.error.expect("nobody listens");
            assert_eq!(Code::from_i32(code), Code::Unavailable);
            assert!(message.contains(&named), "{message}");
        }
        let listener = TcpListener::bind(address).await.expect("the same port");
        let receiver = receiver_on(listener, dir.path());
        decided(
            &client.classify(request(1)).await.unwrap_or_else(|status| panic!("round {round}: {status}")).into_inner(),
        );
        classify_all(&mut client, (0..5).map(request)).await.iter().for_each(|answer| drop(decided(answer)));
        receiver.stop().await;
    }
    transmitter.stop().await;
}

#[tokio::test]
async fn a_shutdown_answers_what_was_accepted() {
    let (dir, _) = bundle(7);
    let mut air = Air::start().await;
    let transmitter = transmitter(config(air.service.url(), dir.path())).await;
    let mut client = client(&transmitter).await;
    let (send, requests) = mpsc::unbounded_channel();
    for id in 0..10 {
        send.send(request(id)).expect("an open stream");
    }
    let mut answers =
        client.classify_stream(UnboundedReceiverStream::new(requests)).await.expect("a stream").into_inner();
    let mut arrived = Vec::new();
    for _ in 0..10 {
        arrived.push(air.frame().await);
    }
    let ended = transmitter.shut_down();
    for frame in arrived {
        let index = frame.frame.sequence as u32;
        frame.decide(index);
    }
    let mut seen = Vec::new();
    while let Some(answer) = answers.message().await.expect("an answer") {
        seen.push((answer.id, answer.decision.expect("a decision").index));
    }
    seen.sort();
    assert_eq!(seen, (0..10).map(|id| (id, id as u32)).collect::<Vec<_>>());
    drop(send);
    ended.await.expect("a clean end");
    air.service.stop().await;
}

#[tokio::test]
async fn an_emulator_that_stops_hands_on_the_reports_of_what_it_accepted() {
    let (dir, _) = bundle(7);
    let mut air = Air::start().await;
    let emulator = support::emulator(&air.service, 10.0).await;
    let transmitter = transmitter(config(emulator.url(), dir.path())).await;
    let mut client = client(&transmitter).await;
    let requests = stream::iter((0..10).map(request)).chain(stream::pending());
    let mut answers = client.classify_stream(requests).await.expect("a stream").into_inner();
    let mut arrived = Vec::new();
    for _ in 0..10 {
        arrived.push(air.frame().await);
    }
    let ended = emulator.shut_down();
    for frame in arrived {
        frame.decide(4);
    }
    for _ in 0..10 {
        let answer = answers.message().await.expect("an answer").expect("an answer");
        assert_eq!(answer.decision.expect("a decision").index, 4);
    }
    ended.await.expect("a clean end");
    drop(answers);
    transmitter.stop().await;
    air.service.stop().await;
}

#[tokio::test]
async fn beyond_the_door_calls_are_refused_and_streams_wait() {
    let (dir, _) = bundle(7);
    let mut air = Air::start().await;
    let transmitter = transmitter(Config { queue: 3, ..config(air.service.url(), dir.path()) }).await;
    let mut client = client(&transmitter).await;
    let requests = stream::iter((0..5).map(request)).chain(stream::pending());
    let mut answers = client.classify_stream(requests).await.expect("a stream").into_inner();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(air.frame().await);
    }
    let status = client.classify(request(9)).await.expect_err("a full house");
    assert_refused(&status, Code::ResourceExhausted, &["too many images"]);
    // Before anything of its body is read: a message that is too large by itself is refused for the same reason.
    let large = ClassifyRequest { image: vec![0; 20 << 20].into(), ..request(9) };
    let status = client.classify(large).await.expect_err("a full house");
    assert_refused(&status, Code::ResourceExhausted, &["too many images"]);

    let mut seen = Vec::new();
    for _ in 0..5 {
        let frame = match held.pop() {
            Some(frame) => frame,
            None => air.frame().await,
        };
        frame.decide(1);
        seen.push(answers.message().await.expect("an answer").expect("an answer").id);
    }
    seen.sort();
    assert_eq!(seen, [0, 1, 2, 3, 4]);

    let (decided, ()) = tokio::join!(client.classify(request(9)), async { air.frame().await.decide(2) });
    assert_eq!(decided.expect("room again").into_inner().decision.expect("a decision").index, 2);
    drop(answers);
    transmitter.stop().await;
    air.service.stop().await;
}

/// Classifies one image over the air, answered with this channel, and gives the frame's channel uses.
async fn uses_at(client: &mut TransmitterClient<Channel>, air: &mut Air, reported: Option<(f32, ChannelKind)>) -> u32 {
    let over_the_air = async {
        let arrived = air.frame().await;
        let uses = arrived.frame.symbols.len() as u32 / 8;
        arrived.report(|report| {
            report.decision = Some(Default::default());
            report.snr_db_estimated = reported.map(|(snr_db, _)| snr_db);
            report.kind = reported.map_or(ChannelKind::Unspecified, |(_, kind)| kind).into();
        });
        uses
    };
    let (answer, uses) = tokio::join!(client.classify(request(1)), over_the_air);
    assert_eq!(answer.expect("an answer").into_inner().link.expect("what the link did").uses, uses);
    uses
}

#[tokio::test]
async fn auto_follows_the_reported_channel() {
    let (dir, manifest) = bundle(7);
    support::tabulate(dir.path(), &manifest, &[(-10.0, 8, 0.3), (-10.0, 64, 0.8), (20.0, 8, 0.896), (20.0, 64, 0.9)]);
    let mut air = Air::start().await;
    let rate = "auto".parse().expect("a rate");
    let transmitter = transmitter(Config::new(air.service.url(), dir.path(), rate)).await;
    let mut client = client(&transmitter).await;
    let steps = [
        (None, 256),
        (Some((20.0, ChannelKind::Awgn)), 256),
        (Some((-10.0, ChannelKind::Awgn)), 8),
        // One report of a high SNR, even one that cannot be, does not shorten frames, nor does what is no number.
        (Some((300.0, ChannelKind::Awgn)), 64),
        (Some((f32::NAN, ChannelKind::Awgn)), 64),
        // Nor does one of another kind, or of none.
        (Some((20.0, ChannelKind::Unspecified)), 64),
        // A kind without measurements takes the longest.
        (Some((20.0, ChannelKind::Rayleigh)), 64),
        (None, 256),
    ];
    for (step, (reported, expected)) in steps.into_iter().enumerate() {
        assert_eq!(uses_at(&mut client, &mut air, reported).await, expected, "step {step}");
    }
    transmitter.stop().await;
    air.service.stop().await;
}

#[tokio::test]
async fn an_image_may_ask_for_auto_where_the_rate_is_fixed() {
    let (dir, manifest) = bundle(7);
    support::tabulate(dir.path(), &manifest, &[(-10.0, 8, 0.3), (-10.0, 64, 0.8), (20.0, 8, 0.896), (20.0, 64, 0.9)]);
    let mut air = Air::start().await;
    let transmitter = transmitter(Config::new(air.service.url(), dir.path(), "32".parse().expect("a rate"))).await;
    let mut client = client(&transmitter).await;
    assert_eq!(uses_at(&mut client, &mut air, Some((20.0, ChannelKind::Awgn))).await, 32);
    for (auto, expected) in [(true, 8), (false, 32)] {
        let request = ClassifyRequest { auto, ..request(1) };
        let (answer, ()) = tokio::join!(client.classify(request), async { air.frame().await.decide(1) });
        let link = answer.expect("an answer").into_inner().link.expect("what the link did");
        assert_eq!(link.uses, expected, "auto: {auto}");
        // Six rates.
        assert_eq!(link.side_information_bits, 3);
    }
    transmitter.stop().await;
    air.service.stop().await;
}

#[tokio::test]
async fn a_next_hop_that_reports_nonsense_is_an_error_not_an_answer() {
    let (dir, _) = bundle(7);
    let mut air = Air::start().await;
    let transmitter = transmitter(config(air.service.url(), dir.path())).await;
    let mut client = client(&transmitter).await;
    let (answer, ()) = tokio::join!(client.classify(request(1)), async { air.frame().await.report(|_| {}) });
    assert_refused(&answer.expect_err("neither decision nor error"), Code::Internal, &["neither decision nor error"]);
    let refuse = |report: &mut semlink_proto::v1::FrameReport| {
        report.error = Some(Error { code: Code::InvalidArgument.into(), message: "symbols: too loud".to_owned() });
    };
    let (answer, ()) = tokio::join!(client.classify(request(1)), async { air.frame().await.report(refuse) });
    assert_refused(&answer.expect_err("a refusal"), Code::InvalidArgument, &["too loud"]);
    transmitter.stop().await;
    air.service.stop().await;
}

#[tokio::test]
async fn a_broken_stream_of_requests_still_answers_what_came_before() {
    let (dir, _) = bundle(7);
    let mut air = Air::start().await;
    let small = Config { max_image_bytes: 4096, ..config(air.service.url(), dir.path()) };
    let transmitter = transmitter(small).await;
    let mut client = client(&transmitter).await;
    // Far beyond what a message may have: this ends the call, but not before the first image is answered.
    let flood = ClassifyRequest { image: vec![0; 4 << 20].into(), ..request(2) };
    let requests = stream::iter([request(1), flood]);
    let mut answers = client.classify_stream(requests).await.expect("a stream").into_inner();
    air.frame().await.decide(3);
    let first = answers.message().await.expect("an answer").expect("an answer");
    assert_eq!((first.id, first.decision.expect("a decision").index), (1, 3));
    assert_refused(&answers.message().await.expect_err("the flood"), Code::OutOfRange, &["too large"]);
    transmitter.stop().await;
    air.service.stop().await;
}
