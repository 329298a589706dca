//! A group over TCP: every process has one connection, to process 0, which adds up and sends round.
//!
//! A message is its kind (one byte), the length of what follows (u64, little-endian) and that. Each end has a thread that reads all the time, so
//! that a sender never waits for a peer that is busy, and one that sends a sign of life now and then: a connection that is silent for longer
//! than [`Patience::silence`] belongs to a process that is lost, whatever the others are waiting for.

mod message;
mod peer;
mod rendezvous;

use std::io;
use std::net::TcpStream;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use candle_core::Tensor;

use super::Group;
use crate::{Error, Result};

pub use rendezvous::Rendezvous;

use message::{Kind, LONGEST_REASON, send};
use peer::{OnLost, Peer, lock};

/// How long processes wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Until all have come.
    pub join: Duration,
    /// Without a sign of life; a process that computes gives one.
    pub silence: Duration,
}

impl Patience {
    /// A lost process is noticed after `silence`; joining may take ten times as long.
    pub fn new(silence: Duration) -> Self {
        Self { join: 10 * silence, silence }
    }
}

/// A group over TCP.
pub struct Tcp {
    rank: usize,
    size: usize,
    patience: Patience,
    /// All others for process 0, that one for the others; by rank.
    peers: Vec<Peer>,
    on_lost: Arc<OnceLock<OnLost>>,
    /// Dropped at the end: the signs of life cease.
    beating: Option<Sender<()>>,
}

impl std::fmt::Debug for Tcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tcp").field("rank", &self.rank).field("size", &self.size).finish_non_exhaustive()
    }
}

impl Tcp {
    fn start(rank: usize, size: usize, patience: Patience, streams: Vec<(usize, TcpStream)>) -> io::Result<Self> {
        let on_lost = Arc::default();
        let peers = streams.into_iter().map(|(rank, stream)| Peer::start(rank, stream, patience, &on_lost));
        let peers = peers.collect::<io::Result<Vec<_>>>()?;
        let writers: Vec<_> = peers.iter().map(|peer| Arc::clone(&peer.writer)).collect();
        let (beating, stop) = mpsc::channel();
        let beat = move || {
            while stop.recv_timeout(patience.silence / 4) == Err(RecvTimeoutError::Timeout) {
                for writer in &writers {
                    // Who writes at this moment gives a sign of life anyway.
                    if let Ok(mut stream) = writer.try_lock() {
                        // Whoever reads from it notices that it is gone.
                        let _ = send(&mut stream, Kind::Beat, &[]);
                    }
                }
            }
        };
        thread::Builder::new().name("sign-of-life".to_owned()).spawn(beat)?;
        Ok(Self { rank, size, patience, peers, on_lost, beating: Some(beating) })
    }

    /// Has `f` told as soon as another process is lost or gives up, whatever this one does at that time. Only the first `f` counts.
    #[cfg_attr(not(feature = "nccl"), allow(dead_code))]
    pub(crate) fn on_lost(&self, f: impl Fn(&str) + Send + Sync + 'static) {
        let _ = self.on_lost.set(Box::new(f));
    }

    fn to_all(&self, kind: Kind, bytes: &[u8]) -> Result<()> {
        self.peers.iter().try_for_each(|peer| peer.send(kind, bytes, self.patience.silence))
    }

    /// Adds up what all have, in the order of ranks.
    fn sum(&self, mut values: Vec<f32>) -> Result<Vec<f32>> {
        // By whole numbers: an iterator over bytes takes many times as long.
        let to_bytes = |values: &[f32]| values.iter().map(|v| v.to_le_bytes()).collect::<Vec<_>>().into_flattened();
        let wrong = |rank: usize, bytes: usize, expected: usize| Error::PeerLost {
            rank,
            what: format!("out of step: sent {bytes} bytes where {} were expected", 4 * expected),
        };
        if self.rank != 0 {
            self.to_all(Kind::Sum, &to_bytes(&values))?;
        }
        for peer in &self.peers {
            let bytes = peer.receive(Kind::Sum)?;
            if bytes.len() != 4 * values.len() {
                return Err(wrong(peer.rank, bytes.len(), values.len()));
            }
            let theirs = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
            match self.rank {
                0 => values.iter_mut().zip(theirs).for_each(|(sum, value)| *sum += value),
                _ => values.iter_mut().zip(theirs).for_each(|(sum, value)| *sum = value),
            }
        }
        if self.rank == 0 {
            self.to_all(Kind::Sum, &to_bytes(&values))?;
        }
        Ok(values)
    }
}

impl Group for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce_sum(&self, values: &Tensor) -> Result<Tensor> {
        let sum = self.sum(values.to_vec1::<f32>()?)?;
        Ok(Tensor::from_vec(sum, values.dims(), values.device())?)
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        match self.peers.first() {
            Some(leader) if self.rank != 0 => leader.receive(Kind::Tell),
            _ => self.to_all(Kind::Tell, &bytes).map(|()| bytes),
        }
    }

    fn barrier(&self) -> Result<()> {
        if self.rank != 0 {
            self.to_all(Kind::Barrier, &[])?;
        }
        self.peers.iter().try_for_each(|peer| peer.receive(Kind::Barrier).map(drop))?;
        if self.rank == 0 { self.to_all(Kind::Barrier, &[]) } else { Ok(()) }
    }

    fn abandon(&self, error: &Error) {
        let (rank, what) = match error {
            Error::PeerFailed { rank, what } => (*rank, what.clone()),
            other => (self.rank, other.to_string()),
        };
        let mut bytes = [&(rank as u32).to_le_bytes()[..], what.as_bytes()].concat();
        bytes.truncate(LONGEST_REASON as usize);
        for peer in &self.peers {
            // The one that is lost is not told.
            let _ = peer.send(Kind::Fail, &bytes, self.patience.silence);
        }
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.beating.take();
        for peer in &self.peers {
            // Reading goes on until the other end is done, too: closing now could discard what it has not read yet.
            let mut stream = lock(&peer.writer);
            let _ = send(&mut stream, Kind::Bye, &[]);
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
    }
}
