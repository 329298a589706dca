//! Stochastic gradient descent with momentum.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use super::Optimizer;
use super::slots::Slots;
use crate::ops::vectorise::vectorise;
use crate::{Result, grad};

/// Settings of [`Sgd`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdConfig {
    /// Share of the previous update that is kept.
    pub momentum: f64,
    /// Looks ahead by one momentum step (Sutskever et al. 2013).
    pub nesterov: bool,
    /// L2 penalty: this times the weight is added to the gradient.
    pub weight_decay: f64,
    /// Whether the penalty also falls on variables of rank 0 and 1 (biases, batch-norm), as it does in PyTorch by default.
    pub decay_vectors: bool,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self { momentum: 0.9, nesterov: true, weight_decay: 0.0, decay_vectors: false }
    }
}

/// g = gradient + decay w; m = momentum m + g; w = w - lr m, or with Nesterov w = w - lr (g + momentum m): PyTorch's SGD with
/// dampening 0, whose first step (m = g) is the same because m starts at zero.
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    slots: Slots<1>,
}

impl Sgd {
    /// An optimiser of `vars`, as [`crate::Params::vars`] gives them.
    ///
    /// # Errors
    /// A variable that is not f32, or on a device that the build does not serve.
    pub fn new(vars: Vec<(String, Var)>, config: SgdConfig) -> Result<Self> {
        Ok(Self { config, slots: Slots::new(vars, ["momentum"], config.decay_vectors)? })
    }

    /// Steps done so far, those before a resume included.
    pub fn steps(&self) -> usize {
        self.slots.steps
    }
}

vectorise! {
    fn update(w: &mut [f32], grad: &[f32], m: &mut [f32], momentum: f32, decay: f32, lr: f32, nesterov: bool) {
        // Two factors instead of a branch: the step is along by_g g + by_m m.
        let (by_g, by_m) = if nesterov { (1.0, momentum) } else { (0.0, 1.0) };
        for ((w, grad), m) in w.iter_mut().zip(grad).zip(m) {
            let g = grad + decay * *w;
            *m = momentum * *m + g;
            *w -= lr * (by_g * g + by_m * *m);
        }
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, grads: &GradStore, lr: f64) -> Result<()> {
        let SgdConfig { momentum, nesterov, weight_decay, decay_vectors } = self.config;
        let vars = self.slots.vars.clone();
        #[cfg(feature = "cuda")]
        if let Some(there) = &mut self.slots.there {
            let grads = grad::all(&vars, grads)?;
            let factors = [momentum as f32, weight_decay as f32, lr as f32];
            let weights = vars.iter().map(|(_, var)| var.as_tensor());
            there.sgd(weights, grads.iter().map(|(_, grad)| grad), factors, nesterov)?;
            self.slots.steps += 1;
            return Ok(());
        }
        for (i, (_, grad)) in grad::all(&vars, grads)?.iter().enumerate() {
            self.slots.update(i, grad, |is_vector, w, g, [m]| {
                let decay = if is_vector && !decay_vectors { 0.0 } else { weight_decay };
                update(w, g, m, momentum as f32, decay as f32, lr as f32, nesterov);
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
