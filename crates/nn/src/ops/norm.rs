//! Batch normalisation over all axes but the last, fused with the activation that follows.
//!
//! With z = gamma (x - mean) / sqrt(var + eps) + beta and y = f(z), g = dy f'(z) and N rows:
//! dbeta = sum g, dgamma = sum g xhat, and dx = gamma / sqrt(var + eps) (g - dbeta/N - xhat dgamma/N), the last two terms only
//! when mean and variance come from this very batch. z is computed again from x in the backward pass: cheaper than a mask.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Shape, Tensor};

use super::Activation;
use super::activation::{Act, with_act};
use super::images_last::{IMAGES, as_channels, from_channels, is_images_last};
use super::raw::{self, View};
use super::vectorise::{by_columns, vectorise};
use crate::{Error, Result, tape};

/// Statistics of one batch, f32 `[channels]`, without history.
#[derive(Debug, Clone)]
pub struct BatchStats {
    /// Mean of each channel.
    pub mean: Tensor,
    /// Biased variance of each channel (divided by the number of rows), the one that the batch was normalised with.
    pub var: Tensor,
}

/// y = f(gamma (x - mean) / sqrt(var + eps) + beta) with the batch's own mean and biased variance of each channel.
///
/// `x` is `[.., channels]`, gamma and beta are `[channels]`, or `None` for the plain normalisation. Gradients flow to all three.
pub fn batch_norm_train(
    x: &Tensor,
    gamma_beta: Option<(&Tensor, &Tensor)>,
    eps: f64,
    act: Activation,
) -> Result<(Tensor, BatchStats)> {
    let x = raw::prepare(NAME, x)?;
    let (rows, width) = raw::rows_by_last(NAME, "input", &x)?;
    let gamma_beta = vectors(gamma_beta, width)?;
    let gamma_beta = gamma_beta.as_ref().map(|(gamma, beta)| (gamma, beta));
    raw::on_cuda!(x, crate::cuda::batch_norm_train(&x, gamma_beta, eps, act, width));
    let (mean, var) = moments(&View::new(NAME, &x)?, rows, width);
    let stats = BatchStats {
        mean: raw::tensor(mean.iter().map(|v| *v as f32).collect(), &[width])?,
        var: raw::tensor(var.iter().map(|v| *v as f32).collect(), &[width])?,
    };
    let op = BatchNorm::new(&mean, &var, eps, act, true);
    Ok((op.apply(&x, gamma_beta)?, stats))
}

/// y = f(gamma (x - mean) / sqrt(var + eps) + beta) with given statistics `[channels]`, which get no gradient.
///
/// `x` is `[.., channels]` (or has the layout of [`images_last`](super::images_last())), gamma and beta are `[channels]`, or `None` for the plain
/// normalisation. Gradients flow to all three.
pub fn batch_norm_eval(
    x: &Tensor,
    gamma_beta: Option<(&Tensor, &Tensor)>,
    mean: &Tensor,
    var: &Tensor,
    eps: f64,
    act: Activation,
) -> Result<Tensor> {
    if is_images_last(x) {
        let each = |t: &Tensor| -> Result<Tensor> { Ok(t.unsqueeze(1)?.repeat((1, IMAGES))?.flatten_all()?) };
        let gamma_beta = gamma_beta.map(|(gamma, beta)| Ok::<_, Error>((each(gamma)?, each(beta)?))).transpose()?;
        let gamma_beta = gamma_beta.as_ref().map(|(gamma, beta)| (gamma, beta));
        let (mean, var) = (each(mean)?, each(var)?);
        return from_channels(&batch_norm_eval(&as_channels(x)?, gamma_beta, &mean, &var, eps, act)?);
    }
    let x = raw::prepare(NAME, x)?;
    let (_, width) = raw::rows_by_last(NAME, "input", &x)?;
    let gamma_beta = vectors(gamma_beta, width)?;
    let gamma_beta = gamma_beta.as_ref().map(|(gamma, beta)| (gamma, beta));
    let (mean, var) = (raw::prepare(NAME, mean)?, raw::prepare(NAME, var)?);
    raw::expect_shape(NAME, "mean", &mean, &[width])?;
    raw::expect_shape(NAME, "variance", &var, &[width])?;
    raw::on_cuda!(x, crate::cuda::batch_norm_eval(&x, gamma_beta, &mean, &var, eps, act, width));
    let statistics =
        |t: &Tensor| -> Result<Vec<f64>> { Ok(View::new(NAME, t)?.iter().map(|v| f64::from(*v)).collect()) };
    let op = BatchNorm::new(&statistics(&mean)?, &statistics(&var)?, eps, act, false);
    op.apply(&x, gamma_beta)
}

const NAME: &str = "batch_norm";

/// Scale and offset, checked.
fn vectors(gamma_beta: Option<(&Tensor, &Tensor)>, width: usize) -> Result<Option<(Tensor, Tensor)>> {
    let Some((gamma, beta)) = gamma_beta else { return Ok(None) };
    let (gamma, beta) = (raw::prepare(NAME, gamma)?, raw::prepare(NAME, beta)?);
    raw::expect_shape(NAME, "gamma", &gamma, &[width])?;
    raw::expect_shape(NAME, "beta", &beta, &[width])?;
    Ok(Some((gamma, beta)))
}

struct BatchNorm {
    mean: Vec<f32>,
    /// 1 / sqrt(var + eps)
    inv_std: Vec<f32>,
    act: Activation,
    /// Whether mean and variance depend on x.
    from_batch: bool,
}

/// z = scale x + shift
struct Line {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// Mean and biased variance of each column, in f64. One pass over memory: sums about the first row, in f32 within a chunk and
/// in f64 across chunks.
fn moments(x: &[f32], rows: usize, width: usize) -> (Vec<f64>, Vec<f64>) {
    let pivot = &x[..width];
    let parts = raw::map_chunks(rows, raw::rows_per_chunk(width), |r| {
        let mut sums = vec![0.0f32; 2 * width];
        let (first, second) = sums.split_at_mut(width);
        chunk_moments(&x[r.start * width..r.end * width], pivot, first, second);
        sums
    });
    let mut total = vec![0.0f64; 2 * width];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, v)| *total += f64::from(v));
    }
    let n = rows as f64;
    let mean_offset: Vec<f64> = total[..width].iter().map(|s| s / n).collect();
    let mean = mean_offset.iter().zip(pivot).map(|(m, p)| m + f64::from(*p)).collect();
    let var = total[width..].iter().zip(&mean_offset).map(|(s, m)| (s / n - m * m).max(0.0)).collect();
    (mean, var)
}

/// `N` values of a row from column `c` on.
#[inline(always)]
fn lanes<const N: usize>(row: &[f32], c: usize) -> [f32; N] {
    std::array::from_fn(|i| row[c..c + N][i])
}

vectorise! {
    fn chunk_moments(x: &[f32], pivot: &[f32], first: &mut [f32], second: &mut [f32]) {
        #[inline(always)]
        fn part<const N: usize>(c: usize, x: &[f32], pivot: &[f32], first: &mut [f32], second: &mut [f32]) {
            let p = lanes::<N>(pivot, c);
            let (mut s, mut q) = ([0.0f32; N], [0.0f32; N]);
            for row in x.chunks_exact(pivot.len()) {
                let row = &row[c..c + N];
                for i in 0..N {
                    let d = row[i] - p[i];
                    s[i] += d;
                    q[i] += d * d;
                }
            }
            first[c..c + N].copy_from_slice(&s);
            second[c..c + N].copy_from_slice(&q);
        }
        by_columns!(pivot.len(), part(x, pivot, &mut *first, &mut *second))
    }
}

vectorise! {
    fn forward<A: Act>(x: &[f32], line: &Line, out: &mut [MaybeUninit<f32>]) {
        #[inline(always)]
        fn part<A: Act, const N: usize>(c: usize, x: &[f32], line: &Line, out: &mut [MaybeUninit<f32>]) {
            let (scale, shift) = (lanes::<N>(&line.scale, c), lanes::<N>(&line.shift, c));
            let width = line.scale.len();
            for (row, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
                let (row, out) = (&row[c..c + N], &mut out[c..c + N]);
                for i in 0..N {
                    out[i].write(A::value(row[i] * scale[i] + shift[i]));
                }
            }
        }
        by_columns!(line.scale.len(), part::<A>(x, line, &mut *out))
    }
}

vectorise! {
    /// Adds sum g to `sums[..width]` and sum g (x - mean) to `sums[width..]`.
    fn reduce<A: Act>(x: &[f32], grad: &[f32], line: &Line, mean: &[f32], sums: &mut [f32]) {
        #[inline(always)]
        fn part<A: Act, const N: usize>(
            c: usize, x: &[f32], grad: &[f32], line: &Line, mean: &[f32], sums: &mut [f32],
        ) {
            let (scale, shift) = (lanes::<N>(&line.scale, c), lanes::<N>(&line.shift, c));
            let m = lanes::<N>(mean, c);
            let width = mean.len();
            let (mut s, mut q) = ([0.0f32; N], [0.0f32; N]);
            for (row, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
                let (row, grad) = (&row[c..c + N], &grad[c..c + N]);
                for i in 0..N {
                    let g = grad[i] * A::slope(row[i] * scale[i] + shift[i]);
                    s[i] += g;
                    q[i] += g * (row[i] - m[i]);
                }
            }
            sums[c..c + N].copy_from_slice(&s);
            sums[width + c..width + c + N].copy_from_slice(&q);
        }
        by_columns!(mean.len(), part::<A>(x, grad, line, mean, &mut *sums))
    }
}

/// dx = scale g + by_x (x - mean) + constant
struct InputGrad<'a> {
    line: &'a Line,
    mean: &'a [f32],
    by_x: Vec<f32>,
    constant: Vec<f32>,
}

vectorise! {
    fn backward<A: Act>(x: &[f32], grad: &[f32], k: &InputGrad<'_>, out: &mut [MaybeUninit<f32>]) {
        #[inline(always)]
        fn part<A: Act, const N: usize>(
            c: usize, x: &[f32], grad: &[f32], k: &InputGrad<'_>, out: &mut [MaybeUninit<f32>],
        ) {
            let (scale, shift) = (lanes::<N>(&k.line.scale, c), lanes::<N>(&k.line.shift, c));
            let (mean, by_x, constant) = (lanes::<N>(k.mean, c), lanes::<N>(&k.by_x, c), lanes::<N>(&k.constant, c));
            let width = k.mean.len();
            let rows = x.chunks_exact(width).zip(grad.chunks_exact(width)).zip(out.chunks_exact_mut(width));
            for ((row, grad), out) in rows {
                let (row, grad, out) = (&row[c..c + N], &grad[c..c + N], &mut out[c..c + N]);
                for i in 0..N {
                    let g = grad[i] * A::slope(row[i] * scale[i] + shift[i]);
                    out[i].write(scale[i] * g + by_x[i] * (row[i] - mean[i]) + constant[i]);
                }
            }
        }
        by_columns!(k.mean.len(), part::<A>(x, grad, k, &mut *out))
    }
}

impl BatchNorm {
    fn new(mean: &[f64], var: &[f64], eps: f64, act: Activation, from_batch: bool) -> Self {
        Self {
            mean: mean.iter().map(|m| *m as f32).collect(),
            inv_std: var.iter().map(|v| (1.0 / (v + eps).sqrt()) as f32).collect(),
            act,
            from_batch,
        }
    }

    fn apply(self, x: &Tensor, gamma_beta: Option<(&Tensor, &Tensor)>) -> Result<Tensor> {
        let Some((gamma, beta)) = gamma_beta else {
            return Ok(tape::apply1(x, self)?);
        };
        Ok(tape::apply3(x, gamma, beta, self)?)
    }

    fn line(&self, gamma_beta: Option<(&[f32], &[f32])>) -> Line {
        let scale: Vec<f32> = match gamma_beta {
            Some((gamma, _)) => self.inv_std.iter().zip(gamma).map(|(s, g)| s * g).collect(),
            None => self.inv_std.clone(),
        };
        let shift = scale.iter().zip(&self.mean).enumerate();
        let shift = shift.map(|(i, (s, m))| gamma_beta.map_or(0.0, |(_, beta)| beta[i]) - s * m).collect();
        Line { scale, shift }
    }

    fn run(&self, x: &[f32], gamma_beta: Option<(&[f32], &[f32])>) -> Vec<f32> {
        let line = &self.line(gamma_beta);
        let width = self.mean.len();
        // SAFETY: the chunks are whole rows, and `forward` writes every column of every row.
        unsafe {
            raw::build(x.len(), raw::rows_per_chunk(width) * width, |start, out| {
                with_act!(self.act, forward(&x[start..start + out.len()], line, out));
            })
        }
    }

    /// Gradients of x, gamma and beta.
    fn gradients(
        &self,
        x: &[f32],
        gamma_beta: Option<(&[f32], &[f32])>,
        grad: &[f32],
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let line = &self.line(gamma_beta);
        let width = self.mean.len();
        let (rows, chunk) = (x.len() / width, raw::rows_per_chunk(width));
        let parts = raw::map_chunks(rows, chunk, |r| {
            let mut sums = vec![0.0f32; 2 * width];
            let range = r.start * width..r.end * width;
            with_act!(self.act, reduce(&x[range.clone()], &grad[range], line, &self.mean, &mut sums));
            sums
        });
        let mut total = vec![0.0f64; 2 * width];
        for part in parts {
            total.iter_mut().zip(part).for_each(|(total, v)| *total += f64::from(v));
        }
        let (sum_g, sum_gx) = total.split_at(width);
        let inv_std = self.inv_std.iter().map(|s| f64::from(*s));
        let d_gamma: Vec<f64> = sum_gx.iter().zip(inv_std).map(|(s, inv)| s * inv).collect();
        let n = if self.from_batch { rows as f64 } else { f64::INFINITY };
        let column = |f: &dyn Fn(usize) -> f64| -> Vec<f32> { (0..width).map(|i| f(i) as f32).collect() };
        let k = &InputGrad {
            line,
            mean: &self.mean,
            by_x: column(&|i| -f64::from(line.scale[i] * self.inv_std[i]) * d_gamma[i] / n),
            constant: column(&|i| -f64::from(line.scale[i]) * sum_g[i] / n),
        };
        // SAFETY: the chunks are whole rows, and `backward` writes every column of every row.
        let dx = unsafe {
            raw::build(x.len(), chunk * width, |start, out| {
                let range = start..start + out.len();
                with_act!(self.act, backward(&x[range.clone()], &grad[range], k, out));
            })
        };
        (dx, column(&|i| d_gamma[i]), column(&|i| sum_g[i]))
    }
}

impl CustomOp1 for BatchNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        raw::output(self.run(raw::slice(NAME, s, l)?, None), l.shape())
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (dx, ..) = self.gradients(&View::new(NAME, x)?, None, &View::new(NAME, &grad)?);
        raw::tensor(dx, x.dims()).map(Some)
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        sx: &CpuStorage,
        lx: &Layout,
        sg: &CpuStorage,
        lg: &Layout,
        sb: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (gamma, beta) = (raw::slice(NAME, sg, lg)?, raw::slice(NAME, sb, lb)?);
        raw::output(self.run(raw::slice(NAME, sx, lx)?, Some((gamma, beta))), lx.shape())
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (gamma, beta) = (View::new(NAME, gamma)?, View::new(NAME, beta)?);
        let (dx, dg, db) = self.gradients(&View::new(NAME, x)?, Some((&gamma, &beta)), &View::new(NAME, &grad)?);
        let width = self.mean.len();
        Ok((Some(raw::tensor(dx, x.dims())?), Some(raw::tensor(dg, &[width])?), Some(raw::tensor(db, &[width])?)))
    }
}
