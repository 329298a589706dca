//! An emulator in front of a Link that reports everything and shows its frames to the test.

#![allow(dead_code, reason = "each test file uses its part")]

use std::net::SocketAddr;

use futures::future::{BoxFuture, Shared};
use futures::{FutureExt as _, StreamExt as _, stream, stream::BoxStream};
use semlink_channel::{Complex32, SnrDb, iq};
use semlink_channel_emulator::{Config, serve};
use semlink_proto::v1::{self, channel_control_client::ChannelControlClient, link_client::LinkClient, link_server};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Request, Response, Status, Streaming};

/// A running service.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// When a service is to stop.
type Stopped = Shared<BoxFuture<'static, ()>>;

/// Reports each frame at once, with its number of symbols and its truth, and shows it; ends its streams when it is to stop.
struct Mirror(mpsc::UnboundedSender<v1::Frame>, Stopped);

impl Service {
    pub(crate) async fn emulator(config: Config) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Service::start(listener, |listener, stopped| async move {
            serve(listener, config, stopped).await.expect("an emulator");
        })
    }

    /// The Link at the end, and the frames that arrive there.
    pub(crate) fn mirror(listener: TcpListener) -> (Service, mpsc::UnboundedReceiver<v1::Frame>) {
        let (shown, frames) = mpsc::unbounded_channel();
        let service = Service::start(listener, |listener, stopped| async move {
            Server::builder()
                .add_service(link_server::LinkServer::new(Mirror(shown, stopped.clone())))
                .serve_with_incoming_shutdown(TcpIncoming::from(listener), stopped)
                .await
                .expect("a mirror");
        });
        (service, frames)
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        listener: TcpListener,
        serve: impl FnOnce(TcpListener, Stopped) -> F,
    ) -> Service {
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        // An error: the test is over.
        let stopped = async move { stopped.await.unwrap_or_default() }.boxed().shared();
        Service { address, stop, task: tokio::spawn(serve(listener, stopped)) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(self.url()).expect("a URL").connect().await.expect("a listening service")
    }

    pub(crate) async fn control(&self) -> ChannelControlClient<Channel> {
        ChannelControlClient::new(self.channel().await)
    }

    /// Changes the channel.
    pub(crate) async fn set(&self, change: impl FnOnce(&mut v1::SetChannelRequest)) -> v1::ChannelProfile {
        let mut request = v1::SetChannelRequest::default();
        change(&mut request);
        self.control().await.set_channel(request).await.expect("a valid change").into_inner()
    }

    /// Sends the frames in one stream and gives the reports in the order of their ids.
    pub(crate) async fn transmit(&self, frames: Vec<v1::Frame>) -> Vec<v1::FrameReport> {
        let mut link = LinkClient::new(self.channel().await);
        let reports = link.transmit(stream::iter(frames)).await.expect("a stream").into_inner();
        let mut reports: Vec<v1::FrameReport> = reports.map(|report| report.expect("a report")).collect().await;
        reports.sort_by_key(|report| report.id);
        reports
    }

    /// Stops the service and waits for its end.
    pub(crate) async fn stop(self) {
        // A failed send: it has stopped already.
        let _ = self.stop.send(());
        self.task.await.expect("a clean end");
    }
}

#[tonic::async_trait]
impl link_server::Link for Mirror {
    type TransmitStream = BoxStream<'static, Result<v1::FrameReport, Status>>;

    async fn transmit(&self, request: Request<Streaming<v1::Frame>>) -> Result<Response<Self::TransmitStream>, Status> {
        let shown = self.0.clone();
        let reports = request.into_inner().take_until(self.1.clone()).map(move |frame| {
            let frame = frame?;
            let uses = frame.symbols.len() as u32 / 8;
            let report = v1::FrameReport { id: frame.id, uses, truth: frame.truth, ..Default::default() };
            // A failed send: the test looks no more.
            let _ = shown.send(frame);
            Ok(report)
        });
        Ok(Response::new(reports.boxed()))
    }
}

/// An emulator with these settings in front of a mirror.
pub(crate) async fn pair(
    snr_db: f32,
    configure: impl FnOnce(&mut Config),
) -> (Service, Service, mpsc::UnboundedReceiver<v1::Frame>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (mirror, frames) = Service::mirror(listener);
    let mut config = Config::new(mirror.url(), SnrDb::try_new(snr_db).expect("an SNR"));
    configure(&mut config);
    (Service::emulator(config).await, mirror, frames)
}

/// Stages as they travel.
pub(crate) fn stages(texts: &[&str]) -> Vec<semlink_proto::prost_types::Struct> {
    texts.iter().map(|text| semlink_service::wire::stage(&text.parse().expect("a stage"))).collect()
}

/// 64 symbols of mean power 1.
pub(crate) fn sent() -> Vec<Complex32> {
    (0..64).map(|i| Complex32::from_polar(1.0, i as f32)).collect()
}

/// A frame of `sent` with this id and sequence number.
pub(crate) fn frame(id: u64) -> v1::Frame {
    v1::Frame {
        id,
        codec_id: "any".into(),
        symbols: iq::encode(&sent()).into(),
        stream: 2,
        sequence: id,
        ..Default::default()
    }
}

/// The next frames that arrive at the mirror, by their sequence numbers.
pub(crate) async fn arrived(frames: &mut mpsc::UnboundedReceiver<v1::Frame>, count: usize) -> Vec<v1::Frame> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(frames.recv().await.expect("a frame"));
    }
    all.sort_by_key(|frame| frame.sequence);
    all
}
