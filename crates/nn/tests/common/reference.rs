//! The operators once more, in f64, written as their definitions read: no fusing, no blocking, no shortcuts.

use semlink_nn::Activation;
use semlink_nn::ops::{Conv2dSpec, Pool2dSpec};

/// By the Maclaurin series near zero and the continued fraction of erfc elsewhere; exact to rounding.
pub fn erf(x: f64) -> f64 {
    if x.abs() > 2.5 {
        let a = x.abs();
        let fraction = (1..=100).rev().fold(a, |f, k| a + f64::from(k) / 2.0 / f);
        let erfc = (-a * a).exp() / (std::f64::consts::PI.sqrt() * fraction);
        return x.signum() * (1.0 - erfc);
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-18 {
        n += 1.0;
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

pub fn act(a: Activation, z: f64) -> f64 {
    match a {
        Activation::Identity => z,
        Activation::Relu => z.max(0.0),
        Activation::Relu6 => z.clamp(0.0, 6.0),
        Activation::Gelu => 0.5 * z * (1.0 + erf(z / 2f64.sqrt())),
    }
}

/// x `[n, h, w, cin]`, w `[kh, kw, cin / groups, cout]`.
pub fn conv2d(x: &[f64], xs: [usize; 4], w: &[f64], ws: [usize; 4], spec: Conv2dSpec) -> Vec<f64> {
    let ([n, h, wid, cin], [kh, kw, cg, cout]) = (xs, ws);
    let Conv2dSpec { stride, padding, dilation, groups } = spec;
    let ho = (h + 2 * padding - dilation * (kh - 1) - 1) / stride + 1;
    let wo = (wid + 2 * padding - dilation * (kw - 1) - 1) / stride + 1;
    let mut y = Vec::new();
    for b in 0..n {
        for oy in 0..ho {
            for ox in 0..wo {
                for co in 0..cout {
                    let group = co / (cout / groups);
                    let mut sum = 0.0;
                    for ky in 0..kh {
                        for kx in 0..kw {
                            let iy = (oy * stride + ky * dilation) as isize - padding as isize;
                            let ix = (ox * stride + kx * dilation) as isize - padding as isize;
                            if iy < 0 || ix < 0 || iy >= h as isize || ix >= wid as isize {
                                continue;
                            }
                            for ci in 0..cg {
                                let at = ((b * h + iy as usize) * wid + ix as usize) * cin + group * cg + ci;
                                sum += x[at] * w[((ky * kw + kx) * cg + ci) * cout + co];
                            }
                        }
                    }
                    y.push(sum);
                }
            }
        }
    }
    y
}

/// Mean and biased variance of each column.
pub fn column_moments(x: &[f64], width: usize) -> (Vec<f64>, Vec<f64>) {
    let n = (x.len() / width) as f64;
    let column = |c: usize| x.iter().skip(c).step_by(width);
    let mean: Vec<f64> = (0..width).map(|c| column(c).sum::<f64>() / n).collect();
    let var = (0..width).map(|c| column(c).map(|v| (v - mean[c]).powi(2)).sum::<f64>() / n).collect();
    (mean, var)
}

pub fn normalise(
    x: &[f64],
    mean: &[f64],
    var: &[f64],
    gamma: &[f64],
    beta: &[f64],
    eps: f64,
    a: Activation,
) -> Vec<f64> {
    let width = mean.len();
    let z = |(i, v): (usize, &f64)| {
        let c = i % width;
        act(a, gamma[c] * (v - mean[c]) / (var[c] + eps).sqrt() + beta[c])
    };
    x.iter().enumerate().map(z).collect()
}

pub fn layer_norm(x: &[f64], width: usize, gamma: &[f64], beta: &[f64], eps: f64) -> Vec<f64> {
    x.chunks(width)
        .flat_map(|row| {
            let (mean, var) = column_moments(row, 1);
            let y = |(v, (g, b)): (&f64, (&f64, &f64))| g * (v - mean[0]) / (var[0] + eps).sqrt() + b;
            row.iter().zip(gamma.iter().zip(beta)).map(y).collect::<Vec<_>>()
        })
        .collect()
}

/// Calls `f(values inside the image)` for every window and channel.
pub fn pool(x: &[f64], xs: [usize; 4], spec: Pool2dSpec, f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let [n, h, w, c] = xs;
    let Pool2dSpec { kernel, stride, padding } = spec;
    let (ho, wo) = ((h + 2 * padding - kernel) / stride + 1, (w + 2 * padding - kernel) / stride + 1);
    let mut y = Vec::new();
    for b in 0..n {
        for oy in 0..ho {
            for ox in 0..wo {
                for ch in 0..c {
                    let mut seen = Vec::new();
                    for ky in 0..kernel {
                        for kx in 0..kernel {
                            let (iy, ix) = (oy * stride + ky, ox * stride + kx);
                            if iy >= padding && ix >= padding && iy - padding < h && ix - padding < w {
                                seen.push(x[((b * h + iy - padding) * w + ix - padding) * c + ch]);
                            }
                        }
                    }
                    y.push(f(&seen));
                }
            }
        }
    }
    y
}

/// x `[rows, inputs]`, w `[outputs, inputs]`.
pub fn linear(x: &[f64], w: &[f64], b: Option<&[f64]>, inputs: usize) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    x.chunks(inputs)
        .flat_map(|row| w.chunks(inputs).enumerate().map(move |(o, w)| dot(row, w) + b.map_or(0.0, |b| b[o])))
        .collect()
}

pub fn softmax(x: &[f64], width: usize) -> Vec<f64> {
    x.chunks(width)
        .flat_map(|row| {
            let sum: f64 = row.iter().map(|v| v.exp()).sum();
            row.iter().map(move |v| v.exp() / sum)
        })
        .collect()
}

/// qkv `[n, t, 3 d]`.
pub fn attention(qkv: &[f64], [n, t, d]: [usize; 3], heads: usize) -> Vec<f64> {
    let size = d / heads;
    let mut y = vec![0.0; n * t * d];
    for b in 0..n {
        for head in 0..heads {
            let at = |token: usize, part: usize, i: usize| qkv[(b * t + token) * 3 * d + part * d + head * size + i];
            for i in 0..t {
                let score = |j: usize| (0..size).map(|s| at(i, 0, s) * at(j, 1, s)).sum::<f64>() / (size as f64).sqrt();
                let p = softmax(&(0..t).map(score).collect::<Vec<_>>(), t);
                for s in 0..size {
                    y[(b * t + i) * d + head * size + s] = (0..t).map(|j| p[j] * at(j, 2, s)).sum();
                }
            }
        }
    }
    y
}

/// Mean over samples of w_i x cross-entropy.
pub fn cross_entropy(x: &[f64], targets: &[f64], weights: Option<&[f64]>, classes: usize) -> f64 {
    let n = x.len() / classes;
    let losses = x.chunks(classes).zip(targets.chunks(classes)).enumerate().map(|(i, (x, t))| {
        let log_sum = x.iter().map(|v| v.exp()).sum::<f64>().ln();
        let loss: f64 = x.iter().zip(t).map(|(x, t)| -t * (x - log_sum)).sum();
        loss * weights.map_or(1.0, |w| w[i])
    });
    losses.sum::<f64>() / n as f64
}
