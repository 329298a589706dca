//! A group over TCP: every process has one connection, to process 0, which adds up and sends round.
//!
//! A message is its kind (one byte), the length of what follows (u64, little-endian) and that. Each end has a thread that reads all the time, so
//! that a sender never waits for a peer that is busy, and one that sends a sign of life now and then: a connection that is silent for longer
//! than [`Patience::silence`] belongs to a process that is lost, whatever the others are waiting for.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use candle_core::Tensor;

use super::Group;
use crate::{Error, Result};

/// First bytes of a process that wants to join; the digit counts versions of the messages.
const MAGIC: [u8; 8] = *b"semlink1";
/// A stranger who connects and says nothing does not hold up the others for longer.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Between attempts to reach process 0 before it is there.
const AGAIN: Duration = Duration::from_millis(100);
/// Between looks for a process that joins and for one that ended instead.
const LOOK: Duration = Duration::from_millis(20);
/// Of what a process says when it gives up.
const LONGEST_REASON: u64 = 64 << 10;

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

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// A sign of life, empty.
    Beat = 0,
    /// A process that wants to join: magic, size and rank.
    Hello = 1,
    /// All have joined, empty.
    Welcome = 2,
    /// A summand or a sum.
    Sum = 3,
    /// What process 0 tells all.
    Tell = 4,
    /// A process that has come to a barrier, or may leave it; empty.
    Barrier = 5,
    /// A process that gives up: whose fault it is (u32) and why.
    Fail = 6,
    /// A process that is done, empty.
    Bye = 7,
}

impl Kind {
    const ALL: [Self; 8] =
        [Self::Beat, Self::Hello, Self::Welcome, Self::Sum, Self::Tell, Self::Barrier, Self::Fail, Self::Bye];
}

#[derive(Debug)]
struct Message {
    kind: Kind,
    bytes: Vec<u8>,
}

fn send(stream: &mut TcpStream, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let mut head = [kind as u8; 9];
    head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    stream.write_all(&head)?;
    stream.write_all(bytes)
}

fn receive(stream: &mut TcpStream, most: u64) -> io::Result<Message> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    let kind = Kind::ALL.into_iter().find(|known| *known as u8 == kind).ok_or_else(|| bad("not a message"))?;
    let length = u64::from_le_bytes(length);
    let most = if kind == Kind::Fail { LONGEST_REASON } else { most };
    if length > most {
        return Err(bad("a message that is too long"));
    }
    // Grows with what comes, so that a wrong length allocates nothing.
    let mut bytes = Vec::new();
    stream.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Message { kind, bytes })
}

/// What an error of a connection means to a person.
fn why(error: &io::Error, silence: Duration) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("no sign of life for {} s", silence.as_secs_f64())
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "its connection closed".to_owned()
        }
        _ => error.to_string(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Told of a peer that is lost or gave up, on the thread that noticed.
type OnLost = Box<dyn Fn(&str) + Send + Sync>;

/// The other end of a connection.
#[derive(Debug)]
struct Peer {
    rank: usize,
    writer: Arc<Mutex<TcpStream>>,
    inbox: Mutex<Receiver<Result<Message>>>,
}

impl Peer {
    fn start(rank: usize, stream: TcpStream, patience: Patience, on_lost: &Arc<OnceLock<OnLost>>) -> io::Result<Self> {
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

    fn send(&self, kind: Kind, bytes: &[u8], silence: Duration) -> Result<()> {
        let sent = send(&mut lock(&self.writer), kind, bytes);
        sent.map_err(|error| {
            // What it said before it went tells more than that it went.
            match lock(&self.inbox).try_iter().find_map(Result::err) {
                Some(said) => said,
                None => Error::PeerLost { rank: self.rank, what: why(&error, silence) },
            }
        })
    }

    fn receive(&self, kind: Kind) -> Result<Vec<u8>> {
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

/// What a peer said when it gave up.
fn failure(from: usize, bytes: &[u8]) -> Error {
    let (rank, what) = match bytes.split_first_chunk::<4>() {
        Some((rank, what)) => (u32::from_le_bytes(*rank) as usize, what),
        None => (from, bytes),
    };
    Error::PeerFailed { rank, what: String::from_utf8_lossy(what).replace('\n', " ") }
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

/// Where processes meet: process 0 listens here.
#[derive(Debug)]
pub struct Rendezvous {
    listener: TcpListener,
    address: SocketAddr,
}

impl Rendezvous {
    /// Listens on `HOST:PORT`; port 0 takes a free one.
    ///
    /// # Errors
    /// The address is not this host's, or taken.
    pub fn bind(address: &str) -> Result<Self> {
        let fail =
            |e: io::Error| Error::Group(format!("rendezvous {address}: {e}; expected HOST:PORT of process 0's host"));
        let listener = TcpListener::bind(address).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        Ok(Self { listener, address })
    }

    /// Where the others have to go.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for `size` - 1 others; this process is number 0. `ended` waits up to a time for a process that ended instead of joining.
    ///
    /// # Errors
    /// Not all have come in time, or one has ended.
    pub fn gather(
        self,
        size: usize,
        patience: Patience,
        mut ended: impl FnMut(Duration) -> Option<Error>,
    ) -> Result<Tcp> {
        let fail = |e: io::Error| Error::Group(format!("rendezvous {}: {e}", self.address));
        self.listener.set_nonblocking(true).map_err(fail)?;
        let deadline = Instant::now() + patience.join;
        let mut joined: Vec<Option<TcpStream>> = (1..size).map(|_| None).collect();
        while joined.iter().any(Option::is_none) {
            match self.listener.accept() {
                Ok((mut stream, _)) => match hello(&mut stream, size, patience) {
                    Ok(rank) => match &mut joined[rank - 1] {
                        place @ None => *place = Some(stream),
                        Some(_) => {
                            refuse(&mut stream, &format!("process {rank} is there already: give each its own --rank"))
                        }
                    },
                    Err(Some(what)) => refuse(&mut stream, &what),
                    // A stranger.
                    Err(None) => {}
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(error) = ended(LOOK) {
                        return Err(error);
                    }
                }
                // Of one connection, not of the listener.
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                let absent = joined.iter().enumerate().filter(|(_, place)| place.is_none());
                let absent: Vec<String> = absent.map(|(i, _)| (i + 1).to_string()).collect();
                let what = format!(
                    "rendezvous {}: process {} of {size} did not come within {} s",
                    self.address,
                    absent.join(", "),
                    patience.join.as_secs_f64()
                );
                joined.iter_mut().flatten().for_each(|stream| refuse(stream, &what));
                return Err(Error::Group(what));
            }
        }
        let streams = joined.into_iter().flatten().enumerate().map(|(i, stream)| (i + 1, stream)).collect();
        let group = Tcp::start(0, size, patience, streams).map_err(fail)?;
        group.to_all(Kind::Welcome, &[])?;
        Ok(group)
    }
}

/// The rank of a process that joins; if it cannot, what to tell it, and nothing for strangers.
fn hello(stream: &mut TcpStream, size: usize, patience: Patience) -> std::result::Result<usize, Option<String>> {
    let stranger = |_| None;
    stream.set_nonblocking(false).map_err(stranger)?;
    stream.set_read_timeout(Some(HELLO_WITHIN.min(patience.silence))).map_err(stranger)?;
    let message = receive(stream, 16).map_err(stranger)?;
    let (magic, numbers) = message.bytes.split_first_chunk::<8>().ok_or(None)?;
    if message.kind != Kind::Hello || *magic != MAGIC {
        return Err(None);
    }
    let number = |at: usize| Some(u32::from_le_bytes(numbers.get(at..at + 4)?.try_into().ok()?) as usize);
    let (Some(theirs), Some(rank)) = (number(0), number(4)) else { return Err(None) };
    if theirs != size {
        return Err(Some(format!("--world-size is {theirs} for process {rank}, but {size} for process 0")));
    }
    if !(1..size).contains(&rank) {
        return Err(Some(format!("--rank {rank}: expected 1 to {}", size - 1)));
    }
    Ok(rank)
}

fn refuse(stream: &mut TcpStream, what: &str) {
    // Who does not listen is gone already.
    let _ = send(stream, Kind::Fail, &[&0u32.to_le_bytes()[..], what.as_bytes()].concat());
}

impl Tcp {
    /// Joins, as number `rank` of `size`, the group of the process 0 that listens at `address`, `HOST:PORT`; waits for it if need be.
    ///
    /// # Errors
    /// It does not come in time, or does not want this process.
    pub fn join(address: &str, rank: usize, size: usize, patience: Patience) -> Result<Self> {
        let fail = |what: String| Error::Group(format!("process {rank}, rendezvous {address}: {what}"));
        let mut stream = reach(address, patience.join).map_err(fail)?;
        let io = |e: io::Error| fail(why(&e, patience.join));
        let numbers = [size as u32, rank as u32].map(u32::to_le_bytes).concat();
        stream.set_read_timeout(Some(patience.join)).map_err(io)?;
        send(&mut stream, Kind::Hello, &[&MAGIC[..], &numbers].concat()).map_err(io)?;
        match receive(&mut stream, 0).map_err(io)? {
            Message { kind: Kind::Welcome, .. } => Self::start(rank, size, patience, vec![(0, stream)]).map_err(io),
            Message { kind: Kind::Fail, bytes } => Err(failure(0, &bytes)),
            _ => Err(fail("another program listens there".to_owned())),
        }
    }

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

/// Connects to an address where somebody may listen only later.
fn reach(address: &str, within: Duration) -> std::result::Result<TcpStream, String> {
    let deadline = Instant::now() + within;
    loop {
        let mut last = "the name has no address".to_owned();
        match address.to_socket_addrs() {
            Err(e) => last = e.to_string(),
            Ok(found) => {
                for one in found {
                    let left = deadline.saturating_duration_since(Instant::now()).max(AGAIN);
                    match TcpStream::connect_timeout(&one, left) {
                        Ok(stream) => return Ok(stream),
                        Err(e) => last = e.to_string(),
                    }
                }
            }
        }
        if Instant::now() + AGAIN >= deadline {
            return Err(format!("not reached within {} s: {last}", within.as_secs_f64()));
        }
        thread::sleep(AGAIN);
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
