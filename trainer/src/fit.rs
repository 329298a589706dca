//! The training loop that all stages share: order, schedule, averaging, checkpoints, resumption, selection.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use semlink_nn::checkpoint::Checkpoint;
use semlink_nn::optim::{AdamW, AdamWConfig, Average, Optimizer, Sgd, SgdConfig};
use semlink_nn::schedule::OneCycle;
use semlink_nn::{Params, checkpoint, grad, value_and_grad};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::group::{self, Group};
use crate::progress::{METRICS, Metrics, Progress};
use crate::{Error, Result};

/// How a stage optimises.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitConfig {
    /// Seeds initial weights, the order of the images and everything that the stage draws.
    pub seed: u64,
    /// Passes over the training split.
    pub epochs: usize,
    /// Images in a step, of all processes together; a rest at the end of a pass is left out.
    pub batch: usize,
    /// The update rule.
    pub optimizer: OptimizerKind,
    /// Peak learning rate of the one-cycle schedule.
    pub lr: f64,
    /// Share of the steps before the peak.
    pub warmup: f64,
    /// Weight decay; vectors (biases, batch-norm) are spared.
    pub weight_decay: f64,
    /// Decay of the exponential moving average of the weights, which is what is validated and kept; 0: the weights themselves.
    pub ema: f64,
    /// Largest gradient norm; absent: no clipping.
    #[serde(default)]
    pub clip: Option<f64>,
}

/// Update rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Nesterov momentum 0.9.
    Sgd,
    /// Adam with decoupled weight decay.
    AdamW,
}

impl FitConfig {
    /// Every fault, naming its field.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, fault: String| {
            if !ok {
                faults.push(fault);
            }
        };
        check((1..=100_000).contains(&self.epochs), format!("epochs = {}, expected 1 to 100000", self.epochs));
        check((1..=65_536).contains(&self.batch), format!("batch = {}, expected 1 to 65536", self.batch));
        check(self.lr > 0.0 && self.lr.is_finite(), format!("lr = {}, expected above 0", self.lr));
        check((0.0..1.0).contains(&self.warmup), format!("warmup = {}, expected 0 to below 1", self.warmup));
        check(
            (0.0..1.0).contains(&self.weight_decay),
            format!("weight_decay = {}, expected 0 to below 1", self.weight_decay),
        );
        check((0.0..1.0).contains(&self.ema), format!("ema = {}, expected 0 to below 1", self.ema));
        check(self.clip.is_none_or(|c| c > 0.0 && c.is_finite()), format!("clip = {:?}, expected above 0", self.clip));
        faults
    }

    fn optimizer(&self, params: &Params) -> Result<Box<dyn Optimizer>> {
        let vars = params.vars();
        Ok(match self.optimizer {
            OptimizerKind::Sgd => Box::new(Sgd::new(
                vars,
                SgdConfig { momentum: 0.9, nesterov: true, weight_decay: self.weight_decay, decay_vectors: false },
            )?),
            OptimizerKind::AdamW => Box::new(AdamW::new(
                vars,
                AdamWConfig { weight_decay: self.weight_decay, decay_vectors: false, ..AdamWConfig::default() },
            )?),
        })
    }
}

/// What a stage trains.
pub(crate) trait Objective {
    /// Training samples.
    fn samples(&self) -> usize;

    /// The loss of some samples in pass `epoch`, a scalar.
    fn loss(&self, epoch: usize, samples: &[usize]) -> Result<Tensor>;

    /// The loss of some samples in pass `epoch`, a scalar, and the gradients of the weights.
    fn gradients(&self, epoch: usize, samples: &[usize]) -> Result<(Tensor, GradStore)> {
        value_and_grad(|| self.loss(epoch, samples))
    }

    /// Applies weights (frozen) to the validation split. The first figure decides which epoch is kept; more is better.
    fn validate(&self, weights: &Params) -> Result<Vec<(String, f64)>>;

    /// What the objective itself learns beside the weights, for a checkpoint.
    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        Ok(BTreeMap::new())
    }

    /// Continues from a [`state`](Self::state) saved after `step` steps.
    fn load_state(&mut self, _state: &BTreeMap<String, Tensor>, _step: usize) -> Result<()> {
        Ok(())
    }
}

/// Where a stage trains.
pub(crate) struct Job<'a> {
    pub(crate) stage: &'static str,
    pub(crate) config: FitConfig,
    /// The run's folder.
    pub(crate) dir: &'a Path,
    /// Where the weights are.
    pub(crate) device: &'a Device,
    /// The processes that train together; each takes its share of every batch.
    pub(crate) group: &'a dyn Group,
    /// Parameters that do not begin at random.
    pub(crate) start: BTreeMap<String, Tensor>,
    /// Continue from the stage's checkpoint, if there is one.
    pub(crate) resume: bool,
    /// Hash of all that the result follows from; a checkpoint of another is refused.
    pub(crate) inputs: String,
    /// Set to the seconds that interrupted attempts took.
    pub(crate) seconds_before: &'a Cell<f64>,
    /// Steps between checkpoints; one is also written after each epoch.
    pub(crate) checkpoint_steps: usize,
    /// Stop after this many steps with a checkpoint, as a kill would (tests).
    pub(crate) stop_after: Option<usize>,
}

/// Steps that a GPU may be behind.
const STEPS_IN_FLIGHT: usize = 25;

/// The losses of the last steps, some of which may still be computed.
#[derive(Default)]
struct Losses {
    stage: &'static str,
    checkpoint: PathBuf,
    pending: Vec<(usize, Tensor)>,
    /// Their running mean.
    smooth: Option<f32>,
}

impl Losses {
    fn add(&mut self, step: usize, loss: Tensor) {
        self.pending.push((step, loss));
    }

    /// Waits for them.
    ///
    /// # Errors
    /// One is no number.
    fn read(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let (steps, losses): (Vec<usize>, Vec<Tensor>) = self.pending.drain(..).unzip();
        for (step, loss) in steps.into_iter().zip(Tensor::stack(&losses, 0)?.to_vec1::<f32>()?) {
            if !loss.is_finite() {
                let checkpoint = self.checkpoint.clone();
                return Err(Error::Diverged { stage: self.stage, step, loss, checkpoint });
            }
            self.smooth = Some(self.smooth.map_or(loss, |mean| 0.98 * mean + 0.02 * loss));
        }
        Ok(())
    }
}

/// Progress within a stage, as a checkpoint stores it.
struct State {
    /// Steps done.
    step: usize,
    average: Average,
    best: BTreeMap<String, Tensor>,
    best_score: f64,
}

impl Job<'_> {
    fn checkpoint(&self) -> PathBuf {
        self.dir.join(format!("{}.checkpoint.safetensors", self.stage))
    }

    /// Trains and gives the weights of the best epoch, the same to every process.
    ///
    /// `build` makes the objective on fresh parameters or those of the checkpoint. The result of a resumed run equals that of an
    /// uninterrupted one: everything that is drawn follows from (seed, epoch, sample).
    pub(crate) fn run<O: Objective>(
        &self,
        build: impl FnOnce(&Params) -> Result<O>,
    ) -> Result<BTreeMap<String, Tensor>> {
        Ok(self.run_with(build)?.0)
    }

    /// As [`Job::run`]; gives the objective too, as it is after the last step.
    pub(crate) fn run_with<O: Objective>(
        &self,
        build: impl FnOnce(&Params) -> Result<O>,
    ) -> Result<(BTreeMap<String, Tensor>, O)> {
        let config = &self.config;
        let started = Instant::now();
        let group = self.group;
        let saved = self.saved()?;
        self.seconds_before.set(saved.as_ref().map_or(0.0, |saved| saved.seconds));
        let params = match &saved {
            Some(saved) => Params::trainable(saved.part("model")),
            None => Params::warm(config.seed, self.start.clone(), self.device),
        };
        let mut objective = build(&params)?;
        params.check_all_used()?;
        if saved.is_none() {
            group::broadcast_params(group, &params)?;
        }
        let mut optimizer = config.optimizer(&params)?;
        let mut state = State {
            step: 0,
            average: Average::new(config.ema, &params)?,
            best: BTreeMap::new(),
            best_score: f64::NEG_INFINITY,
        };
        if let Some(saved) = saved {
            optimizer.load_state(&saved.part("optimizer"))?;
            objective.load_state(&saved.part("objective"), saved.step)?;
            state.average.load(&saved.part("average"))?;
            state.best = saved.part("best");
            state.best_score = saved.best_score;
            state.step = saved.step;
        }
        let batch = config.batch.min(objective.samples());
        let mine = group::share(group, batch);
        if mine.is_empty() {
            let what = format!("a batch of {batch} cannot be shared by {} processes", group.size());
            return Err(Error::Group(format!("stage {}: {what}: raise {}.fit.batch", self.stage, self.stage)));
        }
        let my_share = mine.len() as f64 / batch as f64;
        let per_epoch = objective.samples() / batch;
        let total = per_epoch * config.epochs;
        let schedule = OneCycle::new(config.lr, (config.warmup * total as f64) as usize, total);
        let leads = group.leads();
        let mut metrics = if leads { Some(Metrics::open(&self.dir.join(METRICS))?) } else { None };
        let mut progress = leads.then(|| Progress::new(self.stage, total, state.step, batch));
        let mut order = Vec::new();
        let mut order_epoch = usize::MAX;
        let mut losses = Losses { stage: self.stage, checkpoint: self.checkpoint(), ..Losses::default() };
        // Reading a loss waits for the GPU.
        let read_every = if self.device.is_cpu() { 1 } else { STEPS_IN_FLIGHT };
        while state.step < total {
            let (epoch, in_epoch) = (state.step / per_epoch, state.step % per_epoch);
            if order_epoch != epoch {
                order = shuffled(objective.samples(), config.seed, epoch);
                order_epoch = epoch;
            }
            let samples = &order[in_epoch * batch..(in_epoch + 1) * batch][mine.clone()];
            let found = objective.gradients(epoch, samples);
            let (loss, mut grads) = found.map_err(|error| self.no_room(error, &objective, epoch, samples))?;
            let loss = group::average(group, &params, &mut grads, loss, my_share)?;
            losses.add(state.step, loss);
            if state.step == 0 || read_every == 1 {
                losses.read()?;
            }
            if state.step == 0 {
                // What was trained before has passed this then, and may have units that died since.
                let mut fresh = params.vars();
                fresh.retain(|(name, _)| !self.start.contains_key(name));
                grad::check_every_var_has_gradient(&fresh, &grads)?;
            }
            if let Some(most) = config.clip {
                grad::clip_norm(&params.vars(), &mut grads, most)?;
            }
            let lr = schedule.lr(state.step);
            optimizer.step(&grads, lr)?;
            state.average.update(&params)?;
            state.step += 1;
            let epoch_done = state.step.is_multiple_of(per_epoch);
            let stop = self.stop_after.is_some_and(|most| state.step >= most);
            let save = epoch_done || stop || state.step.is_multiple_of(self.checkpoint_steps);
            if save || state.step.is_multiple_of(read_every) || state.step.is_multiple_of(50) {
                losses.read()?;
            }
            let smooth = losses.smooth.unwrap_or(f32::NAN);
            if let Some(progress) = &mut progress {
                progress.step(state.step, smooth);
            }
            if let Some(metrics) = metrics.as_mut().filter(|_| state.step.is_multiple_of(50)) {
                metrics.write(
                    &json!({"stage": self.stage, "epoch": epoch, "step": state.step, "lr": lr, "loss": smooth}),
                )?;
            }
            // The others wait for the leader where they next need it.
            if let (Some(metrics), Some(progress), true) = (&mut metrics, &progress, epoch_done) {
                let averaged = state.average.tensors(&params)?;
                let figures = objective.validate(&Params::frozen(averaged.clone()))?;
                let score = figures.first().map_or(0.0, |(_, score)| *score);
                if score > state.best_score {
                    state.best_score = score;
                    state.best = averaged;
                }
                let named: BTreeMap<_, _> = figures.iter().cloned().collect();
                metrics
                    .write(&json!({"stage": self.stage, "epoch": epoch, "step": state.step, "validation": named}))?;
                progress.epoch(epoch + 1, config.epochs, smooth, &figures);
            }
            if save && leads {
                let seconds = self.seconds_before.get() + started.elapsed().as_secs_f64();
                self.save(&params, optimizer.as_ref(), &objective, &state, seconds)?;
            }
            if stop && state.step < total {
                return Err(Error::Stopped { stage: self.stage, step: state.step, total });
            }
        }
        if let Some(progress) = &progress {
            progress.finish();
        }
        Ok((group::broadcast_tensors(group, state.best, self.device)?, objective))
    }

    /// Says what batch fits if `error` is that the GPU's memory does not suffice for `samples`; other errors stay as they are.
    fn no_room(&self, error: Error, objective: &impl Objective, epoch: usize, samples: &[usize]) -> Error {
        if !is_out_of_memory(&error) {
            return error;
        }
        let halves = std::iter::successors(Some(samples.len() / 2), |size| Some(size / 2)).take_while(|size| *size > 0);
        let mut fitting = halves.filter(|size| {
            let tried = objective.gradients(epoch, &samples[..*size]);
            tried.and_then(|_| Ok(self.device.synchronize()?)).is_ok()
        });
        let processes = self.group.size();
        let advice = match fitting.next().map(|size| size * processes) {
            Some(size) => format!("one of {size} does: --set {}.fit.batch={size}", self.stage),
            None => "nor does a single image: --device cpu".to_owned(),
        };
        Error::GpuMemory { stage: self.stage, batch: samples.len() * processes, advice }
    }

    fn save(
        &self,
        params: &Params,
        optimizer: &dyn Optimizer,
        objective: &impl Objective,
        state: &State,
        seconds: f64,
    ) -> Result<()> {
        let mut tensors = BTreeMap::new();
        let parts = [
            ("model", params.tensors()?),
            ("optimizer", optimizer.state()?),
            ("objective", objective.state()?),
            ("average", state.average.state(params)?),
            ("best", state.best.clone()),
        ];
        for (part, content) in parts {
            tensors.extend(content.into_iter().map(|(name, t)| (format!("{part}/{name}"), t)));
        }
        let text = BTreeMap::from([
            ("step".to_owned(), state.step.to_string()),
            ("best_score".to_owned(), state.best_score.to_string()),
            ("seconds".to_owned(), seconds.to_string()),
            ("inputs".to_owned(), self.inputs.clone()),
        ]);
        Ok(checkpoint::save(&self.checkpoint(), &tensors, &text)?)
    }

    /// What all processes continue from, which is what the leader finds; nothing for a training that begins.
    fn saved(&self) -> Result<Option<Saved>> {
        let (path, group) = (self.checkpoint(), self.group);
        if group.size() == 1 {
            return Ok(if self.resume && path.exists() {
                Some(self.read(checkpoint::load(&path, self.device)?)?)
            } else {
                None
            });
        }
        let mut bytes = Vec::new();
        let mut saved = None;
        if group.leads() && self.resume && path.exists() {
            // Read first: a file that is not good is the leader's to report.
            saved = Some(self.read(checkpoint::load(&path, self.device)?)?);
            bytes = std::fs::read(&path).map_err(|source| Error::Io { path, source })?;
        }
        let bytes = group.broadcast(bytes)?;
        if !group.leads() && !bytes.is_empty() {
            saved = Some(self.read(checkpoint::from_bytes(&bytes, self.device)?)?);
        }
        Ok(saved)
    }

    fn read(&self, checkpoint: Checkpoint) -> Result<Saved> {
        let path = self.checkpoint();
        if checkpoint.metadata.get("inputs") != Some(&self.inputs) {
            return Err(Error::OtherCheckpoint { stage: self.stage, path });
        }
        let number = |name: &str| checkpoint.metadata.get(name).and_then(|text| text.parse::<f64>().ok());
        match (number("step"), number("best_score"), number("seconds")) {
            (Some(step), Some(best_score), Some(seconds)) => {
                Ok(Saved { step: step as usize, best_score, seconds, tensors: checkpoint.tensors })
            }
            _ => Err(Error::Report { path, what: "not a checkpoint: step, best_score or seconds is missing".into() }),
        }
    }
}

fn is_out_of_memory(error: &Error) -> bool {
    let text = error.to_string().to_lowercase();
    text.contains("out of memory") || text.contains("out_of_memory")
}

/// The samples of one pass, in the order in which it takes them.
fn shuffled(samples: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut key = [0; 32];
    for (part, value) in key.chunks_exact_mut(8).zip([seed, epoch as u64, 0x6f72_6465, 0]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    let mut order: Vec<usize> = (0..samples).collect();
    order.shuffle(&mut ChaCha8Rng::from_seed(key));
    order
}

/// A checkpoint that was read.
struct Saved {
    tensors: BTreeMap<String, Tensor>,
    step: usize,
    best_score: f64,
    /// Spent until then.
    seconds: f64,
}

impl Saved {
    fn part(&self, part: &str) -> BTreeMap<String, Tensor> {
        let prefix = format!("{part}/");
        self.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(&prefix)?.to_owned(), t.clone()))).collect()
    }
}

#[cfg(test)]
mod tests;
