//! Sixteen images side by side give what each of them gives alone.

mod common;

use candle_core::Tensor;
use common::{arg, positive, values};
use semlink_nn::ops::{self, Activation, Conv2dSpec, Pool2dSpec};

/// Rows of pixels and channels of image `i`.
fn image(y: &Tensor, i: usize) -> Vec<f32> {
    if y.rank() == 5 {
        return values(&y.narrow(0, i / 16, 1).unwrap().narrow(4, i % 16, 1).unwrap());
    }
    values(&y.narrow(0, i, 1).unwrap())
}

/// `f` on whole groups and on one that is filled up, against `f` in the usual layout: the same bits.
fn same(what: &str, shape: [usize; 3], f: impl Fn(&Tensor) -> Tensor) {
    let [h, w, c] = shape;
    for n in [1, 16, 19] {
        let x = arg(n as u64, &[n, h, w, c]).tensor();
        let (expected, got) = (f(&x), f(&ops::images_last(&x).unwrap()));
        for i in 0..n {
            assert_eq!(image(&got, i), image(&expected, i), "{what}, image {i} of {n}");
        }
    }
}

#[test]
fn convolutions_of_all_kinds() {
    let spec = |stride, padding, dilation, groups| Conv2dSpec { stride, padding, dilation, groups };
    for (shape, kernel, outputs, spec) in [
        ([28, 28, 1], 3, 16, spec(1, 1, 1, 1)),
        ([9, 14, 16], 3, 24, spec(2, 1, 1, 1)),
        ([7, 7, 24], 1, 24, spec(1, 0, 1, 1)),
        ([7, 8, 48], 1, 7, spec(2, 0, 1, 1)),
        ([14, 14, 24], 5, 24, spec(1, 4, 2, 24)),
        ([6, 13, 5], 5, 5, spec(2, 2, 1, 5)),
        ([6, 6, 8], 3, 12, spec(1, 2, 2, 4)),
        ([1, 1, 3], 3, 2, spec(1, 1, 1, 1)),
    ] {
        let w = arg(1, &[kernel, kernel, shape[2] / spec.groups, outputs]).tensor();
        let b = arg(2, &[outputs]).tensor();
        for (bias, act) in [(None, Activation::Identity), (Some(&b), Activation::Relu), (Some(&b), Activation::Relu6)] {
            let what = format!("{shape:?}, {kernel}, {spec:?}, {act:?}");
            same(&what, shape, |x| ops::conv2d_bias_act(x, &w, bias, act, spec).unwrap());
        }
    }
}

#[test]
fn pools_norms_and_sums() {
    let window = |kernel, stride| Pool2dSpec { kernel, stride, padding: kernel / 2 };
    for shape in [[7, 9, 5], [4, 4, 24]] {
        for window in [window(3, 1), window(3, 2), window(2, 2)] {
            same("max", shape, |x| ops::max_pool2d(x, window).unwrap());
            same("avg", shape, |x| ops::avg_pool2d(x, window).unwrap());
        }
        let [gamma, beta, mean] = [1, 2, 3].map(|seed| arg(seed, &shape[2..]).tensor());
        let var = positive(4, &shape[2..]).tensor();
        for affine in [None, Some((&gamma, &beta))] {
            same("norm", shape, |x| ops::batch_norm_eval(x, affine, &mean, &var, 1e-5, Activation::Relu).unwrap());
        }
        same("sum", shape, |x| ops::sum_activate(&[x.clone(), x.clone()], Activation::Relu).unwrap());
        same("side by side", shape, |x| Tensor::cat(&[x, x], 3).unwrap());
    }
}

#[test]
fn the_mean_over_pixels_returns_a_row_for_each_image() {
    for n in [1, 16, 19] {
        let x = arg(n as u64, &[n, 3, 5, 7]).tensor();
        let expected = values(&ops::global_avg_pool(&x).unwrap());
        let got = ops::global_avg_pool(&ops::images_last(&x).unwrap()).unwrap();
        assert_eq!(got.dims(), [n.div_ceil(16) * 16, 7]);
        assert_eq!(values(&got)[..n * 7], expected);
    }
}

#[test]
fn what_has_no_images_is_refused() {
    let refused = ops::images_last(&arg(1, &[3, 4]).tensor()).unwrap_err().to_string();
    assert!(refused.contains("images_last") && refused.contains("[n, h, w, c]"), "{refused}");
}
