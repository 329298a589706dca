//! A baseline without code: the leading principal components of the features are sent as they are.

use candle_core::Tensor;
use nalgebra::{DMatrix, SymmetricEigen};
use semlink_codec::{Condition, Estimates};
use semlink_nn::{Buffer, Params};

use crate::Result;

/// Principal components of the training features. Component 2i and 2i + 1 are the i-th symbol; a frame that is longer than there are components
/// repeats them, a shorter one leaves the last ones out.
pub(crate) struct Uncoded {
    /// \[components, features\], rows orthonormal, those of largest variance first.
    basis: Buffer,
    /// \[1, features\].
    mean: Buffer,
    max_uses: usize,
}

impl Uncoded {
    pub(crate) fn new(params: &Params, features: usize, max_uses: usize) -> Result<Self> {
        Ok(Self {
            basis: params.buffer("basis", &[features, features], 0.0)?,
            mean: params.buffer("mean", &[1, features], 0.0)?,
            max_uses,
        })
    }

    /// Takes mean and principal components of `rows` \[n, features\].
    pub(crate) fn fit(&self, rows: &[f32], features: usize) -> Result<()> {
        let n = (rows.len() / features).max(1) as f64;
        let mut mean = vec![0f64; features];
        for row in rows.chunks_exact(features) {
            mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) / n);
        }
        let mut covariance = DMatrix::<f64>::zeros(features, features);
        for row in rows.chunks_exact(features) {
            let centred: Vec<f64> = row.iter().zip(&mean).map(|(x, m)| f64::from(*x) - m).collect();
            for (i, a) in centred.iter().enumerate() {
                for (j, b) in centred.iter().enumerate().take(i + 1) {
                    covariance[(i, j)] += a * b / n;
                }
            }
        }
        covariance.fill_upper_triangle_with_lower_triangle();
        let eigen = SymmetricEigen::new(covariance);
        let mut order: Vec<usize> = (0..features).collect();
        order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
        let basis =
            order.iter().flat_map(|i| eigen.eigenvectors.column(*i).iter().map(|x| *x as f32).collect::<Vec<_>>());
        self.basis.set(&Tensor::from_vec(
            basis.collect::<Vec<f32>>(),
            (features, features),
            self.basis.get().device(),
        )?)?;
        let mean: Vec<f32> = mean.iter().map(|m| *m as f32).collect();
        self.mean.set(&Tensor::from_vec(mean, (1, features), self.mean.get().device())?)?;
        Ok(())
    }

    /// Features \[n, features\] to frames \[n, 2 K\] of mean power 1.
    pub(crate) fn encode(&self, features: &Tensor, conditions: &[Condition]) -> Result<Tensor> {
        let components = features.broadcast_sub(&self.mean.get())?.matmul(&self.basis.get().t()?)?.to_vec2::<f32>()?;
        let mut frames = vec![0f32; conditions.len() * 2 * self.max_uses];
        for ((frame, row), condition) in frames.chunks_exact_mut(2 * self.max_uses).zip(&components).zip(conditions) {
            let sent = &mut frame[..2 * condition.uses];
            sent.iter_mut().zip(row.iter().cycle()).for_each(|(out, x)| *out = *x);
            let power = sent.iter().map(|x| x * x).sum::<f32>() / condition.uses as f32;
            let scale = 1.0 / power.sqrt().max(1e-9);
            sent.iter_mut().for_each(|x| *x *= scale);
        }
        Ok(Tensor::from_vec(frames, (conditions.len(), 2 * self.max_uses), features.device())?)
    }

    /// Estimates of frames to features but for their scale, which stays at the transmitter: repetitions averaged, missing components zero.
    pub(crate) fn decode(&self, received: &Estimates) -> Result<Tensor> {
        let (basis, symbols) = (self.basis.get(), received.symbols.to_vec2::<f32>()?);
        let len = basis.dim(0)?;
        let mut components = vec![0f32; symbols.len() * len];
        for ((out, frame), condition) in components.chunks_exact_mut(len).zip(&symbols).zip(&received.conditions) {
            let mut counts = vec![0f32; len];
            for (i, x) in frame[..2 * condition.uses].iter().enumerate() {
                out[i % len] += x;
                counts[i % len] += 1.0;
            }
            out.iter_mut().zip(&counts).for_each(|(sum, count)| *sum /= count.max(1.0));
        }
        Ok(Tensor::from_vec(components, (symbols.len(), len), basis.device())?.matmul(&basis)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn condition(uses: usize) -> Condition {
        Condition { snr_db: None, frame_snr_db: None, kind: None, uses }
    }

    #[test]
    fn components_come_back_in_the_order_of_their_variance() {
        // Variances 4, 1, 25, 0 along the axes, so components 2, 0, 1, 3.
        let scales = [2.0f32, 1.0, 5.0, 0.0];
        let signs = |i: usize| [(i & 1) as f32, (i >> 1 & 1) as f32, (i >> 2 & 1) as f32, 1.0].map(|b| 2.0 * b - 1.0);
        let rows: Vec<f32> = (0..8).flat_map(|i| std::iter::zip(signs(i), scales).map(|(s, v)| s * v)).collect();
        let uncoded = Uncoded::new(&Params::init(1, &Device::Cpu), 4, 4).unwrap();
        uncoded.fit(&rows, 4).unwrap();
        let features = Tensor::from_vec(rows.clone(), (8, 4), &Device::Cpu).unwrap();
        for (uses, kept) in [(1, [true, false, true, false]), (4, [true; 4])] {
            let conditions = vec![condition(uses); 8];
            let sent = uncoded.encode(&features, &conditions).unwrap();
            let reliability = Tensor::ones((8, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
            let back = uncoded.decode(&Estimates { symbols: sent, reliability, conditions }).unwrap();
            for (row, back) in rows.chunks(4).zip(back.to_vec2::<f32>().unwrap()) {
                // The scale of the frame: |row| over the components kept.
                let scale = back[2] / row[2];
                for i in 0..4 {
                    let expected = if kept[i] { scale * row[i] } else { 0.0 };
                    assert!((back[i] - expected).abs() < 1e-4, "k = {uses}, {back:?} of {row:?}");
                }
            }
        }
    }
}
