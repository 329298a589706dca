//! Stage `search`, KDL-DARTS: the student's cells are found by gradient descent on the distillation loss.
//!
//! Bilevel: on one half of the training split the weights w of the mixed network follow the distillation loss, on the other half the architecture
//! a = (alpha, beta) follows the same loss plus penalty x |E\[cost\](a) / target - 1| (arXiv 2508.02148) and, against collapse, beta decay
//! (beta-DARTS).

mod architecture;
mod cost;
pub(crate) mod draw;
mod latency;
mod random;
mod supernet;
#[cfg(test)]
mod tests;
pub(crate) mod trials;
mod unrolled;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use semlink_codec::cells::{CellKind, CellLayout, Genotype, Operation};
use semlink_nn::optim::{AdamW, AdamWConfig, Optimizer};
use semlink_nn::{Mode, Params, grad, value_and_grad};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use cost::CostMeasure;
pub use latency::LatencyTable;
pub(crate) use random::random_genotype;

pub(crate) use self::architecture::Architecture;
use self::architecture::{Gates, KEPT};
use self::cost::CostTable;
pub(crate) use self::supernet::Supernet;
pub use self::trials::{Trial, TrialsConfig};
use crate::fit::{FitConfig, Objective};
use crate::progress::{METRICS, Metrics};
use crate::recipe::LossWeights;
use crate::stages::cache::Cache;
use crate::stages::distill::{Judgement, Lessons};
use crate::stages::{Context, Stage};
use crate::{Error, Result, json};

/// Stage `search`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchConfig {
    /// Candidates for every edge.
    pub operations: Vec<Operation>,
    /// Operations work on one of this many parts of the channels (PC-DARTS); 1: on all.
    pub partial: usize,
    /// What is counted.
    pub cost: CostMeasure,
    /// What the student may cost, in units of `cost`.
    pub target: f64,
    /// Lambda: weight of the distance to the target in the architecture's loss; 0: no penalty, and the genotype is the likeliest whatever it costs.
    pub penalty: f64,
    /// How far from the target the genotype may end, as a share of it.
    pub tolerance: f64,
    /// Epochs before the architecture moves.
    pub warmup_epochs: usize,
    /// Learning rate of the architecture (Adam, betas 0.5 and 0.999).
    pub alpha_lr: f64,
    /// Weight decay of the architecture.
    pub alpha_weight_decay: f64,
    /// Weight of beta decay at the end; it grows linearly from 0.
    pub beta_decay: f64,
    /// Whether the architecture is judged a step of the weights ahead (DARTS, second order): about three times the work.
    pub second_order: bool,
    /// The search stops when a larger share of the normal cell's edges than this are skips or pools.
    pub max_free_share: f64,
    /// The distillation loss of both levels.
    pub loss: LossWeights,
    /// Optimisation of the weights; `ema` must be 0.
    pub fit: FitConfig,
    /// Short trainings from scratch that decide between the likeliest networks; absent: the likeliest is taken untried.
    #[serde(default)]
    pub trials: Option<TrialsConfig>,
}

impl SearchConfig {
    /// Every fault that shows without knowing the images' size, naming its field.
    pub(crate) fn faults(&self, layout: &CellLayout) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, fault: String| {
            if !ok {
                faults.push(fault);
            }
        };
        let useful = self.operations.iter().filter(|op| **op != Operation::None).count();
        check(useful > 0, "operations needs at least one besides none".into());
        for (i, op) in self.operations.iter().enumerate() {
            check(!self.operations[..i].contains(op), format!("operations has {} twice", op.name()));
        }
        let partial = self.partial;
        check(
            partial >= 1 && layout.width.is_multiple_of(partial.max(1)),
            format!("partial = {partial}, expected a divisor of the layout's width {}", layout.width),
        );
        let shares = [("tolerance", self.tolerance), ("max_free_share", self.max_free_share)];
        for (name, share) in shares {
            check((0.0..=1.0).contains(&share), format!("{name} = {share}, expected 0 to 1"));
        }
        let weights = [
            ("penalty", self.penalty),
            ("alpha_lr", self.alpha_lr),
            ("alpha_weight_decay", self.alpha_weight_decay),
            ("beta_decay", self.beta_decay),
        ];
        for (name, weight) in weights {
            check(weight >= 0.0 && weight.is_finite(), format!("{name} = {weight}, expected at least 0"));
        }
        check(
            self.warmup_epochs < self.fit.epochs,
            format!("warmup_epochs = {} leaves none of the {} epochs to search", self.warmup_epochs, self.fit.epochs),
        );
        check(self.fit.ema == 0.0, format!("fit.ema = {}, expected 0: a search keeps no average", self.fit.ema));
        faults.extend(self.fit.faults().into_iter().map(|fault| format!("fit.{fault}")));
        faults.extend(self.loss.faults().into_iter().map(|fault| format!("loss.{fault}")));
        let trials = self.trials.as_ref().map(TrialsConfig::faults).unwrap_or_default();
        faults.extend(trials.into_iter().map(|fault| format!("trials.{fault}")));
        faults
    }

    /// Every fault for images of `size` = height, width, channels.
    pub(crate) fn faults_at(&self, layout: &CellLayout, size: (usize, usize, usize)) -> Vec<String> {
        let mut faults = Vec::new();
        for (i, place) in layout.places(size.0, size.1).iter().enumerate() {
            let (h, w) = place.input;
            if place.kind == CellKind::Reduction && h.min(w) < 2 {
                let images = format!("{} x {} images", size.0, size.1);
                faults.push(format!("cell {i} of the layout halves what is {h} x {w} already, for {images}"));
            }
        }
        // Without penalty the target is not looked at.
        if faults.is_empty() && self.penalty > 0.0 {
            match CostTable::new(&self.cost, layout, &self.operations, size) {
                Ok(costs) => {
                    let (low, high) = costs.range(KEPT);
                    if !(low..=high).contains(&self.target) {
                        faults.push(format!(
                            "target = {}, but what this layout can cost lies between {low:.0} and {high:.0}",
                            self.target
                        ));
                    }
                }
                Err(e) => faults.push(e.to_string()),
            }
        }
        faults
    }
}

/// The genotype's file in the run's folder.
pub(crate) const FILE: &str = "genotype.json";
/// The drawing of its cells.
pub(crate) const DRAWING: &str = "genotype.svg";
/// What the search found besides, for tables.
pub(crate) const REPORT: &str = "search.json";

/// `search.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct SearchReport {
    /// In units of the recipe's cost.
    pub target: f64,
    /// E\[cost\] of the architecture at the end.
    pub expected_cost: f64,
    /// Cost of the genotype.
    pub realised_cost: f64,
    /// Distillation loss of the mixed network on the validation split.
    pub supernet_loss: f64,
    /// That of the discretised network with the mixed network's weights, before any retraining.
    pub discretised_loss: f64,
    /// Mean entropy of the operations' softmax, 1 at the start.
    pub entropy: f64,
    /// Share of skips and pools in the normal cell.
    pub free_share: f64,
    /// The networks that were tried, the likeliest first; the genotype is the one of least loss. Empty without trials.
    #[serde(default)]
    pub trials: Vec<Trial>,
}

struct Task<'a> {
    config: &'a SearchConfig,
    lessons: &'a Lessons<'a>,
    costs: CostTable,
    /// One half of the training split for the weights, the other for the architecture.
    halves: [Vec<usize>; 2],
    /// With gradients of the weights, and without.
    weights: Supernet,
    frozen: Supernet,
    vars: Vec<(String, Var)>,
    architecture: Architecture,
    alphas: Params,
    optimizer: Mutex<AdamW>,
    steps_per_epoch: usize,
    step: AtomicUsize,
}

impl<'a> Task<'a> {
    fn new(params: &Params, config: &'a SearchConfig, layout: &CellLayout, lessons: &'a Lessons<'a>) -> Result<Self> {
        let input = &lessons.data.input;
        let (channels, classes) = (input.channels, lessons.data.train.classes);
        let net =
            |params: &Params| Supernet::new(params, layout, &config.operations, config.partial, channels, classes);
        let alphas = Params::init(config.fit.seed, params.device());
        let architecture = Architecture::new(&alphas, layout, &config.operations)?;
        let adam = AdamWConfig {
            beta1: 0.5,
            weight_decay: config.alpha_weight_decay,
            decay_vectors: true,
            ..AdamWConfig::default()
        };
        let mut order: Vec<usize> = (0..lessons.data.train.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(config.fit.seed));
        let (first, second) = order.split_at(order.len() / 2);
        let second = second[..first.len()].to_vec();
        let size = (input.height, input.width, input.channels);
        let (weights, frozen) = (net(params)?, net(&params.detached())?);
        let samples = first.len();
        Ok(Self {
            config,
            lessons,
            costs: CostTable::new(&config.cost, layout, &config.operations, size)?,
            halves: [first.to_vec(), second],
            weights,
            frozen,
            vars: params.vars(),
            architecture,
            optimizer: Mutex::new(AdamW::new(alphas.vars(), adam)?),
            alphas,
            steps_per_epoch: (samples / config.fit.batch.min(samples)).max(1),
            step: AtomicUsize::new(0),
        })
    }

    fn images(&self, half: usize, samples: &[usize]) -> Vec<usize> {
        samples.iter().map(|i| self.halves[half][*i]).collect()
    }

    fn distillation(
        &self,
        net: &Supernet,
        gates: &[Option<Gates>; 2],
        epoch: usize,
        images: &[usize],
        mode: Mode,
    ) -> Result<Tensor> {
        let lesson = self.lessons.lesson(epoch, images)?;
        let (features, logits) = net.forward(&lesson.images, gates, mode)?;
        self.lessons.loss(&lesson.taught, &features, &logits)
    }

    /// The architecture's loss on its half, with the given network.
    fn architecture_loss(&self, net: &Supernet, epoch: usize, images: &[usize]) -> Result<Tensor> {
        let config = self.config;
        let mut loss = self.distillation(net, &self.architecture.gates(false)?, epoch, images, Mode::Probe)?;
        if config.penalty > 0.0 {
            let off = self.architecture.expected_cost(&self.costs)?.affine(1.0 / config.target, -1.0)?.abs()?;
            loss = (loss + off.affine(config.penalty, 0.0)?)?;
        }
        if config.beta_decay > 0.0 {
            let progress = self.step() as f64 / (self.steps_per_epoch * config.fit.epochs) as f64;
            loss = (loss + self.architecture.beta_decay()?.affine(config.beta_decay * progress, 0.0)?)?;
        }
        Ok(loss)
    }

    fn step(&self) -> usize {
        self.step.load(Ordering::Relaxed)
    }

    /// The second-order gradients of the architecture.
    fn unrolled(&self, epoch: usize, samples: &[usize]) -> Result<GradStore> {
        let bare = |vars: &[(String, Var)]| vars.iter().map(|(_, var)| var.clone()).collect::<Vec<_>>();
        let (train_images, images) = (self.images(0, samples), self.images(1, samples));
        // The virtual step is as long as the weights' next one.
        let total = self.steps_per_epoch * self.config.fit.epochs;
        let warmup = (self.config.fit.warmup * total as f64) as usize;
        let xi = semlink_nn::schedule::OneCycle::new(self.config.fit.lr, warmup, total).lr(self.step());
        let train = || {
            let gates = self.architecture.gates(false)?;
            self.distillation(&self.weights, &gates, epoch, &train_images, Mode::Probe)
        };
        let val = || self.architecture_loss(&self.weights, epoch, &images);
        unrolled::gradient(&bare(&self.vars), &bare(&self.alphas.vars()), xi, &train, &val)
    }

    /// One step of alpha and beta.
    fn move_architecture(&self, grads: &GradStore) -> Result<()> {
        if self.step() == self.config.warmup_epochs * self.steps_per_epoch {
            grad::check_every_var_has_gradient(&self.alphas.vars(), grads)?;
        }
        let mut optimizer = self.optimizer.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(optimizer.step(grads, self.config.alpha_lr)?)
    }

    /// Cost and tolerance that a genotype must meet; none without penalty.
    fn target(&self) -> Option<(f64, f64)> {
        (self.config.penalty > 0.0).then_some((self.config.target, self.config.tolerance))
    }

    fn derive(&self) -> Result<Genotype> {
        self.architecture.derive(&self.costs, self.target())
    }

    fn candidates(&self, trials: &TrialsConfig) -> Result<Vec<Genotype>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.config.fit.seed);
        self.architecture.candidates(&self.costs, self.target(), trials.candidates, trials.temperature, &mut rng)
    }

    /// Loss and accuracy on the validation split with the statistics of its batches: gates that differ from those in training need others.
    fn validation(&self, gates: &[Option<Gates>; 2]) -> Result<Judgement> {
        self.lessons.judge(|images| self.frozen.forward(images, gates, Mode::Probe))
    }

    fn report(&self, genotype: &Genotype, trials: Vec<Trial>) -> Result<SearchReport> {
        let summary = self.architecture.summary(genotype)?;
        let supernet_loss = self.validation(&self.architecture.gates(true)?)?.loss;
        let discretised_loss = self.validation(&self.architecture.discrete_gates(genotype)?)?.loss;
        let expected = self.architecture.expected_cost(&self.costs)?.to_scalar::<f32>()?;
        Ok(SearchReport {
            target: self.config.target,
            expected_cost: f64::from(expected),
            realised_cost: self.costs.of(genotype),
            supernet_loss,
            discretised_loss,
            entropy: summary.entropy,
            free_share: summary.free_share,
            trials,
        })
    }
}

impl Objective for Task<'_> {
    fn samples(&self) -> usize {
        self.halves[0].len()
    }

    fn loss(&self, epoch: usize, samples: &[usize]) -> Result<Tensor> {
        let gates = self.architecture.gates(true)?;
        self.distillation(&self.weights, &gates, epoch, &self.images(0, samples), Mode::Train)
    }

    /// Moves the architecture too, unless it still stands.
    fn gradients(&self, epoch: usize, samples: &[usize]) -> Result<(Tensor, GradStore)> {
        let weights = || self.loss(epoch, samples);
        let found = if epoch < self.config.warmup_epochs {
            value_and_grad(weights)?
        } else if self.config.second_order {
            let grads = self.unrolled(epoch, samples)?;
            self.move_architecture(&grads)?;
            value_and_grad(weights)?
        } else {
            let images = self.images(1, samples);
            let upper = || self.architecture_loss(&self.frozen, epoch, &images);
            let ((upper, grads), lower) = side_by_side(upper, weights)?;
            // The caller stops at a loss that is no number, whichever level it is of; on the CPU before the architecture follows it.
            if upper.device().is_cpu() && !upper.to_scalar::<f32>()?.is_finite() {
                return Ok((upper, grads));
            }
            self.move_architecture(&grads)?;
            ((lower.0 + upper.affine(0.0, 0.0)?)?, lower.1)
        };
        self.step.fetch_add(1, Ordering::Relaxed);
        Ok(found)
    }

    fn validate(&self, _: &Params) -> Result<Vec<(String, f64)>> {
        let genotype = self.derive()?;
        let summary = self.architecture.summary(&genotype)?;
        let found = self.validation(&self.architecture.gates(true)?)?;
        let expected = f64::from(self.architecture.expected_cost(&self.costs)?.to_scalar::<f32>()?);
        let searching = self.step() > self.config.warmup_epochs * self.steps_per_epoch;
        if searching && summary.free_share > self.config.max_free_share {
            return Err(Error::Collapse { share: summary.free_share, most: self.config.max_free_share });
        }
        Ok(vec![
            ("-loss".into(), -found.loss),
            ("accuracy".into(), found.accuracy),
            ("feature distance".into(), found.distance),
            ("entropy".into(), summary.entropy),
            ("free share".into(), summary.free_share),
            ("expected cost".into(), expected),
            ("realised cost".into(), self.costs.of(&genotype)),
        ])
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state: BTreeMap<_, _> =
            self.alphas.tensors()?.into_iter().map(|(name, t)| (format!("value/{name}"), t)).collect();
        let optimizer = self.optimizer.lock().unwrap_or_else(PoisonError::into_inner).state()?;
        state.extend(optimizer.into_iter().map(|(name, t)| (format!("adam/{name}"), t)));
        Ok(state)
    }

    fn load_state(&mut self, state: &BTreeMap<String, Tensor>, step: usize) -> Result<()> {
        for (name, var) in self.alphas.vars() {
            if let Some(value) = state.get(&format!("value/{name}")) {
                var.set(value)?;
            }
        }
        let strip = |(name, t): (&String, &Tensor)| Some((name.strip_prefix("adam/")?.to_owned(), t.clone()));
        self.optimizer
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .load_state(&state.iter().filter_map(strip).collect())?;
        *self.step.get_mut() = step;
        Ok(())
    }
}

/// A loss and its gradients.
type Step = (Tensor, GradStore);

/// The gradients of both levels, architecture first, from the same point, each on a thread of its own: a mixed network is made of so many small operators
/// that sharing out each of them costs more than it saves.
pub(crate) fn side_by_side(
    architecture: impl FnOnce() -> Result<Tensor> + Send,
    weights: impl FnOnce() -> Result<Tensor> + Send,
) -> Result<(Step, Step)> {
    let (upper, lower) = rayon::join(|| value_and_grad(architecture), || value_and_grad(weights));
    Ok((upper?, lower?))
}

/// Searches, and writes genotype, report and pictures.
pub(crate) fn run(context: &Context, config: &SearchConfig, layout: &CellLayout) -> Result<()> {
    let cache = Cache::load(context)?;
    let lessons = Lessons::new(context, &cache, config.loss)?;
    let job = context.job(Stage::Search, config.fit);
    let (_, task) = job.run_with(|params| Task::new(params, config, layout, &lessons))?;
    let (genotype, trials) = match &config.trials {
        Some(trials) => trials::best(context, trials, layout, &lessons, task.candidates(trials)?)?,
        None => (task.derive()?, Vec::new()),
    };
    let report = task.report(&genotype, trials)?;
    let write = |file: &str, text: &str| {
        let path = context.dir.join(file);
        fs::write(&path, text).map_err(|source| Error::Io { path, source })
    };
    write(FILE, &genotype.to_json())?;
    json::write(&context.dir.join(REPORT), &report)?;
    write(DRAWING, &draw::genotype(&genotype))?;
    draw::write_history(&Metrics::read(&context.dir.join(METRICS))?, &context.dir.join("search.svg"))?;
    let size = (lessons.data.input.height, lessons.data.input.width, lessons.data.input.channels);
    eprintln!(
        "  search found {}; target {} {}, expected {:.0}; validation loss {:.4}, discretised {:.4}",
        cost::describe(layout, &genotype, size),
        config.target,
        json!(config.cost),
        report.expected_cost,
        report.supernet_loss,
        report.discretised_loss
    );
    Ok(())
}
