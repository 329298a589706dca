//! Traces for OpenTelemetry: one trace follows an image across all hops, sent to a collector over OTLP/gRPC.
//!
//! The hop at which an image enters decides whether it is traced; those behind it learn it from the W3C `traceparent` that travels with the
//! frame. What is not traced costs one comparison and no memory. A collector that is slow or not there holds nothing up: finished spans
//! wait in a bounded queue, those beyond it are dropped and counted.

mod context;
mod export;
mod span;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanBuilder, SpanContext, SpanKind, TracerProvider as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, Sampler, SdkTracer, SdkTracerProvider};
use tonic::transport::Endpoint;

pub use context::{TRACEPARENT, parent};
pub use export::TraceMetrics;
pub use span::Span;

use crate::config::Problems;
use crate::metrics::{Metrics, is_loopback};
use crate::security::Credentials;

/// What the last spans have to reach the collector at shutdown.
const FLUSH: Duration = Duration::from_secs(3);
/// What a connection to the collector may take, and a batch of spans.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Flags of every service.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// OpenTelemetry collector to send traces to over OTLP/gRPC, as in http://127.0.0.1:4317; off unless given.
    #[arg(long, env = "SEMLINK_TRACES", value_name = "URL")]
    pub traces: Option<String>,
    /// Authorities in PEM that the certificate of an https:// collector must come from; without it the system's count.
    #[arg(long, env = "SEMLINK_TRACES_CA", value_name = "FILE", requires = "traces")]
    pub traces_ca: Option<PathBuf>,
    /// Fraction of images that are traced, of those that do not bring a trace along.
    #[arg(long, env = "SEMLINK_TRACE_SAMPLE", value_name = "FRACTION", default_value_t = 0.01)]
    pub trace_sample: f64,
}

/// Where spans begin; cheap to clone.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Inner>>);

pub(crate) struct Inner {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    sampled: Ratio,
    metrics: TraceMetrics,
}

/// Says yes to a fraction of all questions, evenly spread and cheaply.
struct Ratio {
    threshold: u64,
    all: bool,
    state: AtomicU64,
}

impl Default for TraceArgs {
    fn default() -> TraceArgs {
        TraceArgs { traces: None, traces_ca: None, trace_sample: 0.01 }
    }
}

impl TraceArgs {
    /// Notes what is wrong. Spans in plain text to another host must be wanted (`plaintext`).
    pub fn check(&self, problems: &mut Problems, plaintext: bool) {
        problems.within("--trace-sample", self.trace_sample, 0.0, 1.0);
        let Some(url) = &self.traces else { return };
        let setting = format!("--traces {url:?}");
        let Some(endpoint) = problems.check(&setting, endpoint(url)) else { return };
        let authority = endpoint.uri().authority().map(|authority| authority.as_str()).unwrap_or_default();
        if endpoint.uri().scheme_str() == Some("http") && !plaintext && !is_loopback(authority) {
            problems
                .add(&setting, "spans would travel in plain text; use https:// or allow it with --plaintext traces");
        }
    }

    /// The collector, if one was given.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn endpoint(&self) -> Result<Option<Endpoint>, String> {
        self.traces.as_deref().map(endpoint).transpose()
    }

    /// Whom its certificate is checked against; the file is read.
    pub fn credentials(&self, problems: &mut Problems) -> Option<Credentials> {
        match &self.traces_ca {
            Some(ca) => Credentials::trusting("--traces-ca", ca.clone(), problems),
            None => Some(Credentials::none()),
        }
    }
}

fn endpoint(url: &str) -> Result<Endpoint, String> {
    let wrong = || "no address of a collector, expected http://HOST:PORT or https://HOST:PORT".to_owned();
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| wrong())?;
    let uri = endpoint.uri();
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    let is_bare = uri.path_and_query().is_none_or(|path| path == "/")
        && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    if !matches!(uri.scheme_str(), Some("http" | "https")) || !has_host || uri.port_u16().is_none() || !is_bare {
        return Err(wrong());
    }
    Ok(endpoint.connect_timeout(EXPORT_TIMEOUT).timeout(EXPORT_TIMEOUT))
}

impl Traces {
    /// No traces at all.
    pub fn off() -> Traces {
        Traces::default()
    }

    /// Traces of this service, sent to a collector; of images that bring no trace along, a fraction `sample` is traced.
    ///
    /// It connects when there is something to send, and again whenever it has to.
    ///
    /// # Errors
    /// What the exporter does not accept.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(
        service: &'static str,
        collector: &Endpoint,
        credentials: &Credentials,
        sample: f64,
    ) -> Result<Traces, String> {
        let metrics = TraceMetrics::default();
        let ids = RandomIdGenerator::default();
        let resource = Resource::builder_empty()
            .with_service_name(service)
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", ids.new_trace_id().to_string()),
            ])
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(export::processor(collector, credentials, EXPORT_TIMEOUT, metrics.clone())?)
            // `Traces` decides before a span is made.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("semlink");
        let seed = u64::from_be_bytes(ids.new_span_id().to_bytes());
        Ok(Traces(Some(Arc::new(Inner { tracer, provider, sampled: Ratio::new(sample, seed), metrics }))))
    }

    /// The span of work that enters here: part of the caller's trace where it brings one along (which also decides whether it is traced),
    /// else, for a fraction of them, the beginning of one.
    pub fn start(&self, name: &'static str, traceparent: Option<&str>) -> Span {
        let Some(inner) = &self.0 else { return Span::none() };
        match traceparent.and_then(context::parse) {
            Some(parent) if parent.is_sampled() => inner.span(name, SpanKind::Server, Some(parent)),
            Some(_) => Span::none(),
            None if inner.sampled.next() => inner.span(name, SpanKind::Server, None),
            None => Span::none(),
        }
    }

    /// The span of work on a frame: part of the trace that the frame names; none for one that names none, as the hop before has decided.
    pub fn follow(&self, name: &'static str, traceparent: &str) -> Span {
        if traceparent.is_empty() { Span::none() } else { self.follow_some(name, traceparent) }
    }

    fn follow_some(&self, name: &'static str, traceparent: &str) -> Span {
        let Some(inner) = &self.0 else { return Span::none() };
        match context::parse(traceparent).filter(SpanContext::is_sampled) {
            Some(parent) => inner.span(name, SpanKind::Server, Some(parent)),
            None => Span::none(),
        }
    }

    /// Registers what became of spans.
    pub fn register(&self, metrics: &Metrics) {
        match &self.0 {
            Some(inner) => inner.metrics.register(metrics),
            None => TraceMetrics::default().register(metrics),
        }
    }

    /// Sends what is finished, for three seconds at most; what ends later is lost.
    pub async fn shutdown(&self) {
        let Some(inner) = &self.0 else { return };
        let provider = inner.provider.clone();
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH)).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "not all traces reached the collector");
        }
    }
}

impl Inner {
    fn span(self: &Arc<Self>, name: &'static str, kind: SpanKind, parent: Option<SpanContext>) -> Span {
        Span::begin(Arc::clone(self), SpanBuilder::from_name(name).with_kind(kind), parent)
    }

    fn tracer(&self) -> &SdkTracer {
        &self.tracer
    }
}

impl Ratio {
    fn new(fraction: f64, seed: u64) -> Ratio {
        // A float's cast saturates; a NaN becomes 0.
        let threshold = (fraction * 2_f64.powi(64)) as u64;
        Ratio { threshold, all: fraction >= 1.0, state: AtomicU64::new(seed) }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014) on a shared counter.
    fn next(&self) -> bool {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut bits = self.state.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.all || (bits ^ (bits >> 31)) < self.threshold
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Traces(on)" } else { "Traces(off)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_is_traced() {
        for fraction in [0.0, 0.01, 0.5, 1.0] {
            let (ratio, n) = (Ratio::new(fraction, 7), 100_000_f64);
            let yes = (0..n as usize).filter(|_| ratio.next()).count() as f64;
            // Five standard deviations of a binomial draw; none at the ends.
            let tolerance = 5.0 * (n * fraction * (1.0 - fraction)).sqrt();
            assert!((yes - n * fraction).abs() <= tolerance, "{yes} of {n} at {fraction}");
        }
    }

    #[test]
    fn a_collector_is_an_address_and_plain_text_must_be_wanted() {
        let told = |url: &str, trace_sample, plaintext| {
            let mut problems = Problems::new();
            TraceArgs { traces: Some(url.to_owned()), traces_ca: None, trace_sample }.check(&mut problems, plaintext);
            problems.finish(Some(())).err().map(|error| error.to_string()).unwrap_or_default()
        };
        for url in ["http://127.0.0.1:4317", "http://localhost:4317/", "http://[::1]:4317", "https://otel.example:4317"]
        {
            assert_eq!(told(url, 1.0, false), "", "{url}");
        }
        for url in
            ["", "otel", "http://", "http://otel", "grpc://otel:4317", "http://u:p@otel:4317", "http://otel:1/v1"]
        {
            assert!(told(url, 1.0, true).contains("--traces"), "{url}");
        }
        assert!(told("http://otel:4317", 1.0, false).contains("--plaintext traces"));
        assert_eq!(told("http://otel:4317", 1.0, true), "");
        for sample in [-0.1, 1.5, f64::NAN] {
            assert!(told("http://127.0.0.1:4317", sample, false).contains("--trace-sample"), "{sample}");
        }
    }

    #[test]
    fn off_is_nothing() {
        let traces = Traces::off();
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for span in [traces.start("a", None), traces.start("a", Some(parent)), traces.follow("a", parent)] {
            assert_eq!(span.traceparent(), None);
        }
    }
}
