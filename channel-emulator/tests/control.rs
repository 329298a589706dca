//! The channel changed while frames flow, and what else the emulator serves.

mod support;

use futures::stream;
use semlink_channel::iq;
use semlink_proto::v1::{
    ChannelKind, ChannelProfile, CsiMode, GetChannelRequest, ResetChannelRequest, SetChannelRequest, Transport,
    WatchChannelRequest, WatchFramesRequest, link_client::LinkClient,
};
use support::{arrived, frame, pair, stages};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

fn snr(snr_db: f32) -> SetChannelRequest {
    SetChannelRequest { snr_db: Some(snr_db), ..Default::default() }
}

#[tokio::test]
async fn a_change_applies_to_the_frames_after_it_within_one_stream() {
    let (emulator, mirror, mut frames) = pair(10.0, |_| {}).await;
    let mut control = emulator.control().await;
    let (send, requests) = mpsc::unbounded_channel();
    let mut link = LinkClient::new(emulator.channel().await);
    let mut reports = link.transmit(UnboundedReceiverStream::new(requests)).await.expect("a stream").into_inner();
    for (id, snr_db) in (0..).zip([10.0_f32, -5.0, 20.0, 0.5]) {
        let told = control.set_channel(snr(snr_db)).await.expect("a valid change").into_inner();
        assert_eq!(told.snr_db, snr_db);
        send.send(frame(id)).expect("an open stream");
        let report = reports.message().await.expect("a report").expect("a report");
        let truth = report.truth.expect("what was done");
        assert_eq!((report.id, truth.snr_db_requested, truth.profile_version), (id, snr_db, told.version));
        let csi = arrived(&mut frames, 1).await.remove(0).csi.expect("channel state");
        assert!((-10.0 * csi.noise_var.log10() - snr_db).abs() < 1e-3);
    }
    drop(send);
    emulator.stop().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_viewer_sees_frames_as_they_were_sent_and_as_they_arrive() {
    let (emulator, mirror, mut frames) = pair(3.0, |_| {}).await;
    let mut control = emulator.control().await;
    control.set_channel(SetChannelRequest { kind: Some(2), coherence: Some(16), ..snr(3.0) }).await.expect("fading");
    let watch = WatchFramesRequest { max_per_second: 100, ..Default::default() };
    let mut samples = control.watch_frames(watch).await.expect("a stream").into_inner();
    // A viewer waits for a frame, a frame for no viewer: frames are sent until one is seen.
    let sample = async { samples.message().await.expect("a sample").expect("a sample") };
    let sending = async {
        let mut id = 0;
        loop {
            emulator.transmit(vec![frame(id)]).await;
            id += 1;
        }
    };
    let sample = tokio::select! {
        sample = sample => sample,
        () = sending => unreachable!("it sends for ever"),
    };
    let truth = sample.truth.expect("what was done");
    assert_eq!((truth.snr_db_requested, truth.stream), (3.0, 2));
    let sequence = usize::try_from(truth.frame).expect("a number");
    assert_eq!(sample.frames, truth.frame + 1);
    let arrived = arrived(&mut frames, sequence + 1).await.remove(sequence);
    assert_eq!((arrived.sequence, &arrived.symbols), (truth.frame, &sample.received));
    assert_eq!(iq::decode(&sample.sent).expect("symbols"), support::sent());
    assert_eq!((&sample.state, sample.state.as_ref().map(|state| state.h.len())), (&arrived.csi, Some(4 * 8)));
    let refused = control.watch_frames(WatchFramesRequest { max_per_second: 101, ..Default::default() }).await;
    assert_eq!(refused.expect_err("too many").code(), Code::InvalidArgument);
    let refused = control.watch_frames(WatchFramesRequest { link: "none".into(), ..Default::default() }).await;
    assert_eq!(refused.expect_err("no link").code(), Code::NotFound);
    // A viewer who leaves, and one who stays, hold up no end.
    emulator.stop().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_frame_never_meets_two_profiles() {
    let (emulator, mirror, mut frames) = pair(20.0, |_| {}).await;
    let mut control = emulator.control().await;
    let changes = async {
        for round in 0..100 {
            control.set_channel(snr(if round % 2 == 0 { -20.0 } else { 20.0 })).await.expect("a valid change");
        }
    };
    let (_, ()) = tokio::join!(emulator.transmit((0..400).map(frame).collect()), changes);
    for frame in arrived(&mut frames, 400).await {
        let truth = frame.truth.expect("what was done");
        let told = -10.0 * frame.csi.expect("channel state").noise_var.log10();
        assert!((told - truth.snr_db_requested).abs() < 1e-3);
        // 64 exponentially distributed powers: a standard deviation of 0.54 dB; two profiles in one frame are 40 dB apart.
        assert!((truth.snr_db_realised - truth.snr_db_requested).abs() < 3.0, "{truth:?}");
    }
    emulator.stop().await;
    mirror.stop().await;
}

#[tokio::test]
async fn set_get_reset_and_watch_agree() {
    let (emulator, mirror, _frames) = pair(10.0, |config| config.seed = 4).await;
    let mut control = emulator.control().await;
    let mut watched = control.watch_channel(WatchChannelRequest::default()).await.expect("a watch").into_inner();
    let start = ChannelProfile {
        kind: ChannelKind::Awgn.into(),
        snr_db: 10.0,
        k_factor_db: 6.0,
        coherence: 0,
        csi: CsiMode::Perfect.into(),
        seed: 4,
        version: 0,
        link: "default".into(),
        stages: stages(&["awgn,snr_db=10"]),
        transport: Some(Transport::default()),
        schedule: None,
    };
    assert_eq!(watched.message().await.expect("a profile").as_ref(), Some(&start));
    assert_eq!(control.get_channel(GetChannelRequest::default()).await.expect("a profile").into_inner(), start);

    let change = SetChannelRequest {
        kind: Some(ChannelKind::Rician.into()),
        snr_db: Some(-2.5),
        k_factor_db: Some(3.0),
        coherence: Some(8),
        csi: Some(CsiMode::None.into()),
        seed: Some(5),
        ..Default::default()
    };
    let changed = ChannelProfile {
        kind: ChannelKind::Rician.into(),
        snr_db: -2.5,
        k_factor_db: 3.0,
        coherence: 8,
        csi: CsiMode::None.into(),
        seed: 5,
        version: 1,
        stages: stages(&["rician,k_factor_db=3,coherence=8", "awgn,snr_db=-2.5"]),
        ..start.clone()
    };
    assert_eq!(control.set_channel(change).await.expect("a valid change").into_inner(), changed);
    assert_eq!(watched.message().await.expect("a profile").as_ref(), Some(&changed));

    // Nothing valid before the invalid field is applied either.
    let half_wrong =
        SetChannelRequest { kind: Some(ChannelKind::Awgn.into()), snr_db: Some(f32::NAN), ..Default::default() };
    let status = control.set_channel(half_wrong).await.expect_err("NaN");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("snr_db"), "{status}");
    assert_eq!(control.get_channel(GetChannelRequest::default()).await.expect("a profile").into_inner(), changed);

    let reset = control.reset_channel(ResetChannelRequest::default()).await.expect("a profile").into_inner();
    assert_eq!(reset, ChannelProfile { version: 2, ..start });
    assert_eq!(watched.message().await.expect("a profile"), Some(reset));
    // An open watch does not hold a shutdown back; it ends with it.
    emulator.stop().await;
    assert_eq!(watched.message().await.expect("a clean end"), None);
    mirror.stop().await;
}

/// A call that is given up is carried out whole or not at all.
#[tokio::test]
async fn a_client_that_goes_away_leaves_a_whole_profile() {
    let (emulator, mirror, _frames) = pair(10.0, |_| {}).await;
    let mut control = emulator.control().await;
    for round in 0..200 {
        let (snr_db, seed) = (round as f32 / 10.0, round);
        let texts = [format!("rayleigh,coherence={}", round + 1), format!("awgn,snr_db={snr_db}")];
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let change = SetChannelRequest { stages: stages(&texts), seed: Some(seed), ..Default::default() };
        let mut gone = control.clone();
        tokio::select! {
            biased;
            _ = gone.set_channel(change) => {}
            // Ready after a different number of polls each time.
            () = async { for _ in 0..round % 7 { tokio::task::yield_now().await } } => {}
        }
        let now = control.get_channel(GetChannelRequest::default()).await.expect("a profile").into_inner();
        if now.version > 0 {
            let whole = (now.seed as f32 / 10.0, now.seed as u32 + 1);
            assert_eq!((now.snr_db, now.coherence), whole, "{now:?}");
        }
    }
    emulator.stop().await;
    mirror.stop().await;
}

#[tokio::test]
async fn health_and_reflection_tell_what_is_served() {
    let (emulator, mirror, _frames) = pair(10.0, |_| {}).await;
    let names = ["semlink.v1.Link", "semlink.v1.ChannelControl"];
    for name in ["", names[0], names[1]] {
        let request = HealthCheckRequest { service: name.to_owned() };
        let health = HealthClient::new(emulator.channel().await).check(request).await.expect("a known service");
        assert_eq!(health.into_inner().status(), ServingStatus::Serving, "{name:?}");
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(emulator.channel().await)
        .server_reflection_info(stream::iter([request]))
        .await
        .expect("reflection")
        .into_inner();
    let answer = answers.message().await.expect("an answer").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("no list of services: {answer:?}");
    };
    for name in names {
        assert!(list.service.iter().any(|service| service.name == name), "{list:?}");
    }
    emulator.stop().await;
    mirror.stop().await;
}
