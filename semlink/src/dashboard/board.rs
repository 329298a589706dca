//! A value that pages see: changed by whoever knows better, shown as JSON.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, watch};

/// Pages get the latest text, whatever they missed: a slow one holds up nobody, and nothing piles up for it.
#[derive(Debug)]
pub(super) struct Board<T> {
    value: Mutex<T>,
    stale: Notify,
    shown: watch::Sender<String>,
}

impl<T: Serialize> Board<T> {
    pub(super) fn new(value: T) -> Board<T> {
        let board = Board { value: Mutex::new(value), stale: Notify::new(), shown: watch::Sender::default() };
        board.show();
        board
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the value; pages hear of it soon.
    pub(super) fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let changed = change(&mut self.lock());
        self.stale.notify_one();
        changed
    }

    /// Looks at the value.
    pub(super) fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock())
    }

    /// The text now and after each change.
    pub(super) fn subscribe(&self) -> watch::Receiver<String> {
        self.shown.subscribe()
    }

    /// Shows changes for ever: the first at once, then no two within `pause`.
    pub(super) async fn publish(&self, pause: Duration) {
        loop {
            self.stale.notified().await;
            if self.shown.receiver_count() > 0 {
                self.show();
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Shows the value as it is.
    pub(super) fn show(&self) {
        // Numbers and texts: it cannot fail.
        let text = serde_json::to_string(&*self.lock()).unwrap_or_default();
        self.shown.send_replace(text);
    }
}
