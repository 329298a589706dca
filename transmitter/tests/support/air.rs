//! A Link that a test answers by hand, so that it decides what is under way and for how long.

use semlink_proto::v1::{self, link_server};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Service;

/// The test's end: every frame that arrives, with the means to answer it.
pub(crate) struct Air {
    pub(crate) service: Service,
    frames: mpsc::UnboundedReceiver<Arrived>,
}

/// A frame that waits for its report.
pub(crate) struct Arrived {
    pub(crate) frame: v1::Frame,
    reports: mpsc::UnboundedSender<Result<v1::FrameReport, Status>>,
}

struct HandMade(mpsc::UnboundedSender<Arrived>);

impl Air {
    pub(crate) async fn start() -> Air {
        let (arrived, frames) = mpsc::unbounded_channel();
        let service = Service::start(|listener, shutdown| async move {
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            tonic::transport::Server::builder()
                .add_service(link_server::LinkServer::new(HandMade(arrived)))
                .serve_with_incoming_shutdown(incoming, shutdown.asked())
                .await
                .expect("a served Link");
        })
        .await;
        Air { service, frames }
    }

    /// The next frame.
    pub(crate) async fn frame(&mut self) -> Arrived {
        self.frames.recv().await.expect("a frame")
    }
}

impl Arrived {
    /// Answers with a decision.
    pub(crate) fn decide(self, index: u32) {
        self.report(|report| {
            report.decision =
                Some(v1::Decision { index, label: index.to_string(), confidence: 1.0, ..Default::default() })
        });
    }

    /// Answers with a report that `fill` completes.
    pub(crate) fn report(self, fill: impl FnOnce(&mut v1::FrameReport)) {
        let mut report = v1::FrameReport { id: self.frame.id, ..Default::default() };
        fill(&mut report);
        // A failed send: the transmitter has left.
        let _ = self.reports.send(Ok(report));
    }
}

#[tonic::async_trait]
impl link_server::Link for HandMade {
    type TransmitStream = UnboundedReceiverStream<Result<v1::FrameReport, Status>>;

    async fn transmit(&self, request: Request<Streaming<v1::Frame>>) -> Result<Response<Self::TransmitStream>, Status> {
        let (reports, answers) = mpsc::unbounded_channel();
        let arrived = self.0.clone();
        let mut frames = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(frame)) = frames.message().await {
                let reports = reports.clone();
                if arrived.send(Arrived { frame, reports }).is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(answers)))
    }
}
