//! Connections to the services, and what is said when they fail.

use std::error::Error as _;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use semlink_proto::v1;
use semlink_service::config::Problems;
use semlink_service::peer::NextHop;
use semlink_service::security::{ClientArgs, Credentials, Plaintext, is_tls_error};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Flags of every command that talks to services.
#[derive(Debug, Clone, Default, clap::Args)]
// Their heading counts for all that follows: they stand last wherever they are taken in.
#[command(next_help_heading = "Security (docs/SECURITY.md)")]
pub(crate) struct SecurityArgs {
    #[command(flatten)]
    client: ClientArgs,

    /// `next` allows http:// to other machines: images and the token travel in plaintext
    #[arg(
        long,
        env = "SEMLINK_PLAINTEXT",
        value_name = "NAMES",
        value_delimiter = ',',
        value_enum,
        hide_possible_values = true
    )]
    plaintext: Vec<Plaintext>,
}

/// A connection on which every call carries the token, if there is one.
pub(crate) type Secured = InterceptedService<Channel, Token>;

/// Adds the token to a call.
#[derive(Debug, Clone)]
pub(crate) struct Token(Credentials);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        self.0.authorise(&mut request);
        Ok(request)
    }
}

impl SecurityArgs {
    /// Reads the files.
    ///
    /// # Errors
    /// All that is wrong with them, in one line.
    pub(crate) fn credentials(&self) -> Result<Credentials> {
        let mut problems = Problems::new();
        let credentials = self.client.check(&mut problems);
        let credentials = problems.finish(credentials)?;
        Ok(credentials.with_plaintext(self.plaintext.contains(&Plaintext::Next)))
    }
}

/// Connects to a service; the error names the address and what to do.
pub(crate) async fn connect(to: &NextHop, credentials: &Credentials) -> Result<Secured> {
    let url = to.as_str();
    credentials.check_next(to.uri(), false).map_err(|error| anyhow!("{url}: {error}"))?;
    let endpoint = Endpoint::from(to.uri().clone()).connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    match credentials.connect(endpoint, None).await {
        Ok(channel) => Ok(InterceptedService::new(channel, Token(credentials.clone()))),
        Err(error) if is_tls_error(&error) => {
            bail!(
                "cannot reach {url}: TLS: {}; see --ca, --cert and --key, and whether it serves TLS at all",
                root(&error)
            )
        }
        Err(error) => bail!("cannot reach {url}: {}; is the service running?", root(&error)),
    }
}

/// Connects with the first call, and again whenever a call finds no connection.
pub(crate) fn connect_lazy(to: &NextHop, credentials: &Credentials) -> Result<Secured> {
    let url = to.as_str();
    credentials.check_next(to.uri(), false).map_err(|error| anyhow!("{url}: {error}"))?;
    let endpoint = Endpoint::from(to.uri().clone()).connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    Ok(InterceptedService::new(credentials.connect_lazy(&endpoint), Token(credentials.clone())))
}

/// One line for a failed call.
pub(crate) fn failed(url: &str, status: &Status) -> anyhow::Error {
    let advice = match status.code() {
        Code::Unauthenticated => "; see --token-file",
        Code::PermissionDenied => "; the token of --token-file has not the role",
        _ => "",
    };
    match status.source() {
        // A server that asks for a certificate lets the client finish its side of the handshake before it says so, and may be gone by then.
        Some(source) if url.starts_with("https:") => {
            anyhow!("{url}: {}; if it asks for a certificate, see --cert and --key", root(source))
        }
        Some(source) => anyhow!("{url}: {}", root(source)),
        None => anyhow!("{url}: {}: {}{advice}", status.code(), status.message()),
    }
}

/// What is told about the channel, as the flags call it.
pub(crate) fn csi_name(mode: v1::CsiMode) -> &'static str {
    match mode {
        v1::CsiMode::Perfect => "perfect",
        v1::CsiMode::Pilots => "pilots",
        v1::CsiMode::None => "none",
        v1::CsiMode::Unspecified => "unspecified",
    }
}

/// The last cause says what happened; the transport's own messages say only that something did.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
