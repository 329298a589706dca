//! Receiver and emulator die again and again while images stream through them.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use super::chain::{self, Chain, Setup};
use super::client::{Answers, Ids, Images, Streams, Times};
use super::{Options, RIG};
use crate::measure::row;
use crate::process::Process;
use crate::results::Row;
use crate::rig::runtime;

const STREAMS: Streams = Streams { streams: 16, connections: 4, outstanding: 16 };
/// Longest time for which a killed service stays away.
const AWAY: Duration = Duration::from_millis(500);
/// After so long without any answer the images that are left count as never answered.
const STUCK: Duration = Duration::from_secs(60);
/// Of the transmitter, in seconds, the most that it takes: nothing is given up on, so that what is not answered is lost.
const PATIENCE: &str = "300";
/// Ports that another process may have taken meanwhile are tried again.
const STARTS: usize = 20;

/// Kills to come.
struct Plan {
    /// Each when so many images are answered.
    at: Vec<u64>,
    random: StdRng,
}

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Receiver,
    Emulator,
    Both,
}

/// What the killer did.
#[derive(Debug, Default)]
struct Kills {
    /// Of one service or both.
    times: usize,
    receiver: usize,
    emulator: usize,
    /// In all, from each kill until the service served again.
    away: Duration,
}

impl Plan {
    fn new(kills: usize, images: u64, seed: u64) -> Plan {
        let mut random = StdRng::seed_from_u64(seed);
        // None before the first answers, none after the last.
        let (first, last) = (images / 50, images - images / 50);
        let mut at: Vec<u64> = (0..kills).map(|_| random.random_range(first..=last)).collect();
        at.sort_unstable();
        Plan { at, random }
    }

    fn victim(&mut self) -> Victim {
        [Victim::Receiver, Victim::Emulator, Victim::Both][self.random.random_range(0..3)]
    }
}

/// A port that is free now: the services come back on the same.
fn free() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Starts until it serves.
fn again(mut start: impl FnMut() -> Result<Process>) -> Result<Process> {
    for _ in 1..STARTS {
        if let Ok(process) = start() {
            return Ok(process);
        }
        thread::sleep(Duration::from_millis(100));
    }
    start()
}

/// Kills as planned, until the plan is done or the images are.
fn kill(chain: &mut Chain, mut plan: Plan, answers: &Answers, over: &AtomicBool) -> Result<Kills> {
    let (at, emulator_at) = (chain.receiver.address().to_owned(), chain.emulator.address().to_owned());
    let next = chain.receiver.url();
    let mut kills = Kills::default();
    for threshold in std::mem::take(&mut plan.at) {
        while answers.answered() < threshold && !over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        if over.load(Ordering::Relaxed) {
            break;
        }
        kills.times += 1;
        let victim = plan.victim();
        let killed = Instant::now();
        if victim != Victim::Emulator {
            chain.receiver.kill();
            kills.receiver += 1;
        }
        if victim != Victim::Receiver {
            chain.emulator.kill();
            kills.emulator += 1;
        }
        thread::sleep(AWAY.mul_f64(plan.random.random()));
        // In any order: the emulator may be back before the receiver.
        let receiver_first = plan.random.random::<bool>();
        for receiver in [receiver_first, !receiver_first] {
            match receiver {
                true if victim != Victim::Emulator => {
                    chain.receiver = again(|| chain::receiver(&at, &chain::bundle()))?;
                }
                false if victim != Victim::Receiver => {
                    chain.emulator = again(|| chain::emulator(&emulator_at, &next))?;
                }
                _ => {}
            }
        }
        kills.away += killed.elapsed();
    }
    Ok(kills)
}

pub(super) fn chaos(options: &Options) -> Result<Row> {
    let count = options.images;
    let transmitter = &["--patience", PATIENCE];
    let setup = Setup { receiver_at: free()?, emulator_at: free()?, transmitter, ..Setup::default() };
    let mut chain = Chain::start(&setup)?;
    let url = chain.transmitter.url();

    let (images, ids, answers) = (Arc::new(Images::sample()?), Ids::first(count), Arc::new(Answers::to_each(count)));
    let plan = Plan::new(options.kills, count, options.seed);
    let over = AtomicBool::new(false);
    let start = Instant::now();
    let (kills, streamed) = thread::scope(|scope| {
        let killer = scope.spawn(|| kill(&mut chain, plan, &answers, &over));
        let streamed = runtime().and_then(|runtime| {
            runtime.block_on(async {
                tokio::select! {
                    streamed = STREAMS.run(&url, &images, &ids, &answers) => streamed,
                    () = stuck(&answers) => Err(anyhow!("no answer for {} s", STUCK.as_secs())),
                }
            })
        });
        over.store(true, Ordering::Relaxed);
        (killer.join(), streamed)
    });
    let seconds = start.elapsed().as_secs_f64();
    let kills = kills.map_err(|_| anyhow!("the killer panicked"))?.context("a service did not come back")?;
    let Times { never, once, more } = answers.times();
    ensure!(never + once + more >= count, "{never} + {once} + {more} of {count}");
    let what = format!(
        "of {count} images, answered exactly once while receiver and emulator are killed and restarted {} times",
        options.kills
    );
    let command = match (count, options.kills) {
        (100_000, 20) => super::command("chaos"),
        (images, kills) => format!("{} --images {images} --kills {kills}", super::command("chaos")),
    };
    ensure!(kills.times == options.kills || never > 0, "only {} kills before all images were answered", kills.times);
    let mut row = row(&what, once as f64, "images", "higher", json!(count), json!(count), &command);
    let broken = streamed.err().map(|error| format!("; a stream broke: {error:#}")).unwrap_or_default();
    row.note = format!(
        "{never} never, {more} more than once; {} decisions, {:.2} % right, {}; SIGKILL to the receiver {} times, to the emulator {} times, at random \
         times (seed {}), alone or together, back on the same port after {:.2} s on average; {:.0} images/s over all; transmitter with --patience {PATIENCE}; \
         {} streams{broken}; {RIG}",
        answers.decided(),
        100.0 * answers.accuracy(),
        answers.errors(),
        kills.receiver,
        kills.emulator,
        options.seed,
        kills.away.as_secs_f64() / options.kills.max(1) as f64,
        answers.answered() as f64 / seconds,
        STREAMS.streams,
    );
    Ok(row)
}

/// Ends when nothing is answered any more.
async fn stuck(answers: &Answers) {
    let mut last = (answers.answered(), Instant::now());
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = answers.answered();
        if now != last.0 {
            last = (now, Instant::now());
        } else if last.1.elapsed() > STUCK {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_follows_from_its_seed_and_lies_within_the_images() {
        let plan = |seed| {
            let mut plan = Plan::new(20, 1000, seed);
            let victims: Vec<Victim> = (0..20).map(|_| plan.victim()).collect();
            (plan.at, victims)
        };
        let (at, victims) = plan(1);
        assert_eq!((at.len(), (at.clone(), victims.clone())), (20, plan(1)));
        assert_ne!(at, plan(2).0);
        assert!(at.is_sorted() && at[0] >= 20 && at[19] <= 980, "{at:?}");
        assert!([Victim::Receiver, Victim::Emulator, Victim::Both].iter().all(|victim| victims.contains(victim)));
    }
}
