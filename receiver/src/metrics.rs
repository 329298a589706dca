//! What the receiver measures.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use semlink_proto::v1;
use semlink_service::metrics::{
    Bounded, Counter, Gauge, Histogram, Labelled, Level, Metrics, Outcomes, Unit, buckets, observe, seconds,
};
use tonic::Code;

/// Classes with a counter of their own.
const CLASSES: usize = 100;

/// The receiver's instruments. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct ReceiverMetrics {
    frames: Outcomes,
    repeated: Counter,
    by_phase: Labelled<Histogram>,
    queue: Histogram,
    decode: Histogram,
    uses: Histogram,
    symbols: Labelled<Counter>,
    payload: Counter,
    pilots: Counter,
    snr: Histogram,
    last_snr: Level,
    confidence: Histogram,
    unsure: Counter,
    classes: Labelled<Counter>,
    names: Bounded,
    /// Counters of the classes of all codecs that were ever held.
    by_name: Arc<RwLock<HashMap<String, Counter>>>,
    other: Counter,
    subscribers: Gauge,
    lost: Counter,
}

/// A consumer of decisions, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Subscriber(Gauge);

impl Default for ReceiverMetrics {
    fn default() -> ReceiverMetrics {
        let by_phase = Labelled::<Histogram>::new_with_constructor(buckets::seconds);
        let phase = |name: &'static str| by_phase.get_or_create_owned(&[("phase", name.into())]);
        let (queue, decode) = (phase("queue"), phase("decode"));
        let symbols = Labelled::<Counter>::default();
        let kind = |kind: &'static str| symbols.get_or_create_owned(&[("kind", kind.into())]);
        let (payload, pilots) = (kind("payload"), kind("pilot"));
        let classes = Labelled::<Counter>::default();
        let other = classes.get_or_create_owned(&[("class", "other".into())]);
        ReceiverMetrics {
            frames: Outcomes::default(),
            repeated: Counter::default(),
            by_phase,
            queue,
            decode,
            uses: buckets::uses(),
            symbols,
            payload,
            pilots,
            snr: buckets::snr_db(),
            last_snr: Level::default(),
            confidence: buckets::confidence(),
            unsure: Counter::default(),
            classes,
            names: Bounded::new(CLASSES),
            by_name: Arc::default(),
            other,
            subscribers: Gauge::default(),
            lost: Counter::default(),
        }
    }
}

impl ReceiverMetrics {
    /// A codec with these classes is held from now on.
    pub(crate) fn hold<'a>(&self, labels: impl IntoIterator<Item = &'a str>) {
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        for label in labels {
            let class = self.names.value(label);
            by_name
                .entry(label.to_owned())
                .or_insert_with(|| self.classes.get_or_create_owned(&[("class", class.into())]));
        }
    }

    /// A frame was decided or refused, and this is its report.
    pub(crate) fn reported(&self, report: &v1::FrameReport) {
        if let Some(error) = &report.error {
            return self.frames.count(Code::from_i32(error.code));
        }
        self.frames.count(Code::Ok);
        self.queue.observe(seconds(report.queue_us));
        self.decode.observe(seconds(report.decode_us));
        self.uses.observe(f64::from(report.uses));
        self.payload.inc_by(u64::from(report.uses));
        self.pilots.inc_by(u64::from(report.pilots));
        if let Some(snr_db) = report.snr_db_estimated.filter(|snr_db| snr_db.is_finite()) {
            self.snr.observe(f64::from(snr_db));
            self.last_snr.set(f64::from(snr_db));
        }
        let Some(decision) = &report.decision else { return };
        observe(&self.confidence, decision.confidence);
        if decision.unsure {
            self.unsure.inc();
        }
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        by_name.get(&decision.label).unwrap_or(&self.other).inc();
    }

    /// A frame came again and got the report that it had.
    pub(crate) fn repeated(&self) {
        self.repeated.inc();
    }

    /// A consumer of decisions, until the result is dropped.
    #[must_use]
    pub(crate) fn subscribe(&self) -> Subscriber {
        self.subscribers.inc();
        Subscriber(self.subscribers.clone())
    }

    /// A consumer was too slow for so many decisions.
    pub(crate) fn lost(&self, decisions: u64) {
        self.lost.inc_by(decisions);
    }

    /// Registers them.
    pub(crate) fn register(&self, metrics: &Metrics) {
        let db = || Unit::Other("db".to_owned());
        let name = |name: &str| format!("semlink_receiver_{name}");
        self.frames.register(metrics, &name("frames"), "Frames decided or refused");
        metrics.add(&name("repeated_frames"), "Frames that came again", self.repeated.clone());
        metrics.add_with_unit(&name("phase"), "Parts of a decision", Unit::Seconds, self.by_phase.clone());
        metrics.add(&name("channel_uses"), "Payload channel uses of a frame", self.uses.clone());
        metrics.add(&name("symbols"), "Symbols of frames decided", self.symbols.clone());
        metrics.add_with_unit(&name("snr"), "SNR as told or estimated", db(), self.snr.clone());
        metrics.add_with_unit(&name("last_snr"), "Its last value", db(), self.last_snr.clone());
        metrics.add(&name("confidence"), "Confidence of decisions", self.confidence.clone());
        metrics.add(&name("unsure_decisions"), "Decisions below --min-confidence", self.unsure.clone());
        metrics.add(&name("decisions"), "Decisions by class", self.classes.clone());
        metrics.add(&name("subscribers"), "Consumers of decisions", self.subscribers.clone());
        metrics.add(&name("lost_decisions"), "Decisions that slow consumers missed", self.lost.clone());
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use semlink_service::metrics::{BatchMetrics, BundleMetrics, differences};
    use semlink_service::shell::Counters;
    use semlink_service::traces::Traces;

    use super::*;

    fn decided(label: &str, snr_db: Option<f32>) -> v1::FrameReport {
        v1::FrameReport {
            decision: Some(v1::Decision {
                label: label.to_owned(),
                confidence: 0.4,
                unsure: true,
                ..Default::default()
            }),
            uses: 16,
            pilots: 2,
            snr_db_estimated: snr_db,
            decode_us: 700,
            ..Default::default()
        }
    }

    #[test]
    fn what_is_measured_is_documented() {
        let metrics = Metrics::new("semlink-receiver");
        ReceiverMetrics::default().register(&metrics);
        BatchMetrics::default().register(&metrics, "decoder");
        BundleMetrics::default().register(&metrics);
        Counters::default().register(&metrics);
        Traces::off().register(&metrics);
        let document = include_str!("../../docs/METRICS.md");
        let sections = ["Every service", "Models", "Receiver"];
        assert_eq!(differences(document, &sections, &metrics.described()), Vec::<String>::new());
    }

    #[test]
    fn reports_are_counted_as_what_they_are() {
        let (receiver, metrics) = (ReceiverMetrics::default(), Metrics::new("test"));
        receiver.register(&metrics);
        receiver.hold(["cat", "dog"]);
        for report in [decided("cat", Some(-3.5)), decided("cat", None), decided("newt", Some(f32::NAN))] {
            receiver.reported(&report);
        }
        let error = Some(v1::Error { code: Code::FailedPrecondition as i32, message: String::new() });
        receiver.reported(&v1::FrameReport { error, ..Default::default() });
        receiver.repeated();
        receiver.lost(7);
        let subscriber = receiver.subscribe();
        let page = metrics.encode();
        for line in [
            r#"semlink_receiver_frames_total{code="OK"} 3"#,
            r#"semlink_receiver_frames_total{code="FAILED_PRECONDITION"} 1"#,
            r#"semlink_receiver_decisions_total{class="cat"} 2"#,
            r#"semlink_receiver_decisions_total{class="dog"} 0"#,
            r#"semlink_receiver_decisions_total{class="other"} 1"#,
            "semlink_receiver_repeated_frames_total 1",
            "semlink_receiver_unsure_decisions_total 3",
            r#"semlink_receiver_phase_seconds_bucket{le="0.0005",phase="decode"} 0"#,
            r#"semlink_receiver_phase_seconds_bucket{le="0.001",phase="decode"} 3"#,
            r#"semlink_receiver_symbols_total{kind="payload"} 48"#,
            r#"semlink_receiver_symbols_total{kind="pilot"} 6"#,
            "semlink_receiver_snr_db_count 1",
            "semlink_receiver_snr_db_sum -3.5",
            "semlink_receiver_last_snr_db -3.5",
            "semlink_receiver_subscribers 1",
            "semlink_receiver_lost_decisions_total 7",
        ] {
            assert!(page.lines().any(|on_page| on_page == line), "{line} is not on {page}");
        }
        drop(subscriber);
        assert!(metrics.encode().contains("semlink_receiver_subscribers 0\n"));
    }

    #[test]
    fn a_codec_of_many_classes_has_so_many_counters() {
        let (receiver, metrics) = (ReceiverMetrics::default(), Metrics::new("test"));
        receiver.register(&metrics);
        let labels: Vec<String> = (0..1000).map(|class| format!("class-{class}")).collect();
        receiver.hold(labels.iter().map(String::as_str));
        receiver.reported(&decided("class-999", None));
        let page = metrics.encode();
        assert_eq!(page.matches("semlink_receiver_decisions_total{").count(), CLASSES + 1);
        assert!(page.contains(r#"semlink_receiver_decisions_total{class="other"} 1"#), "{page}");
    }
}
