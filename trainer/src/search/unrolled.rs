//! The second-order gradient of the architecture (DARTS, eq. 7 and 8).
//!
//! The architecture is judged one virtual step of the weights ahead: w' = w - xi grad_w train(w, a). The gradient of val(w', a) in a is
//! grad_a val(w', a) - xi H grad_w' val(w', a) with H the mixed second derivative of train; the product with H is a central difference of
//! grad_a train along grad_w' val.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use semlink_nn::value_and_grad;

use crate::Result;

/// Gradients, of which those of `alphas` are the second-order ones; the weights have their old values afterwards.
///
/// `train` and `val` compute their losses from the present values of both sets of variables.
pub(crate) fn gradient(
    weights: &[Var],
    alphas: &[Var],
    xi: f64,
    train: &dyn Fn() -> Result<Tensor>,
    val: &dyn Fn() -> Result<Tensor>,
) -> Result<GradStore> {
    let saved = weights.iter().map(|w| Ok(w.as_tensor().copy()?)).collect::<Result<Vec<_>>>()?;
    let restore = |offsets: Option<(&[Tensor], f64)>| -> Result<()> {
        for (i, (w, old)) in weights.iter().zip(&saved).enumerate() {
            match offsets {
                Some((direction, step)) => w.set(&(old + (&direction[i] * step)?)?)?,
                None => w.set(old)?,
            }
        }
        Ok(())
    };
    let ahead = all(weights, &gradients(train)?)?;
    restore(Some((&ahead, -xi)))?;
    let mut judged = gradients(val)?;
    let (direct, direction) = (all(alphas, &judged)?, all(weights, &judged)?);
    let mut norm = 0.0;
    for d in &direction {
        norm += f64::from(d.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    // The step of the difference, as DARTS chooses it.
    let step = 0.01 / norm.sqrt().max(1e-12);
    restore(Some((&direction, step)))?;
    let above = all(alphas, &gradients(train)?)?;
    restore(Some((&direction, -step)))?;
    let below = all(alphas, &gradients(train)?)?;
    restore(None)?;
    for (i, alpha) in alphas.iter().enumerate() {
        let product = ((&above[i] - &below[i])? * (xi / (2.0 * step)))?;
        judged.insert(alpha, (&direct[i] - product)?);
    }
    Ok(judged)
}

fn gradients(loss: &dyn Fn() -> Result<Tensor>) -> Result<GradStore> {
    Ok(value_and_grad(loss)?.1)
}

/// The gradients of variables; zero for one that the loss does not depend on.
fn all(vars: &[Var], grads: &GradStore) -> Result<Vec<Tensor>> {
    vars.iter().map(|var| Ok(grads.get(var).cloned().map_or_else(|| var.zeros_like(), Ok)?)).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn on_a_quadratic_it_is_the_exact_gradient() {
        // train = (w - a)^2 / 2 s, val = (w - t)^2 / 2 + c a^2 / 2 elementwise: w' = w - xi s (w - a), so that
        // d/da val(w'(a), a) = (w' - t) xi s + c a. The difference is exact on a quadratic.
        let var = |values: [f32; 3]| Var::new(&values, &Device::Cpu).unwrap();
        let (w, a, t) = ([0.5f32, -1.0, 2.0], [1.5f32, 0.25, -0.75], [0.1f32, 0.2, 0.3]);
        let (s, c, xi) = (0.8, 0.3, 0.25);
        let (weights, alphas) = (var(w), var(a));
        let target = Tensor::new(&t, &Device::Cpu).unwrap();
        let train = || Ok((((weights.as_tensor() - alphas.as_tensor())?.sqr()? * (s / 2.0))?).sum_all()?);
        let val = || {
            let distance = ((weights.as_tensor() - &target)?.sqr()? * 0.5)?;
            Ok((distance + (alphas.sqr()? * (c / 2.0))?)?.sum_all()?)
        };
        let found = gradient(std::slice::from_ref(&weights), std::slice::from_ref(&alphas), xi, &train, &val).unwrap();
        let found = found.get(&alphas).unwrap().to_vec1::<f32>().unwrap();
        for i in 0..3 {
            let (w, a, t) = (f64::from(w[i]), f64::from(a[i]), f64::from(t[i]));
            let ahead = w - xi * s * (w - a);
            let expected = (ahead - t) * xi * s + c * a;
            assert!((f64::from(found[i]) - expected).abs() < 1e-4, "{}: {expected}", found[i]);
        }
        assert_eq!(weights.to_vec1::<f32>().unwrap(), w);
    }
}
