//! Images per second in streams, and the peer's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::chain::{self, Chain, Setup};
use super::client::{Answers, Ids, Images, Streams, rates};
use super::{RIG, command};
use crate::measure::{median, row};
use crate::process;
use crate::results::Row;
use crate::rig::runtime;

const STREAMS: Streams = Streams { streams: 64, connections: 8, outstanding: 8 };
const WARM_UP: Duration = Duration::from_secs(3);
const PERIOD: Duration = Duration::from_secs(2);
const PERIODS: usize = 7;
/// Measurements of ours and the peer in turn.
const TURNS: usize = 3;
/// Accuracies of ours and the peer on the sample are this close, or they do not do the same work.
const APART: f64 = 0.02;

/// What a chain reached.
struct Reached {
    /// Images per second, median.
    rate: f64,
    slowest: f64,
    fastest: f64,
    accuracy: f64,
    /// Microseconds of processor time for each image.
    services: [f64; 3],
    client: f64,
}

impl Reached {
    fn measure(chain: &Chain) -> Result<Reached> {
        let (images, ids, answers) = (Arc::new(Images::sample()?), Ids::endless(), Arc::new(Answers::default()));
        let cpu = || anyhow::Ok((chain.cpu()?, process::cpu(std::process::id())?));
        let mut start = None;
        let url = chain.transmitter.url();
        let (rates, end) = runtime()?.block_on(async {
            let watch = async {
                let begun = || {
                    start = Some((cpu()?, answers.decided()));
                    Ok(())
                };
                let rates = rates(&answers, WARM_UP, PERIOD, PERIODS, begun).await;
                let end = cpu().map(|cpu| (cpu, answers.decided()));
                // Whatever happened, or the streams would not end.
                ids.stop();
                anyhow::Ok((rates?, end?))
            };
            let (sent, watched) = tokio::join!(STREAMS.run(&url, &images, &ids, &answers), watch);
            sent.and(watched)
        })?;
        ensure!(answers.failed() == 0, "images failed: {}", answers.errors());
        ensure!(answers.decided() == ids.taken(), "{} images of {}", answers.decided(), ids.taken());
        let ((services, client), decided) = end;
        let ((services_before, client_before), before) = start.context("the warm-up did not end")?;
        let count = (decided - before) as f64;
        let each = |i: usize| 1e6 * (services[i] - services_before[i]) / count;
        Ok(Reached {
            slowest: rates.iter().copied().fold(f64::INFINITY, f64::min),
            fastest: rates.iter().copied().fold(0.0, f64::max),
            rate: median(rates),
            accuracy: answers.accuracy(),
            services: [each(0), each(1), each(2)],
            client: 1e6 * (client - client_before) / count,
        })
    }

    fn cost(&self) -> String {
        format!("us of processor time an image: {}, client {:.0}", chain::told(self.services, 0), self.client)
    }
}

pub(super) fn load() -> Result<Row> {
    let reached = Reached::measure(&Chain::start(&Setup::default())?)?;
    let Streams { streams, connections, outstanding } = STREAMS;
    let what = format!("images per second through all three services, {streams} streams");
    let mut row = row(&what, reached.rate, "images/s", "higher", json!(3000), json!(8000), &command("load"));
    row.note = format!(
        "median of {PERIODS} windows of {} s, {:.0} to {:.0}; {outstanding} images under way on each stream, {connections} connections; \
         accuracy {:.2} %; {}; {RIG}",
        PERIOD.as_secs(),
        reached.slowest,
        reached.fastest,
        100.0 * reached.accuracy,
        reached.cost()
    );
    Ok(row)
}

pub(super) fn peer(python: &Path) -> Result<Row> {
    let (mut ratios, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..TURNS {
        let our = Reached::measure(&Chain::start(&Setup::default())?)?;
        let their = Reached::measure(&Chain::peer(python)?)?;
        let apart = (our.accuracy - their.accuracy).abs();
        ensure!(apart < APART, "accuracies differ: {:.3} and the peer's {:.3}", our.accuracy, their.accuracy);
        ratios.push(our.rate / their.rate);
        ours.push(our.rate);
        theirs.push(their.rate);
        last = Some((our, their));
    }
    let what = "images per second over those of a Python chain (grpc.aio, ONNX Runtime, NumPy), 64 streams";
    let mut row = row(what, median(ratios), "ratio", "higher", json!(5), json!(15), &command("peer"));
    row.peer = Some("bench/peers/chain_peer.py".to_owned());
    let told = |reached: &Reached| format!("accuracy {:.2} %, {}", 100.0 * reached.accuracy, reached.cost());
    let costs = last.map(|(our, their)| format!("ours: {}; the peer: {}", told(&our), told(&their)));
    row.note = format!(
        "{:.0} against {:.0} images/s, medians of {TURNS} turns; the same network and weights, the same client; in the last turn {}; {RIG}",
        median(ours),
        median(theirs),
        costs.unwrap_or_default()
    );
    Ok(row)
}
