//! Changes of a channel, from flags.

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, anyhow};
use semlink_channel::{ChannelKind, RicianK, SnrDb, StageSpec};
use semlink_channel_emulator::{Axis, CsiMode, Schedule, Transport, Walk};
use semlink_proto::v1::{self, GetChannelRequest, SetChannelRequest};
use semlink_service::wire;

use super::{Target, print};

/// A change.
#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    #[command(flatten)]
    change: Change,

    #[command(flatten)]
    target: Target,
}

/// The fields of a change; at least one.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Change {
    /// Average signal-to-noise ratio Es/N0 in dB, -60 to 100; ends a schedule
    #[arg(long, value_name = "DB", allow_negative_numbers = true)]
    pub(super) snr_db: Option<SnrDb>,

    /// Fading: awgn (none), rayleigh or rician, in place of what there is
    #[arg(long, value_name = "KIND")]
    pub(super) channel: Option<ChannelKind>,

    /// Rician factor K in dB, -40 to 60
    #[arg(long, value_name = "DB", allow_negative_numbers = true)]
    pub(super) k_factor_db: Option<RicianK>,

    /// Symbols over which fading is constant; 0: the whole frame
    #[arg(long, value_name = "SYMBOLS")]
    pub(super) coherence: Option<u32>,

    /// What the receiver is told about the channel
    #[arg(long, value_name = "MODE")]
    pub(super) csi: Option<CsiMode>,

    /// Seed of noise and fading
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,

    /// A stage, as in tdl,profile=A,delay_spread_ns=30; once for each, in order; together they replace all there are (see `semlink channel models`)
    #[arg(long = "stage", value_name = "MODEL[,NAME=VALUE]...", allow_hyphen_values = true)]
    pub(super) stages: Vec<StageSpec>,

    /// Probability that a frame is lost
    #[arg(long, value_name = "P")]
    loss: Option<f64>,

    /// Delay of a frame in milliseconds
    #[arg(long, value_name = "MS")]
    delay_ms: Option<f64>,

    /// The delay is uniform within plus and minus this
    #[arg(long, value_name = "MS")]
    jitter_ms: Option<f64>,

    /// Probability that a frame is not delayed and overtakes others
    #[arg(long, value_name = "P")]
    reorder: Option<f64>,

    /// Symbols that the link carries in a second; 0: any number
    #[arg(long, value_name = "RATE")]
    symbols_per_second: Option<f64>,

    /// SNR against --axis, as AT:DB,AT:DB,...; straight lines between the points, so 0:20,60:-5 is a ramp
    #[arg(long, value_name = "POINTS", conflicts_with_all = ["trace", "walk", "no_schedule"])]
    schedule: Option<Points>,

    /// SNR against --axis from a file with lines AT,DB
    #[arg(long, value_name = "FILE", conflicts_with_all = ["walk", "no_schedule"])]
    trace: Option<PathBuf>,

    /// SNR that walks at random: EVERY:STEP_DB:LOWEST_DB:HIGHEST_DB, a normal step of this deviation after every so many of --axis
    #[arg(long, value_name = "WALK", conflicts_with = "no_schedule")]
    walk: Option<WalkText>,

    /// What --schedule, --trace and --walk count in: seconds from now on, or a frame's sequence number
    #[arg(long, default_value = "seconds")]
    axis: Axis,

    /// The SNR of --schedule or --trace jumps at each point
    #[arg(long)]
    steps: bool,

    /// --schedule or --trace begins anew after its last point
    #[arg(long)]
    repeat: bool,

    /// End a schedule: the SNR stays at --snr-db
    #[arg(long)]
    no_schedule: bool,
}

/// `AT:DB,AT:DB,...`
#[derive(Debug, Clone)]
struct Points(Vec<(f64, f32)>);

/// `EVERY:STEP_DB:LOWEST_DB:HIGHEST_DB`
#[derive(Debug, Clone)]
struct WalkText(Walk);

impl FromStr for Points {
    type Err = String;

    fn from_str(text: &str) -> Result<Points, String> {
        let point = |(number, point): (usize, &str)| {
            let wrong = || format!("point {number}, {point:?}, is no AT:DB");
            let (at, db) = point.split_once(':').ok_or_else(wrong)?;
            Ok((at.trim().parse().map_err(|_| wrong())?, db.trim().parse().map_err(|_| wrong())?))
        };
        (1..).zip(text.split(',')).map(point).collect::<Result<_, String>>().map(Points)
    }
}

impl FromStr for WalkText {
    type Err = String;

    fn from_str(text: &str) -> Result<WalkText, String> {
        let wrong = || format!("{text:?} is no EVERY:STEP_DB:LOWEST_DB:HIGHEST_DB");
        let numbers: Vec<f64> =
            text.split(':').map(|part| part.trim().parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
        let [every, step_db, lowest_db, highest_db] = numbers[..] else { return Err(wrong()) };
        Ok(WalkText(Walk {
            every,
            step_db: step_db as f32,
            lowest_db: lowest_db as f32,
            highest_db: highest_db as f32,
        }))
    }
}

impl Change {
    /// The schedule that the flags describe.
    pub(super) fn schedule(&self) -> Result<Option<Schedule>> {
        let points = match (&self.schedule, &self.trace) {
            (Some(Points(points)), _) => points.clone(),
            (None, Some(path)) => Schedule::points_of(path).map_err(|error| anyhow!(error))?,
            (None, None) => Vec::new(),
        };
        let walk = self.walk.as_ref().map(|WalkText(walk)| *walk);
        if points.is_empty() && walk.is_none() {
            return Ok(None);
        }
        let schedule = Schedule { axis: self.axis, points, steps: self.steps, repeat: self.repeat, walk };
        schedule.check().map_err(|error| anyhow!(error))?;
        Ok(Some(schedule))
    }

    /// What the flags make of a transport; `None` if there are none.
    pub(super) fn transport(&self, now: Transport) -> Option<Transport> {
        let next = Transport {
            loss: self.loss.unwrap_or(now.loss),
            delay_ms: self.delay_ms.unwrap_or(now.delay_ms),
            jitter_ms: self.jitter_ms.unwrap_or(now.jitter_ms),
            reorder: self.reorder.unwrap_or(now.reorder),
            symbols_per_second: self.symbols_per_second.unwrap_or(now.symbols_per_second),
        };
        let given = [self.loss, self.delay_ms, self.jitter_ms, self.reorder, self.symbols_per_second];
        given.iter().any(Option::is_some).then_some(next)
    }

    fn request(&self, link: &str, now: &v1::ChannelProfile) -> Result<SetChannelRequest> {
        let transport = Transport::from_wire(&now.transport.unwrap_or_default()).map_err(|error| anyhow!(error))?;
        let ended = self.no_schedule.then(v1::Schedule::default);
        Ok(SetChannelRequest {
            kind: self.channel.map(|kind| wire::kind(kind).into()),
            snr_db: self.snr_db.map(SnrDb::db),
            k_factor_db: self.k_factor_db.map(RicianK::db),
            coherence: self.coherence,
            csi: self.csi.map(|mode| mode.to_wire().into()),
            seed: self.seed,
            link: link.to_owned(),
            stages: self.stages.iter().map(wire::stage).collect(),
            transport: self.transport(transport).map(|transport| transport.to_wire()),
            schedule: self.schedule()?.map(|schedule| schedule.to_wire()).or(ended),
        })
    }
}

/// Changes a channel and prints it.
pub(super) async fn run(Set { target, change }: &Set, out: &mut impl Write) -> Result<()> {
    let mut connection = target.control.connect().await?;
    // A transport is replaced as a whole: what no flag names stays as it is.
    let now = connection.client.get_channel(GetChannelRequest { link: target.link.clone() }).await;
    let request = change.request(&target.link, &connection.told(now)?)?;
    let set = connection.client.set_channel(request).await;
    print::profile(&connection.told(set)?, target.control.json, out)
}
