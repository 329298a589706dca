//! The `Link` service: frames in, through the channel, on to the next Link; its reports back.

use std::future;
use std::sync::{Arc, OnceLock};

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use semlink_proto::v1::{self, link_server::Link};
use semlink_service::{Drain, peer::LinkClient, wire};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use crate::distort::distort;
use crate::profile::Profile;

/// Answers each frame with exactly one report: that of the next Link, or an error of its own.
#[derive(Debug, Clone)]
pub(crate) struct LinkService(Arc<Inner>);

/// What the service works with.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) next: LinkClient,
    pub(crate) profile: watch::Receiver<Profile>,
    pub(crate) hop: u64,
    /// Frames of one stream that may be under way; beyond it the stream is not read, which holds its sender back.
    pub(crate) in_flight: usize,
    pub(crate) drain: Drain,
}

impl LinkService {
    pub(crate) fn new(inner: Inner) -> LinkService {
        LinkService(Arc::new(inner))
    }
}

impl Inner {
    async fn answer(&self, mut frame: v1::Frame) -> v1::FrameReport {
        let id = frame.id;
        // One look at the profile for the whole frame: a change applies to the next one.
        let profile = *self.profile.borrow();
        let forwarded = match distort(&mut frame, &profile, self.hop) {
            Ok(()) => self.next.transmit(frame).await,
            Err(status) => Err(status),
        };
        forwarded.unwrap_or_else(|status| v1::FrameReport {
            id,
            error: Some(wire::error(&status)),
            ..Default::default()
        })
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
