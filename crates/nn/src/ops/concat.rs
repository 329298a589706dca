//! Tensors side by side, as the nodes of a cell are handed on.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, DType, Storage, Tensor, Var};

use super::raw::{self, View};
use crate::{Error, Result, tape};

const OP: &str = "concat";

/// Tensors side by side along `axis`, the channels.
///
/// # Errors
/// No tensor, an empty one, no such axis, or tensors that differ in another one.
pub fn concat(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
    let parts = parts.iter().map(|t| raw::prepare(OP, t)).collect::<Result<Vec<_>>>()?;
    let [first, rest @ ..] = parts.as_slice() else {
        return Err(Error::Argument { op: OP, what: "there is nothing to concatenate".into() });
    };
    let Some(rows) = (axis < first.rank()).then(|| first.dims()[..axis].iter().product::<usize>()) else {
        return Err(raw::shape_error(OP, "first tensor", format!("an axis {axis}"), first));
    };
    for part in rest {
        let mut expected = first.dims().to_vec();
        expected[axis] = part.dims().get(axis).copied().unwrap_or(0);
        raw::expect_shape(OP, "tensor", part, &expected)?;
    }
    if let Some(empty) = parts.iter().find(|t| t.elem_count() == 0) {
        return Err(raw::shape_error(OP, "tensor", "at least one element", empty));
    }
    let arguments: Vec<&Tensor> = parts.iter().collect();
    if !tape::records(&arguments) {
        return Ok(Tensor::cat(&parts, axis)?);
    }
    let mut shape = first.dims().to_vec();
    shape[axis] = parts.iter().map(|t| t.dims()[axis]).sum();
    let shapes: Vec<Vec<usize>> = parts.iter().map(|t| t.dims().to_vec()).collect();
    if first.device().is_cpu() {
        let joined = Storage::Cpu(CpuStorage::F32(join(rows, &parts)?));
        return Ok(tape::record(&arguments, joined, shape, move |_, _, grad| split(rows, grad, &shapes)));
    }
    let joined = Var::zeros(shape, DType::F32, first.device())?;
    let mut at = 0;
    for part in &parts {
        joined.slice_set(&part.detach(), axis, at)?;
        at += part.dims()[axis];
    }
    Ok(tape::record_variable(&arguments, joined, move |_, _, grad| {
        let mut at = 0;
        let part = |shape: &Vec<usize>| {
            at += shape[axis];
            grad.narrow(axis, at - shape[axis], shape[axis])?.contiguous().map(Some)
        };
        shapes.iter().map(part).collect()
    }))
}

/// Each tensor as a matrix of `rows` rows, side by side.
fn join(rows: usize, parts: &[Tensor]) -> candle_core::Result<Vec<f32>> {
    let views = parts.iter().map(|t| View::new(OP, t)).collect::<candle_core::Result<Vec<_>>>()?;
    let parts: Vec<(&[f32], usize)> = views.iter().map(|view| (&**view, view.len() / rows)).collect();
    let total: usize = parts.iter().map(|(_, width)| width).sum();
    // SAFETY: the chunks are whole rows, and the parts of a row make up all of it.
    Ok(unsafe {
        raw::build(rows * total, raw::rows_per_chunk(total) * total, |start, out| {
            for (row, out) in out.chunks_exact_mut(total).enumerate() {
                let (row, mut rest) = (start / total + row, out);
                for (part, width) in &parts {
                    let (to, more) = rest.split_at_mut(*width);
                    write(&part[row * width..(row + 1) * width], to);
                    rest = more;
                }
            }
        })
    })
}

/// The opposite of [`join`], into tensors of the given shapes.
fn split(rows: usize, joined: &Tensor, shapes: &[Vec<usize>]) -> candle_core::Result<Vec<Option<Tensor>>> {
    let view = View::new(OP, joined)?;
    let data: &[f32] = &view;
    let total = data.len() / rows;
    let mut at = 0;
    let part = |shape: &Vec<usize>| {
        let (first, width) = (at, shape.iter().product::<usize>() / rows);
        at += width;
        // SAFETY: the chunks are whole rows, each written in full.
        let part = unsafe {
            raw::build(rows * width, raw::rows_per_chunk(width) * width, |start, out| {
                for (row, out) in out.chunks_exact_mut(width).enumerate() {
                    let from = (start / width + row) * total + first;
                    write(&data[from..from + width], out);
                }
            })
        };
        raw::tensor(part, shape).map(Some)
    };
    shapes.iter().map(part).collect()
}

fn write(from: &[f32], to: &mut [MaybeUninit<f32>]) {
    for (to, from) in to.iter_mut().zip(from) {
        to.write(*from);
    }
}
