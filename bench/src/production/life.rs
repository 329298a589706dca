//! What a service needs when it does nothing, and how soon it is ready.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::json;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::chain::{self, Chain, Setup};
use super::client::{Answers, Ids, Images, Streams};
use super::{RIG, command};
use crate::measure::{median, row};
use crate::process::Process;
use crate::results::Row;
use crate::rig::runtime;

/// Images before a service is idle again.
const IMAGES: u64 = 100;
/// Without work, before the memory is read.
const REST: Duration = Duration::from_secs(5);
/// Starts of each service.
const STARTS: usize = 10;
/// After which a service counts as one that does not become ready.
const LATE: Duration = Duration::from_secs(30);

pub(super) fn idle() -> Result<Vec<Row>> {
    let chain = Chain::start(&Setup::default())?;
    thread::sleep(REST);
    let started = chain.memory()?;
    let (images, ids, answers) = (Arc::new(Images::sample()?), Ids::first(IMAGES), Arc::new(Answers::to_each(IMAGES)));
    let streams = Streams { streams: 1, connections: 1, outstanding: 8 };
    runtime()?.block_on(streams.run(&chain.transmitter.url(), &images, &ids, &answers))?;
    ensure!(answers.decided() == IMAGES, "{} decisions; {}", answers.decided(), answers.errors());
    thread::sleep(REST);
    let used = chain.memory()?;
    let marks = [(60, 25), (30, 12), (60, 25)];
    let rows = chain.processes().into_iter().zip(marks).zip(started.into_iter().zip(used));
    let rows = rows.map(|(((name, _), (must, aim)), (started, used))| {
        let what = format!("resident memory of the {name}, idle");
        let mut row = row(&what, started.max(used), "MB", "lower", json!(must), json!(aim), &command("idle"));
        row.note =
            format!("{started:.1} MB after the start, {used:.1} MB {} s after {IMAGES} images; {RIG}", REST.as_secs());
        row
    });
    Ok(rows.collect())
}

/// Milliseconds from the start of a process to the first time that grpc.health.v1 says SERVING, and the process.
fn ready(start: impl FnOnce() -> Result<Process>) -> Result<(f64, Process)> {
    let begun = Instant::now();
    let process = start()?;
    runtime()?.block_on(async {
        let channel = Endpoint::from_shared(process.url())?.tcp_nodelay(true).connect().await?;
        let mut health = HealthClient::new(channel);
        while begun.elapsed() < LATE {
            let answer = health.check(HealthCheckRequest { service: String::new() }).await?.into_inner();
            if answer.status() == ServingStatus::Serving {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bail!("not ready after {} s", LATE.as_secs())
    })?;
    Ok((begun.elapsed().as_secs_f64() * 1e3, process))
}

pub(super) fn start() -> Result<Row> {
    let bundle = chain::bundle();
    let [mut transmitters, mut emulators, mut receivers] = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..STARTS {
        let (time, receiver) = ready(|| chain::receiver(chain::ANY, &bundle))?;
        receivers.push(time);
        let (time, emulator) = ready(|| chain::emulator(chain::ANY, &receiver.url()))?;
        emulators.push(time);
        let (time, _transmitter) = ready(|| chain::transmitter(&emulator.url(), &bundle, &[]))?;
        transmitters.push(time);
    }
    let worst = [&transmitters, &emulators, &receivers].into_iter().flatten().copied().fold(0.0, f64::max);
    let medians = [median(transmitters), median(emulators), median(receivers)];
    let slowest = medians.into_iter().fold(0.0, f64::max);
    let what = "from start to ready, the slowest of the three services";
    let mut row = row(what, slowest, "ms", "lower", json!(500), json!(100), &command("start"));
    row.note = format!(
        "medians of {STARTS} starts: {}; longest of all {worst:.0} ms; until grpc.health.v1 says SERVING, with the services behind it running",
        chain::told(medians, 1)
    );
    Ok(row)
}
