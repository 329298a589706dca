//! From candle tensors to slices and back, and chunked parallel loops over slices.

use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{CpuStorage, DType, Device, Layout, Shape, Storage, StorageRef, Tensor};
use rayon::prelude::*;

use crate::runtime::shares_work;
use crate::{Error, Result};

/// Elements of one chunk of work: 64 KiB of f32, so that two or three operands stay in a core's second-level cache and the
/// cost of handing a chunk to a thread does not show. Fixed, so that the order of summation is the same on every machine.
pub(crate) const CHUNK: usize = 16 * 1024;

/// The tensor in row-major order in f32, on the CPU or, with the feature `cuda`, on a GPU, or an error naming the operator. Keeps the autograd history.
pub(crate) fn prepare(op: &'static str, t: &Tensor) -> Result<Tensor> {
    if t.dtype() != DType::F32 {
        return Err(Error::Dtype { op, got: t.dtype() });
    }
    if !(matches!(t.device(), Device::Cpu) || cfg!(feature = "cuda") && t.device().is_cuda()) {
        let device = format!("{:?}", t.device().location());
        return Err(Error::Device { op, device });
    }
    Ok(t.contiguous()?)
}

/// Leaves an operator with the result of its CUDA version where the tensor is on a GPU.
macro_rules! on_cuda {
    ($t:expr, $call:expr) => {
        #[cfg(feature = "cuda")]
        if $t.device().is_cuda() {
            return $call;
        }
    };
}
pub(crate) use on_cuda;

/// A shape error in words.
pub(crate) fn shape_error(op: &'static str, what: &'static str, expected: impl Into<String>, t: &Tensor) -> Error {
    Error::Shape { op, what, expected: expected.into(), got: t.dims().to_vec() }
}

/// Refuses a tensor whose shape is not exactly `expected`.
pub(crate) fn expect_shape(op: &'static str, what: &'static str, t: &Tensor, expected: &[usize]) -> Result<()> {
    if t.dims() == expected {
        return Ok(());
    }
    Err(shape_error(op, what, format!("{expected:?}"), t))
}

/// Rows and width of a tensor seen as a matrix whose columns are the last axis; an error for scalars and empty tensors.
pub(crate) fn rows_by_last(op: &'static str, what: &'static str, t: &Tensor) -> Result<(usize, usize)> {
    match t.dims().last() {
        Some(&width) if t.elem_count() > 0 => Ok((t.elem_count() / width, width)),
        _ => Err(shape_error(op, what, "at least one axis and one element", t)),
    }
}

/// The elements of an operator's argument, as candle passes it to a custom operator.
pub(crate) fn slice<'a>(op: &'static str, storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(candle_core::Error::RequiresContiguous { op }.bt());
    };
    match storage {
        CpuStorage::F32(data) => Ok(&data[start..end]),
        _ => Err(candle_core::Error::msg(format!("{op}: tensors must be f32"))),
    }
}

/// A read lock on a contiguous f32 CPU tensor's elements.
pub(crate) struct View<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> View<'a> {
    /// Locks `t` for reading.
    pub(crate) fn new(op: &'static str, t: &'a Tensor) -> candle_core::Result<Self> {
        let (storage, layout) = t.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(candle_core::Error::RequiresContiguous { op }.bt());
        };
        if !matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))) {
            return Err(candle_core::Error::msg(format!("{op}: tensors must be f32 on the CPU")));
        }
        Ok(Self { storage, range: start..end })
    }
}

impl std::ops::Deref for View<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => &data[self.range.clone()],
            _ => unreachable!("checked when the view was made"),
        }
    }
}

/// A CPU tensor that takes over `data`, without history.
pub(crate) fn tensor(data: Vec<f32>, shape: &[usize]) -> candle_core::Result<Tensor> {
    Tensor::from_vec(data, shape, &Device::Cpu)
}

/// What a custom operator's forward pass returns.
pub(crate) fn output(data: Vec<f32>, shape: impl Into<Shape>) -> candle_core::Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(data), shape.into()))
}

/// How many rows of `width` elements make up one chunk.
pub(crate) fn rows_per_chunk(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1)
}

/// A vector of `len` elements, filled by `fill(first_element, chunk)` in parallel chunks of `chunk` elements. Not zeroed first:
/// that would be one more pass over memory.
///
/// # Safety
/// `fill` must initialise every element of the slice that it is given.
pub(crate) unsafe fn build<F>(len: usize, chunk: usize, fill: F) -> Vec<f32>
where
    F: Fn(usize, &mut [MaybeUninit<f32>]) + Sync,
{
    let mut out = Vec::with_capacity(len);
    let spare = &mut out.spare_capacity_mut()[..len];
    if !shares_work() {
        // In the same pieces, which is what some kernels understand by a chunk.
        spare.chunks_mut(chunk).enumerate().for_each(|(i, part)| fill(i * chunk, part));
    } else if len <= chunk {
        fill(0, spare);
    } else {
        spare.par_chunks_mut(chunk).enumerate().for_each(|(i, part)| fill(i * chunk, part));
    }
    // SAFETY: the caller promises that `fill` initialises what it gets, and the chunks cover `len` elements.
    unsafe { out.set_len(len) };
    out
}

/// `f(row_range)` for every chunk of rows, in parallel; the results in the order of the rows.
pub(crate) fn map_chunks<T: Send>(rows: usize, chunk: usize, f: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
    let chunks = rows.div_ceil(chunk);
    let range = |i: usize| i * chunk..((i + 1) * chunk).min(rows);
    if chunks <= 1 || !shares_work() {
        return (0..chunks).map(|i| f(range(i))).collect();
    }
    (0..chunks).into_par_iter().map(|i| f(range(i))).collect()
}
