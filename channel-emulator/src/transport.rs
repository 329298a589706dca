//! What happens to whole frames: loss, delay, order and rate of the link.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::Rng as _;
use semlink_channel::{FrameKey, Substream};
use semlink_proto::v1;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Loss, delay, order and rate of a link; nothing of it unless set.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Transport {
    /// Probability that a frame is lost.
    pub loss: f64,
    /// Delay in milliseconds.
    pub delay_ms: f64,
    /// The delay is uniform within plus and minus this, in milliseconds.
    pub jitter_ms: f64,
    /// Probability that a frame is not delayed and overtakes those before it.
    pub reorder: f64,
    /// Symbols, pilots included, that the link carries in a second; 0: any number.
    pub symbols_per_second: f64,
}

/// When frames of one link leave it.
#[derive(Debug, Default)]
pub(crate) struct Line(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    /// When the last frame that was taken has left a link of limited rate.
    free: Option<Instant>,
    /// When the last frame that kept its order arrives.
    last: Option<Instant>,
    /// Ended by that frame once it is on its way.
    turn: Option<oneshot::Receiver<()>>,
}

/// One frame's place on the line.
#[derive(Debug)]
pub(crate) struct Departure {
    pub(crate) at: Instant,
    before: Option<oneshot::Receiver<()>>,
    /// Its end lets the next frame go.
    _on_its_way: Option<oneshot::Sender<()>>,
}

impl Transport {
    /// Longest delay, in milliseconds.
    const MAX_MS: f64 = 60_000.0;

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that cannot be, with its range.
    pub fn check(&self) -> Result<(), String> {
        let fields = [
            ("loss", self.loss, 1.0),
            ("delay_ms", self.delay_ms, Self::MAX_MS),
            ("jitter_ms", self.jitter_ms, Self::MAX_MS),
            ("reorder", self.reorder, 1.0),
            ("symbols_per_second", self.symbols_per_second, 1e12),
        ];
        for (name, value, most) in fields {
            if !(0.0..=most).contains(&value) {
                return Err(format!("transport.{name} is {value}, must be in [0, {most}]"));
            }
        }
        if self.jitter_ms > self.delay_ms {
            let (jitter, delay) = (self.jitter_ms, self.delay_ms);
            return Err(format!("transport.jitter_ms is {jitter}, must be at most delay_ms, {delay}"));
        }
        Ok(())
    }

    /// Whether the frame of this key is lost.
    pub(crate) fn loses(&self, key: FrameKey) -> bool {
        self.loss > 0.0 && key.generator(Substream::Transport).random::<f64>() < self.loss
    }

    /// Whether frames take time.
    pub(crate) fn is_slow(&self) -> bool {
        self.delay_ms > 0.0 || self.symbols_per_second > 0.0
    }

    /// The same from a message.
    ///
    /// # Errors
    /// Those of [`Transport::check`].
    pub fn from_wire(transport: &v1::Transport) -> Result<Transport, String> {
        let v1::Transport { loss, delay_ms, jitter_ms, reorder, symbols_per_second } = *transport;
        let transport = Transport { loss, delay_ms, jitter_ms, reorder, symbols_per_second };
        transport.check()?;
        Ok(transport)
    }

    /// As it travels.
    pub fn to_wire(&self) -> v1::Transport {
        let Transport { loss, delay_ms, jitter_ms, reorder, symbols_per_second } = *self;
        v1::Transport { loss, delay_ms, jitter_ms, reorder, symbols_per_second }
    }
}

impl Line {
    /// The place of a frame that is taken now.
    pub(crate) fn take(&self, transport: &Transport, key: FrameKey, symbols: usize) -> Departure {
        let mut draws = key.generator(Substream::Transport);
        // The first draw is that of the loss.
        let [_, order, jitter] = [draws.random::<f64>(), draws.random(), draws.random()];
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = times.free.unwrap_or_else(Instant::now).max(Instant::now());
        if transport.symbols_per_second > 0.0 {
            at += Duration::from_secs_f64((symbols as f64 / transport.symbols_per_second).min(86_400.0));
            times.free = Some(at);
        } else {
            at = Instant::now();
            times.free = None;
        }
        if order < transport.reorder {
            return Departure { at, before: None, _on_its_way: None };
        }
        let delay_ms = transport.delay_ms + transport.jitter_ms * (2.0 * jitter - 1.0);
        at += Duration::from_secs_f64(delay_ms.max(0.0) * 1e-3);
        at = at.max(times.last.unwrap_or(at));
        times.last = Some(at);
        let (on_its_way, turn) = oneshot::channel();
        Departure { at, before: times.turn.replace(turn), _on_its_way: Some(on_its_way) }
    }
}

impl Departure {
    /// Waits until the frame is through, and those before it are.
    pub(crate) async fn wait(&mut self) {
        // Not where it is past already: a timer costs up to a millisecond.
        if self.at > Instant::now() {
            tokio::time::sleep_until(self.at).await;
        }
        if let Some(before) = self.before.take() {
            // It ends without a message, when its sender goes.
            let _ = before.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_beyond_their_range_are_refused_by_name() {
        let refused = |transport: Transport| transport.check().expect_err("impossible");
        let good = Transport { delay_ms: 5.0, jitter_ms: 2.0, ..Transport::default() };
        assert_eq!(good.check(), Ok(()));
        assert!(refused(Transport { loss: 1.5, ..good }).contains("transport.loss is 1.5"));
        assert!(refused(Transport { loss: f64::NAN, ..good }).contains("transport.loss is NaN"));
        assert!(refused(Transport { delay_ms: -1.0, ..good }).contains("delay_ms"));
        assert!(refused(Transport { jitter_ms: 6.0, ..good }).contains("at most delay_ms, 5"));
        assert!(refused(Transport { symbols_per_second: f64::INFINITY, ..good }).contains("symbols_per_second"));
    }

    #[tokio::test(start_paused = true)]
    async fn frames_keep_their_order_but_for_those_that_overtake() {
        let line = Line::default();
        let transport = Transport { delay_ms: 20.0, jitter_ms: 20.0, ..Transport::default() };
        let start = Instant::now();
        let key = |frame| FrameKey { seed: 1, link: 0, stream: 0, frame };
        let times: Vec<Instant> = (0..200).map(|frame| line.take(&transport, key(frame), 64).at).collect();
        assert!(times.is_sorted());
        assert!(times.iter().all(|at| *at - start <= Duration::from_millis(40)));
        let hasty = Transport { reorder: 0.25, ..transport };
        let overtakes = (0..4_000).filter(|frame| line.take(&hasty, key(*frame), 64).at == start).count();
        // 4,000 draws of 1/4: five standard errors are 137.
        assert!((863..=1137).contains(&overtakes), "{overtakes}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limited_rate_spaces_frames_out() {
        let line = Line::default();
        let transport = Transport { symbols_per_second: 6_400.0, ..Transport::default() };
        let start = Instant::now();
        for frame in 1..=5 {
            let mut departure = line.take(&transport, FrameKey { seed: 0, link: 0, stream: 0, frame }, 64);
            departure.wait().await;
            let late = start.elapsed() - Duration::from_millis(10 * frame);
            // The timer's grain.
            assert!(late <= Duration::from_millis(1), "{late:?}");
        }
    }
}
