//! The page, its events, and what it asks for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::rejection::{BytesRejection, JsonRejection};
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use semlink_channel::ChannelKind;
use semlink_channel_emulator::CsiMode;
use semlink_proto::v1::{self, ClassifyRequest, SetChannelRequest};
use semlink_service::{Peer, wire};
use semlink_transmitter::rate::Rate;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Code, Status};

use super::guard::Need;
use super::{Dashboard, codec, feed, follow, settings};

/// Pages that may be open.
const PAGES: usize = 32;
/// Of requests other than images.
const MAX_JSON: usize = 16 << 10;
/// A connection whose page is gone is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Nothing but what this page serves may run, load or frame it.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'",
);

type Shared = State<Arc<Dashboard>>;

/// A request that failed, as the page tells it.
pub(super) struct Failed(StatusCode, String);

/// An open page; counted while it is.
struct Page(Arc<Dashboard>);

pub(super) fn router(dashboard: &Arc<Dashboard>) -> Router {
    let token = |need: Need| {
        let dashboard = Arc::clone(dashboard);
        middleware::from_fn(move |request: Request, next: Next| {
            let dashboard = Arc::clone(&dashboard);
            async move {
                match dashboard.check_token(need, &request) {
                    Ok(()) => next.run(request).await,
                    Err(status) => Failed::from(status).into_response(),
                }
            }
        })
    };
    let see = Router::new().route("/events", get(events)).route("/images/{index}", get(image));
    let send = Router::new()
        .route("/api/classify", post(classify).layer(DefaultBodyLimit::max(dashboard.max_image_bytes)))
        .route("/api/feed", post(feed))
        .route("/api/curve", delete(clear));
    let control = Router::new()
        .route("/api/channel", post(channel))
        .route("/api/channel", delete(reset))
        .route("/api/sweep", post(sweep))
        .route("/api/sweep", delete(stop_sweep));
    Router::new()
        .merge(see.layer(token(Need::See)))
        .merge(send.layer(token(Need::Send)))
        // A sweep sends images, too: whoever may change the channel may.
        .merge(control.layer(token(Need::Control)))
        .route("/api/token", post(token_given))
        .route("/", get(|| page("text/html; charset=utf-8", include_str!("page/index.html"))))
        .route("/style.css", get(|| page("text/css; charset=utf-8", include_str!("page/style.css"))))
        .route("/page.js", get(|| page("text/javascript; charset=utf-8", include_str!("page/page.js"))))
        .route("/charts.js", get(|| page("text/javascript; charset=utf-8", include_str!("page/charts.js"))))
        .route("/icon.svg", get(|| page("image/svg+xml", include_str!("page/icon.svg"))))
        .fallback(|| async { Failed(StatusCode::NOT_FOUND, "there is no such page; the dashboard is at /".to_owned()) })
        .layer(DefaultBodyLimit::max(MAX_JSON))
        .layer(middleware::from_fn_with_state(Arc::clone(dashboard), own))
        .with_state(Arc::clone(dashboard))
}

/// Refuses what does not come from this page, and says what a browser may do with the answer.
async fn own(State(dashboard): Shared, request: Request, next: Next) -> Response {
    let mut response = match dashboard.check_origin(&request) {
        Ok(()) => next.run(request).await,
        Err(why) => Failed(StatusCode::FORBIDDEN, why).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    response
}

async fn page(kind: &'static str, text: &'static str) -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(CONTENT_TYPE, kind)], text)
}

/// Settings and live figures as they change. A page that reads slowly misses some, and never the last.
async fn events(State(dashboard): Shared) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failed> {
    let page = Page::open(&dashboard)
        .ok_or_else(|| Failed(StatusCode::SERVICE_UNAVAILABLE, format!("{PAGES} pages are open already; close one")))?;
    let named = |name: &'static str, texts: watch::Receiver<String>| {
        WatchStream::new(texts).map(move |text| Ok(Event::default().event(name).data(text)))
    };
    dashboard.settings.show();
    dashboard.live.show();
    let settings = named("settings", dashboard.settings.subscribe());
    let live = named("live", dashboard.live.subscribe());
    let held = stream::select(settings, live).map(move |event| {
        // Left when the stream is dropped.
        let _ = &page;
        event
    });
    Ok(Sse::new(held).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl Page {
    fn open(dashboard: &Arc<Dashboard>) -> Option<Page> {
        let opened = dashboard.pages.send_if_modified(|pages| {
            let room = *pages < PAGES;
            *pages += usize::from(room);
            room
        });
        opened.then(|| Page(Arc::clone(dashboard)))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.0.pages.send_modify(|pages| *pages = pages.saturating_sub(1));
    }
}

/// An image of the data set.
async fn image(State(dashboard): Shared, Path(index): Path<usize>) -> Result<Response, Failed> {
    let image = dashboard.link.dataset.as_ref().and_then(|data| data.images.get(index));
    let image = image.ok_or_else(|| Failed(StatusCode::NOT_FOUND, format!("there is no image {index}")))?;
    let kind = match image.file.first() {
        Some(0x89) => "image/png",
        Some(0xff) => "image/jpeg",
        _ => "image/webp",
    };
    let headers = [(CONTENT_TYPE, kind), (CACHE_CONTROL, "private, max-age=3600")];
    Ok((headers, Body::from(image.file.clone())).into_response())
}

/// The fields of a channel that a page changes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChannelChange {
    kind: Option<ChannelKind>,
    snr_db: Option<f32>,
    k_factor_db: Option<f32>,
    coherence: Option<u32>,
    csi: Option<String>,
}

async fn channel(
    State(dashboard): Shared,
    change: Result<Json<ChannelChange>, JsonRejection>,
) -> Result<Json<settings::Channel>, Failed> {
    let Json(change) = change?;
    let csi = |text: String| text.parse::<CsiMode>().map_err(|error| Failed::bad(&format!("csi {text:?}: {error}")));
    let csi = change.csi.map(csi).transpose()?;
    let request = SetChannelRequest {
        link: dashboard.link.link.clone(),
        kind: change.kind.map(|kind| wire::kind(kind).into()),
        snr_db: change.snr_db,
        k_factor_db: change.k_factor_db,
        coherence: change.coherence,
        csi: csi.map(|mode| mode.to_wire().into()),
        ..Default::default()
    };
    dashboard.must_not_sweep()?;
    let set = dashboard.control.clone().set_channel(request).await;
    dashboard.changed(set)
}

async fn reset(State(dashboard): Shared) -> Result<Json<settings::Channel>, Failed> {
    dashboard.must_not_sweep()?;
    let request = v1::ResetChannelRequest { link: dashboard.link.link.clone() };
    let set = dashboard.control.clone().reset_channel(request).await;
    dashboard.changed(set)
}

impl Dashboard {
    fn must_not_sweep(&self) -> Result<(), Failed> {
        if self.settings.with(|now| now.sweep.running) {
            return Err(Failed(StatusCode::CONFLICT, "a sweep changes the channel; stop it first".to_owned()));
        }
        Ok(())
    }

    fn changed(
        &self,
        set: Result<tonic::Response<v1::ChannelProfile>, Status>,
    ) -> Result<Json<settings::Channel>, Failed> {
        let profile = set.map_err(|status| Failed::told(self.link.control.as_str(), &status))?.into_inner();
        follow::changed(self, &profile);
        Ok(Json((&profile).into()))
    }
}

/// The fields of the page's images that it changes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FeedChange {
    paused: Option<bool>,
    /// `auto`, a number of channel uses, or empty for what the transmitter does.
    rate: Option<String>,
    images_per_second: Option<f64>,
}

async fn feed(State(dashboard): Shared, change: Result<Json<FeedChange>, JsonRejection>) -> Result<StatusCode, Failed> {
    let Json(change) = change?;
    if change.rate.is_some() && dashboard.settings.with(|now| now.codec.is_none()) {
        codec::look(&dashboard).await;
    }
    let rate = change.rate.map(|text| dashboard.rate(&text)).transpose()?;
    if let Some(number) = change.images_per_second {
        settings::check_rate(number).map_err(|error| Failed::bad(&error))?;
    }
    dashboard.settings.update(|now| {
        now.feed.paused = change.paused.unwrap_or(now.feed.paused);
        now.feed.rate = rate.unwrap_or(now.feed.rate);
        now.feed.images_per_second = change.images_per_second.unwrap_or(now.feed.images_per_second);
    });
    dashboard.nudge.notify_one();
    Ok(StatusCode::NO_CONTENT)
}

impl Dashboard {
    /// A rate that this codec has.
    fn rate(&self, text: &str) -> Result<Option<Rate>, Failed> {
        if text.is_empty() {
            return Ok(None);
        }
        let rate: Rate = text.parse().map_err(|error| Failed::bad(&format!("rate: {error}")))?;
        if let Rate::Fixed(uses) = rate {
            let refused = self.settings.with(|now| {
                let known = &now.codec.as_ref()?.uses;
                (!known.iter().any(|k| *k as usize == uses.get()))
                    .then(|| format!("rate {uses}: this codec has {known:?}"))
            });
            if let Some(why) = refused {
                return Err(Failed::bad(&why));
            }
        }
        Ok(Some(rate))
    }
}

async fn clear(State(dashboard): Shared) -> StatusCode {
    dashboard.live.update(super::live::Live::clear);
    dashboard.settings.update(|now| {
        if !now.sweep.running {
            now.sweep = settings::Sweep::default();
        }
    });
    StatusCode::NO_CONTENT
}

/// An image that somebody dropped on the page.
async fn classify(State(dashboard): Shared, image: Result<Bytes, BytesRejection>) -> Result<Response, Failed> {
    let image = image.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Failed(StatusCode::PAYLOAD_TOO_LARGE, format!("the file has more than {} bytes", dashboard.max_image_bytes))
        }
        status => Failed(status, error.to_string()),
    })?;
    let rate = dashboard.settings.with(|now| now.feed.rate);
    let began = Instant::now();
    let answer = dashboard.classify(ClassifyRequest { image, ..feed::asked(rate) }).await;
    let answer = answer.map_err(|status| match status.code() {
        // What is wrong with this image, not with the service.
        Code::InvalidArgument => Failed::bad(&status.message()),
        _ => Failed::told(dashboard.link.to.as_str(), &status),
    })?;
    let (decision, link) = (answer.decision.unwrap_or_default(), answer.link.unwrap_or_default());
    let top = decision.top.iter().map(|other| json!({"label": other.label, "probability": other.probability}));
    let told = json!({
        "label": decision.label, "confidence": decision.confidence, "unsure": decision.unsure, "top": top.collect::<Vec<_>>(),
        "uses": link.uses, "pilots": link.pilots, "snr_db_estimated": link.snr_db_estimated,
        "milliseconds": began.elapsed().as_secs_f64() * 1e3,
    });
    Ok(Json(told).into_response())
}

/// What to sweep.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SweepOrder {
    /// A list or a range, as `semlink sweep --snr` takes it.
    pub(super) snr: String,
    pub(super) channels: Vec<ChannelKind>,
    pub(super) images: usize,
}

async fn sweep(State(dashboard): Shared, order: Result<Json<SweepOrder>, JsonRejection>) -> Result<StatusCode, Failed> {
    let Json(order) = order?;
    dashboard.start_sweep(order).await.map_err(|why| Failed::bad(&why))?;
    Ok(StatusCode::ACCEPTED)
}

async fn stop_sweep(State(dashboard): Shared) -> StatusCode {
    dashboard.sweeping.lock().await.stop().await;
    StatusCode::NO_CONTENT
}

#[derive(Debug, Deserialize)]
struct Given {
    token: String,
}

/// Keeps a token in a cookie.
async fn token_given(State(dashboard): Shared, request: Request) -> Result<Response, Failed> {
    let peer = request.extensions().get::<Peer>().cloned();
    let body = axum::body::to_bytes(request.into_body(), MAX_JSON).await.map_err(|error| Failed::bad(&error))?;
    // Not with serde's message: it may show a piece of the token.
    let Given { token } = serde_json::from_slice(&body).map_err(|_| Failed::bad(&"expected {\"token\": \"...\"}"))?;
    let cookie = dashboard.cookie(token.trim(), peer.as_ref())?;
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response())
}

impl Failed {
    fn bad(why: &impl ToString) -> Failed {
        Failed(StatusCode::BAD_REQUEST, why.to_string())
    }

    /// What a service says, with its address where it cannot be reached.
    fn told(url: &str, status: &Status) -> Failed {
        if status.code() == Code::InvalidArgument {
            return Failed::bad(&status.message());
        }
        Failed(code(status.code()), codec::told(url, status))
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Failed {
        Failed(code(status.code()), status.message().to_owned())
    }
}

impl From<JsonRejection> for Failed {
    fn from(rejection: JsonRejection) -> Failed {
        Failed(rejection.status(), rejection.body_text())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Failed(status, error) = self;
        (status, Json(json!({ "error": error }))).into_response()
    }
}

fn code(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_GATEWAY,
    }
}
