//! One call and how far it has come: what its client sent, what it was answered, and since when nothing happens.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::AbortHandle;
use futures::task::AtomicWaker;
use tokio::time::Instant;

/// A call with something under way may be silent for so many times the idle time: whoever works on it has limits of its own, and a
/// client that keeps the request of a single call open looks the same.
const UNDER_WAY: u32 = 4;

/// The calls of one connection.
#[derive(Debug)]
pub(super) struct Calls {
    began: Instant,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    calls: HashMap<u64, Arc<Call>>,
    /// When the last one ended, as a [`Call`]'s times.
    quiet_since: u64,
}

/// One call. Times are milliseconds since its connection began.
#[derive(Debug)]
pub(super) struct Call {
    began: Instant,
    pub(super) path: String,
    /// Whole messages.
    received: AtomicU64,
    answered: AtomicU64,
    last: AtomicU64,
    within_message: AtomicBool,
    /// The client may send more.
    sending: AtomicBool,
    /// Answers are waiting for the client since; 0: they are not.
    unread: AtomicU64,
    /// When its client was given up as idle; 0: it was not.
    idle: AtomicU64,
    reader: AtomicWaker,
    task: OnceLock<AbortHandle>,
}

/// A call's place in [`Calls`], given up when the call is over.
pub(super) struct Place {
    calls: Arc<Calls>,
    id: u64,
    pub(super) call: Arc<Call>,
}

/// A call that its client has left lying.
#[derive(Debug)]
pub(super) struct Stall {
    pub(super) reason: &'static str,
    pub(super) call: Arc<Call>,
}

impl Calls {
    pub(super) fn new() -> Arc<Calls> {
        Arc::new(Calls { began: Instant::now(), open: Mutex::default() })
    }

    pub(super) fn enter(self: &Arc<Self>, path: &str) -> Place {
        let call = Arc::new(Call {
            began: self.began,
            path: path.to_owned(),
            received: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            last: AtomicU64::new(since(self.began)),
            within_message: AtomicBool::new(false),
            sending: AtomicBool::new(true),
            unread: AtomicU64::new(0),
            idle: AtomicU64::new(0),
            reader: AtomicWaker::new(),
            task: OnceLock::new(),
        });
        let mut open = self.open();
        let id = open.next;
        open.next += 1;
        open.calls.insert(id, Arc::clone(&call));
        Place { calls: Arc::clone(self), id, call }
    }

    /// Whether there has been no call for so long.
    pub(super) fn are_over_for(&self, time: Duration) -> bool {
        let open = self.open();
        open.calls.is_empty() && self.is_past(open.quiet_since, time)
    }

    /// Ends the calls whose clients have done nothing for so long, and tells which.
    pub(super) fn end_stalled(&self, idle: Duration) -> Vec<Stall> {
        let calls: Vec<Arc<Call>> = self.open().calls.values().map(Arc::clone).collect();
        calls
            .into_iter()
            .filter_map(|call| {
                let reason = self.judge(&call, idle)?;
                Some(Stall { reason, call })
            })
            .collect()
    }

    fn judge(&self, call: &Call, idle: Duration) -> Option<&'static str> {
        let unread = call.unread.load(Ordering::Relaxed);
        if unread != 0 && self.is_past(unread, idle) {
            return call.abort().then_some("unread");
        }
        let given_up = call.idle.load(Ordering::Relaxed);
        if given_up != 0 {
            // It was told and nobody reads it: its service does not either.
            if self.is_past(given_up, idle) && call.sending.load(Ordering::Relaxed) {
                call.abort();
            }
            return None;
        }
        if !call.sending.load(Ordering::Relaxed) {
            return None;
        }
        let under_way = call.received.load(Ordering::Relaxed) > call.answered.load(Ordering::Relaxed);
        let patience = if under_way { idle.saturating_mul(UNDER_WAY) } else { idle };
        if !self.is_past(call.last.load(Ordering::Relaxed), patience) {
            return None;
        }
        call.idle.store(since(self.began), Ordering::Release);
        call.reader.wake();
        Some(if call.within_message.load(Ordering::Relaxed) { "slow" } else { "idle" })
    }

    fn is_past(&self, at: u64, time: Duration) -> bool {
        u128::from(since(self.began).saturating_sub(at)) >= time.as_millis()
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.calls.open();
        open.calls.remove(&self.id);
        open.quiet_since = since(self.calls.began);
    }
}

impl Call {
    /// The task that works on this call's HTTP/2 stream: its end resets the stream.
    pub(super) fn runs_in(&self, task: AbortHandle) {
        // A second time: it is the same.
        let _ = self.task.set(task);
    }

    /// Bytes of the client came, with the ends of so many messages in them.
    pub(super) fn received(&self, whole: u64, within: bool) {
        self.within_message.store(within, Ordering::Relaxed);
        if whole > 0 {
            self.received.fetch_add(whole, Ordering::Relaxed);
            self.touch();
        }
    }

    /// Answers were handed over to be sent.
    pub(super) fn answered(&self, whole: u64) {
        self.unread.store(since(self.began), Ordering::Relaxed);
        if whole > 0 {
            self.answered.fetch_add(whole, Ordering::Relaxed);
            self.touch();
        }
    }

    /// More answers are asked for: those before were taken.
    pub(super) fn asked(&self) {
        self.unread.store(0, Ordering::Relaxed);
    }

    /// The client sends no more, or nobody reads it.
    pub(super) fn ends_reading(&self) {
        self.sending.store(false, Ordering::Relaxed);
    }

    /// Whether the client was given up; if not, the reader is woken when it is.
    pub(super) fn is_given_up(&self, cx: &std::task::Context<'_>) -> bool {
        self.reader.register(cx.waker());
        self.idle.load(Ordering::Acquire) != 0
    }

    fn touch(&self) {
        self.last.store(since(self.began), Ordering::Relaxed);
    }

    /// Whether it was not yet.
    fn abort(&self) -> bool {
        match self.task.get() {
            Some(task) if !task.is_aborted() => {
                task.abort();
                true
            }
            _ => false,
        }
    }
}

/// Never 0, which means never.
fn since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}
