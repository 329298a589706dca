//! How processes come together: process 0 listens, the others join.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use super::message::{Kind, Message, failure, receive, send, why};
use super::{Patience, Tcp};
use crate::{Error, Result};

/// First bytes of a process that wants to join; the digit counts versions of the messages.
const MAGIC: [u8; 8] = *b"semlink1";
/// A stranger who connects and says nothing does not hold up the others for longer.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Between attempts to reach process 0 before it is there.
const AGAIN: Duration = Duration::from_millis(100);
/// Between looks for a process that joins and for one that ended instead.
const LOOK: Duration = Duration::from_millis(20);

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
