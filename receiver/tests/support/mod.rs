//! A receiver on a free port of the loopback with a tiny random codec.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

#[path = "../../../crates/service/tests/support/log.rs"]
pub(crate) mod log;
#[path = "../../../transmitter/tests/support/page.rs"]
pub(crate) mod page;

use std::{net::SocketAddr, path::Path};

use futures::StreamExt as _;
use log::Log;
use page::Page;
use semlink_channel::{ChannelConfig, Complex32, FrameKey, SnrDb, iq, power};
use semlink_codec::{Csi, Manifest, Received, testing};
use semlink_proto::v1::{self, decisions_client::DecisionsClient, link_client::LinkClient, link_server::LinkServer};
use semlink_receiver::Config;
use semlink_service::Error;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{Status, Streaming, transport::Channel};

/// A running receiver; it ends when dropped or stopped.
pub struct Receiver {
    pub bundle: TempDir,
    pub manifest: Manifest,
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), Error>>,
}

impl Receiver {
    /// The bundle of this seed.
    pub async fn start(seed: u64) -> Receiver {
        Receiver::start_with(seed, |_| ()).await
    }

    /// The bundle of this seed and other than default settings.
    pub async fn start_with(seed: u64, change: impl FnOnce(&mut Config)) -> Receiver {
        let (bundle, manifest) = bundle(seed);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut config = Config::new(bundle.path());
        change(&mut config);
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(semlink_receiver::serve(listener, config, async {
            // Stopped, or dropped with its test.
            let _ = stopped.await;
        }));
        Receiver { bundle, manifest, address, stop, served }
    }

    /// With a page of metrics; what is logged meanwhile is captured.
    pub(crate) async fn observed(seed: u64) -> (Receiver, Page, Log) {
        let log = Log::capture();
        let receiver = Receiver::start_with(seed, |config| Page::on_any_port(&mut config.service)).await;
        let page = Page::of(&log, 1).await;
        (receiver, page, log)
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).expect("an address");
        endpoint.connect().await.expect("a connection")
    }

    pub async fn link(&self) -> LinkClient<Channel> {
        LinkClient::new(self.channel().await)
    }

    pub async fn decisions(&self) -> Streaming<v1::DecisionEvent> {
        let mut client = DecisionsClient::new(self.channel().await);
        client.subscribe(v1::SubscribeRequest {}).await.expect("a subscription").into_inner()
    }

    /// The reports of these frames, all sent in one stream, sorted by id.
    pub async fn transmit(&self, frames: Vec<v1::Frame>) -> Vec<v1::FrameReport> {
        let reports = self.link().await.transmit(tokio_stream::iter(frames)).await.expect("a stream");
        let mut reports: Vec<v1::FrameReport> =
            reports.into_inner().map(|report| report.expect("a report")).collect().await;
        reports.sort_by_key(|report| report.id);
        reports
    }

    /// Begins the shutdown; the handle ends with `serve`.
    pub fn stop(self) -> JoinHandle<Result<(), Error>> {
        self.stop.send(()).expect("a running receiver");
        self.served
    }
}

pub fn bundle(seed: u64) -> (TempDir, Manifest) {
    let dir = tempfile::tempdir().expect("a directory");
    let manifest = testing::write_bundle(dir.path(), seed).expect("a bundle");
    (dir, manifest)
}

/// What `serve` says of a bundle that it cannot serve.
pub async fn refusal(bundle: &Path) -> Error {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let served = semlink_receiver::serve(listener, Config::new(bundle), std::future::pending::<()>());
    served.await.expect_err("a refusal")
}

/// Frame `id` of a test: k symbols of power 1 that depend on the id, through Rayleigh fading at 12 dB with perfect channel state.
pub fn received(id: u64, k: usize) -> Received {
    let mut symbols: Vec<Complex32> = (0..k)
        .map(|i| {
            let phase = (id * 31 + 7) as f32 * 0.37 * (i + 1) as f32;
            Complex32::from_polar(1.0 + 0.5 * (phase * 1.7).sin(), phase)
        })
        .collect();
    power::normalize(&mut symbols).expect("some power");
    let channel = ChannelConfig::rayleigh(SnrDb::try_new(12.0).expect("a valid SNR"));
    let applied = channel.apply(FrameKey { seed: 1, link: 0, stream: 0, frame: id }, &mut symbols);
    Received { symbols, csi: Csi::Perfect(applied.state) }
}

/// The same as it travels.
pub fn frame(codec_id: &str, id: u64, received: &Received) -> v1::Frame {
    v1::Frame {
        id,
        codec_id: codec_id.to_owned(),
        symbols: iq::encode(&received.symbols).into(),
        stream: 5,
        sequence: 1000 + id,
        csi: match &received.csi {
            Csi::Perfect(state) => Some(semlink_service::wire::csi(state, None)),
            Csi::Estimated(_) | Csi::None => None,
        },
        ..Default::default()
    }
}

/// The error of a report as a status.
pub fn error(report: &v1::FrameReport) -> Status {
    let error = report.error.clone().expect("an error");
    Status::new(tonic::Code::from(error.code), error.message)
}

/// The full name of the Link service.
pub fn link_name() -> &'static str {
    <LinkServer<()> as tonic::server::NamedService>::NAME
}
