//! Batch normalisation with running statistics.

use candle_core::{DType, Tensor};

use crate::ops::{self, Activation, BatchStats};
use crate::{Buffer, Error, Init, Mode, Params, Result};

/// Added to the variance, as in PyTorch.
pub const BN_EPS: f64 = 1e-5;
/// Weight of a new batch in the running statistics, as in PyTorch.
pub const BN_MOMENTUM: f64 = 0.1;

/// Batch normalisation over all axes but the last, with the activation that follows.
///
/// Parameters: `weight` and `bias` `[channels]` (if affine). Buffers: `running_mean`, `running_var` `[channels]`; in
/// [`Mode::Train`] each forward pass moves them by [`BN_MOMENTUM`] towards the batch's mean and unbiased variance.
/// [`Mode::Probe`] uses the batch's statistics and moves nothing. Frozen parameters are for serving: a layer built from them treats every mode as [`Mode::Eval`].
#[derive(Debug, Clone)]
pub struct BatchNorm2d {
    gamma_beta: Option<(Tensor, Tensor)>,
    mean: Buffer,
    var: Buffer,
    frozen: bool,
}

impl BatchNorm2d {
    /// A layer for `channels` channels; `affine` adds a learnt scale (1 at first) and offset (0 at first).
    pub fn new(params: &Params, channels: usize, affine: bool) -> Result<Self> {
        let gamma_beta = if affine {
            let gamma = params.weight("weight", &[channels], Init::Ones)?;
            Some((gamma, params.weight("bias", &[channels], Init::Zeros)?))
        } else {
            None
        };
        Ok(Self {
            gamma_beta,
            mean: params.buffer("running_mean", &[channels], 0.0)?,
            var: params.buffer("running_var", &[channels], 1.0)?,
            frozen: params.is_frozen(),
        })
    }

    /// `[.., channels]` to the same shape, activation applied.
    pub fn forward(&self, x: &Tensor, act: Activation, mode: Mode) -> Result<Tensor> {
        self.normalise(x, self.gamma_beta.as_ref().map(|(g, b)| (g, b)), act, mode)
    }

    /// As [`BatchNorm2d::forward`] without activation, the result multiplied by `scale`; for a layer that is not affine.
    ///
    /// # Errors
    /// The layer has a scale of its own; another number of channels.
    pub fn forward_scaled(&self, x: &Tensor, scale: &Scale, mode: Mode) -> Result<Tensor> {
        if self.gamma_beta.is_some() {
            return Err(Error::Argument { op: "batch_norm", what: "this layer has a scale of its own".into() });
        }
        self.normalise(x, Some((&scale.gamma, &scale.zeros)), Activation::Identity, mode)
    }

    fn normalise(
        &self,
        x: &Tensor,
        gamma_beta: Option<(&Tensor, &Tensor)>,
        act: Activation,
        mode: Mode,
    ) -> Result<Tensor> {
        if self.frozen || !mode.uses_batch_statistics() {
            return ops::batch_norm_eval(x, gamma_beta, &self.mean.get(), &self.var.get(), BN_EPS, act);
        }
        let (y, stats) = ops::batch_norm_train(x, gamma_beta, BN_EPS, act)?;
        if mode == Mode::Probe {
            return Ok(y);
        }
        let channels = stats.var.elem_count().max(1);
        let rows = (x.elem_count() / channels) as f64;
        // A single row has no unbiased variance; its biased one is zero and as good as any.
        let unbiased = if rows > 1.0 { rows / (rows - 1.0) } else { 1.0 };
        self.record(&stats, unbiased)?;
        Ok(y)
    }

    /// running = (1 - momentum) running + momentum batch, the batch's variance times `unbiased`.
    fn record(&self, batch: &BatchStats, unbiased: f64) -> Result<()> {
        #[cfg(feature = "cuda")]
        if batch.mean.device().is_cuda() {
            let running = [&self.mean.get(), &self.var.get()];
            let [mean, var] = crate::cuda::move_statistics(running, batch, BN_MOMENTUM, unbiased)?;
            self.mean.set(&mean)?;
            return self.var.set(&var);
        }
        for (running, batch, scale) in [(&self.mean, &batch.mean, 1.0), (&self.var, &batch.var, unbiased)] {
            let old = running.get().affine(1.0 - BN_MOMENTUM, 0.0)?;
            running.set(&(old + batch.affine(BN_MOMENTUM * scale, 0.0)?)?)?;
        }
        Ok(())
    }

    /// Scale and offset `[channels]` that the layer amounts to in [`Mode::Eval`]: y = f(scale x + offset). For folding into the
    /// convolution before it.
    pub fn scale_and_offset(&self) -> Result<(Tensor, Tensor)> {
        let inv_std = (self.var.get() + BN_EPS)?.sqrt()?.recip()?;
        let (scale, beta) = match &self.gamma_beta {
            Some((gamma, beta)) => (gamma.mul(&inv_std)?, Some(beta)),
            None => (inv_std, None),
        };
        let from_mean = self.mean.get().mul(&scale)?;
        let offset = match beta {
            Some(beta) => beta.sub(&from_mean)?,
            None => from_mean.neg()?,
        };
        Ok((scale, offset))
    }
}

/// A factor for each channel that comes from elsewhere than the layer's own parameters: the weight of a candidate operation in an
/// architecture search. Gradients flow to it.
#[derive(Debug, Clone)]
pub struct Scale {
    /// `[channels]`
    gamma: Tensor,
    zeros: Tensor,
    ones: Tensor,
}

impl Scale {
    /// Factors `[channels]`.
    pub fn new(gamma: &Tensor) -> Result<Self> {
        Ok(Self { gamma: gamma.clone(), zeros: gamma.zeros_like()?, ones: gamma.ones_like()? })
    }

    /// A scale for each of `factors` `[count]`, the same for all of `channels` channels.
    ///
    /// # Errors
    /// No factor; another type than f32.
    pub fn all(factors: &Tensor, channels: usize) -> Result<Vec<Self>> {
        let rows = ops::rows(&ops::spread(factors, channels)?)?;
        let zeros = Tensor::zeros(channels, DType::F32, factors.device())?;
        let ones = Tensor::ones(channels, DType::F32, factors.device())?;
        Ok(rows.into_iter().map(|gamma| Self { gamma, zeros: zeros.clone(), ones: ones.clone() }).collect())
    }

    /// `x` `[.., channels]`, each channel multiplied by its factor.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        ops::batch_norm_eval(x, Some((&self.gamma, &self.zeros)), &self.zeros, &self.ones, 0.0, Activation::Identity)
    }
}
