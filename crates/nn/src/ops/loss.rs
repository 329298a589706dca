//! Losses: a scalar for a batch, its gradient computed in the same pass.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};

use super::raw::{self, CHUNK, View};
use super::vectorise::vectorise;
use crate::{Error, Result, tape};

/// Mean over the n samples of w_i x (- sum_c t_ic log softmax(logits_i)_c), a scalar.
///
/// `logits` `[n, classes]`; `targets` `[n, classes]` are distributions (one-hot, smoothed, or a teacher's softmax) and get no
/// gradient, as `weights` `[n]`, which scale each sample's loss (the sum is divided by n, not by the weights' sum).
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "cross_entropy";
    let (x, t) = (raw::prepare(OP, logits)?, raw::prepare(OP, targets)?);
    let &[n, classes] = x.dims() else {
        return Err(raw::shape_error(OP, "logits", "[n, classes]", &x));
    };
    if x.elem_count() == 0 {
        return Err(raw::shape_error(OP, "logits", "at least one sample and class", &x));
    }
    raw::expect_shape(OP, "targets", &t, &[n, classes])?;
    let weights = sample_weights(OP, weights, n)?;
    raw::on_cuda!(x, crate::cuda::cross_entropy(&x, &t, weights.as_ref()));
    let weights = weights.map(|w| Ok::<_, Error>(View::new(OP, &w)?.to_vec())).transpose()?;
    let (xs, ts) = (View::new(OP, &x)?, View::new(OP, &t)?);
    let mut grad = vec![0.0f32; n * classes];
    let mut loss = 0.0f64;
    for i in 0..n {
        let row = i * classes..(i + 1) * classes;
        let weight = weights.as_ref().map_or(1.0, |w| w[i]);
        let scale = weight / n as f32;
        loss += f64::from(weight) * sample_cross_entropy(&xs[row.clone()], &ts[row.clone()], scale, &mut grad[row]);
    }
    drop(xs);
    let op = CrossEntropy { loss: (loss / n as f64) as f32, grad: raw::tensor(grad, x.dims())? };
    Ok(tape::apply1(&x, op)?)
}

/// Mean over all elements of w_i (a - b)^2, a scalar. `a` and `b` have one shape `[n, ..]`; `weights` `[n]` scale each
/// sample's part and get no gradient. Gradients flow to `a` and `b` where they are tracked.
pub fn mse(a: &Tensor, b: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
    let (a, b) = (raw::prepare(Mse::NAME, a)?, raw::prepare(Mse::NAME, b)?);
    raw::expect_shape(Mse::NAME, "second tensor", &b, a.dims())?;
    let n = match a.dims().first() {
        Some(&n) if a.elem_count() > 0 => n,
        _ => {
            return Err(raw::shape_error(Mse::NAME, "first tensor", "[n, ..], not empty", &a));
        }
    };
    let weights = sample_weights(Mse::NAME, weights, n)?;
    raw::on_cuda!(a, crate::cuda::mse(&a, &b, weights.as_ref()));
    let weights = weights.map(|w| Ok::<_, Error>(View::new(Mse::NAME, &w)?.to_vec())).transpose()?;
    Ok(tape::apply2(&a, &b, Mse { weights })?)
}

/// Loss and gradient are known before the graph's node is made; the node only carries them.
struct CrossEntropy {
    loss: f32,
    /// d loss / d logits
    grad: Tensor,
}

struct Mse {
    weights: Option<Vec<f32>>,
}

fn sample_weights(op: &'static str, weights: Option<&Tensor>, n: usize) -> Result<Option<Tensor>> {
    let Some(weights) = weights else {
        return Ok(None);
    };
    let weights = raw::prepare(op, weights)?;
    raw::expect_shape(op, "weights", &weights, &[n])?;
    Ok(Some(weights))
}

/// The loss of one sample; writes scale x (softmax(x) sum(t) - t), `scale` times its gradient.
fn sample_cross_entropy(x: &[f32], t: &[f32], scale: f32, grad: &mut [f32]) -> f64 {
    // Not `f32::max`: a NaN logit must come through.
    let max = x.iter().fold(f32::NEG_INFINITY, |m, v| if *v > m || v.is_nan() { *v } else { m });
    let exp_sum: f64 = x.iter().map(|v| f64::from(v - max).exp()).sum();
    let log_sum = exp_sum.ln();
    let t_sum: f64 = t.iter().map(|v| f64::from(*v)).sum();
    let mut loss = 0.0;
    for ((g, x), t) in grad.iter_mut().zip(x).zip(t) {
        let log_p = f64::from(x - max) - log_sum;
        // A zero target contributes nothing even where the probability underflows.
        if *t != 0.0 {
            loss -= f64::from(*t) * log_p;
        }
        *g = ((log_p.exp() * t_sum - f64::from(*t)) * f64::from(scale)) as f32;
    }
    loss
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        raw::output(vec![self.loss], ())
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let upstream = grad.to_scalar::<f32>()?;
        if upstream == 1.0 {
            return Ok(Some(self.grad.clone()));
        }
        self.grad.affine(f64::from(upstream), 0.0).map(Some)
    }
}

vectorise! {
    fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [0.0f32; 16];
        let (a_blocks, b_blocks) = (a.chunks_exact(16), b.chunks_exact(16));
        let rest = a_blocks.remainder().iter().zip(b_blocks.remainder());
        let rest: f32 = rest.map(|(a, b)| (a - b) * (a - b)).sum();
        for (a, b) in a_blocks.zip(b_blocks) {
            for i in 0..16 {
                let d = a[i] - b[i];
                sums[i] += d * d;
            }
        }
        sums.iter().sum::<f32>() + rest
    }
}

vectorise! {
    fn scaled_difference(a: &[f32], b: &[f32], scale: f32, out: &mut [MaybeUninit<f32>]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            out.write((a - b) * scale);
        }
    }
}

impl Mse {
    const NAME: &'static str = "mse";

    /// Elements of one chunk: within one sample if samples have weights.
    fn chunk(&self, len: usize) -> usize {
        self.weights.as_ref().map_or(CHUNK, |w| len / w.len())
    }

    fn weight(&self, start: usize, chunk: usize) -> f32 {
        self.weights.as_ref().map_or(1.0, |w| w[start / chunk])
    }
}

impl CustomOp2 for Mse {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        sa: &CpuStorage,
        la: &Layout,
        sb: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (a, b) = (raw::slice(Self::NAME, sa, la)?, raw::slice(Self::NAME, sb, lb)?);
        let chunk = self.chunk(a.len());
        let parts = raw::map_chunks(a.len(), chunk, |r| {
            let weight = self.weight(r.start, chunk);
            f64::from(weight) * f64::from(squared_distance(&a[r.clone()], &b[r]))
        });
        raw::output(vec![(parts.iter().sum::<f64>() / a.len() as f64) as f32], ())
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let upstream = grad.to_scalar::<f32>()?;
        let (a_, b_) = (View::new(Self::NAME, a)?, View::new(Self::NAME, b)?);
        let (a_, b_): (&[f32], &[f32]) = (&a_, &b_);
        let chunk = self.chunk(a_.len());
        let difference = |sign: f32| {
            let base = sign * 2.0 * upstream / a_.len() as f32;
            // SAFETY: `scaled_difference` writes every element.
            let out = unsafe {
                raw::build(a_.len(), chunk, |start, out| {
                    let r = start..start + out.len();
                    scaled_difference(&a_[r.clone()], &b_[r], base * self.weight(start, chunk), out);
                })
            };
            raw::tensor(out, a.dims())
        };
        let da = if a.track_op() { Some(difference(1.0)?) } else { None };
        let db = if b.track_op() { Some(difference(-1.0)?) } else { None };
        Ok((da, db))
    }
}
