//! x sigmoid(x) of many numbers: on a CPU in f32 on all threads and several numbers at a time, elsewhere candle's.

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor, bail};
use rayon::prelude::*;

use crate::Result;

/// Numbers that a thread takes at a time.
const CHUNK: usize = 1 << 14;

/// x sigmoid(x). Overwrites `x`, which must be nobody else's.
pub(super) fn silu(x: Tensor) -> Result<Tensor> {
    if !super::transformer::is_f32(&x) || !x.device().is_cpu() {
        return Ok(x.silu()?);
    }
    let x = x.contiguous()?;
    x.inplace_op1(&Silu)?;
    Ok(x)
}

struct Silu;

impl InplaceOp1 for Silu {
    fn name(&self) -> &'static str {
        "silu"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(all), Some((from, to))) = (storage, layout.contiguous_offsets()) else {
            bail!("silu: expected contiguous f32")
        };
        all[from..to].par_chunks_mut(CHUNK).for_each(|chunk| chunk.iter_mut().for_each(|x| *x /= 1.0 + exp(-*x)));
        Ok(())
    }
}

/// e^x within 3e-7 of its value, for x within +-87; beyond, as at the border. Without a branch or a call, so that a loop of it becomes vectors: 2^n
/// times a Taylor polynomial of degree 6 on +-ln 2 / 2.
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 87.0);
    // Adding 1.5 x 2^23 rounds to a whole number, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, so that little is lost in the difference.
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0))))));
    p * f32::from_bits(((n as i32 + 127) << 23) as u32)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn it_is_the_function() {
        let values: Vec<f32> = (-40_000..40_000).map(|i| i as f32 * 0.002_3).collect();
        let found = silu(Tensor::from_slice(&values, values.len(), &Device::Cpu).unwrap()).unwrap();
        for (x, found) in values.iter().zip(found.to_vec1::<f32>().unwrap()) {
            let x = f64::from(*x);
            let expected = x / (1.0 + (-x).exp());
            // Below -87 it is 1e-36 and less.
            assert!((f64::from(found) - expected).abs() < 5e-7 * expected.abs() + 1e-35, "{x}: {found}, {expected}");
        }
    }
}
