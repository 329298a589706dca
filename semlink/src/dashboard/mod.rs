//! `semlink dashboard`: one page that shows the link at work and changes it.
//!
//! The page is in the binary and fetches nothing from elsewhere. What it does goes through `Transmitter` and `ChannelControl`, so that two open
//! pages agree with each other and with `semlink channel`. While no page is open, nothing is sent and nothing is watched.

mod board;
mod codec;
mod curve;
mod feed;
mod follow;
mod guard;
mod limits;
mod live;
mod routes;
mod settings;
mod sweeping;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use semlink_proto::v1::channel_control_client::ChannelControlClient;
use semlink_proto::v1::transmitter_client::TransmitterClient;
use semlink_service::config::{ListenAddress, Problems};
use semlink_service::peer::NextHop;
use semlink_service::security::{ClientArgs, Credentials, Plaintext, ServerArgs, ServerSecurity};
use semlink_service::{shutdown, web};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinSet;

use crate::client::{self, Secured};
use crate::demo::ASSETS;
use crate::images::{self, Dataset};
use board::Board;
use live::Live;
use settings::Settings;
use sweeping::Sweeping;

/// The emulator's link of frames that name none.
pub(crate) const DEFAULT_LINK: &str = "default";
/// Events of each kind that a page gets in a second, at most.
const EVENTS: u32 = 30;

/// Flags of `semlink dashboard`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address of the transmitter
    #[arg(long, env = "SEMLINK_TO", value_name = "URL", default_value = "http://127.0.0.1:50051")]
    to: NextHop,

    /// Address of the channel emulator
    #[arg(long, env = "SEMLINK_CONTROL", value_name = "URL", default_value = "http://127.0.0.1:50052")]
    control: NextHop,

    /// Name of the emulator's link
    #[arg(long, env = "SEMLINK_LINK", value_name = "NAME", default_value = DEFAULT_LINK)]
    link: String,

    #[command(flatten)]
    page: PageArgs,

    /// Images to stream while a page is open: an IDX file with its labels file beside it, CIFAR files, or a folder with a subfolder for each class
    /// [default: the sample of the assets, where it is there]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,

    /// Folder with the sample images [default: that of the repository]
    #[arg(long, env = "SEMLINK_ASSETS", value_name = "DIR", hide = true)]
    assets: Option<PathBuf>,

    /// TLS and tokens of the page
    // Their heading counts for all that follows.
    #[command(flatten, next_help_heading = "Security of the page (docs/SECURITY.md)")]
    server: ServerArgs,

    #[command(flatten, next_help_heading = "Security of the calls to the services")]
    client: ClientArgs,
}

/// Flags of the page itself.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PageArgs {
    /// Address that the page is served at
    #[arg(long, env = "SEMLINK_DASHBOARD", value_name = "HOST:PORT", default_value = "127.0.0.1:50080")]
    listen: ListenAddress,

    /// Images that the page sends in a second; it may change it
    #[arg(long, value_name = "N", default_value_t = 25.0, value_parser = per_second)]
    images_per_second: f64,

    /// Host names that browsers may use for a page in plaintext, besides localhost and addresses: others are refused, lest foreign pages rebind
    /// their names to it
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    host: Vec<String>,

    /// Bytes of an image file that is dropped on the page
    #[arg(long, env = "SEMLINK_MAX_IMAGE_BYTES", value_name = "BYTES", default_value_t = semlink_transmitter::Config::MAX_IMAGE_BYTES)]
    max_image_bytes: usize,
}

impl PageArgs {
    /// Where the page is served.
    pub(crate) fn listen(&self) -> &ListenAddress {
        &self.listen
    }
}

/// What a page shows, and the services behind it.
pub(crate) struct Link {
    pub(crate) to: NextHop,
    pub(crate) control: NextHop,
    pub(crate) link: String,
    pub(crate) credentials: Credentials,
    pub(crate) dataset: Option<Dataset>,
}

/// All that the page's tasks and requests share.
struct Dashboard {
    link: Link,
    transmitter: TransmitterClient<Secured>,
    control: ChannelControlClient<Secured>,
    security: ServerSecurity,
    hosts: Vec<String>,
    max_image_bytes: usize,
    /// What changes seldom, and what with every frame.
    settings: Board<Settings>,
    live: Board<Live>,
    /// Open pages.
    pages: watch::Sender<usize>,
    /// The channel has been changed: an image is to go now.
    nudge: Notify,
    /// Looks at the services now.
    look: Notify,
    sweeping: Mutex<Sweeping>,
}

/// Serves the page until SIGINT or SIGTERM.
pub(crate) async fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let listener = bind(&args.page.listen).await?;
    let mut problems = Problems::new();
    let address = listener.local_addr().context("the page's address")?;
    let security = args.server.check(address, &mut problems);
    let credentials = args.client.check(&mut problems);
    let credentials = credentials.map(|known| known.with_plaintext(args.server.allows(Plaintext::Next)));
    let (security, credentials) = problems.finish(security.zip(credentials))?;
    let dataset = match &args.data {
        Some(path) => Some(images::load(path, None, usize::MAX)?),
        None => sample(args.assets.as_deref()),
    };
    let (to, control, link) = (args.to.clone(), args.control.clone(), args.link.clone());
    serve(listener, &args.page, security, Link { to, control, link, credentials, dataset }, out).await
}

/// For a page that needs a listener: the error says what to do.
pub(crate) async fn bind(listen: &ListenAddress) -> Result<TcpListener> {
    let bound = TcpListener::bind(listen.to_string()).await;
    bound.with_context(|| format!("--listen {listen}: the page cannot be served there; name another address"))
}

/// Serves the page for this link until SIGINT or SIGTERM.
pub(crate) async fn serve(
    listener: TcpListener,
    args: &PageArgs,
    security: ServerSecurity,
    link: Link,
    out: &mut impl Write,
) -> Result<()> {
    let address = listener.local_addr().context("the page's address")?;
    let (tls, tokens) = security.asks();
    let dashboard = Arc::new(Dashboard::new(link, args, security)?);
    let mut tasks = JoinSet::new();
    tasks.spawn(publish(Arc::clone(&dashboard)));
    tasks.spawn(follow::emulator(Arc::clone(&dashboard)));
    tasks.spawn(codec::follow(Arc::clone(&dashboard)));
    tasks.spawn(feed::run(Arc::clone(&dashboard)));
    tasks.spawn(limits::follow(Arc::clone(&dashboard)));
    let scheme = if tls { "https" } else { "http" };
    let note = if tokens { " (it asks for a token)" } else { "" };
    writeln!(out, "dashboard at {scheme}://{address}/{note}; Ctrl-C ends it").and_then(|()| out.flush())?;
    let security = dashboard.security.clone();
    web::serve(listener, security, routes::router(&dashboard), shutdown::signal()).await;
    dashboard.sweeping.lock().await.stop().await;
    Ok(())
}

impl Dashboard {
    fn new(link: Link, args: &PageArgs, security: ServerSecurity) -> Result<Dashboard> {
        let transmitter = TransmitterClient::new(client::connect_lazy(&link.to, &link.credentials)?);
        let control = ChannelControlClient::new(client::connect_lazy(&link.control, &link.credentials)?);
        let settings = Settings::new(&link, args.images_per_second, security.asks().1);
        Ok(Dashboard {
            transmitter,
            control,
            hosts: args.host.clone(),
            max_image_bytes: args.max_image_bytes,
            settings: Board::new(settings),
            live: Board::new(Live::default()),
            pages: watch::Sender::new(0),
            nudge: Notify::new(),
            look: Notify::new(),
            sweeping: Mutex::default(),
            link,
            security,
        })
    }

    /// Waits until a page is open.
    async fn is_watched(&self) {
        // It cannot fail: the dashboard holds the sender.
        let _ = self.pages.subscribe().wait_for(|pages| *pages > 0).await;
    }

    /// Waits until no page is open any more.
    async fn is_left(&self) {
        let _ = self.pages.subscribe().wait_for(|pages| *pages == 0).await;
    }
}

/// Shows pages what changes, so often at most.
async fn publish(dashboard: Arc<Dashboard>) {
    let pause = Duration::from_secs(1) / EVENTS;
    tokio::join!(dashboard.settings.publish(pause), dashboard.live.publish(pause));
}

/// The sample of the assets, where it is there.
fn sample(assets: Option<&Path>) -> Option<Dataset> {
    images::load(&assets.unwrap_or(Path::new(ASSETS)).join("sample"), None, usize::MAX).ok()
}

fn per_second(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "expected a number of images".to_owned())?;
    settings::check_rate(number)?;
    Ok(number)
}
