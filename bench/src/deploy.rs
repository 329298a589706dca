//! The services as containers, from the images that are deployed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use semlink_deploy::{Hosts, LIMITED, docker, inspect, missing, tag, url, wait_for};
use serde_json::{Value, json};

use crate::measure::{median, row};
use crate::production::client::{Answers, Ids, Images, Streams, Times, rates};
use crate::results::{Row, record, root};
use crate::rig::runtime;

const TOPIC: &str = "deploy";
const MB: f64 = 1e6;
/// Images of the cut, and how long the hosts do not see each other.
const CUT_IMAGES: u64 = 5000;
const CUT: Duration = Duration::from_secs(10);
const STARTS: usize = 9;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this part.
    #[arg(long)]
    only: Option<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Sizes of the images.
    Size,
    /// From the start of a container to ready.
    Start,
    /// Images per second of a transmitter with half a processor and 128 MB.
    Rate,
    /// The network between edge and server is cut while images stream.
    Cut,
    /// Schemas and linter; needs kubectl, and Python with deploy/kubernetes/requirements.txt.
    Manifests,
}

pub(crate) fn run(python: &Path, options: &Options) -> Result<()> {
    let parts = [Part::Size, Part::Start, Part::Rate, Part::Cut, Part::Manifests];
    for part in parts.into_iter().filter(|part| options.only.is_none_or(|only| only == *part)) {
        if part != Part::Manifests
            && let Some(why) = missing()
        {
            bail!("{why}");
        }
        let rows = match part {
            Part::Size => sizes()?,
            Part::Start => vec![start()?],
            Part::Rate => vec![rate()?],
            Part::Cut => vec![cut()?],
            Part::Manifests => manifests(python)?,
        };
        record(TOPIC, rows)?;
    }
    Ok(())
}

fn command(part: &str) -> String {
    format!("deploy --only {part}")
}

fn sizes() -> Result<Vec<Row>> {
    let of = |(name, must, aim): (&str, f64, f64)| -> Result<Row> {
        let image = format!("semlink-{name}:{}", tag());
        let listed = inspect(&image)?["Size"].as_f64().context("an image without a size")? / MB;
        // What travels: layers are compressed with gzip on their way.
        let compressed = Command::new("sh").args(["-c", &format!("docker save {image} | gzip -6 | wc -c")]).output()?;
        let compressed: f64 = String::from_utf8_lossy(&compressed.stdout).trim().parse()?;
        let what = format!("image of the {name}, as listed");
        let mut row = row(&what, listed, "MB", "lower", json!(must), json!(aim), &command("size"));
        row.note = format!("static, one program and nothing else; compressed {:.1} MB", compressed / MB);
        Ok(row)
    };
    [("transmitter", 40.0, 15.0), ("channel-emulator", 30.0, 10.0), ("receiver", 40.0, 15.0)]
        .map(of)
        .into_iter()
        .collect()
}

fn is_ready(address: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// A container that is removed at the end.
struct Created(String);

impl Drop for Created {
    fn drop(&mut self) {
        let _ = docker(&["rm", "--force", &self.0]);
    }
}

/// The receiver, which has the larger half of the bundle to read and tries it out before it says that it is ready.
fn start() -> Result<Row> {
    let bundle = format!("{}:/bundle:ro", root().join("assets/fashion-mnist").display());
    let image = format!("semlink-receiver:{}", tag());
    let (mut whole, mut own) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let arguments = [
            "create",
            "--read-only",
            "--cap-drop",
            "ALL",
            "--publish",
            "127.0.0.1::9090",
            "--volume",
            &bundle,
            "--env",
            "SEMLINK_PLAINTEXT=listen,metrics",
            "--env",
            "SEMLINK_METRICS=0.0.0.0:9090",
            "--env",
            "SEMLINK_LOG_FORMAT=json",
            &image,
        ];
        let container = Created(docker(&arguments)?);
        let begin = Instant::now();
        docker(&["start", &container.0])?;
        let address = url(&container.0, 9090)?.replace("http://", "");
        wait_for("the receiver", || Ok(is_ready(&address).then_some(())))?;
        whole.push(begin.elapsed().as_secs_f64() * 1e3);
        own.push(inside(&container.0)?);
    }
    let (whole, own) = (median(whole), median(own));
    let what = "container start to ready (receiver), from `docker start` to a ready answer";
    let mut row = row(what, whole, "ms", "lower", json!(1000), json!(200), &command("start"));
    row.note = format!(
        "the engine's own part included; from the program's first log line to the one that it serves {own:.0} ms; median of {STARTS}"
    );
    Ok(row)
}

/// Milliseconds between the first and the last line of a service's JSON log.
fn inside(container: &str) -> Result<f64> {
    let log = semlink_deploy::log(container)?;
    let times: Vec<f64> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|line| seconds_of_day(line["timestamp"].as_str()?))
        .collect();
    let (first, last) = (times.first().context("an empty log")?, times.last().context("an empty log")?);
    Ok((last - first) * 1e3)
}

/// Of a timestamp such as `2026-01-01T12:00:00.123456Z`.
fn seconds_of_day(timestamp: &str) -> Option<f64> {
    let time = timestamp.split_once('T')?.1.trim_end_matches('Z');
    let mut parts = time.split(':').map(str::parse::<f64>);
    Some((parts.next()?.ok()? * 60.0 + parts.next()?.ok()?) * 60.0 + parts.next()?.ok()?)
}

fn hosts(name: &str) -> Result<Hosts> {
    Hosts::start(name, &root().join("assets/fashion-mnist"), &LIMITED)
}

fn rate() -> Result<Row> {
    const STREAMS: Streams = Streams { streams: 8, connections: 2, outstanding: 8 };
    let hosts = hosts("rate")?;
    let address = url(&hosts.transmitter, 50051)?;
    let (images, ids, answers) = (Arc::new(Images::sample()?), Ids::endless(), Arc::new(Answers::default()));
    let found = runtime()?.block_on(async {
        let watch = async {
            let found = rates(&answers, Duration::from_secs(3), Duration::from_secs(2), 7, || Ok(())).await;
            ids.stop();
            found
        };
        let (sent, found) = tokio::join!(STREAMS.run(&address, &images, &ids, &answers), watch);
        sent.and(found)
    })?;
    ensure!(answers.failed() == 0, "images failed: {}", answers.errors());
    let state = inspect(&hosts.transmitter)?;
    ensure!(state["State"]["OOMKilled"] == false, "the transmitter was killed for its memory");
    let memory = docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", &hosts.transmitter])?;
    let (low, high) = found.iter().fold((f64::MAX, 0f64), |(low, high), rate| (low.min(*rate), high.max(*rate)));
    let what = "transmitter under 0.5 CPU and 128 MB";
    let mut row = row(what, median(found), "images/s", "higher", json!(200), json!(600), &command("rate"));
    row.note = format!(
        "28x28 PNG images, k = 64, 8 streams, all three services and the client on the same cores; windows of 2 s: {low:.0} to {high:.0}; \
         accuracy {:.1} %; memory {memory}",
        100.0 * answers.accuracy()
    );
    Ok(row)
}

fn cut() -> Result<Row> {
    const STREAMS: Streams = Streams { streams: 4, connections: 1, outstanding: 16 };
    let hosts = hosts("cut")?;
    let address = url(&hosts.transmitter, 50051)?;
    let (images, ids) = (Arc::new(Images::sample()?), Ids::first(CUT_IMAGES));
    let answers = Arc::new(Answers::to_each(CUT_IMAGES));
    runtime()?.block_on(async {
        let cut = async {
            while answers.answered() < CUT_IMAGES / 4 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            hosts.stack.disconnect(&hosts.transmitter, "radio")?;
            let before = answers.answered();
            tokio::time::sleep(CUT).await;
            let during = answers.answered() - before;
            hosts.stack.connect(&hosts.transmitter, "radio", "transmitter")?;
            // What had been answered when the cut came may still be on its way to the client.
            ensure!(during < 128, "{during} images were answered while the network was cut");
            Ok(())
        };
        let (sent, cut) = tokio::join!(STREAMS.run(&address, &images, &ids, &answers), cut);
        sent.and(cut)
    })?;
    let Times { never, once, more } = answers.times();
    let what = "images of 5,000 answered exactly once, network between edge and server cut for 10 s";
    let mut row = row(what, once as f64, "images", "higher", json!(CUT_IMAGES), json!(CUT_IMAGES), &command("cut"));
    row.note = format!(
        "{never} without an answer, {more} answered more than once; {}; accuracy {:.1} %; transmitter under 0.5 CPU and 128 MB",
        answers.errors(),
        100.0 * answers.accuracy()
    );
    Ok(row)
}

fn manifests(python: &Path) -> Result<Vec<Row>> {
    let script = root().join("deploy/kubernetes/validate.sh");
    let output = Command::new(&script).arg(python).output().with_context(|| script.display().to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |name: &str| -> Result<f64> {
        let rest =
            text.split_once(name).with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?.1;
        Ok(rest.trim().split([',', '\n']).next().unwrap_or_default().parse()?)
    };
    let what = |of: &str| format!("manifests: {of}");
    let mut errors = row(
        &what("schema errors"),
        number("schema errors")?,
        "errors",
        "lower",
        json!(0),
        json!(0),
        &command("manifests"),
    );
    errors.note =
        "every overlay rendered by kubectl kustomize, strictly against the published schemas (kubernetes-validate)"
            .into();
    let mut findings = row(
        &what("findings of a security linter"),
        number("linter findings")?,
        "findings",
        "lower",
        json!(0),
        json!(0),
        &command("manifests"),
    );
    findings.note = "checkov on the rendered overlays and the Dockerfile; two checks are left out with their reasons in deploy/kubernetes/.checkov.yaml".into();
    Ok(vec![errors, findings])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_read_to_the_microsecond() {
        assert!((seconds_of_day("2026-11-27T01:02:03.250001Z").expect("a time") - 3_723.250_001).abs() < 1e-9);
        assert!(seconds_of_day("yesterday").is_none());
    }
}
