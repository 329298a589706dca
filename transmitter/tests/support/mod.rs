//! The three services in one process: each on a port of its own choosing, awaited, stopped on demand.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod air;
pub(crate) mod endless;
#[path = "../../../crates/service/tests/support/log.rs"]
pub(crate) mod log;
pub(crate) mod page;

use std::net::SocketAddr;
use std::path::Path;

use futures::{StreamExt as _, stream};
use semlink_channel::{ChannelKind, SnrDb};
use semlink_codec::{AccuracyPoint, Manifest};
use semlink_proto::v1::{self, transmitter_client::TransmitterClient};
use semlink_transmitter::rate::Rate;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A running service.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Transmitter, emulator unless it was left out, receiver, and the bundle that they hold.
pub(crate) struct Chain {
    pub(crate) manifest: Manifest,
    pub(crate) bundle: TempDir,
    pub(crate) transmitter: Service,
    pub(crate) emulator: Option<Service>,
    pub(crate) receiver: Service,
}

/// What a [`Chain`] is to be like.
pub(crate) struct Builder {
    pub(crate) snr_db: f32,
    pub(crate) emulator: bool,
    pub(crate) configure: Box<dyn FnOnce(&mut semlink_transmitter::Config)>,
}

impl Service {
    /// Starts what `serve` makes of a listener and a shutdown.
    pub(crate) async fn start<F: Future<Output = ()> + Send + 'static>(
        serve: impl FnOnce(TcpListener, Shutdown) -> F,
    ) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Service::start_on(listener, serve)
    }

    pub(crate) fn start_on<F: Future<Output = ()> + Send + 'static>(
        listener: TcpListener,
        serve: impl FnOnce(TcpListener, Shutdown) -> F,
    ) -> Service {
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, Shutdown(stopped)));
        Service { address, stop, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(self.url()).expect("a URL").connect().await.expect("a listening service")
    }

    /// Asks the service to stop; it goes on with what it has accepted.
    pub(crate) fn shut_down(self) -> JoinHandle<()> {
        // A failed send: it has stopped already.
        let _ = self.stop.send(());
        self.task
    }

    /// Stops the service and waits for its end.
    pub(crate) async fn stop(self) {
        self.shut_down().await.expect("a clean end");
    }
}

/// Resolves when the service is to stop.
pub(crate) struct Shutdown(oneshot::Receiver<()>);

impl Shutdown {
    pub(crate) async fn asked(self) {
        // An error: the test is over.
        let _ = self.0.await;
    }
}

impl Default for Builder {
    fn default() -> Builder {
        Builder { snr_db: 10.0, emulator: true, configure: Box::new(|_| {}) }
    }
}

impl Builder {
    pub(crate) async fn start(self) -> Chain {
        let (bundle, manifest) = bundle(7);
        let receiver = receiver(bundle.path()).await;
        let emulator = if self.emulator { Some(emulator(&receiver, self.snr_db).await) } else { None };
        let next = emulator.as_ref().unwrap_or(&receiver).url();
        let mut config = config(next, bundle.path());
        (self.configure)(&mut config);
        let transmitter = transmitter(config).await;
        Chain { manifest, bundle, transmitter, emulator, receiver }
    }
}

impl Chain {
    pub(crate) async fn client(&self) -> TransmitterClient<Channel> {
        TransmitterClient::new(self.transmitter.channel().await)
    }

    pub(crate) async fn stop(self) {
        self.transmitter.stop().await;
        if let Some(emulator) = self.emulator {
            emulator.stop().await;
        }
        self.receiver.stop().await;
    }
}

/// A bundle with random weights.
pub(crate) fn bundle(seed: u64) -> (TempDir, Manifest) {
    let dir = TempDir::new().expect("a directory");
    let manifest = semlink_codec::testing::write_bundle(dir.path(), seed).expect("a bundle");
    (dir, manifest)
}

/// Gives the bundle in `dir` these accuracies over AWGN: (SNR in dB, channel uses, accuracy). The id covers the weights alone.
pub(crate) fn tabulate(dir: &Path, manifest: &Manifest, table: &[(f32, usize, f64)]) {
    let point =
        |&(snr_db, k, accuracy)| AccuracyPoint { channel: ChannelKind::Awgn, snr_db, k, accuracy, images: 1000 };
    let manifest = Manifest { accuracy: table.iter().map(point).collect(), ..manifest.clone() };
    let text = serde_json::to_string(&manifest).expect("JSON");
    std::fs::write(dir.join(semlink_codec::MANIFEST_FILE), text).expect("a manifest");
}

/// The default settings, but frames that depend on image and rate alone, so that answers can be compared bit by bit.
pub(crate) fn config(next: String, bundle: &Path) -> semlink_transmitter::Config {
    let rate: Rate = "64".parse().expect("a rate");
    semlink_transmitter::Config { feedback_age: 0.0, ..semlink_transmitter::Config::new(next, bundle, rate) }
}

pub(crate) async fn transmitter(config: semlink_transmitter::Config) -> Service {
    Service::start(|listener, shutdown| async move {
        semlink_transmitter::serve(listener, config, shutdown.asked()).await.expect("a transmitter");
    })
    .await
}

pub(crate) async fn receiver(bundle: &Path) -> Service {
    receiver_with(semlink_receiver::Config::new(bundle)).await
}

pub(crate) fn receiver_on(listener: TcpListener, bundle: &Path) -> Service {
    serve_receiver(listener, semlink_receiver::Config::new(bundle))
}

pub(crate) async fn receiver_with(config: semlink_receiver::Config) -> Service {
    serve_receiver(TcpListener::bind("127.0.0.1:0").await.expect("a free port"), config)
}

fn serve_receiver(listener: TcpListener, config: semlink_receiver::Config) -> Service {
    Service::start_on(listener, |listener, shutdown| async move {
        semlink_receiver::serve(listener, config, shutdown.asked()).await.expect("a receiver");
    })
}

pub(crate) async fn emulator(next: &Service, snr_db: f32) -> Service {
    let snr_db = SnrDb::try_new(snr_db).expect("an SNR");
    let config = semlink_channel_emulator::Config::new(next.url(), snr_db);
    Service::start(|listener, shutdown| async move {
        semlink_channel_emulator::serve(listener, config, shutdown.asked()).await.expect("an emulator");
    })
    .await
}

/// A request for the image of this seed.
pub(crate) fn request(id: u64) -> v1::ClassifyRequest {
    v1::ClassifyRequest { id, image: semlink_codec::testing::png(id).into(), stream: 5, ..Default::default() }
}

/// Streams the requests and gives the answers in the order of their ids.
pub(crate) async fn classify_all(
    client: &mut TransmitterClient<Channel>,
    requests: impl IntoIterator<Item = v1::ClassifyRequest, IntoIter: Send + 'static>,
) -> Vec<v1::ClassifyResponse> {
    let answers = client.classify_stream(stream::iter(requests)).await.expect("a stream").into_inner();
    let mut answers: Vec<v1::ClassifyResponse> =
        answers.map(|answer| answer.expect("an answer under its id")).collect().await;
    answers.sort_by_key(|answer| answer.id);
    answers
}

/// The decision of an answer, its confidence as bits.
pub(crate) fn decided(answer: &v1::ClassifyResponse) -> (u64, u32, String, u32) {
    let decision = answer.decision.as_ref().unwrap_or_else(|| panic!("no decision: {answer:?}"));
    (answer.id, decision.index, decision.label.clone(), decision.confidence.to_bits())
}

/// Asserts the code of a refusal and what its message names.
pub(crate) fn assert_refused(status: &Status, code: Code, names: &[&str]) {
    assert_eq!(status.code(), code, "{status}");
    for name in names {
        assert!(status.message().contains(name), "{:?} does not name {name:?}", status.message());
    }
}
