//! Frames in, reports out: decisions as the codec library makes them, refusals by name, drains.

mod support;

use futures::StreamExt as _;
use semlink_channel::{FrameKey, iq, pilots};
use semlink_codec::{Csi, DecoderHalf};
use semlink_proto::v1;
use support::{Receiver, error, frame, received};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

#[tokio::test]
async fn every_frame_is_decided_as_the_library_decides_it_alone() {
    let receiver = Receiver::start(1).await;
    let rates = receiver.manifest.rates().to_vec();
    let sent: Vec<_> = (0..120).map(|id| (id, received(id, rates[id as usize % rates.len()]))).collect();
    let frames = sent.iter().map(|(id, received)| frame(&receiver.manifest.codec_id, *id, received)).collect();

    let reports = receiver.transmit(frames).await;

    let library = DecoderHalf::open(receiver.bundle.path()).expect("the bundle");
    assert_eq!(reports.len(), sent.len());
    for (report, (id, received)) in reports.iter().zip(&sent) {
        let alone = library.decode(std::slice::from_ref(received)).expect("a decision").remove(0);
        let decision = report.decision.as_ref().expect("a decision");
        assert_eq!((report.id, decision.index as usize), (*id, alone.index));
        assert_eq!(decision.label, receiver.manifest.labels[alone.index]);
        assert!((decision.confidence - alone.confidence).abs() < 1e-5, "{id}: {decision:?} {alone:?}");
        assert_eq!(report.uses as usize, received.symbols.len());
    }
    let decided: std::collections::BTreeSet<_> =
        reports.iter().filter_map(|r| Some(r.decision.as_ref()?.index)).collect();
    assert!(decided.len() > 1, "frames that are all decided alike show nothing");
}

#[tokio::test]
async fn a_replay_is_decided_bit_for_bit_alike() {
    let receiver = Receiver::start(2).await;
    let frames = |order: &mut dyn Iterator<Item = u64>| -> Vec<v1::Frame> {
        order.map(|id| frame(&receiver.manifest.codec_id, id, &received(id, 64))).collect()
    };
    let forward = receiver.transmit(frames(&mut (0..100))).await;
    let backward = receiver.transmit(frames(&mut (0..100).rev())).await;
    for (a, b) in forward.iter().zip(&backward) {
        let confidence = |report: &v1::FrameReport| report.decision.as_ref().map(|d| (d.index, d.confidence.to_bits()));
        assert_eq!((a.id, confidence(a)), (b.id, confidence(b)));
    }
}

#[tokio::test]
async fn a_report_says_what_the_link_did() {
    let receiver = Receiver::start(3).await;
    let received = received(1, 32);
    let truth = v1::ChannelTruth {
        snr_db_requested: 12.0,
        snr_db_realised: 11.5,
        seed: 9,
        profile_version: 4,
        ..Default::default()
    };
    let full = v1::Frame {
        pilots: iq::encode(&received.symbols[..4]).into(),
        truth: Some(truth),
        ..frame(&receiver.manifest.codec_id, 1, &received)
    };
    let bare = v1::Frame { id: 2, csi: None, truth: None, pilots: Default::default(), ..full.clone() };

    let reports = receiver.transmit(vec![full, bare]).await;

    let [full, bare] = &reports[..] else { panic!("two reports, not {reports:?}") };
    assert_eq!((full.uses, full.pilots, full.kind()), (32, 4, v1::ChannelKind::Rayleigh));
    let snr_db = full.snr_db_estimated.expect("known from the channel state");
    assert!((snr_db - 12.0).abs() < 1e-4, "{snr_db}");
    assert_eq!(full.truth, Some(truth));
    assert!(bare.decision.is_some(), "{bare:?}");
    assert_eq!((bare.pilots, bare.kind(), bare.snr_db_estimated), (0, v1::ChannelKind::Unspecified, None));
}

#[tokio::test]
async fn the_likeliest_classes_are_named_and_a_guess_is_marked() {
    let decide = async |min_confidence: f32| {
        let receiver =
            Receiver::start_with(3, |config| (config.top, config.min_confidence) = (3, min_confidence)).await;
        let reports = receiver.transmit(vec![frame(&receiver.manifest.codec_id, 1, &received(1, 64))]).await;
        reports[0].decision.clone().expect("a decision")
    };
    let sure = decide(0.0).await;
    let probabilities: Vec<f32> = sure.top.iter().map(|candidate| candidate.probability).collect();
    assert_eq!(probabilities.len(), 3);
    assert!(probabilities.windows(2).all(|pair| pair[0] >= pair[1]), "{probabilities:?}");
    assert_eq!((sure.top[0].index, &sure.top[0].label, probabilities[0]), (sure.index, &sure.label, sure.confidence));
    assert!(!sure.unsure);
    let guess = decide(1.0).await;
    assert!(guess.unsure && guess.index == sure.index, "{guess:?}");
}

#[tokio::test]
async fn without_channel_state_the_pilots_tell() {
    let receiver = Receiver::start(3).await;
    let received = received(1, 256);
    let state = match &received.csi {
        Csi::Perfect(state) => state.clone(),
        other => panic!("{other:?}"),
    };
    let mut sounding = pilots::sequence(64);
    pilots::apply(FrameKey { seed: 1, link: 0, stream: 0, frame: 1 }, &state, &mut sounding);
    let known = frame(&receiver.manifest.codec_id, 1, &received);
    let piloted = v1::Frame { id: 2, csi: None, pilots: iq::encode(&sounding).into(), ..known.clone() };

    let reports = receiver.transmit(vec![known, piloted]).await;

    let [known, piloted] = &reports[..] else { panic!("two reports, not {reports:?}") };
    assert_eq!((piloted.pilots, piloted.kind()), (64, v1::ChannelKind::Unspecified));
    // 12 dB from 63 and 256 degrees of freedom: a deviation of at most 4.34 / sqrt(63) = 0.55 dB.
    let snr_db = piloted.snr_db_estimated.expect("estimated from pilots");
    assert!((snr_db - 12.0).abs() < 1.8, "{snr_db}");
    let confidence = |report: &v1::FrameReport| report.decision.as_ref().map(|d| (d.index, d.confidence));
    let (known, piloted) = (confidence(known).expect("a decision"), confidence(piloted).expect("a decision"));
    assert!(known.0 == piloted.0 && (known.1 - piloted.1).abs() < 0.2, "{known:?}, by pilots {piloted:?}");
}

#[tokio::test]
async fn a_bad_frame_costs_one_error_under_its_id_and_the_stream_goes_on() {
    let receiver = Receiver::start(4).await;
    let own = receiver.manifest.codec_id.clone();
    let good = |id| frame(&own, id, &received(id, 64));
    let with_csi = |change: &dyn Fn(&mut v1::ChannelState)| {
        let mut frame = good(0);
        change(frame.csi.as_mut().expect("a channel state"));
        frame
    };
    let mut nan = received(0, 64);
    nan.symbols[17].im = f32::NAN;
    let mut infinite = received(0, 64);
    infinite.symbols[0].re = f32::INFINITY;
    let no_whole_symbols = v1::Frame { symbols: vec![0; 64 * 8 - 3].into(), ..good(0) };
    let cases: Vec<(v1::Frame, Code, &str)> = vec![
        (v1::Frame { codec_id: "another".into(), ..good(0) }, Code::FailedPrecondition, "\"another\""),
        (v1::Frame { codec_id: String::new(), ..good(0) }, Code::FailedPrecondition, own.as_str()),
        (v1::Frame { codec_id: "x".repeat(1 << 20), ..good(0) }, Code::FailedPrecondition, own.as_str()),
        (frame(&own, 0, &received(0, 63)), Code::InvalidArgument, "63"),
        (frame(&own, 0, &received(0, 300)), Code::InvalidArgument, "300"),
        (v1::Frame { symbols: Default::default(), ..good(0) }, Code::InvalidArgument, "symbols"),
        (no_whole_symbols, Code::InvalidArgument, "509"),
        (frame(&own, 0, &nan), Code::InvalidArgument, "17"),
        (frame(&own, 0, &infinite), Code::InvalidArgument, "inf"),
        (v1::Frame { pilots: vec![0; 7].into(), ..good(0) }, Code::InvalidArgument, "pilots"),
        (v1::Frame { csi: None, pilots: vec![0; 8].into(), ..good(0) }, Code::InvalidArgument, "pilots is 1"),
        (v1::Frame { csi: None, pilots: vec![0; 8 * 1025].into(), ..good(0) }, Code::InvalidArgument, "pilots is 1025"),
        (with_csi(&|csi| csi.kind = 0), Code::InvalidArgument, "kind"),
        (with_csi(&|csi| csi.kind = 77), Code::InvalidArgument, "77"),
        (with_csi(&|csi| csi.noise_var = 0.0), Code::InvalidArgument, "noise_var"),
        (with_csi(&|csi| csi.noise_var = -1.0), Code::InvalidArgument, "noise_var"),
        (with_csi(&|csi| csi.noise_var = f32::NAN), Code::InvalidArgument, "noise_var"),
        (with_csi(&|csi| csi.noise_var = f32::INFINITY), Code::InvalidArgument, "noise_var"),
        (with_csi(&|csi| csi.h = Default::default()), Code::InvalidArgument, "h"),
        (with_csi(&|csi| csi.coherence = 16), Code::InvalidArgument, "h has 1 values, must have 4"),
        (with_csi(&|csi| csi.h = [f32::NAN.to_le_bytes(), [0; 4]].concat().into()), Code::InvalidArgument, "h"),
    ];
    // Good and bad take turns in one stream; good ones have even ids.
    let frames = cases.iter().enumerate().flat_map(|(i, (bad, ..))| {
        let id = 2 * i as u64;
        [good(id), v1::Frame { id: id + 1, ..bad.clone() }]
    });

    let reports = receiver.transmit(frames.collect()).await;

    assert_eq!(reports.len(), 2 * cases.len());
    for (i, pair) in reports.chunks(2).enumerate() {
        let ([good, bad], (_, code, text)) = (pair, &cases[i]) else { panic!("pairs") };
        assert_eq!((good.id, bad.id), (2 * i as u64, 2 * i as u64 + 1));
        assert!(good.decision.is_some() && good.error.is_none(), "case {i}: {good:?}");
        assert!(bad.decision.is_none(), "case {i}: {bad:?}");
        let status = error(bad);
        assert_eq!(status.code(), *code, "case {i}: {status}");
        assert!(status.message().contains(text), "case {i}: {status}");
        assert!(status.message().len() < 500, "case {i}: {status}");
    }
}

#[tokio::test]
async fn symbols_that_no_network_can_digest_cost_no_neighbour() {
    let receiver = Receiver::start(5).await;
    let frames = (0..64).map(|id| {
        let mut received = received(id, 64);
        if id == 20 {
            received.symbols.iter_mut().for_each(|symbol| symbol.re = f32::MAX);
        }
        frame(&receiver.manifest.codec_id, id, &received)
    });
    let reports = receiver.transmit(frames.collect()).await;
    assert_eq!(reports.len(), 64);
    for report in reports.iter().filter(|report| report.id != 20) {
        assert!(report.decision.is_some(), "{report:?}");
    }
    let extreme = &reports[20];
    match &extreme.decision {
        Some(decision) => assert!((0.0..=1.0).contains(&decision.confidence), "{extreme:?}"),
        None => assert!(extreme.error.is_some(), "{extreme:?}"),
    }
}

#[tokio::test]
async fn streams_are_answered_side_by_side() {
    let receiver = Receiver::start(6).await;
    // The same ids in each stream: a report must find its own stream.
    let streams = [8, 16, 32, 64].map(|k| {
        let frames = (0..50).map(|id| frame(&receiver.manifest.codec_id, id, &received(id, k))).collect();
        let receiver = &receiver;
        async move { (k, receiver.transmit(frames).await) }
    });
    for (k, reports) in futures::future::join_all(streams).await {
        assert_eq!(reports.iter().map(|report| report.id).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
        assert!(reports.iter().all(|report| report.uses == k as u32 && report.decision.is_some()));
    }
}

#[tokio::test]
async fn a_queue_of_one_holds_senders_back_and_loses_nothing() {
    let receiver = Receiver::start_with(7, |config| (config.queue, config.max_batch) = (1, 1)).await;
    let frames = (0..200).map(|id| frame(&receiver.manifest.codec_id, id, &received(id, 8))).collect();
    let reports = receiver.transmit(frames).await;
    assert_eq!(reports.len(), 200);
    assert!(reports.iter().all(|report| report.decision.is_some()));
}

#[tokio::test]
async fn a_shutdown_answers_what_was_read_and_ends_the_stream() {
    let receiver = Receiver::start(8).await;
    let codec_id = receiver.manifest.codec_id.clone();
    let (frames, sent) = tokio::sync::mpsc::channel(64);
    let mut reports = receiver.link().await.transmit(ReceiverStream::new(sent)).await.expect("a stream").into_inner();
    for id in 0..50 {
        frames.send(frame(&codec_id, id, &received(id, 64))).await.expect("an open stream");
    }
    let first = reports.next().await.expect("a report").expect("no error");

    // The client keeps its side open: the receiver must end the stream by itself.
    let served = receiver.stop();
    let mut ids = vec![first.id];
    while let Some(report) = reports.next().await {
        let report = report.expect("the stream ends without an error");
        assert!(report.decision.is_some(), "{report:?}");
        ids.push(report.id);
    }
    served.await.expect("no panic").expect("a clean end");
    ids.sort_unstable();
    // Each once, and no frame before the last answered one was dropped: reading stopped at one point.
    assert_eq!(ids, (0..ids.len() as u64).collect::<Vec<_>>());
    drop(frames);
}

#[tokio::test]
async fn a_client_that_leaves_midway_harms_nobody() {
    let receiver = Receiver::start(9).await;
    let codec_id = receiver.manifest.codec_id.clone();
    let (frames, sent) = tokio::sync::mpsc::channel(64);
    let mut reports = receiver.link().await.transmit(ReceiverStream::new(sent)).await.expect("a stream").into_inner();
    for id in 0..50 {
        frames.send(frame(&codec_id, id, &received(id, 64))).await.expect("an open stream");
    }
    reports.next().await.expect("a report").expect("no error");
    drop((frames, reports));

    let after = receiver.transmit(vec![frame(&codec_id, 1, &received(1, 64))]).await;
    assert!(after[0].decision.is_some());
    receiver.stop().await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_frame_that_comes_again_is_reported_again_and_decided_once() {
    let receiver = Receiver::start(1).await;
    let mut decisions = receiver.decisions().await;
    let named = |id, number| {
        let frame = frame(&receiver.manifest.codec_id, id, &received(number, 64));
        v1::Frame { origin: 77, number, ..frame }
    };
    let decided = |report: &v1::FrameReport| report.decision.as_ref().map(|d| (d.index, d.confidence.to_bits()));
    // Twice in a stream, then in another one, under other ids of those streams.
    let first = receiver.transmit(vec![named(1, 5), named(2, 5), named(3, 6)]).await;
    let again = receiver.transmit(vec![named(9, 5), named(8, 6)]).await;
    let ids = |reports: &[v1::FrameReport]| reports.iter().map(|report| report.id).collect::<Vec<_>>();
    assert_eq!((ids(&first), ids(&again)), (vec![1, 2, 3], vec![8, 9]));
    assert!(decided(&first[0]).is_some());
    assert_eq!(decided(&first[0]), decided(&first[1]));
    assert_eq!(first[0].decode_us, again[1].decode_us, "it is the same report");
    assert_eq!((decided(&again[1]), decided(&again[0])), (decided(&first[0]), decided(&first[2])));

    // Frames without a name are always new ones.
    let nameless = v1::Frame { origin: 0, ..named(4, 7) };
    receiver.transmit(vec![nameless.clone()]).await;
    receiver.transmit(vec![nameless]).await;
    let mut numbers = Vec::new();
    for _ in 0..4 {
        let event = decisions.message().await.expect("a subscription").expect("a decision");
        numbers.push((event.origin, event.number));
    }
    numbers[..2].sort();
    assert_eq!(numbers, [(77, 5), (77, 6), (0, 7), (0, 7)]);
}
