//! Convolution of 16 images side by side, `[h, w, channels, 16]`: lanes hold images, for serving many at a time.
//!
//! No lane is idle whatever the number of channels, a depthwise convolution is no special case of the memory's layout, and padding costs nothing:
//! rows of taps outside the image are left out. The sums run in the order of [`super::dense`] and [`super::depthwise`], so that an image
//! gives the same result in either layout.

#![allow(clippy::needless_range_loop, reason = "constant indices keep the accumulators in registers")]

use super::{geometry::Geometry, shared::Epilogue};
use crate::{
    ops::images_last::IMAGES,
    simd::{Kernel, Simd, dispatch},
};

/// Output pixels of the largest register tile.
const PIXELS: usize = 6;

/// y = x * w with the epilogue; `g.n` counts groups of [`IMAGES`] images.
pub(super) fn forward(g: &Geometry, x: &[f32], w: &[f32], epilogue: Epilogue<'_>, y: &mut [f32]) {
    if g.is_depthwise() {
        return super::images_last_depthwise::forward(g, x, w, epilogue, y);
    }
    let packed = Packed::new(g, w);
    let zeros = vec![0.0; g.cin * IMAGES];
    let groups = x.chunks_exact(g.x_len() * IMAGES).zip(y.chunks_exact_mut(g.y_len() * IMAGES));
    for (x, y) in groups {
        dispatch(Convolution { g, packed: &packed, zeros: &zeros, epilogue, x, y });
    }
}

/// The weights in the order in which a tile reads them: for each of its groups of output channels the rows (tap, input channel).
struct Packed {
    data: Vec<f32>,
    blocks: Vec<Block>,
}

/// Output channels that are computed together.
struct Block {
    /// The first, and how many: 4, 2 or 1.
    first: usize,
    count: usize,
    /// First of the input channels that they read.
    source: usize,
    /// Where their weights begin.
    weights: usize,
}

impl Packed {
    fn new(g: &Geometry, w: &[f32]) -> Self {
        let (rows, og) = (g.kh * g.kw * g.cin_per_group(), g.cout_per_group());
        let mut packed = Self { data: Vec::with_capacity(w.len()), blocks: Vec::new() };
        for group in 0..g.spec.groups {
            let mut done = 0;
            while done < og {
                let count = [4, 2, 1].into_iter().find(|count| done + count <= og).unwrap_or(1);
                let first = group * og + done;
                let source = group * g.cin_per_group();
                packed.blocks.push(Block { first, count, source, weights: packed.data.len() });
                for row in 0..rows {
                    packed.data.extend_from_slice(&w[row * g.cout + first..][..count]);
                }
                done += count;
            }
        }
        packed
    }
}

struct Convolution<'a> {
    g: &'a Geometry,
    packed: &'a Packed,
    zeros: &'a [f32],
    epilogue: Epilogue<'a>,
    x: &'a [f32],
    y: &'a mut [f32],
}

/// A tap of a tile: where each of its pixels reads, and the tap's number.
struct Tap {
    at: [*const f32; PIXELS],
    index: usize,
}

/// What a tile writes.
struct Output<'a> {
    y: *mut f32,
    /// Floats from one pixel to the next.
    step: usize,
    bias: Option<&'a [f32]>,
    low: f32,
    high: f32,
}

impl Kernel for Convolution<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { g, packed, zeros, epilogue, x, y } = self;
        assert!(x.len() == g.x_len() * IMAGES && y.len() == g.y_len() * IMAGES && zeros.len() == g.cin * IMAGES);
        let (stride, padding, dilation) = (g.spec.stride, g.spec.padding, g.spec.dilation);
        // As many accumulators as the registers hold beside a pixel and the weights of its channels.
        let most = if S::TILE > 2 * PIXELS { PIXELS } else { 2 };
        let tiles = g.wo.div_ceil(most);
        let (low, high) = epilogue.clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let inside = |at: usize, size: usize| at.checked_sub(padding).filter(|at| *at < size);
        let mut taps: Vec<Tap> = Vec::with_capacity(g.kh * g.kw);
        for lane in (0..IMAGES).step_by(S::LANES) {
            for oy in 0..g.ho {
                for tile in 0..tiles {
                    let (from, to) = (tile * g.wo / tiles, (tile + 1) * g.wo / tiles);
                    taps.clear();
                    for (ky, kx) in g.taps() {
                        let Some(iy) = inside(oy * stride + ky * dilation, g.h) else { continue };
                        let mut at = [zeros.as_ptr(); PIXELS];
                        let mut any = false;
                        for (at, ox) in at.iter_mut().zip(from..to) {
                            if let Some(ix) = inside(ox * stride + kx * dilation, g.w) {
                                *at = x[(iy * g.w + ix) * g.cin * IMAGES + lane..].as_ptr();
                                any = true;
                            }
                        }
                        if any {
                            taps.push(Tap { at, index: ky * g.kw + kx });
                        }
                    }
                    for block in &packed.blocks {
                        let weights = packed.data[block.weights..].as_ptr();
                        let first = (oy * g.wo + from) * g.cout + block.first;
                        let output = Output {
                            y: y[first * IMAGES + lane..].as_mut_ptr(),
                            step: g.cout * IMAGES,
                            bias: epilogue.bias.map(|bias| &bias[block.first..block.first + block.count]),
                            low,
                            high,
                        };
                        // SAFETY: every tap points to a pixel of the image or to zeros, `cin` x 16 floats each; the channels that the
                        // block reads are among them; its weights are `count` for each tap and channel; the pixels `from` to
                        // `to` of row `oy` have `count` channels from `first` on.
                        unsafe {
                            dense_tile::<S>(to - from, block, &taps, g.cin_per_group(), weights, &output);
                        }
                    }
                }
            }
        }
    }
}

macro_rules! by_shape {
    ($pixels:expr, $channels:expr, $call:ident::<$s:ty>($($arg:expr),*)) => {
        by_shape!(@ ($pixels, $channels), $call, $s, ($($arg),*), 1 2 3 4 5 6)
    };
    (@ $shape:expr, $call:ident, $s:ty, $args:tt, $($p:literal)*) => {
        match $shape {
            $(($p, 4) => by_shape!(! $call, $s, $p, 4, $args),
            ($p, 2) => by_shape!(! $call, $s, $p, 2, $args),
            ($p, 1) => by_shape!(! $call, $s, $p, 1, $args),)*
            shape => unreachable!("a tile of {shape:?}"),
        }
    };
    (! $call:ident, $s:ty, $p:literal, $c:literal, ($($arg:expr),*)) => { $call::<$s, $p, $c>($($arg),*) };
}

#[inline(always)]
unsafe fn dense_tile<S: Simd>(
    pixels: usize,
    block: &Block,
    taps: &[Tap],
    channels: usize,
    weights: *const f32,
    output: &Output<'_>,
) {
    // SAFETY: the caller's.
    unsafe { by_shape!(pixels, block.count, dense::<S>(block.source, taps, channels, weights, output)) }
}

/// `P` pixels x `C` output channels of [`Simd::LANES`] images, held in registers over the whole sum.
#[inline(always)]
unsafe fn dense<S: Simd, const P: usize, const C: usize>(
    source: usize,
    taps: &[Tap],
    channels: usize,
    weights: *const f32,
    output: &Output<'_>,
) {
    // SAFETY: the caller's: see `Convolution::run`.
    unsafe {
        let mut acc = [[S::splat(0.0); C]; P];
        for tap in taps {
            let at: [*const f32; P] = std::array::from_fn(|p| tap.at[p].add(source * IMAGES));
            let mut weights = weights.add(tap.index * channels * C);
            for c in 0..channels {
                let row: [S::V; C] = std::array::from_fn(|v| S::splat(*weights.add(v)));
                for p in 0..P {
                    let x = S::load(at[p].add(c * IMAGES));
                    for v in 0..C {
                        acc[p][v] = S::fma(x, row[v], acc[p][v]);
                    }
                }
                weights = weights.add(C);
            }
        }
        let bias: [S::V; C] = std::array::from_fn(|v| S::splat(output.bias.map_or(0.0, |bias| bias[v])));
        finish::<S, P, C>(&acc, &bias, output);
    }
}

#[inline(always)]
unsafe fn finish<S: Simd, const P: usize, const C: usize>(acc: &[[S::V; C]; P], bias: &[S::V; C], output: &Output<'_>) {
    // SAFETY: the caller's: see `Convolution::run`.
    unsafe {
        let (low, high) = (S::splat(output.low), S::splat(output.high));
        for p in 0..P {
            let y = output.y.add(p * output.step);
            for v in 0..C {
                let value = S::min(high, S::max(low, S::add(acc[p][v], bias[v])));
                S::store(y.add(v * IMAGES), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ops::{Conv2dSpec, conv::images_last_depthwise::Depthwise},
        simd::{at, levels},
    };

    /// Every instruction set against sums of products in f64, in the order of the definition.
    #[test]
    fn every_level_gives_the_sums_of_the_definition() {
        let noise = |len: usize, step: f32| -> Vec<f32> { (0..len).map(|i| (i as f32 * step).sin()).collect() };
        for (h, wide, cin, cout, kernel, spec) in [
            (5, 7, 3, 7, 3, Conv2dSpec { stride: 1, padding: 1, dilation: 1, groups: 1 }),
            (14, 14, 4, 4, 5, Conv2dSpec { stride: 1, padding: 4, dilation: 2, groups: 4 }),
            (8, 9, 3, 3, 3, Conv2dSpec { stride: 2, padding: 2, dilation: 1, groups: 3 }),
            (9, 8, 6, 4, 3, Conv2dSpec { stride: 2, padding: 0, dilation: 1, groups: 2 }),
            (7, 13, 5, 6, 1, Conv2dSpec { stride: 2, padding: 0, dilation: 1, groups: 1 }),
        ] {
            let cg = cin / spec.groups;
            let g = Geometry::new(&[1, h, wide, cin], &[kernel, kernel, cg, cout], spec).unwrap();
            let (x, w) = (noise(g.x_len() * IMAGES, 12.9898), noise(g.w_len(), 7.77));
            let (bias, clamp) = (noise(cout, 3.1), Some((-0.5, 0.75)));
            let (packed, zeros) = (Packed::new(&g, &w), vec![0.0; cin * IMAGES]);
            let columns = g.input_frame().cols.max(wide + spec.padding);
            let mut framed = vec![0.0; g.h * columns * 2 * IMAGES];
            let expected = |oy: usize, ox: usize, co: usize, image: usize| {
                let mut sum = f64::from(bias[co]);
                for (ky, kx) in g.taps() {
                    let at = |o: usize, k: usize| (o * spec.stride + k * spec.dilation).wrapping_sub(spec.padding);
                    let (iy, ix) = (at(oy, ky), at(ox, kx));
                    if iy < h && ix < wide {
                        for c in 0..cg {
                            let ci = co / (cout / spec.groups) * cg + c;
                            let x = x[((iy * wide + ix) * cin + ci) * IMAGES + image];
                            sum += f64::from(x) * f64::from(w[((ky * kernel + kx) * cg + c) * cout + co]);
                        }
                    }
                }
                sum.clamp(-0.5, 0.75)
            };
            for level in levels() {
                let mut y = vec![f32::NAN; g.y_len() * IMAGES];
                let epilogue = Epilogue { bias: Some(&bias), clamp };
                if g.is_depthwise() {
                    let framed = &mut framed[..];
                    at(level, Depthwise { g: &g, columns, framed, w: &w, epilogue, x: &x, y: &mut y });
                } else {
                    at(level, Convolution { g: &g, packed: &packed, zeros: &zeros, epilogue, x: &x, y: &mut y });
                }
                for (i, y) in y.iter().enumerate() {
                    let (pixel, co, image) = (i / IMAGES / cout, i / IMAGES % cout, i % IMAGES);
                    let expected = expected(pixel / g.wo, pixel % g.wo, co, image);
                    assert!((f64::from(*y) - expected).abs() < 1e-5, "{level:?}, {spec:?}, {i}: {y}, not {expected}");
                }
            }
        }
    }
}
