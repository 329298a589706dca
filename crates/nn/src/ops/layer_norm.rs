//! Layer normalisation over the last axis.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Tensor};

use super::raw::{self, View};
use super::softmax::lane_sum;
use super::vectorise::vectorise;
use crate::runtime::shares_work;
use crate::{Result, tape};

/// y = gamma (x - mean) / sqrt(var + eps) + beta with mean and biased variance of each row of the last axis.
///
/// `x` is `[.., d]`, gamma and beta are `[d]`, each optional (1 and 0 then). Gradients flow to all given tensors.
pub fn layer_norm(x: &Tensor, gamma: Option<&Tensor>, beta: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    let x = raw::prepare(NAME, x)?;
    let (_, width) = raw::rows_by_last(NAME, "input", &x)?;
    let vector = |what, t: Option<&Tensor>| -> Result<Option<Tensor>> {
        let Some(t) = t else { return Ok(None) };
        let t = raw::prepare(NAME, t)?;
        raw::expect_shape(NAME, what, &t, &[width])?;
        Ok(Some(t))
    };
    let op = |second| LayerNorm { width, eps, second };
    let (gamma, beta) = (vector("gamma", gamma)?, vector("beta", beta)?);
    raw::on_cuda!(x, crate::cuda::layer_norm(&x, gamma.as_ref(), beta.as_ref(), eps, width));
    Ok(match (gamma, beta) {
        (None, None) => tape::apply1(&x, op(Second::Gamma))?,
        (Some(gamma), None) => tape::apply2(&x, &gamma, op(Second::Gamma))?,
        (None, Some(beta)) => tape::apply2(&x, &beta, op(Second::Beta))?,
        (Some(gamma), Some(beta)) => tape::apply3(&x, &gamma, &beta, op(Second::Gamma))?,
    })
}

const NAME: &str = "layer_norm";

/// What the second argument is when there are two.
#[derive(Clone, Copy, PartialEq)]
enum Second {
    Gamma,
    Beta,
}

struct LayerNorm {
    width: usize,
    eps: f64,
    second: Second,
}

/// Mean and 1 / sqrt(var + eps) of a row, in two passes over it.
#[inline(always)]
fn row_moments(row: &[f32], eps: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = lane_sum(row, row, |v, _| v) / n;
    let var = lane_sum(row, row, |v, _| (v - mean) * (v - mean)) / n;
    (mean, 1.0 / (var + eps).sqrt())
}

vectorise! {
    /// Normalises the rows of `y` in place.
    fn forward(y: &mut [f32], width: usize, gamma: Option<&[f32]>, beta: Option<&[f32]>, eps: f32) {
        for row in y.chunks_exact_mut(width) {
            let (mean, inv_std) = row_moments(row, eps);
            for v in row.iter_mut() {
                *v = (*v - mean) * inv_std;
            }
            if let Some(gamma) = gamma {
                row.iter_mut().zip(gamma).for_each(|(v, g)| *v *= g);
            }
            if let Some(beta) = beta {
                row.iter_mut().zip(beta).for_each(|(v, b)| *v += b);
            }
        }
    }
}

vectorise! {
    /// Replaces `x` by the gradient of x; adds to the gradients of gamma and beta.
    ///
    /// With h = g gamma: dx = (h - mean h - xhat mean(h xhat)) / sqrt(var + eps), dgamma = sum g xhat, dbeta = sum g.
    fn backward(x: &mut [f32], grad: &[f32], gamma: &[f32], eps: f32, d_gamma: &mut [f32], d_beta: &mut [f32]) {
        let width = gamma.len();
        let n = width as f32;
        for (row, grad) in x.chunks_exact_mut(width).zip(grad.chunks_exact(width)) {
            let (mean, inv_std) = row_moments(row, eps);
            for v in row.iter_mut() {
                *v = (*v - mean) * inv_std;
            }
            for (((v, g), d_gamma), d_beta) in row.iter().zip(grad).zip(d_gamma.iter_mut()).zip(d_beta.iter_mut()) {
                *d_gamma += g * v;
                *d_beta += g;
            }
            let mean_h = lane_sum(grad, gamma, |g, gamma| g * gamma) / n;
            let mut mean_hx = 0.0;
            for ((v, g), gamma) in row.iter().zip(grad).zip(gamma) {
                mean_hx += v * g * gamma;
            }
            mean_hx /= n;
            for ((v, g), gamma) in row.iter_mut().zip(grad).zip(gamma) {
                *v = (g * gamma - mean_h - *v * mean_hx) * inv_std;
            }
        }
    }
}

impl LayerNorm {
    fn run(&self, x: &[f32], gamma: Option<&[f32]>, beta: Option<&[f32]>) -> Vec<f32> {
        use rayon::prelude::*;
        let mut y = x.to_vec();
        let chunk = raw::rows_per_chunk(self.width) * self.width;
        if y.len() <= chunk || !shares_work() {
            forward(&mut y, self.width, gamma, beta, self.eps as f32);
        } else {
            y.par_chunks_mut(chunk).for_each(|rows| forward(rows, self.width, gamma, beta, self.eps as f32));
        }
        y
    }

    /// Gradients of x, gamma and beta.
    fn gradients(&self, x: &Tensor, gamma: Option<&Tensor>, grad: &Tensor) -> candle_core::Result<[Tensor; 3]> {
        use rayon::prelude::*;
        let grad = grad.contiguous()?;
        let gs = View::new(NAME, &grad)?;
        let gs: &[f32] = &gs;
        let gamma = match gamma {
            Some(gamma) => View::new(NAME, gamma)?.to_vec(),
            None => vec![1.0; self.width],
        };
        let width = self.width;
        let mut dx = View::new(NAME, x)?.to_vec();
        let chunk = raw::rows_per_chunk(width) * width;
        let chunks = dx.par_chunks_mut(chunk).zip(gs.par_chunks(chunk));
        let parts: Vec<Vec<f32>> = chunks
            .map(|(x, grad)| {
                let mut sums = vec![0.0; 2 * width];
                let (d_gamma, d_beta) = sums.split_at_mut(width);
                backward(x, grad, &gamma, self.eps as f32, d_gamma, d_beta);
                sums
            })
            .collect();
        let mut total = vec![0.0f32; 2 * width];
        for part in parts {
            total.iter_mut().zip(part).for_each(|(t, v)| *t += v);
        }
        let d_beta = total.split_off(width);
        Ok([raw::tensor(dx, x.dims())?, raw::tensor(total, &[width])?, raw::tensor(d_beta, &[width])?])
    }
}

impl CustomOp1 for LayerNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        raw::output(self.run(raw::slice(NAME, s, l)?, None, None), l.shape())
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let [dx, ..] = self.gradients(x, None, grad)?;
        Ok(Some(dx))
    }
}

impl CustomOp2 for LayerNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        sx: &CpuStorage,
        lx: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, second) = (raw::slice(NAME, sx, lx)?, Some(raw::slice(NAME, s2, l2)?));
        let y = match self.second {
            Second::Gamma => self.run(x, second, None),
            Second::Beta => self.run(x, None, second),
        };
        raw::output(y, lx.shape())
    }

    fn bwd(
        &self,
        x: &Tensor,
        second: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let gamma = (self.second == Second::Gamma).then_some(second);
        let [dx, d_gamma, d_beta] = self.gradients(x, gamma, grad)?;
        Ok((Some(dx), Some(if gamma.is_some() { d_gamma } else { d_beta })))
    }
}

impl CustomOp3 for LayerNorm {
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
        raw::output(self.run(raw::slice(NAME, sx, lx)?, Some(gamma), Some(beta)), lx.shape())
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, d_gamma, d_beta] = self.gradients(x, Some(gamma), grad)?;
        Ok((Some(dx), Some(d_gamma), Some(d_beta)))
    }
}
