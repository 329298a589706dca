//! The way to the collector: a bounded queue and a thread that sends batches of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_otlp::{RetryPolicy, SpanExporter as Otlp, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};
use tonic::transport::Endpoint;

use crate::metrics::{Counter, Metrics};
use crate::security::Credentials;

/// Finished spans that may wait.
const QUEUE: usize = 4096;
/// Spans of one batch.
const BATCH: usize = 512;
/// What a batch waits for company.
const DELAY: Duration = Duration::from_secs(1);

/// What became of spans. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct TraceMetrics {
    /// Taken by the collector.
    pub exported: Counter,
    /// Not taken: the collector was not there, or refused them.
    pub failed: Counter,
    /// Dropped because too many waited.
    pub dropped: Counter,
}

/// The SDK's queue drops what is too much silently; this counts it.
#[derive(Debug)]
pub(super) struct Processor {
    inner: BatchSpanProcessor,
    shared: Arc<Shared>,
}

/// Counts, and says once that the collector does not take anything.
#[derive(Debug)]
struct Exporter {
    inner: Otlp,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    collector: String,
    waiting: AtomicUsize,
    down: AtomicBool,
    metrics: TraceMetrics,
}

/// # Errors
/// What the exporter does not accept.
pub(super) fn processor(
    collector: &Endpoint,
    credentials: &Credentials,
    timeout: Duration,
    metrics: TraceMetrics,
) -> Result<Processor, String> {
    let otlp = Otlp::builder()
        .with_tonic()
        .with_channel(credentials.connect_lazy(collector))
        .with_timeout(timeout)
        // What cannot be sent is counted: sending it later would hold up what comes next.
        .with_retry_policy(RetryPolicy::disabled())
        .build()
        .map_err(|error| error.to_string())?;
    let shared = Arc::new(Shared {
        collector: collector.uri().to_string(),
        waiting: AtomicUsize::new(0),
        down: AtomicBool::new(false),
        metrics,
    });
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(DELAY)
        .build();
    let exporter = Exporter { inner: otlp, shared: Arc::clone(&shared) };
    let inner = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
    Ok(Processor { inner, shared })
}

impl TraceMetrics {
    pub(super) fn register(&self, metrics: &Metrics) {
        let TraceMetrics { exported, failed, dropped } = self.clone();
        metrics.add("semlink_trace_exported_spans", "Spans that the collector took", exported);
        metrics.add("semlink_trace_failed_spans", "Spans that the collector did not take", failed);
        metrics.add("semlink_trace_dropped_spans", "Spans dropped because too many waited", dropped);
    }
}

impl SpanProcessor for Processor {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.shared.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            self.shared.metrics.dropped.inc();
            return;
        }
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let Shared { collector, waiting, down, metrics } = &*self.shared;
        let spans = batch.len();
        waiting.fetch_sub(spans, Ordering::Relaxed);
        let result = self.inner.export(batch).await;
        let count = if result.is_ok() { &metrics.exported } else { &metrics.failed };
        count.inc_by(spans as u64);
        match (&result, down.swap(result.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(collector, %error, "traces cannot be sent; this is said once, see semlink_trace_failed_spans");
            }
            (Ok(()), true) => tracing::info!(collector, "traces are sent again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
