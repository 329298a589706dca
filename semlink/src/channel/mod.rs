//! `semlink channel`: the links of a running emulator and their channels, live.

mod change;
mod links;
mod print;
mod replay;

use std::io::Write;

use anyhow::Result;
use clap::Subcommand;
use semlink_proto::v1::channel_control_client::ChannelControlClient;
use semlink_proto::v1::{ChannelProfile, GetChannelRequest, ResetChannelRequest, WatchChannelRequest};
use semlink_service::peer::NextHop;

use crate::client::{self, Secured, SecurityArgs};

const SET_HELP: &str = "\
Examples:
  semlink channel set --channel rayleigh --snr-db 0
  semlink channel set --schedule 0:20,60:-10 --repeat      a ramp over a minute, again and again
  semlink channel set --stage tdl,profile=C,doppler=0.001 --stage awgn,snr_db=12 --stage adc,bits=6
  semlink channel set --link far --loss 0.01 --delay-ms 20";

const CREATE_HELP: &str = "\
Example:
  semlink channel create far --next http://127.0.0.1:50053 --channel rician --snr-db 3
  (clients choose it by the metadata semlink-link: far)";

const POPULATE_HELP: &str = "\
Example:
  semlink channel populate links.toml

links.toml:
  [[links]]
  name = \"far\"
  next = \"http://127.0.0.1:50053\"
  stages = [{ model = \"rayleigh\" }, { model = \"awgn\", snr_db = 3 }]";

const RECORD_HELP: &str = "\
Example, on an emulator that was started with --recordings:
  semlink channel record start monday
  semlink channel record stop";

const REPLAY_HELP: &str = "\
Examples:
  semlink channel replay recordings/monday       the same bits, or the first frame that differs
  semlink channel replay recordings/monday --to http://127.0.0.1:50052 --link far";

/// What to do with the channel.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the channel of a link
    Get(Target),
    /// Change what is given, leave the rest
    #[command(after_help = SET_HELP)]
    Set(change::Set),
    /// Back to the channel that the link was created with
    Reset(Target),
    /// Print the channel now and after each change
    Watch(Target),
    /// Make a new link
    #[command(after_help = CREATE_HELP)]
    Create(links::Create),
    /// Take a link away; its streams end
    Delete(links::Delete),
    /// Print all links with their counts of frames
    List(Control),
    /// Make and change links until they are as a file says; doing it twice is doing it once
    #[command(after_help = POPULATE_HELP)]
    Populate(links::Populate),
    /// Record the frames of a link before and after its channel, as SigMF files on the emulator's host
    #[command(subcommand, after_help = RECORD_HELP)]
    Record(links::Record),
    /// Push a recording through its channel again: here, to compare bit by bit, or through a running emulator
    #[command(after_help = REPLAY_HELP)]
    Replay(replay::Args),
    /// Print the channel models and their parameters
    Models {
        /// Print a JSON object for each model
        #[arg(long)]
        json: bool,
    },
}

/// Which emulator, and how to print.
#[derive(Debug, clap::Args)]
pub(crate) struct Control {
    /// Address of the channel emulator
    #[arg(long, env = "SEMLINK_CONTROL", value_name = "URL", default_value = "http://127.0.0.1:50052")]
    control: NextHop,

    /// Print JSON objects
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    security: SecurityArgs,
}

/// Which link of which emulator.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// Name of the link
    #[arg(long, env = "SEMLINK_LINK", value_name = "NAME", default_value = "default")]
    link: String,

    #[command(flatten)]
    control: Control,
}

/// A connection to the emulator, and its address for errors.
pub(crate) struct Connection<'a> {
    url: &'a str,
    client: ChannelControlClient<Secured>,
}

impl Control {
    async fn connect(&self) -> Result<Connection<'_>> {
        let url = self.control.as_str();
        let credentials = self.security.credentials()?;
        Ok(Connection { url, client: ChannelControlClient::new(client::connect(&self.control, &credentials).await?) })
    }
}

impl Connection<'_> {
    /// What a call gave, or an error that names the address.
    fn told<T>(&self, result: Result<tonic::Response<T>, tonic::Status>) -> Result<T> {
        result.map(tonic::Response::into_inner).map_err(|status| client::failed(self.url, &status))
    }
}

/// A channel in words, as `channel get` prints it.
pub(crate) fn describe(profile: &ChannelProfile) -> String {
    print::to_text(profile)
}

/// Runs the command; `watch` goes on until the emulator leaves or the program is stopped.
pub(crate) async fn run(command: &Command, out: &mut impl Write) -> Result<()> {
    match command {
        Command::Get(target) => {
            let mut connection = target.control.connect().await?;
            let got = connection.client.get_channel(GetChannelRequest { link: target.link.clone() }).await;
            print::profile(&connection.told(got)?, target.control.json, out)
        }
        Command::Set(set) => change::run(set, out).await,
        Command::Reset(target) => {
            let mut connection = target.control.connect().await?;
            let reset = connection.client.reset_channel(ResetChannelRequest { link: target.link.clone() }).await;
            print::profile(&connection.told(reset)?, target.control.json, out)
        }
        Command::Watch(target) => {
            let mut connection = target.control.connect().await?;
            let watch = connection.client.watch_channel(WatchChannelRequest { link: target.link.clone() }).await;
            let mut profiles = connection.told(watch)?;
            loop {
                let next = profiles.message().await;
                match next.map_err(|status| client::failed(connection.url, &status))? {
                    Some(profile) => print::profile(&profile, target.control.json, out)?,
                    None => return Ok(()),
                }
            }
        }
        Command::Create(create) => links::create(create, out).await,
        Command::Delete(delete) => links::delete(delete).await,
        Command::List(control) => links::list(control, out).await,
        Command::Populate(populate) => links::populate(populate, out).await,
        Command::Record(record) => links::record(record, out).await,
        Command::Replay(args) => replay::run(args, out).await,
        Command::Models { json } => print::models(*json, out),
    }
}
