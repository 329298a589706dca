//! The address of the next service.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Endpoint, Uri};

/// To connect, and again to answer: a peer may accept connections and then say nothing.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that went without a goodbye is noticed after both of these.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 window of bytes, so that a stream of many small messages is not held up by acknowledgements.
const WINDOW: u32 = 4 << 20;

/// Names, in the metadata of a Transmit stream, the link of an emulator that its frames are for.
pub const LINK_METADATA: &str = "semlink-link";

/// Address of the next service: `http://HOST:PORT` or `https://HOST:PORT`. A name may stand for several hosts.
#[derive(Clone)]
pub struct NextHop {
    url: String,
    endpoint: Endpoint,
    host: Host,
    port: u16,
    link: Option<MetadataValue<Ascii>>,
}

#[derive(Debug, Clone)]
enum Host {
    Address(IpAddr),
    /// Resolved again and again.
    Name(String),
}

/// Checks the name of an emulator's link.
///
/// # Errors
/// What a name must be.
pub fn check_link_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if (1..=64).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(());
    }
    Err(format!("link name is {name:?}, must be 1 to 64 letters, digits, '-', '_' and '.'"))
}

impl NextHop {
    /// The URL as it was given.
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// The same, parsed.
    pub fn uri(&self) -> &Uri {
        self.endpoint.uri()
    }

    /// Which of an emulator's links the frames are for; empty: its default one.
    ///
    /// # Errors
    /// A name that is none.
    pub fn with_link(self, name: &str) -> Result<NextHop, String> {
        if name.is_empty() {
            return Ok(NextHop { link: None, ..self });
        }
        check_link_name(name)?;
        let link = name.parse().map_err(|_| format!("{name:?} is no name of a link"))?;
        Ok(NextHop { link: Some(link), ..self })
    }

    pub(super) fn link(&self) -> Option<MetadataValue<Ascii>> {
        self.link.clone()
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// Whether its addresses may change.
    pub(super) fn is_named(&self) -> bool {
        matches!(self.host, Host::Name(_))
    }

    /// The addresses that the name stands for now.
    pub(super) async fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        let name = match &self.host {
            Host::Address(address) => return Ok(vec![SocketAddr::new(*address, self.port)]),
            Host::Name(name) => name,
        };
        let found = tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::lookup_host((name.as_str(), self.port))).await;
        let found = found.map_err(|_| format!("{name} could not be resolved in {} s", CONNECT_TIMEOUT.as_secs()))?;
        let mut addresses: Vec<SocketAddr> = found.map_err(|error| format!("{name}: {error}"))?.collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(format!("{name} has no address"));
        }
        Ok(addresses)
    }

    /// A message that names the next hop.
    pub(super) fn told(&self, what: &str) -> String {
        format!("next hop {}: {what}", self.url)
    }
}

impl FromStr for NextHop {
    type Err = String;

    fn from_str(url: &str) -> Result<NextHop, String> {
        let wrong = || "no address of a service, expected http://HOST:PORT or https://HOST:PORT".to_owned();
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| wrong())?;
        let uri = endpoint.uri();
        let host = uri.host().unwrap_or_default().to_owned();
        let is_bare = uri.path_and_query().is_none_or(|path| path == "/")
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
        let (Some(port), false, true, true) = (uri.port_u16(), host.is_empty(), is_bare, is_known) else {
            return Err(wrong());
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let host = bare.parse().map_or_else(|_| Host::Name(host.clone()), Host::Address);
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .tcp_nodelay(true);
        Ok(NextHop { url: url.to_owned(), endpoint, host, port, link: None })
    }
}

impl fmt::Debug for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NextHop").field(&self.url).finish()
    }
}
