//! The page that is scraped: one request for each connection, so that there is nothing to keep up.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::Metrics;
use crate::accept::accept;

/// Connections at a time; others wait to be accepted.
const CONNECTIONS: usize = 16;
/// What a connection may take, from its start to its end: whoever says nothing or reads nothing is not waited for.
const LIFETIME: Duration = Duration::from_secs(10);
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

type Serving = Arc<dyn Fn() -> bool + Send + Sync>;

pub(super) async fn serve(
    metrics: Metrics,
    listener: TcpListener,
    serving: Serving,
    shutdown: impl Future<Output = ()>,
) {
    let address = listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
    tracing::info!(address, "metrics");
    // They are not waited for: each ends in its time.
    accept("metrics", &listener, CONNECTIONS, &TaskTracker::new(), shutdown, |stream, _| {
        let (metrics, serving) = (metrics.clone(), Arc::clone(&serving));
        async move {
            // A client that leaves, says nothing or no HTTP is no event.
            let _ = tokio::time::timeout(LIFETIME, connection(metrics, stream, serving)).await;
        }
    })
    .await;
}

async fn connection(metrics: Metrics, stream: TcpStream, serving: Serving) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let answered = answer(&metrics, &serving, &request);
        async move { Ok::<_, Infallible>(answered) }
    });
    http1::Builder::new()
        .keep_alive(false)
        // The whole connection has one.
        .header_read_timeout(None)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(metrics: &Metrics, serving: &Serving, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, OPEN_METRICS, metrics.encode()),
        (&Method::GET, "/healthz") if serving() => (StatusCode::OK, TEXT, "serving\n".to_owned()),
        (&Method::GET, "/healthz") => (StatusCode::SERVICE_UNAVAILABLE, TEXT, "not serving\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, TEXT, "there are GET /metrics and GET /healthz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
