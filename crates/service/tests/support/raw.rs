//! Clients below gRPC.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::Code;

use super::Service;

/// A bare connection.
pub(crate) async fn connect(service: &Service) -> TcpStream {
    let tcp = TcpStream::connect(service.url.trim_start_matches("http://")).await.expect("a listening service");
    // Else the system keeps small writes back for a time that no stopped clock knows.
    tcp.set_nodelay(true).expect("an open connection");
    tcp
}

/// A client that speaks HTTP/2 as it likes.
pub(crate) struct Raw {
    pub(crate) requests: h2::client::SendRequest<Bytes>,
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
}

/// A call of it.
pub(crate) struct RawCall {
    pub(crate) answer: h2::client::ResponseFuture,
    pub(crate) body: h2::SendStream<Bytes>,
}

impl Raw {
    pub(crate) async fn connect(service: &Service, builder: &h2::client::Builder) -> Raw {
        let (requests, connection) = builder.handshake(connect(service).await).await.expect("HTTP/2");
        Raw { requests, connection: tokio::spawn(connection) }
    }

    pub(crate) async fn transmit(&mut self, headers: &[(&'static str, &'static str)]) -> RawCall {
        let mut request = Request::post("http://test/semlink.v1.Link/Transmit")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let ready = self.requests.clone().ready().await.expect("a connection");
        self.requests = ready;
        let (answer, body) = self.requests.send_request(request.body(()).expect("a request"), false).expect("a stream");
        RawCall { answer, body }
    }
}

/// The status of an answer that has no messages.
pub(crate) async fn status(answer: Response<h2::RecvStream>) -> (Code, String) {
    let (head, mut body) = answer.into_parts();
    let of = |headers: &HeaderMap| {
        let text = |name| headers.get(name).map(|value| value.to_str().expect("text").to_owned());
        text("grpc-status").map(|code| (Code::from_bytes(code.as_bytes()), text("grpc-message").unwrap_or_default()))
    };
    if let Some(status) = of(&head.headers) {
        return status;
    }
    let message = body.data().await;
    assert!(message.is_none(), "{message:?}");
    of(&body.trailers().await.expect("no reset").expect("trailers")).expect("a status")
}
