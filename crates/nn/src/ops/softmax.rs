//! Softmax over the last axis.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::math;
use super::raw::{self, View};
use super::vectorise::vectorise;
use crate::runtime::shares_work;
use crate::{Result, tape};

/// exp(x_i) / sum_j exp(x_j) over the last axis, any leading axes.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let x = raw::prepare(NAME, x)?;
    let (_, width) = raw::rows_by_last(NAME, "input", &x)?;
    raw::on_cuda!(x, crate::cuda::softmax(&x, width));
    Ok(tape::apply1(&x, Softmax { width })?)
}

const NAME: &str = "softmax";

struct Softmax {
    width: usize,
}

/// Sum of f(a, b) over two slices, in 16 lanes.
#[inline(always)]
pub(crate) fn lane_sum(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a_blocks, b_blocks) = (a.chunks_exact(16), b.chunks_exact(16));
    let mut rest = 0.0;
    for (a, b) in a_blocks.remainder().iter().zip(b_blocks.remainder()) {
        rest += f(*a, *b);
    }
    for (a, b) in a_blocks.zip(b_blocks) {
        for i in 0..16 {
            sums[i] += f(a[i], b[i]);
        }
    }
    sums.iter().sum::<f32>() + rest
}

vectorise! {
    /// Replaces each row of `width` values by its softmax.
    pub(crate) fn softmax_rows(data: &mut [f32], width: usize) {
        for row in data.chunks_exact_mut(width) {
            let mut max = f32::NEG_INFINITY;
            for v in row.iter() {
                max = if *v > max || v.is_nan() { *v } else { max };
            }
            for v in row.iter_mut() {
                *v = math::exp(*v - max);
            }
            let scale = 1.0 / lane_sum(row, row, |v, _| v);
            for v in row.iter_mut() {
                *v *= scale;
            }
        }
    }
}

vectorise! {
    /// Replaces each row of `grad`, the gradient of the softmax `p`, by the gradient of its input: p (grad - sum grad p).
    pub(crate) fn softmax_rows_backward(p: &[f32], grad: &mut [f32], width: usize) {
        for (p, grad) in p.chunks_exact(width).zip(grad.chunks_exact_mut(width)) {
            let dot = lane_sum(p, grad, |p, g| p * g);
            for (p, g) in p.iter().zip(grad.iter_mut()) {
                *g = p * (*g - dot);
            }
        }
    }
}

impl Softmax {
    /// `f(first_element, rows)` on chunks of whole rows of `data`.
    fn in_chunks(&self, data: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
        use rayon::prelude::*;
        let chunk = raw::rows_per_chunk(self.width) * self.width;
        if !shares_work() {
            data.chunks_mut(chunk).enumerate().for_each(|(i, rows)| f(i * chunk, rows));
        } else if data.len() <= chunk {
            f(0, data);
        } else {
            data.par_chunks_mut(chunk).enumerate().for_each(|(i, rows)| f(i * chunk, rows));
        }
    }
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut y = raw::slice(NAME, s, l)?.to_vec();
        self.in_chunks(&mut y, |_, rows| softmax_rows(rows, self.width));
        raw::output(y, l.shape())
    }

    fn bwd(&self, _: &Tensor, res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let p = View::new(NAME, res)?;
        let p: &[f32] = &p;
        let mut dx = View::new(NAME, &grad)?.to_vec();
        self.in_chunks(&mut dx, |start, rows| {
            softmax_rows_backward(&p[start..start + rows.len()], rows, self.width);
        });
        raw::tensor(dx, res.dims()).map(Some)
    }
}
