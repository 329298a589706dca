//! Adam with decoupled weight decay (Loshchilov and Hutter 2019).

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use super::Optimizer;
use super::slots::Slots;
use crate::ops::vectorise::vectorise;
use crate::{Result, grad};

/// Settings of [`AdamW`]; the default is PyTorch's, except that vectors do not decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Share of the old mean of gradients that is kept.
    pub beta1: f64,
    /// Share of the old mean of squared gradients that is kept.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Decoupled: each step multiplies weights by 1 - lr x decay.
    pub weight_decay: f64,
    /// Whether variables of rank 0 and 1 (biases, norms) decay too, as they do in PyTorch by default.
    pub decay_vectors: bool,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, decay_vectors: false }
    }
}

/// w = (1 - lr decay) w; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
/// w = w - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps) at step t = 1, 2, ..: PyTorch's AdamW.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    slots: Slots<2>,
}

/// The factors of one step.
#[derive(Clone, Copy)]
struct Factors {
    keep: f32,
    /// 1 - beta1
    new_mean: f32,
    beta2: f32,
    /// 1 - beta2, rounded once: 1 - (beta2 in f32) would be off by 5e-5 of it.
    new_square: f32,
    step: f32,
    inv_root: f32,
    eps: f32,
}

impl AdamW {
    /// An optimiser of `vars`, as [`crate::Params::vars`] gives them.
    ///
    /// # Errors
    /// A variable that is not f32, or on a device that the build does not serve.
    pub fn new(vars: Vec<(String, Var)>, config: AdamWConfig) -> Result<Self> {
        Ok(Self { config, slots: Slots::new(vars, ["mean", "mean_square"], config.decay_vectors)? })
    }

    /// Steps done so far, those before a resume included.
    pub fn steps(&self) -> usize {
        self.slots.steps
    }
}

vectorise! {
    fn update(w: &mut [f32], grad: &[f32], mean: &mut [f32], square: &mut [f32], k: Factors) {
        for (((w, g), m), v) in w.iter_mut().zip(grad).zip(mean).zip(square) {
            *m += (g - *m) * k.new_mean;
            *v = k.beta2 * *v + k.new_square * g * g;
            *w = *w * k.keep - k.step * *m / (v.sqrt() * k.inv_root + k.eps);
        }
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, grads: &GradStore, lr: f64) -> Result<()> {
        let AdamWConfig { beta1, beta2, eps, weight_decay, decay_vectors } = self.config;
        let t = (self.slots.steps + 1) as f64;
        let factors = |decay: f64| Factors {
            keep: (1.0 - lr * decay) as f32,
            new_mean: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            new_square: (1.0 - beta2) as f32,
            step: (lr / (1.0 - beta1.powf(t))) as f32,
            inv_root: (1.0 / (1.0 - beta2.powf(t)).sqrt()) as f32,
            eps: eps as f32,
        };
        let vars = self.slots.vars.clone();
        #[cfg(feature = "cuda")]
        if let Some(there) = &mut self.slots.there {
            let grads = grad::all(&vars, grads)?;
            let Factors { keep, new_mean, beta2, new_square, step, inv_root, eps } = factors(weight_decay);
            let k = crate::cuda::AdamWFactors { keep, new_mean, beta2, new_square, step, inv_root, eps };
            there.adamw(vars.iter().map(|(_, var)| var.as_tensor()), grads.iter().map(|(_, grad)| grad), &k)?;
            self.slots.steps += 1;
            return Ok(());
        }
        for (i, (_, grad)) in grad::all(&vars, grads)?.iter().enumerate() {
            self.slots.update(i, grad, |is_vector, w, g, [m, v]| {
                let decay = if is_vector && !decay_vectors { 0.0 } else { weight_decay };
                update(w, g, m, v, factors(decay));
            })?;
        }
        self.slots.steps += 1;
        Ok(())
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        self.slots.state()
    }

    fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.slots.load_state(state)
    }
}
