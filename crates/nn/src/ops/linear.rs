//! The fully connected layer: one matrix product forward, two backward.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};
use gemm::Parallelism;

use super::raw::{self, View};
use crate::Result;

/// y = x w^T + b with `x` `[.., in]`, `w` `[out, in]`, `b` `[out]`; y is `[.., out]`. Gradients flow to all three.
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let (x, w) = (raw::prepare(NAME, x)?, raw::prepare(NAME, w)?);
    let (_, inputs) = raw::rows_by_last(NAME, "input", &x)?;
    let &[outputs, w_in] = w.dims() else {
        return Err(raw::shape_error(NAME, "weight", "[out, in]", &w));
    };
    if w_in != inputs {
        return Err(raw::shape_error(
            NAME,
            "weight",
            format!("[out, {inputs}]"),
            &w,
        ));
    }
    let Some(b) = b else {
        return Ok(x.apply_op2(&w, Linear)?);
    };
    let b = raw::prepare(NAME, b)?;
    raw::expect_shape(NAME, "bias", &b, &[outputs])?;
    Ok(x.apply_op3(&w, &b, Linear)?)
}

const NAME: &str = "linear";

struct Linear;

/// A row-major matrix, possibly read as its transpose.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: isize,
    column_stride: isize,
}

impl<'a> Matrix<'a> {
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "a matrix of {rows} x {columns}");
        Self {
            data,
            rows,
            columns,
            row_stride: columns as isize,
            column_stride: 1,
        }
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// self x other on top of `out`'s content if `add`, else in its place. `out` is row-major.
    pub(crate) fn times(self, other: Matrix<'_>, out: &mut [f32], add: bool) {
        assert_eq!(self.columns, other.rows, "inner sizes of a matrix product");
        assert_eq!(
            out.len(),
            self.rows * other.columns,
            "size of a matrix product"
        );
        // SAFETY: the strides describe matrices that lie within their slices, by the assertions here and in `new`.
        unsafe {
            gemm::gemm(
                self.rows,
                other.columns,
                self.columns,
                out.as_mut_ptr(),
                1,
                other.columns as isize,
                add,
                self.data.as_ptr(),
                self.column_stride,
                self.row_stride,
                other.data.as_ptr(),
                other.column_stride,
                other.row_stride,
                1.0,
                1.0,
                false,
                false,
                false,
                Parallelism::Rayon(0),
            );
        }
    }
}

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

fn forward(x: &[f32], w: &[f32], b: Option<&[f32]>, inputs: usize) -> Vec<f32> {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    let mut y = vec![0.0; rows * outputs];
    if let Some(b) = b {
        y.chunks_exact_mut(outputs)
            .for_each(|row| row.copy_from_slice(b));
    }
    Matrix::new(x, rows, inputs).times(
        Matrix::new(w, outputs, inputs).transposed(),
        &mut y,
        b.is_some(),
    );
    y
}

/// Gradients of x and w; that of x only where something before it learns.
fn backward(x: &Tensor, w: &Tensor, grad: &[f32]) -> candle_core::Result<(Option<Tensor>, Tensor)> {
    let (xs, ws) = (View::new(NAME, x)?, View::new(NAME, w)?);
    let (outputs, inputs) = w.dims2()?;
    let rows = xs.len() / inputs;
    let grad = Matrix::new(grad, rows, outputs);
    let mut dw = vec![0.0; ws.len()];
    grad.transposed()
        .times(Matrix::new(&xs, rows, inputs), &mut dw, false);
    let dx = if x.track_op() {
        let mut dx = vec![0.0; xs.len()];
        grad.times(Matrix::new(&ws, outputs, inputs), &mut dx, false);
        Some(raw::tensor(dx, x.dims())?)
    } else {
        None
    };
    Ok((dx, raw::tensor(dw, w.dims())?))
}

fn output_shape(x: &Layout, outputs: usize) -> Vec<usize> {
    let mut dims = x.dims().to_vec();
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
        let y = forward(
            raw::slice(NAME, sx, lx)?,
            raw::slice(NAME, sw, lw)?,
            None,
            inputs,
        );
        raw::output(y, output_shape(lx, outputs))
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
        let y = forward(
            raw::slice(NAME, sx, lx)?,
            raw::slice(NAME, sw, lw)?,
            Some(b),
            inputs,
        );
        raw::output(y, output_shape(lx, outputs))
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
