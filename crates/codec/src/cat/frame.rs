//! Between tokens and frames of symbols.
//!
//! Symbol s of a frame is the (s / T)-th of token s mod T, so that every prefix of a frame takes from each of the T tokens the same
//! number of symbols, up to one. A batch of frames is \[n, 2 K\] with K the largest number of channel uses: real and imaginary
//! parts interleaved, zeros beyond each frame's own k.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::slices::{each_sample, on_host, output, read, slice, tensor};
use crate::{Error, Result};

/// Token outputs `z` \[n, T, 2 K/T\] to frames x \[n, 2 K\]: the first k = `uses[i]` symbols of frame i, scaled to mean power 1, then zeros.
///
/// x = z sqrt(k) / |z|, the norm over the k symbols sent, summed in f64. A frame of zeros stays zeros.
///
/// # Errors
/// Another shape; a k above K.
pub(super) fn to_frame(z: &Tensor, uses: &[usize]) -> Result<Tensor> {
    let (n, tokens, reals) = z.dims3()?;
    check_uses(n, tokens * reals / 2, uses)?;
    let frames = on_host(z)?.apply_op1(ToFrame { tokens, reals, uses: uses.to_vec() })?;
    Ok(frames.to_device(z.device())?)
}

/// Estimated symbols \[n, 2 K\] and their `reliability` \[n, K\] (0 to 1, a constant) to token inputs \[n, T, 3 K/T\]: real part, imaginary
/// part and reliability of each of the token's symbols; zeros beyond each frame's k, whatever stands there.
///
/// # Errors
/// Another shape; a k above K.
pub(super) fn to_tokens(symbols: &Tensor, reliability: &Tensor, tokens: usize, uses: &[usize]) -> Result<Tensor> {
    let (n, reals) = symbols.dims2()?;
    check_uses(n, reals / 2, uses)?;
    let got = reliability.elem_count();
    if got * 2 != n * reals {
        return Err(Error::Size { what: "reliabilities", expected: n * reals / 2, got });
    }
    let reliability = read(ToTokens::NAME, &on_host(reliability)?, |r| Ok(r.to_vec()))?;
    let inputs =
        on_host(symbols)?.apply_op1(ToTokens { tokens, symbols: reals / 2, reliability, uses: uses.to_vec() })?;
    Ok(inputs.to_device(symbols.device())?)
}

fn check_uses(n: usize, most: usize, uses: &[usize]) -> Result<()> {
    if uses.len() != n {
        return Err(Error::Size { what: "channel uses", expected: n, got: uses.len() });
    }
    match uses.iter().find(|k| **k > most) {
        Some(&got) => Err(Error::Size { what: "channel uses of a frame", expected: most, got }),
        None => Ok(()),
    }
}

struct ToFrame {
    tokens: usize,
    /// Per token.
    reals: usize,
    uses: Vec<usize>,
}

struct ToTokens {
    tokens: usize,
    /// Per frame.
    symbols: usize,
    reliability: Vec<f32>,
    uses: Vec<usize>,
}

impl ToFrame {
    const NAME: &'static str = "to_frame";

    /// Where the real part of symbol `s` stands among a sample's token outputs.
    fn position(&self, s: usize) -> usize {
        s % self.tokens * self.reals + s / self.tokens * 2
    }

    /// sqrt(k) / |z| for the first `k` symbols of `z`.
    fn scale(&self, z: &[f32], k: usize) -> f64 {
        let square = |v: f32| f64::from(v) * f64::from(v);
        let energy: f64 = (0..k).map(|s| self.position(s)).map(|p| square(z[p]) + square(z[p + 1])).sum();
        if energy == 0.0 { 0.0 } else { (k as f64 / energy).sqrt() }
    }
}

impl CustomOp1 for ToFrame {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let z = slice(Self::NAME, s, l)?;
        let len = self.tokens * self.reals;
        let mut x = vec![0.0; z.len()];
        each_sample(&mut x, len, |i, x| {
            let (z, k) = (&z[i * len..(i + 1) * len], self.uses[i]);
            let scale = self.scale(z, k);
            for (s, x) in x.chunks_exact_mut(2).take(k).enumerate() {
                let p = self.position(s);
                x[0] = (f64::from(z[p]) * scale) as f32;
                x[1] = (f64::from(z[p + 1]) * scale) as f32;
            }
        });
        output(x, (self.uses.len(), len))
    }

    /// With a = sqrt(k) / |z| and x = a z: dz = a (g - x (x . g) / k).
    fn bwd(&self, z: &Tensor, x: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let len = self.tokens * self.reals;
        let grad = grad.contiguous()?;
        let mut dz = vec![0.0; z.elem_count()];
        read(Self::NAME, z, |z| {
            read(Self::NAME, x, |x| {
                read(Self::NAME, &grad, |g| {
                    each_sample(&mut dz, len, |i, dz| {
                        let k = self.uses[i];
                        let (z, sent) = (&z[i * len..(i + 1) * len], i * len..i * len + 2 * k);
                        let (x, g) = (&x[sent.clone()], &g[sent]);
                        let scale = self.scale(z, k) as f32;
                        let dot: f32 = x.iter().zip(g).map(|(x, g)| x * g).sum();
                        let along = dot / k.max(1) as f32;
                        for (s, (x, g)) in x.chunks_exact(2).zip(g.chunks_exact(2)).enumerate() {
                            let p = self.position(s);
                            dz[p] = scale * (g[0] - x[0] * along);
                            dz[p + 1] = scale * (g[1] - x[1] * along);
                        }
                    });
                    Ok(())
                })
            })
        })?;
        tensor(dz, z.dims()).map(Some)
    }
}

impl ToTokens {
    const NAME: &'static str = "to_tokens";

    /// Where symbol `s` stands among a sample's token inputs.
    fn position(&self, s: usize) -> usize {
        (s % self.tokens * (self.symbols / self.tokens) + s / self.tokens) * 3
    }
}

impl CustomOp1 for ToTokens {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = slice(Self::NAME, s, l)?;
        let (n, len) = (self.uses.len(), 3 * self.symbols);
        let mut y = vec![0.0; n * len];
        each_sample(&mut y, len, |i, y| {
            let from = i * self.symbols;
            for s in 0..self.uses[i] {
                let p = self.position(s);
                y[p] = x[2 * (from + s)];
                y[p + 1] = x[2 * (from + s) + 1];
                y[p + 2] = self.reliability[from + s];
            }
        });
        output(y, (n, self.tokens, len / self.tokens))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let mut dx = vec![0.0; x.elem_count()];
        read(Self::NAME, &grad, |g| {
            each_sample(&mut dx, 2 * self.symbols, |i, dx| {
                let g = &g[i * 3 * self.symbols..(i + 1) * 3 * self.symbols];
                for (s, dx) in dx.chunks_exact_mut(2).take(self.uses[i]).enumerate() {
                    let p = self.position(s);
                    dx.copy_from_slice(&g[p..p + 2]);
                }
            });
            Ok(())
        })?;
        tensor(dx, x.dims()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// Values in (-1, 1) without pattern.
    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| (((i + seed) * 7919 % 1009) as f32 / 504.5 - 1.0) * 0.9 + 0.01).collect()
    }

    fn rows(t: &Tensor) -> Vec<Vec<f32>> {
        t.to_vec2().unwrap()
    }

    /// Two samples of 4 tokens with 3 symbols each.
    fn outputs(seed: usize) -> Tensor {
        Tensor::from_vec(values(48, seed), (2, 4, 6), &Device::Cpu).unwrap()
    }

    #[test]
    fn every_k_has_power_1_and_zeros_behind() {
        for k in 1..=12 {
            for frame in rows(&to_frame(&outputs(k), &[k, 13 - k]).unwrap()).iter().zip([k, 13 - k]) {
                let (frame, k) = frame;
                let power: f64 = frame.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / k as f64;
                assert!((power - 1.0).abs() < 1e-6, "k = {k}: {power}");
                assert!(frame[2 * k..].iter().all(|v| *v == 0.0));
            }
        }
    }

    #[test]
    fn a_shorter_frame_is_a_prefix_but_for_its_power() {
        let (z, long) = (outputs(3), rows(&to_frame(&outputs(3), &[12, 12]).unwrap()));
        for k in 1..12 {
            for (short, long) in rows(&to_frame(&z, &[k, k]).unwrap()).iter().zip(&long) {
                let ratio = short[0] / long[0];
                for (a, b) in short.iter().zip(&long[..2 * k]) {
                    assert!((a - ratio * b).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn symbols_are_dealt_out_over_the_tokens() {
        // Token t's i-th symbol is 10 t + i, real and imaginary alike: symbol 4 i + t of the frame, but for a common factor.
        let z = (0..4).flat_map(|t| (0..3).flat_map(move |i| [(10 * t + i) as f32; 2])).collect();
        let z = Tensor::from_vec::<_, f32>(z, (1, 4, 6), &Device::Cpu).unwrap();
        let frame = &rows(&to_frame(&z, &[12]).unwrap())[0];
        let factor = frame[2] / 10.0;
        for (s, symbol) in frame.chunks(2).enumerate() {
            let expected = factor * (10 * (s % 4) + s / 4) as f32;
            assert!((symbol[0] - expected).abs() < 1e-5 && symbol[0] == symbol[1], "symbol {s}");
        }
    }

    #[test]
    fn tokens_get_back_what_they_sent() {
        let (z, reliability) = (outputs(5), Tensor::full(0.5f32, (2, 12), &Device::Cpu).unwrap());
        let frame = to_frame(&z, &[12, 12]).unwrap();
        let back = to_tokens(&frame, &reliability, 4, &[12, 12]).unwrap();
        assert_eq!(back.dims(), [2, 4, 9]);
        let (z, back) = (z.to_vec3::<f32>().unwrap(), back.to_vec3::<f32>().unwrap());
        for (z, back) in z.iter().zip(&back) {
            let factor = back[0][0] / z[0][0];
            for (z, back) in z.concat().chunks(2).zip(back.concat().chunks(3)) {
                assert!((back[0] - factor * z[0]).abs() < 1e-5 && (back[1] - factor * z[1]).abs() < 1e-5);
                assert_eq!(back[2], 0.5);
            }
        }
    }

    #[test]
    fn what_stands_beyond_k_is_not_read() {
        let uses = [5, 12];
        let token_inputs = |symbols: &[f32], reliability: &[f32]| {
            let symbols = Tensor::from_slice(symbols, (2, 24), &Device::Cpu).unwrap();
            let reliability = Tensor::from_slice(reliability, (2, 12), &Device::Cpu).unwrap();
            to_tokens(&symbols, &reliability, 4, &uses).unwrap().to_vec3::<f32>().unwrap()
        };
        let (mut symbols, mut reliability) = (values(48, 1), values(24, 2));
        let clean = token_inputs(&symbols, &reliability);
        symbols[10..24].fill(f32::NAN);
        reliability[5..12].fill(f32::NAN);
        assert_eq!(token_inputs(&symbols, &reliability), clean);
        let not_zero = clean[0].concat().iter().filter(|v| **v != 0.0).count();
        assert_eq!(not_zero, 3 * 5);
    }

    /// sum of w x over the frames of [`to_frame`], in f64 and written down anew from the definition.
    fn reference(z: &[f64], w: &[f32], uses: &[usize]) -> f64 {
        let mut loss = 0.0;
        for (i, &k) in uses.iter().enumerate() {
            let at = |s: usize, part: usize| z[i * 24 + (s % 4) * 6 + (s / 4) * 2 + part];
            let energy: f64 = (0..k).flat_map(|s| [at(s, 0).powi(2), at(s, 1).powi(2)]).sum();
            let factor = (k as f64 / energy).sqrt();
            for s in 0..k {
                loss +=
                    factor * (at(s, 0) * f64::from(w[i * 24 + 2 * s]) + at(s, 1) * f64::from(w[i * 24 + 2 * s + 1]));
            }
        }
        loss
    }

    #[test]
    fn the_gradient_of_the_normalisation_is_that_of_finite_differences() {
        let (uses, w) = ([7, 12], values(48, 9));
        let z = Var::from_tensor(&outputs(4)).unwrap();
        let weights = Tensor::from_slice(&w, (2, 24), &Device::Cpu).unwrap();
        let loss = (to_frame(z.as_tensor(), &uses).unwrap() * weights).unwrap().sum_all().unwrap();
        let grad =
            loss.backward().unwrap().get(z.as_tensor()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let at: Vec<f64> = values(48, 4).into_iter().map(f64::from).collect();
        assert!((f64::from(loss.to_scalar::<f32>().unwrap()) - reference(&at, &w, &uses)).abs() < 1e-5);
        for (i, grad) in grad.iter().enumerate() {
            let moved = |by: f64| {
                let mut at = at.clone();
                at[i] += by;
                reference(&at, &w, &uses)
            };
            let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((f64::from(*grad) - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{i}: {grad}, not {expected}");
        }
    }

    #[test]
    fn the_gradient_of_token_inputs_goes_back_to_the_symbols_sent() {
        let uses = [5, 12];
        let x = Var::from_vec(values(48, 6), (2, 24), &Device::Cpu).unwrap();
        let reliability = Tensor::from_vec(values(24, 7), (2, 12), &Device::Cpu).unwrap();
        // Linear in x with coefficient 1 or 0: the gradient of a weighted sum is that of the weights, dealt back.
        let weights = Tensor::from_vec(values(72, 8), (2, 4, 9), &Device::Cpu).unwrap();
        let loss = |x: &Tensor| (to_tokens(x, &reliability, 4, &uses).unwrap() * &weights).unwrap().sum_all().unwrap();
        let grad = loss(x.as_tensor()).backward().unwrap().get(x.as_tensor()).unwrap().clone();
        let base = loss(&x.zeros_like().unwrap()).to_scalar::<f32>().unwrap();
        for (i, grad) in rows(&grad).concat().iter().enumerate() {
            let mut unit = vec![0.0f32; 48];
            unit[i] = 1.0;
            let moved = loss(&Tensor::from_vec(unit, (2, 24), &Device::Cpu).unwrap()).to_scalar::<f32>().unwrap();
            assert!((moved - base - grad).abs() < 1e-5, "{i}");
        }
    }

    #[test]
    fn wrong_counts_are_refused() {
        assert!(to_frame(&outputs(1), &[12]).is_err());
        assert!(to_frame(&outputs(1), &[12, 13]).is_err());
        let symbols = Tensor::zeros((2, 24), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(
            to_tokens(&symbols, &Tensor::zeros((2, 11), candle_core::DType::F32, &Device::Cpu).unwrap(), 4, &[1, 1])
                .is_err()
        );
    }
}
