//! The `Transmitter` service: images in, decisions out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use semlink_channel::iq;
use semlink_proto::v1::{self, transmitter_server::Transmitter};
use semlink_service::batch::Done;
use semlink_service::peer::{LinkClient, Reported};
use semlink_service::traces::{self, Span, Traces};
use semlink_service::{Door, Drain, Permit, deadline, pipeline, retry, wire};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::codec::{Codec, Codecs};
use crate::control;
use crate::metrics::TransmitterMetrics;
use crate::model::{Encoded, Image};
use crate::rate::{Rate, RateTable};

/// When a call that found the door closed may try again: about the time in which a full house is answered.
const RETRY: Duration = Duration::from_millis(200);

/// Answers each image with exactly one decision or error.
#[derive(Debug, Clone)]
pub(crate) struct TransmitterService(Arc<Inner>);

/// What the service works with.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) codecs: Arc<Codecs>,
    pub(crate) link: LinkClient,
    /// What precedes each payload, cf32_le.
    pub(crate) pilots: Bytes,
    /// Names this process in its frames.
    pub(crate) origin: u64,
    /// Of the last frame.
    pub(crate) number: AtomicU64,
    /// To the images under way, wherever they are.
    pub(crate) door: Door,
    /// Images of one stream that may be under way.
    pub(crate) in_flight: usize,
    /// The longest that an image may take.
    pub(crate) patience: Duration,
    pub(crate) metrics: TransmitterMetrics,
    pub(crate) traces: Traces,
    pub(crate) drain: Drain,
}

/// An image on its way through.
#[derive(Clone, Copy)]
struct Passage<'a> {
    arrived: Instant,
    deadline: Instant,
    span: &'a Span,
}

impl TransmitterService {
    pub(crate) fn new(inner: Inner) -> TransmitterService {
        TransmitterService(Arc::new(inner))
    }

    /// Refuses single calls while there is no room.
    pub(crate) fn gate(&self) -> impl Fn() -> Option<Status> + Send + Sync + 'static {
        let inner = Arc::clone(&self.0);
        move || inner.door.is_full().then(|| inner.full())
    }
}

impl Inner {
    /// What a single call gets while there is no room.
    fn full(&self) -> Status {
        self.metrics.refused();
        retry::exhausted("too many images are under way", RETRY)
    }

    /// The answer to one image of a stream; a failure is an answer too, under the image's id.
    async fn answer(
        &self,
        request: v1::ClassifyRequest,
        arrived: Instant,
        parent: Option<&str>,
    ) -> v1::ClassifyResponse {
        let id = request.id;
        let deadline = deadline::first(self.patience, [wanted(&request)]);
        self.classify(request, arrived, deadline, parent).await.unwrap_or_else(|status| v1::ClassifyResponse {
            id,
            error: Some(wire::error(&status)),
            ..Default::default()
        })
    }

    /// The answer to one image, counted and traced.
    async fn classify(
        &self,
        request: v1::ClassifyRequest,
        arrived: Instant,
        deadline: Instant,
        parent: Option<&str>,
    ) -> Result<v1::ClassifyResponse, Status> {
        let mut span = self.traces.start("classify", parent);
        let label = request.label;
        let _under_way = self.metrics.enter(request.image.len());
        let passage = Passage { arrived, deadline, span: &span };
        let answer = self.with_a_codec(&request, passage).await;
        if span.is_traced() {
            describe(&mut span, &request, &answer);
        }
        self.metrics.answered(&answer, label, arrived.elapsed());
        answer
    }

    /// With the present codec or, where the receiver does not hold it, with the one before it.
    async fn with_a_codec(
        &self,
        request: &v1::ClassifyRequest,
        passage: Passage<'_>,
    ) -> Result<v1::ClassifyResponse, Status> {
        let codec = self.codecs.present();
        match self.through(&codec, request, passage).await {
            Err(status) if status.code() == Code::FailedPrecondition => match self.codecs.instead_of(&codec) {
                Some(other) => {
                    self.metrics.falls_back();
                    self.through(&other, request, passage).await
                }
                None => Err(status),
            },
            answer => answer,
        }
    }

    async fn through(
        &self,
        codec: &Codec,
        request: &v1::ClassifyRequest,
        Passage { arrived, deadline, span }: Passage<'_>,
    ) -> Result<v1::ClassifyResponse, Status> {
        let rate = rate(codec.control.table(), request.uses, request.auto)?;
        let image = Image { file: request.image.clone(), rate };
        let before = arrived.elapsed();
        // Given up, it is not encoded.
        let encoded = timeout_at(deadline, codec.model.encode(image)).await;
        let late = |_| Status::deadline_exceeded("the image was not encoded in time");
        let Done { output: encoded, waited } = encoded.map_err(late)??;
        let queue = before + waited;
        let began = arrived + queue;
        span.phase("queue", arrived.into_std(), queue);
        let prepared = Duration::from_micros(encoded.prepare_us);
        span.phase("prepare", began.into_std(), prepared);
        span.phase("encode", (began + prepared).into_std(), Duration::from_micros(encoded.encode_us));
        let link = span.call("transmit");
        let frame = v1::Frame {
            codec_id: codec.id.clone(),
            symbols: encoded.symbols.clone(),
            pilots: self.pilots.clone(),
            stream: request.stream,
            sequence: request.id,
            origin: self.origin,
            number: self.number.fetch_add(1, Ordering::Relaxed) + 1,
            traceparent: link.traceparent().unwrap_or_default(),
            ..Default::default()
        };
        let sent = Instant::now();
        let Reported { report, sends } = self.link.transmit(frame, deadline).await?;
        let link_us = micros(sent.elapsed());
        drop(link);
        learn(&codec.control, &report);
        if let Some(error) = report.error {
            return Err(wire::status(error));
        }
        let decision =
            report.decision.ok_or_else(|| Status::internal("next hop: a report with neither decision nor error"))?;
        let total = encoded.uses.get() as u64 + u64::from(report.pilots);
        let Encoded { uses, captured, prepare_us, encode_us, .. } = encoded;
        let timings = v1::Timings {
            prepare_us,
            encode_us,
            link_us,
            decode_us: report.decode_us,
            queue_us: micros(queue),
            channel_us: report.channel_us,
            decode_queue_us: report.queue_us,
            sends,
        };
        let link = v1::LinkInfo {
            // At most 65536.
            uses: uses.get() as u32,
            pilots: report.pilots,
            snr_db_estimated: report.snr_db_estimated,
            bandwidth_ratio: (total as f64 / captured as f64) as f32,
            side_information_bits: codec.control.table().side_information_bits(),
            timings: Some(timings),
            profile_version: report.truth.map(|truth| truth.profile_version),
        };
        Ok(v1::ClassifyResponse { id: request.id, decision: Some(decision), link: Some(link), error: None })
    }

    /// Waits until an image may come in; meanwhile its stream is not read.
    async fn enter(
        self: Arc<Self>,
        request: Result<v1::ClassifyRequest, Status>,
    ) -> Result<(v1::ClassifyRequest, Instant, Option<Permit>), Status> {
        let request = request?;
        let arrived = Instant::now();
        let permit = self.door.enter(request.image.len()).await;
        Ok((request, arrived, permit))
    }
}

/// What the span of an image says, see docs/METRICS.md.
fn describe(span: &mut Span, request: &v1::ClassifyRequest, answer: &Result<v1::ClassifyResponse, Status>) {
    // OpenTelemetry has no unsigned numbers.
    span.set("semlink.id", request.id as i64);
    span.set("semlink.stream", request.stream as i64);
    let answer = match answer {
        Ok(answer) => answer,
        Err(status) => return span.fail(status),
    };
    if let Some(decision) = &answer.decision {
        span.set("semlink.decision", decision.label.clone());
        span.set("semlink.confidence", f64::from(decision.confidence));
    }
    let link = answer.link.unwrap_or_default();
    span.set("semlink.uses", i64::from(link.uses));
    span.set("semlink.pilots", i64::from(link.pilots));
    span.set("semlink.sends", i64::from(link.timings.unwrap_or_default().sends));
    if let Some(snr_db) = link.snr_db_estimated {
        span.set("semlink.snr_db_estimated", f64::from(snr_db));
    }
}

/// The rate that a client asked for, if it did.
#[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
fn rate(rates: &RateTable, uses: Option<u32>, auto: bool) -> Result<Option<Rate>, Status> {
    match (uses, auto) {
        (None, false) => Ok(None),
        (None, true) => Ok(Some(Rate::Auto)),
        (Some(k), true) => Err(Status::invalid_argument(format!("uses is {k} and auto is set, expected one of them"))),
        (Some(k), false) => match rates.get(k as usize) {
            Some(uses) => Ok(Some(Rate::Fixed(uses))),
            None => Err(Status::invalid_argument(format!("uses is {k}, this codec has {}", rates.listed()))),
        },
    }
}

/// Remembers what a report says about the channel.
fn learn(control: &control::Control, report: &v1::FrameReport) {
    if let Some(snr_db) = report.snr_db_estimated {
        let kind = wire::try_kind(report.kind).ok();
        control.report(std::time::Instant::now(), control::condition(snr_db, kind));
    }
}

/// The time that a request gives for its answer, if it says so.
fn wanted(request: &v1::ClassifyRequest) -> Option<Duration> {
    (request.timeout_ms > 0).then(|| Duration::from_millis(request.timeout_ms.into()))
}

fn micros(time: Duration) -> u64 {
    // Half a million years fit.
    time.as_micros() as u64
}

#[tonic::async_trait]
impl Transmitter for TransmitterService {
    type ClassifyStreamStream = BoxStream<'static, Result<v1::ClassifyResponse, Status>>;

    async fn classify(&self, request: Request<v1::ClassifyRequest>) -> Result<Response<v1::ClassifyResponse>, Status> {
        let arrived = Instant::now();
        let inner = &self.0;
        let _permit = inner.door.try_enter(request.get_ref().image.len()).ok_or_else(|| inner.full())?;
        let timeout = deadline::of_call(request.metadata().as_ref());
        let parent = traces::parent(request.metadata()).map(str::to_owned);
        let request = request.into_inner();
        let deadline = deadline::first(inner.patience, [timeout, wanted(&request)]);
        inner.classify(request, arrived, deadline, parent.as_deref()).await.map(Response::new)
    }

    async fn get_codec(&self, _request: Request<v1::GetCodecRequest>) -> Result<Response<v1::CodecInfo>, Status> {
        let codec = self.0.codecs.present();
        let pilots = self.0.pilots.len() / iq::SYMBOL_BYTES;
        Ok(Response::new(v1::CodecInfo { pilots: pilots as u32, ..codec.info.clone() }))
    }

    async fn classify_stream(
        &self,
        request: Request<Streaming<v1::ClassifyRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        let inner = Arc::clone(&self.0);
        let parent: Option<Arc<str>> = traces::parent(request.metadata()).map(Arc::from);
        let images = {
            let inner = Arc::clone(&inner);
            request.into_inner().then(move |image| Arc::clone(&inner).enter(image))
        };
        // A drain ends the reading; what was read is still answered.
        let (drained, in_flight) = (inner.drain.started(), inner.in_flight);
        let answers = pipeline::answer(images, drained, in_flight, move |(image, arrived, permit)| {
            let (inner, parent) = (Arc::clone(&inner), parent.clone());
            async move {
                let answer = inner.answer(image, arrived, parent.as_deref()).await;
                drop(permit);
                answer
            }
        });
        Ok(Response::new(answers))
    }
}
