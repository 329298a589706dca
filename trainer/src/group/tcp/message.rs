//! Messages: kind, length, content.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::Error;

/// Of what a process says when it gives up.
pub(super) const LONGEST_REASON: u64 = 64 << 10;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
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
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) bytes: Vec<u8>,
}

pub(super) fn send(stream: &mut TcpStream, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let mut head = [kind as u8; 9];
    head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    stream.write_all(&head)?;
    stream.write_all(bytes)
}

pub(super) fn receive(stream: &mut TcpStream, most: u64) -> io::Result<Message> {
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
pub(super) fn why(error: &io::Error, silence: Duration) -> String {
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

/// What a peer said when it gave up.
pub(super) fn failure(from: usize, bytes: &[u8]) -> Error {
    let (rank, what) = match bytes.split_first_chunk::<4>() {
        Some((rank, what)) => (u32::from_le_bytes(*rank) as usize, what),
        None => (from, bytes),
    };
    Error::PeerFailed { rank, what: String::from_utf8_lossy(what).replace('\n', " ") }
}
