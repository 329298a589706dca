//! The way to the next `Link`: Transmit streams that many callers share.
//!
//! A frame is kept until it is reported. When the stream that carried it breaks, it is sent again, under the same id, on another one: so a next
//! hop may be killed and restarted at any time, and its callers notice a delay. Each address behind the next hop's name has a stream of its
//! own; frames go to the stream with the fewest under way, and an address that cannot be reached has none.

mod backoff;
mod lane;
mod next_hop;
mod waiting;

use std::sync::Arc;

use semlink_proto::v1;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use crate::metrics::PeerMetrics;
use crate::security::Credentials;

pub use next_hop::{LINK_METADATA, NextHop, check_link_name};

use lane::Shared;
use waiting::Answer;

/// Sends frames to the next Link and matches its reports to them; cheap to clone.
///
/// Streams are opened when they are first needed and, from then on, as soon as they can be.
#[derive(Debug, Clone)]
pub struct LinkClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    /// Ends the streams with the last clone.
    _stop: DropGuard,
}

/// A frame that is on its way. Dropped, it is forgotten, and not sent if it was not yet.
#[derive(Debug)]
pub struct Sent {
    original: u64,
    id: u64,
    deadline: Instant,
    answer: oneshot::Receiver<Answer>,
    client: LinkClient,
}

/// A frame's report, and what it took.
#[derive(Debug)]
pub struct Reported {
    /// With the frame's own id.
    pub report: v1::FrameReport,
    /// Times that the frame was sent; more than one after a stream broke.
    pub sends: u32,
}

impl LinkClient {
    /// Connects nothing yet, and needs a runtime only from the first frame on.
    pub fn new(next: NextHop, credentials: Credentials, metrics: PeerMetrics) -> LinkClient {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared::new(next, credentials, metrics, stop.clone()));
        LinkClient(Arc::new(Inner { shared, _stop: stop.drop_guard() }))
    }

    /// Opens the streams now rather than with the first frame.
    pub fn keep_open(&self) {
        self.0.shared.start();
    }

    /// Streams that are open: none while the next hop cannot be reached.
    pub fn open_streams(&self) -> watch::Receiver<usize> {
        self.0.shared.open.subscribe()
    }

    /// Frames that are not reported yet.
    pub fn waiting(&self) -> usize {
        self.0.shared.waiting.len()
    }

    /// Sends a frame and waits for its report. The frame's `id` is replaced by one of this client's, the report carries the original.
    ///
    /// # Errors
    /// After `deadline`: `UNAVAILABLE` naming the address when the next Link could not be reached, `DEADLINE_EXCEEDED` when it did not report.
    pub async fn transmit(&self, frame: v1::Frame, deadline: Instant) -> Result<Reported, Status> {
        self.send(frame, deadline).report().await
    }

    /// Sends a frame; frames that come first go first.
    pub fn send(&self, frame: v1::Frame, deadline: Instant) -> Sent {
        let original = frame.id;
        let shared = &self.0.shared;
        let (id, answer) = shared.waiting.enter(frame, deadline);
        shared.metrics.waiting.inc();
        shared.start();
        Sent { original, id, deadline, answer, client: self.clone() }
    }
}

impl Sent {
    /// Waits for the frame's report.
    ///
    /// # Errors
    /// Those of [`LinkClient::transmit`].
    pub async fn report(mut self) -> Result<Reported, Status> {
        let answer = tokio::time::timeout_at(self.deadline, &mut self.answer).await;
        let shared = &self.client.0.shared;
        match answer {
            Ok(Ok(Ok((report, sends)))) => {
                Ok(Reported { report: v1::FrameReport { id: self.original, ..report }, sends })
            }
            Ok(Ok(Err(status))) => Err(Status::new(status.code(), shared.next.told(status.message()))),
            // The table forgets a frame only after its answer, or when its caller leaves.
            Ok(Err(_)) => Err(Status::internal(shared.next.told("the frame was lost"))),
            Err(_) => {
                shared.metrics.expired.inc();
                Err(match shared.waiting.failure() {
                    Some(why) => Status::unavailable(shared.next.told(&why)),
                    None => Status::deadline_exceeded(shared.next.told("no report in time")),
                })
            }
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let shared = &self.client.0.shared;
        shared.waiting.leave(self.id);
        shared.metrics.waiting.dec();
    }
}
