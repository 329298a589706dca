//! Starting the other processes of this host.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use crate::{Error, Result};

/// What a process that ended last said, by its rank.
struct Ended {
    rank: usize,
    last_line: String,
}

/// The processes that this one started. Those that still run when it is dropped are ended.
pub struct Locals {
    /// Process r at place r - 1.
    children: Vec<Child>,
    ended: Receiver<Ended>,
    /// Those of `ended` that were taken out.
    seen: Vec<Ended>,
}

impl Locals {
    /// Starts processes 1 to `size` - 1: this very program, with the arguments that `arguments` gives for a rank.
    ///
    /// # Errors
    /// The system does not start them.
    pub fn start(size: usize, arguments: impl Fn(usize) -> Vec<OsString>) -> Result<Self> {
        let fail = |e: std::io::Error| Error::Group(format!("cannot start another process: {e}"));
        let program = std::env::current_exe().map_err(fail)?;
        let (to, ended) = mpsc::channel();
        let mut locals = Self { children: Vec::new(), ended, seen: Vec::new() };
        for rank in 1..size {
            let mut command = Command::new(&program);
            command.args(arguments(rank)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = command.spawn().map_err(fail)?;
            let errors = child.stderr.take();
            locals.children.push(child);
            let to = Sender::clone(&to);
            let listen = move || {
                let lines =
                    errors.into_iter().flat_map(|pipe| BufReader::new(pipe).lines().map_while(|line| line.ok()));
                let last_line = lines.filter(|line| !line.trim().is_empty()).last().unwrap_or_default();
                // Nobody asks any more when the run is over.
                let _ = to.send(Ended { rank, last_line });
            };
            thread::Builder::new().name(format!("errors-of-process-{rank}")).spawn(listen).map_err(fail)?;
        }
        Ok(locals)
    }

    /// Waits up to `time` for a process that ends, and tells why.
    pub fn ended(&mut self, time: Duration) -> Option<Error> {
        let ended = self.ended.recv_timeout(time).ok()?;
        let rank = ended.rank;
        self.seen.push(ended);
        Some(self.reason(rank))
    }

    /// What `error` comes from, if a process was lost: what that one said last, or how it ended.
    pub fn explain(&mut self, error: Error) -> Error {
        let Error::PeerLost { rank, .. } = &error else { return error };
        let rank = *rank;
        while !self.seen.iter().any(|ended| ended.rank == rank) {
            // Its connection closes a moment before it has ended.
            match self.ended.recv_timeout(Duration::from_secs(2)) {
                Ok(ended) => self.seen.push(ended),
                // It still runs; then it is the connection that is lost.
                Err(_) => return error,
            }
        }
        self.reason(rank)
    }

    fn reason(&mut self, rank: usize) -> Error {
        let said = self.seen.iter().find(|ended| ended.rank == rank).map(|ended| ended.last_line.clone());
        let status = self.children.get_mut(rank.saturating_sub(1)).and_then(|child| child.wait().ok());
        match said.filter(|line| !line.is_empty()) {
            Some(line) => {
                let what = line.strip_prefix("semlink-trainer: ").unwrap_or(&line).to_owned();
                Error::PeerFailed { rank, what }
            }
            None => {
                let what = status.map_or_else(|| "it ended".to_owned(), |status| format!("it ended with {status}"));
                Error::PeerLost { rank, what }
            }
        }
    }

    /// Waits for all to end, which they do when the run is over.
    ///
    /// # Errors
    /// One ended with another status than 0, or does not end within `time`.
    pub fn finish(mut self, time: Duration) -> Result<()> {
        while self.seen.len() < self.children.len() {
            match self.ended.recv_timeout(time) {
                Ok(ended) => self.seen.push(ended),
                Err(_) => return Err(Error::Group("a process of this host does not end; it was killed".to_owned())),
            }
        }
        for place in 0..self.children.len() {
            let status = self.children.get_mut(place).and_then(|child| child.wait().ok());
            if !status.is_some_and(|status| status.success()) {
                return Err(self.reason(place + 1));
            }
        }
        Ok(())
    }
}

impl Drop for Locals {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended cannot be ended again.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::{Patience, Rendezvous};

    /// The processes are this very test program; what it makes of its arguments is known.
    fn start(arguments: &[&str]) -> Locals {
        Locals::start(2, |_| arguments.iter().map(OsString::from).collect()).unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_process_that_ends_instead_of_joining_is_quoted() {
        let mut locals = start(&["--no-such-option"]);
        let rendezvous = Rendezvous::bind("127.0.0.1:0").unwrap();
        let error = rendezvous.gather(2, Patience::new(LONG), |time| locals.ended(time)).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::PeerFailed { rank: 1, .. }), "{error:?}");
        assert!(text.contains("no-such-option") && !text.contains('\n'), "{text}");
        // One that says nothing.
        let mut locals = start(&["--list"]);
        let text = locals.explain(Error::PeerLost { rank: 1, what: "its connection closed".into() }).to_string();
        assert!(text.contains("process 1 was lost: it ended with exit status: 0"), "{text}");
    }

    #[test]
    fn a_run_ends_well_if_all_its_processes_do() {
        start(&["--list"]).finish(LONG).unwrap();
        let text = start(&["--no-such-option"]).finish(LONG).unwrap_err().to_string();
        assert!(text.starts_with("process 1: ") && text.contains("no-such-option"), "{text}");
    }
}
