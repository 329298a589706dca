//! The parts of a training loop: gradients' checks, optimisers that continue, schedules' shapes, independence of threads.

mod common;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use common::{arg, assert_close, positive, values};
use semlink_nn::ops::{self, Activation, Conv2dSpec, Pool2dSpec};
use semlink_nn::optim::{AdamW, AdamWConfig, Optimizer, Sgd, SgdConfig};
use semlink_nn::schedule::{Cosine, OneCycle};
use semlink_nn::{Error, Init, Params, grad};

fn two_vars() -> Vec<(String, Var)> {
    let var = |seed, shape: &[usize]| Var::from_tensor(&arg(seed, shape).tensor()).unwrap();
    vec![("a".to_owned(), var(1, &[3, 4])), ("b".to_owned(), var(2, &[5]))]
}

fn loss(vars: &[(String, Var)]) -> Tensor {
    let terms = vars.iter().map(|(_, v)| v.sqr().unwrap().sqr().unwrap().sum_all().unwrap());
    terms.reduce(|a, b| (a + b).unwrap()).unwrap()
}

#[test]
fn missing_and_dead_gradients_are_named() {
    let vars = two_vars();
    let grads = loss(&vars[..1]).backward().unwrap();
    let e = grad::check_every_var_has_gradient(&vars, &grads).unwrap_err();
    assert_eq!(e.to_string(), "no gradient for: b");
    let before = values(&vars[0].1);
    for mut optimizer in optimizers(&vars) {
        assert!(matches!(optimizer.step(&grads, 0.1), Err(Error::MissingGradient { names }) if names == ["b"]));
    }
    assert_eq!(values(&vars[0].1), before, "nothing moves when one gradient is missing");

    let with_factor = |factor: f64| {
        // A tensor, because the library prunes the graph at a multiplication by the number 0.
        let factor = Tensor::full(factor as f32, 5, &Device::Cpu).unwrap();
        let dead = (vars[1].1.as_tensor() * factor).unwrap().sum_all().unwrap();
        (loss(&vars[..1]) + dead).unwrap().backward().unwrap()
    };
    let e = grad::check_every_var_has_gradient(&vars, &with_factor(0.0)).unwrap_err();
    assert_eq!(e.to_string(), "bad gradient: b (zero)");
    let e = grad::check_every_var_has_gradient(&vars, &with_factor(f64::NAN)).unwrap_err();
    assert_eq!(e.to_string(), "bad gradient: b (not finite)");
    assert!(grad::clip_norm(&vars, &mut with_factor(f64::NAN), 1.0).is_err());
    grad::check_every_var_has_gradient(&vars, &with_factor(1.0)).unwrap();
}

#[test]
fn clipping_scales_to_the_norm_and_leaves_small_gradients() {
    let vars = two_vars();
    let exact: Vec<f64> = vars.iter().flat_map(|(_, v)| values(v)).map(|v| 4.0 * f64::from(v).powi(3)).collect();
    let norm = exact.iter().map(|g| g * g).sum::<f64>().sqrt();
    for (max, factor) in [(0.5, 0.5 / norm), (1e9, 1.0)] {
        let mut grads = loss(&vars).backward().unwrap();
        let found = grad::clip_norm(&vars, &mut grads, max).unwrap().unwrap();
        assert!((found / norm - 1.0).abs() < 1e-6, "{found}, expected {norm}");
        let clipped: Vec<f32> = vars.iter().flat_map(|(_, v)| values(grads.get(v).unwrap())).collect();
        assert_close("clipped", &clipped, &exact.iter().map(|g| g * factor).collect::<Vec<_>>(), 1e-6);
    }
}

fn optimizers(vars: &[(String, Var)]) -> Vec<Box<dyn Optimizer>> {
    let sgd = SgdConfig { weight_decay: 0.1, ..SgdConfig::default() };
    vec![
        Box::new(Sgd::new(vars.to_vec(), sgd).unwrap()),
        Box::new(AdamW::new(vars.to_vec(), AdamWConfig::default()).unwrap()),
    ]
}

#[test]
fn a_saved_state_continues_to_the_same_bytes() {
    for kind in 0..2 {
        let run = |interrupted: bool| {
            let vars = two_vars();
            let mut optimizer = optimizers(&vars).swap_remove(kind);
            for i in 0..6 {
                if interrupted && i == 3 {
                    let bytes =
                        semlink_nn::checkpoint::to_bytes(&optimizer.state().unwrap(), &BTreeMap::new()).unwrap();
                    optimizer = optimizers(&vars).swap_remove(kind);
                    let state = semlink_nn::checkpoint::from_bytes(&bytes, &Device::Cpu).unwrap().tensors;
                    optimizer.load_state(&state).unwrap();
                }
                optimizer.step(&loss(&vars).backward().unwrap(), 0.01).unwrap();
            }
            vars.iter().map(|(_, v)| values(v)).collect::<Vec<_>>()
        };
        assert_eq!(run(false), run(true));
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let vars = two_vars();
    for kind in 0..2 {
        let mut optimizer = optimizers(&vars).swap_remove(kind);
        let state = optimizer.state().unwrap();
        let first = state.keys().next().unwrap().clone();
        let mut missing = state.clone();
        missing.remove(&first);
        assert!(optimizer.load_state(&missing).unwrap_err().to_string().contains("missing"));
        let mut wrong = state.clone();
        wrong.insert(first.clone(), Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap());
        assert!(optimizer.load_state(&wrong).unwrap_err().to_string().contains(&first));
        let mut more = state.clone();
        more.insert("momentum.c".to_owned(), Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap());
        assert!(optimizer.load_state(&more).is_err());
        assert!(optimizer.load_state(&optimizers(&vars).swap_remove(1 - kind).state().unwrap()).is_err());
        optimizer.load_state(&state).unwrap();
    }
}

/// With a zero gradient only the decay moves a weight: SGD by lr x decay x w, AdamW by the same, and vectors not at all.
#[test]
fn decay_spares_vectors() {
    let (lr, decay) = (0.5, 0.1);
    let sgd = SgdConfig { momentum: 0.0, nesterov: false, weight_decay: decay, decay_vectors: false };
    let adamw = AdamWConfig { weight_decay: decay, ..AdamWConfig::default() };
    for kind in 0..2 {
        let vars = two_vars();
        let before: Vec<Vec<f64>> =
            vars.iter().map(|(_, v)| values(v).iter().map(|v| f64::from(*v)).collect()).collect();
        let mut optimizer: Box<dyn Optimizer> = match kind {
            0 => Box::new(Sgd::new(vars.clone(), sgd).unwrap()),
            _ => Box::new(AdamW::new(vars.clone(), adamw).unwrap()),
        };
        let zero = (loss(&vars) * Tensor::new(0f32, &Device::Cpu).unwrap()).unwrap().backward().unwrap();
        optimizer.step(&zero, lr).unwrap();
        let shrunk: Vec<f64> = before[0].iter().map(|w| w * (1.0 - lr * decay)).collect();
        assert_close("matrix", &values(&vars[0].1), &shrunk, 1e-7);
        assert_close("vector", &values(&vars[1].1), &before[1], 0.0);
    }
}

#[test]
fn schedules_have_their_corner_points() {
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a}, expected {b}");
    let cosine = Cosine { peak: 0.4, floor: 0.04, warmup: 4, total: 24 };
    near(cosine.lr(0), 0.1);
    near(cosine.lr(3), 0.4);
    near(cosine.lr(4), 0.4);
    near(cosine.lr(14), 0.22);
    near(cosine.lr(24), 0.04);
    near(cosine.lr(1000), 0.04);
    let cycle = OneCycle::new(0.4, 11, 31);
    near(cycle.lr(0), 0.4 / 25.0);
    near(cycle.lr(5), 0.4 * 1.04 / 2.0);
    near(cycle.lr(10), 0.4);
    near(cycle.lr(30), 0.4 / 25.0 / 1e4);
    near(cycle.lr(1000), 0.4 / 25.0 / 1e4);
    // Degenerate lengths are no reason to divide by zero.
    assert!(
        OneCycle::new(1.0, 0, 0).lr(0).is_finite()
            && Cosine { peak: 1.0, floor: 0.0, warmup: 0, total: 0 }.lr(0).is_finite()
    );
}

/// Large enough that every operator splits its work into many chunks.
#[test]
fn the_number_of_threads_changes_no_bit() {
    let run = || -> Vec<Vec<u32>> {
        let params = Params::init(1, &Device::Cpu);
        let weight = |name: &str, shape: &[usize]| params.weight(name, shape, Init::Normal { std: 0.3 }).unwrap();
        let x = weight("x", &[6, 30, 30, 24]);
        let spec = |groups| Conv2dSpec { stride: 1, padding: 1, dilation: 1, groups };
        let x = ops::conv2d(&x, &weight("dense", &[3, 3, 24, 24]), spec(1)).unwrap();
        let x = ops::conv2d(&x, &weight("depthwise", &[3, 3, 1, 24]), spec(24)).unwrap();
        let affine = (weight("gamma", &[24]), weight("beta", &[24]));
        let (x, stats) = ops::batch_norm_train(&x, Some((&affine.0, &affine.1)), 1e-5, Activation::Relu).unwrap();
        let y = ops::max_pool2d(&x, Pool2dSpec { kernel: 3, stride: 1, padding: 1 }).unwrap();
        let x = ops::add_activate(&x, &y, Activation::Gelu).unwrap();
        let tokens = ops::layer_norm(&x.reshape((6, 900, 24)).unwrap(), None, None, 1e-5).unwrap();
        let tokens = ops::linear(&tokens, &weight("qkv", &[72, 24]), None).unwrap();
        let tokens = ops::attention(&tokens.narrow(1, 0, 64).unwrap(), 3).unwrap();
        let target = Tensor::zeros((6, 64, 24), DType::F32, &Device::Cpu).unwrap();
        let loss = ops::mse(&ops::softmax(&tokens).unwrap(), &target, None).unwrap();
        let grads = loss.backward().unwrap();
        let all =
            params.vars().into_iter().map(|(_, v)| grads.get(&v).unwrap().clone()).chain([stats.mean, stats.var, loss]);
        all.map(|t| values(&t).iter().map(|v| v.to_bits()).collect()).collect()
    };
    let in_pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
    let one = in_pool(1);
    assert_eq!(one, in_pool(3));
    assert_eq!(one, in_pool(4));
}

/// A mean a thousand times the deviation: the naive sum of squares would lose all digits of the variance.
#[test]
fn batch_statistics_survive_a_large_mean() {
    let mut x = positive(1, &[5000, 3]);
    x.data.iter_mut().for_each(|v| *v = f64::from((*v + 1000.0) as f32));
    let (mean, var) = common::reference::column_moments(&x.data, 3);
    let (_, stats) = ops::batch_norm_train(&x.tensor(), None, 1e-5, Activation::Identity).unwrap();
    assert_close("mean", &values(&stats.mean), &mean, 1e-7);
    assert_close("variance", &values(&stats.var), &var, 1e-5);
}

#[test]
fn what_operators_cannot_take_is_an_error_that_names_them() {
    let t = |shape: &[usize]| arg(0, shape).tensor();
    let double = t(&[2, 3]).to_dtype(DType::F64).unwrap();
    let names = |e: Error, op: &str| assert!(e.to_string().starts_with(op), "{e}");
    names(ops::softmax(&double).unwrap_err(), "softmax");
    names(ops::activate(&double, Activation::Relu).unwrap_err(), "activate");
    names(ops::linear(&t(&[2, 3]), &t(&[4, 5]), None).unwrap_err(), "linear");
    names(ops::linear(&t(&[2, 3]), &t(&[4, 3]), Some(&t(&[3]))).unwrap_err(), "linear");
    names(ops::add_activate(&t(&[2, 3]), &t(&[3]), Activation::Relu).unwrap_err(), "add_activate");
    names(ops::attention(&t(&[2, 3, 12]), 3).unwrap_err(), "attention");
    names(ops::attention(&t(&[2, 3, 10]), 1).unwrap_err(), "attention");
    names(ops::cross_entropy(&t(&[2, 3]), &t(&[2, 4]), None).unwrap_err(), "cross_entropy");
    names(ops::mse(&t(&[2, 3]), &t(&[2, 3]), Some(&t(&[3]))).unwrap_err(), "mse");
    names(ops::layer_norm(&t(&[2, 3]), Some(&t(&[2])), None, 1e-5).unwrap_err(), "layer_norm");
    names(ops::global_avg_pool(&t(&[2, 3])).unwrap_err(), "global_avg_pool");
    names(ops::batch_norm_train(&t(&[0, 3]), None, 1e-5, Activation::Relu).unwrap_err(), "batch_norm");
    let image = t(&[1, 4, 4, 2]);
    for (kernel, stride, padding) in [(0, 1, 0), (2, 0, 0), (2, 1, 2), (5, 1, 0)] {
        let spec = Pool2dSpec { kernel, stride, padding };
        names(ops::max_pool2d(&image, spec).unwrap_err(), "max_pool2d");
        names(ops::avg_pool2d(&image, spec).unwrap_err(), "avg_pool2d");
    }
}

/// Views with strides and offsets are as good as contiguous tensors, and so are broadcast gradients.
#[test]
fn strided_views_are_taken() {
    let x = arg(5, &[4, 6]).tensor();
    let (view, copy) =
        (x.t().unwrap().narrow(0, 1, 3).unwrap(), x.t().unwrap().narrow(0, 1, 3).unwrap().force_contiguous().unwrap());
    assert_eq!(values(&ops::softmax(&view).unwrap()), values(&ops::softmax(&copy).unwrap()));
    let var = Var::from_tensor(&x).unwrap();
    let y = ops::softmax(&var.t().unwrap()).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    // Rows of a softmax sum to 1 whatever the input.
    assert_close("gradient", &values(grads.get(&var).unwrap()), &[0.0; 24], 1e-6);
}
