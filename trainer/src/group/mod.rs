//! Data parallel training: one process for each GPU (or share of the CPUs), which average their gradients after every step.
//!
//! A [`Group`] is what the processes do together. Process 0 leads: it writes all files, shows progress, judges epochs, and runs alone the stages
//! that train nothing or search; the others wait for it. See docs/GPU.md.

mod launch;
#[cfg(feature = "nccl")]
mod nccl;
mod tcp;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use semlink_nn::{Params, checkpoint};

pub use launch::Locals;
#[cfg(feature = "nccl")]
pub use nccl::Nccl;
pub use tcp::{Patience, Rendezvous, Tcp};

use crate::{Error, Result};

/// Processes that train one network together.
///
/// All of them make the same calls in the same order; a call returns when all have made it.
pub trait Group: Debug + Send + Sync {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// The sum over all processes of a vector of f32, added up in one order: every process gets the same bits.
    ///
    /// # Errors
    /// Another process is lost or has failed, or its vector has another length.
    fn all_reduce_sum(&self, values: &Tensor) -> Result<Tensor>;

    /// What process 0 passes; what the others pass does not matter.
    ///
    /// # Errors
    /// Another process is lost or has failed.
    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>>;

    /// Waits for all processes.
    ///
    /// # Errors
    /// Another process is lost or has failed.
    fn barrier(&self) -> Result<()>;

    /// Tells the others why this process gives up. They get [`Error::PeerFailed`] from their next call.
    fn abandon(&self, error: &Error);

    /// Whether this is the process that writes files and shows progress.
    fn leads(&self) -> bool {
        self.rank() == 0
    }

    /// The mean over all processes of a vector of f32, each counting with its `share`; the shares add up to 1.
    ///
    /// # Errors
    /// As [`Group::all_reduce_sum`].
    fn all_reduce_mean(&self, values: &Tensor, share: f64) -> Result<Tensor> {
        self.all_reduce_sum(&values.affine(share, 0.0)?)
    }
}

/// A process on its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Group for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce_sum(&self, values: &Tensor) -> Result<Tensor> {
        Ok(values.clone())
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        Ok(bytes)
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }

    fn abandon(&self, _: &Error) {}
}

/// Which samples of a batch are this process's: all shares are equal, or differ by one sample.
pub(crate) fn share(group: &dyn Group, batch: usize) -> Range<usize> {
    share_of(group.rank(), group.size(), batch)
}

fn share_of(rank: usize, size: usize, batch: usize) -> Range<usize> {
    batch * rank / size..batch * (rank + 1) / size
}

/// Elements that a tensor within a longer vector begins at a multiple of: GPU kernels read four floats at a time.
const ALIGNED: usize = 4;

/// Averages gradients, running statistics and the loss of this process's `share` of a batch with those of the others, in one exchange.
///
/// Running statistics do not influence the steps (a network in training normalises with its own batch), so it is the same whether they are
/// averaged now or when they are saved; now, all processes have the same state at any time.
pub(crate) fn average(
    group: &dyn Group,
    params: &Params,
    grads: &mut GradStore,
    loss: Tensor,
    share: f64,
) -> Result<Tensor> {
    if group.size() == 1 {
        return Ok(loss);
    }
    let (vars, buffers) = (params.vars(), params.buffers());
    let missing = vars.iter().filter(|(_, var)| grads.get(var).is_none());
    let names: Vec<String> = missing.map(|(name, _)| name.clone()).collect();
    if !names.is_empty() {
        return Err(semlink_nn::Error::MissingGradient { names }.into());
    }
    let mut parts = vec![loss.clone()];
    parts.extend(vars.iter().filter_map(|(_, var)| grads.get(var).cloned()));
    parts.extend(buffers.iter().map(|(_, buffer)| buffer.get()));
    let mut sums = unpack(&group.all_reduce_mean(&pack(&parts)?, share)?, &parts)?.into_iter();
    let loss = sums.next().unwrap_or(loss);
    for ((_, var), sum) in vars.iter().zip(&mut sums) {
        grads.insert(var, sum);
    }
    for ((_, buffer), sum) in buffers.iter().zip(sums) {
        // A copy: a view would keep the whole vector alive.
        buffer.set(&sum.copy()?)?;
    }
    Ok(loss)
}

/// Tensors one after another.
fn pack(parts: &[Tensor]) -> Result<Tensor> {
    let mut flat = Vec::with_capacity(2 * parts.len());
    for part in parts {
        flat.push(part.flatten_all()?.contiguous()?.detach());
        let rest = part.elem_count().next_multiple_of(ALIGNED) - part.elem_count();
        if rest > 0 {
            flat.push(Tensor::zeros(rest, DType::F32, part.device())?);
        }
    }
    Ok(Tensor::cat(&flat, 0)?)
}

/// What [`pack`] made, in the shapes of `like`.
fn unpack(flat: &Tensor, like: &[Tensor]) -> Result<Vec<Tensor>> {
    let mut start = 0;
    let take = |part: &Tensor| {
        let taken = flat.narrow(0, start, part.elem_count())?.reshape(part.dims())?;
        start += part.elem_count().next_multiple_of(ALIGNED);
        Ok(taken)
    };
    like.iter().map(take).collect()
}

/// Named tensors of process 0, on the device of this process.
pub(crate) fn broadcast_tensors(
    group: &dyn Group,
    tensors: BTreeMap<String, Tensor>,
    device: &candle_core::Device,
) -> Result<BTreeMap<String, Tensor>> {
    if group.size() == 1 {
        return Ok(tensors);
    }
    let bytes = if group.leads() { checkpoint::to_bytes(&tensors, &BTreeMap::new())? } else { Vec::new() };
    let bytes = group.broadcast(bytes)?;
    if group.leads() { Ok(tensors) } else { Ok(checkpoint::from_bytes(&bytes, device)?.tensors) }
}

/// Gives all processes the parameters of process 0. They are drawn alike anyway; CPUs of different makes may round differently.
pub(crate) fn broadcast_params(group: &dyn Group, params: &Params) -> Result<()> {
    if group.size() == 1 {
        return Ok(());
    }
    let tensors = broadcast_tensors(group, params.tensors()?, params.device())?;
    let find = |name: &String| {
        tensors
            .get(name)
            .ok_or_else(|| Error::Group(format!("process 0 has no parameter {name}: another version runs there")))
    };
    if !group.leads() {
        for (name, var) in params.vars() {
            var.set(find(&name)?)?;
        }
        for (name, buffer) in params.buffers() {
            buffer.set(find(&name)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn shares_are_the_whole_batch_and_differ_by_one_at_most() {
        for (batch, size) in [(8, 2), (7, 3), (512, 7), (3, 3), (1, 1)] {
            let shares: Vec<Range<usize>> = (0..size).map(|rank| share_of(rank, size, batch)).collect();
            let samples: Vec<usize> = shares.iter().cloned().flatten().collect();
            assert_eq!(samples, (0..batch).collect::<Vec<_>>());
            let lengths = || shares.iter().map(Range::len);
            assert!(lengths().max().unwrap() - lengths().min().unwrap() <= 1 && lengths().all(|len| len > 0));
        }
    }

    #[test]
    fn what_is_packed_comes_back_in_its_shapes_and_aligned() {
        let tensor = |n: usize, shape: &[usize]| {
            Tensor::from_vec((0..n).map(|i| i as f32).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
        };
        let parts = [tensor(1, &[]), tensor(6, &[2, 3]), tensor(4, &[4]), tensor(5, &[5, 1])];
        let flat = pack(&parts).unwrap();
        assert_eq!(flat.dims(), [4 + 8 + 4 + 8]);
        let transposed = [parts[0].clone(), parts[1].t().unwrap()];
        for parts in [&parts[..], &transposed[..]] {
            for (found, expected) in unpack(&pack(parts).unwrap(), parts).unwrap().iter().zip(parts) {
                assert_eq!(found.dims(), expected.dims());
                assert_eq!(
                    found.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
                    expected.flatten_all().unwrap().to_vec1::<f32>().unwrap()
                );
            }
        }
    }
}
