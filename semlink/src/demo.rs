//! `semlink demo` and `semlink sweep`: the flags, the three services of the demo, and what is shown and kept.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow, ensure};
use semlink_channel::{ChannelKind, SnrDb};
use semlink_channel_emulator::CsiMode;
use semlink_codec::{EncoderHalf, Manifest};
use semlink_report::Output;
use semlink_service::peer::NextHop;
use semlink_service::security::{Credentials, ServerSecurity};
use semlink_service::shutdown;
use semlink_transmitter::rate::Rate;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::SecurityArgs;
use crate::dashboard;
use crate::files::{self, Sweep};
use crate::grid::SnrGrid;
use crate::images::{self, Dataset};
use crate::plot::{self, Clean};
use crate::progress;
use crate::report::{self, Story};
use crate::sweep::{self, Peers, Plan};
use crate::terminal;

/// Where the repository keeps the assets.
pub(crate) const ASSETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets");

/// Flags of `semlink demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    grid: GridArgs,

    /// Images for each point of the sweep
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = images_number)]
    images: usize,

    /// How the receiver knows the channel: perfect (it is told), pilots (it estimates) or none
    #[arg(long, value_name = "MODE", default_value_t = CsiMode::Perfect)]
    csi: CsiMode,

    /// Pilots before each frame [default: 8 with --csi pilots, else 0]
    #[arg(long, value_name = "P")]
    pilots: Option<usize>,

    /// With --rate auto: accuracy that a frame should have, as a fraction of the accuracy without a channel
    #[arg(long, value_name = "FRACTION", default_value_t = 0.98, allow_negative_numbers = true)]
    target: f64,

    /// Folder for sweep.json, sweep.csv and sweep.svg
    #[arg(long, value_name = "DIR", default_value = "semlink-demo")]
    out: PathBuf,

    /// Codec bundle [default: fashion-mnist of the assets]
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,

    /// IDX images file, a folder with one, or a folder with a subfolder for each class [default: sample of the assets]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,

    #[command(flatten)]
    shown: Shown,

    /// Serve a page that shows and changes the link, instead of sweeping it
    #[arg(long)]
    dashboard: bool,

    #[command(flatten)]
    page: dashboard::PageArgs,

    /// Folder with the bundle and the sample images [default: that of the repository]
    #[arg(long, env = "SEMLINK_ASSETS", value_name = "DIR", hide = true)]
    assets: Option<PathBuf>,
}

/// Flags of `semlink sweep`.
#[derive(Debug, clap::Args)]
pub(crate) struct SweepArgs {
    #[command(flatten)]
    grid: GridArgs,

    /// Address of the transmitter
    #[arg(long, env = "SEMLINK_TO", value_name = "URL", default_value = "http://127.0.0.1:50051")]
    to: NextHop,

    /// Address of the channel emulator
    #[arg(long, env = "SEMLINK_CONTROL", value_name = "URL", default_value = "http://127.0.0.1:50052")]
    control: NextHop,

    /// IDX images file with its labels file beside it, or a folder with a subfolder for each class, named by index or label
    #[arg(long, value_name = "PATH")]
    data: PathBuf,

    /// Images for each point of the sweep [default: all]
    #[arg(long, value_name = "N", value_parser = images_number)]
    images: Option<usize>,

    /// Bundle that the services hold, for its id, its classes and the physical limit
    #[arg(long, env = "SEMLINK_BUNDLE", value_name = "DIR")]
    bundle: Option<PathBuf>,

    /// Folder for sweep.json, sweep.csv and sweep.svg
    #[arg(long, value_name = "DIR", default_value = "semlink-sweep")]
    out: PathBuf,

    #[command(flatten)]
    shown: Shown,

    #[command(flatten)]
    security: SecurityArgs,
}

/// What both show.
#[derive(Debug, clap::Args)]
struct Shown {
    /// Also writes a report: one HTML file with curves, limit, confusion, calibration and sample images, which opens without a network
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,

    /// Print what sweep.json holds instead of a table and a plot
    #[arg(long)]
    json: bool,
}

/// What both sweep.
#[derive(Debug, clap::Args)]
struct GridArgs {
    /// SNRs in dB: a list -10,0,10 or a range A:B:STEP
    #[arg(long, value_name = "LIST|A:B:STEP", default_value = "-10:20:5", allow_hyphen_values = true)]
    snr: SnrGrid,

    /// Fading: awgn, rayleigh, rician
    #[arg(long, value_name = "LIST", default_value = "awgn,rayleigh", value_delimiter = ',')]
    channel: Vec<ChannelKind>,

    /// Channel uses of each frame, or auto for the choice of the transmitter's rate control
    #[arg(long, value_name = "auto|K", default_value = "64")]
    rate: Rate,
}

/// What a bundle says about itself.
pub(crate) struct About {
    pub(crate) path: PathBuf,
    pub(crate) manifest: Manifest,
}

/// What is kept of a sweep, and where.
struct Keeping<'a> {
    dataset: &'a Dataset,
    about: Option<&'a About>,
    rate: Rate,
    services: String,
    folder: &'a Path,
    json: bool,
    /// Reserved before the sweep, so that nobody waits for a report that cannot be kept.
    report: Option<Output>,
    began: SystemTime,
}

/// The demo's services, each on a port of its own.
struct Services {
    transmitter: NextHop,
    emulator: NextHop,
    tasks: JoinSet<Result<(), semlink_service::Error>>,
    stop: CancellationToken,
}

/// Sweeps the channel between three services that it starts.
pub(crate) async fn demo(args: &DemoArgs, out: &mut impl Write) -> Result<()> {
    let plan = args.grid.plan();
    let assets = args.assets.as_deref().unwrap_or(Path::new(ASSETS));
    let bundle = args.bundle.clone().unwrap_or_else(|| assets.join("fashion-mnist"));
    let data = args.data.clone().unwrap_or_else(|| assets.join("sample"));
    for (what, flag, path) in [("codec bundle", "--bundle", &bundle), ("sample images", "--data", &data)] {
        ensure!(
            path.exists(),
            "{}: the {what} is not there; name another with {flag} or the assets with SEMLINK_ASSETS",
            path.display()
        );
    }
    let about = About::of(&bundle)?;
    if let Rate::Fixed(uses) = plan.rate {
        let rates = about.manifest.rates();
        ensure!(rates.contains(&uses.get()), "--rate {uses}: this codec has {rates:?}");
    }
    let dataset = images::load(&data, Some(&about.manifest.labels), args.images)?;
    if dataset.images.len() < args.images {
        eprintln!("semlink: {} has {} images, not {}", data.display(), dataset.images.len(), args.images);
    }
    if args.dashboard {
        let listener = dashboard::bind(args.page.listen()).await?;
        let services = Services::start(args, &bundle, plan.rate).await?;
        return services.show(listener, &args.page, dataset, out).await;
    }
    files::prepare(&args.out)?;
    let keeping = Keeping {
        dataset: &dataset,
        about: Some(&about),
        rate: plan.rate,
        services: "transmitter, channel emulator and receiver on loopback, started for this sweep".to_owned(),
        folder: &args.out,
        json: args.shown.json,
        report: args.shown.report()?,
        began: SystemTime::now(),
    };
    let services = Services::start(args, &bundle, plan.rate).await?;
    let swept = services.sweep(&plan, &dataset, about.manifest.codec_id.clone()).await?;
    keeping.show(&swept, out)
}

/// Sweeps the channel between services that run already.
pub(crate) async fn sweep(args: &SweepArgs, out: &mut impl Write) -> Result<()> {
    let about = args.bundle.as_deref().map(About::of).transpose()?;
    let labels = about.as_ref().map(|about| about.manifest.labels.as_slice());
    let dataset = images::load(&args.data, labels, args.images.unwrap_or(usize::MAX))?;
    files::prepare(&args.out)?;
    let plan = args.grid.plan();
    let keeping = Keeping {
        dataset: &dataset,
        about: about.as_ref(),
        rate: plan.rate,
        services: format!("transmitter {}, channel emulator {}", args.to.as_str(), args.control.as_str()),
        folder: &args.out,
        json: args.shown.json,
        report: args.shown.report()?,
        began: SystemTime::now(),
    };
    let mut peers = Peers::connect(&args.to, &args.control, &args.security.credentials()?).await?;
    let codec_id = about.as_ref().map(|about| about.manifest.codec_id.clone());
    let mut progress = progress::on_stderr();
    let swept = sweep::run(&mut peers, &plan, &dataset, codec_id, &mut *progress, shutdown::signal()).await?;
    drop(progress);
    keeping.show(&swept, out)
}

impl Shown {
    fn report(&self) -> Result<Option<Output>> {
        let reserved = self.report.as_deref().map(Output::prepare).transpose();
        reserved.context("--report")
    }
}

impl GridArgs {
    fn plan(&self) -> Plan {
        let mut channels = Vec::new();
        for kind in &self.channel {
            if !channels.contains(kind) {
                channels.push(*kind);
            }
        }
        Plan { snr: self.snr.clone(), channels, rate: self.rate }
    }
}

impl About {
    fn of(bundle: &Path) -> Result<About> {
        let half = EncoderHalf::open(bundle).with_context(|| format!("--bundle {}", bundle.display()))?;
        Ok(About { path: bundle.to_owned(), manifest: half.manifest().clone() })
    }

    /// What the limit needs, where the bundle states it.
    pub(crate) fn clean(&self) -> Option<Clean> {
        self.manifest.clean_accuracy.map(|accuracy| Clean { accuracy, classes: self.manifest.classes() })
    }
}

impl Services {
    async fn start(args: &DemoArgs, bundle: &Path, rate: Rate) -> Result<Services> {
        let bind = || TcpListener::bind("127.0.0.1:0");
        let (receiver, emulator, transmitter) = tokio::try_join!(bind(), bind(), bind()).context("127.0.0.1")?;
        let url = |listener: &TcpListener| listener.local_addr().map(|address| format!("http://{address}"));
        let (receiver_url, emulator_url, transmitter_url) = (url(&receiver)?, url(&emulator)?, url(&transmitter)?);
        let receiver_config = semlink_receiver::Config::new(bundle);
        // Any SNR: the sweep sets its own before the first image.
        let mut emulator_config = semlink_channel_emulator::Config::new(receiver_url, SnrDb::try_new(10.0)?);
        emulator_config.csi = args.csi;
        let mut transmitter_config = semlink_transmitter::Config::new(emulator_url.clone(), bundle, rate);
        let usual = if args.csi == CsiMode::Pilots { 8 } else { 0 };
        (transmitter_config.pilots, transmitter_config.target) = (args.pilots.unwrap_or(usual), args.target);

        let stop = CancellationToken::new();
        let asked = || stop.clone().cancelled_owned();
        let mut tasks = JoinSet::new();
        tasks.spawn(semlink_receiver::serve(receiver, receiver_config, asked()));
        tasks.spawn(semlink_channel_emulator::serve(emulator, emulator_config, asked()));
        tasks.spawn(semlink_transmitter::serve(transmitter, transmitter_config, asked()));
        let hop = |url: String| url.parse::<NextHop>().map_err(|error| anyhow!(error));
        Ok(Services { transmitter: hop(transmitter_url)?, emulator: hop(emulator_url)?, tasks, stop })
    }

    async fn sweep(self, plan: &Plan, dataset: &Dataset, codec_id: String) -> Result<Sweep> {
        let (transmitter, emulator) = (self.transmitter.clone(), self.emulator.clone());
        self.during(async {
            let mut peers = Peers::connect(&transmitter, &emulator, &Credentials::none()).await?;
            let mut progress = progress::on_stderr();
            sweep::run(&mut peers, plan, dataset, Some(codec_id), &mut *progress, shutdown::signal()).await
        })
        .await
    }

    /// Serves the page until the program is stopped.
    async fn show(
        self,
        listener: TcpListener,
        page: &dashboard::PageArgs,
        dataset: Dataset,
        out: &mut impl Write,
    ) -> Result<()> {
        let link = dashboard::Link {
            to: self.transmitter.clone(),
            control: self.emulator.clone(),
            link: dashboard::DEFAULT_LINK.to_owned(),
            credentials: Credentials::none(),
            dataset: Some(dataset),
        };
        self.during(dashboard::serve(listener, page, ServerSecurity::default(), link, out)).await
    }

    /// Does some work with the services and stops them. A service that fails is told rather than what its peers make of it.
    async fn during<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Services { mut tasks, stop, .. } = self;
        let done = tokio::select! {
            done = work => done,
            Some(ended) = tasks.join_next() => Err(match ended {
                Ok(Ok(())) => anyhow!("a service ended by itself"),
                Ok(Err(error)) => error.into(),
                Err(error) => error.into(),
            }),
        };
        stop.cancel();
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        done
    }
}

impl Keeping<'_> {
    /// Writes the files, prints the table and the plot, or the JSON.
    fn show(self, sweep: &Sweep, out: &mut impl Write) -> Result<()> {
        let folder = self.folder;
        sweep.write(folder)?;
        plot::write(sweep, self.about.and_then(About::clean), folder)?;
        let report = self.report.as_ref().map(|report| report.path().to_owned());
        if let Some(output) = self.report {
            let story = Story {
                sweep,
                dataset: self.dataset,
                about: self.about,
                rate: self.rate.to_string(),
                services: self.services,
                began: self.began,
                took: self.began.elapsed().unwrap_or_default(),
            };
            report::write(&story, output)?;
        }
        if self.json {
            write!(out, "{}", sweep.json()?)?;
            return Ok(());
        }
        writeln!(out, "{}\n{}", terminal::table(sweep), terminal::plot(sweep))?;
        writeln!(out, "wrote sweep.json, sweep.csv and sweep.svg to {}", folder.display())?;
        if let Some(report) = report {
            writeln!(out, "wrote the report {}", report.display())?;
        }
        Ok(())
    }
}

fn images_number(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("expected a number of images, at least 1".to_owned()),
    }
}
