//! The DevTools protocol on a pair of pipes: JSON objects, each with a NUL behind it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, ChildStdout};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::network::Observed;
use crate::{Error, PATIENCE};

/// The way to the browser, for any number of threads.
#[derive(Debug)]
pub(crate) struct Pipe {
    writer: Mutex<Option<ChildStdin>>,
    state: Mutex<State>,
    changed: Condvar,
}

/// What came from the browser.
#[derive(Debug, Default)]
struct State {
    sent: u64,
    answers: HashMap<u64, Value>,
    pages: HashMap<String, Observed>,
    ended: bool,
}

impl Pipe {
    pub(crate) fn new(to: ChildStdin, from: ChildStdout) -> Arc<Pipe> {
        let pipe = Pipe { writer: Mutex::new(Some(to)), state: Mutex::default(), changed: Condvar::new() };
        let pipe = Arc::new(pipe);
        let reader = Arc::clone(&pipe);
        thread::spawn(move || reader.read(from));
        pipe
    }

    /// Until the browser closes its end.
    fn read(&self, from: ChildStdout) {
        let mut from = BufReader::new(from);
        let mut message = Vec::new();
        loop {
            message.clear();
            if !matches!(from.read_until(0, &mut message), Ok(n) if n > 0) {
                break;
            }
            if message.last() == Some(&0) {
                message.pop();
            }
            let Ok(value) = serde_json::from_slice::<Value>(&message) else { continue };
            self.lock().take(value);
            self.changed.notify_all();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a command, to a page's session where one is given, and waits for its result.
    pub(crate) fn call(&self, session: Option<&str>, method: &str, params: Value) -> Result<Value, Error> {
        self.call_within(PATIENCE, session, method, params)
    }

    pub(crate) fn call_within(
        &self,
        patience: Duration,
        session: Option<&str>,
        method: &str,
        params: Value,
    ) -> Result<Value, Error> {
        let id = {
            let mut state = self.lock();
            state.sent += 1;
            state.sent
        };
        let mut command = json!({"id": id, "method": method, "params": params});
        if let (Some(session), Some(command)) = (session, command.as_object_mut()) {
            command.insert("sessionId".into(), session.into());
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        match &mut *self.writer.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(writer) => writer.write_all(&bytes).map_err(|error| Error::Gone(format!("{method}: {error}")))?,
            None => return Err(Error::Gone(format!("{method}: it was closed"))),
        }
        let answer = self.wait(patience, method, |state| state.answers.remove(&id))?;
        match answer.get("error") {
            Some(error) => {
                let message = error.get("message").and_then(Value::as_str).unwrap_or("refused").to_owned();
                Err(Error::Refused { method: method.to_owned(), message })
            }
            None => Ok(answer.get("result").cloned().unwrap_or_default()),
        }
    }

    /// Until `ready` gives something.
    fn wait<T>(
        &self,
        patience: Duration,
        what: &str,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, Error> {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            if let Some(found) = ready(&mut state) {
                return Ok(found);
            }
            if state.ended {
                return Err(Error::Gone(format!("{what}: it ended")));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Late { what: what.to_owned(), after: patience });
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What is known of a page; waits until `ready` gives something.
    pub(crate) fn observe<T>(
        &self,
        patience: Duration,
        session: &str,
        what: &str,
        mut ready: impl FnMut(&mut Observed) -> Option<T>,
    ) -> Result<T, Error> {
        self.wait(patience, what, |state| ready(state.pages.entry(session.to_owned()).or_default()))
    }

    /// Forgets a page that was closed.
    pub(crate) fn forget(&self, session: &str) {
        self.lock().pages.remove(session);
    }

    /// Hangs up, which ends the browser, and waits until it has ended. Whether it has.
    pub(crate) fn close(&self, patience: Duration) -> bool {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let state = self.lock();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, patience, |state| !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        state.ended
    }
}

impl State {
    fn take(&mut self, mut message: Value) {
        if let Some(id) = message.get("id").and_then(Value::as_u64) {
            self.answers.insert(id, message);
            return;
        }
        let params = message.get_mut("params").map(Value::take).unwrap_or_default();
        let field = |name: &str| message.get(name).and_then(Value::as_str);
        if let (Some(session), Some(method)) = (field("sessionId"), field("method")) {
            self.pages.entry(session.to_owned()).or_default().take(method, &params);
        }
    }
}
