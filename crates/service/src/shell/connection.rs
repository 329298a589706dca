//! Connections: taken up to a number, given little time to begin, watched, and ended without harm to others.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Peer;
use super::call::{Calls, Stall};
use super::counters::count;
use super::front::{Front, Shared, Streams};
use crate::Drain;
use crate::security::Fingerprint;

/// A peer that went without a goodbye is noticed after both of these, one that does not even take bytes by the system after as long.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls and streams that one connection may have open. What is beyond it waits at the client, where it costs this side nothing: an HTTP/2 stream takes a few KiB
/// even if its call is refused. Not below 100, says RFC 9113, 6.5.2.
const MAX_CALLS: u32 = 128;
/// HTTP/2 windows in bytes, as at the peers: several frames of the largest size, so that a sender need not wait for each to be read.
const WINDOW: u32 = 4 << 20;
/// Bytes of an HTTP/2 frame that a sender may send: a large message in one instead of in 32.
const MAX_FRAME: u32 = 1 << 20;
/// Bytes of a call's headers: a token and a trace, with room to spare.
const MAX_HEADERS: u32 = 16 << 10;
/// Streams that a client may have reset before they were looked at (rapid reset).
const MAX_RESETS: usize = 32;
/// Stalls are looked for at most this seldom.
const WATCH: Duration = Duration::from_secs(5);
/// After the system refused a connection, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How an HTTP/2 client begins, up to the type of its first frame, which must be SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_TYPE: usize = 3;
const SETTINGS: u8 = 4;
const BEGINNING: usize = PREFACE.len() + FRAME_TYPE + 1;

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection, with what was read of it to look at.
struct Rewound {
    beginning: [u8; BEGINNING],
    given: usize,
    io: Box<dyn Io>,
}

/// Why a connection came to nothing.
struct Refused {
    reason: &'static str,
    why: String,
}

/// Takes connections for ever.
pub(super) async fn accept(
    listener: &TcpListener,
    shared: &Arc<Shared>,
    drain: &Drain,
    tasks: &TaskTracker,
    cut: &CancellationToken,
) {
    loop {
        match listener.accept().await {
            Ok((tcp, address)) => take(tcp, address, shared, drain, tasks, cut),
            // The connection's own, before it was taken.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {
            }
            Err(error) => {
                tracing::warn!(%error, "no connection can be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn take(
    tcp: TcpStream,
    address: SocketAddr,
    shared: &Arc<Shared>,
    drain: &Drain,
    tasks: &TaskTracker,
    cut: &CancellationToken,
) {
    let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() else {
        let why = format!("{} connections are open (--max-connections)", shared.limits.connections);
        shared.refused(address, Refused { reason: "full", why });
        return;
    };
    let (shared, drain, cut) = (Arc::clone(shared), drain.clone(), cut.clone());
    tasks.spawn(async move {
        shared.counters.connections.inc();
        let served = cut.run_until_cancelled(serve(tcp, address, &shared, &drain)).await;
        shared.counters.connections.dec();
        drop(permit);
        if let Some(Err(refused)) = served {
            shared.refused(address, refused);
        }
    });
}

async fn serve(tcp: TcpStream, address: SocketAddr, shared: &Arc<Shared>, drain: &Drain) -> Result<(), Refused> {
    // A connection that is gone already shows when it is read.
    let _ = tcp.set_nodelay(true);
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE_TIMEOUT);
    let _ = SockRef::from(&tcp).set_tcp_keepalive(&keep_alive);
    let mut draining = pin!(drain.started());
    let begun = tokio::select! {
        begun = begin(tcp, shared) => begun?,
        () = &mut draining => return Ok(()),
    };
    let Some((io, certificate)) = begun else { return Ok(()) };
    let peer = Peer { address, certificate, encrypted: shared.security.acceptor().is_some() };
    let calls = Calls::new();
    let front = Front { shared: Arc::clone(shared), peer, calls: Arc::clone(&calls) };
    let mut connection = pin!(http().serve_connection(TokioIo::new(io), front));
    let idle = shared.limits.idle;
    let mut watch = tokio::time::interval((idle / 4).clamp(Duration::from_millis(1), WATCH));
    watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ending = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended.or_else(|error| judge(&error, address)),
            () = &mut draining, if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = watch.tick() => {
                for stall in calls.end_stalled(idle) {
                    shared.stalled(address, &stall);
                }
                if !ending && calls.are_over_for(idle) {
                    tracing::debug!(peer = %address, "connection without calls is closed");
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

fn http() -> http2::Builder<Streams> {
    let mut http = http2::Builder::new(Streams);
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CALLS)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADERS)
        .max_pending_accept_reset_streams(MAX_RESETS);
    http
}

/// TLS, then the beginning of HTTP/2, each in its time. `None`: the peer left before it said anything, as one does who asks whether a
/// port is open.
async fn begin(tcp: TcpStream, shared: &Shared) -> Result<Option<(Rewound, Option<Fingerprint>)>, Refused> {
    let time = shared.limits.handshake;
    let (mut io, certificate): (Box<dyn Io>, _) = match shared.security.acceptor() {
        None => (Box::new(tcp), None),
        Some(acceptor) => {
            // A peek: what does not even begin is no failed handshake.
            let opened = async {
                match tcp.peek(&mut [0]).await {
                    Ok(0) | Err(_) => Ok(None),
                    Ok(_) => acceptor.accept(tcp).await.map(Some),
                }
            };
            let failed = |why| Refused { reason: "handshake", why };
            let stream = timeout(time, opened)
                .await
                .map_err(|_| failed(format!("no TLS handshake within {} s", time.as_secs_f64())))?
                .map_err(|error| failed(error.to_string()))?;
            let Some(stream) = stream else { return Ok(None) };
            let certificates = stream.get_ref().1.peer_certificates();
            let certificate = certificates.and_then(<[_]>::first).map(|certificate| Fingerprint::of(certificate));
            (Box::new(stream), certificate)
        }
    };
    let mut beginning = [0; BEGINNING];
    match timeout(time, read_beginning(&mut io, &mut beginning)).await {
        Ok(Ok(true)) => Ok(Some((Rewound { beginning, given: 0, io }, certificate))),
        Ok(Ok(false)) => Ok(None),
        Ok(Err(refused)) => Err(refused),
        Err(_) => Err(Refused { reason: "preface", why: format!("no HTTP/2 preface within {} s", time.as_secs_f64()) }),
    }
}

/// Whether the peer began at all.
async fn read_beginning(io: &mut Box<dyn Io>, beginning: &mut [u8; BEGINNING]) -> Result<bool, Refused> {
    let mut read = 0;
    while let Some(rest) = beginning.get_mut(read..).filter(|rest| !rest.is_empty()) {
        let come = match io.read(rest).await {
            Ok(0) if read == 0 => return Ok(false),
            Ok(0) => return Err(Refused { reason: "preface", why: "left within the HTTP/2 preface".to_owned() }),
            Ok(come) => come,
            // Gone.
            Err(_) => return Ok(false),
        };
        read += come;
        if beginning.iter().take(read).zip(PREFACE).any(|(byte, expected)| byte != expected) {
            return Err(Refused { reason: "protocol", why: "does not speak HTTP/2".to_owned() });
        }
    }
    if beginning.last() != Some(&SETTINGS) {
        return Err(Refused { reason: "protocol", why: "HTTP/2 does not begin with SETTINGS".to_owned() });
    }
    Ok(true)
}

/// Tells what a peer did wrong from connections that break off.
fn judge(error: &hyper::Error, address: SocketAddr) -> Result<(), Refused> {
    match error.source().and_then(|cause| cause.downcast_ref::<h2::Error>()) {
        // Found here, not told by the peer.
        Some(cause) if cause.is_library() => {
            Err(Refused { reason: "protocol", why: format!("malformed HTTP/2: {cause}") })
        }
        _ => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            tracing::debug!(peer = %address, "connection broke off: {error}{cause}");
            Ok(())
        }
    }
}

impl Shared {
    fn refused(&self, peer: SocketAddr, Refused { reason, why }: Refused) {
        count(&self.counters.connections_refused, reason);
        if let Some(swallowed) = self.quiet.may_tell(peer) {
            tracing::warn!(%peer, reason, swallowed, "connection refused: {why}");
        }
    }

    fn stalled(&self, peer: SocketAddr, Stall { reason, call }: &Stall) {
        count(&self.counters.stalled, reason);
        if let Some(swallowed) = self.quiet.may_tell(peer) {
            tracing::warn!(%peer, reason, path = call.path, swallowed, "call ended: its client does nothing");
        }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(rest) = this.beginning.get(this.given..).filter(|rest| !rest.is_empty()) {
            let give = rest.len().min(buffer.remaining());
            buffer.put_slice(rest.get(..give).unwrap_or_default());
            this.given += give;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
