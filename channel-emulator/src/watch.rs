//! Samples of the frames that pass a link, for viewers.
//!
//! A frame is copied only when somebody waits for one, and waits for nobody: whoever reads slowly sees fewer of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::{self, Stream};
use semlink_channel::iq;
use semlink_proto::v1;
use semlink_service::wire;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::distort::Heard;
use crate::links::Link;

/// Samples in a second, for who does not say, and the most.
const USUAL: u32 = 10;
const MOST: u32 = 100;

/// Who looks at a link's frames.
#[derive(Debug)]
pub(crate) struct Viewers {
    /// The next frame is to be shown.
    wanted: AtomicBool,
    shown: watch::Sender<Arc<v1::FrameSample>>,
}

impl Default for Viewers {
    fn default() -> Viewers {
        Viewers { wanted: AtomicBool::new(false), shown: watch::Sender::new(Arc::default()) }
    }
}

impl Viewers {
    /// Whether somebody waits for a frame.
    pub(crate) fn wait(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Shows a frame to all who wait.
    pub(crate) fn show(&self, sample: impl FnOnce() -> v1::FrameSample) {
        // Frames pass side by side: one of them is shown.
        if self.wanted.swap(false, Ordering::Relaxed) {
            self.shown.send_replace(Arc::new(sample()));
        }
    }
}

/// The time between two samples.
///
/// # Errors
/// More are asked for than there are.
pub(crate) fn pause(max_per_second: u32) -> Result<Duration, String> {
    match max_per_second {
        0 => Ok(Duration::from_secs(1) / USUAL),
        1..=MOST => Ok(Duration::from_secs(1) / max_per_second),
        n => Err(format!("max_per_second is {n}, at most {MOST} are sent")),
    }
}

/// What a viewer sees: the next frame each time that the pause is over.
pub(crate) fn samples(link: Arc<Link>, pause: Duration) -> impl Stream<Item = v1::FrameSample> {
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shown = link.viewers.shown.subscribe();
    stream::unfold((link, ticks, shown), async |(link, mut ticks, mut shown): Watching| {
        ticks.tick().await;
        shown.mark_unchanged();
        link.viewers.wanted.store(true, Ordering::Relaxed);
        // It cannot fail: the link holds the sender.
        shown.changed().await.ok()?;
        let sample = Arc::clone(&shown.borrow_and_update());
        Some((v1::FrameSample::clone(&sample), (link, ticks, shown)))
    })
}

type Watching = (Arc<Link>, Interval, watch::Receiver<Arc<v1::FrameSample>>);

/// A frame that has passed the channel.
pub(crate) fn sample(heard: &Heard, frame: &v1::Frame, frames: u64) -> v1::FrameSample {
    v1::FrameSample {
        sent: iq::encode(&heard.before.payload).into(),
        received: frame.symbols.clone(),
        state: Some(wire::csi(&heard.state, None)),
        truth: frame.truth,
        frames,
    }
}
