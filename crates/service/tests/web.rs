//! Connections of browsers: HTTP/1.1 and HTTP/2, plaintext and TLS, and their end.

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use semlink_service::security::{ClientArgs, Credentials, ServerArgs, ServerSecurity};
use semlink_service::{Peer, web};
use support::lab::{Authority, Lab, checked, write};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;
use tower::{Service as _, ServiceExt as _, service_fn};

/// Says who asks; `/endless` begins an answer and never ends it.
async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let peer = request.extensions().get::<Peer>().expect("who asks");
    let body = if request.uri().path() == "/endless" {
        let parts = stream::unfold(false, |begun| async move {
            if begun {
                std::future::pending::<()>().await;
            }
            Some((Ok(Frame::data(Bytes::from_static(b"begun"))), true))
        });
        StreamBody::new(Box::pin(parts)).boxed()
    } else {
        let certificate = peer.certificate.map_or_else(|| "none".to_owned(), |fingerprint| fingerprint.to_string());
        let told = format!("{:?} encrypted {} certificate {certificate}", request.version(), peer.encrypted);
        Full::new(Bytes::from(told)).boxed()
    };
    Ok(Response::new(body))
}

async fn start(security: ServerSecurity) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move { stopped.await.unwrap_or_default() };
    (address, stop, tokio::spawn(web::serve(listener, security, service_fn(answer), shutdown)))
}

async fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request");
    stream
}

async fn until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(wanted) {
        assert_ne!(stream.read_buf(&mut read).await.expect("an answer"), 0, "{}", String::from_utf8_lossy(&read));
    }
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test]
async fn a_plaintext_page_ends_with_its_open_answers() {
    let (address, stop, task) = start(ServerSecurity::default()).await;
    let mut stream = ask(address, "/").await;
    assert!(until(&mut stream, "certificate none").await.contains("HTTP/1.1 encrypted false"));
    let mut endless = ask(address, "/endless").await;
    until(&mut endless, "begun").await;
    // It is cut off, and so is one that says nothing.
    let _silent = TcpStream::connect(address).await.expect("a connection");
    stop.send(()).expect("a server");
    task.await.expect("an end");
    let mut rest = Vec::new();
    // An end or an error: it is over.
    let _ = endless.read_to_end(&mut rest).await;
    TcpStream::connect(address).await.expect_err("nobody listens");
}

#[tokio::test]
async fn a_page_over_tls_knows_the_client_certificate() {
    let (lab, authority) = (Lab::new(), Authority::new("the authority"));
    let identity = authority.issue();
    let (tls_cert, tls_key) = write(&lab, "server", &authority.issue());
    let (cert, key) = write(&lab, "client", &identity);
    let ca = Some(lab.write("ca.pem", &authority.pem));
    let args = ServerArgs { tls_cert, tls_key, tls_client_ca: ca.clone(), ..ServerArgs::default() };
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let (address, stop, task) = start(checked(|problems| args.check(loopback, problems))).await;
    let url = format!("https://localhost:{}/", address.port());
    let connect = async |args: ClientArgs| {
        let credentials: Credentials = checked(|problems| args.check(problems));
        let endpoint = Endpoint::from_shared(url.clone()).expect("a URL");
        let mut channel = credentials.connect(endpoint, Some(address)).await?;
        let request = Request::get(&url).body(tonic::body::Body::empty()).expect("a request");
        channel.ready().await?.call(request).await
    };
    let answer = connect(ClientArgs { ca: ca.clone(), cert, key, ..ClientArgs::default() }).await.expect("an answer");
    let told = answer.into_body().collect().await.expect("a body").to_bytes();
    let expected = format!("HTTP/2.0 encrypted true certificate {}", identity.fingerprint);
    assert_eq!(String::from_utf8_lossy(&told), expected);
    connect(ClientArgs { ca, ..ClientArgs::default() }).await.expect_err("no certificate");
    // Plaintext to it, and others are served on.
    let mut plain = ask(address, "/").await;
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest).await;
    assert!(!String::from_utf8_lossy(&rest).contains("encrypted"));
    stop.send(()).expect("a server");
    task.await.expect("an end");
}
