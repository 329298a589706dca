//! Single calls: at a given rate whatever becomes of them, or one after another.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use semlink_proto::v1::transmitter_client::TransmitterClient;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use super::chain::{Chain, Setup};
use super::client::{Ids, Images, connect};
use super::{RIG, command};
use crate::measure::{quantile, row};
use crate::results::Row;
use crate::rig::runtime;

/// Offered in the part latency, in images per second.
const OFFERED: f64 = 200.0;
const SECONDS: u64 = 30;
/// Before it, with calls that do not count.
const WARM_UP: u64 = 3;

/// Calls at a rate, in intervals that are distributed exponentially, as those of many clients that know nothing of each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer {
    /// Calls per second.
    pub(crate) rate: f64,
    pub(crate) lasting: Duration,
    pub(crate) connections: usize,
    /// A call that would be one more under way is not made.
    pub(crate) most: usize,
    pub(crate) seed: u64,
}

/// What became of calls.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Milliseconds of each that ended with a decision, from when it was meant to be made.
    pub(crate) times: Vec<f64>,
    /// The others' status.
    pub(crate) codes: BTreeMap<i32, u64>,
    /// OK, but without a decision under the image's id.
    pub(crate) empty: u64,
    /// Made.
    pub(crate) made: u64,
    /// Not made, as too many were under way or the client was late.
    pub(crate) left_out: u64,
}

impl Outcome {
    fn take(&mut self, asked: u64, meant: Instant, answer: Result<(u64, bool), Code>) {
        match answer {
            Ok((id, true)) if id == asked => self.times.push(meant.elapsed().as_secs_f64() * 1e3),
            Ok(_) => self.empty += 1,
            Err(code) => *self.codes.entry(code as i32).or_default() += 1,
        }
    }

    /// Calls that ended, one way or another.
    pub(crate) fn ended(&self) -> u64 {
        self.times.len() as u64 + self.empty + self.codes.values().sum::<u64>()
    }

    pub(crate) fn of(&self, code: Code) -> u64 {
        self.codes.get(&(code as i32)).copied().unwrap_or(0)
    }

    /// By code, as a note tells them.
    pub(crate) fn told(&self) -> String {
        let codes = self.codes.iter().map(|(code, count)| format!(", {count} {:?}", Code::from(*code)));
        format!("{} decisions{}", self.times.len(), codes.collect::<String>())
    }
}

async fn call(channel: Channel, images: &Images, id: u64) -> Result<(u64, bool), Code> {
    let answer = TransmitterClient::new(channel).classify(images.request(id)).await.map_err(|status| status.code())?;
    let answer = answer.into_inner();
    Ok((answer.id, answer.decision.is_some()))
}

/// Tells when each call is to be made. A thread of its own: the runtime's timers are no finer than a millisecond.
fn pace(Offer { rate, lasting, seed, .. }: Offer) -> mpsc::UnboundedReceiver<Instant> {
    let (tell, told) = mpsc::unbounded_channel();
    thread::spawn(move || {
        let mut random = StdRng::seed_from_u64(seed);
        let start = Instant::now();
        let mut next = Duration::ZERO;
        loop {
            // 1 - u lies above 0.
            next += Duration::from_secs_f64(-(1.0 - random.random::<f64>()).ln() / rate);
            if next >= lasting {
                return;
            }
            let meant = start + next;
            thread::sleep(meant.saturating_duration_since(Instant::now()));
            if tell.send(meant).is_err() {
                return;
            }
        }
    });
    told
}

impl Offer {
    /// Makes the calls, and waits for all of them to end, at most `patience` after the last.
    pub(crate) async fn run(self, url: &str, images: &Arc<Images>, patience: Duration) -> Result<Outcome> {
        let channels = connect(url, self.connections).await?;
        let (ids, outcome) = (Ids::endless(), Arc::new(Mutex::new(Outcome::default())));
        let permits = Arc::new(Semaphore::new(self.most));
        let mut calls = JoinSet::new();
        let (mut made, mut left_out) = (0, 0);
        let mut meant = pace(self);
        let end = Instant::now() + self.lasting;
        let mut turns = channels.iter().cycle();
        while let Some(meant) = meant.recv().await {
            while calls.try_join_next().is_some() {}
            let permit = Arc::clone(&permits).try_acquire_owned().ok().filter(|_| Instant::now() < end);
            let (Some(permit), Some(channel), Some(id)) = (permit, turns.next(), ids.take()) else {
                left_out += 1;
                continue;
            };
            made += 1;
            let (channel, images, outcome) = (channel.clone(), Arc::clone(images), Arc::clone(&outcome));
            calls.spawn(async move {
                let answer = call(channel, &images, id).await;
                outcome.lock().unwrap_or_else(PoisonError::into_inner).take(id, meant, answer);
                drop(permit);
            });
        }
        let rest = async { while calls.join_next().await.is_some() {} };
        // What has not ended by then is missing from the outcome.
        tokio::time::timeout(patience, rest).await.ok();
        let outcome = std::mem::take(&mut *outcome.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Outcome { made, left_out, ..outcome })
    }
}

/// Calls per second that are answered with a decision, `under_way` at a time.
pub(crate) async fn closed(url: &str, images: &Arc<Images>, under_way: usize, lasting: Duration) -> Result<f64> {
    let channels = connect(url, 8).await?;
    let ids = Ids::endless();
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for (_, channel) in (0..under_way).zip(channels.iter().cycle()) {
        let (channel, images, ids) = (channel.clone(), Arc::clone(images), Arc::clone(&ids));
        callers.spawn(async move {
            let mut decided = 0_u64;
            while start.elapsed() < lasting {
                let Some(id) = ids.take() else { break };
                decided += u64::from(matches!(call(channel.clone(), &images, id).await, Ok((_, true))));
            }
            decided
        });
    }
    let decided: u64 = callers.join_all().await.iter().sum();
    Ok(decided as f64 / start.elapsed().as_secs_f64())
}

pub(super) fn latency(seed: u64) -> Result<Vec<Row>> {
    let chain = Chain::start(&Setup::default())?;
    let images = Arc::new(Images::sample()?);
    let offer = |seconds, seed| Offer {
        rate: OFFERED,
        lasting: Duration::from_secs(seconds),
        connections: 1,
        most: 4096,
        seed,
    };
    let url = chain.transmitter.url();
    let mut outcome = runtime()?.block_on(async {
        offer(WARM_UP, seed + 1).run(&url, &images, Duration::from_secs(30)).await?;
        offer(SECONDS, seed).run(&url, &images, Duration::from_secs(30)).await
    })?;
    let decided = outcome.times.len() as u64;
    ensure!(decided == outcome.made && outcome.left_out == 0, "{} made, {}", outcome.made, outcome.told());
    let [median, p90, p99, worst] = [0.5, 0.9, 0.99, 1.0].map(|share| quantile(&mut outcome.times, share));
    let note = format!(
        "{decided} calls in {SECONDS} s, made at random times whether or not others are under way and timed from when they were meant to be made; \
         90th percentile {p90:.2} ms, longest {worst:.1} ms; {RIG}"
    );
    let marks = [("median", median, json!(5), json!(2)), ("99th percentile", p99, json!(20), json!(6))];
    let rows = marks.into_iter().map(|(name, value, must, aim)| {
        let what = format!("time of a single call at {OFFERED} images per second offered, all hops, {name}");
        let mut row = row(&what, value, "ms", "lower", must, aim, &command("latency"));
        row.note.clone_from(&note);
        row
    });
    Ok(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offer_has_its_rate_and_its_seed() {
        let offer = Offer { rate: 20_000.0, lasting: Duration::from_millis(200), connections: 1, most: 1, seed: 3 };
        let gaps = |offer| -> Vec<Duration> {
            let mut told = pace(offer);
            let times: Vec<Instant> = std::iter::from_fn(|| told.blocking_recv()).collect();
            times.windows(2).map(|pair| pair[1] - pair[0]).collect()
        };
        let first = gaps(offer);
        // 4,000 expected with a deviation of 63.
        assert!((3700..4300).contains(&first.len()), "{}", first.len());
        assert_eq!(first, gaps(offer));
        assert_ne!(first, gaps(Offer { seed: 4, ..offer }));
    }

    #[test]
    fn outcomes_are_told_by_code() {
        let mut outcome = Outcome::default();
        outcome.take(1, Instant::now(), Ok((1, true)));
        outcome.take(2, Instant::now(), Ok((1, true)));
        outcome.take(3, Instant::now(), Ok((3, false)));
        outcome.take(4, Instant::now(), Err(Code::ResourceExhausted));
        assert_eq!((outcome.times.len(), outcome.empty, outcome.ended()), (1, 2, 4));
        assert_eq!(outcome.of(Code::ResourceExhausted), 1);
        assert_eq!(outcome.told(), "1 decisions, 1 ResourceExhausted");
    }
}
