//! What the tests share: seeded inputs, comparison, and gradients by central differences of a reference in f64.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

pub mod reference;

use candle_core::{Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// An argument of an operator: shape and values that f32 holds exactly.
#[derive(Clone)]
pub struct Arg {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

/// `count` arguments' values in +-2, seeded by the shape.
pub fn arg(seed: u64, shape: &[usize]) -> Arg {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = shape.iter().product();
    let data = (0..count).map(|_| f64::from(rng.random_range(-2.0f32..2.0))).collect();
    Arg { shape: shape.to_vec(), data }
}

/// As [`arg`], values in 0.5..1.5.
pub fn positive(seed: u64, shape: &[usize]) -> Arg {
    let mut arg = arg(seed, shape);
    arg.data.iter_mut().for_each(|v| *v = f64::from((1.0 + *v / 4.0) as f32));
    arg
}

impl Arg {
    pub fn tensor(&self) -> Tensor {
        let data: Vec<f32> = self.data.iter().map(|v| *v as f32).collect();
        Tensor::from_vec(data, self.shape.as_slice(), &Device::Cpu).unwrap()
    }
}

pub fn values(t: &Tensor) -> Vec<f32> {
    t.contiguous().unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// What tolerances are relative to: one more than the largest value.
pub fn scale(values: &[f64]) -> f64 {
    1.0 + values.iter().fold(0.0f64, |m, v| m.max(v.abs()))
}

/// |got - expected| <= tolerance x (1 + largest |expected|), element by element.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: number of elements");
    let scale = scale(expected);
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*g) - e).abs();
        assert!(error <= tolerance * scale, "{what}[{i}]: {g}, expected {e}, tolerance {tolerance} x {scale}");
    }
}

/// Checks value and gradient of an operator against `reference`, the same function in f64.
///
/// The gradient is that of L = sum_i r_i y_i with fixed random r; the expected one is the central difference of L, computed from
/// the reference alone, for every element of every argument. No input may lie within a step of a
/// kink.
#[track_caller]
pub fn check_gradients(
    args: &[Arg],
    op: impl Fn(&[Tensor]) -> semlink_nn::Result<Tensor>,
    reference: impl Fn(&[&[f64]]) -> Vec<f64>,
) {
    const STEP: f64 = 1e-6;
    const TOLERANCE: f64 = 2e-5;
    let vars: Vec<Var> = args.iter().map(|a| Var::from_tensor(&a.tensor()).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = op(&tensors).unwrap();

    let mut data: Vec<Vec<f64>> = args.iter().map(|a| a.data.clone()).collect();
    let eval = |data: &[Vec<f64>]| reference(&data.iter().map(Vec::as_slice).collect::<Vec<_>>());
    assert_close("value", &values(&y), &eval(&data), 5e-6);

    let r = arg(99, y.dims());
    let loss = y.mul(&r.tensor()).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    let (_, recorded) =
        semlink_nn::value_and_grad(|| Ok::<_, semlink_nn::Error>(op(&tensors)?.mul(&r.tensor())?.sum_all()?)).unwrap();
    let reference_loss = |data: &[Vec<f64>]| -> f64 { eval(data).iter().zip(&r.data).map(|(y, r)| y * r).sum() };
    for (i, var) in vars.iter().enumerate() {
        let expected: Vec<f64> = (0..data[i].len())
            .map(|j| {
                let x = data[i][j];
                data[i][j] = x + STEP;
                let up = reference_loss(&data);
                data[i][j] = x - STEP;
                let down = reference_loss(&data);
                data[i][j] = x;
                (up - down) / (2.0 * STEP)
            })
            .collect();
        for (by, grads) in [("candle", &grads), ("value_and_grad", &recorded)] {
            let grad = grads.get(var).unwrap_or_else(|| panic!("argument {i} has no gradient by {by}"));
            assert_eq!(grad.dims(), var.dims(), "shape of the gradient of argument {i} by {by}");
            assert_close(&format!("gradient of argument {i} by {by}"), &values(grad), &expected, TOLERANCE);
        }
    }
}
