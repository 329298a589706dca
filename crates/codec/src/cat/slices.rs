//! Between candle tensors and slices, and loops over the samples of a batch.

use candle_core::{CpuStorage, Device, Layout, Shape, Storage, Tensor};
use rayon::prelude::*;
use semlink_nn::runtime::shares_work;

/// Values below which a loop is not worth a second thread, and values of one piece of work above it.
const PIECE: usize = 16 * 1024;

/// The elements of an operator's argument.
pub(super) fn slice<'a>(op: &'static str, storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(candle_core::Error::RequiresContiguous { op }.bt());
    };
    match storage {
        CpuStorage::F32(data) => Ok(&data[start..end]),
        _ => Err(candle_core::Error::msg(format!("{op}: tensors must be f32"))),
    }
}

/// Runs `f` on the elements of a contiguous f32 tensor on the CPU.
pub(super) fn read<R>(
    op: &'static str,
    t: &Tensor,
    f: impl FnOnce(&[f32]) -> candle_core::Result<R>,
) -> candle_core::Result<R> {
    let (storage, layout) = t.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(slice(op, storage, layout)?),
        _ => Err(candle_core::Error::msg(format!("{op}: tensors must be on the CPU"))),
    }
}

/// The tensor on the CPU and contiguous; gradients find their way back. What simulates frames symbol by symbol works there, wherever the
/// networks are.
pub(super) fn on_host(t: &Tensor) -> candle_core::Result<Tensor> {
    t.to_device(&Device::Cpu)?.contiguous()
}

/// A CPU tensor that takes over `data`, without history.
pub(super) fn tensor(data: Vec<f32>, shape: impl Into<Shape>) -> candle_core::Result<Tensor> {
    Tensor::from_vec(data, shape, &Device::Cpu)
}

/// What a custom operator's forward pass returns.
pub(super) fn output(data: Vec<f32>, shape: impl Into<Shape>) -> candle_core::Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(data), shape.into()))
}

/// Calls `f(sample, its part of out)` for every `len` values of `out`.
pub(super) fn each_sample(out: &mut [f32], len: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() <= PIECE || !shares_work() {
        out.chunks_exact_mut(len).enumerate().for_each(|(i, part)| f(i, part));
    } else {
        let samples = out.par_chunks_exact_mut(len).enumerate();
        samples.with_min_len(PIECE.div_ceil(len)).for_each(|(i, part)| f(i, part));
    }
}
