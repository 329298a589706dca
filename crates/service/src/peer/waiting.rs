//! The frames that wait for their reports, and which stream is to send each.
//!
//! A frame stays here until it is reported, its caller leaves or its time is up; a stream that breaks gives its frames back, and they go to
//! another stream or wait for one. So there are as many frames here as there are callers, and it is the callers' number that is bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use semlink_proto::v1;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tonic::Status;

/// Streams that may break under one frame: it may be the frame that breaks them.
const MAX_SENDS: u32 = 16;
/// Share of the time left that the next hop is given: the rest is for its answer to come back, which knows more than "too late" does.
const NEXT_HOPS_SHARE: f64 = 0.95;
/// Frames that a stream takes out at a time.
const AT_ONCE: usize = 32;

/// The report and the times that its frame was sent.
pub(super) type Answer = Result<(v1::FrameReport, u32), Status>;

/// All frames of a client, whatever their stream; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting(Arc<Mutex<Table>>);

/// Names an open stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneId(u64);

#[derive(Debug)]
struct Table {
    next_id: u64,
    next_lane: u64,
    frames: HashMap<u64, Entry>,
    lanes: Vec<Lane>,
    /// Frames without a stream, the oldest first.
    parked: VecDeque<u64>,
    /// Why there is no stream.
    failure: String,
}

impl Default for Table {
    fn default() -> Table {
        Table {
            next_id: 0,
            next_lane: 0,
            frames: HashMap::new(),
            lanes: Vec::new(),
            parked: VecDeque::new(),
            failure: "no connection yet".to_owned(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    frame: v1::Frame,
    expires: Instant,
    answer: oneshot::Sender<Answer>,
    lane: Option<LaneId>,
    sends: u32,
}

/// An open stream's share.
#[derive(Debug)]
struct Lane {
    id: LaneId,
    /// Not written yet.
    queue: VecDeque<u64>,
    /// Not reported yet, written or not.
    load: usize,
    /// It takes no more frames.
    retired: bool,
    /// Woken by each frame in the queue.
    wake: Arc<Notify>,
}

/// What became of the frames of a stream that broke.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct GivenBack {
    /// Those that will be sent again.
    pub(super) resent: usize,
    /// Those that had broken too many streams.
    pub(super) given_up: usize,
}

impl Waiting {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a frame; it gets an id of its own here.
    pub(super) fn enter(&self, mut frame: v1::Frame, expires: Instant) -> (u64, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        let mut table = self.table();
        table.next_id += 1;
        let id = table.next_id;
        frame.id = id;
        table.frames.insert(id, Entry { frame, expires, answer, lane: None, sends: 0 });
        table.assign(id);
        (id, answered)
    }

    /// The caller left.
    pub(super) fn leave(&self, id: u64) {
        self.table().take(id);
    }

    /// Hands a report to its caller; `false` where nobody waits for it.
    pub(super) fn report(&self, report: v1::FrameReport) -> bool {
        let entry = self.table().take(report.id);
        entry.is_some_and(|entry| entry.answer.send(Ok((report, entry.sends))).is_ok())
    }

    /// Frames that are not reported.
    pub(super) fn len(&self) -> usize {
        self.table().frames.len()
    }

    /// Why there is no stream; `None` while there is one.
    pub(super) fn failure(&self) -> Option<String> {
        let table = self.table();
        table.lanes.is_empty().then(|| table.failure.clone())
    }

    /// Notes why no stream could be opened.
    pub(super) fn failed(&self, why: &str) {
        let mut table = self.table();
        table.failure.clear();
        table.failure.push_str(why);
    }

    /// Answers all frames that have no stream: it is of no use to go on trying.
    pub(super) fn refuse(&self, status: &Status) {
        let refused: Vec<Entry> = {
            let mut table = self.table();
            let parked = std::mem::take(&mut table.parked);
            parked.into_iter().filter_map(|id| table.frames.remove(&id)).collect()
        };
        for entry in refused {
            let _ = entry.answer.send(Err(status.clone()));
        }
    }

    /// A stream is open: it gets the frames that wait for one, and is woken for each frame that it is to send.
    pub(super) fn open(&self, wake: Arc<Notify>) -> LaneId {
        let mut table = self.table();
        table.next_lane += 1;
        let id = LaneId(table.next_lane);
        table.lanes.push(Lane { id, queue: VecDeque::new(), load: 0, retired: false, wake });
        for frame in std::mem::take(&mut table.parked) {
            table.assign(frame);
        }
        id
    }

    /// The stream takes no more frames.
    pub(super) fn retire(&self, lane: LaneId) {
        if let Some(lane) = self.table().lane(lane) {
            lane.retired = true;
        }
    }

    /// Frames of a stream that are not reported.
    pub(super) fn load(&self, lane: LaneId) -> usize {
        self.table().lane(lane).map_or(0, |lane| lane.load)
    }

    /// The next frames that a stream is to write, some at a time, with the time that the next hop has for each.
    /// `false` once the stream is closed.
    pub(super) fn next(&self, lane: LaneId, out: &mut VecDeque<v1::Frame>) -> bool {
        let now = Instant::now();
        let mut table = self.table();
        let Table { frames, lanes, .. } = &mut *table;
        let Some(lane) = lanes.iter_mut().find(|other| other.id == lane) else { return false };
        while out.len() < AT_ONCE {
            let Some(id) = lane.queue.pop_front() else { break };
            // Missing: the caller has left, so that nothing is sent.
            if let Some(entry) = frames.get_mut(&id) {
                entry.sends += 1;
                let left = entry.expires.saturating_duration_since(now).mul_f64(NEXT_HOPS_SHARE);
                out.push_back(v1::Frame { time_left_us: micros(left), ..entry.frame.clone() });
            }
        }
        true
    }

    /// A stream broke: its frames go to others, or wait.
    pub(super) fn close(&self, lane: LaneId, why: &str) -> GivenBack {
        let mut given_up = Vec::new();
        let mut back = GivenBack::default();
        {
            let mut table = self.table();
            table.failure = why.to_owned();
            table.lanes.retain(|other| other.id != lane);
            let mut ids: Vec<u64> =
                table.frames.iter().filter(|(_, entry)| entry.lane == Some(lane)).map(|(id, _)| *id).collect();
            ids.sort_unstable();
            for id in ids {
                if table.frames.get(&id).is_some_and(|entry| entry.sends >= MAX_SENDS) {
                    given_up.extend(table.frames.remove(&id));
                } else {
                    table.assign(id);
                    back.resent += 1;
                }
            }
        }
        back.given_up = given_up.len();
        for entry in given_up {
            let sends = entry.sends;
            let status = Status::unavailable(format!("sent {sends} times, and each time the stream broke: {why}"));
            let _ = entry.answer.send(Err(status));
        }
        back
    }
}

impl Table {
    fn lane(&mut self, id: LaneId) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| lane.id == id)
    }

    /// Gives a frame to the stream with the fewest, or lets it wait for one.
    fn assign(&mut self, id: u64) {
        let Some(entry) = self.frames.get_mut(&id) else { return };
        match self.lanes.iter_mut().filter(|lane| !lane.retired).min_by_key(|lane| lane.load) {
            Some(lane) => {
                entry.lane = Some(lane.id);
                lane.load += 1;
                lane.queue.push_back(id);
                lane.wake.notify_one();
            }
            None => {
                entry.lane = None;
                self.parked.push_back(id);
            }
        }
    }

    fn take(&mut self, id: u64) -> Option<Entry> {
        let entry = self.frames.remove(&id)?;
        match entry.lane {
            Some(lane) => {
                if let Some(lane) = self.lane(lane) {
                    lane.load = lane.load.saturating_sub(1);
                }
            }
            None => self.parked.retain(|parked| *parked != id),
        }
        Some(entry)
    }
}

/// At least one: zero means that there is no deadline.
fn micros(left: Duration) -> u64 {
    u64::try_from(left.as_micros()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting() -> (Waiting, Instant) {
        (Waiting::default(), Instant::now() + Duration::from_secs(100))
    }

    fn written(waiting: &Waiting, lane: LaneId) -> Vec<u64> {
        let mut out = VecDeque::new();
        waiting.next(lane, &mut out);
        out.iter().map(|frame| frame.sequence).collect()
    }

    fn frame(sequence: u64) -> v1::Frame {
        v1::Frame { sequence, ..Default::default() }
    }

    #[tokio::test]
    async fn frames_wait_for_a_stream_and_are_sent_again_in_order_when_it_breaks() {
        let (waiting, expires) = waiting();
        let callers: Vec<_> = (0..5).map(|sequence| waiting.enter(frame(sequence), expires)).collect();
        let first = waiting.open(Arc::default());
        assert_eq!(written(&waiting, first), [0, 1, 2, 3, 4]);
        waiting.report(v1::FrameReport { id: callers[1].0, ..Default::default() });
        waiting.leave(callers[3].0);
        assert_eq!(waiting.load(first), 3);
        assert_eq!(waiting.close(first, "gone"), GivenBack { resent: 3, given_up: 0 });
        assert_eq!(waiting.failure().as_deref(), Some("gone"));
        let second = waiting.open(Arc::default());
        assert_eq!(written(&waiting, second), [0, 2, 4]);
        assert_eq!(waiting.failure(), None);
        // A report of the first stream that comes late counts, one that comes twice does not.
        for _ in 0..2 {
            waiting.report(v1::FrameReport { id: callers[0].0, ..Default::default() });
        }
        assert_eq!((waiting.len(), waiting.load(second)), (2, 2));
        for (index, (id, answered)) in callers.into_iter().enumerate() {
            match index {
                0 | 1 => {
                    let (report, sends) = answered.await.expect("an answer").expect("a report");
                    assert_eq!((report.id, sends), (id, if index == 0 { 2 } else { 1 }));
                }
                _ => drop(answered),
            }
        }
    }

    #[test]
    fn frames_go_to_the_stream_with_the_fewest_and_none_to_one_that_retires() {
        let (waiting, expires) = waiting();
        let lanes = [waiting.open(Arc::default()), waiting.open(Arc::default())];
        let _callers: Vec<_> = (0..10).map(|sequence| waiting.enter(frame(sequence), expires)).collect();
        assert_eq!(lanes.map(|lane| waiting.load(lane)), [5, 5]);
        waiting.retire(lanes[0]);
        let _more: Vec<_> = (10..13).map(|sequence| waiting.enter(frame(sequence), expires)).collect();
        assert_eq!(lanes.map(|lane| waiting.load(lane)), [5, 8]);
        waiting.close(lanes[1], "gone");
        assert_eq!(waiting.load(lanes[0]), 5);
        let third = waiting.open(Arc::default());
        assert_eq!(waiting.load(third), 8);
    }

    #[tokio::test]
    async fn a_frame_that_breaks_every_stream_is_given_up() {
        let (waiting, expires) = waiting();
        let (_, answered) = waiting.enter(frame(1), expires);
        for attempt in 1..=MAX_SENDS {
            let lane = waiting.open(Arc::default());
            assert_eq!(written(&waiting, lane), [1]);
            let back = waiting.close(lane, "it crashed");
            assert_eq!(back.given_up, usize::from(attempt == MAX_SENDS));
        }
        let status = answered.await.expect("an answer").expect_err("given up");
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(status.message().contains("it crashed"), "{status}");
    }

    #[test]
    fn the_next_hop_is_told_the_time_that_is_left() {
        let waiting = Waiting::default();
        let lane = waiting.open(Arc::default());
        let _caller = waiting.enter(frame(1), Instant::now() + Duration::from_secs(10));
        let mut out = VecDeque::new();
        waiting.next(lane, &mut out);
        let left = out[0].time_left_us;
        assert!((9_000_000..=9_500_000).contains(&left), "{left}");
        // What is late already still gets a deadline.
        let _late = waiting.enter(frame(2), Instant::now());
        out.clear();
        waiting.next(lane, &mut out);
        assert_eq!(out[0].time_left_us, 1);
    }
}
