//! Pixels of an output, each a sum over taps and channels of framed images.

#![allow(clippy::needless_range_loop, reason = "constant indices keep the accumulators in registers")]

use rayon::prelude::*;

use super::{by_count, pack::Weights};
use crate::{
    ops::conv::{
        geometry::Frame,
        shared::{Epilogue, group_size, with_scratch},
    },
    simd::{Kernel, Simd, dispatch},
};

pub(super) struct Phase {
    /// Offset of each tap from a pixel's source.
    pub(super) taps: Vec<usize>,
    pub(super) pixels: Vec<(usize, usize)>,
    pub(super) weights: Weights,
}

/// How to fill a batch of destination images from framed source images.
pub(super) struct Plan {
    pub(super) frame: Frame,
    /// Channels per group.
    pub(super) src_channels: usize,
    pub(super) dst_channels: usize,
    pub(super) groups: usize,
    pub(super) dst_len: usize,
    pub(super) clear: bool,
    pub(super) phases: Vec<Phase>,
}

impl Plan {
    pub(super) fn run(
        &self,
        n: usize,
        src: &[f32],
        src_len: usize,
        w: &[f32],
        epilogue: Epilogue<'_>,
        dst: &mut [f32],
    ) {
        let padded = self.frame.rows * self.frame.cols * self.src_channels;
        let images = group_size(n, padded + self.dst_len / self.groups);
        let task = |(src, dst): (&[f32], &mut [f32])| {
            if self.clear {
                dst.fill(0.0);
            }
            if self.frame.is_image() && self.groups == 1 {
                return self.fill(src, src_len, w, epilogue, 0, dst);
            }
            let count = src.len() / src_len;
            with_scratch(count * padded, |scratch| {
                for group in 0..self.groups {
                    let first = group * self.src_channels;
                    for (image, framed) in src.chunks_exact(src_len).zip(scratch.chunks_exact_mut(padded)) {
                        self.frame.copy(image, first, self.src_channels, framed);
                    }
                    self.fill(scratch, padded, w, epilogue, group, dst);
                }
            });
        };
        if n <= images {
            task((src, dst));
        } else {
            src.par_chunks(images * src_len).zip(dst.par_chunks_mut(images * self.dst_len)).for_each(task);
        }
    }

    /// One group of channels of a few images that are framed already.
    fn fill(
        &self,
        framed: &[f32],
        framed_len: usize,
        w: &[f32],
        epilogue: Epilogue<'_>,
        group: usize,
        dst: &mut [f32],
    ) {
        for phase in &self.phases {
            dispatch(Gather { plan: self, phase, framed, framed_len, w, epilogue, group, dst });
        }
    }
}

struct Gather<'a> {
    plan: &'a Plan,
    phase: &'a Phase,
    framed: &'a [f32],
    framed_len: usize,
    w: &'a [f32],
    epilogue: Epilogue<'a>,
    group: usize,
    dst: &'a mut [f32],
}

/// The sources of one register tile.
#[derive(Clone, Copy)]
struct Sum<'a> {
    taps: &'a [usize],
    channels: usize,
    weights: *const f32,
    /// Floats from one row of weights to the next.
    row: usize,
}

impl Kernel for Gather<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { plan, phase, framed, framed_len, w, epilogue, group, dst } = self;
        let width = 2 * S::LANES;
        let columns = plan.dst_channels;
        let blocks = columns.div_ceil(width);
        let rows = phase.taps.len() * plan.src_channels;
        let images = dst.len() / plan.dst_len;
        let total = images * phase.pixels.len();
        assert!(framed.len() >= images * framed_len && phase.taps.iter().max().is_some());
        // Equal tiles instead of full ones and a rest.
        let tiles = total.div_ceil(S::TILE);
        for block in 0..blocks {
            let first = group * columns + block * width;
            let wanted = (columns - block * width).min(width);
            let (weights, row) = match &phase.weights {
                Weights::Direct => (w[first..].as_ptr(), w.len() / rows),
                Weights::Packed(packed) => (packed[(group * blocks + block) * rows * width..].as_ptr(), width),
            };
            let sum = Sum { taps: &phase.taps, channels: plan.src_channels, weights, row };
            let bias = epilogue.bias.map(|bias| &bias[first..first + wanted]);
            let mut done = 0;
            for tile in 0..tiles {
                let end = (tile + 1) * total / tiles;
                let count = end - done;
                let mut src = [std::ptr::null(); 14];
                let mut out = [std::ptr::null_mut(); 14];
                for (slot, index) in (done..end).enumerate() {
                    let (image, pixel) = (index / phase.pixels.len(), index % phase.pixels.len());
                    let (from, to) = phase.pixels[pixel];
                    src[slot] = framed[image * framed_len + from..].as_ptr();
                    out[slot] = dst[image * plan.dst_len + to + first..].as_mut_ptr();
                }
                // SAFETY: each pixel and tap lies in its framed image (the frame is sized for them), each row of weights has
                // `wanted` rounded up to whole vectors of values, and each output pixel has `wanted` channels from `first`.
                unsafe {
                    if wanted > S::LANES {
                        gather_tile::<S, 2>(count, &src, &out, sum, bias, epilogue.clamp, wanted);
                    } else {
                        gather_tile::<S, 1>(count, &src, &out, sum, bias, epilogue.clamp, wanted);
                    }
                }
                done = end;
            }
        }
    }
}

#[inline(always)]
unsafe fn gather_tile<S: Simd, const V: usize>(
    count: usize,
    src: &[*const f32; 14],
    out: &[*mut f32; 14],
    sum: Sum<'_>,
    bias: Option<&[f32]>,
    clamp: Option<(f32, f32)>,
    wanted: usize,
) {
    // SAFETY: the caller's.
    unsafe { by_count!(count, gather_pixels::<S, V>(src, out, sum, bias, clamp, wanted)) }
}

/// `P` pixels x `V` vectors of channels, held in registers over the whole sum.
#[inline(always)]
unsafe fn gather_pixels<S: Simd, const P: usize, const V: usize>(
    src: &[*const f32; 14],
    out: &[*mut f32; 14],
    sum: Sum<'_>,
    bias: Option<&[f32]>,
    clamp: Option<(f32, f32)>,
    wanted: usize,
) {
    // SAFETY: the caller's: see `Gather::run`.
    unsafe {
        let mut acc = [[S::splat(0.0); V]; P];
        let mut weights = sum.weights;
        for &tap in sum.taps {
            let at: [*const f32; P] = std::array::from_fn(|p| src[p].add(tap));
            let mut c = 0;
            // Some channels at a time: the pixel pointers, more than there are registers for, are then read once for all of them. More
            // than about 60 products in the loop's body, and the compiler moves the accumulators to memory: half the speed.
            let step = if P * V <= 16 { 4 } else { 2 };
            while c + step <= sum.channels {
                for u in 0..step {
                    let row: [S::V; V] = std::array::from_fn(|v| S::load(weights.add(v * S::LANES)));
                    for p in 0..P {
                        let x = S::splat(*at[p].add(c + u));
                        for v in 0..V {
                            acc[p][v] = S::fma(x, row[v], acc[p][v]);
                        }
                    }
                    weights = weights.add(sum.row);
                }
                c += step;
            }
            while c < sum.channels {
                let row: [S::V; V] = std::array::from_fn(|v| S::load(weights.add(v * S::LANES)));
                for p in 0..P {
                    let x = S::splat(*at[p].add(c));
                    for v in 0..V {
                        acc[p][v] = S::fma(x, row[v], acc[p][v]);
                    }
                }
                weights = weights.add(sum.row);
                c += 1;
            }
        }
        // Out of the registers by constant indices alone: an index that is computed would put the accumulators into memory from the
        // start, at half the speed.
        let mut sums = [[0.0f32; 2 * 16]; 14];
        for p in 0..P {
            for v in 0..V {
                S::store(sums[p].as_mut_ptr().add(v * S::LANES), acc[p][v]);
            }
        }
        for v in 0..V {
            let rest = wanted - v * S::LANES;
            let bias = bias.map_or(S::splat(0.0), |bias| S::load_n(bias.as_ptr().add(v * S::LANES), rest));
            for p in 0..P {
                let mut value = S::add(S::load(sums[p].as_ptr().add(v * S::LANES)), bias);
                if let Some((low, high)) = clamp {
                    value = S::min(S::splat(high), S::max(S::splat(low), value));
                }
                S::store_n(out[p].add(v * S::LANES), rest, value);
            }
        }
    }
}
