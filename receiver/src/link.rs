//! The `Link` service: frames in, reports out.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use semlink_channel::iq;
use semlink_codec::Csi;
use semlink_proto::v1::{self, link_server::Link};
use semlink_service::batch::Done;
use semlink_service::traces::{Span, Traces};
use semlink_service::{Door, Drain, Permit, pipeline, wire};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use crate::codecs::Codecs;
use crate::decisions::Broadcast;
use crate::metrics::ReceiverMetrics;
use crate::recent::Recent;

/// A frame without a deadline is given up after this.
const LONGEST: Duration = Duration::from_secs(300);

/// Answers each frame with exactly one report.
#[derive(Debug, Clone)]
pub(crate) struct LinkService(Arc<Inner>);

/// What the service works with.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) codecs: Arc<Codecs>,
    pub(crate) recent: Recent,
    pub(crate) decisions: Broadcast,
    /// To the frames under way, whatever their streams.
    pub(crate) door: Door,
    /// Frames of one stream that may be under way.
    pub(crate) in_flight: usize,
    pub(crate) metrics: ReceiverMetrics,
    pub(crate) traces: Traces,
    pub(crate) drain: Drain,
}

impl LinkService {
    pub(crate) fn new(inner: Inner) -> LinkService {
        LinkService(Arc::new(inner))
    }
}

impl Inner {
    /// The report of one frame; a failure is a report too, under the frame's id.
    async fn answer(&self, frame: v1::Frame) -> v1::FrameReport {
        let mut span = self.traces.follow("decide", &frame.traceparent);
        let (id, arrived) = (frame.id, Instant::now());
        let left =
            if frame.time_left_us == 0 { LONGEST } else { Duration::from_micros(frame.time_left_us).min(LONGEST) };
        let decided = self.recent.report(&frame, || self.decode(&frame));
        let reported = match tokio::time::timeout_at(arrived + left, decided).await {
            Ok(reported) => reported,
            Err(_) => Err(Status::deadline_exceeded("the receiver had no time left for this frame")),
        };
        match reported {
            Ok((report, repeated)) => {
                if repeated {
                    self.metrics.repeated();
                } else if !frame.trial {
                    self.metrics.reported(&report);
                }
                if span.is_traced() {
                    describe(&mut span, &frame, &report, repeated, arrived);
                }
                report
            }
            Err(status) => {
                span.fail(&status);
                let report = v1::FrameReport { id, error: Some(wire::error(&status)), ..Default::default() };
                if !frame.trial {
                    self.metrics.reported(&report);
                }
                report
            }
        }
    }

    async fn decode(&self, frame: &v1::Frame) -> Result<v1::FrameReport, Status> {
        let codec = self.codecs.get(&frame.codec_id)?;
        let received = codec.checker.check(frame)?;
        let uses = received.symbols.len();
        let (kind, snr_db) = match &received.csi {
            Csi::Perfect(state) => (wire::kind(state.kind), Some(state.snr_db())),
            Csi::Estimated(estimate) => (v1::ChannelKind::Unspecified, Some(estimate.snr_db())),
            Csi::None => (v1::ChannelKind::Unspecified, None),
        };
        let Done { output, waited } = codec.model.decode(received).await?;
        let report = v1::FrameReport {
            id: frame.id,
            decision: Some(output.decision),
            error: None,
            // The checker bounds both by the message size.
            uses: uses as u32,
            pilots: (frame.pilots.len() / iq::SYMBOL_BYTES) as u32,
            snr_db_estimated: snr_db,
            kind: kind.into(),
            decode_us: output.decode_us,
            truth: frame.truth,
            channel_us: 0,
            queue_us: waited.as_micros() as u64,
        };
        if !frame.trial {
            self.decisions.publish(frame, &report);
        }
        Ok(report)
    }

    /// Waits until the frame may come in; meanwhile its stream is not read.
    async fn enter(self: Arc<Self>, frame: Result<v1::Frame, Status>) -> Result<(v1::Frame, Option<Permit>), Status> {
        let frame = frame?;
        let permit = self.door.enter(frame.symbols.len() + frame.pilots.len()).await;
        Ok((frame, permit))
    }
}

/// What the span of a frame says, see docs/METRICS.md.
fn describe(span: &mut Span, frame: &v1::Frame, report: &v1::FrameReport, repeated: bool, arrived: Instant) {
    span.set("semlink.codec_id", frame.codec_id.clone());
    span.set("semlink.uses", i64::from(report.uses));
    span.set("semlink.repeated", repeated);
    if let Some(decision) = &report.decision {
        span.set("semlink.decision", decision.label.clone());
        span.set("semlink.confidence", f64::from(decision.confidence));
    }
    if !repeated {
        let queue = Duration::from_micros(report.queue_us);
        span.phase("queue", arrived.into_std(), queue);
        span.phase("decode", (arrived + queue).into_std(), Duration::from_micros(report.decode_us));
    }
}

#[tonic::async_trait]
impl Link for LinkService {
    type TransmitStream = BoxStream<'static, Result<v1::FrameReport, Status>>;

    async fn transmit(&self, request: Request<Streaming<v1::Frame>>) -> Result<Response<Self::TransmitStream>, Status> {
        let inner = Arc::clone(&self.0);
        let frames = {
            let inner = Arc::clone(&inner);
            request.into_inner().then(move |frame| Arc::clone(&inner).enter(frame))
        };
        // A drain ends the reading; what was read is still answered.
        let (drained, in_flight) = (inner.drain.started(), inner.in_flight);
        let reports = pipeline::answer(frames, drained, in_flight, move |(frame, permit)| {
            let inner = Arc::clone(&inner);
            async move {
                let report = inner.answer(frame).await;
                drop(permit);
                report
            }
        });
        Ok(Response::new(reports))
    }
}
