//! The reports of frames that came lately: a frame that is sent again, because the stream of its first report broke, is not decided again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use semlink_proto::v1;
use tokio::sync::OnceCell;
use tonic::Status;

/// What names a frame across streams: the transmitter's process and its counter.
type Name = (u64, u64);
type Cell = Arc<OnceCell<v1::FrameReport>>;

/// The last reports by their frames' names.
#[derive(Debug)]
pub(crate) struct Recent {
    capacity: usize,
    frames: Mutex<Frames>,
}

#[derive(Debug, Default)]
struct Frames {
    by_name: HashMap<Name, Cell>,
    /// The oldest first.
    order: VecDeque<Name>,
}

impl Recent {
    /// Remembers this many frames.
    pub(crate) fn new(capacity: usize) -> Recent {
        Recent { capacity, frames: Mutex::default() }
    }

    /// The report of a frame: the one that it got before, or what `decide` makes of it; the same frame twice at a time is decided once. A
    /// refusal is not remembered. Tells whether the report is an old one.
    ///
    /// # Errors
    /// Those of `decide`.
    pub(crate) async fn report<F: Future<Output = Result<v1::FrameReport, Status>>>(
        &self,
        frame: &v1::Frame,
        decide: impl FnOnce() -> F,
    ) -> Result<(v1::FrameReport, bool), Status> {
        if frame.origin == 0 {
            return Ok((decide().await?, false));
        }
        let cell = self.cell((frame.origin, frame.number));
        let mut decided = false;
        // Should the caller that decides leave, the next one does.
        let report = cell.get_or_try_init(|| {
            decided = true;
            decide()
        });
        let report = report.await?.clone();
        Ok((v1::FrameReport { id: frame.id, ..report }, !decided))
    }

    fn cell(&self, name: Name) -> Cell {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let Frames { by_name, order } = &mut *frames;
        if let Some(cell) = by_name.get(&name) {
            return Arc::clone(cell);
        }
        if order.len() >= self.capacity.max(1)
            && let Some(oldest) = order.pop_front()
        {
            by_name.remove(&oldest);
        }
        order.push_back(name);
        Arc::clone(by_name.entry(name).or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn frame(id: u64, number: u64) -> v1::Frame {
        v1::Frame { id, origin: 9, number, ..Default::default() }
    }

    /// Decides by counting how often it was asked.
    async fn count(asked: &AtomicU32) -> Result<v1::FrameReport, Status> {
        let decode_us = u64::from(asked.fetch_add(1, Ordering::Relaxed));
        tokio::task::yield_now().await;
        Ok(v1::FrameReport { id: 77, decode_us, ..Default::default() })
    }

    #[tokio::test]
    async fn a_frame_is_decided_once_also_while_it_is_being_decided() {
        let (recent, asked) = (Recent::new(8), AtomicU32::new(0));
        let (first, second) = (frame(1, 5), frame(2, 5));
        let (one, two) =
            futures::join!(recent.report(&first, || count(&asked)), recent.report(&second, || count(&asked)));
        let (one, two) = (one.expect("a report"), two.expect("a report"));
        assert_eq!((one.0.id, one.1, two.0.id, two.1), (1, false, 2, true));
        assert_eq!((one.0.decode_us, two.0.decode_us), (0, 0));
        // Another number is another frame, and a frame without a name is always a new one.
        assert_eq!(recent.report(&frame(3, 6), || count(&asked)).await.expect("a report").0.decode_us, 1);
        for expected in [2, 3] {
            let nameless = v1::Frame { number: 5, ..Default::default() };
            assert_eq!(recent.report(&nameless, || count(&asked)).await.expect("a report").0.decode_us, expected);
        }
    }

    #[tokio::test]
    async fn who_decides_may_leave_and_refusals_are_not_remembered() {
        let (recent, asked) = (Recent::new(8), AtomicU32::new(0));
        let frame = frame(1, 5);
        let mut leaving = Box::pin(recent.report(&frame, std::future::pending));
        assert!(futures::poll!(&mut leaving).is_pending());
        let mut staying = Box::pin(recent.report(&frame, || async { Err(Status::internal("no")) }));
        assert!(futures::poll!(&mut staying).is_pending());
        drop(leaving);
        assert_eq!(staying.await.expect_err("a refusal").code(), tonic::Code::Internal);
        assert!(!recent.report(&frame, || count(&asked)).await.expect("a report").1);
    }

    #[tokio::test]
    async fn the_oldest_are_forgotten() {
        let (recent, asked) = (Recent::new(2), AtomicU32::new(0));
        for number in [1, 2, 3, 3, 2, 1] {
            recent.report(&frame(1, number), || count(&asked)).await.expect("a report");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 4);
    }
}
