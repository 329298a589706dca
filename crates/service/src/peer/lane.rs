//! Keeping streams open: one for each address of the next hop.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use semlink_proto::v1::{self, link_client};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, Streaming};

use super::backoff::Backoff;
use super::next_hop::{CONNECT_TIMEOUT, LINK_METADATA, NextHop};
use super::waiting::{LaneId, Waiting};
use crate::metrics::PeerMetrics;
use crate::security::Credentials;

/// How often a name is resolved again; sooner after a stream broke.
const RESOLVE: Duration = Duration::from_secs(5);
const RESOLVE_AFTER_LOSS: Duration = Duration::from_millis(500);
/// A stream that lived as long was a success, whatever ended it.
const SUCCESS: Duration = Duration::from_secs(1);
/// Time for the reports of a stream whose address the name has lost.
const RETIRE: Duration = Duration::from_secs(30);
/// How often it is looked whether they are there.
const LOOK: Duration = Duration::from_millis(100);

/// What a client and the tasks of its streams share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) next: NextHop,
    credentials: Credentials,
    pub(super) metrics: PeerMetrics,
    pub(super) waiting: Waiting,
    /// Number of open streams.
    pub(super) open: watch::Sender<usize>,
    /// A stream broke or could not be opened.
    lost: Notify,
    started: AtomicBool,
    stop: CancellationToken,
}

/// Why a stream ended.
enum End {
    /// It could not be opened; it may be worth another attempt.
    Refused(Status),
    /// It was open.
    Broke,
    /// The next hop ended it because nothing happened on it for long.
    Rested,
    /// Nothing is left for it to do.
    Retired,
}

/// An open stream; counted, and given up, whatever ends it.
struct Open<'a> {
    shared: &'a Shared,
    lane: LaneId,
    wake: Arc<Notify>,
    why: String,
    /// Nothing was lost with it.
    rested: bool,
}

impl Shared {
    pub(super) fn new(
        next: NextHop,
        credentials: Credentials,
        metrics: PeerMetrics,
        stop: CancellationToken,
    ) -> Shared {
        Shared {
            next,
            credentials,
            metrics,
            waiting: Waiting::default(),
            open: watch::Sender::new(0),
            lost: Notify::new(),
            started: AtomicBool::new(false),
            stop,
        }
    }

    /// Starts to keep streams open, once.
    pub(super) fn start(self: &Arc<Self>) {
        if !self.started.load(Ordering::Relaxed) && !self.started.swap(true, Ordering::Relaxed) {
            let (shared, stop) = (Arc::clone(self), self.stop.clone());
            tokio::spawn(async move { stop.run_until_cancelled_owned(shared.supervise()).await });
        }
    }

    /// One stream for each address that the name stands for.
    async fn supervise(self: Arc<Self>) {
        // Ends them all when it is dropped.
        let mut tasks = JoinSet::new();
        let mut lanes: HashMap<SocketAddr, CancellationToken> = HashMap::new();
        let mut backoff = Backoff::new();
        let mut random = StdRng::from_os_rng();
        let mut resolved = true;
        loop {
            let pause = match self.next.resolve().await {
                Ok(addresses) => {
                    backoff.reset();
                    resolved = true;
                    lanes.retain(|address, retired| {
                        let kept = addresses.contains(address);
                        if !kept {
                            tracing::info!(next = self.next.as_str(), %address, "address left out: the name no longer has it");
                            retired.cancel();
                        }
                        kept
                    });
                    for address in addresses {
                        lanes.entry(address).or_insert_with(|| {
                            let retired = CancellationToken::new();
                            tasks.spawn(keep_open(Arc::clone(&self), address, retired.clone()));
                            retired
                        });
                    }
                    RESOLVE
                }
                Err(why) => {
                    // The first failure of an outage; a network that is cut takes its names along, and each attempt would be a line.
                    if std::mem::take(&mut resolved) {
                        tracing::warn!(next = self.next.as_str(), why, "next hop cannot be resolved");
                    } else {
                        tracing::debug!(next = self.next.as_str(), why, "next hop cannot be resolved");
                    }
                    self.waiting.failed(&why);
                    backoff.pause(&mut random)
                }
            };
            if !self.next.is_named() {
                return while tasks.join_next().await.is_some() {};
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.lost.notified() => tokio::time::sleep(pause.min(RESOLVE_AFTER_LOSS)).await,
            }
            // Those that have retired.
            while tasks.try_join_next().is_some() {}
        }
    }

    /// One stream, from its connection to its end.
    async fn stream(&self, address: SocketAddr, retired: &CancellationToken, rested: bool) -> End {
        let connected = self.credentials.connect(self.next.endpoint(), Some(address)).await;
        let channel = match connected {
            Ok(channel) => channel,
            Err(error) => return End::Refused(Status::unavailable(causes(&error))),
        };
        let wake = Arc::new(Notify::new());
        let (lane_set, lane) = watch::channel(None);
        let mut request = Request::new(self.outgoing(lane, Arc::clone(&wake)));
        if let Some(name) = self.next.link() {
            request.metadata_mut().insert(LINK_METADATA, name);
        }
        self.credentials.authorise(&mut request);
        let mut link = link_client::LinkClient::new(channel);
        // The stream gets its frames once the peer has answered: one that says nothing must not hold any.
        let reports = match tokio::time::timeout(CONNECT_TIMEOUT, link.transmit(request)).await {
            Ok(Ok(reports)) => reports.into_inner(),
            Ok(Err(status)) => return End::Refused(status),
            Err(_) => {
                let why = format!("connected, but no answer within {} s", CONNECT_TIMEOUT.as_secs());
                return End::Refused(Status::unavailable(why));
            }
        };
        let mut open = Open::new(self, Arc::clone(&wake));
        lane_set.send_replace(Some(open.lane));
        // At rest it is opened anew again and again: that is no news.
        if rested {
            tracing::debug!(next = self.next.as_str(), %address, "link up");
        } else {
            tracing::info!(next = self.next.as_str(), %address, "link up");
        }
        tokio::select! {
            ended = self.read(reports) => {
                let unreported = self.waiting.load(open.lane);
                open.rested = ended.code() == Code::DeadlineExceeded && unreported == 0;
                open.why = reason(&ended);
                if open.rested {
                    tracing::debug!(next = self.next.as_str(), %address, why = open.why, "link at rest");
                    return End::Rested;
                }
                tracing::warn!(next = self.next.as_str(), %address, why = open.why, unreported, "link down");
                End::Broke
            }
            () = self.retire(&open, retired) => End::Retired,
        }
    }

    /// Frames as they are to be written, from when the stream is open.
    fn outgoing(
        self: &Shared,
        lane: watch::Receiver<Option<LaneId>>,
        wake: Arc<Notify>,
    ) -> impl stream::Stream<Item = v1::Frame> + Send + use<> {
        let waiting = self.waiting.clone();
        let state = (waiting, lane, wake, VecDeque::new());
        stream::unfold(state, |(waiting, mut lane, wake, mut ready)| async move {
            loop {
                if let Some(frame) = ready.pop_front() {
                    return Some((frame, (waiting, lane, wake, ready)));
                }
                // An error: the stream was not opened.
                let id = (*lane.wait_for(Option::is_some).await.ok()?)?;
                if !waiting.next(id, &mut ready) {
                    return None;
                }
                if ready.is_empty() {
                    wake.notified().await;
                }
            }
        })
    }

    /// Hands reports to their callers until the stream ends; with what status.
    async fn read(&self, mut reports: Streaming<v1::FrameReport>) -> Status {
        loop {
            match reports.message().await {
                Ok(Some(report)) => {
                    if !self.waiting.report(report) {
                        self.metrics.unclaimed.inc();
                    }
                }
                Ok(None) => return Status::unavailable("the peer ended the stream"),
                Err(status) => return status,
            }
        }
    }

    /// Ends when the address has been left out and all its frames are reported.
    async fn retire(&self, open: &Open<'_>, retired: &CancellationToken) {
        retired.cancelled().await;
        self.waiting.retire(open.lane);
        let end = Instant::now() + RETIRE;
        let mut look = tokio::time::interval(LOOK);
        while self.waiting.load(open.lane) > 0 && Instant::now() < end {
            look.tick().await;
        }
    }

    /// Says once that the next hop is out of reach, then only who asks.
    fn note_refusal(&self, address: SocketAddr, status: &Status, attempts: u32) {
        let why = reason(status);
        self.waiting.failed(&why);
        self.metrics.connect_failures.inc();
        if attempts == 0 {
            tracing::warn!(next = self.next.as_str(), %address, why, "next hop cannot be reached; trying again");
        } else {
            tracing::debug!(next = self.next.as_str(), %address, why, attempts, "next hop cannot be reached");
        }
        if *self.open.borrow() == 0 && is_lasting(status.code()) {
            self.waiting.refuse(&Status::unavailable(why));
        }
    }
}

/// Opens a stream to this address, again and again, until the name no longer has it.
async fn keep_open(shared: Arc<Shared>, address: SocketAddr, retired: CancellationToken) {
    let mut backoff = Backoff::new();
    let mut random = StdRng::from_os_rng();
    let (mut refused, mut rested) = (0, false);
    while !retired.is_cancelled() {
        let began = Instant::now();
        match shared.stream(address, &retired, std::mem::take(&mut rested)).await {
            End::Retired => return,
            End::Refused(status) => {
                shared.note_refusal(address, &status, refused);
                refused += 1;
            }
            End::Rested => {
                (refused, rested) = (0, true);
                backoff.reset();
            }
            End::Broke => {
                refused = 0;
                if began.elapsed() >= SUCCESS {
                    backoff.reset();
                }
            }
        }
        shared.lost.notify_one();
        tokio::select! {
            () = tokio::time::sleep(backoff.pause(&mut random)) => {}
            () = retired.cancelled() => return,
        }
    }
}

/// What a peer says for as long as nobody changes its settings or ours.
fn is_lasting(code: Code) -> bool {
    matches!(
        code,
        Code::Unauthenticated | Code::PermissionDenied | Code::NotFound | Code::Unimplemented | Code::InvalidArgument
    )
}

/// What a failed call says.
fn reason(status: &Status) -> String {
    match status.code() {
        Code::Unavailable | Code::Unknown => told(status),
        code => format!("{code}: {}", told(status)),
    }
}

/// A status's message and its causes.
fn told(status: &Status) -> String {
    let causes = std::error::Error::source(status).map(causes).unwrap_or_default();
    match (status.message().is_empty(), causes.is_empty()) {
        (_, true) => status.message().to_owned(),
        (true, false) => causes,
        (false, false) => format!("{}: {causes}", status.message()),
    }
}

/// An error down to its cause: the transport's own message is only that there was one.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut told = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        told.push(error.to_string());
        cause = error.source();
    }
    told.dedup();
    told.join(": ")
}

impl<'a> Open<'a> {
    fn new(shared: &'a Shared, wake: Arc<Notify>) -> Open<'a> {
        shared.metrics.connects.inc();
        shared.metrics.sessions.inc();
        shared.open.send_modify(|open| *open += 1);
        Open {
            shared,
            lane: shared.waiting.open(Arc::clone(&wake)),
            wake,
            why: "the stream was given up".to_owned(),
            rested: false,
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let back = self.shared.waiting.close(self.lane, &self.why);
        // What writes its frames ends, and with it the connection.
        self.wake.notify_one();
        self.shared.metrics.resent.inc_by(back.resent as u64);
        if !self.rested {
            self.shared.metrics.disconnects.inc();
        }
        self.shared.metrics.sessions.dec();
        self.shared.open.send_modify(|open| *open = open.saturating_sub(1));
    }
}
