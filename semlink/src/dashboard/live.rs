//! What changes with every frame.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use semlink_channel::{Complex32, equalize, iq};
use semlink_proto::v1;
use semlink_service::wire;
use serde::{Serialize, Serializer};

use super::curve::Curve;

/// Images that the page shows.
const RECENT: usize = 12;
/// Answers that the figures are of.
const WINDOW: usize = 200;
/// The span over which answers are counted for a rate.
const SPAN: Duration = Duration::from_secs(2);
/// Symbols that are drawn of a frame.
const DRAWN: usize = 256;

/// The event `live`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Live {
    figures: Figures,
    frame: Option<Frame>,
    /// The newest first.
    recent: VecDeque<Recent>,
    pub(super) curve: Curve,
    #[serde(skip)]
    answers: VecDeque<Answered>,
    #[serde(skip)]
    count: Option<(Instant, u64)>,
}

/// Over the last answers, but for the last frame's own.
#[derive(Debug, Default, Serialize)]
struct Figures {
    /// Answered to this page.
    images_per_second: f64,
    /// Through the emulator's link, of all its senders.
    frames_per_second: f64,
    snr_db_requested: Option<f32>,
    snr_db_realised: Option<f32>,
    snr_db_estimated: Option<f32>,
    uses: Option<f64>,
    pilots: Option<f64>,
    confidence: Option<f64>,
    /// Of the images whose class is known.
    accuracy: Option<f64>,
    labelled: usize,
    failed: u64,
    latency: Option<Latency>,
}

/// Means in milliseconds, in the order in which an image passes.
#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Latency {
    /// From here to the transmitter and back.
    client: f64,
    queue: f64,
    prepare: f64,
    encode: f64,
    channel: f64,
    decode_queue: f64,
    decode: f64,
    /// All hops behind the transmitter.
    network: f64,
    total: f64,
}

/// Symbols of the last frame, I and Q in turn.
#[derive(Debug, Serialize)]
struct Frame {
    version: u64,
    snr_db_requested: f32,
    snr_db_realised: f32,
    symbols: usize,
    #[serde(serialize_with = "rounded")]
    sent: Vec<Complex32>,
    #[serde(serialize_with = "rounded")]
    received: Vec<Complex32>,
    /// MMSE estimates, as a receiver gets them that knows the channel.
    #[serde(serialize_with = "rounded")]
    equalised: Vec<Complex32>,
}

/// An image and what became of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Recent {
    /// Counts from 1.
    pub(super) number: u64,
    /// Where the page gets it from; empty: nowhere.
    pub(super) image: String,
    /// What it shows, where that is known.
    pub(super) truth: Option<String>,
    pub(super) decided: Option<Decided>,
    pub(super) error: Option<String>,
}

/// A decision.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Decided {
    pub(super) label: String,
    pub(super) confidence: f32,
    pub(super) unsure: bool,
    /// Where the class is known.
    pub(super) right: Option<bool>,
    pub(super) uses: u32,
    pub(super) milliseconds: f64,
}

#[derive(Debug)]
struct Answered {
    at: Instant,
    right: Option<bool>,
    confidence: f32,
    uses: u32,
    pilots: u32,
    latency: Latency,
}

impl Live {
    /// Takes in an answer.
    pub(super) fn answered(&mut self, recent: Recent, link: &v1::LinkInfo, took: Duration, now: Instant) {
        if let Some(decided) = &recent.decided {
            let latency = Latency::of(link.timings.unwrap_or_default(), took);
            self.figures.snr_db_estimated = link.snr_db_estimated;
            self.answers.push_back(Answered {
                at: now,
                right: decided.right,
                confidence: decided.confidence,
                uses: link.uses,
                pilots: link.pilots,
                latency,
            });
            if self.answers.len() > WINDOW {
                self.answers.pop_front();
            }
        } else {
            self.figures.failed += 1;
        }
        self.recent.push_front(recent);
        self.recent.truncate(RECENT);
        self.sum_up(now);
    }

    /// Takes in a frame as the emulator saw it.
    pub(super) fn passed(&mut self, sample: &v1::FrameSample) {
        let Some(truth) = sample.truth else { return };
        self.figures.snr_db_requested = Some(truth.snr_db_requested);
        self.figures.snr_db_realised = Some(truth.snr_db_realised);
        self.frame = Frame::of(sample, &truth);
    }

    /// Takes in how many frames the link has taken.
    pub(super) fn counted(&mut self, frames: u64, now: Instant) {
        if let Some((then, before)) = self.count.replace((now, frames)) {
            let seconds = now.duration_since(then).as_secs_f64();
            self.figures.frames_per_second = frames.saturating_sub(before) as f64 / seconds.max(1e-3);
        }
        self.sum_up(now);
    }

    /// The emulator's count begins anew.
    pub(super) fn lost_count(&mut self) {
        self.count = None;
        self.figures.frames_per_second = 0.0;
    }

    /// Forgets what was counted.
    pub(super) fn clear(&mut self) {
        self.curve.clear();
        self.answers.clear();
        self.figures.failed = 0;
        self.sum_up(Instant::now());
    }

    fn sum_up(&mut self, now: Instant) {
        let answers = &self.answers;
        let mean = |of: &dyn Fn(&Answered) -> f64| {
            (!answers.is_empty()).then(|| answers.iter().map(of).sum::<f64>() / answers.len() as f64)
        };
        let figures = &mut self.figures;
        let lately = answers.iter().filter(|answer| now.duration_since(answer.at) <= SPAN);
        // The first image of a page is not one in two seconds.
        let since = answers.front().map_or(SPAN, |first| now.duration_since(first.at).min(SPAN));
        figures.images_per_second = lately.count() as f64 / since.as_secs_f64().max(0.5);
        figures.uses = mean(&|answer| f64::from(answer.uses));
        figures.pilots = mean(&|answer| f64::from(answer.pilots));
        figures.confidence = mean(&|answer| f64::from(answer.confidence));
        let known: Vec<bool> = answers.iter().filter_map(|answer| answer.right).collect();
        figures.labelled = known.len();
        figures.accuracy =
            (!known.is_empty()).then(|| known.iter().filter(|right| **right).count() as f64 / known.len() as f64);
        figures.latency = (!answers.is_empty()).then(|| Latency {
            client: mean(&|answer| answer.latency.client).unwrap_or_default(),
            queue: mean(&|answer| answer.latency.queue).unwrap_or_default(),
            prepare: mean(&|answer| answer.latency.prepare).unwrap_or_default(),
            encode: mean(&|answer| answer.latency.encode).unwrap_or_default(),
            channel: mean(&|answer| answer.latency.channel).unwrap_or_default(),
            decode_queue: mean(&|answer| answer.latency.decode_queue).unwrap_or_default(),
            decode: mean(&|answer| answer.latency.decode).unwrap_or_default(),
            network: mean(&|answer| answer.latency.network).unwrap_or_default(),
            total: mean(&|answer| answer.latency.total).unwrap_or_default(),
        });
    }
}

impl Latency {
    fn of(timings: v1::Timings, took: Duration) -> Latency {
        let v1::Timings { prepare_us, encode_us, link_us, decode_us, queue_us, channel_us, decode_queue_us, .. } =
            timings;
        let ms = |micros: u64| micros as f64 / 1e3;
        let there = queue_us + prepare_us + encode_us + link_us;
        let total = took.as_secs_f64() * 1e3;
        Latency {
            client: (total - ms(there)).max(0.0),
            queue: ms(queue_us),
            prepare: ms(prepare_us),
            encode: ms(encode_us),
            channel: ms(channel_us),
            decode_queue: ms(decode_queue_us),
            decode: ms(decode_us),
            network: ms(link_us.saturating_sub(channel_us + decode_queue_us + decode_us)),
            total,
        }
    }
}

impl Frame {
    fn of(sample: &v1::FrameSample, truth: &v1::ChannelTruth) -> Option<Frame> {
        let sent = iq::decode(&sample.sent).ok()?;
        let received = iq::decode(&sample.received).ok()?;
        let state = sample.state.as_ref().and_then(|state| wire::state(state, received.len()).ok());
        let equalised = state.and_then(|state| equalize::mmse(&received, &state).ok());
        let drawn = |mut symbols: Vec<Complex32>| {
            symbols.truncate(DRAWN);
            symbols
        };
        Some(Frame {
            version: truth.profile_version,
            snr_db_requested: truth.snr_db_requested,
            snr_db_realised: truth.snr_db_realised,
            symbols: sent.len(),
            sent: drawn(sent),
            received: drawn(received),
            equalised: drawn(equalised.map(|found| found.symbols).unwrap_or_default()),
        })
    }
}

/// More digits than a picture shows would only be sent.
fn rounded<S: Serializer>(symbols: &[Complex32], to: S) -> Result<S::Ok, S::Error> {
    let round = |value: f32| (f64::from(value) * 1e3).round() / 1e3;
    to.collect_seq(symbols.iter().flat_map(|symbol| [round(symbol.re), round(symbol.im)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(right: Option<bool>) -> Recent {
        let decided = Decided { label: "a".into(), confidence: 0.5, unsure: false, right, uses: 8, milliseconds: 1.0 };
        Recent { number: 1, image: String::new(), truth: None, decided: Some(decided), error: None }
    }

    #[test]
    fn phases_add_up_to_the_whole() {
        let timings = v1::Timings {
            prepare_us: 100,
            encode_us: 200,
            link_us: 5000,
            decode_us: 300,
            queue_us: 400,
            channel_us: 500,
            decode_queue_us: 600,
            sends: 1,
        };
        let Latency { client, queue, prepare, encode, channel, decode_queue, decode, network, total } =
            Latency::of(timings, Duration::from_millis(7));
        let sum = client + queue + prepare + encode + channel + decode_queue + decode + network;
        assert!((sum - 7.0).abs() < 1e-9 && (total - 7.0).abs() < 1e-9, "{sum}");
        assert!((network - 3.6).abs() < 1e-9 && (client - 1.3).abs() < 1e-9);
    }

    #[test]
    fn figures_are_of_the_last_answers() {
        let (mut live, start) = (Live::default(), Instant::now());
        for i in 0..300_u64 {
            let now = start + Duration::from_millis(100 * i);
            let link = v1::LinkInfo { uses: if i < 100 { 64 } else { 8 }, ..Default::default() };
            live.answered(recent(Some(i % 4 != 0)), &link, Duration::from_millis(2), now);
        }
        assert_eq!((live.figures.uses, live.figures.labelled), (Some(8.0), WINDOW));
        assert_eq!(live.figures.accuracy, Some(0.75));
        // Ten in a second: those of the last two seconds, both ends included.
        assert_eq!(live.figures.images_per_second, 10.5);
        assert_eq!(live.recent.len(), RECENT);
        live.counted(1000, start);
        live.counted(1500, start + Duration::from_secs(2));
        assert_eq!(live.figures.frames_per_second, 250.0);
    }

    #[test]
    fn a_frame_is_equalised_as_a_receiver_would() {
        let (h, sent) = (Complex32::new(0.0, 2.0), Complex32::new(1.0, -1.0));
        let state = v1::ChannelState {
            kind: 2,
            h: iq::encode(&[h]).into(),
            coherence: 0,
            noise_var: 1e-6,
            ..Default::default()
        };
        let sample = v1::FrameSample {
            sent: iq::encode(&[sent; 300]).into(),
            received: iq::encode(&[h * sent; 300]).into(),
            state: Some(state),
            truth: Some(v1::ChannelTruth { snr_db_realised: 3.0, ..Default::default() }),
            frames: 1,
        };
        let mut live = Live::default();
        live.passed(&sample);
        let frame = serde_json::to_value(&live).expect("JSON")["frame"].take();
        assert_eq!(frame["sent"].as_array().map(Vec::len), Some(2 * DRAWN));
        assert_eq!((&frame["received"][0], &frame["received"][1]), (&2.0.into(), &2.0.into()));
        assert_eq!((&frame["equalised"][0], &frame["equalised"][1]), (&1.0.into(), &(-1.0).into()));
        assert_eq!(frame["symbols"], 300);
    }
}
