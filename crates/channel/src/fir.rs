//! Channels of several taps.

use num_complex::Complex32;

use crate::models::{Passage, Taps};
use crate::state::block_len;
use crate::{ChannelKind, ChannelState};

/// Coefficients of a frame that are kept to be told; more are not.
const MAX_TOLD: usize = 65_536;

/// A frame on its way through a filter that may change from block to block.
///
/// The payload is filtered on its own, as behind a guard interval: what lies before and after it is silence. So are the pilots, by the first
/// block's response.
///
/// What a receiver with one tap is told is the tap of lag 0 as h; what comes through the others counts as noise, its mean over the frame.
pub(crate) struct Fir {
    sent: Vec<Complex32>,
    coherence: usize,
    /// Index of the tap with lag 0.
    cursor: usize,
    done: usize,
    interference: f64,
    state: ChannelState,
    taps: Taps,
}

impl Fir {
    /// `count` taps a block, of which `cursor` has lag 0; `coherence` symbols a block, 0: the frame.
    pub(crate) fn new(
        frame: &mut Passage<'_>,
        kind: ChannelKind,
        coherence: usize,
        cursor: usize,
        count: usize,
    ) -> Fir {
        let sent = frame.symbols.to_vec();
        frame.symbols.fill(Complex32::ZERO);
        Fir {
            sent,
            coherence,
            cursor,
            done: 0,
            interference: 0.0,
            state: ChannelState { kind, h: Vec::new(), coherence, noise_var: 0.0 },
            taps: Taps { first: -(cursor as i32), count, values: Vec::new() },
        }
    }

    /// Filters the next block.
    pub(crate) fn block(&mut self, frame: &mut Passage<'_>, response: &[Complex32]) {
        if self.state.h.is_empty() {
            let pilots = frame.pilots.to_vec();
            frame.pilots.fill(Complex32::ZERO);
            filter(&pilots, frame.pilots, 0, response, self.cursor);
        }
        let len = block_len(self.sent.len(), self.coherence).min(self.sent.len() - self.done);
        filter(&self.sent, &mut frame.symbols[self.done..self.done + len], self.done, response, self.cursor);
        self.done += len;
        let h = response[self.cursor];
        let power: f64 = response.iter().map(|h| f64::from(h.norm_sqr())).sum();
        self.interference += (power - f64::from(h.norm_sqr())) * len as f64;
        self.state.h.push(h);
        if self.taps.values.len() <= MAX_TOLD {
            self.taps.values.extend_from_slice(response);
        }
    }

    pub(crate) fn finish(mut self, frame: &mut Passage<'_>) {
        let gain = (self.interference / self.sent.len().max(1) as f64) as f32;
        // As strong as what came to the filter: stages before may have changed the power.
        self.state.noise_var = gain * frame.state.power();
        *frame.state = frame.state.then(self.state, frame.symbols.len());
        frame.taps = (self.taps.values.len() <= MAX_TOLD).then_some(self.taps);
    }
}

/// `received[i]` += sum over taps of response[l] sent[begin + i - (l - cursor)].
fn filter(sent: &[Complex32], received: &mut [Complex32], begin: usize, response: &[Complex32], cursor: usize) {
    for (tap, h) in response.iter().enumerate() {
        // Received symbol i takes sent symbol begin + i + cursor - tap, where there is one.
        let lead = begin as i64 + cursor as i64 - tap as i64;
        let (skip, from) = if lead < 0 { ((-lead) as usize, 0) } else { (0, lead as usize) };
        let sent = sent.get(from..).unwrap_or_default();
        for (y, x) in received.iter_mut().skip(skip).zip(sent) {
            *y += h * x;
        }
    }
}
