//! Learning-rate schedules: pure functions of the step, so that a resumed run continues exactly.

use std::f64::consts::PI;

/// Linear warm-up from 0 to `peak`, then half a cosine down to `floor`.
///
/// During warm-up lr = peak (step + 1) / warmup; afterwards lr = floor + (peak - floor) (1 + cos(pi t)) / 2 with t from 0 at
/// step `warmup` to 1 at step `total`. Without warm-up this is PyTorch's `CosineAnnealingLR` with `T_max = total`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cosine {
    /// The highest learning rate.
    pub peak: f64,
    /// The learning rate at the end.
    pub floor: f64,
    /// Steps of linear warm-up.
    pub warmup: usize,
    /// All steps, warm-up included.
    pub total: usize,
}

/// One cycle (Smith 2018): half a cosine up from peak / `start_div` over the first `warmup` steps, half a cosine down to
/// peak / (`start_div` x `end_div`) at the last step. PyTorch's `OneCycleLR` with cosine annealing and two phases, where
/// `pct_start` x `total_steps` = `warmup`; PyTorch's defaults for the divisors are 25 and 1e4.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OneCycle {
    /// The highest learning rate, reached at step `warmup` - 1.
    pub peak: f64,
    /// Steps of the rising phase.
    pub warmup: usize,
    /// All steps.
    pub total: usize,
    /// peak / learning rate of the first step.
    pub start_div: f64,
    /// Learning rate of the first step / that of the last.
    pub end_div: f64,
}

impl Cosine {
    /// The learning rate of `step`, counted from 0; `floor` after the end.
    pub fn lr(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let length = self.total.saturating_sub(self.warmup).max(1);
        anneal(self.peak, self.floor, (step - self.warmup) as f64 / length as f64)
    }
}

impl OneCycle {
    /// A cycle with PyTorch's divisors, 25 and 1e4.
    pub fn new(peak: f64, warmup: usize, total: usize) -> Self {
        Self { peak, warmup, total, start_div: 25.0, end_div: 1e4 }
    }

    /// The learning rate of `step`, counted from 0; the last one after the end.
    pub fn lr(&self, step: usize) -> f64 {
        let start = self.peak / self.start_div;
        let end = start / self.end_div;
        let top = self.warmup.saturating_sub(1);
        if step < top {
            return anneal(start, self.peak, step as f64 / top as f64);
        }
        let length = self.total.saturating_sub(1).saturating_sub(top).max(1);
        anneal(self.peak, end, (step - top) as f64 / length as f64)
    }
}

/// Half a cosine from `from` at t = 0 to `to` at t = 1.
fn anneal(from: f64, to: f64, t: f64) -> f64 {
    to + (from - to) * (1.0 + (PI * t.min(1.0)).cos()) / 2.0
}
