//! Three services in a row.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::process::Process;
use crate::results::root;

/// A free port of loopback.
pub(crate) const ANY: &str = "127.0.0.1:0";
/// The peer's services.
const PEER: &str = "chain_peer.py";

/// Running services.
pub(crate) struct Chain {
    pub(crate) receiver: Process,
    pub(crate) emulator: Process,
    pub(crate) transmitter: Process,
}

/// What is left open in a chain.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Address of the receiver.
    pub(crate) receiver_at: String,
    /// Address of the emulator.
    pub(crate) emulator_at: String,
    /// Directory of the receiver's bundle.
    pub(crate) receiver_bundle: PathBuf,
    /// Directory of the transmitter's.
    pub(crate) transmitter_bundle: PathBuf,
    /// More flags of the transmitter.
    pub(crate) transmitter: &'static [&'static str],
}

impl Default for Setup {
    fn default() -> Self {
        let (receiver_at, emulator_at) = (ANY.to_owned(), ANY.to_owned());
        let (receiver_bundle, transmitter_bundle) = (bundle(), bundle());
        Setup { receiver_at, emulator_at, receiver_bundle, transmitter_bundle, transmitter: &[] }
    }
}

impl Chain {
    /// The release binaries beside this one; AWGN of 10 dB.
    pub(crate) fn start(setup: &Setup) -> Result<Chain> {
        let receiver = receiver(&setup.receiver_at, &setup.receiver_bundle)?;
        let emulator = emulator(&setup.emulator_at, &receiver.url())?;
        let transmitter = transmitter(&emulator.url(), &setup.transmitter_bundle, setup.transmitter)?;
        Ok(Chain { receiver, emulator, transmitter })
    }

    /// The peer's, over the same channel.
    pub(crate) fn peer(python: &Path) -> Result<Chain> {
        let receiver = Process::script(python, PEER, &["receiver"])?;
        let emulator = Process::script(python, PEER, &["emulator", "--next", receiver.address()])?;
        let transmitter = Process::script(python, PEER, &["transmitter", "--next", emulator.address()])?;
        Ok(Chain { receiver, emulator, transmitter })
    }

    /// In the order of an image's way.
    pub(crate) fn processes(&self) -> [(&'static str, &Process); 3] {
        [("transmitter", &self.transmitter), ("emulator", &self.emulator), ("receiver", &self.receiver)]
    }

    /// Processor time of each so far, in seconds.
    pub(crate) fn cpu(&self) -> Result<[f64; 3]> {
        let [a, b, c] = self.processes().map(|(_, process)| process.cpu());
        Ok([a?, b?, c?])
    }

    /// Resident memory of each, in MB of 10^6 bytes.
    pub(crate) fn memory(&self) -> Result<[f64; 3]> {
        let [a, b, c] = self.processes().map(|(_, process)| megabytes(process));
        Ok([a?, b?, c?])
    }
}

/// A receiver on this address.
pub(crate) fn receiver(listen: &str, bundle: &Path) -> Result<Process> {
    Process::service_on(listen, "semlink-receiver", &[Path::new("--bundle"), bundle])
}

/// An emulator on this address.
pub(crate) fn emulator(listen: &str, next: &str) -> Result<Process> {
    Process::service_on(listen, "semlink-channel-emulator", &["--next", next, "--channel", "awgn", "--snr-db", "10"])
}

/// A transmitter on any address, with more flags.
pub(crate) fn transmitter(next: &str, bundle: &Path, more: &[&str]) -> Result<Process> {
    let bundle = bundle.display().to_string();
    Process::service("semlink-transmitter", &[&["--next", next, "--bundle", &bundle], more].concat())
}

/// The shipped one.
pub(crate) fn bundle() -> PathBuf {
    root().join("assets/fashion-mnist")
}

/// Resident memory in MB of 10^6 bytes.
pub(crate) fn megabytes(process: &Process) -> Result<f64> {
    Ok(process.memory()?.now * f64::from(1 << 20) / 1e6)
}

/// Figures of the three, as a note tells them.
pub(crate) fn told(figures: [f64; 3], digits: usize) -> String {
    let names = ["transmitter", "emulator", "receiver"];
    let each = names.iter().zip(figures).map(|(name, figure)| format!("{name} {figure:.digits$}"));
    each.collect::<Vec<_>>().join(", ")
}
