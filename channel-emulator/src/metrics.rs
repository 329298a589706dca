//! What the emulator measures.
//!
//! A frame costs three histograms and six atomic operations, all of them looked up when its link was made.

use semlink_service::metrics::{
    Bounded, Counter, Gauge, Histogram, Label, Labelled, Level, Metrics, Unit, buckets, observe, seconds,
};

/// Links with a label of their own; the others are "other" together.
const LINKS: usize = 100;

/// The emulator's instruments. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct EmulatorMetrics {
    names: Bounded,
    frames: Labelled<Counter>,
    lost: Labelled<Counter>,
    failed: Labelled<Counter>,
    symbols: Labelled<Counter>,
    streams: Labelled<Gauge>,
    versions: Labelled<Gauge>,
    last_requested: Labelled<Level>,
    last_realised: Labelled<Level>,
    requested: Histogram,
    realised: Histogram,
    channel: Histogram,
    links: Gauge,
    recordings: Gauge,
}

/// The instruments of one link. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct LinkMetrics {
    frames: Counter,
    lost: Counter,
    failed: Counter,
    symbols: Counter,
    streams: Gauge,
    version: Gauge,
    last_requested: Level,
    last_realised: Level,
    requested: Histogram,
    realised: Histogram,
    channel: Histogram,
}

/// Something that is open, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Open(Gauge);

impl Default for EmulatorMetrics {
    fn default() -> EmulatorMetrics {
        EmulatorMetrics {
            names: Bounded::new(LINKS),
            frames: Labelled::default(),
            lost: Labelled::default(),
            failed: Labelled::default(),
            symbols: Labelled::default(),
            streams: Labelled::default(),
            versions: Labelled::default(),
            last_requested: Labelled::default(),
            last_realised: Labelled::default(),
            requested: buckets::snr_db(),
            realised: buckets::snr_db(),
            channel: buckets::seconds(),
            links: Gauge::default(),
            recordings: Gauge::default(),
        }
    }
}

impl EmulatorMetrics {
    /// The instruments of the link of this name: for each link once, not for each frame.
    pub(crate) fn link(&self, name: &str) -> LinkMetrics {
        let label: Label = [("link", self.names.value(name).into())];
        LinkMetrics {
            frames: self.frames.get_or_create_owned(&label),
            lost: self.lost.get_or_create_owned(&label),
            failed: self.failed.get_or_create_owned(&label),
            symbols: self.symbols.get_or_create_owned(&label),
            streams: self.streams.get_or_create_owned(&label),
            version: self.versions.get_or_create_owned(&label),
            last_requested: self.last_requested.get_or_create_owned(&label),
            last_realised: self.last_realised.get_or_create_owned(&label),
            requested: self.requested.clone(),
            realised: self.realised.clone(),
            channel: self.channel.clone(),
        }
    }

    /// So many links there are.
    pub(crate) fn links(&self, count: usize) {
        self.links.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A recording is under way until the result is dropped.
    #[must_use]
    pub(crate) fn recording(&self) -> Open {
        Open::new(&self.recordings)
    }

    /// Registers them.
    pub(crate) fn register(&self, metrics: &Metrics) {
        let db = || Unit::Other("db".to_owned());
        let name = |name: &str| format!("semlink_emulator_{name}");
        metrics.add(&name("frames"), "Frames taken, whatever became of them", self.frames.clone());
        metrics.add(&name("lost_frames"), "Of those, lost by the transport", self.lost.clone());
        metrics.add(&name("failed_frames"), "Of those, answered with another error", self.failed.clone());
        metrics.add(&name("symbols"), "Symbols of frames taken, pilots included", self.symbols.clone());
        metrics.add(&name("open_streams"), "Streams that are open", self.streams.clone());
        metrics.add(&name("profile_version"), "Version of the profile", self.versions.clone());
        let requested = self.last_requested.clone();
        metrics.add_with_unit(&name("last_requested_snr"), "SNR of the last frame", db(), requested);
        let realised = self.last_realised.clone();
        metrics.add_with_unit(&name("last_realised_snr"), "SNR as drawn, of the last frame", db(), realised);
        metrics.add_with_unit(&name("requested_snr"), "SNR of frames", db(), self.requested.clone());
        metrics.add_with_unit(&name("realised_snr"), "SNR as drawn, of frames", db(), self.realised.clone());
        let channel = self.channel.clone();
        metrics.add_with_unit(&name("channel"), "In the models and the transport's delay", Unit::Seconds, channel);
        metrics.add(&name("links"), "Links", self.links.clone());
        metrics.add(&name("recordings"), "Recordings under way", self.recordings.clone());
    }
}

impl LinkMetrics {
    /// A frame of so many symbols, pilots included, was taken.
    pub(crate) fn taken(&self, symbols: usize) {
        self.frames.inc();
        self.symbols.inc_by(symbols as u64);
    }

    /// It has passed the channel.
    pub(crate) fn passed(&self, requested_db: f32, realised_db: f32, channel_us: u64) {
        observe(&self.requested, requested_db);
        self.last_requested.set(f64::from(requested_db));
        // Infinite where nothing arrived or there was no noise.
        if realised_db.is_finite() {
            self.realised.observe(f64::from(realised_db));
            self.last_realised.set(f64::from(realised_db));
        }
        self.channel.observe(seconds(channel_us));
    }

    /// The transport lost it.
    pub(crate) fn lost(&self) {
        self.lost.inc();
    }

    /// It was answered with an error.
    pub(crate) fn failed(&self) {
        self.failed.inc();
    }

    /// The profile has this version now.
    pub(crate) fn profile(&self, version: u64) {
        self.version.set(i64::try_from(version).unwrap_or(i64::MAX));
    }

    /// A stream is open until the result is dropped.
    #[must_use]
    pub(crate) fn stream(&self) -> Open {
        Open::new(&self.streams)
    }
}

impl Open {
    fn new(gauge: &Gauge) -> Open {
        gauge.inc();
        Open(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use semlink_service::metrics::{PeerMetrics, differences};
    use semlink_service::shell::Counters;
    use semlink_service::traces::Traces;

    use super::*;

    #[test]
    fn what_is_measured_is_documented() {
        let metrics = Metrics::new("semlink-channel-emulator");
        let emulator = EmulatorMetrics::default();
        emulator.register(&metrics);
        PeerMetrics::default().register(&metrics);
        Counters::default().register(&metrics);
        Traces::off().register(&metrics);
        let document = include_str!("../../docs/METRICS.md");
        let sections = ["Every service", "Next hop", "Channel emulator"];
        assert_eq!(differences(document, &sections, &metrics.described()), Vec::<String>::new());
    }

    #[test]
    fn frames_are_counted_by_link() {
        let (emulator, metrics) = (EmulatorMetrics::default(), Metrics::new("test"));
        emulator.register(&metrics);
        let (a, b) = (emulator.link("a"), emulator.link("b"));
        for (link, realised) in [(&a, 4.5), (&a, f32::INFINITY), (&b, -12.0)] {
            link.taken(20);
            link.passed(5.0, realised, 150);
        }
        a.lost();
        b.failed();
        b.profile(3);
        emulator.links(2);
        let open = (a.stream(), emulator.recording());
        let page = metrics.encode();
        for line in [
            r#"semlink_emulator_frames_total{link="a"} 2"#,
            r#"semlink_emulator_symbols_total{link="b"} 20"#,
            r#"semlink_emulator_lost_frames_total{link="a"} 1"#,
            r#"semlink_emulator_failed_frames_total{link="b"} 1"#,
            r#"semlink_emulator_last_realised_snr_db{link="a"} 4.5"#,
            r#"semlink_emulator_profile_version{link="b"} 3"#,
            r#"semlink_emulator_open_streams{link="a"} 1"#,
            "semlink_emulator_requested_snr_db_sum 15.0",
            "semlink_emulator_realised_snr_db_count 2",
            r#"semlink_emulator_realised_snr_db_bucket{le="-10.0"} 1"#,
            r#"semlink_emulator_channel_seconds_bucket{le="0.0002"} 3"#,
            "semlink_emulator_links 2",
            "semlink_emulator_recordings 1",
        ] {
            assert!(page.lines().any(|on_page| on_page == line), "{line} is not on {page}");
        }
        drop(open);
        let page = metrics.encode();
        assert!(page.contains("semlink_emulator_recordings 0\n"), "{page}");
        assert!(page.contains("semlink_emulator_open_streams{link=\"a\"} 0\n"), "{page}");
    }

    #[test]
    fn any_number_of_links_has_so_many_labels() {
        let (emulator, metrics) = (EmulatorMetrics::default(), Metrics::new("test"));
        emulator.register(&metrics);
        for number in 0..10_000 {
            emulator.link(&format!("link-{number}")).taken(1);
        }
        let page = metrics.encode();
        assert_eq!(page.matches("semlink_emulator_frames_total{").count(), LINKS + 1);
        assert!(page.contains("semlink_emulator_frames_total{link=\"other\"} 9900\n"), "other links are missing");
    }
}
