//! Services as processes of their own, and what the system tells about them.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::results::root;

/// A running service, killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    address: String,
}

/// Resident memory of a process in MiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) now: f64,
    pub(crate) peak: f64,
}

impl Process {
    /// The release binary beside this one, on a free port of loopback, once it serves.
    pub(crate) fn service(name: &str, arguments: &[impl AsRef<OsStr>]) -> Result<Process> {
        Process::service_on("127.0.0.1:0", name, arguments)
    }

    /// [`Process::service`] on this address.
    pub(crate) fn service_on(listen: &str, name: &str, arguments: &[impl AsRef<OsStr>]) -> Result<Process> {
        let binary = std::env::current_exe()?.with_file_name(name);
        ensure!(binary.exists(), "{} is not built: cargo build --release -p {name} -p semlink-bench", binary.display());
        let mut command = Command::new(&binary);
        command.args(["--listen", listen, "--log", "info", "--log-format", "json"]).args(arguments);
        Process::start(command, name)
    }

    /// A peer's service, a script of `bench/peers`.
    pub(crate) fn script(python: &Path, script: &str, arguments: &[impl AsRef<OsStr>]) -> Result<Process> {
        let mut command = Command::new(python);
        command.arg(root().join("bench/peers").join(script)).args(arguments);
        Process::start(command, script)
    }

    fn start(mut command: Command, name: &str) -> Result<Process> {
        // Settings come from this program alone.
        for (variable, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("SEMLINK_")) {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{}", command.get_program().to_string_lossy()))?;
        let log = child.stderr.take().with_context(|| format!("{name} has no standard error"))?;
        // From here on it ends with this value.
        let mut process = Process { child, address: String::new() };
        process.address = serving(log).with_context(|| format!("{name} does not serve"))?;
        Ok(process)
    }

    /// Where it serves, HOST:PORT.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Processor time since its start, in seconds.
    pub(crate) fn cpu(&self) -> Result<f64> {
        cpu(self.child.id())
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        memory(self.child.id())
    }

    /// Ends it with SIGKILL: no goodbye to anyone.
    pub(crate) fn kill(&mut self) {
        // It fails when the process has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The address that the log tells; the rest of the log is read, too, so that its writer never waits.
fn serving(log: ChildStderr) -> Result<String> {
    let mut lines = BufReader::new(log).lines();
    let mut told = Vec::new();
    while let Some(line) = lines.next().transpose()? {
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        let fields = &event["fields"];
        if let (Some("serving"), Some(address)) = (fields["message"].as_str(), fields["address"].as_str()) {
            thread::spawn(move || lines.for_each(drop));
            return Ok(address.to_owned());
        }
        told.push(line);
    }
    bail!("{}", told.join("\n"))
}

/// Processor time of a process since its start, in seconds: fields 14 and 15 of /proc/PID/stat, user and system time in hundredths.
pub(crate) fn cpu(process: u32) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    // Counted behind the name, which may hold blanks.
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).context("no stat")?;
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    ensure!(ticks.len() == 2, "{path} holds no times");
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// `VmRSS` and `VmHWM` of /proc/PID/status.
pub(crate) fn memory(process: u32) -> Result<Memory> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let field = |name: &str| {
        let kib =
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0).with_context(|| format!("{path} has no {name}"))
    };
    Ok(Memory { now: field("VmRSS:")?, peak: field("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_processor_time_of_this_process_are_read() {
        let memory = memory(std::process::id()).expect("a status");
        assert!(memory.now > 0.5 && memory.peak >= memory.now, "{memory:?}");
        assert!(cpu(std::process::id()).expect("a stat") < 3600.0);
    }

    #[test]
    fn a_process_that_does_not_serve_is_an_error_with_what_it_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such bundle >&2"]);
        let error = Process::start(command, "sh").err().expect("it ends");
        assert!(format!("{error:#}").contains("no such bundle"), "{error:#}");
        let mut command = Command::new("sh");
        let lines = r#"echo '{"fields":{"message":"metrics","address":"a:1"}}' >&2; echo '{"fields":{"message":"serving","address":"b:2"}}' >&2; exec sleep 60"#;
        command.args(["-c", lines]);
        let process = Process::start(command, "sh").expect("it serves");
        assert_eq!((process.address(), process.url().as_str()), ("b:2", "http://b:2"));
    }
}
