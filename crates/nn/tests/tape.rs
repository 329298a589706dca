//! The recorded backward pass against candle's.

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use semlink_nn::ops::{self, Conv2dSpec};
use semlink_nn::{Activation, Error, Result, value_and_grad};

mod common;

use common::{arg, assert_close, values};

fn var(seed: u64, shape: &[usize]) -> Var {
    Var::from_tensor(&arg(seed, shape).tensor()).unwrap()
}

/// Operators of this crate and of candle in turns; tensors that several operators take, one that nothing takes, one that is constant.
fn loss(vars: &[Var]) -> Result<Tensor> {
    let [x, w, gamma, beta, dense] = vars else { panic!("five variables") };
    let spec = Conv2dSpec { padding: 1, ..Conv2dSpec::default() };
    let y = ops::conv2d(x.as_tensor(), w.as_tensor(), spec)?;
    let (z, _) = ops::batch_norm_train(&y, Some((gamma.as_tensor(), beta.as_tensor())), 1e-5, Activation::Gelu)?;
    ops::activate(&z, Activation::Relu)?;
    let sum = ops::add_activate(&z, &y, Activation::Gelu)?;
    let sum = ops::add_activate(&sum, &sum.detach(), Activation::Identity)?;
    let scaled = (sum.reshape((2, 5 * 5, 4))?.transpose(1, 2)? * 0.5)?;
    let joined = ops::concat(&[&scaled, &z.reshape((2, 4, 25))?, &scaled.sin()?], 2)?;
    let out = ops::linear(&joined, dense.as_tensor(), None)?;
    let target = Tensor::ones((2, 4, 3), candle_core::DType::F32, &Device::Cpu)?;
    Ok((ops::mse(&out, &target, None)? + (z.sqr()?.mean_all()? * 0.3)?)?)
}

fn vars() -> Vec<Var> {
    [vec![2, 5, 5, 3], vec![3, 3, 3, 4], vec![4], vec![4], vec![3, 75]]
        .iter()
        .zip(1..)
        .map(|(s, i)| var(i, s))
        .collect()
}

#[track_caller]
fn assert_same(vars: &[Var], found: &GradStore, expected: &GradStore) {
    for (i, v) in vars.iter().enumerate() {
        let expected: Vec<f64> = values(expected.get(v).unwrap()).iter().map(|g| f64::from(*g)).collect();
        assert_close(&format!("variable {i}"), &values(found.get(v).unwrap()), &expected, 1e-6);
    }
}

fn by_candle(vars: &[Var]) -> GradStore {
    loss(vars).unwrap().backward().unwrap()
}

#[test]
fn gradients_are_those_of_candles_backward_pass() {
    let vars = vars();
    let expected = loss(&vars).unwrap();
    let (value, grads) = value_and_grad(|| loss(&vars)).unwrap();
    assert_eq!(value.to_scalar::<f32>().unwrap(), expected.to_scalar::<f32>().unwrap());
    assert!(!value.track_op());
    assert_same(&vars, &grads, &expected.backward().unwrap());
    assert_eq!(grads.get_ids().count(), vars.len(), "gradients of variables alone");
}

#[test]
fn an_inner_call_leaves_the_outer_one_alone() {
    let (vars, others) = (vars(), vars());
    let (expected, expected_inner) = (by_candle(&vars), by_candle(&others));
    let (_, grads) = value_and_grad(|| -> Result<Tensor> {
        let inner = value_and_grad(|| loss(&others))?.1;
        assert_same(&others, &inner, &expected_inner);
        let failed = value_and_grad(|| {
            loss(&others)?;
            Err::<Tensor, _>(Error::Argument { op: "test", what: "stop".into() })
        });
        assert!(failed.is_err());
        loss(&vars)
    })
    .unwrap();
    assert_same(&vars, &grads, &expected);
}

#[test]
fn what_another_thread_computes_is_differentiated() {
    let vars = vars();
    let (_, grads) = value_and_grad(|| -> Result<Tensor> {
        let half = std::thread::scope(|s| s.spawn(|| loss(&vars)).join().unwrap())?;
        Ok((half * 0.5)?.add(&(loss(&vars)? * 0.5)?)?)
    })
    .unwrap();
    assert_same(&vars, &grads, &by_candle(&vars));
}

#[test]
fn a_loss_without_variables_has_no_gradients() {
    let (value, grads) = value_and_grad(|| Ok::<_, Error>(Tensor::new(3f32, &Device::Cpu)?)).unwrap();
    assert_eq!(value.to_scalar::<f32>().unwrap(), 3.0);
    assert!(vars().iter().all(|v| grads.get(v).is_none()));
}

#[test]
fn tensors_of_other_widths_stand_side_by_side() {
    let (a, b) = (var(1, &[2, 3, 1]), var(2, &[2, 3, 4]));
    let (joined, grads) = value_and_grad(|| -> Result<Tensor> {
        let joined = ops::concat(&[a.as_tensor(), b.as_tensor()], 2)?;
        assert_eq!(values(&joined), values(&Tensor::cat(&[a.as_tensor(), b.as_tensor()], 2)?));
        ops::mse(&joined, &joined.zeros_like()?, None)
    })
    .unwrap();
    assert!(joined.to_scalar::<f32>().unwrap() > 0.0);
    for v in [&a, &b] {
        // d mean(x^2) = 2 x / n, of 30 elements.
        let expected: Vec<f64> = values(v).iter().map(|x| 2.0 * f64::from(*x) / 30.0).collect();
        assert_close("gradient", &values(grads.get(v).unwrap()), &expected, 1e-6);
    }
    let other = var(3, &[2, 2, 4]);
    let error = ops::concat(&[a.as_tensor(), other.as_tensor()], 2).unwrap_err().to_string();
    assert!(error.contains("concat") && error.contains("[2, 2, 4]"), "{error}");
}

#[test]
fn parts_and_rows_are_slices_and_so_are_their_gradients() {
    let (x, table) = (var(1, &[2, 3, 4]), var(2, &[5]));
    let run = |rows: bool| -> Result<Tensor> {
        let parts = ops::split(x.as_tensor(), 2, 2)?;
        assert_eq!(values(&parts[1]), values(&x.narrow(2, 2, 2)?));
        // The same tensor cut in other ways, and taken whole, as well; one part is used twice, one not at all.
        let (quarters, thirds) = (ops::split(x.as_tensor(), 2, 4)?, ops::split(x.as_tensor(), 1, 3)?);
        // One that is candle's, and was made of one that is not.
        let halves = ops::split(&ops::activate(x.as_tensor(), Activation::Gelu)?.transpose(1, 2)?.sin()?, 1, 2)?;
        let spread = ops::spread(table.as_tensor(), 2)?;
        let gates =
            if rows { ops::rows(&spread)? } else { (0..5).map(|i| Ok(spread.get(i)?)).collect::<Result<_>>()? };
        let gated = parts[1].broadcast_mul(&gates[3])?.broadcast_add(&gates[1])?;
        let sum = (gated.sqr()?.sum_all()? + (parts[1].sin()?.sum_all()? * 3.0)?)?;
        let sum = (sum + thirds[0].sqr()?.sum_all()?)?;
        let sum = (sum + (quarters[3].sqr()?.sum_all()? + quarters[0].sum_all()?)?)?;
        let halves = [ops::split(x.as_tensor(), 2, 2)?[1].sin()?, (&halves[0] * &halves[1])?];
        let sum = (sum + (halves[0].sum_all()? + halves[1].sum_all()?)?)?;
        Ok((sum + ops::activate(x.as_tensor(), Activation::Gelu)?.sum_all()?)?)
    };
    let (value, grads) = value_and_grad(|| run(true)).unwrap();
    let expected = run(false).unwrap();
    assert_eq!(value.to_scalar::<f32>().unwrap(), expected.to_scalar::<f32>().unwrap());
    let expected = expected.backward().unwrap();
    assert_same(&[x.clone(), table.clone()], &grads, &expected);
    for refused in [ops::split(x.as_tensor(), 2, 3), ops::split(x.as_tensor(), 3, 1), ops::split(x.as_tensor(), 1, 0)] {
        assert!(refused.unwrap_err().to_string().contains("does not divide"));
    }
}
