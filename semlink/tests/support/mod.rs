//! The three services on loopback, the binary, and files for it to work on.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod show;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use semlink_channel::SnrDb;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Images of the synthetic data set.
pub(crate) const IMAGES: usize = 12;

/// The three services, on a runtime of their own that ends with the value.
pub(crate) struct Chain {
    pub(crate) transmitter: String,
    pub(crate) emulator: String,
    pub(crate) runtime: Runtime,
}

impl Chain {
    pub(crate) fn start(bundle: &Path) -> Chain {
        Chain::with(bundle, |_| {})
    }

    /// With an emulator of other settings.
    pub(crate) fn with(bundle: &Path, configure: impl FnOnce(&mut semlink_channel_emulator::Config)) -> Chain {
        let runtime = Runtime::new().expect("a runtime");
        let (receiver, receiver_url) = listener(&runtime);
        let (emulator, emulator_url) = listener(&runtime);
        let (transmitter, transmitter_url) = listener(&runtime);
        let forever = std::future::pending::<()>;
        let config = semlink_receiver::Config::new(bundle);
        runtime.spawn(semlink_receiver::serve(receiver, config, forever()));
        let mut config = semlink_channel_emulator::Config::new(receiver_url, SnrDb::try_new(7.0).expect("an SNR"));
        configure(&mut config);
        runtime.spawn(semlink_channel_emulator::serve(emulator, config, forever()));
        let rate = "64".parse().expect("a rate");
        let config = semlink_transmitter::Config::new(emulator_url.clone(), bundle, rate);
        runtime.spawn(semlink_transmitter::serve(transmitter, config, forever()));
        Chain { transmitter: transmitter_url, emulator: emulator_url, runtime }
    }
}

pub(crate) fn listener(runtime: &Runtime) -> (TcpListener, String) {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    (listener, url)
}

/// A folder with a bundle of random weights in `bundle` and gray noise in IDX files in `data`.
pub(crate) fn assets() -> TempDir {
    let dir = TempDir::new().expect("a folder");
    semlink_codec::testing::write_bundle(dir.path().join("bundle"), 3).expect("a bundle");
    let data = dir.path().join("data");
    fs::create_dir(&data).expect("a folder");
    let header = |magic: u32, axes: &[u32]| -> Vec<u8> {
        std::iter::once(&magic).chain(axes).flat_map(|word| word.to_be_bytes()).collect()
    };
    let mut images = header(0x0803, &[IMAGES as u32, 28, 28]);
    images.extend((0..IMAGES as u32 * 28 * 28).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8));
    let mut labels = header(0x0801, &[IMAGES as u32]);
    labels.extend((0..IMAGES).map(|i| (i % 10) as u8));
    fs::write(data.join("t10k-images-idx3-ubyte"), images).expect("images");
    fs::write(data.join("t10k-labels-idx1-ubyte"), labels).expect("labels");
    dir
}

/// The binary, without settings from the environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semlink"));
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SEMLINK_"));
    for (name, _) in ours {
        command.env_remove(name);
    }
    command
}

pub(crate) fn semlink(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    command().args(arguments).output().expect("the binary runs")
}

pub(crate) fn stdout(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    assert!(output.status.success(), "{:?}\n{text}\n{}", output.status, stderr(output));
    text
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

pub(crate) fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

pub(crate) fn sweep_json(folder: &str) -> Value {
    let text = fs::read_to_string(PathBuf::from(folder).join("sweep.json")).expect("sweep.json");
    serde_json::from_str(&text).expect("JSON")
}
