//! A server's side: settings, what they come to, and whether a call may be made.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use clap::ValueEnum;
use http::HeaderMap;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tonic::Status;

use super::is_loopback;
use super::reread::{Outcome, Reread, Source};
use super::tls::{self, Fingerprint};
use super::tokens::{Refusal, Tokens};
use crate::config::Problems;
use crate::shell::Counters;

/// TLS and tokens of a server.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ServerArgs {
    /// Certificate chain of this server in PEM; with --tls-key it serves TLS only. Re-read when it changes
    #[arg(long, env = "SEMLINK_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of this server in PEM
    #[arg(long, env = "SEMLINK_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Authorities in PEM; a client must then show a certificate that one of them signed (mutual TLS)
    #[arg(long, env = "SEMLINK_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// Tokens of clients, lines `ROLE[,ROLE] TOKEN [expires=TIME] [certificate=SHA256]`; every call but health checks then needs one
    #[arg(long, env = "SEMLINK_TOKENS", value_name = "FILE")]
    pub tokens: Option<PathBuf>,

    /// Where plaintext may leave this machine, by name; it never does unless asked for
    #[arg(long, env = "SEMLINK_PLAINTEXT", value_name = "NAMES", value_delimiter = ',', value_enum)]
    pub plaintext: Vec<Plaintext>,
}

/// A place where plaintext may be allowed beyond loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Plaintext {
    /// Clients of this service
    Listen,
    /// The next hop
    Next,
    /// Readers of the metrics
    Metrics,
    /// The collector of traces
    Traces,
}

/// What a server asks of its clients; cheap to clone. The default asks nothing: for loopback.
#[derive(Clone, Default)]
pub struct ServerSecurity(Arc<Inner>);

#[derive(Default)]
struct Inner {
    tls: Option<Reread<ServerConfig>>,
    mutual: bool,
    tokens: Option<Reread<Tokens>>,
}

impl ServerArgs {
    /// Whether plaintext was asked for by this name.
    pub fn allows(&self, name: Plaintext) -> bool {
        self.plaintext.contains(&name)
    }

    /// Reads the files. `listen` is where the server listens: beyond loopback it must have TLS, unless plaintext was asked for by name.
    pub fn check(&self, listen: SocketAddr, problems: &mut Problems) -> Option<ServerSecurity> {
        let source = |setting, path: &PathBuf| Source { setting, path: path.clone() };
        let mut sources = Vec::new();
        let mut whole = true;
        match (&self.tls_cert, &self.tls_key) {
            (Some(chain), Some(key)) => sources.extend([source("--tls-cert", chain), source("--tls-key", key)]),
            (None, None) => {}
            (Some(_), None) => {
                whole = false;
                problems.add("--tls-cert", "needs --tls-key, too");
            }
            (None, Some(_)) => {
                whole = false;
                problems.add("--tls-key", "needs --tls-cert, too");
            }
        }
        if let Some(authority) = &self.tls_client_ca {
            if sources.is_empty() && whole {
                whole = false;
                problems.add("--tls-client-ca", "needs --tls-cert and --tls-key, too");
            }
            sources.push(source("--tls-client-ca", authority));
        }
        let plaintext = self.tls_cert.is_none() && self.tls_key.is_none();
        if plaintext && !is_loopback(listen) && !self.allows(Plaintext::Listen) {
            whole = false;
            let what = if self.tokens.is_some() { "images, frames and tokens" } else { "images and frames" };
            problems.add(
                &format!("--listen {listen}"),
                format!(
                    "{what} would leave this machine in plaintext: give --tls-cert and --tls-key, listen on loopback, \
                     or say --plaintext listen"
                ),
            );
        }
        let tls = match whole && !sources.is_empty() {
            true => Some(Reread::open(sources, tls::server, problems)?),
            false => None,
        };
        let tokens = match &self.tokens {
            Some(path) => {
                let parse = |contents: &[Vec<u8>]| {
                    let file = contents.first().map(Vec::as_slice).unwrap_or_default();
                    Tokens::parse(file).map_err(|faults| faults.into_iter().map(|fault| (0, fault)).collect())
                };
                Some(Reread::open(vec![source("--tokens", path)], parse, problems)?)
            }
            None => None,
        };
        whole.then(|| ServerSecurity(Arc::new(Inner { tls, mutual: self.tls_client_ca.is_some(), tokens })))
    }
}

impl ServerSecurity {
    /// Looks at the files now. What changed counts for connections and calls from now on; what cannot be used is logged, and the old stays.
    pub fn reread(&self, counters: &Counters) {
        let tls = self.0.tls.as_ref().map(Reread::reread);
        let tokens = self.0.tokens.as_ref().map(Reread::reread);
        for outcome in [tls, tokens].into_iter().flatten() {
            counters.reread(outcome == Outcome::Same, outcome == Outcome::Replaced);
        }
    }

    /// Whether there are files that may change.
    pub(crate) fn has_files(&self) -> bool {
        self.0.tls.is_some() || self.0.tokens.is_some()
    }

    /// For a connection that begins now; `None`: plaintext.
    pub(crate) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.0.tls.as_ref().map(|config| TlsAcceptor::from(config.current()))
    }

    /// Whether a caller with these headers and this client certificate may make a call, by its path (`/package.Service/Method`).
    ///
    /// # Errors
    /// `UNAUTHENTICATED` or `PERMISSION_DENIED`, saying what is missing.
    #[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
    pub fn may_call(&self, path: &str, headers: &HeaderMap, certificate: Option<Fingerprint>) -> Result<(), Status> {
        self.check(path, headers, certificate).map_err(|refusal| refusal.status)
    }

    /// Whether it has TLS, and whether callers need tokens.
    pub fn asks(&self) -> (bool, bool) {
        (self.0.tls.is_some(), self.0.tokens.is_some())
    }

    /// Whether a call may be made.
    pub(crate) fn check(
        &self,
        path: &str,
        headers: &HeaderMap,
        certificate: Option<Fingerprint>,
    ) -> Result<(), Refusal> {
        match &self.0.tokens {
            Some(tokens) => tokens.current().check(path, headers, certificate, SystemTime::now()),
            None => Ok(()),
        }
    }
}

/// What is asked of clients, without any of it.
impl fmt::Display for ServerSecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (&self.0.tls, self.0.mutual) {
            (None, _) => "plaintext",
            (Some(_), false) => "TLS",
            (Some(_), true) => "mutual TLS",
        })?;
        f.write_str(if self.0.tokens.is_some() { ", tokens" } else { ", no tokens" })
    }
}

impl fmt::Debug for ServerSecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerSecurity({self})")
    }
}
