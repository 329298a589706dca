//! Who may talk to whom: TLS, client certificates, tokens; files that hold them are re-read when they change.

mod client;
mod reread;
mod secret;
mod server;
mod tls;
mod tokens;

use std::net::{IpAddr, SocketAddr};

pub use client::{ClientArgs, Credentials};
pub use secret::Secret;
pub use server::{Plaintext, ServerArgs, ServerSecurity};
pub use tls::Fingerprint;
pub use tls::is_tls_error;
pub use tokens::Role;
pub(crate) use tokens::is_open_to_all;

/// Whether bytes to this address leave the machine; an IPv4 address may be written as an IPv6 one.
pub(crate) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Whether a URL's host is this machine for certain: `localhost` or a loopback address.
pub(crate) fn is_loopback_host(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}
