//! What the transmitter measures.

use std::time::Duration;

use semlink_proto::v1;
use semlink_service::metrics::{
    Counter, Gauge, Histogram, Label, Labelled, Level, Metrics, Outcomes, Unit, buckets, observe, seconds,
};
use tonic::{Code, Status};

/// The transmitter's instruments. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct TransmitterMetrics {
    images: Outcomes,
    refused: Counter,
    in_flight: Gauge,
    bytes: Counter,
    answer: Histogram,
    by_phase: Labelled<Histogram>,
    phases: Phases,
    uses: Histogram,
    symbols: Labelled<Counter>,
    payload: Counter,
    pilots: Counter,
    rates: Labelled<Counter>,
    snr: Histogram,
    last_snr: Level,
    confidence: Histogram,
    unsure: Counter,
    resent: Counter,
    fallback: Counter,
    labelled: Counter,
    correct: Counter,
}

/// Looked up once.
#[derive(Debug, Clone)]
struct Phases {
    queue: Histogram,
    prepare: Histogram,
    encode: Histogram,
    link: Histogram,
    channel: Histogram,
    decode_queue: Histogram,
    decode: Histogram,
}

/// An image under way, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Gauge);

impl Default for TransmitterMetrics {
    fn default() -> TransmitterMetrics {
        let by_phase = Labelled::<Histogram>::new_with_constructor(buckets::seconds);
        let phase = |name: &'static str| by_phase.get_or_create_owned(&[("phase", name.into())]);
        let phases = Phases {
            queue: phase("queue"),
            prepare: phase("prepare"),
            encode: phase("encode"),
            link: phase("link"),
            channel: phase("channel"),
            decode_queue: phase("decode_queue"),
            decode: phase("decode"),
        };
        let symbols = Labelled::<Counter>::default();
        let kind = |kind: &'static str| symbols.get_or_create_owned(&[("kind", kind.into())]);
        let (payload, pilots) = (kind("payload"), kind("pilot"));
        TransmitterMetrics {
            images: Outcomes::default(),
            refused: Counter::default(),
            in_flight: Gauge::default(),
            bytes: Counter::default(),
            answer: buckets::seconds(),
            by_phase,
            phases,
            uses: buckets::uses(),
            symbols,
            payload,
            pilots,
            rates: Labelled::default(),
            snr: buckets::snr_db(),
            last_snr: Level::default(),
            confidence: buckets::confidence(),
            unsure: Counter::default(),
            resent: Counter::default(),
            fallback: Counter::default(),
            labelled: Counter::default(),
            correct: Counter::default(),
        }
    }
}

impl TransmitterMetrics {
    /// An image of so many bytes was let in; it is under way until the result is dropped.
    #[must_use]
    pub(crate) fn enter(&self, bytes: usize) -> InFlight {
        self.bytes.inc_by(bytes as u64);
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// An image was turned away at the door.
    pub(crate) fn refused(&self) {
        self.refused.inc();
    }

    /// An image is encoded once more, with another codec.
    pub(crate) fn falls_back(&self) {
        self.fallback.inc();
    }

    /// An image that was let in is answered, `elapsed` after it arrived; `label` is the class that the client says is right.
    pub(crate) fn answered(
        &self,
        answer: &Result<v1::ClassifyResponse, Status>,
        label: Option<u32>,
        elapsed: Duration,
    ) {
        let response = match answer {
            Ok(response) => response,
            Err(status) => return self.images.count(status.code()),
        };
        if let Some(error) = &response.error {
            return self.images.count(Code::from_i32(error.code));
        }
        self.images.count(Code::Ok);
        self.answer.observe(elapsed.as_secs_f64());
        if let Some(decision) = &response.decision {
            observe(&self.confidence, decision.confidence);
            if decision.unsure {
                self.unsure.inc();
            }
            if let Some(label) = label {
                self.labelled.inc();
                self.correct.inc_by(u64::from(label == decision.index));
            }
        }
        if let Some(link) = &response.link {
            self.sent(link);
        }
    }

    fn sent(&self, link: &v1::LinkInfo) {
        self.uses.observe(f64::from(link.uses));
        self.payload.inc_by(u64::from(link.uses));
        self.pilots.inc_by(u64::from(link.pilots));
        // As many as the codec has rates.
        let rate: Label = [("uses", link.uses.to_string().into())];
        self.rates.get_or_create(&rate).inc();
        if let Some(snr_db) = link.snr_db_estimated.filter(|snr_db| snr_db.is_finite()) {
            self.snr.observe(f64::from(snr_db));
            self.last_snr.set(f64::from(snr_db));
        }
        let Some(timings) = &link.timings else { return };
        let Phases { queue, prepare, encode, link, channel, decode_queue, decode } = &self.phases;
        for (phase, us) in [
            (queue, timings.queue_us),
            (prepare, timings.prepare_us),
            (encode, timings.encode_us),
            (link, timings.link_us),
            (channel, timings.channel_us),
            (decode_queue, timings.decode_queue_us),
            (decode, timings.decode_us),
        ] {
            phase.observe(seconds(us));
        }
        if timings.sends > 1 {
            self.resent.inc();
        }
    }

    /// Registers them.
    pub(crate) fn register(&self, metrics: &Metrics) {
        let db = || Unit::Other("db".to_owned());
        let name = |name: &str| format!("semlink_transmitter_{name}");
        self.images.register(metrics, &name("images"), "Images answered");
        let counters = [
            ("refused_images", "Images turned away at the door", &self.refused),
            ("unsure_decisions", "Decisions that the receiver calls a guess", &self.unsure),
            ("resent_images", "Images answered whose frame was sent more than once", &self.resent),
            ("fallback_images", "Images encoded again with the other codec", &self.fallback),
            ("labelled_images", "Images decided whose class the client gave", &self.labelled),
            ("correct_images", "Labelled images decided as labelled", &self.correct),
        ];
        for (short, help, counter) in counters {
            metrics.add(&name(short), help, counter.clone());
        }
        metrics.add(&name("in_flight_images"), "Images under way", self.in_flight.clone());
        metrics.add_with_unit(&name("image"), "Image files that were let in", Unit::Bytes, self.bytes.clone());
        metrics.add_with_unit(&name("answer"), "From arrival to decision", Unit::Seconds, self.answer.clone());
        metrics.add_with_unit(&name("phase"), "Parts of that", Unit::Seconds, self.by_phase.clone());
        metrics.add(&name("channel_uses"), "Payload channel uses of an image", self.uses.clone());
        metrics.add(&name("symbols"), "Symbols sent for images decided", self.symbols.clone());
        metrics.add(&name("rate_images"), "Images decided, by their payload channel uses", self.rates.clone());
        metrics.add_with_unit(&name("estimated_snr"), "SNR as the receiver sees it", db(), self.snr.clone());
        metrics.add_with_unit(&name("last_estimated_snr"), "Its last value", db(), self.last_snr.clone());
        metrics.add(&name("confidence"), "Confidence of decisions", self.confidence.clone());
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use semlink_service::metrics::{BatchMetrics, BundleMetrics, PeerMetrics, differences};
    use semlink_service::shell::Counters;
    use semlink_service::traces::Traces;

    use super::*;

    fn decided(index: u32, uses: u32) -> Result<v1::ClassifyResponse, Status> {
        Ok(v1::ClassifyResponse {
            decision: Some(v1::Decision { index, confidence: 0.75, unsure: index == 9, ..Default::default() }),
            link: Some(v1::LinkInfo {
                uses,
                pilots: 4,
                snr_db_estimated: Some(7.5),
                timings: Some(v1::Timings { link_us: 1500, sends: 2, ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    #[test]
    fn what_is_measured_is_documented() {
        let metrics = Metrics::new("semlink-transmitter");
        TransmitterMetrics::default().register(&metrics);
        BatchMetrics::default().register(&metrics, "encoder");
        BundleMetrics::default().register(&metrics);
        PeerMetrics::default().register(&metrics);
        Counters::default().register(&metrics);
        Traces::off().register(&metrics);
        let document = include_str!("../../docs/METRICS.md");
        let sections = ["Every service", "Models", "Next hop", "Transmitter"];
        assert_eq!(differences(document, &sections, &metrics.described()), Vec::<String>::new());
    }

    #[test]
    fn answers_are_counted_as_what_they_are() {
        let (transmitter, metrics) = (TransmitterMetrics::default(), Metrics::new("test"));
        transmitter.register(&metrics);
        let elapsed = Duration::from_millis(3);
        transmitter.answered(&decided(3, 16), Some(3), elapsed);
        transmitter.answered(&decided(9, 16), Some(4), elapsed);
        transmitter.answered(&decided(5, 64), None, elapsed);
        transmitter.answered(&Err(Status::unavailable("gone")), Some(1), elapsed);
        let error = Some(v1::Error { code: Code::InvalidArgument as i32, message: String::new() });
        transmitter.answered(&Ok(v1::ClassifyResponse { error, ..Default::default() }), None, elapsed);
        transmitter.refused();
        let under_way = [transmitter.enter(100), transmitter.enter(50)];
        let page = metrics.encode();
        for line in [
            r#"semlink_transmitter_images_total{code="OK"} 3"#,
            r#"semlink_transmitter_images_total{code="UNAVAILABLE"} 1"#,
            r#"semlink_transmitter_images_total{code="INVALID_ARGUMENT"} 1"#,
            "semlink_transmitter_refused_images_total 1",
            "semlink_transmitter_in_flight_images 2",
            "semlink_transmitter_image_bytes_total 150",
            "semlink_transmitter_labelled_images_total 2",
            "semlink_transmitter_correct_images_total 1",
            "semlink_transmitter_unsure_decisions_total 1",
            "semlink_transmitter_resent_images_total 3",
            "semlink_transmitter_answer_seconds_count 3",
            r#"semlink_transmitter_answer_seconds_bucket{le="0.002"} 0"#,
            r#"semlink_transmitter_answer_seconds_bucket{le="0.005"} 3"#,
            r#"semlink_transmitter_phase_seconds_bucket{le="0.002",phase="link"} 3"#,
            "semlink_transmitter_channel_uses_sum 96.0",
            r#"semlink_transmitter_symbols_total{kind="payload"} 96"#,
            r#"semlink_transmitter_symbols_total{kind="pilot"} 12"#,
            r#"semlink_transmitter_rate_images_total{uses="16"} 2"#,
            "semlink_transmitter_last_estimated_snr_db 7.5",
        ] {
            assert!(page.lines().any(|on_page| on_page == line), "{line} is not on {page}");
        }
        drop(under_way);
        assert!(metrics.encode().contains("semlink_transmitter_in_flight_images 0\n"));
    }
}
