//! Depthwise convolution of 16 images side by side, see [`super::images_last`].
//!
//! Two channels at a time are copied with columns of zeros beside them, so that the rows that an output row reads stay in the first-level cache;
//! rows of taps above and below the image are left out. The sums run in the order of [`super::depthwise`].

#![allow(clippy::needless_range_loop, reason = "constant indices keep the accumulators in registers")]

use super::{
    geometry::Geometry,
    shared::{Epilogue, with_scratch},
};
use crate::{
    ops::images_last::IMAGES,
    simd::{Kernel, Simd, dispatch},
};

/// Output pixels of the largest register tile.
const PIXELS: usize = 7;
/// Channels that are copied and filtered together.
const CHANNELS: usize = 2;
/// Bytes of a cache line.
const LINE: usize = 64;

/// y = x * w with the epilogue; `g.n` counts groups of [`IMAGES`] images.
pub(super) fn forward(g: &Geometry, x: &[f32], w: &[f32], epilogue: Epilogue<'_>, y: &mut [f32]) {
    let columns = g.input_frame().cols.max(g.w + g.spec.padding);
    // Vectors that begin within a cache line would be read from two: half the speed of a loop that is all loads.
    with_scratch(g.h * columns * CHANNELS * IMAGES + IMAGES, |scratch| {
        let aligned = scratch.as_ptr().align_offset(LINE).min(IMAGES);
        let framed = &mut scratch[aligned..];
        let groups = x.chunks_exact(g.x_len() * IMAGES).zip(y.chunks_exact_mut(g.y_len() * IMAGES));
        for (x, y) in groups {
            dispatch(Depthwise { g, columns, framed, w, epilogue, x, y });
        }
    });
}

pub(super) struct Depthwise<'a> {
    pub(super) g: &'a Geometry,
    /// Of the copy: zeros, the image's, zeros.
    pub(super) columns: usize,
    pub(super) framed: &'a mut [f32],
    pub(super) w: &'a [f32],
    pub(super) epilogue: Epilogue<'a>,
    pub(super) x: &'a [f32],
    pub(super) y: &'a mut [f32],
}

impl Kernel for Depthwise<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { g, columns, framed, w, epilogue, x, y } = self;
        let channels = g.cin;
        assert!(x.len() == g.x_len() * IMAGES && y.len() == g.y_len() * IMAGES && w.len() == g.w_len());
        assert!(framed.len() >= g.h * columns * CHANNELS * IMAGES && columns >= g.input_frame().cols);
        framed.fill(0.0);
        let mut first = 0;
        while first < channels {
            let count = CHANNELS.min(channels - first);
            // SAFETY: `first + count` channels exist; the assertions above bound all pixels, the copy and the weights.
            unsafe {
                copy::<S>(g, columns, x, first, count, framed);
                let filter = Filter { g, columns, framed: framed.as_ptr(), w, epilogue, first };
                match (count, g.spec.stride) {
                    (CHANNELS, 1) => filter.run::<S, CHANNELS, 1>(y),
                    (CHANNELS, _) => filter.run::<S, CHANNELS, 0>(y),
                    _ => filter.run::<S, 1, 0>(y),
                }
            }
            first += count;
        }
    }
}

/// Channels `first .. first + count` of the image into the middle columns of the copy, `[h, columns, count, 16]`. What the copy's outer columns hold
/// stays zero as long as `count` does not change; the last, odd channel's rows are shorter, and its zeros are written anew.
#[inline(always)]
unsafe fn copy<S: Simd>(g: &Geometry, columns: usize, x: &[f32], first: usize, count: usize, framed: &mut [f32]) {
    let pixel = count * IMAGES;
    if count < CHANNELS {
        framed.fill(0.0);
    }
    for row in 0..g.h {
        for column in 0..g.w {
            // SAFETY: the caller's: the pixel lies in the image and, `padding` columns further, in the copy.
            unsafe {
                let from = x.as_ptr().add(((row * g.w + column) * g.cin + first) * IMAGES);
                let to = framed.as_mut_ptr().add((row * columns + column + g.spec.padding) * pixel);
                for lane in (0..pixel).step_by(S::LANES) {
                    S::store(to.add(lane), S::load(from.add(lane)));
                }
            }
        }
    }
}

/// Some channels of all pixels.
#[derive(Clone, Copy)]
struct Filter<'a> {
    g: &'a Geometry,
    columns: usize,
    framed: *const f32,
    w: &'a [f32],
    epilogue: Epilogue<'a>,
    first: usize,
}

impl Filter<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, const C: usize, const STRIDE: usize>(self, y: &mut [f32]) {
        let g = self.g;
        // Beside the accumulators the registers hold the weights of two channels.
        let tiles = g.wo.div_ceil(if S::TILE > PIXELS { PIXELS } else { PIXELS - 1 });
        for oy in 0..g.ho {
            for tile in 0..tiles {
                let (from, to) = (tile * g.wo / tiles, (tile + 1) * g.wo / tiles);
                for lane in (0..IMAGES).step_by(S::LANES) {
                    // SAFETY: the caller's; the tile's pixels lie in row `oy`.
                    unsafe {
                        let out = y.as_mut_ptr().add(((oy * g.wo + from) * g.cout + self.first) * IMAGES + lane);
                        match to - from {
                            1 => self.tile::<S, 1, C, STRIDE>(oy, from, lane, out),
                            2 => self.tile::<S, 2, C, STRIDE>(oy, from, lane, out),
                            3 => self.tile::<S, 3, C, STRIDE>(oy, from, lane, out),
                            4 => self.tile::<S, 4, C, STRIDE>(oy, from, lane, out),
                            5 => self.tile::<S, 5, C, STRIDE>(oy, from, lane, out),
                            6 => self.tile::<S, 6, C, STRIDE>(oy, from, lane, out),
                            7 => self.tile::<S, PIXELS, C, STRIDE>(oy, from, lane, out),
                            pixels => unreachable!("a tile of {pixels}"),
                        }
                    }
                }
            }
        }
    }

    /// `P` pixels x `C` channels of [`Simd::LANES`] images, held in registers over the whole sum. A stride that is known here (not 0) makes
    /// the pixels' addresses constants: computed ones would take as long as the products.
    #[inline(always)]
    unsafe fn tile<S: Simd, const P: usize, const C: usize, const STRIDE: usize>(
        self,
        oy: usize,
        ox: usize,
        lane: usize,
        y: *mut f32,
    ) {
        let Self { g, columns, framed, w, epilogue, first } = self;
        let (stride, padding, dilation) = (g.spec.stride, g.spec.padding, g.spec.dilation);
        let step = if STRIDE == 0 { stride } else { STRIDE };
        let (low, high) = epilogue.clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        // SAFETY: the caller's: see `Depthwise::run`.
        unsafe {
            let bias: [S::V; C] = std::array::from_fn(|c| S::splat(epilogue.bias.map_or(0.0, |bias| bias[first + c])));
            let mut acc = [bias; P];
            for ky in 0..g.kh {
                let Some(iy) = (oy * stride + ky * dilation).checked_sub(padding).filter(|iy| *iy < g.h) else {
                    continue;
                };
                let mut weights = w.as_ptr().add(ky * g.kw * g.cin + first);
                let mut at = framed.add((iy * columns + ox * stride) * C * IMAGES + lane);
                for _ in 0..g.kw {
                    let row: [S::V; C] = std::array::from_fn(|c| S::splat(*weights.add(c)));
                    for p in 0..P {
                        for c in 0..C {
                            let x = S::load(at.add((p * step * C + c) * IMAGES));
                            acc[p][c] = S::fma(x, row[c], acc[p][c]);
                        }
                    }
                    weights = weights.add(g.cin);
                    at = at.add(dilation * C * IMAGES);
                }
            }
            let (low, high) = (S::splat(low), S::splat(high));
            for p in 0..P {
                for c in 0..C {
                    S::store(y.add((p * g.cout + c) * IMAGES), S::min(high, S::max(low, acc[p][c])));
                }
            }
        }
    }
}
