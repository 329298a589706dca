//! Who may see the page, and from where.
//!
//! A browser runs what foreign pages say, and it can reach loopback. So a change needs a header that a foreign page cannot send without asking
//! (CORS), and a plaintext page is answered under no name but those that can only mean this host (DNS rebinding).

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, COOKIE, HOST};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use semlink_service::Peer;
use tonic::Status;

use super::Dashboard;

/// What the page's own requests carry.
const OWN: HeaderName = HeaderName::from_static("x-semlink");
/// The cookie that holds a token: an event source cannot send headers.
const TOKEN: &str = "semlink-token";

/// What a request needs, as a call of the services would.
#[derive(Debug, Clone, Copy)]
pub(super) enum Need {
    See,
    Send,
    Control,
}

impl Need {
    fn path(self) -> &'static str {
        match self {
            Need::See => "/semlink.v1.Decisions/Subscribe",
            Need::Send => "/semlink.v1.Transmitter/Classify",
            Need::Control => "/semlink.v1.ChannelControl/SetChannel",
        }
    }
}

impl Dashboard {
    /// Whether a request comes from this page.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check_origin(&self, request: &Request) -> Result<(), String> {
        let peer = request.extensions().get::<Peer>();
        // A certificate vouches for the name.
        if !peer.is_some_and(|peer| peer.encrypted) {
            let host = host(request).unwrap_or_default();
            if !is_own(&host, &self.hosts) {
                return Err(format!("this page is not served under the name {host:?}; see --host"));
            }
        }
        let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
        if changes && !request.headers().contains_key(OWN) {
            return Err(format!("a request that changes something needs the header {OWN}"));
        }
        Ok(())
    }

    /// Whether a caller may do this.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` or `PERMISSION_DENIED`.
    #[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
    pub(super) fn check_token(&self, need: Need, request: &Request) -> Result<(), Status> {
        let certificate = request.extensions().get::<Peer>().and_then(|peer| peer.certificate);
        self.security.may_call(need.path(), &with_cookie(request.headers()), certificate)
    }

    /// The cookie for a token that may see the page.
    ///
    /// # Errors
    /// Those of a call with it.
    #[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
    pub(super) fn cookie(&self, token: &str, peer: Option<&Peer>) -> Result<HeaderValue, Status> {
        let malformed = |_| Status::unauthenticated("no token: it has characters that none has");
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).map_err(malformed)?);
        self.security.may_call(Need::See.path(), &headers, peer.and_then(|peer| peer.certificate))?;
        let secure = if self.security.asks().0 { "; Secure" } else { "" };
        let cookie = format!("{TOKEN}={}; Path=/; HttpOnly; SameSite=Strict{secure}", escaped(token));
        HeaderValue::try_from(cookie).map_err(malformed)
    }
}

/// Without the port.
fn host(request: &Request) -> Option<String> {
    let named = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    // HTTP/2 has it in the URI.
    let authority = named.or_else(|| request.uri().authority().map(|authority| authority.as_str()))?;
    let uri: Uri = format!("http://{authority}/").parse().ok()?;
    uri.host().map(str::to_owned)
}

fn is_own(host: &str, more: &[String]) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok()
        || more.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// The headers, with the cookie's token in the place of a missing one.
fn with_cookie(headers: &HeaderMap) -> HeaderMap {
    let mut known = HeaderMap::new();
    for value in headers.get_all(AUTHORIZATION) {
        known.append(AUTHORIZATION, value.clone());
    }
    if known.is_empty() {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs = cookies.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let token =
            pairs.into_iter().find(|(name, _)| *name == TOKEN).map(|(_, value)| format!("Bearer {}", unescaped(value)));
        known.extend(token.and_then(|token| HeaderValue::try_from(token).ok()).map(|value| (AUTHORIZATION, value)));
    }
    known
}

/// A token may have any visible character, a cookie not; so each byte goes as two hexadecimal digits.
fn escaped(token: &str) -> String {
    token.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn unescaped(text: &str) -> String {
    let pairs = text.as_bytes().chunks(2).filter_map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
    String::from_utf8(pairs.collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_mean_this_host_are_answered() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "[::1]", "10.0.0.7", "edge.example"] {
            assert!(is_own(host, &["edge.example".to_owned()]), "{host}");
        }
        for host in ["evil.example", "", "localhost.evil.example", "127.0.0.1.evil.example"] {
            assert!(!is_own(host, &["edge.example".to_owned()]), "{host}");
        }
        let request =
            |host: &str| Request::builder().header(HOST, host).body(axum::body::Body::empty()).expect("a request");
        assert_eq!(host(&request("localhost:50080")).as_deref(), Some("localhost"));
        assert_eq!(host(&request("[::1]:50080")).as_deref(), Some("[::1]"));
        assert_eq!(host(&request("a b")), None);
    }

    #[test]
    fn a_token_comes_back_out_of_its_cookie() {
        let token = "a;token=\"with, everything\\%~!";
        let mut headers = HeaderMap::new();
        let cookie = format!("other=1; {TOKEN}={}", escaped(token));
        headers.insert(COOKIE, HeaderValue::try_from(cookie).expect("a header"));
        assert_eq!(with_cookie(&headers)[AUTHORIZATION], format!("Bearer {token}"));
        // A header of its own counts.
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        assert_eq!(with_cookie(&headers)[AUTHORIZATION], "Bearer x");
    }
}
