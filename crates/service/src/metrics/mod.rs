//! Metrics for Prometheus: a registry, the instruments that all services have, and the page that is scraped.
//!
//! Instruments are structs of handles: `Default`, shared by their clones, and at work whether or not they are registered, so that no code
//! asks whether metrics are on. What happens for each frame touches counters (one atomic addition) and histograms (one short lock); labels are
//! looked up beforehand, wherever their values are known then. `docs/METRICS.md` lists every name; tests compare it with what is registered.

pub mod buckets;
mod check;
mod document;
mod http;
mod outcomes;
mod process;
mod shared;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clap::Args;
use prometheus_client::encoding::text;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};
use tokio::net::TcpListener;

pub use document::differences;
pub use outcomes::{Bounded, Outcomes, observe, seconds};
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::registry::Unit;
pub use shared::{BatchMetrics, BundleMetrics, PeerMetrics};

use crate::config::{ListenAddress, Problems};
use crate::security::is_loopback_host;
use crate::{Error, metrics::process::Process};

/// One label.
pub type Label = [(&'static str, Cow<'static, str>); 1];
/// Metrics of one name that differ in a label.
pub type Labelled<M, C = fn() -> M> = Family<Label, M, C>;
/// A gauge that is no whole number.
pub type Level = Gauge<f64, std::sync::atomic::AtomicU64>;

/// Flags of every service.
#[derive(Debug, Clone, Default, Args)]
pub struct MetricsArgs {
    /// Address to serve Prometheus metrics (/metrics) and readiness (/healthz) on, over plain HTTP; off unless given.
    #[arg(long, env = "SEMLINK_METRICS", value_name = "ADDR")]
    pub metrics: Option<String>,

    /// Starts nothing: asks the service that runs with the same --metrics whether it serves, and exits with 0 or 1
    #[arg(long)]
    pub check_health: bool,
}

/// The metrics of one service; cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    known: Mutex<BTreeMap<String, Described>>,
    process: Option<Process>,
}

/// What is said of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// As PromQL has it: with unit and `_total`.
    pub name: String,
    /// counter, gauge, histogram or info.
    pub kind: String,
}

impl MetricsArgs {
    /// Notes what is wrong. Anybody may read what is served here, so that an address beyond loopback must be wanted (`plaintext`).
    pub fn check(&self, problems: &mut Problems, plaintext: bool) {
        let Some(address) = &self.metrics else { return };
        if problems.parse::<ListenAddress>("--metrics", address).is_some() && !plaintext && !is_loopback(address) {
            problems.add(
                &format!("--metrics {address:?}"),
                "other hosts could read it in plain text; listen on loopback or allow it with --plaintext metrics",
            );
        }
    }

    /// Listens, if an address was given.
    ///
    /// # Errors
    /// [`Error::Listen`] naming an address that cannot be had.
    pub async fn listen(&self) -> Result<Option<TcpListener>, Error> {
        let Some(address) = &self.metrics else { return Ok(None) };
        let bound = TcpListener::bind(address).await;
        bound.map(Some).map_err(|source| Error::Listen { address: address.clone(), source })
    }
}

/// Whether only this host reaches `HOST:PORT`.
pub(crate) fn is_loopback(address: &str) -> bool {
    is_loopback_host(address.rsplit_once(':').map_or(address, |(host, _)| host))
}

impl Metrics {
    /// A registry that tells which service and version this is, and what its process takes.
    pub fn new(service: &'static str) -> Metrics {
        let process = Process::new();
        let inner = Inner { registry: Mutex::default(), known: Mutex::default(), process };
        let metrics = Metrics(Arc::new(inner));
        let build = Info::new([("service", service), ("version", env!("CARGO_PKG_VERSION"))]);
        metrics.add("semlink_build", "The service and its version", build);
        if let Some(process) = &metrics.0.process {
            process.register(&metrics);
        }
        metrics
    }

    /// Registers a metric by its name without unit and `_total`.
    pub fn add(&self, name: &str, help: &str, metric: impl Metric) {
        self.register(name, help, None, None, metric);
    }

    /// The same with a unit, which becomes part of the name.
    pub fn add_with_unit(&self, name: &str, help: &str, unit: Unit, metric: impl Metric) {
        self.register(name, help, Some(unit), None, metric);
    }

    /// The same with a label that all of the metric's samples get.
    pub(crate) fn add_labelled(
        &self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        label: (&'static str, &'static str),
        metric: impl Metric,
    ) {
        self.register(name, help, unit, Some(label), metric);
    }

    fn register(
        &self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        label: Option<(&'static str, &'static str)>,
        metric: impl Metric,
    ) {
        let kind = metric.metric_type();
        let described = Described { name: exposed(name, unit.as_ref(), kind), kind: kind.as_str().to_owned() };
        let known = &mut *lock(&self.0.known);
        if known.contains_key(&described.name) {
            // The page would not be valid any more.
            tracing::error!(name = described.name, "a metric was registered twice; the second is not served");
            return;
        }
        known.insert(described.name.clone(), described);
        let registry = &mut *lock(&self.0.registry);
        let registry = match label {
            Some((key, value)) => registry.sub_registry_with_label((key.into(), value.into())),
            None => registry,
        };
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, metric),
            None => registry.register(name, help, metric),
        }
    }

    /// All that are registered, by name.
    pub fn described(&self) -> Vec<Described> {
        lock(&self.0.known).values().cloned().collect()
    }

    /// The page as OpenMetrics text.
    pub fn encode(&self) -> String {
        if let Some(process) = &self.0.process {
            process.refresh();
        }
        let mut page = String::new();
        if text::encode(&mut page, &lock(&self.0.registry)).is_err() {
            // Writing to a string does not fail.
            tracing::error!("the metrics cannot be written");
        }
        page
    }

    /// Serves GET `/metrics`, and GET `/healthz` with 200 or, while not `serving`, 503; until `shutdown` ends.
    ///
    /// At the limits: sixteen connections, each for one request and at most ten seconds.
    pub async fn serve(
        self,
        listener: TcpListener,
        serving: impl Fn() -> bool + Send + Sync + 'static,
        shutdown: impl Future<Output = ()>,
    ) {
        http::serve(self, listener, Arc::new(serving), shutdown).await;
    }
}

/// A metric's name as it is served.
fn exposed(name: &str, unit: Option<&Unit>, kind: MetricType) -> String {
    let unit = unit.map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
    let suffix = match kind {
        MetricType::Counter => "_total",
        MetricType::Info => "_info",
        _ => "",
    };
    format!("{name}{unit}{suffix}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_served_with_unit_and_suffix() {
        let metrics = Metrics::new("test");
        metrics.add_with_unit("a_wait", "Waiting", Unit::Seconds, buckets::seconds());
        metrics.add("a_thing", "Things", Counter::<u64>::default());
        metrics.add("a_depth", "Depth", Gauge::<i64>::default());
        let page = metrics.encode();
        for described in metrics.described() {
            assert!(page.contains(&described.name), "{} is not on {page}", described.name);
        }
        for line in ["# TYPE a_wait_seconds histogram", "a_thing_total 0", "a_depth 0", "a_wait_seconds_count 0"] {
            assert!(page.lines().any(|on_page| on_page == line), "{line} is not on {page}");
        }
        assert!(page.contains(r#"semlink_build_info{service="test",version=""#), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
    }

    #[test]
    fn a_name_is_served_once() {
        let metrics = Metrics::new("test");
        for _ in 0..2 {
            metrics.add("twice", "Twice", Counter::<u64>::default());
        }
        assert_eq!(metrics.encode().matches("# TYPE twice ").count(), 1);
    }

    #[test]
    fn an_address_beyond_loopback_must_be_wanted() {
        let told = |address: &str, plaintext| {
            let mut problems = Problems::new();
            MetricsArgs { metrics: Some(address.to_owned()), ..MetricsArgs::default() }.check(&mut problems, plaintext);
            problems.finish(Some(())).err().map(|error| error.to_string()).unwrap_or_default()
        };
        for address in ["127.0.0.1:9464", "127.9.9.9:1", "[::1]:9464", "localhost:9464"] {
            assert_eq!(told(address, false), "", "{address}");
        }
        for address in ["0.0.0.0:9464", "[::]:9464", "edge-7:9464", "localhost.example.org:1"] {
            assert!(told(address, false).contains("--plaintext metrics"), "{address}");
            assert_eq!(told(address, true), "", "{address}");
        }
        assert!(told("9464", true).contains("--metrics"), "no address is an error whatever is allowed");
        let mut problems = Problems::new();
        MetricsArgs::default().check(&mut problems, false);
        assert!(problems.finish(Some(())).is_ok());
    }
}
