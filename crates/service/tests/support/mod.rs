//! A service of the shell whose Link does what a test asks for.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod lab;
pub(crate) mod log;
pub(crate) mod raw;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use semlink_proto::v1::{self, link_client, link_server};
use semlink_service::security::Credentials;
use semlink_service::{Drain, Error, Shell};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

/// What a Link does with frames.
#[derive(Debug, Clone)]
pub(crate) enum Manner {
    /// Reports each at once, until the drain.
    Reports(Drain),
    /// Reports in pairs, the second frame first.
    Swaps(Drain),
    /// Ends the stream at the first frame, without a report.
    Leaves,
    /// Never reports and never ends, drain or not.
    Hangs,
    /// Reports each at once, and tells why the reading failed if it did.
    Tells(Drain),
    /// Neither reads nor reports.
    Deaf,
    /// Reports without end, whatever comes.
    Floods(Drain),
}

struct Fake(Manner);

/// A stream of somebody else, which notices nothing of what happens beside it.
pub(crate) struct Beside {
    frames: mpsc::Sender<v1::Frame>,
    reports: Streaming<v1::FrameReport>,
    sent: u64,
}

/// A running service.
pub(crate) struct Service {
    pub(crate) url: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
}

impl Service {
    pub(crate) async fn start(manner: impl FnOnce(Drain) -> Manner) -> Service {
        Service::start_on(TcpListener::bind("127.0.0.1:0").await.expect("a free port"), manner)
    }

    pub(crate) fn start_on(listener: TcpListener, manner: impl FnOnce(Drain) -> Manner) -> Service {
        Service::start_shell(listener, Shell::new("test"), manner)
    }

    pub(crate) fn start_shell(listener: TcpListener, shell: Shell, manner: impl FnOnce(Drain) -> Manner) -> Service {
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (stop, stopped) = oneshot::channel::<()>();
        let link = link_server::LinkServer::new(Fake(manner(shell.drain())));
        let shell = shell.add_service(link);
        // An error: the test is over.
        let serve = shell.serve(listener, async move { stopped.await.unwrap_or_default() });
        Service { url, stop, task: tokio::spawn(serve) }
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(self.url.clone()).expect("a URL").connect().await.expect("a listening service")
    }

    /// Begins the shutdown and gives the task that serves.
    pub(crate) fn stopping(self) -> JoinHandle<Result<(), Error>> {
        // A failed send: it has stopped already.
        let _ = self.stop.send(());
        self.task
    }

    /// Stops the service and waits for its end.
    pub(crate) async fn stop(self) {
        self.stopping().await.expect("no panic").expect("a clean end");
    }
}

impl Beside {
    pub(crate) async fn open(channel: Channel) -> Beside {
        let (frames, sent) = mpsc::channel(1);
        let reports = link_client::LinkClient::new(channel).transmit(ReceiverStream::new(sent)).await;
        let mut beside = Beside { frames, reports: reports.expect("a stream").into_inner(), sent: 0 };
        beside.goes_on().await;
        beside
    }

    /// A frame there and its report back.
    pub(crate) async fn goes_on(&mut self) {
        self.sent += 1;
        self.frames.send(frame(self.sent, 1)).await.expect("an open stream");
        let report = self.reports.message().await.expect("an open stream").expect("a report");
        assert_eq!(report.id, self.sent);
    }
}

#[tonic::async_trait]
impl link_server::Link for Fake {
    type TransmitStream = BoxStream<'static, Result<v1::FrameReport, Status>>;

    async fn transmit(&self, request: Request<Streaming<v1::Frame>>) -> Result<Response<Self::TransmitStream>, Status> {
        if let Manner::Tells(drain) = &self.0 {
            let frames = request.into_inner().take_until(drain.started());
            return Ok(Response::new(frames.map(|frame| frame.map(|frame| report(&frame))).boxed()));
        }
        let frames = request.into_inner().filter_map(|frame| async { frame.ok() });
        let reports = match &self.0 {
            Manner::Reports(drain) => frames.take_until(drain.started()).map(|frame| Ok(report(&frame))).boxed(),
            Manner::Swaps(drain) => frames
                .take_until(drain.started())
                .chunks(2)
                .flat_map(|pair| futures::stream::iter(pair.into_iter().rev().map(|frame| Ok(report(&frame)))))
                .boxed(),
            Manner::Leaves => frames.take(1).filter_map(|_| async { None }).boxed(),
            Manner::Floods(drain) => {
                futures::stream::repeat_with(|| Ok(report(&frame(7, 42)))).take_until(drain.started()).boxed()
            }
            Manner::Deaf => futures::stream::pending().chain(frames.map(|frame| Ok(report(&frame)))).boxed(),
            Manner::Hangs | Manner::Tells(_) => futures::stream::pending().boxed(),
        };
        Ok(Response::new(reports))
    }
}

/// One frame there and its report back, on a connection of its own.
pub(crate) async fn transmit(channel: Channel) -> Result<v1::FrameReport, Status> {
    transmit_as(channel, &Credentials::none()).await
}

/// The same with a token.
pub(crate) async fn transmit_as(channel: Channel, credentials: &Credentials) -> Result<v1::FrameReport, Status> {
    let mut request = Request::new(futures::stream::iter([frame(7, 42)]));
    credentials.authorise(&mut request);
    let mut reports = link_client::LinkClient::new(channel).transmit(request).await?.into_inner();
    let report = reports.message().await?.ok_or_else(|| Status::internal("no report"))?;
    assert_eq!((report.id, report.decode_us), (7, 42));
    Ok(report)
}

/// Stops the clock, which then jumps from timer to timer whether or not bytes are under way: it would be over before they arrive. So
/// it is led in small steps, each of which lasts as long as a byte needs there and back; while a blocking task runs, it stands still.
pub(crate) fn stop_the_clock() -> AbortOnDropHandle<()> {
    tokio::time::pause();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut here = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (mut there, _) = listener.accept().expect("a connection");
    here.set_nodelay(true).expect("an open connection");
    there.set_nodelay(true).expect("an open connection");
    let mut there_and_back = move || {
        here.write_all(&[1])?;
        there.read_exact(&mut [0])?;
        there.write_all(&[1])?;
        here.read_exact(&mut [0])
    };
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let step = tokio::task::spawn_blocking(move || {
                there_and_back().expect("an open connection");
                there_and_back
            });
            there_and_back = step.await.expect("no panic");
        }
    }))
}

/// A report that shows which frame it is of.
fn report(frame: &v1::Frame) -> v1::FrameReport {
    v1::FrameReport { id: frame.id, decode_us: frame.sequence, ..Default::default() }
}

/// A frame with this id and sequence number.
pub(crate) fn frame(id: u64, sequence: u64) -> v1::Frame {
    v1::Frame { id, sequence, ..Default::default() }
}
