//! Element-wise activations, alone or fused with a sum, and the trait through which other kernels fuse them.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Tensor};
use serde::{Deserialize, Serialize};

use super::math;
use super::raw::{self, CHUNK, View};
use super::vectorise::vectorise;
use crate::{Error, Result, tape};

/// An element-wise activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// x
    #[default]
    Identity,
    /// max(x, 0)
    Relu,
    /// min(max(x, 0), 6)
    Relu6,
    /// x Phi(x) with the exact normal distribution function (by erf, not the tanh approximation), PyTorch's default.
    Gelu,
}

/// An activation known at compile time, so that kernels are compiled once for each.
pub(crate) trait Act: Copy + Send + Sync + 'static {
    /// Whether `slope` gives the same for f(z) as for z.
    const SLOPE_FROM_OUTPUT: bool = true;
    /// f(z)
    fn value(z: f32) -> f32;
    /// f'(z); 0 at a kink, as in PyTorch.
    fn slope(z: f32) -> f32;
}

#[derive(Clone, Copy)]
pub(crate) struct Identity;
#[derive(Clone, Copy)]
pub(crate) struct Relu;
#[derive(Clone, Copy)]
pub(crate) struct Relu6;
#[derive(Clone, Copy)]
pub(crate) struct Gelu;

/// Calls `$f::<A>(args)` with the type for an [`Activation`].
macro_rules! with_act {
    ($act:expr, $f:ident ( $($arg:expr),* $(,)? )) => {
        match $act {
            $crate::ops::Activation::Identity => $f::<$crate::ops::activation::Identity>($($arg),*),
            $crate::ops::Activation::Relu => $f::<$crate::ops::activation::Relu>($($arg),*),
            $crate::ops::Activation::Relu6 => $f::<$crate::ops::activation::Relu6>($($arg),*),
            $crate::ops::Activation::Gelu => $f::<$crate::ops::activation::Gelu>($($arg),*),
        }
    };
}
pub(crate) use with_act;

/// f(x) element by element, any shape.
pub fn activate(x: &Tensor, act: Activation) -> Result<Tensor> {
    let x = raw::prepare(Activate::NAME, x)?;
    if act == Activation::Identity {
        return Ok(x);
    }
    raw::on_cuda!(x, crate::cuda::activate(&x, act));
    Ok(tape::apply1(&x, Activate(act))?)
}

/// f(a + b) element by element: the end of a residual block. Both tensors have the same shape, nothing is broadcast.
pub fn add_activate(a: &Tensor, b: &Tensor, act: Activation) -> Result<Tensor> {
    let (a, b) = (raw::prepare(AddActivate::NAME, a)?, raw::prepare(AddActivate::NAME, b)?);
    raw::expect_shape(AddActivate::NAME, "second tensor", &b, a.dims())?;
    raw::on_cuda!(a, crate::cuda::add_activate(&a, &b, act));
    Ok(tape::apply2(&a, &b, AddActivate(act))?)
}

/// f(a + b + ...) element by element, of any number of tensors of one shape.
///
/// # Errors
/// No tensor, or different shapes.
pub fn sum_activate(terms: &[Tensor], act: Activation) -> Result<Tensor> {
    match terms {
        [] => Err(Error::Argument { op: "sum_activate", what: "there is nothing to sum".into() }),
        [one] => activate(one, act),
        [a, b] => add_activate(a, b, act),
        [first, rest @ ..] => {
            // Three at a time: half the passes over memory of a sum by twos.
            let mut sum = first.clone();
            let mut rest = rest;
            while let [a, b, more @ ..] = rest {
                if more.is_empty() {
                    sum = add_activate(&sum, a, Activation::Identity)?;
                    rest = &rest[1..];
                    break;
                }
                let terms = [&sum, a, b].map(|t| raw::prepare(Add3::NAME, t));
                let [first, a, b] = terms;
                let (first, a, b) = (first?, a?, b?);
                raw::expect_shape(Add3::NAME, "second tensor", &a, first.dims())?;
                raw::expect_shape(Add3::NAME, "third tensor", &b, first.dims())?;
                sum = add3(&first, &a, &b)?;
                rest = more;
            }
            match rest {
                [last] => add_activate(&sum, last, act),
                _ => activate(&sum, act),
            }
        }
    }
}

fn add3(a: &Tensor, b: &Tensor, c: &Tensor) -> Result<Tensor> {
    raw::on_cuda!(a, crate::cuda::add3(a, b, c));
    Ok(tape::apply3(a, b, c, Add3)?)
}

struct Activate(Activation);
struct Add3;
struct AddActivate(Activation);

impl Activate {
    const NAME: &'static str = "activate";
}

impl AddActivate {
    const NAME: &'static str = "add_activate";
}

impl Add3 {
    const NAME: &'static str = "add3";
}

impl Act for Identity {
    #[inline(always)]
    fn value(z: f32) -> f32 {
        z
    }
    #[inline(always)]
    fn slope(_: f32) -> f32 {
        1.0
    }
}

impl Act for Relu {
    #[inline(always)]
    fn value(z: f32) -> f32 {
        // Not `max`: a NaN must come through.
        if z < 0.0 { 0.0 } else { z }
    }
    #[inline(always)]
    fn slope(z: f32) -> f32 {
        if z > 0.0 { 1.0 } else { 0.0 }
    }
}

impl Act for Relu6 {
    #[inline(always)]
    fn value(z: f32) -> f32 {
        let z = if z < 0.0 { 0.0 } else { z };
        if z > 6.0 { 6.0 } else { z }
    }
    #[inline(always)]
    fn slope(z: f32) -> f32 {
        if z > 0.0 && z < 6.0 { 1.0 } else { 0.0 }
    }
}

impl Act for Gelu {
    const SLOPE_FROM_OUTPUT: bool = false;
    #[inline(always)]
    fn value(z: f32) -> f32 {
        math::gelu(z)
    }
    #[inline(always)]
    fn slope(z: f32) -> f32 {
        math::gelu_derivative(z)
    }
}

vectorise! {
    fn forward<A: Act>(x: &[f32], out: &mut [MaybeUninit<f32>]) {
        for (out, x) in out.iter_mut().zip(x) {
            out.write(A::value(*x));
        }
    }
}

vectorise! {
    fn backward<A: Act>(z: &[f32], grad: &[f32], out: &mut [MaybeUninit<f32>]) {
        for ((out, z), grad) in out.iter_mut().zip(z).zip(grad) {
            out.write(A::slope(*z) * grad);
        }
    }
}

vectorise! {
    fn add_forward<A: Act>(a: &[f32], b: &[f32], out: &mut [MaybeUninit<f32>]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            out.write(A::value(a + b));
        }
    }
}

vectorise! {
    fn add3_forward(a: &[f32], b: &[f32], c: &[f32], out: &mut [MaybeUninit<f32>]) {
        for (((out, a), b), c) in out.iter_mut().zip(a).zip(b).zip(c) {
            out.write(a + b + c);
        }
    }
}

vectorise! {
    fn add_backward<A: Act>(a: &[f32], b: &[f32], grad: &[f32], out: &mut [MaybeUninit<f32>]) {
        for (((out, a), b), grad) in out.iter_mut().zip(a).zip(b).zip(grad) {
            out.write(A::slope(a + b) * grad);
        }
    }
}

/// f'(z) x grad for whole tensors.
fn slope_times(op: &'static str, act: Activation, z: &Tensor, grad: &Tensor) -> candle_core::Result<Tensor> {
    let grad = grad.contiguous()?;
    let (zs, gs) = (View::new(op, z)?, View::new(op, &grad)?);
    let (zs, gs): (&[f32], &[f32]) = (&zs, &gs);
    // SAFETY: `backward` writes one element for each of the three slices' equal lengths.
    let out = unsafe {
        raw::build(zs.len(), CHUNK, |start, out| {
            let range = start..start + out.len();
            with_act!(act, backward(&zs[range.clone()], &gs[range], out));
        })
    };
    raw::tensor(out, z.dims())
}

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = raw::slice(Self::NAME, s, l)?;
        // SAFETY: `forward` writes every element.
        let out = unsafe {
            raw::build(x.len(), CHUNK, |start, out| {
                with_act!(self.0, forward(&x[start..start + out.len()], out));
            })
        };
        raw::output(out, l.shape())
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        slope_times(Self::NAME, self.0, x, grad).map(Some)
    }
}

impl CustomOp2 for AddActivate {
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
        // SAFETY: `add_forward` writes every element.
        let out = unsafe {
            raw::build(a.len(), CHUNK, |start, out| {
                let range = start..start + out.len();
                with_act!(self.0, add_forward(&a[range.clone()], &b[range], out));
            })
        };
        raw::output(out, la.shape())
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let from_output = match self.0 {
            Activation::Identity => return Ok((Some(grad.clone()), Some(grad.clone()))),
            Activation::Relu => Relu::SLOPE_FROM_OUTPUT,
            Activation::Relu6 => Relu6::SLOPE_FROM_OUTPUT,
            Activation::Gelu => Gelu::SLOPE_FROM_OUTPUT,
        };
        if from_output {
            let d = slope_times(Self::NAME, self.0, res, grad)?;
            return Ok((Some(d.clone()), Some(d)));
        }
        let grad = grad.contiguous()?;
        let (a_, b_, g_) = (View::new(Self::NAME, a)?, View::new(Self::NAME, b)?, View::new(Self::NAME, &grad)?);
        let (a_, b_, g_): (&[f32], &[f32], &[f32]) = (&a_, &b_, &g_);
        // SAFETY: `add_backward` writes every element.
        let out = unsafe {
            raw::build(a_.len(), CHUNK, |start, out| {
                let r = start..start + out.len();
                with_act!(self.0, add_backward(&a_[r.clone()], &b_[r.clone()], &g_[r], out));
            })
        };
        let d = raw::tensor(out, a.dims())?;
        Ok((Some(d.clone()), Some(d)))
    }
}

impl CustomOp3 for Add3 {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        sa: &CpuStorage,
        la: &Layout,
        sb: &CpuStorage,
        lb: &Layout,
        sc: &CpuStorage,
        lc: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (a, b) = (raw::slice(Self::NAME, sa, la)?, raw::slice(Self::NAME, sb, lb)?);
        let c = raw::slice(Self::NAME, sc, lc)?;
        // SAFETY: `add3_forward` writes every element.
        let out = unsafe {
            raw::build(a.len(), CHUNK, |start, out| {
                let r = start..start + out.len();
                add3_forward(&a[r.clone()], &b[r.clone()], &c[r], out);
            })
        };
        raw::output(out, la.shape())
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(grad.clone()), Some(grad.clone())))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn a_sum_of_any_length_and_its_gradient_are_those_of_pairwise_sums() {
        for count in 1..=8 {
            let value = |i: usize| (0..6).map(move |j| ((i * 7 + j * 3) % 5) as f32 - 2.0).collect::<Vec<_>>();
            let vars: Vec<Var> = (0..count).map(|i| Var::from_vec(value(i), (2, 3), &Device::Cpu).unwrap()).collect();
            let terms: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
            let expected: Vec<f32> = (0..6).map(|j| (0..count).map(|i| value(i)[j]).sum::<f32>().max(0.0)).collect();
            let y = sum_activate(&terms, Activation::Relu).unwrap();
            assert_eq!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected, "{count} terms");
            let grads = y.sum_all().unwrap().backward().unwrap();
            for var in &vars {
                let grad = grads.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let slope: Vec<f32> = expected.iter().map(|y| f32::from(u8::from(*y > 0.0))).collect();
                assert_eq!(grad, slope, "{count} terms");
            }
        }
        assert!(sum_activate(&[], Activation::Relu).is_err());
    }
}
