//! An SNR that changes by itself, with time or frame number.

use std::path::Path;

use rand::Rng as _;
use rand_distr::StandardNormal;
use semlink_channel::{FrameKey, SnrDb, Substream};
use semlink_proto::v1;
use serde::{Deserialize, Serialize};

/// Points that a schedule may have: with it the message stays below gRPC's limit of 4 MiB.
const MAX_POINTS: usize = 100_000;
/// A random walk has 2^LEVELS steps, after which it stays.
const LEVELS: u32 = 27;

/// What the SNR is a function of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// Seconds since the schedule was set
    Seconds,
    /// A frame's sequence number: the same frame meets the same SNR in every run
    Frames,
}

/// SNR against time or frame number: points, or a random walk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// What the SNR is a function of.
    pub axis: Axis,
    /// (time or frame number, SNR in dB), in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<(f64, f32)>,
    /// Jump at each point instead of going there in a straight line.
    #[serde(default)]
    pub steps: bool,
    /// Begin anew after the last point.
    #[serde(default)]
    pub repeat: bool,
    /// Instead of points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub walk: Option<Walk>,
}

/// From the profile's SNR, after every `every` seconds or frames a step from N(0, step_db^2), thrown back at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Walk {
    /// Seconds or frames from step to step.
    pub every: f64,
    /// Standard deviation of a step in dB.
    pub step_db: f32,
    /// Lower end in dB.
    pub lowest_db: f32,
    /// Upper end in dB.
    pub highest_db: f32,
}

impl Schedule {
    /// Checks all of it.
    ///
    /// # Errors
    /// The first point or field that cannot be.
    pub fn check(&self) -> Result<(), String> {
        match (&self.walk, self.points.is_empty()) {
            (Some(_), false) => return Err("schedule has points and walk, must have one of them".to_owned()),
            (None, true) => return Err("schedule has neither points nor walk, must have one of them".to_owned()),
            (Some(walk), true) => return walk.check(),
            (None, false) => {}
        }
        if self.points.len() > MAX_POINTS {
            return Err(format!("schedule has {} points, at most {MAX_POINTS} are accepted", self.points.len()));
        }
        let mut before = 0.0;
        for (number, (at, snr_db)) in (1..).zip(&self.points) {
            let wrong = |what: String| format!("schedule, point {number}: {what}");
            if !(at.is_finite() && *at >= before) {
                return Err(wrong(format!("at is {at}, must be at least {before}, in order")));
            }
            SnrDb::try_new(*snr_db).map_err(|error| wrong(error.to_string()))?;
            before = *at;
        }
        if self.repeat && before == 0.0 {
            return Err("schedule repeats but ends at 0, must last longer".to_owned());
        }
        Ok(())
    }

    /// Points from a trace: lines `AT,SNR_DB`; empty ones, those after `#` and a first line of names are skipped.
    ///
    /// # Errors
    /// A file that cannot be read, or the number of the first line that is none.
    pub fn points_of(path: &Path) -> Result<Vec<(f64, f32)>, String> {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| format!("trace {name}: {error}"))?;
        let mut points: Vec<(f64, f32)> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() || (points.is_empty() && line.chars().all(|c| c.is_alphabetic() || "_, ".contains(c))) {
                continue;
            }
            let wrong = |what: &str| format!("trace {name}, line {number}: {line:?} {what}");
            let (at, snr_db) = line.split_once(',').ok_or_else(|| wrong("is no AT,SNR_DB"))?;
            let at: f64 = at.trim().parse().map_err(|_| wrong("begins with no number"))?;
            let snr_db: SnrDb =
                snr_db.trim().parse().map_err(|error: semlink_channel::Error| wrong(&error.to_string()))?;
            if !(at.is_finite() && at >= points.last().map_or(0.0, |last| last.0)) {
                return Err(wrong("is not in order, times and frame numbers must not fall"));
            }
            points.push((at, snr_db.db()));
        }
        Ok(points)
    }

    /// SNR at a time or frame number.
    pub(crate) fn snr_at(&self, at: f64, start: SnrDb, seed: u64, link: u64) -> SnrDb {
        let db = match &self.walk {
            Some(walk) => walk.at(at, start, seed, link),
            None => self.point(at),
        };
        SnrDb::try_new(db).unwrap_or(start)
    }

    fn point(&self, at: f64) -> f32 {
        let (Some(first), Some(last)) = (self.points.first(), self.points.last()) else { return f32::NAN };
        let at = if self.repeat { at.rem_euclid(last.0) } else { at };
        // The first point beyond.
        let next = self.points.partition_point(|point| point.0 <= at);
        match (next.checked_sub(1).and_then(|i| self.points.get(i)), self.points.get(next)) {
            (None, _) => first.1,
            (Some(before), None) => before.1,
            (Some(before), Some(_)) if self.steps => before.1,
            (Some(before), Some(after)) => {
                let part = (at - before.0) / (after.0 - before.0);
                (f64::from(before.1) + part * f64::from(after.1 - before.1)) as f32
            }
        }
    }

    pub(crate) fn from_wire(schedule: &v1::Schedule) -> Result<Option<Schedule>, String> {
        if schedule.points.is_empty() && schedule.walk.is_none() {
            return Ok(None);
        }
        let axis = match schedule.axis() {
            v1::ScheduleAxis::Seconds => Axis::Seconds,
            v1::ScheduleAxis::Frames => Axis::Frames,
            v1::ScheduleAxis::Unspecified => {
                let number = schedule.axis;
                return Err(format!("schedule.axis {number} is unknown, must be SECONDS (1) or FRAMES (2)"));
            }
        };
        let walk = schedule.walk.map(|walk| {
            let v1::RandomWalk { every, step_db, lowest_db, highest_db } = walk;
            Walk { every, step_db, lowest_db, highest_db }
        });
        let points = schedule.points.iter().map(|point| (point.at, point.snr_db)).collect();
        let schedule = Schedule { axis, points, steps: schedule.steps, repeat: schedule.repeat, walk };
        schedule.check()?;
        Ok(Some(schedule))
    }

    /// As it travels.
    pub fn to_wire(&self) -> v1::Schedule {
        let axis = match self.axis {
            Axis::Seconds => v1::ScheduleAxis::Seconds,
            Axis::Frames => v1::ScheduleAxis::Frames,
        };
        v1::Schedule {
            axis: axis.into(),
            points: self.points.iter().map(|(at, snr_db)| v1::SchedulePoint { at: *at, snr_db: *snr_db }).collect(),
            steps: self.steps,
            repeat: self.repeat,
            walk: self.walk.map(|Walk { every, step_db, lowest_db, highest_db }| v1::RandomWalk {
                every,
                step_db,
                lowest_db,
                highest_db,
            }),
        }
    }
}

impl Walk {
    fn check(&self) -> Result<(), String> {
        if !(self.every.is_finite() && self.every > 0.0) {
            return Err(format!("schedule.walk.every is {}, must be above 0", self.every));
        }
        if !(0.0..=100.0).contains(&self.step_db) {
            return Err(format!("schedule.walk.step_db is {}, must be in [0, 100] dB", self.step_db));
        }
        for (name, db) in [("lowest_db", self.lowest_db), ("highest_db", self.highest_db)] {
            SnrDb::try_new(db).map_err(|_| format!("schedule.walk.{name} is {db}, must be in [-60, 100] dB"))?;
        }
        if self.lowest_db >= self.highest_db {
            let (low, high) = (self.lowest_db, self.highest_db);
            return Err(format!("schedule.walk.lowest_db is {low}, must be below highest_db, {high}"));
        }
        Ok(())
    }

    fn at(&self, at: f64, start: SnrDb, seed: u64, link: u64) -> f32 {
        let steps = (at / self.every).floor().max(0.0) as u64;
        let free = f64::from(start.db()) + f64::from(self.step_db) * walked(steps, seed, link);
        // A walk between mirrors is a free one folded between them.
        let (low, high) = (f64::from(self.lowest_db), f64::from(self.highest_db));
        let folded = (free - low).rem_euclid(2.0 * (high - low));
        (low + folded.min(2.0 * (high - low) - folded)) as f32
    }
}

/// Sum of the first `count` of 2^[`LEVELS`] draws from N(0, 1), in a time that hardly depends on `count`: a frame names it, and any number may
/// come next.
///
/// The sum of all is drawn first, then that of their first half given the whole, then that of the half of it that holds number `count`, and
/// so on (Lévy's construction of Brownian motion). Of n draws that sum to s, the first half sums to N(s / 2, n / 4).
fn walked(count: u64, seed: u64, link: u64) -> f64 {
    let draw = |level: u32, part: u64| {
        let key = FrameKey { seed, link, stream: level.into(), frame: part };
        key.generator(Substream::Walk).sample::<f64, _>(StandardNormal)
    };
    let draws = |level: u32| (1u64 << level) as f64;
    // Sums before and after part number `part` of 2^level draws.
    let (mut before, mut after, mut part) = (0.0, draws(LEVELS).sqrt() * draw(LEVELS, 0), 0);
    if count >= 1 << LEVELS {
        return after;
    }
    for level in (0..LEVELS).rev() {
        let middle = (before + after) / 2.0 + (draws(level) / 2.0).sqrt() * draw(level, part);
        part *= 2;
        if count >> level & 1 == 0 {
            after = middle;
        } else {
            before = middle;
            part += 1;
        }
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(points: &[(f64, f32)]) -> Schedule {
        Schedule { axis: Axis::Frames, points: points.to_vec(), steps: false, repeat: false, walk: None }
    }

    fn snr(db: f32) -> SnrDb {
        SnrDb::try_new(db).expect("an SNR")
    }

    #[test]
    fn lines_steps_and_repetition() {
        let at = |schedule: &Schedule, t| schedule.snr_at(t, snr(3.0), 0, 0).db();
        let ramp = schedule(&[(10.0, 20.0), (20.0, 0.0), (20.0, 5.0), (40.0, -5.0)]);
        let found = [0.0, 10.0, 15.0, 19.5, 20.0, 30.0, 40.0, 1e9].map(|t| at(&ramp, t));
        assert_eq!(found, [20.0, 20.0, 10.0, 1.0, 5.0, 0.0, -5.0, -5.0]);
        let steps = Schedule { steps: true, ..ramp.clone() };
        assert_eq!([0.0, 19.0, 20.0, 39.0, 40.0].map(|t| at(&steps, t)), [20.0, 20.0, 5.0, 5.0, -5.0]);
        let repeated = Schedule { repeat: true, ..ramp };
        assert_eq!([15.0, 55.0, 4_015.0].map(|t| at(&repeated, t)), [10.0, 10.0, 10.0]);
    }

    #[test]
    fn a_walk_is_a_function_of_the_frame_alone_and_stays_between_its_ends() {
        let walk = Walk { every: 2.0, step_db: 1.5, lowest_db: -4.0, highest_db: 9.0 };
        let schedule = Schedule { walk: Some(walk), points: Vec::new(), ..schedule(&[]) };
        let go = |frames: &mut dyn Iterator<Item = u32>| {
            frames.map(|t| schedule.snr_at(f64::from(t), snr(3.0), 7, 0).db()).collect::<Vec<_>>()
        };
        let forwards = go(&mut (0..3_000));
        let mut backwards = go(&mut (0..3_000).rev());
        backwards.reverse();
        assert_eq!(forwards, backwards);
        assert_eq!(forwards[0], 3.0);
        assert!(forwards.iter().all(|db| (-4.0..=9.0).contains(db)));
        assert!(forwards.chunks(2).all(|pair| pair[0] == pair[1]));
        // Steps that were not thrown back: a variance's standard error is 1.5^2 sqrt(2 / n).
        let steps: Vec<f32> = forwards.windows(3).step_by(2).map(|w| w[2] - w[0]).collect();
        let inside = |i: usize| forwards[2 * i] > 1.5 && forwards[2 * i] < 3.5;
        let free: Vec<f32> = (0..steps.len()).filter(|i| inside(*i)).map(|i| steps[i]).collect();
        let variance = free.iter().map(|x| x * x).sum::<f32>() / free.len() as f32;
        let tolerance = 5.0 * 2.25 * (2.0 / free.len() as f32).sqrt();
        assert!((variance - 2.25).abs() < tolerance, "{variance} of {}", free.len());
    }

    #[test]
    fn sums_of_steps_have_the_moments_of_independent_draws_however_far_they_are() {
        const SEEDS: u64 = 2_000;
        let mean = |f: &dyn Fn(u64) -> f64| (0..SEEDS).map(f).sum::<f64>() / SEEDS as f64;
        // A variance's standard error is its value times sqrt(2 / n); that of the mean product of two independent N(0, 1) sqrt(1 / n).
        let (of_variance, of_product) = ((2.0 / SEEDS as f64).sqrt(), (1.0 / SEEDS as f64).sqrt());
        for (from, to) in [(0, 1), (0, 100), (3, 4), (63, 65), (1 << 26, (1 << 26) + 1), (77_777_777, 77_777_784)] {
            let variance = mean(&|seed| (walked(to, seed, 0) - walked(from, seed, 0)).powi(2)) / (to - from) as f64;
            assert!((variance - 1.0).abs() < 5.0 * of_variance, "{from} to {to}: {variance}");
        }
        // Neighbouring steps, within one half and across the middle.
        for at in [1, 2, 1 << 26, 99_999_999] {
            let product = mean(&|seed| {
                let [a, b, c] = [at - 1, at, at + 1].map(|count| walked(count, seed, 0));
                (b - a) * (c - b)
            });
            assert!(product.abs() < 5.0 * of_product, "{at}: {product}");
        }
        assert_eq!(walked(u64::MAX, 3, 0), walked(1 << LEVELS, 3, 0));
    }

    #[test]
    fn what_is_no_schedule_is_refused_by_name() {
        let wrong = |schedule: Schedule| schedule.check().expect_err("impossible");
        assert!(wrong(schedule(&[(0.0, 10.0), (5.0, 1e9)])).contains("point 2: snr_db is 1"));
        assert!(wrong(schedule(&[(3.0, 10.0), (2.0, 1.0)])).contains("point 2: at is 2"));
        assert!(wrong(schedule(&[(f64::NAN, 10.0)])).contains("point 1"));
        assert!(wrong(schedule(&[])).contains("neither"));
        assert!(wrong(Schedule { repeat: true, ..schedule(&[(0.0, 1.0)]) }).contains("repeats"));
        let walk = Walk { every: 1.0, step_db: 1.0, lowest_db: 0.0, highest_db: 5.0 };
        let walking = |walk| Schedule { walk: Some(walk), ..schedule(&[]) };
        assert_eq!(walking(walk).check(), Ok(()));
        assert!(wrong(walking(Walk { every: 0.0, ..walk })).contains("walk.every"));
        assert!(wrong(walking(Walk { step_db: f32::NAN, ..walk })).contains("walk.step_db"));
        assert!(wrong(walking(Walk { highest_db: -1.0, ..walk })).contains("walk.lowest_db"));
        assert!(wrong(walking(Walk { highest_db: 101.0, ..walk })).contains("walk.highest_db"));
    }

    #[test]
    fn a_bad_line_of_a_trace_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("snr.csv");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("a file");
            Schedule::points_of(&path)
        };
        assert_eq!(read("at,snr_db\n# comment\n0, 10\n\n5,-2.5 # down\n"), Ok(vec![(0.0, 10.0), (5.0, -2.5)]));
        for (text, line) in [("0,10\n1;5\n", 2), ("0,10\n\nx,5\n", 3), ("0,10\n1,500\n", 2), ("4,10\n1,5\n", 2)] {
            let error = read(text).expect_err("a bad line");
            assert!(error.contains(&format!("snr.csv, line {line}:")), "{error}");
        }
        assert!(Schedule::points_of(&path.with_extension("none")).expect_err("no file").contains("snr.none"));
    }
}
