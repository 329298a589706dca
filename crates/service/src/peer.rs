//! The way to the next `Link`: one Transmit stream that many callers share.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use semlink_proto::v1::{self, link_client};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status, Streaming};

/// Frames that may wait to be written; beyond it callers wait.
const WRITE_QUEUE: usize = 256;
/// To connect, and again to answer: a peer may accept connections and then say nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that went without a goodbye is noticed after both of these.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 window of bytes, so that a stream of many small messages is not held up by acknowledgements.
const WINDOW: u32 = 4 << 20;

/// Names, in the metadata of a Transmit stream, the link of an emulator that its frames are for.
pub const LINK_METADATA: &str = "semlink-link";

/// Checks the name of an emulator's link.
///
/// # Errors
/// What a name must be.
pub fn check_link_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if (1..=64).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(());
    }
    Err(format!("link name is {name:?}, must be 1 to 64 letters, digits, '-', '_' and '.'"))
}

/// Address of the next service: an `http://HOST:PORT` URL.
#[derive(Clone)]
pub struct NextHop {
    url: String,
    endpoint: Endpoint,
    link: Option<MetadataValue<Ascii>>,
}

/// Sends frames to the next Link and matches its reports to them; cheap to clone.
///
/// All callers share one stream, opened when it is first needed and again after it broke: what was under way then fails, and the next
/// frame tries anew. Callers that find no stream wait for one attempt together.
#[derive(Debug, Clone)]
pub struct LinkClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    next: NextHop,
    line: Mutex<Line>,
}

/// Where the stream stands.
enum Line {
    Down,
    Opening(Shared<BoxFuture<'static, Result<Session, Status>>>),
    Up(Session),
}

/// One open stream.
#[derive(Debug, Clone)]
struct Session {
    frames: mpsc::Sender<v1::Frame>,
    pending: Arc<Pending>,
}

/// The callers of a session that wait for a report.
#[derive(Debug)]
struct Pending {
    next_id: AtomicU64,
    /// `None` once the session is broken: then nobody may wait any more.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<v1::FrameReport>>>>,
}

/// A caller's place in [`Pending`], given up when the caller leaves.
#[derive(Debug)]
struct Place {
    pending: Arc<Pending>,
    id: u64,
}

/// A frame that is on its way.
#[derive(Debug)]
pub struct Sent {
    original: u64,
    _place: Place,
    report: oneshot::Receiver<v1::FrameReport>,
    client: LinkClient,
}

impl NextHop {
    /// The URL as it was given.
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// Which of an emulator's links the frames are for; empty: its default one.
    ///
    /// # Errors
    /// A name that is none.
    pub fn with_link(self, name: &str) -> Result<NextHop, String> {
        if name.is_empty() {
            return Ok(NextHop { link: None, ..self });
        }
        check_link_name(name)?;
        let link = name.parse().map_err(|_| format!("{name:?} is no name of a link"))?;
        Ok(NextHop { link: Some(link), ..self })
    }

    /// A connection of its own for each stream: one that a peer has left is never tried again.
    async fn open(&self) -> Result<Session, String> {
        let channel = self.endpoint.connect().await.map_err(|error| causes(&error))?;
        let (frames, written) = mpsc::channel(WRITE_QUEUE);
        let mut link = link_client::LinkClient::new(channel);
        let mut request = Request::new(ReceiverStream::new(written));
        if let Some(name) = &self.link {
            request.metadata_mut().insert(LINK_METADATA, name.clone());
        }
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, link.transmit(request));
        let reports = opened
            .await
            .map_err(|_| format!("connected, but no answer within {} s", CONNECT_TIMEOUT.as_secs()))?
            .map_err(|status| reason(&status))?;
        let session = Session { frames, pending: Arc::new(Pending::new()) };
        tokio::spawn(read(reports.into_inner(), Arc::clone(&session.pending), self.url.clone()));
        Ok(session)
    }

    fn gone(&self, why: &str) -> Status {
        Status::unavailable(format!("next hop {}: {why}", self.url))
    }
}

impl FromStr for NextHop {
    type Err = String;

    fn from_str(url: &str) -> Result<NextHop, String> {
        let wrong = || "no address of a service, expected http://HOST:PORT".to_owned();
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| wrong())?;
        let uri = endpoint.uri();
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        let is_bare = uri.path_and_query().is_none_or(|path| path == "/")
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        if uri.scheme_str() != Some("http") || !has_host || uri.port_u16().is_none() || !is_bare {
            return Err(wrong());
        }
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .tcp_nodelay(true);
        Ok(NextHop { url: url.to_owned(), endpoint, link: None })
    }
}

impl LinkClient {
    /// Connects nothing yet.
    pub fn new(next: NextHop) -> LinkClient {
        LinkClient(Arc::new(Inner { next, line: Mutex::new(Line::Down) }))
    }

    /// Sends a frame and waits for its report. The frame's `id` is replaced by one of this stream's, the report carries the original.
    ///
    /// # Errors
    /// `UNAVAILABLE` naming the address when the next Link cannot be reached or leaves before it reports.
    pub async fn transmit(&self, frame: v1::Frame) -> Result<v1::FrameReport, Status> {
        self.send(frame).await?.report().await
    }

    /// Sends a frame; frames whose calls came first go first.
    ///
    /// # Errors
    /// `UNAVAILABLE` naming the address when the next Link cannot be reached.
    pub async fn send(&self, mut frame: v1::Frame) -> Result<Sent, Status> {
        let original = frame.id;
        let session = self.session().await?;
        let (place, report) = session.pending.enter().ok_or_else(|| self.0.gone("the stream has ended"))?;
        frame.id = place.id;
        session.frames.send(frame).await.map_err(|_| self.0.gone("the stream has ended"))?;
        Ok(Sent { original, _place: place, report, client: self.clone() })
    }

    /// The open stream, or one that is opened now.
    async fn session(&self) -> Result<Session, Status> {
        let opening = {
            let mut line = self.0.line();
            match &*line {
                Line::Up(session) if session.pending.is_open() => return Ok(session.clone()),
                Line::Opening(opening) => opening.clone(),
                Line::Up(_) | Line::Down => {
                    // Weak: what is stored in the line must not keep the line alive.
                    let opening = open(self.0.next.clone(), Arc::downgrade(&self.0)).boxed().shared();
                    *line = Line::Opening(opening.clone());
                    opening
                }
            }
        };
        opening.await
    }
}

impl Sent {
    /// Waits for the frame's report.
    ///
    /// # Errors
    /// `UNAVAILABLE` naming the address when the next Link leaves before it reports.
    pub async fn report(self) -> Result<v1::FrameReport, Status> {
        let mut report = self.report.await.map_err(|_| self.client.0.gone("it left before it reported"))?;
        report.id = self.original;
        Ok(report)
    }
}

impl Inner {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self, why: &str) -> Status {
        self.next.gone(why)
    }
}

/// One attempt to open a stream; it leaves the line up or down.
async fn open(next: NextHop, inner: Weak<Inner>) -> Result<Session, Status> {
    let opened = next.open().await;
    if let Some(inner) = inner.upgrade() {
        *inner.line() = match &opened {
            Ok(session) => Line::Up(session.clone()),
            Err(_) => Line::Down,
        };
    }
    match &opened {
        Ok(_) => tracing::info!(next = next.url, "link up"),
        // Each request tries again: as a warning it would flood the log.
        Err(why) => tracing::debug!(next = next.url, why, "link cannot be opened"),
    }
    opened.map_err(|why| next.gone(&why))
}

/// Hands reports to their callers until the stream ends; whoever still waits then learns that it did.
async fn read(mut reports: Streaming<v1::FrameReport>, pending: Arc<Pending>, url: String) {
    let why = loop {
        match reports.message().await {
            Ok(Some(report)) => pending.answer(report),
            Ok(None) => break "the peer ended the stream".to_owned(),
            Err(status) => break reason(&status),
        }
    };
    pending.close();
    tracing::warn!(next = url, why, "link down");
}

/// What a failed call says.
fn reason(status: &Status) -> String {
    match status.code() {
        Code::Unavailable | Code::Unknown => causes(status),
        code => format!("{code}: {}", causes(status)),
    }
}

/// An error down to its cause: the transport's own message is only that there was one.
fn causes(error: &dyn std::error::Error) -> String {
    let mut told = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        told.push(error.to_string());
        cause = error.source();
    }
    told.dedup();
    told.join(": ")
}

impl Pending {
    fn new() -> Pending {
        Pending { next_id: AtomicU64::new(1), waiting: Mutex::new(Some(HashMap::new())) }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<v1::FrameReport>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> bool {
        self.waiting().is_some()
    }

    fn enter(self: &Arc<Self>) -> Option<(Place, oneshot::Receiver<v1::FrameReport>)> {
        let (sender, report) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.waiting().as_mut()?.insert(id, sender);
        Some((Place { pending: Arc::clone(self), id }, report))
    }

    fn answer(&self, report: v1::FrameReport) {
        let sender = self.waiting().as_mut().and_then(|waiting| waiting.remove(&report.id));
        if let Some(sender) = sender {
            // A failed send: the caller left meanwhile.
            let _ = sender.send(report);
        }
    }

    fn close(&self) {
        self.waiting().take();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(waiting) = self.pending.waiting().as_mut() {
            waiting.remove(&self.id);
        }
    }
}

impl fmt::Debug for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NextHop").field(&self.url).finish()
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Line::Down => "Down",
            Line::Opening(_) => "Opening",
            Line::Up(_) => "Up",
        })
    }
}
