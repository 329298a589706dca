//! Updates of all variables by one launch: tables of addresses and lengths lie on the GPU.

use candle_core::Tensor;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr};

use super::{BLOCK, Gpu, launch};
use crate::Result;

const THREADS: (u32, u32, u32) = (BLOCK, 1, 1);
/// Elements of a block, as in `kernels/optim.cuh`.
const CHUNK: usize = 4096;

#[repr(C)]
#[derive(Clone, Copy)]
struct Chunk {
    tensor: u32,
    first: u32,
}

// SAFETY: the same fields in the same order as the kernels' struct.
unsafe impl DeviceRepr for Chunk {}

/// Many tensors seen as one vector, with `K` vectors of the same length beside them.
pub(crate) struct Many<const K: usize> {
    gpu: Gpu,
    shapes: Vec<Vec<usize>>,
    offsets: Vec<usize>,
    total: usize,
    chunks: CudaSlice<Chunk>,
    lengths: CudaSlice<u32>,
    offsets_there: CudaSlice<u32>,
    /// Whether a tensor is a matrix or more, which decays.
    decays: CudaSlice<u8>,
    slots: [Tensor; K],
}

impl<const K: usize> std::fmt::Debug for Many<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Many").field("tensors", &self.shapes.len()).field("total", &self.total).finish_non_exhaustive()
    }
}

impl<const K: usize> Many<K> {
    /// Tensors of these shapes on the device of `like`; zeros in the vectors beside them. `decays`: which weights decay.
    pub(crate) fn new(like: &Tensor, shapes: Vec<Vec<usize>>, decays: &[bool]) -> Result<Self> {
        let gpu = Gpu::of(like)?;
        let lengths: Vec<u32> = shapes.iter().map(|s| s.iter().product::<usize>() as u32).collect();
        let mut offsets = Vec::with_capacity(lengths.len());
        let mut chunks = Vec::new();
        let mut total = 0;
        for (tensor, len) in lengths.iter().enumerate() {
            offsets.push(total);
            let firsts = (0..*len).step_by(CHUNK);
            chunks.extend(firsts.map(|first| Chunk { tensor: tensor as u32, first }));
            // Each begins at a multiple of 16 bytes, so that views of it can be read four at a time.
            total += (*len as usize).next_multiple_of(4);
        }
        let there: Vec<u32> = offsets.iter().map(|o| *o as u32).collect();
        let decays: Vec<u8> = decays.iter().map(|d| u8::from(*d)).collect();
        let zeros =
            || Ok::<_, candle_core::Error>(gpu.tensor(gpu.stream.alloc_zeros::<f32>(total.max(1)).w()?, total.max(1)));
        let slots = (0..K).map(|_| zeros()).collect::<candle_core::Result<Vec<Tensor>>>()?;
        Ok(Self {
            chunks: gpu.upload(&chunks)?,
            lengths: gpu.upload(&lengths)?,
            offsets_there: gpu.upload(&there)?,
            decays: gpu.upload(&decays)?,
            slots: slots.try_into().unwrap_or_else(|_| unreachable!("K slots were made")),
            gpu,
            shapes,
            offsets,
            total: total.max(1),
        })
    }

    fn grid(&self) -> (u32, u32, u32) {
        (self.chunks.len().max(1) as u32, 1, 1)
    }

    /// Addresses of tensors, in order, on the GPU.
    fn table<'a>(&self, tensors: impl Iterator<Item = &'a Tensor>) -> candle_core::Result<CudaSlice<u64>> {
        let addresses = tensors.map(|t| self.gpu.f32(t)).collect::<candle_core::Result<Vec<u64>>>()?;
        self.gpu.upload(&addresses)
    }

    /// One of the vectors beside the tensors, in their shapes.
    pub(crate) fn slot(&self, slot: usize) -> Result<Vec<Tensor>> {
        let parts = self.shapes.iter().zip(&self.offsets);
        parts.map(|(shape, offset)| self.part(&self.slots[slot], *offset, shape)).collect()
    }

    fn part(&self, flat: &Tensor, offset: usize, shape: &[usize]) -> Result<Tensor> {
        let len = shape.iter().product();
        Ok(flat.narrow(0, offset, len)?.reshape(shape)?)
    }

    /// Replaces one of the vectors beside the tensors.
    pub(crate) fn set_slot(&mut self, slot: usize, values: &[Tensor]) -> Result<()> {
        let mut flat = vec![0.0f32; self.total];
        for (value, offset) in values.iter().zip(&self.offsets) {
            let value = value.flatten_all()?.to_vec1::<f32>()?;
            flat[*offset..offset + value.len()].copy_from_slice(&value);
        }
        self.slots[slot] = Tensor::from_vec(flat, self.total, self.slots[slot].device())?;
        Ok(())
    }

    /// slot 0 += share (values - slot 0)
    pub(crate) fn follow<'a>(&mut self, values: impl Iterator<Item = &'a Tensor>, share: f32) -> Result<()> {
        let gpu = &self.gpu;
        let values = self.table(values)?;
        let (chunks, lengths) = (gpu.address(&self.chunks), gpu.address(&self.lengths));
        let (values, offsets) = (gpu.address(&values), gpu.address(&self.offsets_there));
        launch!(
            gpu,
            "follow",
            self.grid(),
            THREADS,
            0,
            chunks,
            lengths,
            values,
            gpu.f32(&self.slots[0])?,
            offsets,
            share
        )?;
        Ok(())
    }

    /// Gradients one after another, scaled so that their norm is at most `most`.
    fn clipped(&self, grads: &[Tensor], most: f32) -> Result<Vec<Tensor>> {
        let gpu = &self.gpu;
        let table = self.table(grads.iter())?;
        let (chunks, lengths, table) = (gpu.address(&self.chunks), gpu.address(&self.lengths), gpu.address(&table));
        let (part, norm, flat) = (gpu.alloc(self.chunks.len())?, gpu.alloc(2)?, gpu.alloc(self.total)?);
        let (part, count) = (gpu.address(&part), self.chunks.len() as u32);
        launch!(gpu, "sum_of_squares", self.grid(), THREADS, 0, chunks, lengths, table, part)?;
        launch!(gpu, "norm_finish", (1, 1, 1), THREADS, 0, part, count, most, gpu.address(&norm))?;
        let (to, offsets, factor) = (gpu.address(&flat), gpu.address(&self.offsets_there), gpu.address(&norm) + 4);
        launch!(gpu, "gather_scaled", self.grid(), THREADS, 0, chunks, lengths, table, to, offsets, factor)?;
        let flat = gpu.tensor(flat, self.total);
        self.shapes.iter().zip(&self.offsets).map(|(shape, offset)| self.part(&flat, *offset, shape)).collect()
    }
}

/// What [`crate::grad::clip_norm`] does, without waiting for the GPU: the norm is not told.
pub(crate) fn clip_norm(grads: &[Tensor], most: f64) -> Result<Vec<Tensor>> {
    let shapes = grads.iter().map(|g| g.dims().to_vec()).collect();
    let many = Many::<0>::new(&grads[0], shapes, &vec![true; grads.len()])?;
    many.clipped(grads, most as f32)
}

/// The factors of a step of AdamW, see [`crate::optim::AdamW`].
pub(crate) struct AdamWFactors {
    pub(crate) keep: f32,
    pub(crate) new_mean: f32,
    pub(crate) beta2: f32,
    pub(crate) new_square: f32,
    pub(crate) step: f32,
    pub(crate) inv_root: f32,
    pub(crate) eps: f32,
}

impl Many<2> {
    pub(crate) fn adamw<'a>(
        &mut self,
        weights: impl Iterator<Item = &'a Tensor>,
        grads: impl Iterator<Item = &'a Tensor>,
        k: &AdamWFactors,
    ) -> Result<()> {
        let gpu = &self.gpu;
        let (weights, grads) = (self.table(weights)?, self.table(grads)?);
        launch!(
            gpu,
            "adamw",
            self.grid(),
            THREADS,
            0,
            gpu.address(&self.chunks),
            gpu.address(&self.lengths),
            gpu.address(&weights),
            gpu.address(&grads),
            gpu.f32(&self.slots[0])?,
            gpu.f32(&self.slots[1])?,
            gpu.address(&self.offsets_there),
            gpu.address(&self.decays),
            k.keep,
            k.new_mean,
            k.beta2,
            k.new_square,
            k.step,
            k.inv_root,
            k.eps,
        )?;
        Ok(())
    }
}

impl Many<1> {
    pub(crate) fn sgd<'a>(
        &mut self,
        weights: impl Iterator<Item = &'a Tensor>,
        grads: impl Iterator<Item = &'a Tensor>,
        [momentum, decay, lr]: [f32; 3],
        nesterov: bool,
    ) -> Result<()> {
        let gpu = &self.gpu;
        let (weights, grads) = (self.table(weights)?, self.table(grads)?);
        launch!(
            gpu,
            "sgd",
            self.grid(),
            THREADS,
            0,
            gpu.address(&self.chunks),
            gpu.address(&self.lengths),
            gpu.address(&weights),
            gpu.address(&grads),
            gpu.f32(&self.slots[0])?,
            gpu.address(&self.offsets_there),
            gpu.address(&self.decays),
            momentum,
            decay,
            lr,
            i32::from(nesterov),
        )?;
        Ok(())
    }
}
