//! Every operator's value and gradient against central differences of an f64 reference.

mod common;

use common::{Arg, arg, check_gradients, positive, reference};
use semlink_nn::Activation::{self, Gelu, Identity, Relu, Relu6};
use semlink_nn::ops::{self, Conv2dSpec, Pool2dSpec};

const EPS: f64 = 1e-5;
const ALL: [Activation; 4] = [Identity, Relu, Relu6, Gelu];

#[test]
fn activations() {
    for a in ALL {
        let mut x = arg(1, &[3, 37]);
        x.data.iter_mut().for_each(|v| *v *= 4.0); // past the upper kink of ReLU6
        check_gradients(
            &[x.clone()],
            |t| ops::activate(&t[0], a),
            |d| d[0].iter().map(|v| reference::act(a, *v)).collect(),
        );
        check_gradients(
            &[x, arg(2, &[3, 37])],
            |t| ops::add_activate(&t[0], &t[1], a),
            |d| d[0].iter().zip(d[1]).map(|(a_, b)| reference::act(a, a_ + b)).collect(),
        );
    }
}

/// 21 columns: a block of 16, one of 4 and a single one, which are separate code.
#[test]
fn batch_norm_of_a_batch() {
    for a in ALL {
        let shape = [2, 3, 2, 21];
        check_gradients(
            &[arg(3, &shape), positive(4, &[21]), arg(5, &[21])],
            |t| Ok(ops::batch_norm_train(&t[0], Some((&t[1], &t[2])), EPS, a)?.0),
            |d| {
                let (mean, var) = reference::column_moments(d[0], 21);
                reference::normalise(d[0], &mean, &var, d[1], d[2], EPS, a)
            },
        );
        check_gradients(
            &[arg(6, &shape)],
            |t| Ok(ops::batch_norm_train(&t[0], None, EPS, a)?.0),
            |d| {
                let (mean, var) = reference::column_moments(d[0], 21);
                reference::normalise(d[0], &mean, &var, &[1.0; 21], &[0.0; 21], EPS, a)
            },
        );
    }
}

#[test]
fn batch_norm_with_given_statistics() {
    let (mean, var) = (arg(7, &[5]), positive(8, &[5]));
    for a in ALL {
        check_gradients(
            &[arg(9, &[4, 5]), positive(10, &[5]), arg(11, &[5])],
            |t| ops::batch_norm_eval(&t[0], Some((&t[1], &t[2])), &mean.tensor(), &var.tensor(), EPS, a),
            |d| reference::normalise(d[0], &mean.data, &var.data, d[1], d[2], EPS, a),
        );
        check_gradients(
            &[arg(9, &[4, 5])],
            |t| ops::batch_norm_eval(&t[0], None, &mean.tensor(), &var.tensor(), EPS, a),
            |d| reference::normalise(d[0], &mean.data, &var.data, &[1.0; 5], &[0.0; 5], EPS, a),
        );
    }
}

#[test]
fn layer_norm_with_and_without_its_parameters() {
    let (x, gamma, beta) = (arg(12, &[2, 3, 19]), positive(13, &[19]), arg(14, &[19]));
    let (ones, zeros) = ([1.0; 19], [0.0; 19]);
    let run = |args: &[Arg], gamma: Option<usize>, beta: Option<usize>| {
        check_gradients(
            args,
            |t| ops::layer_norm(&t[0], gamma.map(|i| &t[i]), beta.map(|i| &t[i]), EPS),
            |d| {
                let (g, b) = (gamma.map_or(&ones[..], |i| d[i]), beta.map_or(&zeros[..], |i| d[i]));
                reference::layer_norm(d[0], 19, g, b, EPS)
            },
        );
    };
    run(std::slice::from_ref(&x), None, None);
    run(&[x.clone(), gamma.clone()], Some(1), None);
    run(&[x.clone(), beta.clone()], None, Some(1));
    run(&[x, gamma, beta], Some(1), Some(2));
}

#[test]
fn pooling() {
    let shape = [2, 5, 7, 21];
    for (kernel, stride, padding) in [(2, 2, 0), (3, 1, 1), (3, 2, 1), (2, 3, 1), (1, 2, 0)] {
        let spec = Pool2dSpec { kernel, stride, padding };
        check_gradients(
            &[arg(15, &shape)],
            |t| ops::max_pool2d(&t[0], spec),
            |d| reference::pool(d[0], shape, spec, |v| v.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x))),
        );
        check_gradients(
            &[arg(16, &shape)],
            |t| ops::avg_pool2d(&t[0], spec),
            |d| reference::pool(d[0], shape, spec, |v| v.iter().sum::<f64>() / v.len() as f64),
        );
    }
    check_gradients(
        &[arg(17, &[3, 4, 5, 6])],
        |t| ops::global_avg_pool(&t[0]),
        |d| d[0].chunks(4 * 5 * 6).flat_map(|image| reference::column_moments(image, 6).0).collect(),
    );
}

#[test]
fn linear_layers() {
    check_gradients(
        &[arg(18, &[2, 3, 7]), arg(19, &[5, 7]), arg(20, &[5])],
        |t| ops::linear(&t[0], &t[1], Some(&t[2])),
        |d| reference::linear(d[0], d[1], Some(d[2]), 7),
    );
    check_gradients(
        &[arg(18, &[1, 7]), arg(19, &[5, 7])],
        |t| ops::linear(&t[0], &t[1], None),
        |d| reference::linear(d[0], d[1], None, 7),
    );
}

#[test]
fn softmax_and_attention() {
    check_gradients(&[arg(21, &[2, 3, 18])], |t| ops::softmax(&t[0]), |d| reference::softmax(d[0], 18));
    for heads in [1, 2, 4] {
        check_gradients(
            &[arg(22, &[2, 5, 24])],
            |t| ops::attention(&t[0], heads),
            |d| reference::attention(d[0], [2, 5, 8], heads),
        );
    }
}

#[test]
fn losses() {
    let targets = {
        let raw = arg(23, &[4, 5]);
        Arg { data: reference::softmax(&raw.data, 5).iter().map(|v| f64::from(*v as f32)).collect(), ..raw }
    };
    let weights = positive(24, &[4]);
    for weights in [None, Some(&weights)] {
        let w = weights.map(|w| w.tensor());
        check_gradients(
            &[arg(25, &[4, 5])],
            |t| ops::cross_entropy(&t[0], &targets.tensor(), w.as_ref()),
            |d| vec![reference::cross_entropy(d[0], &targets.data, weights.map(|w| w.data.as_slice()), 5)],
        );
        check_gradients(
            &[arg(26, &[4, 3, 6]), arg(27, &[4, 3, 6])],
            |t| ops::mse(&t[0], &t[1], w.as_ref()),
            |d| {
                let square =
                    |(i, (a, b)): (usize, (&f64, &f64))| (a - b).powi(2) * weights.map_or(1.0, |w| w.data[i / 18]);
                vec![d[0].iter().zip(d[1]).enumerate().map(square).sum::<f64>() / 72.0]
            },
        );
    }
}

#[test]
fn convolutions() {
    // (input, kernel, stride, padding, dilation, groups, output channels): dense with and without whole SIMD blocks, 1 x 1,
    // strided, dilated, odd padding, grouped, depthwise, depthwise dilated and strided, depthwise with a multiplier.
    let cases = [
        ([2, 5, 6, 3], 3, 1, 1, 1, 1, 17),
        ([1, 6, 5, 18], 1, 2, 0, 1, 1, 20),
        ([2, 7, 6, 4], 3, 2, 1, 1, 1, 5),
        ([1, 7, 8, 3], 3, 1, 2, 2, 1, 4),
        ([1, 5, 5, 2], 5, 1, 3, 1, 1, 3),
        ([1, 5, 4, 6], 3, 1, 1, 1, 2, 4),
        ([2, 5, 6, 21], 3, 1, 1, 1, 21, 21),
        ([1, 8, 7, 5], 3, 2, 2, 2, 5, 5),
        ([1, 6, 6, 3], 5, 2, 2, 1, 3, 3),
        ([1, 5, 5, 3], 3, 1, 1, 1, 3, 6),
    ];
    for (xs, k, stride, padding, dilation, groups, cout) in cases {
        let spec = Conv2dSpec { stride, padding, dilation, groups };
        let ws = [k, k, xs[3] / groups, cout];
        check_gradients(
            &[arg(28, &xs), arg(29, &ws)],
            |t| ops::conv2d(&t[0], &t[1], spec),
            |d| reference::conv2d(d[0], xs, d[1], ws, spec),
        );
        check_gradients(
            &[arg(30, &xs), arg(31, &ws), arg(32, &[cout])],
            |t| ops::conv2d_bias_act(&t[0], &t[1], Some(&t[2]), Relu, spec),
            |d| {
                let y = reference::conv2d(d[0], xs, d[1], ws, spec);
                y.iter().enumerate().map(|(i, y)| (y + d[2][i % cout]).max(0.0)).collect()
            },
        );
    }
}
