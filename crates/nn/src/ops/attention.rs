//! Multi-head attention among the tokens of one sample, fused per (sample, head).

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::matrix::{Matrix, Target};
use super::raw::{self, View};
use super::softmax::{softmax_rows, softmax_rows_backward};
use crate::runtime::shares_work;
use crate::{Error, Result, tape};

/// For each sample and head softmax(q k^T / sqrt(d / heads)) v, over the t tokens of that sample alone: samples of a batch never
/// see each other.
///
/// `qkv` is `[n, t, 3 d]`, the last axis holding q, k, v one after the other, each of them `heads` blocks of d / heads. The
/// result is `[n, t, d]`. No mask, no dropout.
pub fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let qkv = raw::prepare(NAME, qkv)?;
    let &[n, t, d3] = qkv.dims() else {
        return Err(raw::shape_error(NAME, "qkv", "[n, t, 3 d]", &qkv));
    };
    if n * t * d3 == 0 || !d3.is_multiple_of(3) {
        return Err(raw::shape_error(NAME, "qkv", "[n, t, 3 d], not empty", &qkv));
    }
    let d = d3 / 3;
    if heads == 0 || !d.is_multiple_of(heads) {
        return Err(Error::Argument { op: NAME, what: format!("{heads} heads do not divide {d} channels") });
    }
    raw::on_cuda!(qkv, crate::cuda::attention(&qkv, heads));
    Ok(tape::apply1(&qkv, Attention { n, t, d, heads })?)
}

const NAME: &str = "attention";

struct Attention {
    n: usize,
    t: usize,
    d: usize,
    heads: usize,
}

impl Attention {
    fn scale(&self) -> f32 {
        1.0 / ((self.d / self.heads) as f32).sqrt()
    }

    /// q, k and v of one head, from one sample's `[t, 3 d]`.
    fn split<'a>(&self, sample: &'a [f32], head: usize) -> [Matrix<'a>; 3] {
        let size = self.d / self.heads;
        [0, 1, 2].map(|i| Matrix::part(&sample[i * self.d + head * size..], self.t, size, 3 * self.d))
    }

    /// softmax(q k^T scale) into `p`, `[t, t]`.
    fn probabilities(&self, q: Matrix<'_>, k: Matrix<'_>, p: &mut [f32]) {
        q.times(k.transposed(), self.scale(), Target::replace(p, self.t), false);
        softmax_rows(p, self.t);
    }

    fn sample_forward(&self, sample: &[f32], out: &mut [f32], p: &mut [f32]) {
        let size = self.d / self.heads;
        for head in 0..self.heads {
            let [q, k, v] = self.split(sample, head);
            self.probabilities(q, k, p);
            let out = Target::replace(&mut out[head * size..], self.d);
            Matrix::new(p, self.t, self.t).times(v, 1.0, out, false);
        }
    }

    /// With P the probabilities and O = P V: dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(dP P)), dQ = scale dS K,
    /// dK = scale dS^T Q.
    fn sample_backward(&self, sample: &[f32], grad: &[f32], out: &mut [f32], p: &mut [f32], ds: &mut [f32]) {
        let (t, d, size) = (self.t, self.d, self.d / self.heads);
        for head in 0..self.heads {
            let [q, k, v] = self.split(sample, head);
            let grad = Matrix::part(&grad[head * size..], t, size, d);
            self.probabilities(q, k, p);
            let probabilities = Matrix::new(p, t, t);
            let mut target = |i: usize, a: Matrix<'_>, b: Matrix<'_>, scale: f32| {
                a.times(b, scale, Target::replace(&mut out[i * d + head * size..], 3 * d), false);
            };
            target(2, probabilities.transposed(), grad, 1.0);
            grad.times(v.transposed(), 1.0, Target::replace(ds, t), false);
            softmax_rows_backward(p, ds, t);
            let ds = Matrix::new(ds, t, t);
            target(0, ds, k, self.scale());
            target(1, ds.transposed(), q, self.scale());
        }
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let qkv = raw::slice(NAME, s, l)?;
        let (len, scores) = (self.t * self.d, self.t * self.t);
        let mut out = vec![0.0; self.n * len];
        if !shares_work() {
            let mut p = vec![0.0; scores];
            let samples = out.chunks_mut(len).zip(qkv.chunks(3 * len));
            samples.for_each(|(out, sample)| self.sample_forward(sample, out, &mut p));
            return raw::output(out, (self.n, self.t, self.d));
        }
        let samples = out.par_chunks_mut(len).zip(qkv.par_chunks(3 * len));
        samples.for_each_init(|| vec![0.0; scores], |p, (out, sample)| self.sample_forward(sample, out, p));
        raw::output(out, (self.n, self.t, self.d))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (xs, gs) = (View::new(NAME, qkv)?, View::new(NAME, &grad)?);
        let (xs, gs): (&[f32], &[f32]) = (&xs, &gs);
        let (len, scores) = (self.t * self.d, self.t * self.t);
        let mut out = vec![0.0; xs.len()];
        let samples = out.par_chunks_mut(3 * len).zip(xs.par_chunks(3 * len)).zip(gs.par_chunks(len));
        samples.for_each_init(
            || (vec![0.0; scores], vec![0.0; scores]),
            |(p, ds), ((out, sample), grad)| self.sample_backward(sample, grad, out, p, ds),
        );
        raw::tensor(out, qkv.dims()).map(Some)
    }
}
