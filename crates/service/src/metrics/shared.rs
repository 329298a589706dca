//! Instruments of what the services have in common: the server, batches of a model, its bundle and the way to the next hop.

use super::{Counter, Gauge, Histogram, Labelled, Metrics, Unit, buckets};

/// A model's batches and its queue. Clones count together.
#[derive(Debug, Clone)]
pub struct BatchMetrics {
    /// Jobs of each batch.
    pub size: Histogram,
    /// Work on each batch.
    pub seconds: Histogram,
    /// From a job's arrival in the queue to the start of its batch.
    pub wait_seconds: Histogram,
    /// Jobs that wait.
    pub queue: Gauge,
    /// Jobs given up before their batch began: cancelled, or past their deadline.
    pub dropped: Counter,
    /// Batches on which the model panicked.
    pub panics: Counter,
}

/// The way to the next hop. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct PeerMetrics {
    /// Streams opened.
    pub connects: Counter,
    /// Attempts to open one that failed.
    pub connect_failures: Counter,
    /// Open streams that broke.
    pub disconnects: Counter,
    /// Frames sent again after their stream broke.
    pub resent: Counter,
    /// Frames given up at their deadline.
    pub expired: Counter,
    /// Reports that nobody waited for.
    pub unclaimed: Counter,
    /// Streams that are open.
    pub sessions: Gauge,
    /// Frames that are not yet reported.
    pub waiting: Gauge,
}

/// The bundles of a service that holds a model. Clones count together.
#[derive(Debug, Clone)]
pub struct BundleMetrics {
    /// Bundles that were loaded anew and serve.
    pub reloaded: Counter,
    /// Bundles that were refused; what served goes on.
    pub refused: Counter,
    reloads: Labelled<Counter>,
    /// Codecs that are held.
    held: Gauge,
    codecs: Labelled<Gauge>,
}

impl Default for BatchMetrics {
    fn default() -> BatchMetrics {
        BatchMetrics {
            size: buckets::batch(),
            seconds: buckets::seconds(),
            wait_seconds: buckets::seconds(),
            queue: Gauge::default(),
            dropped: Counter::default(),
            panics: Counter::default(),
        }
    }
}

impl BatchMetrics {
    /// Registers them with the label `model`; once in a process, so models of the same work share one instance.
    pub fn register(&self, metrics: &Metrics, model: &'static str) {
        let label = ("model", model);
        let BatchMetrics { size, seconds, wait_seconds, queue, dropped, panics } = self.clone();
        metrics.add_labelled("semlink_batch_size", "Jobs of each batch", None, label, size);
        metrics.add_labelled("semlink_batch", "Work on each batch", Some(Unit::Seconds), label, seconds);
        metrics.add_labelled(
            "semlink_batch_wait",
            "From a job's arrival to the start of its batch",
            Some(Unit::Seconds),
            label,
            wait_seconds,
        );
        metrics.add_labelled("semlink_batch_queue", "Jobs that wait", None, label, queue);
        metrics.add_labelled("semlink_batch_dropped", "Jobs given up before their batch", None, label, dropped);
        metrics.add_labelled("semlink_batch_panics", "Batches on which the model panicked", None, label, panics);
    }
}

impl PeerMetrics {
    /// Registers them.
    pub fn register(&self, metrics: &Metrics) {
        let PeerMetrics { connects, connect_failures, disconnects, resent, expired, unclaimed, sessions, waiting } =
            self.clone();
        metrics.add("semlink_next_connects", "Streams opened to the next hop", connects);
        metrics.add("semlink_next_connect_failures", "Attempts to open a stream that failed", connect_failures);
        metrics.add("semlink_next_disconnects", "Open streams that broke", disconnects);
        metrics.add("semlink_next_resent_frames", "Frames sent again after their stream broke", resent);
        metrics.add("semlink_next_expired_frames", "Frames given up at their deadline", expired);
        metrics.add("semlink_next_unclaimed_reports", "Reports that nobody waited for", unclaimed);
        metrics.add("semlink_next_sessions", "Streams that are open", sessions);
        metrics.add("semlink_next_waiting_frames", "Frames that are not yet reported", waiting);
    }
}

impl Default for BundleMetrics {
    fn default() -> BundleMetrics {
        let reloads = Labelled::<Counter>::default();
        let result = |result: &'static str| reloads.get_or_create_owned(&[("result", result.into())]);
        let (reloaded, refused) = (result("ok"), result("refused"));
        BundleMetrics { reloaded, refused, reloads, held: Gauge::default(), codecs: Labelled::default() }
    }
}

impl BundleMetrics {
    /// Exactly these codecs are held now.
    pub fn hold<'a>(&self, codec_ids: impl IntoIterator<Item = &'a str>) {
        self.codecs.clear();
        let mut held = 0;
        for codec_id in codec_ids {
            self.codecs.get_or_create(&[("codec_id", codec_id.to_owned().into())]).set(1);
            held += 1;
        }
        self.held.set(held);
    }

    /// Registers them.
    pub fn register(&self, metrics: &Metrics) {
        metrics.add("semlink_bundle_reloads", "Bundles loaded while serving", self.reloads.clone());
        metrics.add("semlink_bundle_codecs", "Codecs that are held", self.held.clone());
        metrics.add("semlink_bundle_codec", "1 for each codec that is held", self.codecs.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_that_are_let_go_leave_the_page() {
        let (bundles, metrics) = (BundleMetrics::default(), Metrics::new("test"));
        bundles.register(&metrics);
        bundles.hold(["old", "new"]);
        bundles.reloaded.inc();
        bundles.hold(["new"]);
        let page = metrics.encode();
        for line in [
            r#"semlink_bundle_codec{codec_id="new"} 1"#,
            "semlink_bundle_codecs 1",
            r#"semlink_bundle_reloads_total{result="ok"} 1"#,
            r#"semlink_bundle_reloads_total{result="refused"} 0"#,
        ] {
            assert!(page.lines().any(|on_page| on_page == line), "{line} is not on {page}");
        }
        assert!(!page.contains("old"), "{page}");
    }
}
