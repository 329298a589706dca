//! Links made, taken away, listed, brought to what a file says, and recorded.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use clap::Subcommand;
use semlink_channel::{Chain, ChannelConfig, ChannelKind, SnrDb};
use semlink_channel_emulator::{LinkConfig, Transport, read_links};
use semlink_proto::v1::{
    CreateLinkRequest, DeleteLinkRequest, ListLinksRequest, PopulateLinksRequest, StartRecordingRequest,
    StopRecordingRequest,
};
use serde_json::json;

use super::change::Change;
use super::{Control, Target, print};

/// A new link.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Name of the link: letters, digits, '-', '_' and '.'
    name: String,

    /// The Link that its frames go to
    #[arg(long, value_name = "URL")]
    next: String,

    /// The link's name there, if that is an emulator, too
    #[arg(long, value_name = "NAME", default_value = "")]
    next_link: String,

    #[command(flatten)]
    channel: Change,

    #[command(flatten)]
    control: Control,
}

/// A link to take away.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// Name of the link
    name: String,

    #[command(flatten)]
    control: Control,
}

/// Links to be there.
#[derive(Debug, clap::Args)]
pub(crate) struct Populate {
    /// File of links in TOML, as the emulator's --links, see docs/EMULATOR.md
    file: PathBuf,

    #[command(flatten)]
    control: Control,
}

/// What to do with a recording.
#[derive(Debug, Subcommand)]
pub(crate) enum Record {
    /// Begin: NAME-before.sigmf-meta and so on, in the emulator's --recordings
    Start {
        /// Name of the recording
        name: String,

        #[command(flatten)]
        target: Target,
    },
    /// Finish the files and print where they are
    Stop(Target),
}

/// Makes a link and prints its channel.
pub(super) async fn create(create: &Create, out: &mut impl Write) -> Result<()> {
    let Create { name, next, next_link, control, channel } = create;
    let stages = if channel.stages.is_empty() {
        let config = ChannelConfig {
            kind: channel.channel.unwrap_or(ChannelKind::Awgn),
            snr: channel.snr_db.map_or_else(|| SnrDb::try_new(10.0), Ok)?,
            k_factor: channel.k_factor_db.unwrap_or_default(),
            coherence: channel.coherence.unwrap_or(0) as usize,
        };
        Chain::from(config).specs().to_vec()
    } else {
        channel.stages.clone()
    };
    let link = LinkConfig {
        name: name.clone(),
        next: next.clone(),
        next_link: next_link.clone(),
        csi: channel.csi.unwrap_or_default(),
        seed: channel.seed.unwrap_or(0),
        stages,
        transport: channel.transport(Transport::default()).unwrap_or_default(),
        schedule: channel.schedule()?,
    };
    let mut connection = control.connect().await?;
    let created = connection.client.create_link(CreateLinkRequest { link: Some(link.to_wire()) }).await;
    print::profile(&connection.told(created)?.profile.unwrap_or_default(), control.json, out)
}

/// Takes a link away.
pub(super) async fn delete(Delete { name, control }: &Delete) -> Result<()> {
    let mut connection = control.connect().await?;
    let deleted = connection.client.delete_link(DeleteLinkRequest { link: name.clone() }).await;
    connection.told(deleted).map(|_| ())
}

/// Prints all links.
pub(super) async fn list(control: &Control, out: &mut impl Write) -> Result<()> {
    let mut connection = control.connect().await?;
    let listed = connection.client.list_links(ListLinksRequest {}).await;
    for link in connection.told(listed)?.links {
        print::link(&link, control.json, out)?;
    }
    Ok(())
}

/// Brings links to what a file says and prints what that took.
pub(super) async fn populate(Populate { file, control }: &Populate, out: &mut impl Write) -> Result<()> {
    let links = read_links(file).map_err(|error| anyhow!(error))?;
    let mut connection = control.connect().await?;
    let links = links.iter().map(LinkConfig::to_wire).collect();
    let populated = connection.client.populate_links(PopulateLinksRequest { links }).await;
    let done = connection.told(populated)?;
    if control.json {
        let object = json!({"created": done.created, "changed": done.changed, "unchanged": done.unchanged});
        writeln!(out, "{object}").context("standard output")
    } else {
        let names = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let (created, changed, unchanged) = (names(&done.created), names(&done.changed), names(&done.unchanged));
        writeln!(out, "created: {created}; changed: {changed}; unchanged: {unchanged}").context("standard output")
    }
}

/// Begins or ends a recording.
pub(super) async fn record(record: &Record, out: &mut impl Write) -> Result<()> {
    match record {
        Record::Start { name, target } => {
            let mut connection = target.control.connect().await?;
            let request = StartRecordingRequest { link: target.link.clone(), name: name.clone() };
            let started = connection.client.start_recording(request).await;
            connection.told(started).map(|_| ())
        }
        Record::Stop(target) => {
            let mut connection = target.control.connect().await?;
            let stopped = connection.client.stop_recording(StopRecordingRequest { link: target.link.clone() }).await;
            let done = connection.told(stopped)?;
            if target.control.json {
                let object = json!({"frames": done.frames, "before": done.before, "after": done.after});
                writeln!(out, "{object}").context("standard output")
            } else {
                writeln!(out, "{} frames in {} and {}", done.frames, done.before, done.after).context("standard output")
            }
        }
    }
}
