//! Pages for browsers: HTTP/1.1 and HTTP/2 with the TLS of the services, for who draws something rather than calls it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt as _};

use crate::Peer;
use crate::accept::accept;
use crate::security::{Fingerprint, ServerSecurity};
use crate::shell::{Counters, reread};

/// Connections at a time; more wait to be accepted. A browser opens up to six for a page.
const CONNECTIONS: usize = 128;
/// For a TLS handshake, and again for a request's headers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Open requests have as long at the end.
const DRAIN: Duration = Duration::from_secs(2);
/// Of a request's headers, a token in a cookie included.
const MAX_HEADERS: usize = 16 << 10;

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Answers requests until `shutdown` ends; then open ones have two seconds. Each request has its [`Peer`] in its extensions.
pub async fn serve<S, B>(
    listener: TcpListener,
    security: ServerSecurity,
    service: S,
    shutdown: impl Future<Output = ()>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (tasks, ending, cut) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
    // Connections end with this future, however it ends.
    let _cut = cut.clone().drop_guard();
    let shutdown = async {
        tokio::select! {
            () = shutdown => {}
            // What changes is logged; nobody reads the counters of a page.
            () = reread(security.clone(), Counters::default()) => {}
        }
    };
    accept("pages", &listener, CONNECTIONS, &tasks, shutdown, |tcp, address| {
        let (security, service) = (security.clone(), service.clone());
        let (ending, cut) = (ending.clone(), cut.clone());
        async move {
            let served = cut.run_until_cancelled(connection(tcp, address, &security, service, &ending)).await;
            if let Some(Err(error)) = served {
                tracing::debug!(peer = %address, "pages: connection broke off: {error}");
            }
        }
    })
    .await;
    drop(listener);
    ending.cancel();
    tasks.close();
    if timeout(DRAIN, tasks.wait()).await.is_err() {
        cut.cancel();
        tasks.wait().await;
    }
}

async fn connection<S, B>(
    tcp: TcpStream,
    address: SocketAddr,
    security: &ServerSecurity,
    service: S,
    ending: &CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    // Events are small, and nobody is to wait for the next one.
    tcp.set_nodelay(true)?;
    let (io, certificate) = open(tcp, security).await?;
    let peer = Peer { address, certificate, encrypted: security.acceptor().is_some() };
    let service = service.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request
    });
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(MAX_HEADERS);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(Some(PATIENCE)).max_header_list_size(MAX_HEADERS as u32);
    let mut served = pin!(http.serve_connection(TokioIo::new(io), TowerToHyperService::new(service)));
    tokio::select! {
        served = served.as_mut() => served,
        () = ending.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    }
}

async fn open(tcp: TcpStream, security: &ServerSecurity) -> io::Result<(Box<dyn Io>, Option<Fingerprint>)> {
    let Some(acceptor) = security.acceptor() else { return Ok((Box::new(tcp), None)) };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time");
    let stream = timeout(PATIENCE, acceptor.accept(tcp)).await.map_err(late)??;
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = certificates.and_then(<[_]>::first).map(|certificate| Fingerprint::of(certificate));
    Ok((Box::new(stream), certificate))
}
