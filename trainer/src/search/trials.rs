//! Trials: short trainings from scratch that decide between the likeliest networks.
//!
//! The mixed network ranks its operations while each of them shares weights with all others; a trial asks the network itself. DARTS chooses
//! among the cells of four searches in this way (Liu et al. 2019, section 3.1); here one search gives all candidates.

use std::time::Instant;

use semlink_codec::StudentConfig;
use semlink_codec::cells::{CellConfig, CellLayout, Genotype};
use semlink_nn::Params;
use serde::{Deserialize, Serialize};

use crate::fit::FitConfig;
use crate::stages::distill::{self, Lessons};
use crate::stages::{Context, Stage};
use crate::{Error, Result, json};

/// `[search.trials]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialsConfig {
    /// Networks that are tried: the likeliest and others drawn around it.
    pub candidates: usize,
    /// Candidates are drawn from softmax(alpha / temperature).
    pub temperature: f64,
    /// Optimisation of each candidate, on the whole training split with the loss of the search.
    pub fit: FitConfig,
}

impl TrialsConfig {
    /// Every fault, naming its field.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.candidates < 2 {
            faults.push(format!("candidates = {}, expected at least 2 to decide between", self.candidates));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            faults.push(format!("temperature = {}, expected above 0", self.temperature));
        }
        faults.extend(self.fit.faults().into_iter().map(|fault| format!("fit.{fault}")));
        faults
    }
}

/// A network that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Its cells.
    pub genotype: Genotype,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// The search's loss on the validation split.
    pub loss: f64,
    /// On the validation split.
    pub accuracy: f64,
}

/// A trial as `trials.json` has it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) trial: Trial,
    /// What it took.
    seconds: f64,
}

/// Trials that are done, so that an interrupted stage goes on with the next.
pub(crate) const FILE: &str = "trials.json";
/// What metrics and checkpoint of a trial go by.
const NAME: &str = "trial";

/// Trains every candidate, and gives the one of least loss with all trials.
pub(super) fn best(
    context: &Context,
    config: &TrialsConfig,
    layout: &CellLayout,
    lessons: &Lessons<'_>,
    candidates: Vec<Genotype>,
) -> Result<(Genotype, Vec<Trial>)> {
    let path = context.dir.join(FILE);
    let mut earlier: Vec<Done> = if context.resume && path.exists() { json::read(&path)? } else { Vec::new() };
    let count = candidates.len();
    let mut done: Vec<Done> = Vec::with_capacity(count);
    let mut seconds_before = context.seconds_before.get();
    for (i, genotype) in candidates.into_iter().enumerate() {
        // What is found of another search stays behind: its candidates are others.
        let one = if let Some(at) = earlier.iter().position(|one| one.trial.genotype == genotype) {
            let one = earlier.swap_remove(at);
            seconds_before += one.seconds;
            one
        } else {
            let started = Instant::now();
            let trial = try_out(context, config, layout, lessons, genotype)?;
            Done { trial, seconds: started.elapsed().as_secs_f64() }
        };
        let Trial { macs, loss, accuracy, .. } = one.trial;
        eprintln!("  trial {} of {count}: {macs} multiply-accumulates, loss {loss:.4}, accuracy {accuracy:.4}", i + 1);
        done.push(one);
        json::write(&path, &done)?;
    }
    // Each trial's training began its own count.
    context.seconds_before.set(seconds_before);
    let trials: Vec<Trial> = done.into_iter().map(|one| one.trial).collect();
    let best = trials.iter().min_by(|a, b| a.loss.total_cmp(&b.loss));
    let best = best.map(|trial| trial.genotype.clone()).ok_or_else(|| Error::Split("no candidate to try".into()))?;
    Ok((best, trials))
}

fn try_out(
    context: &Context,
    config: &TrialsConfig,
    layout: &CellLayout,
    lessons: &Lessons<'_>,
    genotype: Genotype,
) -> Result<Trial> {
    let mut job = context.job_within(Stage::Search, NAME, config.fit);
    // Too short to be worth continuing, and the checkpoint may be another candidate's.
    job.resume = false;
    let cells = CellConfig { layout: layout.clone(), genotype: genotype.clone() };
    let student = StudentConfig::Cells(cells.clone());
    let trained = distill::train(&job, &student, lessons)?;
    let found = lessons.judge_trained(&Params::frozen(trained), &student)?;
    let input = &lessons.data.input;
    let macs = cells.cost(input.height, input.width, input.channels).macs;
    Ok(Trial { genotype, macs, loss: found.loss, accuracy: found.accuracy })
}
