//! The `Link` service: frames in, through the channel of their link, on to the next Link; its reports back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use semlink_channel::{FrameKey, iq};
use semlink_proto::v1::{self, link_server};
use semlink_service::peer::LINK_METADATA;
use semlink_service::traces::{Span, Traces};
use semlink_service::{Drain, pipeline, wire};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use crate::distort::distort;
use crate::links::{Link, Links, ROOM};
use crate::metrics;
use crate::record::{Entry, Symbols, note};
use crate::watch::sample;

/// Answers each frame with exactly one report: that of the next Link, or an error of its own.
#[derive(Debug, Clone)]
pub(crate) struct LinkService {
    pub(crate) links: Arc<Links>,
    /// Frames of one stream that may be under way; beyond it the stream is not read, which holds its sender back.
    pub(crate) in_flight: usize,
    pub(crate) traces: Traces,
    pub(crate) drain: Drain,
}

/// A frame is given up after this, whatever its deadline.
const LONGEST: Duration = Duration::from_secs(300);
/// Bytes of symbols from which on a frame is worth a task of its own: its channel is then computed beside the reading of the next.
const LARGE: usize = 8192;

/// A stream of a link, counted while it is open.
struct Open {
    link: Arc<Link>,
    _counted: metrics::Open,
}

impl Link {
    /// Room for a frame's symbols: waits while the link holds too many, so that its streams are held back, and no other link's.
    async fn room(&self, frame: &v1::Frame) -> Option<OwnedSemaphorePermit> {
        let symbols = (frame.symbols.len() + frame.pilots.len()) / iq::SYMBOL_BYTES;
        let permits = u32::try_from(symbols.clamp(1, ROOM)).unwrap_or(u32::MAX);
        // It is never closed.
        Arc::clone(&self.room).acquire_many_owned(permits).await.ok()
    }

    /// Reads no further until there is room for the frame.
    async fn enter(
        self: Arc<Self>,
        frame: Result<v1::Frame, Status>,
    ) -> Result<(v1::Frame, Option<OwnedSemaphorePermit>), Status> {
        let frame = frame?;
        let room = self.room(&frame).await;
        Ok((frame, room))
    }

    /// [`Link::answer`], on another worker where the frame is large. Frames that a slow transport keeps in order are taken one after the other.
    async fn answer_anywhere(self: Arc<Self>, frame: v1::Frame, traces: Traces) -> v1::FrameReport {
        if frame.symbols.len() < LARGE || self.profile.borrow().transport.is_slow() {
            return self.answer(frame, &traces).await;
        }
        let id = frame.id;
        tokio::spawn(async move { self.answer(frame, &traces).await }).await.unwrap_or_else(|error| {
            let status = Status::internal(error.to_string());
            v1::FrameReport { id, error: Some(wire::error(&status)), ..Default::default() }
        })
    }

    async fn answer(&self, frame: v1::Frame, traces: &Traces) -> v1::FrameReport {
        let mut span = traces.follow("channel", &frame.traceparent);
        let id = frame.id;
        self.counters.frames.fetch_add(1, Ordering::Relaxed);
        let passed = self.pass(frame, &mut span).await;
        passed.unwrap_or_else(|(status, truth)| {
            span.fail(&status);
            let counter = if truth.is_some() { &self.counters.lost } else { &self.counters.failed };
            counter.fetch_add(1, Ordering::Relaxed);
            if truth.is_some() {
                self.metrics.lost()
            } else {
                self.metrics.failed()
            }
            v1::FrameReport { id, error: Some(wire::error(&status)), truth, ..Default::default() }
        })
    }

    /// When nobody waits for a frame's report any more.
    fn deadline(&self, frame: &v1::Frame, now: Instant) -> Instant {
        let left = if frame.time_left_us == 0 { self.patience } else { Duration::from_micros(frame.time_left_us) };
        now + left.min(LONGEST)
    }

    /// The next Link's report; or why there is none, with the truth for a frame that the transport lost.
    async fn pass(
        &self,
        mut frame: v1::Frame,
        span: &mut Span,
    ) -> Result<v1::FrameReport, (Status, Option<v1::ChannelTruth>)> {
        let id = frame.id;
        let taken = Instant::now();
        let deadline = self.deadline(&frame, taken);
        // One look at the profile for the whole frame: a change applies to the next one.
        let profile = Arc::clone(&*self.profile.borrow());
        let key = FrameKey { seed: profile.seed, link: self.key, stream: frame.stream, frame: frame.sequence };
        let snr = profile.snr(frame.sequence, self.key);
        let transport = &profile.transport;
        let symbols = (frame.symbols.len() + frame.pilots.len()) / iq::SYMBOL_BYTES;
        self.metrics.taken(symbols);
        let mut departure = transport.is_slow().then(|| self.line.take(transport, key, symbols));
        let recorder = self.recording().as_ref().map(|recording| recording.entries.clone());
        let keep = recorder.is_some() || self.viewers.wait();
        let heard = distort(&mut frame, &profile, key, snr, keep).map_err(|status| (status, None))?;
        let lost = transport.loses(key);
        if let Some(heard) = &heard {
            self.viewers.show(|| sample(heard, &frame, self.counters.frames.load(Ordering::Relaxed)));
        }
        if let (Some(entries), Some(heard)) = (recorder, heard) {
            let realised = frame.truth.map_or(f32::NAN, |truth| truth.snr_db_realised);
            let mut note = note(id, key, profile.version, snr.db(), realised);
            (note.pilots, note.symbols, note.lost) = (heard.before.pilots.len(), heard.before.payload.len(), lost);
            let after = if lost { Symbols::default() } else { heard.after };
            // It fails when the recording has been stopped meanwhile.
            let _ = entries.send(Entry { note, profile: Arc::clone(&profile), before: heard.before, after }).await;
        }
        if lost {
            let version = profile.version;
            return Err((
                Status::data_loss(format!("the link lost the frame (profile version {version})")),
                frame.truth,
            ));
        }
        if let Some(departure) = &mut departure {
            let late = |_| (Status::deadline_exceeded("the link's delay is longer than the frame's deadline"), None);
            tokio::time::timeout_at(deadline, departure.wait()).await.map_err(late)?;
        }
        let channel_us = taken.elapsed().as_micros() as u64;
        if let Some(truth) = &frame.truth {
            self.metrics.passed(truth.snr_db_requested, truth.snr_db_realised, channel_us);
            if span.is_traced() {
                self.describe(span, truth, symbols);
            }
        }
        let onward = span.call("transmit");
        if let Some(traceparent) = onward.traceparent() {
            frame.traceparent = traceparent;
        }
        let sent = self.client.send(frame, deadline);
        // The frame after this one may go.
        drop(departure);
        let report = sent.report().await.map_err(|status| (status, None))?.report;
        drop(onward);
        Ok(v1::FrameReport { channel_us: report.channel_us + channel_us, ..report })
    }
}

impl Link {
    /// What the span of a frame says, see docs/METRICS.md.
    fn describe(&self, span: &mut Span, truth: &v1::ChannelTruth, symbols: usize) {
        span.set("semlink.link", self.name.clone());
        span.set("semlink.profile_version", truth.profile_version as i64);
        span.set("semlink.snr_db_requested", f64::from(truth.snr_db_requested));
        span.set("semlink.snr_db_realised", f64::from(truth.snr_db_realised));
        span.set("semlink.symbols", symbols as i64);
    }
}

impl Open {
    fn new(link: Arc<Link>) -> Open {
        link.counters.streams.fetch_add(1, Ordering::Relaxed);
        let counted = link.metrics.stream();
        Open { link, _counted: counted }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.link.counters.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl link_server::Link for LinkService {
    type TransmitStream = BoxStream<'static, Result<v1::FrameReport, Status>>;

    async fn transmit(&self, request: Request<Streaming<v1::Frame>>) -> Result<Response<Self::TransmitStream>, Status> {
        let name = match request.metadata().get(LINK_METADATA) {
            Some(name) => name.to_str().map_err(|_| Status::invalid_argument(format!("{LINK_METADATA} is no name")))?,
            None => "",
        };
        // Counted until the stream's task ends.
        let open = Open::new(self.links.get(name)?);
        let link = Arc::clone(&open.link);
        let traces = self.traces.clone();
        let frames = {
            let link = Arc::clone(&link);
            request.into_inner().then(move |frame| Arc::clone(&link).enter(frame))
        };
        // A drain ends the reading; what was read is still answered.
        let (drained, gone) = (self.drain.started(), link.gone.started());
        let ended = async move {
            tokio::select! {
                () = drained => {}
                () = gone => {}
            }
        };
        let reports = pipeline::answer(frames, ended, self.in_flight, move |(frame, room)| {
            let (link, traces) = (Arc::clone(&open.link), traces.clone());
            async move {
                let report = link.answer_anywhere(frame, traces).await;
                drop(room);
                report
            }
        });
        Ok(Response::new(reports))
    }
}
