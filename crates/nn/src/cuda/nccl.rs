//! Sums over the GPUs of several processes (NVIDIA's NCCL), on the stream of everything else: nothing waits on the host.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::{Comm, Id, ReduceOp};
use candle_core::{Device, Storage, Tensor};

use super::Gpu;
use crate::{Error, Result};

const OP: &str = "nccl";

/// This process's place among others with a GPU each.
pub struct Communicator {
    gpu: Gpu,
    comm: Mutex<Comm>,
}

// SAFETY: a communicator may be used from any thread, by one at a time, which the mutex sees to; its stream may be shared.
unsafe impl Send for Communicator {}
// SAFETY: as above.
unsafe impl Sync for Communicator {}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator").finish_non_exhaustive()
    }
}

fn fail(what: &str, error: NcclError) -> Error {
    Error::Argument { op: OP, what: format!("{what}: {:?}; NCCL_DEBUG=INFO tells more", error.0) }
}

impl Communicator {
    /// Bytes of what names a group.
    pub const NAME: usize = 128;

    /// A name for a new group: one process asks for it and tells the others.
    ///
    /// # Errors
    /// NCCL finds no network interface.
    pub fn name() -> Result<[u8; Self::NAME]> {
        let id = Id::new().map_err(|e| fail("no name for a group", e))?;
        Ok(id.internal().map(|byte| byte as u8))
    }

    /// Joins the group `name` as number `rank` of `size`, and waits until all have.
    ///
    /// # Errors
    /// Not a GPU, one that another process of the group has, or GPUs that cannot reach each other.
    pub fn join(device: &Device, rank: usize, size: usize, name: [u8; Self::NAME]) -> Result<Self> {
        let Device::Cuda(cuda) = device else {
            return Err(Error::Argument { op: OP, what: "not a GPU".into() });
        };
        let gpu = Gpu::on(cuda)?;
        let id = Id::uninit(name.map(|byte| byte as core::ffi::c_char));
        let comm = Comm::from_rank(gpu.stream.clone(), rank, size, id);
        Ok(Self { gpu, comm: Mutex::new(comm.map_err(|e| fail("cannot join a group", e))?) })
    }

    /// The sum over the group of a vector, with the same bits for all.
    ///
    /// # Errors
    /// Not a contiguous f32 vector on this GPU, or NCCL has failed.
    pub fn sum(&self, values: &Tensor) -> Result<Tensor> {
        let (storage, layout) = values.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(candle_core::Error::RequiresContiguous { op: OP }.bt().into());
        };
        let Storage::Cuda(storage) = &*storage else {
            return Err(Error::Argument { op: OP, what: "a vector is not on the GPU".into() });
        };
        let from = storage.as_cuda_slice::<f32>()?.slice(start..end);
        let mut to = self.gpu.alloc(end - start)?;
        let comm = self.comm.lock().unwrap_or_else(PoisonError::into_inner);
        comm.all_reduce(&from, &mut to, &ReduceOp::Sum).map_err(|e| fail("cannot add up", e))?;
        Ok(self.gpu.tensor(to, values.dims()))
    }
}
