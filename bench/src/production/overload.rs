//! Ten times as many single calls as can be answered.

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
use super::{RIG, command};
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

pub(super) fn overload(seconds: u64, seed: u64) -> Result<Vec<Row>> {
    let chain = Chain::start(&Setup::default())?;
    let images = Arc::new(Images::sample()?);
    let url = chain.transmitter.url();
    let runtime = runtime()?;
    let idle = chain.memory()?;
    // The second counts, the first warms up.
    runtime.block_on(closed(&url, &images, UNDER_WAY, CAPACITY_FOR / 3))?;
    let capacity = runtime.block_on(closed(&url, &images, UNDER_WAY, CAPACITY_FOR))?;
    let before = chain.memory()?;
    let lasting = Duration::from_secs(seconds);
    let offer = Offer { rate: FACTOR * capacity, lasting, connections: CONNECTIONS, most: MOST, seed };

    let over = AtomicBool::new(false);
    let (outcome, most) = thread::scope(|scope| {
        let watch = scope.spawn(|| highest(&chain, &over));
        let outcome = runtime.block_on(offer.run(&url, &images, PATIENCE));
        over.store(true, Ordering::Relaxed);
        (outcome, watch.join())
    });
    let (outcome, most) = (outcome?, most.map_err(|_| anyhow!("the watch panicked"))??);
    thread::sleep(REST);
    let after = chain.memory()?;
    rows(seconds, capacity, &outcome, [idle, before, most, after])
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

fn rows(seconds: u64, capacity: f64, outcome: &Outcome, memory: [[f64; 3]; 4]) -> Result<Vec<Row>> {
    let [idle, before, most, after] = memory;
    let refused = outcome.of(Code::ResourceExhausted);
    // Not refused, and yet without a decision.
    let unfinished = outcome.made - outcome.times.len() as u64 - refused;
    let growth: f64 = most.iter().zip(before).map(|(most, before)| (most - before).max(0.0)).sum();
    let wanted = outcome.made + outcome.left_out;
    let offered = format!(
        "{:.0} calls/s made ({:.1} times the capacity of {capacity:.0} calls/s with {UNDER_WAY} under way), open loop with at most {MOST} under way, \
         {CONNECTIONS} connections; {wanted} were meant to be made",
        outcome.made as f64 / seconds as f64,
        outcome.made as f64 / seconds as f64 / capacity,
    );
    let command = match seconds {
        60 => command("overload"),
        seconds => format!("{} --seconds {seconds}", command("overload")),
    };
    let what =
        format!("overload, {FACTOR} times capacity for {seconds} s: growth of resident memory, all services together");
    let mut memory = row(&what, growth, "MB", "lower", json!(50), json!(10), &command);
    memory.note = format!(
        "at most during it less before it, after the capacity was measured; MB at the start: {}; before: {}; most: {}; after: {}; {offered}; {RIG}",
        chain::told(idle, 1),
        chain::told(before, 1),
        chain::told(most, 1),
        chain::told(after, 1)
    );
    let what = format!("overload, {FACTOR} times capacity for {seconds} s: accepted calls without a decision");
    let mut finished = row(&what, unfinished as f64, "calls", "lower", json!(0), json!(0), &command);
    finished.note = format!(
        "of {} calls: {}, {} without an answer; {:.0} decisions/s, accepted is what was not refused with ResourceExhausted",
        outcome.made,
        outcome.told(),
        outcome.made - outcome.ended(),
        outcome.times.len() as f64 / seconds as f64
    );
    Ok(vec![memory, finished])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_adds_up_and_refusals_are_not_failures() {
        let mut outcome = Outcome { times: vec![1.0; 5], made: 12, left_out: 3, ..Outcome::default() };
        outcome.codes.insert(Code::ResourceExhausted as i32, 4);
        outcome.codes.insert(Code::Unavailable as i32, 1);
        let memory = [[1.0; 3], [10.0, 10.0, 20.0], [15.0, 9.0, 22.0], [0.0; 3]];
        let rows = rows(6, 1.0, &outcome, memory).expect("rows");
        // 5 and 2; what shrank does not count. Two had no answer and one failed.
        assert_eq!([rows[0].value, rows[1].value], [Some(7.0), Some(3.0)]);
        assert!(rows[1].note.contains("2 without an answer"), "{}", rows[1].note);
    }
}
