//! Tensors side by side along the last axis, as the nodes of a cell are handed on.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, D, DType, Storage, Tensor, Var};

use super::raw::{self, View};
use crate::{Result, tape};

const OP: &str = "concat";

/// Tensors \[.., c1\], \[.., c2\], ... as one \[.., c1 + c2 + ...\].
///
/// # Errors
/// No tensor, or tensors that differ in more than the last axis.
pub fn concat(parts: &[&Tensor]) -> Result<Tensor> {
    let parts = parts.iter().map(|t| raw::prepare(OP, t)).collect::<Result<Vec<_>>>()?;
    let Some(first) = parts.first() else { return Ok(Tensor::cat(&parts, 0)?) };
    let (_, width) = raw::rows_by_last(OP, "first tensor", first)?;
    for part in &parts[1..] {
        let (_, own) = raw::rows_by_last(OP, "tensor", part)?;
        let mut expected = first.dims().to_vec();
        *expected.last_mut().unwrap_or(&mut 0) = own;
        raw::expect_shape(OP, "tensor", part, &expected)?;
    }
    let arguments: Vec<&Tensor> = parts.iter().collect();
    if !tape::records(&arguments) {
        return Ok(Tensor::cat(&parts, D::Minus1)?);
    }
    let widths: Vec<usize> = parts.iter().map(|t| t.elem_count() / (first.elem_count() / width)).collect();
    let mut shape = first.dims().to_vec();
    *shape.last_mut().unwrap_or(&mut 0) = widths.iter().sum();
    if first.device().is_cpu() {
        let joined = join(&parts, &widths)?;
        return Ok(tape::record(&arguments, Storage::Cpu(CpuStorage::F32(joined)), shape, move |_, result, grad| {
            split(grad, &widths, result.dims())
        }));
    }
    let joined = Var::zeros(shape, DType::F32, first.device())?;
    let mut at = 0;
    for (part, width) in parts.iter().zip(&widths) {
        joined.slice_set(&part.detach(), D::Minus1, at)?;
        at += width;
    }
    Ok(tape::record_variable(&arguments, joined, move |_, _, grad| {
        let mut at = 0;
        let part = |width: &usize| {
            at += width;
            grad.narrow(D::Minus1, at - width, *width)?.contiguous().map(Some)
        };
        widths.iter().map(part).collect()
    }))
}

fn join(parts: &[Tensor], widths: &[usize]) -> candle_core::Result<Vec<f32>> {
    let views = parts.iter().map(|t| View::new(OP, t)).collect::<candle_core::Result<Vec<_>>>()?;
    let slices: Vec<&[f32]> = views.iter().map(|view| &**view).collect();
    let width: usize = widths.iter().sum();
    let rows = slices[0].len() / widths[0];
    // SAFETY: the chunks are whole rows, and the parts of a row make up all of it.
    Ok(unsafe {
        raw::build(rows * width, raw::rows_per_chunk(width) * width, |start, out| {
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                let (row, mut rest) = (start / width + row, out);
                for (part, width) in slices.iter().zip(widths) {
                    let (to, more) = rest.split_at_mut(*width);
                    write(&part[row * width..(row + 1) * width], to);
                    rest = more;
                }
            }
        })
    })
}

fn split(joined: &Tensor, widths: &[usize], dims: &[usize]) -> candle_core::Result<Vec<Option<Tensor>>> {
    let view = View::new(OP, joined)?;
    let data: &[f32] = &view;
    let total: usize = widths.iter().sum();
    let rows = data.len() / total;
    let mut at = 0;
    let part = |&width: &usize| {
        let first = at;
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
        let mut dims = dims.to_vec();
        *dims.last_mut().unwrap_or(&mut 0) = width;
        raw::tensor(part, &dims).map(Some)
    };
    widths.iter().map(part).collect()
}

fn write(from: &[f32], to: &mut [MaybeUninit<f32>]) {
    for (to, from) in to.iter_mut().zip(from) {
        to.write(*from);
    }
}
