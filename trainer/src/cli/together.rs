//! Several processes that train together: their flags, and how they come together.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use semlink_nn::DeviceChoice;
use semlink_trainer::group::{Alone, Group, Locals, Patience, Rendezvous, Tcp};

use super::Cli;

/// Several processes that train together.
#[derive(Debug, Args)]
pub(crate) struct Together {
    /// Processes on this host, which train together: this one starts the others; number r computes on GPU r, or all on the CPU.
    #[arg(long, env = "SEMLINK_PROCESSES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) processes: u32,
    /// Processes that train together, on any hosts, each started with its own --rank.
    #[arg(long, env = "SEMLINK_WORLD_SIZE", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    world_size: u32,
    /// Number of this process, from 0.
    #[arg(long, env = "SEMLINK_RANK", default_value_t = 0)]
    rank: u32,
    /// Where process 0 listens for the others; of process 0 itself, port 0 takes a free one.
    #[arg(long, env = "SEMLINK_RENDEZVOUS", value_name = "HOST:PORT")]
    rendezvous: Option<String>,
    /// Without a sign of life for so many seconds, a process counts as lost; all may take ten times as long to come.
    #[arg(long, env = "SEMLINK_PEER_TIMEOUT", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) peer_timeout: u64,
}

impl Together {
    /// Ends the program with status 2 if the options contradict each other.
    pub(crate) fn check(&self) {
        let fault = if self.processes > 1 && (self.world_size > 1 || self.rank > 0) {
            "--processes starts all processes itself: leave --world-size and --rank out".to_owned()
        } else if self.rank >= self.world_size {
            format!(
                "--rank {}: expected 0 to {}, as --world-size is {}",
                self.rank,
                self.world_size - 1,
                self.world_size
            )
        } else if self.world_size > 1 && self.rendezvous.is_none() {
            "--world-size above 1 needs --rendezvous HOST:PORT, where process 0 listens".to_owned()
        } else {
            return;
        };
        Cli::command().error(ErrorKind::ValueValidation, fault).exit()
    }

    /// Processes in all.
    pub(crate) fn size(&self) -> usize {
        self.processes.max(self.world_size) as usize
    }

    /// Where the processes of this host compute, by their numbers.
    pub(crate) fn device(&self, asked: DeviceChoice) -> impl Fn(usize) -> DeviceChoice + use<> {
        let first = match asked {
            // All on GPUs or none.
            DeviceChoice::Auto if self.processes > 1 => match DeviceChoice::Cuda(0).open() {
                Ok(_) => DeviceChoice::Cuda(0),
                Err(_) => DeviceChoice::Cpu,
            },
            asked => asked,
        };
        move |rank| match first {
            DeviceChoice::Cuda(number) => DeviceChoice::Cuda(number + rank),
            other => other,
        }
    }

    /// Brings the processes together, and starts those of this host.
    pub(crate) fn meet(
        &self,
        device: &impl Fn(usize) -> DeviceChoice,
        threads: Option<usize>,
    ) -> semlink_trainer::Result<(Option<Tcp>, Option<Locals>)> {
        let (size, rank) = (self.size(), self.rank as usize);
        let patience = Patience::new(Duration::from_secs(self.peer_timeout));
        if size == 1 {
            return Ok((None, None));
        }
        if rank > 0 {
            return Ok((Some(Tcp::join(self.rendezvous.as_deref().unwrap_or_default(), rank, size, patience)?), None));
        }
        let here = if self.processes > 1 { Some("127.0.0.1:0") } else { self.rendezvous.as_deref() };
        let rendezvous = Rendezvous::bind(here.unwrap_or_default())?;
        let address = rendezvous.address();
        if self.processes == 1 {
            eprintln!("process 0 waits at {address} for {} more", size - 1);
            let pause = |time| {
                std::thread::sleep(time);
                None
            };
            return Ok((Some(rendezvous.gather(size, patience, pause)?), None));
        }
        // The same command line; of an option that comes twice, the last counts.
        let arguments = |rank: usize| {
            let own = [
                ("--processes", "1".to_owned()),
                ("--world-size", size.to_string()),
                ("--rank", rank.to_string()),
                ("--rendezvous", address.to_string()),
                ("--device", device(rank).to_string()),
                ("--threads", threads.unwrap_or(1).to_string()),
            ];
            let own = own.into_iter().flat_map(|(name, value)| [name.into(), value.into()]);
            std::env::args_os().skip(1).chain(own).collect::<Vec<OsString>>()
        };
        let mut locals = Locals::start(size, arguments)?;
        let group = rendezvous.gather(size, patience, |time| locals.ended(time))?;
        Ok((Some(group), Some(locals)))
    }

    /// Threads of each process of this host, where nothing else is asked for.
    pub(crate) fn threads(&self) -> usize {
        (semlink_nn::runtime::available_cpus() / self.processes as usize).max(1)
    }
}

/// What adds up the gradients.
pub(crate) fn group(met: Option<Tcp>, device: &candle_core::Device) -> semlink_trainer::Result<Arc<dyn Group>> {
    let Some(tcp) = met else { return Ok(Arc::new(Alone)) };
    #[cfg(feature = "nccl")]
    if device.is_cuda() {
        return Ok(Arc::new(semlink_trainer::group::Nccl::new(tcp, device)?));
    }
    #[cfg(not(feature = "nccl"))]
    let _ = device;
    Ok(Arc::new(tcp))
}
