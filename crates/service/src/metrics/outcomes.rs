//! What instruments of several services are made of.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tonic::Code;

use super::{Counter, Histogram, Labelled, Metrics, lock};

/// Counts what went well and, by gRPC code, what failed. One clone counts for all.
#[derive(Debug, Clone)]
pub struct Outcomes {
    by_code: Labelled<Counter>,
    /// Looked up once: nearly all are.
    good: Counter,
}

/// Keeps a label to so many values: those that came first keep their names, all others are `other`.
#[derive(Debug, Clone)]
pub struct Bounded {
    limit: usize,
    known: Arc<Mutex<BTreeSet<String>>>,
}

/// Observes what is a number: one that is none would spoil the sum for ever.
pub fn observe(histogram: &Histogram, value: impl Into<f64>) {
    let value = value.into();
    if value.is_finite() {
        histogram.observe(value);
    }
}

/// Microseconds, as they travel, as a duration in seconds.
pub fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

/// A code as it stands in the label `code`.
fn label(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

impl Outcomes {
    /// One more of this code.
    pub fn count(&self, code: Code) {
        if code == Code::Ok {
            self.good.inc();
        } else {
            self.by_code.get_or_create(&[("code", label(code).into())]).inc();
        }
    }

    /// Registers the counters under a name without `_total`.
    pub fn register(&self, metrics: &Metrics, name: &str, help: &str) {
        metrics.add(name, help, self.by_code.clone());
    }
}

impl Default for Outcomes {
    fn default() -> Outcomes {
        let by_code = Labelled::<Counter>::default();
        let good = by_code.get_or_create_owned(&[("code", label(Code::Ok).into())]);
        Outcomes { by_code, good }
    }
}

impl Bounded {
    /// None is known yet.
    pub fn new(limit: usize) -> Bounded {
        Bounded { limit, known: Arc::default() }
    }

    /// The label's value for this name.
    pub fn value(&self, name: &str) -> String {
        let known = &mut *lock(&self.known);
        if known.contains(name) || known.len() < self.limit {
            known.insert(name.to_owned());
            return name.to_owned();
        }
        "other".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::buckets;

    #[test]
    fn outcomes_are_counted_by_code() {
        let outcomes = Outcomes::default();
        let metrics = Metrics::new("test");
        outcomes.register(&metrics, "answers", "Answers");
        for code in [Code::Ok, Code::Ok, Code::Unavailable] {
            outcomes.clone().count(code);
        }
        let page = metrics.encode();
        for line in [r#"answers_total{code="OK"} 2"#, r#"answers_total{code="UNAVAILABLE"} 1"#] {
            assert!(page.lines().any(|on_page| on_page == line), "{line} is not on {page}");
        }
    }

    #[test]
    fn a_label_has_so_many_values() {
        let links = Bounded::new(2);
        let values = ["a", "b", "c", "a", "d"].map(|name| links.clone().value(name));
        assert_eq!(values, ["a", "b", "other", "a", "other"]);
    }

    #[test]
    fn what_is_no_number_is_not_observed() {
        let histogram = buckets::snr_db();
        let metrics = Metrics::new("test");
        metrics.add("snr", "SNR", histogram.clone());
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 7.5] {
            observe(&histogram, value);
        }
        let page = metrics.encode();
        assert!(page.contains("snr_sum 7.5\nsnr_count 1\n"), "{page}");
    }
}
