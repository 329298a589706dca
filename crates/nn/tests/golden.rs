//! Operators, optimisers and schedules against PyTorch; `golden/generate.py` made the files.

mod common;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use common::{assert_close, values};
use semlink_nn::ops::{self, Activation, Conv2dSpec, Pool2dSpec};
use semlink_nn::optim::{AdamW, AdamWConfig, Optimizer, Sgd, SgdConfig};
use semlink_nn::schedule::{Cosine, OneCycle};
use semlink_nn::{Mode, Params, layers};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Golden {
    shape: Vec<usize>,
    data: Vec<f64>,
}

#[derive(Deserialize)]
struct Case {
    op: String,
    params: Value,
    args: Vec<Golden>,
    y: Golden,
    r: Golden,
    grads: Vec<Golden>,
    #[serde(flatten)]
    extra: BTreeMap<String, Golden>,
}

impl Golden {
    fn tensor(&self) -> Tensor {
        let data: Vec<f32> = self.data.iter().map(|v| *v as f32).collect();
        Tensor::from_vec(data, self.shape.as_slice(), &Device::Cpu).unwrap()
    }

    fn var(&self) -> Var {
        Var::from_tensor(&self.tensor()).unwrap()
    }
}

impl Case {
    fn number(&self, name: &str) -> usize {
        self.params[name].as_u64().unwrap() as usize
    }

    fn act(&self) -> Activation {
        serde_json::from_value(self.params["act"].clone()).unwrap()
    }

    fn extra(&self, name: &str) -> Option<Tensor> {
        self.extra.get(name).map(Golden::tensor)
    }

    fn run(&self, t: &[Tensor]) -> semlink_nn::Result<Tensor> {
        let x = &t[0];
        let affine = (t.len() > 2).then(|| (&t[1], &t[2]));
        let pool = || Pool2dSpec {
            kernel: self.number("kernel"),
            stride: self.number("stride"),
            padding: self.number("padding"),
        };
        match self.op.as_str() {
            "conv2d" => {
                let spec = Conv2dSpec {
                    stride: self.number("stride"),
                    padding: self.number("padding"),
                    dilation: self.number("dilation"),
                    groups: self.number("groups"),
                };
                ops::conv2d(x, &t[1], spec)
            }
            "activate" => ops::activate(x, self.act()),
            "add_activate" => ops::add_activate(x, &t[1], self.act()),
            "batch_norm_train" => Ok(ops::batch_norm_train(x, affine, 1e-5, self.act())?.0),
            "batch_norm_eval" => {
                let (mean, var) = (self.extra("mean").unwrap(), self.extra("var").unwrap());
                ops::batch_norm_eval(x, affine, &mean, &var, 1e-5, self.act())
            }
            "layer_norm" => ops::layer_norm(x, t.get(1), t.get(2), 1e-5),
            "max_pool2d" => ops::max_pool2d(x, pool()),
            "avg_pool2d" => ops::avg_pool2d(x, pool()),
            "global_avg_pool" => ops::global_avg_pool(x),
            "linear" => ops::linear(x, &t[1], t.get(2)),
            "softmax" => ops::softmax(x),
            "attention" => ops::attention(x, self.number("heads")),
            "cross_entropy" => ops::cross_entropy(x, &self.extra("targets").unwrap(), self.extra("weights").as_ref()),
            "mse" => ops::mse(x, &t[1], self.extra("weights").as_ref()),
            other => panic!("no operator {other}"),
        }
    }
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("golden/ops.json")).unwrap()
}

#[test]
fn operators_and_gradients() {
    let mut seen = BTreeMap::<String, usize>::new();
    for case in cases() {
        let what = format!("{} {}", case.op, case.params);
        let vars: Vec<Var> = case.args.iter().map(Golden::var).collect();
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let y = case.run(&tensors).unwrap();
        assert_eq!(y.dims(), case.y.shape, "{what}");
        assert_close(&what, &values(&y), &case.y.data, 2e-6);
        let grads = y.mul(&case.r.tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        for (i, (var, expected)) in vars.iter().zip(&case.grads).enumerate() {
            let grad = grads.get(var).unwrap();
            assert_eq!(grad.dims(), expected.shape, "{what}");
            assert_close(&format!("{what}: gradient {i}"), &values(grad), &expected.data, 4e-6);
        }
        *seen.entry(case.op).or_default() += 1;
    }
    assert_eq!(seen.len(), 14, "operators in the file: {seen:?}");
}

#[test]
fn running_statistics_move_as_in_pytorch() {
    let case = cases().into_iter().find(|c| c.extra.contains_key("new_mean")).unwrap();
    let given = [
        ("weight", case.args[1].tensor()),
        ("bias", case.args[2].tensor()),
        ("running_mean", case.extra("mean").unwrap()),
        ("running_var", case.extra("var").unwrap()),
    ];
    let params = Params::trainable(given.into_iter().map(|(name, t)| (name.to_owned(), t)).collect());
    let bn = layers::BatchNorm2d::new(&params, 5, true).unwrap();
    let y = bn.forward(&case.args[0].tensor(), case.act(), Mode::Train).unwrap();
    assert_close("y", &values(&y), &case.y.data, 2e-6);
    let after = params.tensors().unwrap();
    assert_close("mean", &values(&after["running_mean"]), &case.extra["new_mean"].data, 1e-6);
    assert_close("variance", &values(&after["running_var"]), &case.extra["new_var"].data, 1e-6);
    // Evaluation leaves them alone.
    bn.forward(&case.args[0].tensor(), case.act(), Mode::Eval).unwrap();
    assert_eq!(values(&params.tensors().unwrap()["running_mean"]), values(&after["running_mean"]));
}

#[derive(Deserialize)]
struct Run {
    kind: String,
    config: Value,
    start: Vec<Golden>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    lr: f64,
    grads: Vec<Golden>,
    params: Vec<Golden>,
}

impl Run {
    fn optimizer(&self, vars: &[Var]) -> Box<dyn Optimizer> {
        let vars = vars.iter().enumerate().map(|(i, v)| (format!("p{i}"), v.clone())).collect();
        let number = |name: &str| self.config[name].as_f64().unwrap();
        let weight_decay = number("weight_decay");
        if self.kind == "sgd" {
            let nesterov = self.config["nesterov"].as_bool().unwrap();
            let config = SgdConfig { momentum: number("momentum"), nesterov, weight_decay, decay_vectors: true };
            return Box::new(Sgd::new(vars, config).unwrap());
        }
        let beta = |i: usize| self.config["betas"][i].as_f64().unwrap();
        let (beta1, beta2, eps) = (beta(0), beta(1), number("eps"));
        let config = AdamWConfig { beta1, beta2, eps, weight_decay, decay_vectors: true };
        Box::new(AdamW::new(vars, config).unwrap())
    }
}

/// sum_i w_i g_i has the gradient g.
fn step(optimizer: &mut dyn Optimizer, vars: &[Var], step: &Step) {
    let terms = vars.iter().zip(&step.grads).map(|(v, g)| v.mul(&g.tensor()).unwrap().sum_all().unwrap());
    let loss = terms.reduce(|a, b| (a + b).unwrap()).unwrap();
    optimizer.step(&loss.backward().unwrap(), step.lr).unwrap();
}

#[test]
fn optimisers() {
    let runs: Vec<Run> = serde_json::from_str(include_str!("golden/optim.json")).unwrap();
    assert_eq!(runs.len(), 5);
    for run in runs {
        let what = format!("{} {}", run.kind, run.config);
        let vars: Vec<Var> = run.start.iter().map(Golden::var).collect();
        let mut optimizer = run.optimizer(&vars);
        for (i, golden) in run.steps.iter().enumerate() {
            step(optimizer.as_mut(), &vars, golden);
            for (var, expected) in vars.iter().zip(&golden.params) {
                assert_close(&format!("{what}, step {i}"), &values(var), &expected.data, 1e-6);
            }
            // Half way, everything is handed over to a new optimiser through the saved state.
            if i == 2 {
                let state = optimizer.state().unwrap();
                optimizer = run.optimizer(&vars);
                optimizer.load_state(&state).unwrap();
            }
        }
    }
}

#[test]
fn schedules() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("golden/schedule.json")).unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let number = |name: &str| case[name].as_f64().unwrap();
        let (peak, total) = (number("peak"), number("total") as usize);
        let lr: Box<dyn Fn(usize) -> f64> = if case["kind"] == "one_cycle" {
            let schedule = OneCycle::new(peak, number("warmup") as usize, total);
            Box::new(move |step| schedule.lr(step))
        } else {
            let schedule = Cosine { peak, floor: number("floor"), warmup: 0, total };
            Box::new(move |step| schedule.lr(step))
        };
        for (step, expected) in case["rates"].as_array().unwrap().iter().enumerate() {
            let (got, expected) = (lr(step), expected.as_f64().unwrap());
            assert!((got - expected).abs() < 1e-9, "{}: step {step}: {got}, expected {expected}", case["kind"]);
        }
    }
}
