//! Weights in the order in which the kernel reads them.

use std::ops::Range;

use rayon::prelude::*;

use crate::{
    ops::conv::geometry::Geometry,
    runtime::shares_work,
    simd::{Kernel, Simd, dispatch},
};

pub(super) enum Weights {
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

pub(super) fn forward_weights(g: &Geometry, w: &[f32]) -> Weights {
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
pub(super) fn pack_transposed(g: &Geometry, w: &[f32], taps: impl Iterator<Item = usize>) -> Vec<f32> {
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
