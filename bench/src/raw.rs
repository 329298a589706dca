//! `Link.Transmit` with as little work as HTTP/2 allows, so that a measurement is one of what stands between: the client sends bytes that were
//! encoded before, the sink reads no more of a frame than its id.

use std::convert::Infallible;
use std::task::{Context as TaskContext, Poll};

use anyhow::{Result, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt as _};
use futures::{Stream, StreamExt as _, stream};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message as _;
use semlink_proto::v1;
use semlink_service::peer::LINK_METADATA;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::{Status, transport};

/// Bytes before each message of a gRPC stream: 0 for uncompressed, then the length, big-endian.
const PREFIX: usize = 5;
/// Messages that go into one piece of a body together, where they are small.
const TOGETHER: usize = 64;
/// Symbols of more bytes go as a piece of their own, without a copy.
const COPIED: usize = 4096;
/// Bytes of a message that are looked at: a report as a whole.
const KEPT: usize = 1024;

/// Cuts a stream of pieces into messages, of which it keeps the beginning.
struct Splitter {
    keep: usize,
    begun: Vec<u8>,
    /// Bytes of the message at hand that are still to come; `None` while its prefix is incomplete.
    left: Option<usize>,
}

/// Frames of one stream, alike but for their numbers.
pub(crate) struct Frames {
    stream: u64,
    symbols: Bytes,
    next: u64,
}

/// The Link at the end: reports each frame at once.
#[derive(Clone)]
pub(crate) struct Sink;

/// Reports of one stream.
pub(crate) struct Reports {
    body: Body,
    splitter: Splitter,
}

impl Splitter {
    fn new(keep: usize) -> Splitter {
        Splitter { keep: keep + PREFIX, begun: Vec::with_capacity(keep + PREFIX), left: None }
    }

    /// Tells each message that is complete: its length and how it begins.
    fn feed(&mut self, mut piece: Bytes, mut told: impl FnMut(usize, &[u8])) {
        while !piece.is_empty() {
            if self.left.is_none() {
                self.take(&mut piece, PREFIX);
                if let &[_, a, b, c, d] = self.begun.as_slice() {
                    self.left = Some(u32::from_be_bytes([a, b, c, d]) as usize);
                }
            }
            let Some(left) = self.left else { return };
            let before = piece.len();
            let mut message = piece.split_to(left.min(before));
            let taken = message.len();
            self.take(&mut message, self.keep);
            self.left = Some(left - taken);
            if left == taken {
                let length = self.begun.get(1..PREFIX).map_or(0, |mut length| length.get_u32() as usize);
                told(length, self.begun.get(PREFIX..).unwrap_or_default());
                self.begun.clear();
                self.left = None;
            }
        }
    }

    /// Moves what is missing to `upto` kept bytes.
    fn take(&mut self, piece: &mut Bytes, upto: usize) {
        let missing = upto.saturating_sub(self.begun.len()).min(piece.len());
        self.begun.extend_from_slice(&piece.split_to(missing));
    }
}

/// The id that a frame or report begins with: encoders write fields in order, and none for 0.
fn id(message: &[u8]) -> u64 {
    match message {
        [0x08, rest @ ..] => prost::encoding::decode_varint(&mut &*rest).unwrap_or(0),
        _ => 0,
    }
}

impl Frames {
    pub(crate) fn new(stream: u64, symbols: usize) -> Frames {
        let symbols =
            (0..symbols).flat_map(|i| [(i as f32).cos(), (i as f32).sin()]).flat_map(f32::to_le_bytes).collect();
        Frames { stream, symbols, next: 1 }
    }

    /// The next frame up to the bytes of its symbols, which are the last field's.
    fn write(&mut self, bytes: &mut BytesMut) {
        let (id, stream) = (self.next, self.stream);
        self.next += 1;
        let fields = v1::Frame { id, stream, sequence: id, codec_id: "bench".into(), ..Default::default() };
        let symbols = v1::Frame { symbols: self.symbols.clone(), ..Default::default() };
        let length = fields.encoded_len() + symbols.encoded_len();
        bytes.put_u8(0);
        bytes.put_u32(length as u32);
        bytes.put_slice(&fields.encode_to_vec());
        // Field 3, of known length.
        bytes.put_u8(0x1a);
        prost::encoding::encode_varint(self.symbols.len() as u64, bytes);
    }

    /// Pieces of a body, one frame for each message of `asked`; what is asked for together goes together.
    fn pieces(self, asked: mpsc::Receiver<()>) -> impl Stream<Item = Bytes> {
        stream::unfold((self, asked, Vec::new()), |(mut frames, mut asked, mut many)| async move {
            if asked.recv_many(&mut many, TOGETHER).await == 0 {
                return None;
            }
            let mut pieces = Vec::new();
            let mut bytes = BytesMut::new();
            for () in many.drain(..) {
                frames.write(&mut bytes);
                if frames.symbols.len() > COPIED {
                    pieces.extend([bytes.split().freeze(), frames.symbols.clone()]);
                } else {
                    bytes.put_slice(&frames.symbols);
                }
            }
            if !bytes.is_empty() {
                pieces.push(bytes.freeze());
            }
            Some((stream::iter(pieces), (frames, asked, many)))
        })
        .flatten()
    }

    /// Opens a stream that sends a frame for each message of `asked`, over the emulator's link of this name.
    pub(crate) async fn transmit(
        self,
        channel: &mut transport::Channel,
        link: &str,
        asked: mpsc::Receiver<()>,
    ) -> Result<Reports> {
        let pieces = self.pieces(asked).map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        let request = Request::post("/semlink.v1.Link/Transmit")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header(LINK_METADATA, link)
            .body(Body::new(StreamBody::new(Box::pin(pieces))))?;
        futures::future::poll_fn(|context| channel.poll_ready(context)).await?;
        let response = channel.call(request).await?;
        if let Some(status) = Status::from_header_map(response.headers()) {
            ensure!(status.code() == tonic::Code::Ok, "{status}");
        }
        ensure!(response.status().is_success(), "status {}", response.status());
        Ok(Reports { body: response.into_body(), splitter: Splitter::new(KEPT) })
    }
}

impl Reports {
    /// The reports of the next piece, perhaps none yet.
    pub(crate) async fn next(&mut self) -> Result<Vec<v1::FrameReport>> {
        let Some(frame) = self.body.frame().await else { anyhow::bail!("the stream ended") };
        let piece = match frame?.into_data() {
            Ok(piece) => piece,
            Err(last) => {
                anyhow::bail!(
                    "the stream ended: {:?}",
                    last.into_trailers().ok().as_ref().and_then(Status::from_header_map)
                )
            }
        };
        let mut reports = Vec::new();
        self.splitter.feed(piece, |_, message| reports.push(v1::FrameReport::decode(message)));
        Ok(reports.into_iter().collect::<Result<_, _>>()?)
    }
}

impl Sink {
    /// Reports of the frames of a body.
    fn reports(body: Body) -> impl Stream<Item = Bytes> {
        let truth = v1::ChannelTruth {
            snr_db_requested: 10.0,
            snr_db_realised: 9.5,
            seed: 1,
            profile_version: 1,
            ..Default::default()
        };
        let state = (body, Splitter::new(16), v1::FrameReport { truth: Some(truth), ..Default::default() });
        stream::unfold(state, |(mut body, mut splitter, mut report)| async move {
            let piece = body.frame().await?.ok()?.into_data().ok()?;
            let mut bytes = BytesMut::new();
            splitter.feed(piece, |length, message| {
                report.id = id(message);
                report.uses = (length / 8) as u32;
                bytes.put_u8(0);
                bytes.put_u32(report.encoded_len() as u32);
                bytes.put_slice(&report.encode_to_vec());
            });
            Some((bytes.freeze(), (body, splitter, report)))
        })
        .filter(|bytes| futures::future::ready(!bytes.is_empty()))
    }
}

impl NamedService for Sink {
    const NAME: &'static str = "semlink.v1.Link";
}

impl Service<Request<Body>> for Sink {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let reports = Sink::reports(request.into_body()).map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        let mut response = Response::new(Body::new(StreamBody::new(Box::pin(reports))));
        response
            .headers_mut()
            .insert("content-type", tonic::codegen::http::HeaderValue::from_static("application/grpc"));
        futures::future::ready(Ok(response)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_wherever_the_pieces_are_cut() {
        let mut frames = Frames::new(3, 4);
        let mut bytes = BytesMut::new();
        for _ in 0..3 {
            frames.write(&mut bytes);
            bytes.put_slice(&frames.symbols);
        }
        for cut in 1..bytes.len() {
            let (mut splitter, mut ids) = (Splitter::new(64), Vec::new());
            for piece in bytes.chunks(cut) {
                splitter.feed(Bytes::copy_from_slice(piece), |_, message| {
                    let frame = v1::Frame::decode(message).expect("a frame");
                    assert_eq!((frame.stream, frame.symbols.len(), id(message)), (3, 32, frame.id));
                    ids.push(frame.id);
                });
            }
            assert_eq!(ids, [1, 2, 3], "pieces of {cut} bytes");
        }
    }
}
