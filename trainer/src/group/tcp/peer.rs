//! The other end of a connection, and the thread that reads from it.

use std::io;
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use super::Patience;
use super::message::{Kind, Message, failure, receive, send, why};
use crate::{Error, Result};

/// Told of a peer that is lost or gave up, on the thread that noticed.
pub(super) type OnLost = Box<dyn Fn(&str) + Send + Sync>;

/// The other end of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) rank: usize,
    pub(super) writer: Arc<Mutex<TcpStream>>,
    inbox: Mutex<Receiver<Result<Message>>>,
}

impl Peer {
    pub(super) fn start(
        rank: usize,
        stream: TcpStream,
        patience: Patience,
        on_lost: &Arc<OnceLock<OnLost>>,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience.silence))?;
        stream.set_write_timeout(Some(patience.silence))?;
        let (to, inbox) = mpsc::channel();
        let (mut reader, on_lost) = (stream.try_clone()?, Arc::clone(on_lost));
        let read = move || {
            let error = loop {
                match receive(&mut reader, u64::MAX) {
                    Ok(Message { kind: Kind::Beat, .. }) => {}
                    Ok(Message { kind: Kind::Bye, .. }) => return,
                    Ok(Message { kind: Kind::Fail, bytes }) => break failure(rank, &bytes),
                    Ok(message) => {
                        if to.send(Ok(message)).is_err() {
                            // Nobody listens any more.
                            return;
                        }
                    }
                    Err(error) => break Error::PeerLost { rank, what: why(&error, patience.silence) },
                }
            };
            let told = error.to_string();
            if to.send(Err(error)).is_ok()
                && let Some(on_lost) = on_lost.get()
            {
                on_lost(&told);
            }
        };
        thread::Builder::new().name(format!("from-process-{rank}")).spawn(read)?;
        Ok(Self { rank, writer: Arc::new(Mutex::new(stream)), inbox: Mutex::new(inbox) })
    }

    pub(super) fn send(&self, kind: Kind, bytes: &[u8], silence: Duration) -> Result<()> {
        let sent = send(&mut lock(&self.writer), kind, bytes);
        sent.map_err(|error| {
            // What it said before it went tells more than that it went.
            match lock(&self.inbox).try_iter().find_map(Result::err) {
                Some(said) => said,
                None => Error::PeerLost { rank: self.rank, what: why(&error, silence) },
            }
        })
    }

    pub(super) fn receive(&self, kind: Kind) -> Result<Vec<u8>> {
        let gone = || Error::PeerLost { rank: self.rank, what: "it ended before the others".to_owned() };
        // The reading thread has an error for everybody who waits when the peer is lost.
        let message = lock(&self.inbox).recv().unwrap_or_else(|_| Err(gone()))?;
        if message.kind != kind {
            let what = format!("out of step: sent {:?} where {kind:?} was expected", message.kind);
            return Err(Error::PeerLost { rank: self.rank, what });
        }
        Ok(message.bytes)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
