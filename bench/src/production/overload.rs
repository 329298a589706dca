//! Many more single calls than can be answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::json;
use tonic::Code;

use super::calls::{Offer, Outcome, closed};
use super::chain::{self, Chain, Setup};
use super::client::Images;
use super::command;
use crate::measure::row;
use crate::results::Row;
use crate::rig::runtime;

/// Calls offered over calls that can be answered.
const FACTOR: f64 = 10.0;
/// Calls under way while the capacity is measured: fewer than are permitted, so that none is refused.
const UNDER_WAY: usize = 256;
const CAPACITY_FOR: Duration = Duration::from_secs(6);
/// Ten times what the transmitter permits under way: a client has its bounds, too.
const MOST: usize = 10 * 1024;
const CONNECTIONS: usize = 32;
/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(200);
/// Until the memory is looked at for the last time.
const REST: Duration = Duration::from_secs(3);
/// For what is under way at the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is offered.
struct Work {
    name: &'static str,
    images: Arc<Images>,
}

/// What came of it.
struct Overload {
    /// Calls answered per second without overload.
    capacity: f64,
    seconds: u64,
    outcome: Outcome,
    /// MB of each service.
    idle: [f64; 3],
    before: [f64; 3],
    most: [f64; 3],
    after: [f64; 3],
}

pub(super) fn overload(seconds: u64, seed: u64) -> Result<Vec<Row>> {
    let works = [
        // Images that take milliseconds to decode: one client on the services' own cores can offer ten times what they do.
        Work { name: "images of 896x896", images: Arc::new(Images::enlarged(32)?) },
        // Here the client is what is overloaded: it makes as many calls as it can.
        Work { name: "images of 28x28", images: Arc::new(Images::sample()?) },
    ];
    let mut rows = Vec::new();
    for work in works {
        rows.extend(work.overload(seconds, seed)?.rows(&work));
    }
    Ok(rows)
}

impl Work {
    fn overload(&self, seconds: u64, seed: u64) -> Result<Overload> {
        let chain = Chain::start(&Setup::default())?;
        let url = chain.transmitter.url();
        let runtime = runtime()?;
        let idle = chain.memory()?;
        // The second counts, the first warms up.
        runtime.block_on(closed(&url, &self.images, UNDER_WAY, CAPACITY_FOR / 3))?;
        let capacity = runtime.block_on(closed(&url, &self.images, UNDER_WAY, CAPACITY_FOR))?;
        let before = chain.memory()?;
        let lasting = Duration::from_secs(seconds);
        let offer = Offer { rate: FACTOR * capacity, lasting, connections: CONNECTIONS, most: MOST, seed };

        let over = AtomicBool::new(false);
        let (outcome, most) = thread::scope(|scope| {
            let watch = scope.spawn(|| highest(&chain, &over));
            let outcome = runtime.block_on(offer.run(&url, &self.images, PATIENCE));
            over.store(true, Ordering::Relaxed);
            (outcome, watch.join())
        });
        let (outcome, most) = (outcome?, most.map_err(|_| anyhow!("the watch panicked"))??);
        thread::sleep(REST);
        Ok(Overload { capacity, seconds, outcome, idle, before, most, after: chain.memory()? })
    }
}

/// Most that each service held, looked at again and again.
fn highest(chain: &Chain, over: &AtomicBool) -> Result<[f64; 3]> {
    let mut most = [0.0_f64; 3];
    while !over.load(Ordering::Relaxed) {
        most.iter_mut().zip(chain.memory()?).for_each(|(most, now)| *most = most.max(now));
        thread::sleep(LOOK);
    }
    Ok(most)
}

impl Overload {
    /// MB that the services took during it and had not before.
    fn growth(&self) -> f64 {
        self.most.iter().zip(self.before).map(|(most, before)| (most - before).max(0.0)).sum()
    }

    /// Calls that were not refused, and yet got no decision.
    fn unfinished(&self) -> u64 {
        self.outcome.made - self.outcome.times.len() as u64 - self.outcome.of(Code::ResourceExhausted)
    }

    fn rows(&self, work: &Work) -> [Row; 2] {
        let Overload { capacity, seconds, outcome, .. } = self;
        let made = outcome.made as f64 / *seconds as f64;
        let command = match seconds {
            60 => command("overload"),
            seconds => format!("{} --seconds {seconds}", command("overload")),
        };
        let what = |figure: &str| format!("overload, {}, {seconds} s: {figure}", work.name);
        let growth = what("growth of resident memory, all services together");
        let mut memory = row(&growth, self.growth(), "MB", "lower", json!(50), json!(10), &command);
        memory.note = format!(
            "{made:.0} calls/s made, {:.1} times the capacity of {capacity:.0} calls/s with {UNDER_WAY} under way ({FACTOR} times were meant to be \
             made, open loop, at most {MOST} under way, {CONNECTIONS} connections); PNG files of {} bytes; at most during it less before it, after \
             the capacity was measured; MB at the start: {}; before: {}; most: {}; after: {}; client and services on the same cores",
            made / capacity,
            work.images.bytes(),
            chain::told(self.idle, 1),
            chain::told(self.before, 1),
            chain::told(self.most, 1),
            chain::told(self.after, 1)
        );
        let accepted = what("accepted calls without a decision");
        let mut finished = row(&accepted, self.unfinished() as f64, "calls", "lower", json!(0), json!(0), &command);
        finished.note = format!(
            "of {} calls: {}, {} without an answer; {:.0} decisions/s; accepted is what was not refused with RESOURCE_EXHAUSTED",
            outcome.made,
            outcome.told(),
            outcome.made - outcome.ended(),
            outcome.times.len() as f64 / *seconds as f64
        );
        [memory, finished]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_adds_up_and_refusals_are_not_failures() {
        let mut outcome = Outcome { times: vec![1.0; 5], made: 12, left_out: 3, ..Outcome::default() };
        outcome.codes.insert(Code::ResourceExhausted as i32, 4);
        outcome.codes.insert(Code::Unavailable as i32, 1);
        let [idle, before, most, after] = [[1.0; 3], [10.0, 10.0, 20.0], [15.0, 9.0, 22.0], [0.0; 3]];
        let overload = Overload { capacity: 1.0, seconds: 6, outcome, idle, before, most, after };
        // 5 and 2; what shrank does not count. Two had no answer and one failed.
        assert_eq!((overload.growth(), overload.unfinished()), (7.0, 3));
        let work = Work { name: "images", images: Arc::new(Images::sample().expect("the sample")) };
        let [_, finished] = overload.rows(&work);
        assert!(finished.note.contains("2 without an answer"), "{}", finished.note);
    }
}
