//! One piece of work within a trace.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status as Outcome, TraceContextExt as _, Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};
use tonic::Status;

use super::{Inner, context};

/// Work that is traced, from its creation to its drop; of what is not traced, nothing.
#[derive(Default)]
pub struct Span(Option<Box<Active>>);

struct Active {
    span: opentelemetry_sdk::trace::Span,
    traces: Arc<Inner>,
}

impl Span {
    /// Of work that is not traced.
    pub const fn none() -> Span {
        Span(None)
    }

    pub(super) fn begin(traces: Arc<Inner>, builder: SpanBuilder, parent: Option<SpanContext>) -> Span {
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let span = traces.tracer().build_with_context(builder, &context);
        Span(span.is_recording().then(|| Box::new(Active { span, traces })))
    }

    /// Whether it is traced: for attributes that cost something.
    pub fn is_traced(&self) -> bool {
        self.0.is_some()
    }

    /// Work within this one.
    #[must_use]
    pub fn child(&self, name: &'static str) -> Span {
        self.within(|| SpanBuilder::from_name(name).with_kind(SpanKind::Internal))
    }

    /// A call to the next hop within this one: its [`Span::traceparent`] goes along.
    #[must_use]
    pub fn call(&self, name: &'static str) -> Span {
        self.within(|| SpanBuilder::from_name(name).with_kind(SpanKind::Client))
    }

    fn within(&self, builder: impl FnOnce() -> SpanBuilder) -> Span {
        match &self.0 {
            Some(active) => {
                Span::begin(Arc::clone(&active.traces), builder(), Some(active.span.span_context().clone()))
            }
            None => Span::none(),
        }
    }

    /// Adds work that is over, by its start and how long it took.
    pub fn phase(&self, name: &'static str, start: Instant, lasted: Duration) {
        if self.0.is_none() {
            return;
        }
        let now = SystemTime::now();
        let start = now.checked_sub(start.elapsed()).unwrap_or(now);
        let mut span = self.within(|| SpanBuilder::from_name(name).with_start_time(start));
        if let Some(active) = &mut span.0 {
            active.span.end_with_timestamp(start + lasted);
        }
    }

    /// Says something about it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(active) = &mut self.0 {
            active.span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// It failed. The message goes along, so that it must hold no secret, as in every answer.
    pub fn fail(&mut self, status: &Status) {
        if let Some(active) = &mut self.0 {
            active.span.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(status.code() as i32)));
            active.span.set_status(Outcome::error(status.message().to_owned()));
        }
    }

    /// W3C trace context for the next hop; `None` where nothing is traced.
    pub fn traceparent(&self) -> Option<String> {
        self.0.as_ref().map(|active| context::format(active.span.span_context()))
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.traceparent()).finish()
    }
}
