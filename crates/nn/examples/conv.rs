//! Time of the shipped student's operators, for one image and for sixteen side by side, on one thread.
//!
//! `cargo run --release -p semlink-nn --example conv`

use std::hint::black_box;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use semlink_nn::ops::{self, Activation, Conv2dSpec, Pool2dSpec};
use semlink_nn::runtime;

/// Name, times in the network, size, channels, kernel, outputs, stride, dilation; depthwise if there are no outputs.
type Case = (&'static str, usize, usize, usize, usize, usize, usize, usize);

const CASES: [Case; 11] = [
    ("stem 3x3 1->16, 28", 1, 28, 1, 3, 16, 1, 1),
    ("stem 3x3/2 16->24, 28", 1, 28, 16, 3, 24, 2, 1),
    ("1x1 24->24, 14", 12, 14, 24, 1, 24, 1, 1),
    ("1x1 48->24, 14", 3, 14, 48, 1, 24, 1, 1),
    ("1x1 48->48, 14", 2, 14, 48, 1, 48, 1, 1),
    ("3x3 24->24, 14", 3, 14, 24, 3, 24, 1, 1),
    ("depthwise 5x5, 24, 14", 3, 14, 24, 5, 0, 1, 1),
    ("depthwise 5x5 dilated, 24, 14", 6, 14, 24, 5, 0, 1, 2),
    ("1x1 48->48, 7", 3, 7, 48, 1, 48, 1, 1),
    ("1x1/2 48->48, 14", 1, 14, 48, 1, 48, 2, 1),
    ("depthwise 5x5 dilated, 48, 7", 1, 7, 48, 5, 0, 1, 2),
];

fn main() -> semlink_nn::Result<()> {
    runtime::init(Some(1))?;
    println!(
        "{:<30} {:>2} {:>8} {:>7} {:>7} {:>7} {:>7}",
        "operator", "x", "kMACs", "us/1", "GFLOP/s", "us/16", "GFLOP/s"
    );
    let (mut all, mut sums) = (0.0, [0.0; 2]);
    let mut row =
        |name: &str, count: usize, macs: usize, x: &Tensor, f: &dyn Fn(&Tensor) -> semlink_nn::Result<Tensor>| {
            let side_by_side = ops::images_last(x)?;
            let one = x.narrow(0, 0, 1)?;
            let times = [(&one, 1.0), (&side_by_side, 16.0)].map(|(x, images)| best(|| drop(black_box(f(x)))) / images);
            let [one, many] = times;
            let rate = |us: f64| 2e-3 * macs as f64 / us;
            let k = macs as f64 / 1e3;
            println!("{name:<30} {count:>2} {k:>8.0} {one:>7.2} {:>7.1} {many:>7.2} {:>7.1}", rate(one), rate(many));
            all += (count * macs) as f64;
            sums.iter_mut().zip(times).for_each(|(sum, us)| *sum += count as f64 * us);
            Ok::<_, semlink_nn::Error>(())
        };
    let noise = |shape: &[usize]| Tensor::rand(-1f32, 1.0, shape, &Device::Cpu);
    for (name, count, size, channels, kernel, outputs, stride, dilation) in CASES {
        let x = noise(&[16, size, size, channels])?;
        let (groups, outputs) = if outputs == 0 { (channels, channels) } else { (1, outputs) };
        let (w, b) = (noise(&[kernel, kernel, channels / groups, outputs])?, noise(&[outputs])?);
        let spec = Conv2dSpec { stride, padding: (kernel - 1) / 2 * dilation, dilation, groups };
        let macs = size.div_ceil(stride).pow(2) * kernel * kernel * channels / groups * outputs;
        row(name, count, macs, &x, &|x| ops::conv2d_bias_act(x, &w, Some(&b), Activation::Relu, spec))?;
    }
    let x = noise(&[16, 14, 14, 24])?;
    row("sum and ReLU, 24, 14", 6, 0, &x, &|x| ops::add_activate(x, x, Activation::Relu))?;
    row("nodes side by side, 24, 14", 3, 0, &x, &|x| Ok(Tensor::cat(&[x, x], 3)?))?;
    let x = noise(&[16, 14, 14, 48])?;
    let window = Pool2dSpec { kernel: 3, stride: 2, padding: 1 };
    row("mean of 3x3, 48, 14", 2, 0, &x, &|x| ops::avg_pool2d(x, window))?;
    println!("{:<30} {:>2} {:>8.0} {:>7.2} {:>7} {:>7.2}", "sum", "", all / 1e3, sums[0], "", sums[1]);
    Ok(())
}

/// Microseconds of the shortest run within a tenth of a second.
fn best(mut run: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), Duration::MAX);
    while start.elapsed() < Duration::from_millis(100) {
        let one = Instant::now();
        run();
        best = best.min(one.elapsed());
    }
    best.as_secs_f64() * 1e6
}
