//! Dense and grouped convolution: implicit matrix products on channels-last images.
//!
//! One register-tiled kernel, [`Gather`], serves two directions: out[p, :] += sum over taps t and channels c of src[p + t, c] x
//! w[t, c, :], for a list of pixels p. The forward pass gathers from the padded input. The gradient of the input gathers from the padded
//! output gradient with transposed weights, one pass for each of the stride x stride phases of the input grid, so that strided
//! convolutions waste nothing. [`WeightGradient`] is the third product: dw[t, c, :] = sum over p of x[p + t, c] x dy[p, :].

#![allow(clippy::needless_range_loop, reason = "constant indices keep the accumulators in registers")]

use std::{cell::RefCell, ops::Range};

use rayon::prelude::*;

use super::geometry::{Frame, Geometry};
use crate::{
    runtime::shares_work,
    simd::{Kernel, Simd, dispatch},
};

/// What follows the sum over taps, fused into the store.
#[derive(Clone, Copy, Default)]
pub(super) struct Epilogue<'a> {
    /// One value for each output channel.
    pub(super) bias: Option<&'a [f32]>,
    /// Clamp from below and above (ReLU: 0 and infinity).
    pub(super) clamp: Option<(f32, f32)>,
}

/// Floats of input and output that a group of images may take, so that it stays in the second-level cache.
const GROUP_FLOATS: usize = 256 * 1024;

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

/// y = x * w with the epilogue.
pub(super) fn forward(g: &Geometry, x: &[f32], w: &[f32], epilogue: Epilogue<'_>, y: &mut [f32]) {
    let frame = g.input_frame();
    let (stride, dilation) = (g.spec.stride, g.spec.dilation);
    let plan = Plan {
        frame,
        src_channels: g.cin_per_group(),
        dst_channels: g.cout_per_group(),
        groups: g.spec.groups,
        dst_len: g.y_len(),
        clear: false,
        phases: vec![Phase {
            taps: g.taps().map(|(ky, kx)| (ky * dilation * frame.cols + kx * dilation) * g.cin_per_group()).collect(),
            pixels: pixel_table(g.ho, g.wo, |oy, ox| {
                ((oy * stride * frame.cols + ox * stride) * g.cin_per_group(), (oy * g.wo + ox) * g.cout)
            }),
            weights: forward_weights(g, w),
        }],
    };
    plan.run(g.n, x, g.x_len(), w, epilogue, y);
}

/// dx = gradient of the input, given the gradient of the output.
pub(super) fn input_gradient(g: &Geometry, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    let (frame, phases) = g.gradient_phases();
    let og = g.cout_per_group();
    // Phases without a tap (a 1x1 kernel at stride 2) leave their pixels at zero.
    let clear = phases.len() < g.spec.stride.min(g.h) * g.spec.stride.min(g.w);
    let phases = phases
        .into_iter()
        .map(|p| Phase {
            taps: p.taps.iter().map(|tap| (tap.row * frame.cols + tap.col) * og).collect(),
            pixels: pixel_table(p.rows, p.cols, |qy, qx| {
                let (iy, ix) = (qy * g.spec.stride + p.ry, qx * g.spec.stride + p.rx);
                ((qy * frame.cols + qx) * og, (iy * g.w + ix) * g.cin)
            }),
            weights: Weights::Packed(pack_transposed(g, w, p.taps.iter().map(|tap| tap.index))),
        })
        .collect();
    let plan = Plan {
        frame,
        src_channels: og,
        dst_channels: g.cin_per_group(),
        groups: g.spec.groups,
        dst_len: g.x_len(),
        clear,
        phases,
    };
    plan.run(g.n, dy, g.y_len(), &[], Epilogue::default(), dx);
}

/// dw = gradient of the weights [kh, kw, cin / groups, cout].
pub(super) fn weight_gradient(g: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let frame = g.input_frame();
    let cg = g.cin_per_group();
    let padded = frame.rows * frame.cols * cg;
    let images = (GROUP_FLOATS / (padded + g.ho * g.wo * g.cout_per_group())).clamp(1, g.n.max(1));
    sum_over_images(g, x, dy, dw, |x, dy, dw| {
        for (x, dy) in x.chunks(images * g.x_len()).zip(dy.chunks(images * g.y_len())) {
            let count = dy.len() / g.y_len();
            with_scratch(count * padded, |scratch| {
                for group in 0..g.spec.groups {
                    for (image, dst) in x.chunks_exact(g.x_len()).zip(scratch.chunks_exact_mut(padded)) {
                        frame.copy(image, group * cg, cg, dst);
                    }
                    dispatch(WeightGradient { g, cols: frame.cols, padded, x: scratch, dy, group, count, dw });
                }
            });
        }
    });
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

/// Offsets of source and destination of each pixel, within one image.
fn pixel_table(rows: usize, cols: usize, at: impl Fn(usize, usize) -> (usize, usize)) -> Vec<(usize, usize)> {
    (0..rows * cols).map(|p| at(p / cols, p % cols)).collect()
}

enum Weights {
    /// The weight tensor as it is: row (tap, c) of `cout` values; columns of group g start at g x cout / groups.
    Direct,
    /// For each group and block of channels: rows (tap, c) of one block width, zero-padded.
    Packed(Vec<f32>),
}

/// Channels that one register tile covers: two vectors.
struct BlockWidth;

impl Kernel for BlockWidth {
    type Out = usize;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> usize {
        2 * S::LANES
    }
}

fn forward_weights(g: &Geometry, w: &[f32]) -> Weights {
    let lanes = dispatch(BlockWidth) / 2;
    // Copying pays when it is spread over many pixels, and is needed where a block would be read past its end.
    let many = g.n * g.ho * g.wo >= 256;
    if g.cout_per_group().is_multiple_of(lanes) && !(many && g.cout > 2 * lanes) {
        return Weights::Direct;
    }
    let rows = g.kh * g.kw * g.cin_per_group();
    let og = g.cout_per_group();
    Weights::Packed(pack(g.spec.groups, rows, og, |group, row, columns, dst| {
        let from = row * g.cout + group * og;
        dst.copy_from_slice(&w[from + columns.start..from + columns.end]);
    }))
}

/// Rows (tap, output channel), columns input channel, of the chosen taps.
fn pack_transposed(g: &Geometry, w: &[f32], taps: impl Iterator<Item = usize>) -> Vec<f32> {
    let taps: Vec<usize> = taps.collect();
    let (cg, og) = (g.cin_per_group(), g.cout_per_group());
    pack(g.spec.groups, taps.len() * og, cg, |group, row, columns, dst| {
        let column = &w[taps[row / og] * cg * g.cout + group * og + row % og..];
        for (dst, c) in dst.iter_mut().zip(columns) {
            *dst = column[c * g.cout];
        }
    })
}

/// For each group and block of columns: all rows of that block, zero-padded to the block's width. `copy` fills a row's columns.
fn pack(
    groups: usize,
    rows: usize,
    columns: usize,
    copy: impl Fn(usize, usize, Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let width = dispatch(BlockWidth);
    let blocks = columns.div_ceil(width);
    let mut packed = vec![0.0; groups * blocks * rows * width];
    let fill = |(index, block): (usize, &mut [f32])| {
        let (group, first) = (index / blocks, index % blocks * width);
        let end = columns.min(first + width);
        for (row, dst) in block.chunks_exact_mut(width).enumerate() {
            copy(group, row, first..end, &mut dst[..end - first]);
        }
    };
    if packed.len() < 1 << 14 || !shares_work() {
        packed.chunks_exact_mut(rows * width).enumerate().for_each(fill);
    } else {
        packed.par_chunks_exact_mut(rows * width).enumerate().for_each(fill);
    }
    packed
}

struct Phase {
    /// Offset of each tap from a pixel's source.
    taps: Vec<usize>,
    pixels: Vec<(usize, usize)>,
    weights: Weights,
}

/// How to fill a batch of destination images from framed source images.
struct Plan {
    frame: Frame,
    /// Channels per group.
    src_channels: usize,
    dst_channels: usize,
    groups: usize,
    dst_len: usize,
    clear: bool,
    phases: Vec<Phase>,
}

impl Plan {
    fn run(&self, n: usize, src: &[f32], src_len: usize, w: &[f32], epilogue: Epilogue<'_>, dst: &mut [f32]) {
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

macro_rules! by_count {
    ($count:expr, $call:ident::<$s:ty, $v:ident>($($arg:expr),*)) => {
        match $count {
            1 => $call::<$s, 1, $v>($($arg),*),
            2 => $call::<$s, 2, $v>($($arg),*),
            3 => $call::<$s, 3, $v>($($arg),*),
            4 => $call::<$s, 4, $v>($($arg),*),
            5 => $call::<$s, 5, $v>($($arg),*),
            6 => $call::<$s, 6, $v>($($arg),*),
            7 => $call::<$s, 7, $v>($($arg),*),
            8 => $call::<$s, 8, $v>($($arg),*),
            9 => $call::<$s, 9, $v>($($arg),*),
            10 => $call::<$s, 10, $v>($($arg),*),
            11 => $call::<$s, 11, $v>($($arg),*),
            12 => $call::<$s, 12, $v>($($arg),*),
            13 => $call::<$s, 13, $v>($($arg),*),
            14 => $call::<$s, 14, $v>($($arg),*),
            count => unreachable!("a tile of {count}"),
        }
    };
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

struct WeightGradient<'a> {
    g: &'a Geometry,
    /// Pixels in a row of the padded input.
    cols: usize,
    /// Floats of one padded image (of this group's channels).
    padded: usize,
    x: &'a [f32],
    dy: &'a [f32],
    group: usize,
    count: usize,
    dw: &'a mut [f32],
}

impl Kernel for WeightGradient<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { g, cols, padded, x, dy, group, count, dw } = self;
        let (cg, og) = (g.cin_per_group(), g.cout_per_group());
        let width = 2 * S::LANES;
        // Row (tap, c) of dw reads x at this offset from a pixel.
        let offsets: Vec<usize> = g
            .taps()
            .flat_map(|(ky, kx)| (0..cg).map(move |c| (ky * g.spec.dilation * cols + kx * g.spec.dilation) * cg + c))
            .collect();
        let rows = offsets.len();
        let tiles = rows.div_ceil(S::TILE);
        assert!(x.len() >= count * padded && dy.len() >= count * g.y_len() && dw.len() >= rows * g.cout);
        let scan = Scan {
            images: count,
            padded,
            ho: g.ho,
            wo: g.wo,
            x_step: g.spec.stride * cg,
            x_row: g.spec.stride * cols * cg,
            y_step: g.cout,
            y_image: g.y_len(),
        };
        for block in 0..og.div_ceil(width) {
            let first = group * og + block * width;
            let wanted = (og - block * width).min(width);
            let mut done = 0;
            for tile in 0..tiles {
                let end = (tile + 1) * rows / tiles;
                let mut at = [0; 14];
                at[..end - done].copy_from_slice(&offsets[done..end]);
                // SAFETY: offsets lie within a padded image, `first + wanted` within the output channels, rows within dw.
                unsafe {
                    let out = dw.as_mut_ptr().add(done * g.cout + first);
                    let (x, dy) = (x.as_ptr(), dy.as_ptr().add(first));
                    if wanted > S::LANES {
                        weight_tile::<S, 2>(end - done, &scan, &at, x, dy, out, wanted);
                    } else {
                        weight_tile::<S, 1>(end - done, &scan, &at, x, dy, out, wanted);
                    }
                }
                done = end;
            }
        }
    }
}

/// How the weight gradient walks over the pixels of a few images.
struct Scan {
    images: usize,
    padded: usize,
    ho: usize,
    wo: usize,
    x_step: usize,
    x_row: usize,
    y_step: usize,
    y_image: usize,
}

#[inline(always)]
unsafe fn weight_tile<S: Simd, const V: usize>(
    count: usize,
    scan: &Scan,
    at: &[usize; 14],
    x: *const f32,
    dy: *const f32,
    out: *mut f32,
    wanted: usize,
) {
    // SAFETY: the caller's.
    unsafe { by_count!(count, weight_rows::<S, V>(scan, at, x, dy, out, wanted)) }
}

/// `P` rows (tap, channel) x `V` vectors of output channels, held in registers over all pixels.
#[inline(always)]
unsafe fn weight_rows<S: Simd, const P: usize, const V: usize>(
    scan: &Scan,
    at: &[usize; 14],
    x: *const f32,
    dy: *const f32,
    out: *mut f32,
    wanted: usize,
) {
    // SAFETY: the caller's: see `WeightGradient::run`.
    unsafe {
        let mut acc = [[S::splat(0.0); V]; P];
        let last = wanted - (V - 1) * S::LANES;
        // Neighbouring channels of one tap, the usual case, need one pointer instead of P.
        let adjacent = (1..P).all(|p| at[p] == at[0] + p);
        for image in 0..scan.images {
            for oy in 0..scan.ho {
                let mut xs = x.add(image * scan.padded + oy * scan.x_row);
                let mut ys = dy.add(image * scan.y_image + oy * scan.wo * scan.y_step);
                if adjacent {
                    xs = xs.add(at[0]);
                }
                for _ in 0..scan.wo {
                    let row: [S::V; V] = std::array::from_fn(|v| {
                        if v + 1 < V { S::load(ys.add(v * S::LANES)) } else { S::load_n(ys.add(v * S::LANES), last) }
                    });
                    if adjacent {
                        for p in 0..P {
                            let x = S::splat(*xs.add(p));
                            for v in 0..V {
                                acc[p][v] = S::fma(x, row[v], acc[p][v]);
                            }
                        }
                    } else {
                        for p in 0..P {
                            let x = S::splat(*xs.add(at[p]));
                            for v in 0..V {
                                acc[p][v] = S::fma(x, row[v], acc[p][v]);
                            }
                        }
                    }
                    xs = xs.add(scan.x_step);
                    ys = ys.add(scan.y_step);
                }
            }
        }
        for (p, acc) in acc.iter().enumerate() {
            for v in 0..V {
                let to = out.add(p * scan.y_step + v * S::LANES);
                let rest = wanted - v * S::LANES;
                S::store_n(to, rest, S::add(S::load_n(to, rest), acc[v]));
            }
        }
    }
}
