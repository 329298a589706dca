//! The fully connected layer: one matrix product forward, two backward.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};

use super::matrix::{Matrix, Target};
use super::raw::{self, View};
use crate::{Result, tape};

/// y = x w^T + b with `x` `[.., in]`, `w` `[out, in]`, `b` `[out]`; y is `[.., out]`. Gradients flow to all three.
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let (x, w) = (raw::prepare(NAME, x)?, raw::prepare(NAME, w)?);
    let (_, inputs) = raw::rows_by_last(NAME, "input", &x)?;
    let &[outputs, w_in] = w.dims() else {
        return Err(raw::shape_error(NAME, "weight", "[out, in]", &w));
    };
    if w_in != inputs {
        return Err(raw::shape_error(NAME, "weight", format!("[out, {inputs}]"), &w));
    }
    let b = b.map(|b| raw::prepare(NAME, b)).transpose()?;
    if let Some(b) = &b {
        raw::expect_shape(NAME, "bias", b, &[outputs])?;
    }
    raw::on_cuda!(x, crate::cuda::linear(&x, &w, b.as_ref()));
    let Some(b) = b else {
        return Ok(tape::apply2(&x, &w, Linear)?);
    };
    Ok(tape::apply3(&x, &w, &b, Linear)?)
}

/// [`linear`] without history and with the weight transposed, `[in, out]`: for few rows it is then read where it is. The same
/// bits as [`linear`].
pub(crate) fn linear_transposed(x: &Tensor, w_t: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let x = raw::prepare(NAME, x)?;
    let (rows, inputs) = raw::rows_by_last(NAME, "input", &x)?;
    let &[w_in, outputs] = w_t.dims() else {
        return Err(raw::shape_error(NAME, "transposed weight", "[in, out]", w_t));
    };
    if w_in != inputs {
        return Err(raw::shape_error(NAME, "input", format!("[.., {w_in}]"), &x));
    }
    raw::on_cuda!(x, crate::cuda::linear(&x, &w_t.t()?.contiguous()?, b));
    let b = b.map(|b| View::new(NAME, b)).transpose()?;
    let (xs, ws) = (View::new(NAME, &x)?, View::new(NAME, w_t)?);
    let y = product(Matrix::new(&xs, rows, inputs), Matrix::new(&ws, inputs, outputs), b.as_deref(), outputs);
    Ok(raw::tensor(y, &output_dims(x.dims(), outputs))?)
}

const NAME: &str = "linear";

struct Linear;

/// Sums over the rows of a row-major matrix.
pub(crate) fn column_sums(data: &[f32], width: usize) -> Vec<f32> {
    let parts = raw::map_chunks(data.len() / width, raw::rows_per_chunk(width), |r| {
        let mut sums = vec![0.0f32; width];
        for row in data[r.start * width..r.end * width].chunks_exact(width) {
            sums.iter_mut().zip(row).for_each(|(s, v)| *s += v);
        }
        sums
    });
    let mut total = vec![0.0f32; width];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(t, v)| *t += v);
    }
    total
}

/// x w + b.
fn product(x: Matrix<'_>, w: Matrix<'_>, b: Option<&[f32]>, outputs: usize) -> Vec<f32> {
    let mut y = vec![0.0; x.rows() * outputs];
    if let Some(b) = b {
        y.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(b));
    }
    let target = if b.is_some() { Target::add(&mut y, outputs) } else { Target::replace(&mut y, outputs) };
    x.times(w, 1.0, target, true);
    y
}

fn forward(x: &[f32], w: &[f32], b: Option<&[f32]>, inputs: usize) -> Vec<f32> {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    product(Matrix::new(x, rows, inputs), Matrix::new(w, outputs, inputs).transposed(), b, outputs)
}

/// Gradients of x and w; that of x only where something before it learns.
fn backward(x: &Tensor, w: &Tensor, grad: &[f32]) -> candle_core::Result<(Option<Tensor>, Tensor)> {
    let (xs, ws) = (View::new(NAME, x)?, View::new(NAME, w)?);
    let (outputs, inputs) = w.dims2()?;
    let rows = xs.len() / inputs;
    let grad = Matrix::new(grad, rows, outputs);
    let mut dw = vec![0.0; ws.len()];
    grad.transposed().times(Matrix::new(&xs, rows, inputs), 1.0, Target::replace(&mut dw, inputs), true);
    let dx = if x.track_op() {
        let mut dx = vec![0.0; xs.len()];
        grad.times(Matrix::new(&ws, outputs, inputs), 1.0, Target::replace(&mut dx, inputs), true);
        Some(raw::tensor(dx, x.dims())?)
    } else {
        None
    };
    Ok((dx, raw::tensor(dw, w.dims())?))
}

fn output_dims(x: &[usize], outputs: usize) -> Vec<usize> {
    let mut dims = x.to_vec();
    if let Some(last) = dims.last_mut() {
        *last = outputs;
    }
    dims
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        sx: &CpuStorage,
        lx: &Layout,
        sw: &CpuStorage,
        lw: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (outputs, inputs) = lw.shape().dims2()?;
        let y = forward(raw::slice(NAME, sx, lx)?, raw::slice(NAME, sw, lw)?, None, inputs);
        raw::output(y, output_dims(lx.dims(), outputs))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dx, dw) = backward(x, w, &View::new(NAME, &grad)?)?;
        Ok((dx, Some(dw)))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        sx: &CpuStorage,
        lx: &Layout,
        sw: &CpuStorage,
        lw: &Layout,
        sb: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (outputs, inputs) = lw.shape().dims2()?;
        let b = raw::slice(NAME, sb, lb)?;
        let y = forward(raw::slice(NAME, sx, lx)?, raw::slice(NAME, sw, lw)?, Some(b), inputs);
        raw::output(y, output_dims(lx.dims(), outputs))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let grad = View::new(NAME, &grad)?;
        let (dx, dw) = backward(x, w, &grad)?;
        let db = raw::tensor(column_sums(&grad, b.elem_count()), b.dims())?;
        Ok((dx, Some(dw), Some(db)))
    }
}
