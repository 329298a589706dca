//! The `Link` service: frames in, reports out.

use std::future;
use std::sync::{Arc, OnceLock};

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use semlink_codec::Csi;
use semlink_proto::v1::{self, link_server::Link};
use semlink_service::{Drain, wire};
use tonic::{Request, Response, Status, Streaming};

use crate::{check::Checker, decisions::Broadcast, model::Model};

/// Answers each frame with exactly one report.
#[derive(Debug, Clone)]
pub(crate) struct LinkService(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    checker: Checker,
    model: Model,
    decisions: Broadcast,
    /// Frames of one stream that may be under way.
    in_flight: usize,
    drain: Drain,
}

impl LinkService {
    pub(crate) fn new(
        checker: Checker,
        model: Model,
        decisions: Broadcast,
        in_flight: usize,
        drain: Drain,
    ) -> LinkService {
        LinkService(Arc::new(Inner { checker, model, decisions, in_flight, drain }))
    }
}

impl Inner {
    /// The report of one frame; a failure is a report too, under the frame's id.
    async fn answer(&self, frame: v1::Frame) -> v1::FrameReport {
        let id = frame.id;
        self.decode(frame).await.unwrap_or_else(|status| v1::FrameReport {
            id,
            error: Some(wire::error(&status)),
            ..Default::default()
        })
    }

    async fn decode(&self, frame: v1::Frame) -> Result<v1::FrameReport, Status> {
        let received = self.checker.check(&frame)?;
        let uses = received.symbols.len();
        let (kind, snr_db) = match &received.csi {
            Csi::Perfect(state) => (wire::kind(state.kind), Some(state.snr_db())),
            Csi::Estimated(estimate) => (v1::ChannelKind::Unspecified, Some(estimate.snr_db())),
            Csi::None => (v1::ChannelKind::Unspecified, None),
        };
        let decoded = self.model.decode(received).await?;
        let report = v1::FrameReport {
            id: frame.id,
            decision: Some(decoded.decision),
            error: None,
            // The checker bounds both by the message size.
            uses: uses as u32,
            pilots: (frame.pilots.len() / semlink_channel::iq::SYMBOL_BYTES) as u32,
            snr_db_estimated: snr_db,
            kind: kind.into(),
            decode_us: decoded.decode_us,
            truth: frame.truth,
            ..Default::default()
        };
        self.decisions.publish(&frame, &report);
        Ok(report)
    }
}

#[tonic::async_trait]
impl Link for LinkService {
    type TransmitStream = BoxStream<'static, Result<v1::FrameReport, Status>>;

    async fn transmit(&self, request: Request<Streaming<v1::Frame>>) -> Result<Response<Self::TransmitStream>, Status> {
        let inner = Arc::clone(&self.0);
        // Set when the stream breaks: told last, after the reports of all frames that came before.
        let broken = Arc::new(OnceLock::new());
        let frames = request.into_inner().scan((), {
            let broken = Arc::clone(&broken);
            move |(), frame| future::ready(frame.map_err(|status| broken.set(status)).ok())
        });
        let (drained, in_flight) = (inner.drain.started(), inner.in_flight);
        let reports = frames
            // A drain ends the reading; what was read is still answered.
            .take_until(drained)
            .map(move |frame| {
                let inner = Arc::clone(&inner);
                async move { Ok(inner.answer(frame).await) }
            })
            .buffer_unordered(in_flight);
        let end =
            stream::once(async move { broken.get().cloned() }).filter_map(|status| future::ready(status.map(Err)));
        Ok(Response::new(reports.chain(end).boxed()))
    }
}
