//! The gradient of the weights: a sum over pixels and images.

#![allow(clippy::needless_range_loop, reason = "constant indices keep the accumulators in registers")]

use super::by_count;
use crate::{
    ops::conv::{
        geometry::Geometry,
        shared::{GROUP_FLOATS, sum_over_images, with_scratch},
    },
    simd::{Kernel, Simd, dispatch},
};

/// dw = gradient of the weights [kh, kw, cin / groups, cout].
pub(in crate::ops::conv) fn weight_gradient(g: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
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
