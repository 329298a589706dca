//! Frames through the emulator: what arrives, what is answered, and what happens when the next Link is away.

mod support;

use semlink_channel::{ChannelConfig, FrameKey, SnrDb, iq};
use semlink_proto::v1;
use support::{Service, arrived, frame, pair, sent, stages};
use tokio::net::TcpListener;
use tonic::Code;

#[tokio::test]
async fn each_frame_is_distorted_as_its_key_says_and_reported_under_its_id() {
    let (emulator, mirror, mut frames) = pair(3.0, |config| config.seed = 42).await;
    let reports = emulator.transmit((0..100).map(frame).collect()).await;
    assert_eq!(reports.iter().map(|report| report.id).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    let channel = ChannelConfig::awgn(SnrDb::try_new(3.0).expect("an SNR"));
    for (frame, report) in arrived(&mut frames, 100).await.iter().zip(&reports) {
        let mut expected = sent();
        let key = FrameKey { seed: 42, link: 0, stream: 2, frame: frame.sequence };
        let applied = channel.apply(key, &mut expected);
        assert_eq!(iq::decode(&frame.symbols).expect("symbols"), expected);
        assert_eq!(frame.codec_id, "any");
        let truth = frame.truth.expect("what was done");
        assert_eq!((truth.snr_db_requested, truth.snr_db_realised, truth.seed), (3.0, applied.snr_db_realised, 42));
        assert_eq!((report.truth, report.uses, report.error.as_ref()), (Some(truth), 64, None));
    }
    emulator.stop().await;
    mirror.stop().await;
}

/// A client cannot tell whether it talks to the receiver or to an emulator before it, but by what the emulator says it did.
#[tokio::test]
async fn the_proxy_answers_like_the_link_behind_it() {
    let (emulator, mirror, mut frames) = pair(100.0, |_| {}).await;
    let mut direct = mirror.transmit((0..50).map(frame).collect()).await;
    let arrived_direct = arrived(&mut frames, 50).await;
    let through = emulator.transmit((0..50).map(frame).collect()).await;
    for (direct, through) in direct.iter_mut().zip(&through) {
        (direct.truth, direct.channel_us) = (through.truth, through.channel_us);
    }
    assert_eq!(direct, through);
    // The id is the emulator's own on its stream; the symbols are noisy, at 100 dB by little; the rest is untouched.
    for (direct, through) in arrived_direct.into_iter().zip(arrived(&mut frames, 50).await) {
        let symbols = iq::decode(&through.symbols).expect("symbols");
        let off = symbols.iter().zip(sent()).map(|(y, x)| (y - x).norm()).fold(0.0, f32::max);
        assert!(off < 1e-4, "{off}");
        let v1::Frame { id, symbols, .. } = direct.clone();
        assert_eq!(v1::Frame { id, symbols, csi: None, truth: None, time_left_us: 0, ..through }, direct);
    }
    emulator.stop().await;
    mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_in_another_order_or_many_streams_at_once_is_bit_identical() {
    let replays: [fn() -> Vec<Vec<u64>>; 3] = [
        || vec![(0..60).collect()],
        || vec![(0..60).rev().collect()],
        || (0..6).map(|stream| (stream..60).step_by(6).collect()).collect(),
    ];
    let mut runs = Vec::new();
    for replay in replays {
        let (emulator, mirror, mut frames) = pair(0.0, |config| config.seed = 7).await;
        // Every model that draws.
        let all = [
            "shadowing,sigma_db=3",
            "phase_noise",
            "rician,doppler=0.01,spacing=100",
            "impulsive",
            "awgn,snr_db=3",
            "gilbert_elliott",
        ];
        emulator.set(|change| change.stages = stages(&all)).await;
        let streams = replay().into_iter().map(|ids| emulator.transmit(ids.into_iter().map(frame).collect()));
        futures::future::join_all(streams).await;
        let seen = arrived(&mut frames, 60).await.into_iter().map(|frame| (frame.symbols, frame.csi));
        runs.push(seen.collect::<Vec<_>>());
        emulator.stop().await;
        mirror.stop().await;
    }
    assert_eq!(runs[0], runs[1]);
    assert_eq!(runs[0], runs[2]);
}

#[tokio::test]
async fn emulators_can_be_chained() {
    let (near, mirror, mut frames) = pair(5.0, |config| config.hop = 1).await;
    let far =
        Service::emulator(semlink_channel_emulator::Config::new(near.url(), SnrDb::try_new(5.0).expect("an SNR")))
            .await;
    let reports = far.transmit((0..20).map(frame).collect()).await;
    assert!(reports.iter().all(|report| report.error.is_none()));
    for frame in arrived(&mut frames, 20).await {
        // Two equal noises: N0 doubles.
        let noise_var = frame.csi.expect("channel state").noise_var;
        assert!((noise_var - 2.0 * 10_f32.powf(-0.5)).abs() < 1e-5, "{noise_var}");
    }
    far.stop().await;
    near.stop().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_bad_frame_is_one_error_and_the_stream_goes_on() {
    let (emulator, mirror, mut frames) = pair(5.0, |_| {}).await;
    let bad = [
        v1::Frame { symbols: vec![0; 13].into(), ..frame(1) },
        v1::Frame { symbols: f32::INFINITY.to_le_bytes().repeat(4).into(), ..frame(3) },
        v1::Frame { csi: Some(v1::ChannelState { kind: 9, ..Default::default() }), ..frame(5) },
        v1::Frame { pilots: vec![0; 7].into(), ..frame(7) },
    ];
    let mut all: Vec<v1::Frame> = (0..10).map(frame).collect();
    for frame in bad {
        let at = frame.id as usize;
        all[at] = frame;
    }
    let reports = emulator.transmit(all).await;
    for report in &reports {
        let expected = match report.id {
            1 | 3 | 5 | 7 => Some(Code::InvalidArgument),
            _ => None,
        };
        assert_eq!(report.error.as_ref().map(|error| Code::from_i32(error.code)), expected, "{report:?}");
    }
    assert_eq!(arrived(&mut frames, 6).await.len(), 6);
    emulator.stop().await;
    mirror.stop().await;
}

#[tokio::test]
async fn while_the_next_link_is_away_frames_fail_and_pass_again_once_it_is_back() {
    let (emulator, mirror, frames) = pair(5.0, |_| {}).await;
    let address = mirror.address;
    drop(frames);
    assert!(emulator.transmit(vec![frame(1)]).await[0].error.is_none());
    mirror.stop().await;
    let hasty = |id| v1::Frame { time_left_us: 200_000, ..frame(id) };
    for report in emulator.transmit((0..5).map(hasty).collect()).await {
        let error = report.error.expect("nobody listens");
        assert_eq!(Code::from_i32(error.code), Code::Unavailable);
        assert!(error.message.contains(&address.to_string()), "{error:?}");
    }
    let (mirror, mut frames) = Service::mirror(TcpListener::bind(address).await.expect("the same port"));
    let reports = emulator.transmit((0..5).map(frame).collect()).await;
    assert!(reports.iter().all(|report| report.error.is_none()), "{reports:?}");
    assert_eq!(arrived(&mut frames, 5).await.len(), 5);
    emulator.stop().await;
    mirror.stop().await;
}
