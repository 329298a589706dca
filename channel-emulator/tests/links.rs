//! Several links through one emulator: made, changed, taken away, and what each does to its frames.

mod support;

use std::time::Duration;

use semlink_channel::{SnrDb, iq};
use semlink_channel_emulator::Config;
use semlink_proto::v1::link_server::{Link, LinkServer};
use semlink_proto::v1::{self, link_client::LinkClient};
use semlink_service::peer::LINK_METADATA;
use support::{Service, arrived, frame, pair, stages};
use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};
use tonic::{Code, Request, Response, Status, Streaming};

fn settings(name: &str, next: &Service, texts: &[&str]) -> v1::LinkSettings {
    v1::LinkSettings { name: name.into(), next: next.url(), stages: stages(texts), ..Default::default() }
}

async fn mirror() -> (Service, tokio::sync::mpsc::UnboundedReceiver<v1::Frame>) {
    Service::mirror(TcpListener::bind("127.0.0.1:0").await.expect("a free port"))
}

/// Sends frames over a link and gives the reports by id.
async fn transmit(emulator: &Service, link: &str, frames: Vec<v1::Frame>) -> Vec<v1::FrameReport> {
    let mut request = Request::new(futures::stream::iter(frames));
    request.metadata_mut().insert(LINK_METADATA, link.parse().expect("a name"));
    let mut client = LinkClient::new(emulator.channel().await);
    let mut reports = client.transmit(request).await.expect("a stream").into_inner();
    let mut all = Vec::new();
    while let Some(report) = reports.message().await.expect("a report") {
        all.push(report);
    }
    all.sort_by_key(|report| report.id);
    all
}

#[tokio::test]
async fn links_have_their_own_next_hop_channel_and_counts() {
    let (emulator, first, mut of_first) = pair(30.0, |_| {}).await;
    let (second, mut of_second) = mirror().await;
    let mut control = emulator.control().await;
    let link = settings("lab-2", &second, &["rayleigh,doppler=0.01", "awgn,snr_db=-3"]);
    let request = v1::CreateLinkRequest { link: Some(link) };
    let created = control.create_link(request.clone()).await.expect("a new link").into_inner();
    assert_eq!((created.name.as_str(), created.frames), ("lab-2", 0));
    let again = control.create_link(request).await.expect_err("it is there");
    assert_eq!(again.code(), Code::AlreadyExists);

    let through = transmit(&emulator, "lab-2", (0..30).map(frame).collect()).await;
    let default = emulator.transmit((0..20).map(frame).collect()).await;
    assert!(through.iter().all(|report| report.truth.expect("what was done").snr_db_requested == -3.0));
    assert!(default.iter().all(|report| report.truth.expect("what was done").snr_db_requested == 30.0));
    assert_eq!(arrived(&mut of_second, 30).await[0].csi.as_ref().expect("channel state").h.len(), 64 * 8);
    assert_eq!(arrived(&mut of_first, 20).await.len(), 20);

    let listed = control.list_links(v1::ListLinksRequest {}).await.expect("links").into_inner().links;
    let counts: Vec<_> = listed.iter().map(|link| (link.name.as_str(), link.frames, link.failed)).collect();
    assert_eq!(counts, [("default", 20, 0), ("lab-2", 30, 0)]);

    // An open watch and an open stream end with the link.
    let watch = v1::WatchChannelRequest { link: "lab-2".into() };
    let mut watched = control.watch_channel(watch).await.expect("a watch").into_inner();
    assert!(watched.message().await.expect("a profile").is_some());
    let (_frames, queue) = tokio::sync::mpsc::channel(1);
    let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(queue));
    request.metadata_mut().insert(LINK_METADATA, "lab-2".parse().expect("a name"));
    let mut open = LinkClient::new(emulator.channel().await).transmit(request).await.expect("a stream").into_inner();
    control.delete_link(v1::DeleteLinkRequest { link: "lab-2".into() }).await.expect("it was there");
    assert_eq!(open.message().await.expect("a clean end"), None);
    while watched.message().await.expect("a clean end").is_some() {}
    for status in [
        control.delete_link(v1::DeleteLinkRequest { link: "lab-2".into() }).await.expect_err("it is gone"),
        control.get_channel(v1::GetChannelRequest { link: "lab-2".into() }).await.expect_err("it is gone"),
    ] {
        assert_eq!((status.code(), status.message()), (Code::NotFound, "there is no link \"lab-2\""));
    }
    emulator.stop().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn populating_twice_is_populating_once_and_a_bad_link_changes_nothing() {
    let (emulator, first, _frames) = pair(10.0, |_| {}).await;
    let mut control = emulator.control().await;
    let wanted = |snr_db: &str| v1::PopulateLinksRequest {
        links: vec![
            settings("a", &first, &["awgn,snr_db=5"]),
            settings("b", &first, &[&format!("awgn,snr_db={snr_db}")]),
        ],
    };
    let done = control.populate_links(wanted("1")).await.expect("good links").into_inner();
    assert_eq!((done.created.len(), done.changed.len(), done.unchanged.len()), (2, 0, 0));
    let done = control.populate_links(wanted("1")).await.expect("good links").into_inner();
    assert_eq!((done.created.len(), done.changed.len(), done.unchanged.len()), (0, 0, 2));
    let done = control.populate_links(wanted("2")).await.expect("good links").into_inner();
    assert_eq!((done.created.len(), done.changed, done.unchanged), (0, vec!["b".to_owned()], vec!["a".to_owned()]));
    let get = v1::GetChannelRequest { link: "b".into() };
    let now = control.get_channel(get.clone()).await.expect("a profile").into_inner();
    assert_eq!((now.snr_db, now.version), (2.0, 1));

    type Fault = fn(&mut v1::LinkSettings);
    let faults: [(Fault, &str); 6] = [
        (|link| link.name = "no spaces".into(), "link name is \"no spaces\""),
        (|link| link.next = "ftp://x".into(), "next \"ftp://x\""),
        (|link| link.stages = stages(&["awgn,snr_db=500"]), "awgn: snr_db is 500"),
        (|link| link.stages.clear(), "exactly one must be"),
        (|link| link.csi = 9, "csi mode 9"),
        (|link| link.name = "a".into(), "link \"a\" is there twice"),
    ];
    for (fault, named) in faults {
        let mut request = wanted("7");
        fault(&mut request.links[1]);
        let status = control.populate_links(request).await.expect_err("a bad link");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(named), "{status}");
        assert_eq!(control.get_channel(get.clone()).await.expect("a profile").into_inner(), now);
    }
    emulator.stop().await;
    first.stop().await;
}

/// A Link that accepts streams and never reports.
#[tokio::test]
async fn a_link_whose_next_hop_stalls_holds_back_its_own_streams_only() {
    let (emulator, first, mut of_first) = pair(10.0, |_| {}).await;
    // It accepts connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let next = format!("http://{}", silent.local_addr().expect("an address"));
    let link =
        v1::LinkSettings { name: "silent".into(), next, stages: stages(&["awgn,snr_db=5"]), ..Default::default() };
    emulator.control().await.create_link(v1::CreateLinkRequest { link: Some(link) }).await.expect("a new link");
    let (sent, queue) = tokio::sync::mpsc::channel(4);
    let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(queue));
    request.metadata_mut().insert(LINK_METADATA, "silent".parse().expect("a name"));
    let channel = emulator.channel().await;
    let stalled = tokio::spawn(async move { LinkClient::new(channel).transmit(request).await });
    let symbols: bytes::Bytes = iq::encode(&vec![support::sent()[0]; 65_536]).into();
    let flood = async {
        let mut id = 0;
        while sent.send(v1::Frame { symbols: symbols.clone(), ..frame(id) }).await.is_ok() {
            id += 1;
        }
    };
    let others = async {
        let reports = emulator.transmit((0..500).map(frame).collect()).await;
        assert!(reports.iter().all(|report| report.error.is_none()));
    };
    tokio::select! {
        () = flood => panic!("the stalled stream has ended"),
        () = others => {}
    }
    assert_eq!(arrived(&mut of_first, 500).await.len(), 500);
    stalled.abort();
    drop(silent);
    emulator.stop().await;
    first.stop().await;
}

/// It takes a stream and reads nothing of it.
struct Deaf;

#[tonic::async_trait]
impl Link for Deaf {
    type TransmitStream = futures::stream::Pending<Result<v1::FrameReport, Status>>;

    async fn transmit(&self, request: Request<Streaming<v1::Frame>>) -> Result<Response<Self::TransmitStream>, Status> {
        // Kept: its end would break the stream.
        std::mem::forget(request);
        Ok(Response::new(futures::stream::pending()))
    }
}

/// A link holds 2^20 symbols, 16 frames of the largest size, however many are sent, and the others go on.
#[tokio::test]
async fn a_link_whose_next_hop_reads_nothing_holds_a_bounded_number_of_frames() {
    let (emulator, first, mut of_first) = pair(10.0, |_| {}).await;
    let deaf = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let next = format!("http://{}", deaf.local_addr().expect("an address"));
    let serving = Server::builder().add_service(LinkServer::new(Deaf)).serve_with_incoming(TcpIncoming::from(deaf));
    let serving = tokio::spawn(serving);
    let link = v1::LinkSettings { name: "deaf".into(), next, stages: stages(&["awgn,snr_db=5"]), ..Default::default() };
    let mut control = emulator.control().await;
    control.create_link(v1::CreateLinkRequest { link: Some(link) }).await.expect("a new link");
    let symbols: bytes::Bytes = iq::encode(&vec![support::sent()[0]; 65_536]).into();
    let frames = (0..1_000).map(move |id| v1::Frame { symbols: symbols.clone(), ..frame(id) });
    let mut request = Request::new(futures::stream::iter(frames));
    request.metadata_mut().insert(LINK_METADATA, "deaf".parse().expect("a name"));
    let mut reports = LinkClient::new(emulator.channel().await).transmit(request).await.expect("a stream").into_inner();
    let flood = async {
        let report = reports.message().await;
        panic!("there is nothing to report: {report:?}");
    };
    let watch = async {
        let mut taken = 0;
        while taken < 16 {
            let links = control.list_links(v1::ListLinksRequest {}).await.expect("links").into_inner().links;
            taken = links.iter().find(|link| link.name == "deaf").expect("the link").frames;
        }
        let reports = emulator.transmit((0..500).map(frame).collect()).await;
        assert!(reports.iter().all(|report| report.error.is_none()));
        let links = control.list_links(v1::ListLinksRequest {}).await.expect("links").into_inner().links;
        assert_eq!(links.iter().find(|link| link.name == "deaf").expect("the link").frames, 16);
    };
    tokio::select! {
        () = flood => {}
        () = watch => {}
    }
    assert_eq!(arrived(&mut of_first, 500).await.len(), 500);
    // Not stopped: frames without a report would hold it up to its deadline.
    drop(emulator);
    serving.abort();
    first.stop().await;
}

#[tokio::test]
async fn the_transport_loses_frames_as_their_keys_say_and_reports_each() {
    let (emulator, mirror, mut frames) = pair(10.0, |config| config.seed = 5).await;
    let transport = v1::Transport { loss: 0.2, ..Default::default() };
    emulator.set(|change| change.transport = Some(transport)).await;
    let lost = |reports: &[v1::FrameReport]| -> Vec<u64> {
        let lost = reports.iter().filter_map(|report| report.error.as_ref().map(|error| (report, error)));
        lost.map(|(report, error)| {
            assert_eq!(Code::from_i32(error.code), Code::DataLoss, "{error:?}");
            assert_eq!(report.truth.expect("what was done").frame, report.id);
            report.id
        })
        .collect()
    };
    let reports = emulator.transmit((0..1_000).map(frame).collect()).await;
    let first = lost(&reports);
    // Five standard errors of 1,000 draws of 0.2.
    assert!((137..=263).contains(&first.len()), "{}", first.len());
    assert_eq!(arrived(&mut frames, 1_000 - first.len()).await.len(), 1_000 - first.len());
    let again = emulator.transmit((0..1_000).rev().map(frame).collect()).await;
    assert_eq!(lost(&again), first);
    emulator.stop().await;
    mirror.stop().await;
}

#[tokio::test]
async fn delay_and_rate_hold_frames_back_and_keep_their_order() {
    let (emulator, mirror, mut frames) = pair(10.0, |_| {}).await;
    let transport =
        v1::Transport { delay_ms: 15.0, jitter_ms: 15.0, symbols_per_second: 64_000.0, ..Default::default() };
    emulator.set(|change| change.transport = Some(transport)).await;
    let start = std::time::Instant::now();
    let reports = emulator.transmit((0..40).map(frame).collect()).await;
    // 64 symbols take a millisecond.
    assert!(start.elapsed() >= Duration::from_millis(40), "{:?}", start.elapsed());
    assert!(reports.iter().all(|report| report.error.is_none()));
    let mut order = Vec::new();
    while order.len() < 40 {
        order.push(frames.recv().await.expect("a frame").sequence);
    }
    assert!(order.is_sorted(), "{order:?}");
    emulator.stop().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_schedule_by_frames_is_stamped_on_each_frame() {
    let (emulator, mirror, _frames) = pair(10.0, |_| {}).await;
    let points = vec![v1::SchedulePoint { at: 0.0, snr_db: 20.0 }, v1::SchedulePoint { at: 50.0, snr_db: -5.0 }];
    let schedule = v1::Schedule { axis: v1::ScheduleAxis::Frames.into(), points, ..Default::default() };
    let told = emulator.set(|change| change.schedule = Some(schedule.clone())).await;
    assert_eq!(told.schedule, Some(schedule));
    for report in emulator.transmit((0..80).map(frame).collect()).await {
        let truth = report.truth.expect("what was done");
        let expected = (20.0 - 0.5 * report.id as f32).max(-5.0);
        assert_eq!((truth.snr_db_requested, truth.profile_version), (expected, told.version));
        // Deviation 0.54 dB.
        assert!((truth.snr_db_realised - expected).abs() < 3.0, "{truth:?}");
    }
    emulator.stop().await;
    mirror.stop().await;
}

#[tokio::test]
async fn recordings_hold_both_sides_and_give_the_same_bits_when_sent_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let (emulator, mirror, mut frames) = pair(6.0, |config| {
        config.recordings = Some(directory.path().to_owned());
        config.channel = "rayleigh".parse().expect("a kind");
        config.seed = 99;
    })
    .await;
    let mut control = emulator.control().await;
    let start = |name: &str| v1::StartRecordingRequest { link: String::new(), name: name.into() };
    for name in ["", "../x", ".x", "a/b"] {
        let status = control.start_recording(start(name)).await.expect_err("no name");
        assert_eq!(status.code(), Code::InvalidArgument, "{name:?}: {status}");
    }
    let mut files = Vec::new();
    for (name, reversed) in [("one", false), ("two", true)] {
        control.start_recording(start(name)).await.expect("a recording");
        assert_eq!(
            control.start_recording(start("three")).await.expect_err("one at a time").code(),
            Code::AlreadyExists
        );
        let mut all: Vec<v1::Frame> = (0..50).map(frame).collect();
        if reversed {
            all.reverse();
        }
        emulator.transmit(all).await;
        let stopped = control.stop_recording(v1::StopRecordingRequest::default()).await.expect("files").into_inner();
        assert_eq!(stopped.frames, 50);
        files.push((stopped.before, stopped.after));
    }
    let seen = arrived(&mut frames, 100).await;
    let [one, two] = [0, 1].map(|i| {
        let after = semlink_recording::Recording::open(&files[i].1).expect("a recording");
        let mut all: Vec<_> = after
            .frames()
            .expect("frames")
            .iter()
            .map(|frame| (frame.note.sequence, after.read_frame(frame).expect("symbols")))
            .collect();
        all.sort_by_key(|(sequence, _)| *sequence);
        all
    });
    assert_eq!(one, two);
    for (sequence, (pilots, symbols)) in &one {
        assert!(pilots.is_empty());
        let there = seen.iter().find(|frame| frame.sequence == *sequence).expect("it arrived");
        assert_eq!(iq::encode(symbols), there.symbols);
    }
    let before = semlink_recording::Recording::open(&files[0].0).expect("a recording");
    let first = before.read_frame(&before.frames().expect("frames")[0]).expect("symbols");
    assert_eq!((first.1, before.link()), (support::sent(), Some("default")));
    assert_eq!(before.profile(0).expect("a profile")["stages"][0]["model"], "rayleigh");
    emulator.stop().await;
    mirror.stop().await;

    let (plain, mirror, _frames) = pair(6.0, |_| {}).await;
    let status = plain.control().await.start_recording(start("x")).await.expect_err("no directory");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    plain.stop().await;
    mirror.stop().await;
}

/// Impulse responses are found in the directory of recordings, and nowhere else.
#[tokio::test]
async fn a_measured_channel_is_played() {
    let directory = tempfile::tempdir().expect("a directory");
    let taps = [1.0, 0.0, 0.0, 0.5].map(|re| semlink_channel::Complex32::new(re, 0.0));
    semlink_recording::write_responses(&directory.path().join("hall"), 2, &taps, None).expect("a file");
    let (emulator, mirror, mut frames) =
        pair(100.0, |config| config.recordings = Some(directory.path().to_owned())).await;
    emulator.set(|change| change.stages = stages(&["playback,file=hall,scale=none", "awgn,snr_db=100"])).await;
    emulator.transmit((0..2).map(frame).collect()).await;
    let sent = support::sent();
    let all = arrived(&mut frames, 2).await;
    for (frame, (gain, lag)) in all.iter().zip([(1.0, 0), (0.5, 1)]) {
        let symbols = iq::decode(&frame.symbols).expect("symbols");
        for (y, x) in symbols.iter().skip(lag).zip(&sent) {
            assert!((y - gain * x).norm() < 1e-3, "{y}, expected {gain} times {x}");
        }
        assert_eq!(frame.csi.as_ref().expect("channel state").tap_count, 2);
    }
    let mut control = emulator.control().await;
    for file in ["../hall", "there-is-none"] {
        let stages = stages(&[&format!("playback,file={file}"), "awgn,snr_db=3"]);
        let change = v1::SetChannelRequest { stages, ..Default::default() };
        let status = control.set_channel(change).await.expect_err("no such file");
        assert!(status.code() == Code::InvalidArgument && status.message().contains(file), "{status}");
    }
    emulator.stop().await;
    mirror.stop().await;
}

#[tokio::test]
async fn an_emulator_may_start_with_a_file_of_links_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let (first, mut frames) = mirror().await;
    let path = directory.path().join("links.toml");
    let text =
        format!("[[links]]\nname = 'field'\nnext = '{}'\nstages = [{{ model = 'awgn', snr_db = 3 }}]\n", first.url());
    std::fs::write(&path, text).expect("a file");
    let mut config = Config::new("", SnrDb::MAX);
    config.links = semlink_channel_emulator::read_links(&path).expect("links");
    let emulator = Service::emulator(config).await;
    assert!(transmit(&emulator, "field", vec![frame(1)]).await[0].error.is_none());
    assert_eq!(arrived(&mut frames, 1).await.len(), 1);
    let status = LinkClient::new(emulator.channel().await).transmit(futures::stream::iter([frame(1)])).await;
    assert_eq!(status.expect_err("there is no default link").code(), Code::NotFound);
    emulator.stop().await;
    first.stop().await;
}
