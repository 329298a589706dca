//! A client's side: whom it trusts, who it is, and what it sends along.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Error};
use tower::service_fn;

use super::reread::{Faults, Reread, Source};
use super::secret::Secret;
use super::tokens::check_secret;
use super::{is_loopback, is_loopback_host, tls};
use crate::config::Problems;

/// TLS and token of a client.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ClientArgs {
    /// Authorities in PEM that an https:// server's certificate must come from; without it the system's count
    #[arg(long, env = "SEMLINK_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// This client's certificate chain in PEM, for a server that asks for one (mutual TLS)
    #[arg(long, env = "SEMLINK_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,

    /// This client's private key in PEM
    #[arg(long, env = "SEMLINK_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// File with the token that is sent with every call
    #[arg(long, env = "SEMLINK_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// How a client connects and who it says it is; cheap to clone. The default: the system's authorities, no certificate, no token.
#[derive(Clone, Default)]
pub struct Credentials {
    inner: Arc<Inner>,
    plaintext: bool,
}

#[derive(Default)]
struct Inner {
    /// Of the given files.
    tls: Option<Reread<ClientConfig>>,
    identity: bool,
    /// With the system's authorities, once it was needed.
    system: Mutex<Option<Arc<ClientConfig>>>,
    token: Option<Reread<Header>>,
}

/// The value of the header `authorization`; marked as sensitive, so that its Debug shows nothing.
struct Header(MetadataValue<Ascii>);

/// A connection to a server.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl ClientArgs {
    /// Reads the files.
    pub fn check(&self, problems: &mut Problems) -> Option<Credentials> {
        let source = |setting, path: &PathBuf| Source { setting, path: path.clone() };
        let mut sources: Vec<Source> = self.ca.iter().map(|path| source("--ca", path)).collect();
        let mut whole = true;
        match (&self.cert, &self.key) {
            (Some(chain), Some(key)) => sources.extend([source("--cert", chain), source("--key", key)]),
            (None, None) => {}
            (Some(_), None) => {
                whole = false;
                problems.add("--cert", "needs --key, too");
            }
            (None, Some(_)) => {
                whole = false;
                problems.add("--key", "needs --cert, too");
            }
        }
        let has_authority = self.ca.is_some();
        let tls = match sources.is_empty() {
            true => None,
            false => {
                let made = Reread::open(sources, move |contents| tls::client(contents, has_authority), problems);
                whole &= made.is_some();
                made
            }
        };
        let token = match &self.token_file {
            Some(path) => {
                let made = Reread::open(vec![source("--token-file", path)], header, problems);
                whole &= made.is_some();
                made
            }
            None => None,
        };
        let inner = Inner { tls, identity: self.cert.is_some(), system: Mutex::default(), token };
        whole.then(|| Credentials { inner: Arc::new(inner), plaintext: false })
    }
}

/// Of a token file: one token, blanks and line ends around it do not count.
fn header(contents: &[Vec<u8>]) -> Result<Header, Faults> {
    let read = || {
        let text = contents.first().and_then(|file| str::from_utf8(file).ok()).ok_or("not a text")?;
        let secret = Secret::new(text.trim());
        check_secret(secret.expose())?;
        let value = format!("Bearer {}", secret.expose());
        let mut value = MetadataValue::try_from(value).map_err(|_| "no token that can be sent in a header")?;
        value.set_sensitive(true);
        Ok(Header(value))
    };
    read().map_err(|fault: String| vec![(0, fault)])
}

impl Credentials {
    /// The system's authorities, no certificate, no token.
    pub fn none() -> Credentials {
        Credentials::default()
    }

    /// No certificate and no token; a server's certificate must come from the authorities of a file.
    ///
    /// `setting` is the flag that named it.
    pub fn trusting(setting: &'static str, ca: PathBuf, problems: &mut Problems) -> Option<Credentials> {
        let sources = vec![Source { setting, path: ca }];
        let tls = Some(Reread::open(sources, |contents| tls::client(contents, true), problems)?);
        Some(Credentials { inner: Arc::new(Inner { tls, ..Inner::default() }), plaintext: false })
    }

    /// Allows plaintext, the token included, to servers beyond loopback: where a user asked for it by name.
    #[must_use]
    pub fn with_plaintext(self, allowed: bool) -> Credentials {
        Credentials { plaintext: allowed, ..self }
    }

    /// Whether a server may be called at this URL: `https`, or `http` to this machine, unless plaintext is allowed.
    ///
    /// # Errors
    /// What to do about it.
    pub fn check_next(&self, uri: &Uri, plaintext_allowed: bool) -> Result<(), String> {
        let host = uri.host().unwrap_or_default();
        match uri.scheme_str() {
            Some("https") => ServerName::try_from(bare(host).to_owned())
                .map(drop)
                .map_err(|_| format!("{host:?} is no name that a certificate can have")),
            Some("http") if is_loopback_host(host) || plaintext_allowed || self.plaintext => Ok(()),
            Some("http") => Err(format!(
                "images, frames and tokens would go to {host} in plaintext: use https://, or say --plaintext next"
            )),
            _ => Err("expected http:// or https://".to_owned()),
        }
    }

    /// Connects, to `address` where it is given (one of several behind the name), else to what the endpoint's host resolves to. The
    /// TLS server name and `:authority` come from the endpoint's URI; its connect timeout covers the TLS handshake. Whenever the
    /// channel connects again, changed certificates count.
    ///
    /// # Errors
    /// Why there is no connection, down to the cause.
    pub async fn connect(&self, endpoint: Endpoint, address: Option<SocketAddr>) -> Result<Channel, Error> {
        endpoint.connect_with_connector(service_fn(self.dialler(address))).await
    }

    /// [`Credentials::connect`] when the first call is made.
    pub fn connect_lazy(&self, endpoint: &Endpoint) -> Channel {
        endpoint.connect_with_connector_lazy(service_fn(self.dialler(None)))
    }

    /// Adds the token, if there is one.
    pub fn authorise<T>(&self, request: &mut Request<T>) {
        if let Some(token) = &self.inner.token {
            request.metadata_mut().insert("authorization", token.fresh().0.clone());
        }
    }

    /// Looks at the files now. What changed counts for connections and calls from now on; what cannot be used is logged, and the old
    /// stays. Without this they are looked at when they are used, at most once in a second.
    pub fn reread(&self) {
        if let Some(tls) = &self.inner.tls {
            tls.reread();
        }
        if let Some(token) = &self.inner.token {
            token.reread();
        }
    }

    fn dialler(
        &self,
        address: Option<SocketAddr>,
    ) -> impl Fn(Uri) -> BoxFuture<'static, io::Result<TokioIo<Stream>>> + Clone + Send + 'static {
        let credentials = self.clone();
        move |uri: Uri| {
            let credentials = credentials.clone();
            async move { credentials.dial(&uri, address).await.map(TokioIo::new) }.boxed()
        }
    }

    async fn dial(&self, uri: &Uri, address: Option<SocketAddr>) -> io::Result<Stream> {
        let host = bare(uri.host().unwrap_or_default());
        let encrypted = uri.scheme_str() == Some("https");
        let tcp = match address {
            Some(address) => TcpStream::connect(address).await?,
            None => {
                let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
                TcpStream::connect((host, port)).await?
            }
        };
        tcp.set_nodelay(true)?;
        if encrypted {
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            let config = self.config().map_err(io::Error::other)?;
            let stream = TlsConnector::from(config).connect(name, tcp).await?;
            return Ok(Stream::Tls(Box::new(stream)));
        }
        // By the address that it came to, whatever the name: a token is sent with every call.
        if self.inner.token.is_some() && !self.plaintext && !is_loopback(tcp.peer_addr()?) {
            let message = format!("the token would go to {host} in plaintext: use https://, or say --plaintext next");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Ok(Stream::Plain(tcp))
    }

    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(tls) = &self.inner.tls {
            return Ok(tls.fresh());
        }
        let mut system = self.inner.system.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = &*system {
            return Ok(Arc::clone(config));
        }
        let config =
            tls::client(&[], false).map_err(|faults| faults.into_iter().map(|(_, fault)| fault).collect::<String>())?;
        Ok(Arc::clone(system.insert(Arc::new(config))))
    }
}

/// Without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("authorities", if self.inner.tls.is_some() { &"given" } else { &"the system's" })
            .field("certificate", &self.inner.identity)
            .field("token", &self.inner.token.is_some())
            .field("plaintext", &self.plaintext)
            .finish()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
