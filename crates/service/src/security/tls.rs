//! rustls configurations out of PEM files.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};

use super::reread::Faults;

/// What both ends speak.
const HTTP2: &[u8] = b"h2";

/// SHA-256 of a certificate (DER), as `openssl x509 -fingerprint -sha256` prints it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Fingerprint {
        Fingerprint(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Fingerprint, String> {
        digest(&text.replace(':', "")).map(Fingerprint)
    }
}

/// 64 hexadecimal digits.
pub(super) fn digest(text: &str) -> Result<[u8; 32], String> {
    let wrong = || "expected 64 hexadecimal digits".to_owned();
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return Err(wrong());
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = str::from_utf8(pair).map_err(|_| wrong())?;
        // A sign is no digit, though from_str_radix takes it.
        if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

/// Of a server: certificate chain, key, and the authority that clients' certificates must come from.
pub(super) fn server(contents: &[Vec<u8>]) -> Result<ServerConfig, Faults> {
    let [chain, key, authority @ ..] = contents else { return Err(vec![(0, "no certificate and key".to_owned())]) };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| vec![(0, error.to_string())])?;
    let builder = match authority {
        [] => builder.with_no_client_auth(),
        [authority, ..] => {
            let roots = Arc::new(roots(authority).map_err(|fault| vec![(2, fault)])?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| vec![(2, error.to_string())])?)
        }
    };
    let (chain, key) = identity(chain, key, 0)?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| vec![(0, error.to_string())])?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    // A resumed session would not look at the client's certificate again. Connections here are few and long.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Of a client: files in the order authority, certificate chain, key, as far as they are given. Without an authority the system's count.
pub(super) fn client(contents: &[Vec<u8>], has_authority: bool) -> Result<ClientConfig, Faults> {
    let (authority, identity_files) = match contents {
        [authority, rest @ ..] if has_authority => (Some(authority), rest),
        rest => (None, rest),
    };
    let roots = match authority {
        Some(authority) => roots(authority),
        None => system_roots(),
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| vec![(0, error.to_string())])?
        .with_root_certificates(roots.map_err(|fault| vec![(0, fault)])?);
    let first = usize::from(has_authority);
    let mut config = match identity_files {
        [chain, key] => {
            let (chain, key) = identity(chain, key, first)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| vec![(first, error.to_string())])?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// `first`: which of the sources the chain is; the key comes after it.
fn identity(
    chain: &[u8],
    key: &[u8],
    first: usize,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Faults> {
    let chain = certificates(chain).map_err(|fault| (first, fault));
    // The error names what was found, never the key.
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| (first + 1, format!("no private key in PEM: {error}")));
    match (chain, key) {
        (Ok(chain), Ok(key)) => Ok((chain, key)),
        (chain, key) => Err(chain.err().into_iter().chain(key.err()).collect()),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    if all.is_empty() { Err("no certificate in PEM".to_owned()) } else { Ok(all) }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(format!("the system has no certificate authorities{why}; give --ca"));
    }
    Ok(roots)
}
/// Whether TLS is among the causes of an error: a certificate that is not trusted, or a peer that does not speak it.
pub fn is_tls_error(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        cause = error.source();
    }
    false
}
