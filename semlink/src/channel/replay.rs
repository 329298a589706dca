//! A recording pushed through its channel again.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use semlink_channel::{Chain, FrameKey, SnrDb, StageSpec, iq};
use semlink_proto::v1::{self, link_client::LinkClient};
use semlink_recording::{Frame, FrameSymbols, Recorder, Recording, Side, Start};
use semlink_service::peer::{LINK_METADATA, NextHop};
use serde_json::json;
use tonic::Request;

use crate::client::{self, SecurityArgs};

/// Frames read ahead of the link: it holds back what it does not take.
const AHEAD: usize = 64;

/// What to replay.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The recording: NAME, NAME-before.sigmf-meta or -data
    recording: PathBuf,

    /// Send the frames through this emulator (or to any Link) instead of computing the channel here
    #[arg(long, value_name = "URL")]
    to: Option<NextHop>,

    /// Name of the link there
    #[arg(long, value_name = "NAME", requires = "to")]
    link: Option<String>,

    /// Codec that the frames are said to be made with; a receiver refuses those of none
    #[arg(long, value_name = "ID", default_value = "", requires = "to")]
    codec: String,

    /// Write the result as a recording of this name: DIR/NAME
    #[arg(long, value_name = "DIR/NAME", conflicts_with = "to")]
    out: Option<PathBuf>,

    /// Directory of impulse responses, for recordings of a channel that plays them
    #[arg(long, value_name = "DIR", conflicts_with = "to")]
    recordings: Option<PathBuf>,

    /// Print a JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    security: SecurityArgs,
}

/// The halves of a recording.
struct Pair {
    before: Recording,
    after: Option<Recording>,
}

/// Replays; an error names the first frame that came out otherwise.
pub(super) async fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let pair = open(&args.recording)?;
    match &args.to {
        Some(to) => send(args, to, &pair.before, out).await,
        None => compute(args, &pair, out),
    }
}

fn open(path: &Path) -> Result<Pair> {
    let text = path.to_string_lossy();
    let stem = text.trim_end_matches(".sigmf-meta").trim_end_matches(".sigmf-data");
    let stem = stem.strip_suffix("-before").unwrap_or(stem);
    let before = Recording::open(format!("{stem}-before"))?;
    ensure!(
        before.side() == Some(Side::Before),
        "{}: is no recording of frames before a channel",
        before.path().display()
    );
    let other = format!("{stem}-after");
    let after = Path::new(&format!("{other}.sigmf-meta")).exists().then(|| Recording::open(&other)).transpose()?;
    Ok(Pair { before, after })
}

/// The chain of each profile version, from the recording itself.
fn chain(recording: &Recording, version: u64, directory: Option<&Path>) -> Result<Chain> {
    let profile = recording.profile(version);
    let profile = profile.with_context(|| format!("{}: has no profile {version}", recording.path().display()))?;
    let stages: Vec<StageSpec> = serde_json::from_value(profile["stages"].clone())
        .with_context(|| format!("{}: stages of profile {version}", recording.path().display()))?;
    Ok(Chain::with_library(&stages, &|name| semlink_channel_emulator::responses(directory, name))?)
}

/// Through the same channel on this machine, compared with what the emulator made of it.
fn compute(args: &Args, Pair { before, after }: &Pair, out: &mut impl Write) -> Result<()> {
    let frames = before.frames()?;
    let expected = after.as_ref().map(|after| after.frames().map(|frames| (after, frames))).transpose()?;
    if let Some((after, of_after)) = expected {
        let same = frames.len() == of_after.len();
        ensure!(same, "{}: has {} frames, not {}", after.path().display(), of_after.len(), frames.len());
    }
    ensure!(
        expected.is_some() || args.out.is_some(),
        "there is no recording after the channel to compare with, give --out"
    );
    let mut recorder = args.out.as_deref().map(|out| recorder(out, before)).transpose()?;
    let mut now: Option<(u64, Chain)> = None;
    let mut compared = 0u64;
    for (number, frame) in frames.iter().enumerate() {
        let version = frame.note.profile_version;
        if now.as_ref().is_none_or(|(of, _)| *of != version) {
            now = Some((version, chain(before, version, args.recordings.as_deref())?));
            if let (Some(recorder), Some(profile)) = (&mut recorder, before.profile(version)) {
                recorder.profile(version, profile)?;
            }
        }
        let Some((_, chain)) = &now else { continue };
        let sent = before.read_frame(frame)?;
        let (mut pilots, mut symbols) = sent.clone();
        chain.apply(key(before, frame), SnrDb::try_new(frame.note.snr_db_requested)?, &mut pilots, &mut symbols);
        if let Some(recorder) = &mut recorder {
            let came = FrameSymbols { pilots: &sent.0, symbols: &sent.1 };
            let left = FrameSymbols { pilots: &pilots, symbols: &symbols };
            recorder.frame(&frame.note, came, if frame.note.lost { FrameSymbols::default() } else { left })?;
        }
        if let Some((after, of_after)) = expected
            && !frame.note.lost
        {
            let there = after.read_frame(&of_after[number])?;
            if iq::encode(&there.0) != iq::encode(&pilots) || iq::encode(&there.1) != iq::encode(&symbols) {
                let (stream, sequence) = (frame.note.stream, frame.note.sequence);
                bail!("frame {sequence} of stream {stream} (number {number}) came out differently");
            }
            compared += 1;
        }
    }
    if let Some(recorder) = recorder {
        recorder.finish()?;
    }
    let lost = frames.iter().filter(|frame| frame.note.lost).count();
    if args.json {
        writeln!(out, "{}", json!({"frames": frames.len(), "identical": compared, "lost": lost}))
    } else {
        writeln!(out, "{} frames, {compared} compared and identical to the bit, {lost} lost", frames.len())
    }
    .context("standard output")
}

fn key(recording: &Recording, frame: &Frame) -> FrameKey {
    let link = recording.link_key().unwrap_or(0);
    FrameKey { seed: frame.note.seed, link, stream: frame.note.stream, frame: frame.note.sequence }
}

fn recorder(path: &Path, before: &Recording) -> Result<Recorder> {
    let name = path.file_name().and_then(|name| name.to_str()).context("--out: is no DIR/NAME")?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let start = Start {
        link: before.link().unwrap_or_default().to_owned(),
        hop_key: before.link_key().unwrap_or(0),
        sample_rate_hz: before.sample_rate_hz(),
        description: format!("replay of {}", before.path().display()),
    };
    Ok(Recorder::create(directory, name, start)?)
}

/// Through a running Link; its reports are counted.
async fn send(args: &Args, to: &NextHop, before: &Recording, out: &mut impl Write) -> Result<()> {
    let frames = before.frames()?;
    let url = to.as_str();
    let (sender, queue) = tokio::sync::mpsc::channel(AHEAD);
    let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(queue));
    if let Some(link) = &args.link {
        request.metadata_mut().insert(LINK_METADATA, link.parse().context("--link")?);
    }
    let mut link = LinkClient::new(client::connect(to, &args.security.credentials()?).await?);
    let sending = async {
        for (id, frame) in (0..).zip(frames) {
            let (pilots, symbols) = before.read_frame(frame)?;
            let message = v1::Frame {
                id,
                codec_id: args.codec.clone(),
                symbols: iq::encode(&symbols).into(),
                pilots: iq::encode(&pilots).into(),
                stream: frame.note.stream,
                sequence: frame.note.sequence,
                ..Default::default()
            };
            if sender.send(message).await.is_err() {
                break;
            }
        }
        drop(sender);
        anyhow::Ok(())
    };
    let receiving = async {
        let reports = link.transmit(request).await.map_err(|status| client::failed(url, &status))?;
        let mut reports = reports.into_inner();
        let (mut reported, mut failed, mut first) = (0u64, 0u64, None);
        while let Some(report) = reports.message().await.map_err(|status| client::failed(url, &status))? {
            reported += 1;
            if let Some(error) = report.error {
                failed += 1;
                first.get_or_insert(error.message);
            }
        }
        anyhow::Ok((reported, failed, first))
    };
    let (sent, counts) = tokio::join!(sending, receiving);
    sent?;
    let (reported, failed, first) = counts?;
    ensure!(reported == frames.len() as u64, "{url}: {reported} of {} frames were reported", frames.len());
    if args.json {
        writeln!(out, "{}", json!({"frames": frames.len(), "failed": failed}))
    } else {
        let first = first.map(|message| format!(", the first: {message}")).unwrap_or_default();
        writeln!(out, "{} frames sent to {url}, {failed} failed{first}", frames.len())
    }
    .context("standard output")
}
