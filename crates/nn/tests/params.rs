//! Parameters: seeded drawing, names, checkpoints, serving; and what goes wrong with each.

mod common;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use common::{arg, assert_close, values};
use semlink_nn::layers::{BatchNorm2d, ConvBn, ConvConfig, LayerNorm, Linear, SelfAttention};
use semlink_nn::ops::{Activation, Conv2dSpec, global_avg_pool};
use semlink_nn::{Error, Init, Mode, Params, Result, checkpoint};

/// A small network with every kind of layer.
struct Net {
    stem: ConvBn,
    depthwise: ConvBn,
    attention: SelfAttention,
    norm: LayerNorm,
    head: Linear,
}

impl Net {
    fn new(params: &Params) -> Result<Self> {
        let spec = Conv2dSpec { stride: 2, padding: 2, dilation: 2, groups: 8 };
        let depthwise = ConvConfig { inputs: 8, outputs: 8, kernel: 3, spec };
        Ok(Self {
            stem: ConvBn::new(&params.sub("stem"), ConvConfig::same(3, 8, 3, 1), Activation::Relu)?,
            depthwise: ConvBn::with_affine(&params.sub("depthwise"), depthwise, Activation::Gelu, false)?,
            attention: SelfAttention::new(&params.sub("attention"), 8, 2)?,
            norm: LayerNorm::new(&params.sub("norm"), 8, true)?,
            head: Linear::new(&params.sub("head"), 8, 4)?,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = self.depthwise.forward(&self.stem.forward(x, mode)?, mode)?;
        let (n, h, w, c) = x.dims4()?;
        let tokens = self.norm.forward(&self.attention.forward(&x.reshape((n, h * w, c))?)?)?;
        self.head.forward(&global_avg_pool(&tokens.reshape((n, h, w, c))?)?)
    }
}

fn bytes(params: &Params) -> BTreeMap<String, Vec<u32>> {
    let tensors = params.tensors().unwrap();
    tensors.iter().map(|(name, t)| (name.clone(), values(t).iter().map(|v| v.to_bits()).collect())).collect()
}

fn initial(seed: u64) -> Params {
    let params = Params::init(seed, &Device::Cpu);
    Net::new(&params).unwrap();
    params
}

#[test]
fn same_seed_same_bytes_other_seed_other_bytes() {
    let (a, b, c) = (bytes(&initial(7)), bytes(&initial(7)), bytes(&initial(8)));
    assert_eq!(a, b);
    let name = "stem.conv.weight";
    assert!(a[name].iter().zip(&c[name]).all(|(a, c)| a != c), "every weight differs");
}

#[test]
fn values_do_not_depend_on_the_order_of_creation_nor_on_the_path_taken() {
    let draw = |p: &Params, name: &str| values(&p.weight(name, &[3, 5], Init::Normal { std: 1.0 }).unwrap());
    let (a, b) = (Params::init(1, &Device::Cpu), Params::init(1, &Device::Cpu));
    let first = (draw(&a, "x.w"), draw(&a, "y.w"));
    let second = (draw(&b.sub("y"), "w"), draw(&b.sub("x"), "w"));
    assert_eq!(first.0, second.1);
    assert_eq!(first.1, second.0);
    assert_ne!(first.0, first.1);
}

/// Mean and variance within 5 standard errors, uniform within its bounds.
#[test]
fn drawn_weights_have_the_stated_moments() {
    let params = Params::init(3, &Device::Cpu);
    let n = 40_000;
    let draw = |name: &str, init| values(&params.weight(name, &[n], init).unwrap());
    let moments = |v: &[f32]| {
        let mean = v.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
        (mean, v.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n as f64)
    };
    let bound: f64 = (6.0f64 / 96.0).sqrt();
    // (values, variance, fourth moment / variance^2 - 1: the variance of a squared sample)
    let cases = [
        (draw("normal", Init::Normal { std: 0.3 }), 0.09, 2.0),
        (draw("kaiming", Init::KaimingNormal { fan: 72 }), 2.0 / 72.0, 2.0),
        (draw("xavier", Init::XavierUniform { fan_in: 32, fan_out: 64 }), bound * bound / 3.0, 0.8),
    ];
    for (v, expected, spread) in &cases {
        let (mean, var) = moments(v);
        let root = (n as f64).sqrt();
        assert!(mean.abs() < 5.0 * f64::sqrt(*expected) / root, "mean {mean}");
        assert!(
            (var - expected).abs() < 5.0 * expected * f64::sqrt(*spread) / root,
            "variance {var}, expected {expected}"
        );
    }
    assert!(cases[2].0.iter().all(|v| f64::from(v.abs()) <= bound + 1e-6));
    assert_eq!(draw("constant", Init::Constant(2.5)), vec![2.5; n]);
}

#[test]
fn names_and_counts() {
    let params = initial(1);
    let names: Vec<String> = params.vars().into_iter().map(|(name, _)| name).collect();
    let expected = [
        "attention.out.bias",
        "attention.out.weight",
        "attention.qkv.bias",
        "attention.qkv.weight",
        "depthwise.conv.weight",
        "head.bias",
        "head.weight",
        "norm.bias",
        "norm.weight",
        "stem.bn.bias",
        "stem.bn.weight",
        "stem.conv.weight",
    ];
    assert_eq!(names, expected);
    // 3x3x3x8 + 2x8, 3x3x8, 8x24+24 + 8x8+8, 2x8, 8x4+4
    assert_eq!(params.count(), (216 + 16) + 72 + (216 + 72) + 16 + 36);
    let stem = params.sub("stem");
    assert_eq!(stem.count(), 232);
    let tensors: Vec<String> = stem.tensors().unwrap().into_keys().collect();
    assert_eq!(
        tensors,
        ["stem.bn.bias", "stem.bn.running_mean", "stem.bn.running_var", "stem.bn.weight", "stem.conv.weight"]
    );
    assert_eq!(params.sub("ste").count(), 0, "a prefix ends at a dot");
    // The same name is the same variable.
    let again = params.weight("head.bias", &[4], Init::Ones).unwrap();
    assert_eq!(again.id(), params.vars()[5].1.as_tensor().id());
}

#[test]
fn a_snapshot_does_not_follow_training() {
    let params = initial(1);
    let (before, kept) = (params.tensors().unwrap(), bytes(&params));
    for (_, var) in params.vars() {
        var.set(&var.ones_like().unwrap()).unwrap();
    }
    for (name, t) in &before {
        assert_eq!(values(t).iter().map(|v| v.to_bits()).collect::<Vec<_>>(), kept[name], "{name}");
    }
}

/// Trains the statistics a little, then compares evaluation before saving with the folded network after loading.
#[test]
fn frozen_and_folded_equals_evaluation() {
    let params = Params::init(5, &Device::Cpu);
    let net = Net::new(&params).unwrap();
    for (i, (_, var)) in params.vars().iter().enumerate() {
        let noise = arg(i as u64, var.dims()).tensor().affine(0.1, 0.0).unwrap();
        var.set(&(var.as_tensor() + noise).unwrap()).unwrap();
    }
    for seed in 0..5 {
        net.forward(&arg(100 + seed, &[4, 9, 8, 3]).tensor(), Mode::Train).unwrap();
    }
    let x = arg(200, &[3, 9, 8, 3]).tensor();
    let expected = net.forward(&x, Mode::Eval).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.safetensors");
    checkpoint::save(&path, &params.tensors().unwrap(), &BTreeMap::new()).unwrap();
    let loaded = checkpoint::load(&path, &Device::Cpu).unwrap().tensors;
    let expected_values: Vec<f64> = values(&expected).iter().map(|v| f64::from(*v)).collect();

    let frozen = Params::frozen(loaded.clone());
    let folded = Net::new(&frozen).unwrap();
    frozen.check_all_used().unwrap();
    assert!(frozen.vars().is_empty());
    assert_eq!(frozen.count(), params.count());
    for mode in [Mode::Eval, Mode::Train] {
        let y = folded.forward(&x, mode).unwrap();
        assert!(!y.track_op(), "no autograd history");
        assert_close("folded", &values(&y), &expected_values, 3e-6);
    }

    // The same checkpoint goes on training, bit for bit.
    let trainable = Params::trainable(loaded);
    let resumed = Net::new(&trainable).unwrap();
    assert_eq!(bytes(&trainable), bytes(&params));
    assert_eq!(values(&resumed.forward(&x, Mode::Eval).unwrap()), values(&expected));
}

#[test]
fn half_precision_checkpoints_become_f32() {
    let tensors = BTreeMap::from([(
        "weight".to_owned(),
        Tensor::new(&[0.5f32, -2.0], &Device::Cpu).unwrap().to_dtype(DType::F16).unwrap(),
    )]);
    let params = Params::frozen(tensors);
    let t = params.weight("weight", &[2], Init::Zeros).unwrap();
    assert_eq!(t.dtype(), DType::F32);
    assert_eq!(values(&t), [0.5, -2.0]);
}

#[test]
fn what_does_not_fit_is_named() {
    let tensors = || BTreeMap::from([("a.w".to_owned(), Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap())]);
    let params = Params::trainable(tensors());
    let e = params.sub("a").weight("v", &[2], Init::Zeros).unwrap_err();
    assert!(matches!(&e, Error::MissingParam { name } if name == "a.v"), "{e}");
    let e = params.weight("a.w", &[3, 2], Init::Zeros).unwrap_err();
    assert!(matches!(&e, Error::ParamShape { got, .. } if got == &[2, 3]), "{e}");
    let e = params.check_all_used().unwrap_err();
    assert_eq!(e.to_string(), "tensors that no layer uses: a.w");
    params.weight("a.w", &[2, 3], Init::Zeros).unwrap();
    params.check_all_used().unwrap();
    assert!(matches!(params.buffer("a.w", &[2, 3], 0.0), Err(Error::ParamKind { .. })));
    // Asked for again in another shape.
    assert!(matches!(params.weight("a.w", &[6], Init::Zeros), Err(Error::ParamShape { .. })));
    let bn = BatchNorm2d::new(&Params::init(0, &Device::Cpu), 3, true).unwrap();
    let wrong = Tensor::zeros((2, 4), DType::F32, &Device::Cpu).unwrap();
    assert!(matches!(bn.forward(&wrong, Activation::Relu, Mode::Train), Err(Error::Shape { .. })));
}

/// The transposed weight of serving gives the bits of training, alone and in a batch, and lets gradients through to the input.
#[test]
fn frozen_linear_layers_compute_the_same_bits() {
    let params = Params::init(2, &Device::Cpu);
    let layer = Linear::new(&params, 40, 48).unwrap();
    let frozen = Linear::new(&Params::frozen(params.tensors().unwrap()), 40, 48).unwrap();
    let x = arg(1, &[33, 40]).tensor();
    let all = values(&layer.forward(&x).unwrap());
    assert_eq!(values(&frozen.forward(&x).unwrap()), all);
    let one = values(&frozen.forward(&x.narrow(0, 20, 1).unwrap()).unwrap());
    assert_eq!(one, all[20 * 48..21 * 48]);
    assert!(frozen.forward(&arg(1, &[33, 41]).tensor()).is_err());
    let x = candle_core::Var::from_tensor(&x).unwrap();
    let grads = frozen.forward(&x).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&x).is_some());
}
