//! Checks and changes between the backward pass and the optimiser's step.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use rayon::prelude::*;

use crate::ops::raw::{self, View};
use crate::{Error, Result};

const OP: &str = "gradient";

/// Scales all gradients by one factor so that their common Euclidean norm is at most `max_norm`; returns the norm before. On a GPU
/// nothing is returned, as nothing waits for it there, and a norm that is not finite comes out as weights and losses that are not.
///
/// # Errors
/// A variable without gradient, or a norm that is not finite (nothing is changed then).
pub fn clip_norm(vars: &[(String, Var)], grads: &mut GradStore, max_norm: f64) -> Result<Option<f64>> {
    #[cfg(feature = "cuda")]
    if vars.first().is_some_and(|(_, var)| var.device().is_cuda()) {
        let found: Vec<Tensor> = all(vars, grads)?.into_iter().map(|(_, grad)| grad).collect();
        for ((_, var), clipped) in vars.iter().zip(crate::cuda::clip_norm(&found, max_norm)?) {
            grads.insert(var, clipped);
        }
        return Ok(None);
    }
    let mut sum = 0.0;
    for (name, grad) in all(vars, grads)? {
        let part = sum_of_squares(&grad)?;
        if !part.is_finite() {
            return Err(Error::BadGradient { offenders: vec![format!("{name} (not finite)")] });
        }
        sum += part;
    }
    let norm = sum.sqrt();
    if norm > max_norm {
        let factor = max_norm / norm;
        for (_, var) in vars {
            if let Some(grad) = grads.remove(var) {
                grads.insert(var, grad.affine(factor, 0.0)?);
            }
        }
    }
    Ok(Some(norm))
}

/// Refuses variables that have no gradient, a gradient of zeros, or one with a value that is not finite; the error names all
/// of them. To be called after the first backward pass of a training run.
pub fn check_every_var_has_gradient(vars: &[(String, Var)], grads: &GradStore) -> Result<()> {
    let mut offenders = Vec::new();
    for (name, grad) in all(vars, grads)? {
        let sum = sum_of_squares(&grad)?;
        if !sum.is_finite() {
            offenders.push(format!("{name} (not finite)"));
        } else if sum == 0.0 {
            offenders.push(format!("{name} (zero)"));
        }
    }
    if offenders.is_empty() { Ok(()) } else { Err(Error::BadGradient { offenders }) }
}

/// Every variable's gradient, contiguous; an error that names all variables without one.
pub(crate) fn all<'a>(vars: &'a [(String, Var)], grads: &GradStore) -> Result<Vec<(&'a str, Tensor)>> {
    let missing = vars.iter().filter(|(_, var)| grads.get(var).is_none());
    let names: Vec<String> = missing.map(|(name, _)| name.clone()).collect();
    if !names.is_empty() {
        return Err(Error::MissingGradient { names });
    }
    let found = vars.iter().filter_map(|(name, var)| Some((name.as_str(), grads.get(var)?)));
    found.map(|(name, grad)| Ok((name, raw::prepare(OP, grad)?))).collect()
}

/// In f64, in chunks of a fixed size: the same on any number of threads.
fn sum_of_squares(t: &Tensor) -> Result<f64> {
    if !t.device().is_cpu() {
        return Ok(f64::from(t.sqr()?.sum_all()?.to_scalar::<f32>()?));
    }
    let view = View::new(OP, t)?;
    let data: &[f32] = &view;
    let square = |v: &f32| f64::from(*v) * f64::from(*v);
    if data.len() <= raw::CHUNK {
        return Ok(data.iter().map(square).sum());
    }
    let parts: Vec<f64> = data.par_chunks(raw::CHUNK).map(|part| part.iter().map(square).sum()).collect();
    Ok(parts.iter().sum())
}
