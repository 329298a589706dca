//! Attention, composed of products by cuBLAS and the softmax of [`super::norm`]; its gradient is candle's own.

use candle_core::Tensor;

use super::norm::softmax;
use crate::Result;

/// qkv \[n, t, 3 d\] to \[n, t, d\].
pub(crate) fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (n, t, d3) = qkv.dims3()?;
    let (d, size) = (d3 / 3, d3 / 3 / heads);
    // [3, n, heads, t, size]
    let split = qkv.reshape((n, t, 3, heads, size))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
    let part = |i: usize| split.get(i);
    let scores = part(0)?.matmul(&part(1)?.t()?)?.affine(1.0 / (size as f64).sqrt(), 0.0)?;
    let mixed = softmax(&scores, t)?.matmul(&part(2)?)?;
    Ok(mixed.transpose(1, 2)?.reshape((n, t, d))?)
}
