//! `semlink send`: image files through a running transmitter.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use semlink_proto::v1::transmitter_client::TransmitterClient;
use semlink_proto::v1::{self, ClassifyRequest, ClassifyResponse};
use semlink_service::peer::NextHop;
use serde_json::json;
use tonic::{Code, Request, Status};

use crate::client::{self, Secured, SecurityArgs};

/// Flags of `semlink send`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address of the transmitter
    #[arg(long, env = "SEMLINK_TO", value_name = "URL", default_value = "http://127.0.0.1:50051")]
    to: NextHop,

    /// Seconds within which each image is to be answered, at every hop on its way [default: the transmitter's --patience]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,

    /// Print a JSON object for each image
    #[arg(long)]
    json: bool,

    /// PNG, JPEG or WebP files
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,

    #[command(flatten)]
    security: SecurityArgs,
}

/// Prints a line for each image, in their order; a failed one does not stop the others.
///
/// # Errors
/// The transmitter cannot be reached; at the end, if any image failed.
pub(crate) async fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let mut transmitter = TransmitterClient::new(client::connect(&args.to, &args.security.credentials()?).await?);
    let mut failed = 0;
    for (id, path) in (0..).zip(&args.images) {
        match classify(&mut transmitter, args, id, path).await {
            Ok(answer) if args.json => writeln!(out, "{}", object(path, &answer))?,
            Ok(answer) => writeln!(out, "{}", line(path, &answer))?,
            Err(error) => {
                failed += 1;
                eprintln!("semlink: {}: {error}", path.display());
                if args.json {
                    writeln!(out, "{}", json!({ "image": path.display().to_string(), "error": error }))?;
                }
            }
        }
    }
    ensure!(failed == 0, "{failed} of {} images failed", args.images.len());
    Ok(())
}

async fn classify(
    transmitter: &mut TransmitterClient<Secured>,
    args: &Args,
    id: u64,
    path: &Path,
) -> Result<ClassifyResponse, String> {
    let image = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut request = Request::new(ClassifyRequest { id, image: image.into(), ..Default::default() });
    if let Some(timeout) = args.timeout {
        request.set_timeout(timeout);
    }
    match transmitter.classify(request).await {
        Ok(answer) => Ok(answer.into_inner()),
        // What is wrong with this image, not with the service.
        Err(status) if status.code() == Code::InvalidArgument => Err(status.message().to_owned()),
        Err(status) => match args.timeout {
            Some(timeout) if is_late(&status) => Err(format!("not answered within {} s", timeout.as_secs_f64())),
            _ => Err(client::failed(args.to.as_str(), &status).to_string()),
        },
    }
}

fn line(path: &Path, answer: &ClassifyResponse) -> String {
    let decision = answer.decision.clone().unwrap_or_default();
    let link = answer.link.unwrap_or_default();
    let snr = link.snr_db_estimated.map_or_else(String::new, |db| format!(", {db:.1} dB"));
    let unsure = if decision.unsure { "unsure, perhaps " } else { "" };
    format!(
        "{}: {unsure}{} ({:.1} %), k = {}{snr}, {:.1} ms",
        path.display(),
        decision.label,
        100.0 * decision.confidence,
        link.uses,
        milliseconds(answer)
    )
}

fn object(path: &Path, answer: &ClassifyResponse) -> serde_json::Value {
    let decision = answer.decision.clone().unwrap_or_default();
    let link = answer.link.unwrap_or_default();
    let candidate = |c: &v1::Candidate| json!({"index": c.index, "label": c.label, "probability": c.probability});
    let top: Vec<_> = decision.top.iter().map(candidate).collect();
    json!({
        "image": path.display().to_string(),
        "index": decision.index,
        "label": decision.label,
        "confidence": decision.confidence,
        "unsure": decision.unsure,
        "top": top,
        "k": link.uses,
        "pilots": link.pilots,
        "bandwidth_ratio": link.bandwidth_ratio,
        "side_information_bits": link.side_information_bits,
        "snr_db_measured": link.snr_db_estimated,
        "milliseconds": milliseconds(answer),
    })
}

/// Whether time ran out, at a service or here, whoever noticed first: here it is the only thing that cancels a call.
fn is_late(status: &Status) -> bool {
    matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
}

/// More than a day is a slip.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() && time.as_secs() <= 86_400 => Ok(time),
        _ => Err("expected seconds above 0, at most a day".to_owned()),
    }
}

/// From the image's arrival at the transmitter to its decision; the link's time includes decoding.
fn milliseconds(answer: &ClassifyResponse) -> f64 {
    let timings = answer.link.and_then(|link| link.timings).unwrap_or_default();
    (timings.prepare_us + timings.encode_us + timings.link_us) as f64 / 1e3
}
