//! The `Transmitter` service: images in, decisions out.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use semlink_proto::v1::{self, transmitter_server::Transmitter};
use semlink_service::{Drain, peer::LinkClient, wire};
use tokio::sync::{AcquireError, Semaphore, TryAcquireError};
use tonic::{Request, Response, Status, Streaming};

use crate::control::{self, Control};
use crate::model::{Encoded, Image, Model};
use crate::rate::Rate;

/// Answers each image with exactly one decision or error.
#[derive(Debug, Clone)]
pub(crate) struct TransmitterService(Arc<Inner>);

/// What the service works with.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) codec_id: String,
    pub(crate) model: Model,
    pub(crate) link: LinkClient,
    pub(crate) control: Arc<Control>,
    /// What precedes each payload, cf32_le.
    pub(crate) pilots: Bytes,
    /// One permit for each image that may be under way, wherever it is.
    pub(crate) door: Semaphore,
    /// Images of one stream that may be under way.
    pub(crate) in_flight: usize,
    pub(crate) drain: Drain,
}

impl TransmitterService {
    pub(crate) fn new(inner: Inner) -> TransmitterService {
        TransmitterService(Arc::new(inner))
    }
}

impl Inner {
    /// The answer to one image of a stream; a failure is an answer too, under the image's id.
    async fn answer(&self, request: v1::ClassifyRequest) -> v1::ClassifyResponse {
        let id = request.id;
        let classified = async {
            let _permit = self.door.acquire().await.map_err(|AcquireError { .. }| closed())?;
            self.classify(request).await
        };
        classified.await.unwrap_or_else(|status| v1::ClassifyResponse {
            id,
            error: Some(wire::error(&status)),
            ..Default::default()
        })
    }

    async fn classify(&self, request: v1::ClassifyRequest) -> Result<v1::ClassifyResponse, Status> {
        let v1::ClassifyRequest { id, image, stream, uses, auto } = request;
        let rate = self.rate(uses, auto)?;
        let encoded = self.model.encode(Image { file: image, rate }).await?;
        let frame = v1::Frame {
            codec_id: self.codec_id.clone(),
            symbols: encoded.symbols.clone(),
            pilots: self.pilots.clone(),
            stream,
            sequence: id,
            ..Default::default()
        };
        let sent = Instant::now();
        let report = self.link.transmit(frame).await?;
        let link_us = sent.elapsed().as_micros() as u64;
        self.learn(&report);
        if let Some(error) = report.error {
            return Err(wire::status(error));
        }
        let decision =
            report.decision.ok_or_else(|| Status::internal("next hop: a report with neither decision nor error"))?;
        let total = encoded.uses.get() as u64 + u64::from(report.pilots);
        let Encoded { uses, captured, prepare_us, encode_us, .. } = encoded;
        let link = v1::LinkInfo {
            // At most 65536.
            uses: uses.get() as u32,
            pilots: report.pilots,
            snr_db_estimated: report.snr_db_estimated,
            bandwidth_ratio: (total as f64 / captured as f64) as f32,
            side_information_bits: self.control.table().side_information_bits(),
            timings: Some(v1::Timings { prepare_us, encode_us, link_us, decode_us: report.decode_us, ..Default::default() }),
            profile_version: report.truth.map(|truth| truth.profile_version),
        };
        Ok(v1::ClassifyResponse { id, decision: Some(decision), link: Some(link), error: None })
    }

    /// The rate that a client asked for, if it did.
    fn rate(&self, uses: Option<u32>, auto: bool) -> Result<Option<Rate>, Status> {
        let rates = self.control.table();
        match (uses, auto) {
            (None, false) => Ok(None),
            (None, true) => Ok(Some(Rate::Auto)),
            (Some(k), true) => {
                Err(Status::invalid_argument(format!("uses is {k} and auto is set, expected one of them")))
            }
            (Some(k), false) => match rates.get(k as usize) {
                Some(uses) => Ok(Some(Rate::Fixed(uses))),
                None => Err(Status::invalid_argument(format!("uses is {k}, this codec has {}", rates.listed()))),
            },
        }
    }

    /// Remembers what a report says about the channel.
    fn learn(&self, report: &v1::FrameReport) {
        if let Some(snr_db) = report.snr_db_estimated {
            let kind = wire::try_kind(report.kind).ok();
            self.control.report(Instant::now(), control::condition(snr_db, kind));
        }
    }
}

fn closed() -> Status {
    Status::unavailable("the transmitter is shutting down")
}

#[tonic::async_trait]
impl Transmitter for TransmitterService {
    type ClassifyStreamStream = BoxStream<'static, Result<v1::ClassifyResponse, Status>>;

    async fn classify(&self, request: Request<v1::ClassifyRequest>) -> Result<Response<v1::ClassifyResponse>, Status> {
        let _permit = self.0.door.try_acquire().map_err(|error| match error {
            TryAcquireError::NoPermits => Status::resource_exhausted("too many images are under way; try again later"),
            TryAcquireError::Closed => closed(),
        })?;
        self.0.classify(request.into_inner()).await.map(Response::new)
    }

    async fn classify_stream(
        &self,
        request: Request<Streaming<v1::ClassifyRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        let inner = Arc::clone(&self.0);
        let in_flight = inner.in_flight;
        // Set when the stream breaks: told last, after the answers to all that came before.
        let broken = Arc::new(OnceLock::new());
        let requests = request.into_inner().scan((), {
            let broken = Arc::clone(&broken);
            move |(), request| std::future::ready(request.map_err(|status| broken.set(status)).ok())
        });
        // A drain ends the reading; what was read is still answered.
        let answers = requests
            .take_until(inner.drain.started())
            .map(move |request| {
                let inner = Arc::clone(&inner);
                async move { Ok(inner.answer(request).await) }
            })
            .buffer_unordered(in_flight);
        let end = stream::once(async move { broken.get().cloned() }).filter_map(|status| async { status.map(Err) });
        Ok(Response::new(answers.chain(end).boxed()))
    }
}
