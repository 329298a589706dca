//! Bodies of requests and answers that keep account of their call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Code, Status};

use super::call::{Call, Place};
use super::front::Shared;
use super::{Peer, front};

/// Bytes before a gRPC message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// What a client sends. It ends with `DEADLINE_EXCEEDED` when the client was given up, with `UNIMPLEMENTED` at a compressed message.
pub(super) struct Request {
    body: Incoming,
    call: Arc<Call>,
    messages: Messages,
    account: Account,
    failed: bool,
}

/// What a client is answered.
pub(super) struct Answer {
    body: tonic::body::Body,
    /// `None` for calls that are not watched.
    held: Option<Held>,
}

/// What an open call holds.
pub(super) struct Held {
    pub(super) place: Place,
    pub(super) account: Account,
    pub(super) messages: Messages,
    pub(super) _open: OpenCall,
}

/// Counts an open call, which may have one of the permits.
pub(super) struct OpenCall {
    pub(super) shared: Arc<Shared>,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Whose call it is, where it counts.
#[derive(Clone)]
pub(super) struct Account {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: Peer,
}

/// Finds where gRPC messages begin and end.
#[derive(Debug, Default)]
pub(super) struct Messages {
    prefix: usize,
    length: u32,
    left: u32,
}

/// What some bytes brought.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    whole: u64,
    compressed: bool,
}

impl Messages {
    fn feed(&mut self, mut bytes: &[u8]) -> Found {
        let mut found = Found::default();
        while let Some((&first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let take = bytes.len().min(self.left as usize);
                // At most `left`.
                self.left -= take as u32;
                bytes = bytes.get(take..).unwrap_or_default();
            } else {
                if self.prefix == 0 {
                    found.compressed |= first == 1;
                    self.length = 0;
                } else {
                    self.length = self.length << 8 | u32::from(first);
                }
                self.prefix += 1;
                bytes = rest;
                if self.prefix < PREFIX {
                    continue;
                }
                self.left = self.length;
            }
            if self.left == 0 {
                self.prefix = 0;
                found.whole += 1;
            }
        }
        found
    }

    fn within(&self) -> bool {
        self.prefix > 0
    }
}

impl Request {
    pub(super) fn new(body: Incoming, call: Arc<Call>, account: Account) -> Request {
        if body.is_end_stream() {
            call.ends_reading();
        }
        Request { body, call, messages: Messages::default(), account, failed: false }
    }

    fn fail(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.failed = true;
        self.call.ends_reading();
        Poll::Ready(Some(Err(status)))
    }
}

impl Body for Request {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.failed {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref() {
                    let found = this.messages.feed(bytes);
                    this.call.received(found.whole, this.messages.within());
                    if found.compressed {
                        this.account.refused_message("compressed", &this.call.path);
                        return this.fail(front::compressed());
                    }
                }
                if this.body.is_end_stream() {
                    this.call.ends_reading();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => this.fail(Status::from_error(Box::new(error))),
            Poll::Ready(None) => {
                this.call.ends_reading();
                Poll::Ready(None)
            }
            Poll::Pending if this.call.is_given_up(cx) => {
                let idle = this.account.shared.limits.idle.as_secs_f64();
                this.fail(Status::deadline_exceeded(format!("idle: no whole message within {idle} s")))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.call.ends_reading();
    }
}

impl Answer {
    /// Of a call that holds nothing.
    pub(super) fn plain(body: tonic::body::Body) -> Answer {
        Answer { body, held: None }
    }

    pub(super) fn watched(body: tonic::body::Body, held: Held) -> Answer {
        Answer { body, held: Some(held) }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Some(held) = &mut this.held else { return Pin::new(&mut this.body).poll_frame(cx) };
        held.place.call.asked();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            if let Some(bytes) = frame.data_ref() {
                held.place.call.answered(held.messages.feed(bytes).whole);
            }
            if let Some(trailers) = frame.trailers_ref() {
                held.account.look_at(trailers, &held.place.call.path);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Account {
    /// A status among the answer's headers that says that a message was too large.
    pub(super) fn look_at(&self, headers: &http::HeaderMap, path: &str) {
        let code = headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
        if code == Some(Code::OutOfRange) {
            self.refused_message("size", path);
        }
    }

    pub(super) fn refused_message(&self, reason: &'static str, path: &str) {
        super::counters::count(&self.shared.counters.messages_refused, reason);
        if let Some(swallowed) = self.shared.quiet.may_tell(self.peer.address) {
            tracing::warn!(peer = %self.peer.address, path, reason, swallowed, "message refused");
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.shared.counters.calls.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize, compressed: bool) -> Vec<u8> {
        let mut bytes = vec![u8::from(compressed)];
        bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
        bytes.resize(PREFIX + length, 7);
        bytes
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let bytes = [message(0, false), message(3, false), message(300, false), message(0, false)].concat();
        for cut in 1..=bytes.len() {
            let mut messages = Messages::default();
            let whole: u64 = bytes.chunks(cut).map(|part| messages.feed(part).whole).sum();
            assert_eq!((whole, messages.within()), (4, false), "{cut}");
        }
        let mut messages = Messages::default();
        assert_eq!(messages.feed(&bytes[..7]), Found { whole: 1, compressed: false });
        assert!(messages.within());
    }

    #[test]
    fn a_compressed_message_shows_at_its_first_byte() {
        let mut messages = Messages::default();
        assert!(!messages.feed(&message(1, false)).compressed);
        assert!(messages.feed(&[1]).compressed);
    }
}
