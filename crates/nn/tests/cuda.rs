//! Every operator on a GPU against the same operator on the CPU, which the other tests hold against finite differences and PyTorch.

#[cfg(not(feature = "cuda"))]
#[test]
fn operators_on_a_gpu() {
    eprintln!("skipped: built without the feature cuda, see docs/GPU.md");
}

#[cfg(feature = "cuda")]
mod common;

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use candle_core::{Device, Tensor, Var};
    use semlink_nn::layers::BatchNorm2d;
    use semlink_nn::ops::{self, Conv2dSpec, Pool2dSpec, View};
    use semlink_nn::optim::{AdamW, AdamWConfig, Average, Optimizer, Sgd, SgdConfig};
    use semlink_nn::{Activation, Init, Mode, Params, Result, cuda, grad, value_and_grad};

    use crate::common::{Arg, arg, assert_close, positive, scale, values};

    const ACTIVATIONS: [Activation; 4] = [Activation::Identity, Activation::Relu, Activation::Relu6, Activation::Gelu];

    fn gpu() -> Option<Device> {
        match cuda::device(0) {
            Ok(device) => Some(device),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    fn numbers(t: &Tensor) -> Vec<f64> {
        values(&t.to_device(&Device::Cpu).unwrap()).iter().map(|v| f64::from(*v)).collect()
    }

    /// Value and gradients of `op` on both devices, in TF32 (by `value_and_grad`) and in full f32 (by candle). Only what multiplies matrices is less exact in TF32.
    #[track_caller]
    fn compare(gpu: &Device, name: &str, args: &[Arg], op: impl Fn(&[Tensor]) -> Result<Tensor>) {
        let on = |device: &Device, recorded: bool| -> (Vec<f64>, Vec<Vec<f64>>) {
            let vars: Vec<Var> =
                args.iter().map(|a| Var::from_tensor(&a.tensor().to_device(device).unwrap()).unwrap()).collect();
            let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
            let mut y = None;
            let mut loss = || -> Result<Tensor> {
                let y = y.insert(op(&tensors)?);
                let r = arg(99, y.dims()).tensor().to_device(device)?;
                Ok(y.mul(&r)?.sum_all()?)
            };
            let grads = if recorded {
                value_and_grad(loss).map(|(_, grads)| grads)
            } else {
                loss().and_then(|l| Ok(l.backward()?))
            };
            let (y, grads) = (y.unwrap(), grads.unwrap());
            let grads = vars.iter().map(|v| grads.get(v).map(numbers).unwrap_or_default());
            (numbers(&y), grads.collect())
        };
        let (value, grads) = on(&Device::Cpu, false);
        for (tf32, tolerance) in [(false, 1e-5), (true, 1e-3)] {
            cuda::set_tf32(tf32);
            let (found, found_grads) = on(gpu, tf32);
            let single = |v: &[f64]| v.iter().map(|v| *v as f32).collect::<Vec<f32>>();
            assert_close(&format!("{name}, TF32 {tf32}: value"), &single(&found), &value, tolerance);
            for (i, (found, expected)) in found_grads.iter().zip(&grads).enumerate() {
                let what = format!("{name}, TF32 {tf32}: gradient of argument {i}");
                assert_close(&what, &single(found), expected, tolerance);
            }
        }
        cuda::set_tf32(true);
    }

    /// One test: the precision is the process's.
    #[test]
    fn operators() {
        let Some(gpu) = &gpu() else { return };
        convolutions(gpu);
        convolutions_with_many_channels(gpu);
        norms(gpu);
        pools(gpu);
        the_rest(gpu);
        optimisers(gpu);
        views(gpu);
    }

    /// Enough of everything for the large tiles, which serve TF32 alone.
    fn convolutions_with_many_channels(gpu: &Device) {
        // n, h, w, in, out, kernel, stride, padding, dilation
        let cases = [
            [1, 130, 127, 36, 68, 3, 1, 1, 1],
            [2, 140, 121, 36, 68, 3, 2, 1, 1],
            [300, 7, 8, 64, 40, 3, 1, 2, 2],
            [70, 16, 16, 116, 36, 1, 1, 0, 1],
        ];
        for case in cases {
            let [n, h, w, inputs, outputs, kernel, stride, padding, dilation] = case;
            let spec = Conv2dSpec { stride, padding, dilation, groups: 1 };
            let (x, f) = (arg(1, &[n, h, w, inputs]), arg(2, &[kernel, kernel, inputs, outputs]));
            compare(gpu, &format!("convolution {case:?}"), &[x.clone(), f.clone()], |t| {
                ops::conv2d(&t[0], &t[1], spec)
            });
            let bias = arg(3, &[outputs]);
            let on = |device: &Device| {
                let [x, f, bias] = [&x, &f, &bias].map(|a| a.tensor().to_device(device).unwrap());
                numbers(&ops::conv2d_bias_act(&x, &f, Some(&bias), Activation::Relu6, spec).unwrap())
            };
            let found: Vec<f32> = on(gpu).iter().map(|v| *v as f32).collect();
            // Off by as much as sums are, which go up to about 4 times the root of their number times 4 / 3.
            let largest = 4.0 * (16.0 / 9.0 * (kernel * kernel * inputs) as f64).sqrt();
            assert_close(&format!("{case:?} without history"), &found, &on(&Device::Cpu), 1e-3 * largest / 7.0);
        }
    }

    fn convolutions(gpu: &Device) {
        // n, h, w, in, out, kernel, stride, padding, dilation, groups
        let cases = [
            [3, 9, 7, 5, 6, 3, 1, 1, 1, 1],
            [2, 28, 28, 1, 16, 3, 1, 1, 1, 1],
            [2, 32, 32, 3, 64, 3, 1, 1, 1, 1],
            [2, 14, 14, 16, 24, 3, 2, 1, 1, 1],
            [4, 8, 8, 64, 64, 3, 1, 1, 1, 1],
            [2, 9, 9, 128, 240, 3, 2, 1, 1, 1],
            [2, 8, 8, 48, 80, 1, 1, 0, 1, 1],
            [5, 7, 7, 12, 12, 1, 2, 0, 1, 1],
            [2, 7, 7, 8, 12, 3, 1, 2, 2, 2],
            [2, 9, 9, 24, 40, 5, 2, 2, 1, 4],
            [3, 13, 11, 12, 12, 3, 1, 1, 1, 12],
            [3, 13, 11, 12, 12, 5, 2, 2, 1, 12],
            [2, 14, 14, 24, 24, 5, 1, 4, 2, 24],
            [2, 14, 14, 40, 40, 3, 1, 2, 2, 40],
            [2, 6, 6, 7, 7, 3, 2, 1, 1, 7],
            [2, 9, 9, 6, 6, 7, 1, 3, 1, 6],
        ];
        for case in cases {
            let [n, h, w, inputs, outputs, kernel, stride, padding, dilation, groups] = case;
            let spec = Conv2dSpec { stride, padding, dilation, groups };
            let (x, f) = (arg(1, &[n, h, w, inputs]), arg(2, &[kernel, kernel, inputs / groups, outputs]));
            compare(gpu, &format!("convolution {case:?}"), &[x.clone(), f.clone()], |t| {
                ops::conv2d(&t[0], &t[1], spec)
            });
            let bias = arg(3, &[outputs]).tensor();
            let on = |device: &Device, act: Activation| {
                let there = |t: Tensor| t.to_device(device).unwrap();
                let (x, f, bias) = (there(x.tensor()), there(f.tensor()), there(bias.clone()));
                numbers(&ops::conv2d_bias_act(&x, &f, Some(&bias), act, spec).unwrap())
            };
            // What sums are off by, on both devices, goes with the values before they are clamped.
            let before = scale(&on(&Device::Cpu, Activation::Identity));
            cuda::set_tf32(false);
            for act in ACTIVATIONS {
                let found: Vec<f32> = on(gpu, act).iter().map(|v| *v as f32).collect();
                let expected = on(&Device::Cpu, act);
                let tolerance = 1e-5 * before / scale(&expected);
                assert_close(&format!("{case:?} {act:?} without history"), &found, &expected, tolerance);
            }
        }
    }

    fn norms(gpu: &Device) {
        for shape in
            [vec![3, 5, 4, 5], vec![8, 14, 14, 16], vec![2, 9, 9, 24], vec![300, 64], vec![70, 130], vec![7, 1]]
        {
            let width = shape[shape.len() - 1];
            let (x, g, b) = (arg(1, &shape), positive(2, &[width]), arg(3, &[width]));
            for act in ACTIVATIONS {
                let name = format!("batch norm {shape:?} {act:?}");
                compare(gpu, &name, &[x.clone(), g.clone(), b.clone()], |t| {
                    Ok(ops::batch_norm_train(&t[0], Some((&t[1], &t[2])), 1e-5, act)?.0)
                });
                let (mean, var) = (arg(4, &[width]).tensor(), positive(5, &[width]).tensor());
                compare(gpu, &format!("{name}, given statistics"), &[x.clone(), g.clone(), b.clone()], |t| {
                    let there = |s: &Tensor| s.to_device(t[0].device()).unwrap();
                    ops::batch_norm_eval(&t[0], Some((&t[1], &t[2])), &there(&mean), &there(&var), 1e-5, act)
                });
            }
            compare(gpu, &format!("batch norm {shape:?}, plain"), std::slice::from_ref(&x), |t| {
                Ok(ops::batch_norm_train(&t[0], None, 1e-5, Activation::Relu)?.0)
            });
            let statistics = |device: &Device| {
                let x = x.tensor().to_device(device).unwrap();
                let found = ops::batch_norm_train(&x, None, 1e-5, Activation::Identity).unwrap().1;
                [numbers(&found.mean), numbers(&found.var)].concat()
            };
            let found: Vec<f32> = statistics(gpu).iter().map(|v| *v as f32).collect();
            // Sums of a chunk are in f32 on both.
            assert_close("statistics", &found, &statistics(&Device::Cpu), 1e-5);
            let running = |device: &Device| {
                let params = Params::init(1, device);
                let layer = BatchNorm2d::new(&params, width, true).unwrap();
                for seed in 1..4 {
                    let x = arg(seed, &shape).tensor().to_device(device).unwrap();
                    layer.forward(&x, Activation::Relu, Mode::Train).unwrap();
                }
                let tensors = params.tensors().unwrap();
                ["running_mean", "running_var"].map(|name| numbers(&tensors[name])).concat()
            };
            let found: Vec<f32> = running(gpu).iter().map(|v| *v as f32).collect();
            assert_close("running statistics", &found, &running(&Device::Cpu), 1e-5);
            if width > 1 {
                compare(gpu, "softmax", std::slice::from_ref(&x), |t| ops::softmax(&t[0]));
                let all = [x.clone(), g.clone(), b.clone()];
                compare(gpu, "layer norm", &all, |t| ops::layer_norm(&t[0], Some(&t[1]), Some(&t[2]), 1e-5));
                compare(gpu, "layer norm, gamma", &all[..2], |t| ops::layer_norm(&t[0], Some(&t[1]), None, 1e-5));
                compare(gpu, "layer norm, beta", &[x.clone(), b.clone()], |t| {
                    ops::layer_norm(&t[0], None, Some(&t[1]), 1e-5)
                });
                compare(gpu, "layer norm, plain", &all[..1], |t| ops::layer_norm(&t[0], None, None, 1e-5));
            }
        }
    }

    fn pools(gpu: &Device) {
        let x = arg(1, &[3, 9, 8, 6]);
        // Many equal values: which of them takes the gradient is part of the contract.
        let mut ties = x.clone();
        ties.data.iter_mut().for_each(|v| *v = v.round().max(0.0));
        for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (2, 2, 0), (3, 3, 0)] {
            let spec = Pool2dSpec { kernel, stride, padding };
            compare(gpu, &format!("max pool {spec:?}"), std::slice::from_ref(&ties), |t| ops::max_pool2d(&t[0], spec));
            compare(gpu, &format!("mean pool {spec:?}"), std::slice::from_ref(&x), |t| ops::avg_pool2d(&t[0], spec));
        }
        compare(gpu, "global mean", &[x], |t| ops::global_avg_pool(&t[0]));
    }

    fn the_rest(gpu: &Device) {
        let shape = [3, 7, 5];
        let (a, b) = (arg(1, &shape), arg(2, &shape));
        let five: Vec<Arg> = (0..5).map(|seed| arg(10 + seed, &shape)).collect();
        for act in ACTIVATIONS {
            compare(gpu, &format!("{act:?}"), std::slice::from_ref(&a), |t| ops::activate(&t[0], act));
            compare(gpu, &format!("sum {act:?}"), &[a.clone(), b.clone()], |t| ops::add_activate(&t[0], &t[1], act));
            compare(gpu, &format!("sum of five {act:?}"), &five, |t| ops::sum_activate(t, act));
        }
        for axis in 0..3 {
            compare(gpu, "concat", &[a.clone(), b.clone()], |t| ops::concat(&[&t[0], &t[1], &t[0]], axis));
            compare(gpu, "split", std::slice::from_ref(&a), |t| {
                let parts = ops::split(&t[0], axis, shape[axis])?;
                ops::add_activate(&parts[0], &parts[2], Activation::Gelu)
            });
        }
        compare(gpu, "rows of numbers spread", &[arg(4, &[6])], |t| {
            let rows = ops::rows(&ops::spread(&t[0], 5)?)?;
            ops::add_activate(&rows[1], &rows[4], Activation::Gelu)
        });
        for (rows, inputs, outputs) in [(1, 3, 4), (64, 128, 10), (130, 65, 33)] {
            let all = [arg(1, &[rows, inputs]), arg(2, &[outputs, inputs]), arg(3, &[outputs])];
            compare(gpu, "linear", &all, |t| ops::linear(&t[0], &t[1], Some(&t[2])));
            compare(gpu, "linear without bias", &all[..2], |t| ops::linear(&t[0], &t[1], None));
        }
        compare(gpu, "attention", &[arg(1, &[3, 8, 48])], |t| ops::attention(&t[0], 4));
        let tokens = [3, 4, 10];
        compare(gpu, "modulate", &[arg(1, &tokens), arg(2, &[3, 20])], |t| ops::modulate(&t[0], &t[1]));
        compare(gpu, "gated add", &[arg(1, &tokens), arg(2, &tokens), arg(3, &[3, 10])], |t| {
            ops::gated_add(&t[0], &t[1], &t[2])
        });
        let (targets, weights) = (positive(4, &[40, 10]).tensor(), positive(5, &[40]).tensor());
        let logits = arg(3, &[40, 10]);
        for weighted in [false, true] {
            let there = |s: &Tensor, t: &[Tensor]| s.to_device(t[0].device()).unwrap();
            compare(gpu, "cross entropy", std::slice::from_ref(&logits), |t| {
                let weights = there(&weights, t);
                ops::cross_entropy(&t[0], &there(&targets, t), weighted.then_some(&weights))
            });
            compare(gpu, "mean square", &[logits.clone(), arg(6, &[40, 10])], |t| {
                let weights = there(&weights, t);
                ops::mse(&t[0], &t[1], weighted.then_some(&weights))
            });
        }
    }

    /// Ten steps with clipping and averaging; loss = sum of w^4 / 4 over three variables.
    fn optimisers(gpu: &Device) {
        let run = |device: &Device, adam: bool| {
            let params = Params::init(7, device);
            let init = Init::Normal { std: 1.0 };
            for (name, shape) in [("a", vec![40, 130]), ("b", vec![5]), ("c", vec![3, 3, 1, 7])] {
                params.weight(name, &shape, init).unwrap();
            }
            let vars = params.vars();
            let sgd = SgdConfig { weight_decay: 0.05, ..SgdConfig::default() };
            let mut optimizer: Box<dyn Optimizer> = match adam {
                true => Box::new(AdamW::new(vars.clone(), AdamWConfig::default()).unwrap()),
                false => Box::new(Sgd::new(vars.clone(), sgd).unwrap()),
            };
            let mut average = Average::new(0.9, &params).unwrap();
            for step in 0..10 {
                if step == 5 {
                    // Through a checkpoint and back.
                    let (state, mean) = (optimizer.state().unwrap(), average.state(&params).unwrap());
                    optimizer.load_state(&state).unwrap();
                    average.load(&mean).unwrap();
                }
                let parts = vars.iter().map(|(_, v)| v.sqr().unwrap().sqr().unwrap().sum_all().unwrap());
                let loss = parts.reduce(|a, b| (a + b).unwrap()).unwrap().affine(0.25, 0.0).unwrap();
                let mut grads = loss.backward().unwrap();
                grad::clip_norm(&vars, &mut grads, 2.0).unwrap();
                optimizer.step(&grads, 0.05).unwrap();
                average.update(&params).unwrap();
            }
            let weights: Vec<f64> = params.tensors().unwrap().values().flat_map(numbers).collect();
            let averages: Vec<f64> = average.tensors(&params).unwrap().values().flat_map(numbers).collect();
            [weights, averages].concat()
        };
        for adam in [false, true] {
            let found: Vec<f32> = run(gpu, adam).iter().map(|v| *v as f32).collect();
            assert_close(&format!("optimiser, adam {adam}"), &found, &run(&Device::Cpu, adam), 1e-5);
        }
    }

    fn views(gpu: &Device) {
        let pixels: Vec<u8> = (0..5 * 6 * 7 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let tables: Vec<f32> = (0..3 * 256).map(|i| i as f32 * 0.01 - 1.0).collect();
        let views = [
            View::default(),
            View { shift: (2, -1), flip: true, erased: (1, 2, 4, 5) },
            View { shift: (-3, 3), flip: false, erased: (0, 0, 6, 1) },
        ];
        let render = |device: &Device| {
            let images = Tensor::from_slice(&pixels, (5, 6, 7, 3), device).unwrap();
            let tables = Tensor::from_slice(&tables, (3, 256), device).unwrap();
            numbers(&ops::render_views(&images, &[4, 0, 2], &views, &tables).unwrap())
        };
        assert_eq!(render(gpu), render(&Device::Cpu));
    }
}
