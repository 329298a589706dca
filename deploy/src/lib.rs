//! Containers of semlink's services, by Docker's command line: what the tests over real containers and `semlink-bench deploy` start, cut off and
//! remove. Images are those of `deploy/docker/build.sh`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// How long a container may take to become what it is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Runs `docker` with these arguments; its standard output without the last newline.
///
/// # Errors
/// Docker's own words.
pub fn docker<S: AsRef<str>>(arguments: &[S]) -> Result<String> {
    let output = raw(arguments)?;
    ensure!(
        output.status.success(),
        "docker {}: {}",
        arguments.first().map_or("", AsRef::as_ref),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

fn raw<S: AsRef<str>>(arguments: &[S]) -> Result<Output> {
    Command::new("docker").args(arguments.iter().map(AsRef::as_ref)).output().context("docker cannot be run")
}

/// The tag of the images under test: `SEMLINK_TAG`, or `local` as `deploy/docker/build.sh` has it.
#[must_use]
pub fn tag() -> String {
    std::env::var("SEMLINK_TAG").unwrap_or_else(|_| "local".into())
}

/// What is missing for tests over containers, in words; none: they can run.
#[must_use]
pub fn missing() -> Option<String> {
    if docker(&["info", "--format", "{{.ServerVersion}}"]).is_err() {
        return Some("no Docker engine answers".into());
    }
    let names = ["semlink-transmitter", "semlink-channel-emulator", "semlink-receiver", "semlink"];
    let absent = names.iter().find(|name| docker(&["image", "inspect", &format!("{name}:{}", tag())]).is_err())?;
    Some(format!("there is no image {absent}:{}; deploy/docker/build.sh makes it", tag()))
}

/// Calls `done` again and again until it gives something.
///
/// # Errors
/// It did not in a minute; the last error, if it gave any.
pub fn wait_for<T>(what: &str, mut done: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        let found = done();
        if let Ok(Some(found)) = found {
            return Ok(found);
        }
        if begin.elapsed() > PATIENCE {
            found.with_context(|| format!("waited for {what}"))?;
            bail!("{what} did not come to be within {} s", PATIENCE.as_secs());
        }
        // Nothing tells when a container's state changes but asking.
        std::thread::sleep(POLL);
    }
}

/// Networks and containers of one test, with names of their own; all of them are removed with it.
#[derive(Debug)]
pub struct Stack {
    prefix: String,
    networks: Vec<String>,
    containers: Vec<String>,
}

/// How a container is started.
#[derive(Clone, Debug, Default)]
pub struct Run<'a> {
    /// Without the tag.
    pub image: &'a str,
    /// Other networks come later, see [`Stack::connect`].
    pub network: &'a str,
    /// Its name in the network.
    pub alias: &'a str,
    /// Variables, `NAME=VALUE`.
    pub environment: Vec<String>,
    /// Folders of this host that are mounted read-only, with where.
    pub mounts: Vec<(&'a Path, &'a str)>,
    /// Port that this host reaches on loopback, at a number that is free.
    pub publish: Option<u16>,
    /// Further flags of `docker run`.
    pub flags: Vec<&'a str>,
    /// What the program is called with.
    pub arguments: Vec<String>,
}

impl Stack {
    /// An empty one.
    #[must_use]
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("semlink-{name}-{}-{count}", std::process::id());
        Self { prefix, networks: Vec::new(), containers: Vec::new() }
    }

    fn name(&self, of: &str) -> String {
        format!("{}-{of}", self.prefix)
    }

    /// Makes a network.
    ///
    /// # Errors
    /// The engine's.
    pub fn network(&mut self, name: &str) -> Result<()> {
        let full = self.name(name);
        docker(&["network", "create", &full])?;
        self.networks.push(full);
        Ok(())
    }

    /// Arguments of `docker run` for the hardening that every image is made for: no rights, no writable file.
    fn command(&self, how: &Run<'_>, more: &[&str]) -> Vec<String> {
        let mut command: Vec<String> = vec!["run".into()];
        command.extend(more.iter().map(|s| (*s).to_owned()));
        let hardened =
            ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "256"];
        command.extend(hardened.map(str::to_owned));
        if !how.network.is_empty() {
            command.extend(["--network".into(), self.name(how.network)]);
            command.extend(["--network-alias".into(), how.alias.to_owned()]);
        }
        for variable in &how.environment {
            command.extend(["--env".into(), variable.clone()]);
        }
        for (from, to) in &how.mounts {
            command.extend(["--volume".into(), format!("{}:{to}:ro", from.display())]);
        }
        if let Some(port) = how.publish {
            command.extend(["--publish".into(), format!("127.0.0.1::{port}")]);
        }
        command.extend(how.flags.iter().map(|flag| (*flag).to_owned()));
        command.push(format!("{}:{}", how.image, tag()));
        command.extend(how.arguments.iter().cloned());
        command
    }

    /// Starts a container that goes on; its name.
    ///
    /// # Errors
    /// The engine's.
    pub fn start(&mut self, how: &Run<'_>) -> Result<String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = self.name(&format!("{}-{}", how.alias, COUNT.fetch_add(1, Ordering::Relaxed)));
        self.containers.push(name.clone());
        docker(&self.command(how, &["--detach", "--name", &name]))?;
        Ok(name)
    }

    /// Runs a container to its end: exit status, standard output and standard error.
    ///
    /// # Errors
    /// Docker cannot be run.
    pub fn run(&self, how: &Run<'_>) -> Result<(i32, String, String)> {
        let output = raw(&self.command(how, &["--rm"]))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
    }

    /// Connects a container to another network of the stack, or cuts it off.
    ///
    /// # Errors
    /// The engine's.
    pub fn connect(&self, container: &str, network: &str, alias: &str) -> Result<()> {
        docker(&["network", "connect", "--alias", alias, &self.name(network), container]).map(|_| ())
    }

    /// See [`Stack::connect`].
    ///
    /// # Errors
    /// The engine's.
    pub fn disconnect(&self, container: &str, network: &str) -> Result<()> {
        docker(&["network", "disconnect", &self.name(network), container]).map(|_| ())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        for container in &self.containers {
            // One that was never made, or is gone, is no loss.
            let _ = docker(&["rm", "--force", "--volumes", container]);
        }
        for network in &self.networks {
            let _ = docker(&["network", "rm", network]);
        }
    }
}

/// `docker inspect` of a container or image.
///
/// # Errors
/// There is none of this name.
pub fn inspect(name: &str) -> Result<Value> {
    let found: Value = serde_json::from_str(&docker(&["inspect", name])?)?;
    Ok(found[0].clone())
}

/// `http://127.0.0.1:PORT` for a published port.
///
/// # Errors
/// The container does not run or publishes none.
pub fn url(container: &str, port: u16) -> Result<String> {
    let found = docker(&["port", container, &format!("{port}/tcp")])?;
    Ok(format!("http://{}", found.lines().next().context("no published port")?))
}

/// Waits until the image's own health check would pass.
///
/// # Errors
/// The container ended or does not serve within a minute; its log comes along.
pub fn healthy(container: &str, binary: &str) -> Result<()> {
    let check = || {
        if inspect(container)?["State"]["Running"] != Value::Bool(true) {
            bail!("{container} ended: {}", log(container)?);
        }
        Ok(docker(&["exec", container, binary, "--check-health"]).ok().map(|_| ()))
    };
    wait_for(&format!("{container} to serve"), check)
}

/// What a container wrote, both streams.
///
/// # Errors
/// There is none of this name.
pub fn log(container: &str) -> Result<String> {
    let output = raw(&["logs", container])?;
    Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

/// What the transmitter of an edge host is held to in tests and measurements: half a processor and 128 MB.
pub const LIMITED: [&str; 4] = ["--cpus", "0.5", "--memory", "128m"];

/// An edge host with a transmitter, and a server with emulator and receiver, on networks of their own; the two meet on `radio`. Docker publishes ports on
/// the first network by name: `edge`, whose cables stay when `radio` is cut.
#[derive(Debug)]
pub struct Hosts {
    /// All of it.
    pub stack: Stack,
    /// What both halves serve.
    pub bundle: PathBuf,
    /// The receiver's container.
    pub receiver: String,
    /// The emulator's: AWGN of 10 dB.
    pub emulator: String,
    /// The transmitter's, whose port 50051 is published.
    pub transmitter: String,
}

/// The receiver of a stack with a network `server`.
#[must_use]
pub fn receiver(bundle: &Path) -> Run<'_> {
    Run {
        image: "semlink-receiver",
        network: "server",
        alias: "receiver",
        environment: vec!["SEMLINK_PLAINTEXT=listen".into()],
        mounts: vec![(bundle, "/bundle")],
        ..Run::default()
    }
}

impl Hosts {
    /// Starts all three and waits until they serve; the transmitter with these flags of `docker run`.
    ///
    /// # Errors
    /// The engine's, or a service that does not come to serve.
    pub fn start(name: &str, bundle: &Path, transmitter_flags: &[&str]) -> Result<Self> {
        let mut stack = Stack::new(name);
        for network in ["edge", "radio", "server"] {
            stack.network(network)?;
        }
        let receiver = stack.start(&receiver(bundle))?;
        let plain = |more: &[&str]| {
            let all = std::iter::once("SEMLINK_PLAINTEXT=listen,next").chain(more.iter().copied());
            all.map(str::to_owned).collect::<Vec<_>>()
        };
        let emulator = stack.start(&Run {
            image: "semlink-channel-emulator",
            network: "server",
            alias: "emulator",
            environment: plain(&["SEMLINK_NEXT=http://receiver:50053", "SEMLINK_SNR_DB=10"]),
            ..Run::default()
        })?;
        stack.connect(&emulator, "radio", "emulator")?;
        let transmitter = stack.start(&Run {
            image: "semlink-transmitter",
            network: "edge",
            alias: "transmitter",
            environment: plain(&["SEMLINK_NEXT=http://emulator:50052", "SEMLINK_PATIENCE=60"]),
            mounts: vec![(bundle, "/bundle")],
            publish: Some(50051),
            flags: transmitter_flags.to_vec(),
            ..Run::default()
        })?;
        stack.connect(&transmitter, "radio", "transmitter")?;
        healthy(&receiver, "/semlink-receiver")?;
        healthy(&emulator, "/semlink-channel-emulator")?;
        healthy(&transmitter, "/semlink-transmitter")?;
        Ok(Self { stack, bundle: bundle.to_owned(), receiver, emulator, transmitter })
    }
}
