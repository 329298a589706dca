//! What dense and depthwise kernels share: how images are dealt out to tasks, their memory, and what follows the sum over taps.

use std::cell::RefCell;

use rayon::prelude::*;

use super::geometry::Geometry;
use crate::runtime::shares_work;

/// What follows the sum over taps, fused into the store.
#[derive(Clone, Copy, Default)]
pub(super) struct Epilogue<'a> {
    /// One value for each output channel.
    pub(super) bias: Option<&'a [f32]>,
    /// Clamp from below and above (ReLU: 0 and infinity).
    pub(super) clamp: Option<(f32, f32)>,
}

/// Floats of input and output that a group of images may take, so that it stays in the second-level cache.
pub(super) const GROUP_FLOATS: usize = 256 * 1024;

thread_local! {
    /// Padded images and pixel tables, reused from call to call.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with(|scratch| {
        // Taken out, not borrowed: rayon may run another task of this kind on this thread while `f` waits.
        let mut buffer = scratch.take();
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
        let result = f(&mut buffer[..len]);
        scratch.replace(buffer);
        result
    })
}

/// Images per task: enough tasks for every thread, small enough for the cache.
pub(super) fn group_size(n: usize, floats_per_image: usize) -> usize {
    if !shares_work() {
        return n;
    }
    let threads = rayon::current_num_threads();
    if threads == 1 {
        return n.min((GROUP_FLOATS / floats_per_image.max(1)).max(1));
    }
    n.div_ceil(2 * threads).min((GROUP_FLOATS / floats_per_image.max(1)).max(1)).max(1)
}

/// Runs of images whose weight gradients are summed apart, then in order; fixed, so that the result does not depend on the
/// number of threads.
const PARTS: usize = 8;

/// Adds the weight gradients of all images into `dw`.
pub(super) fn sum_over_images(
    g: &Geometry,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    one: impl Fn(&[f32], &[f32], &mut [f32]) + Sync,
) {
    let share = g.n.div_ceil(PARTS).max(1);
    let mut parts: Vec<_> =
        x.chunks(share * g.x_len()).zip(dy.chunks(share * g.y_len())).map(|pair| (pair, Vec::new())).collect();
    if let [((x, dy), _)] = parts[..] {
        return one(x, dy, dw);
    }
    parts.par_iter_mut().for_each(|((x, dy), sum)| {
        *sum = vec![0.0; g.w_len()];
        one(x, dy, sum);
    });
    const CHUNK: usize = 16 * 1024;
    dw.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, dw)| {
        for (_, sum) in &parts {
            dw.iter_mut().zip(&sum[chunk * CHUNK..]).for_each(|(a, b)| *a += b);
        }
    });
}
