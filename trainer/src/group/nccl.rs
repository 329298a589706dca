//! A group of GPUs: NCCL adds up, a group over TCP does the rest.

use std::time::Duration;

use candle_core::{Device, Tensor};
use semlink_nn::cuda::nccl::Communicator;

use super::{Group, Tcp};
use crate::{Error, Result};

/// For a process that can still say itself what happened.
const GRACE: Duration = Duration::from_secs(10);

/// GPUs of one process each.
#[derive(Debug)]
pub struct Nccl {
    communicator: Communicator,
    control: Tcp,
}

impl Nccl {
    /// The processes of `control`, each with its GPU.
    ///
    /// # Errors
    /// Two have the same GPU, or the GPUs cannot reach each other.
    pub fn new(control: Tcp, device: &Device) -> Result<Self> {
        let communicator = join(&control, device).inspect_err(|error| control.abandon(error))?;
        // A kernel that waits for a lost process waits for ever, and with it this process's main thread at its next look at the GPU.
        control.on_lost(|what| {
            std::thread::sleep(GRACE);
            eprintln!("semlink-trainer: {what}");
            std::process::abort();
        });
        Ok(Self { communicator, control })
    }
}

fn join(control: &Tcp, device: &Device) -> Result<Communicator> {
    let name = if control.leads() { Communicator::name()?.to_vec() } else { Vec::new() };
    let name = control.broadcast(name)?.try_into();
    let name = name.map_err(|_| Error::Group("process 0 sent no name of a group of GPUs".to_owned()))?;
    Ok(Communicator::join(device, control.rank(), control.size(), name)?)
}

impl Group for Nccl {
    fn rank(&self) -> usize {
        self.control.rank()
    }

    fn size(&self) -> usize {
        self.control.size()
    }

    fn all_reduce_sum(&self, values: &Tensor) -> Result<Tensor> {
        Ok(self.communicator.sum(values)?)
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        self.control.broadcast(bytes)
    }

    fn barrier(&self) -> Result<()> {
        self.control.barrier()
    }

    fn abandon(&self, error: &Error) {
        self.control.abandon(error);
    }
}
