//! The stages of a run, in order, and what they share.

mod bundle;
pub(crate) mod cache;
mod digital;
pub(crate) mod distill;
pub(crate) mod evaluate;
pub(crate) mod robust;
mod run;
pub(crate) mod teacher;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use candle_core::Device;
use semlink_codec::StudentConfig;
use semlink_codec::cells::{CellConfig, Genotype};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::data::{self, Data, to_hex};
use crate::fit::{FitConfig, Job};
use crate::group::{Alone, Group};
use crate::recipe::{DataConfig, GenotypeSource, Recipe, StudentSpec};
use crate::report::Network;
use crate::search;
use crate::{Error, Result, json};

/// What stage `robust` writes and `evaluate` and `bundle` read: all parameters of both halves, by their names in a bundle.
pub(crate) const CODEC_FILE: &str = "codec.safetensors";

/// The recipe of a run, whole.
pub(crate) const RECIPE_FILE: &str = "recipe.toml";
/// What else there is to know of a run.
pub(crate) const ABOUT_FILE: &str = "run.json";

/// `run.json`: of the last start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// Of the trainer.
    pub(crate) version: String,
    /// RFC 3339, UTC.
    pub(crate) date: String,
    /// Folder of the images.
    pub(crate) data: String,
    /// `cpu` or `gpu`.
    pub(crate) device: String,
    /// CPUs that the process may use.
    pub(crate) threads: usize,
    /// That train together.
    pub(crate) processes: usize,
}

/// One step from images to a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Trains the teacher.
    Teacher,
    /// Stores the teacher's outputs for augmented views of the training images.
    Cache,
    /// KDL-DARTS: finds the student's cells, if the recipe asks for it.
    Search,
    /// Stage 1 of RKD-SC: the student learns the teacher's features.
    Distill,
    /// Stage 2: CAT and classifier learn through simulated channels.
    Robust,
    /// Measures on the test split.
    Evaluate,
    /// Writes the bundle.
    Bundle,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 7] =
        [Self::Teacher, Self::Cache, Self::Search, Self::Distill, Self::Robust, Self::Evaluate, Self::Bundle];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Teacher => "teacher",
            Self::Cache => "cache",
            Self::Search => "search",
            Self::Distill => "distill",
            Self::Robust => "robust",
            Self::Evaluate => "evaluate",
            Self::Bundle => "bundle",
        }
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|stage| stage.name() == text).ok_or_else(|| format!("stages are {names}"))
    }
}

/// A run: a recipe, its data and its folder.
pub struct Context<'a> {
    pub(crate) recipe: &'a Recipe,
    /// Folder of the IDX files.
    pub(crate) data_dir: PathBuf,
    /// Folder of this run.
    pub(crate) dir: PathBuf,
    pub(crate) resume: bool,
    /// Where stage `bundle` copies its result to.
    pub(crate) assets: Option<PathBuf>,
    /// Stop a training stage after this many steps, as a kill would (tests).
    pub(crate) stop_after: Option<usize>,
    /// What interrupted attempts at the present stage took.
    pub(crate) seconds_before: Cell<f64>,
    data: OnceLock<Data>,
    /// Where networks and images are.
    pub(crate) device: Device,
    /// Results go to standard output as JSON instead of tables.
    pub(crate) json: bool,
    /// The processes that make this run together.
    group: Arc<dyn Group>,
}

/// What is remembered of a stage that is done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    stage: String,
    /// See [`Context::inputs`].
    inputs: String,
    /// Of computing, interrupted attempts included.
    pub(crate) seconds: f64,
}

impl<'a> Context<'a> {
    /// Creates the run's folder, `out` or `runs/NAME`; images come from `data_dir` or else from where the recipe says.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn new(recipe: &'a Recipe, data_dir: Option<&Path>, out: Option<&Path>) -> Result<Self> {
        let dir = out.map_or_else(|| Path::new("runs").join(&recipe.name), Path::to_owned);
        fs::create_dir_all(&dir).map_err(|source| Error::Io { path: dir.clone(), source })?;
        Ok(Self {
            recipe,
            data_dir: data_dir.unwrap_or(&recipe.data.dir).to_owned(),
            dir,
            resume: false,
            assets: None,
            stop_after: None,
            seconds_before: Cell::new(0.0),
            data: OnceLock::new(),
            device: Device::Cpu,
            json: false,
            group: Arc::new(Alone),
        })
    }

    /// Whether stages that are done are skipped and an interrupted one is continued; otherwise all start afresh.
    pub fn resume(self, resume: bool) -> Self {
        Self { resume, ..self }
    }

    /// Whether results go to standard output as JSON, a line for each stage that has one, instead of tables.
    pub fn json(self, json: bool) -> Self {
        Self { json, ..self }
    }

    /// Computes on this device instead of the CPU.
    pub fn on(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// Trains together with other processes: each takes its share of every batch of stages teacher, distill and robust; process 0 writes all
    /// files and does the other stages alone. All must have the same recipe, images and folder.
    pub fn together(self, group: Arc<dyn Group>) -> Self {
        Self { group, ..self }
    }

    /// Whether this process writes files.
    pub(crate) fn leads(&self) -> bool {
        self.group.leads()
    }

    /// Has process 0 alone do something, and the others wait for it; they get nothing.
    pub(crate) fn lead<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let done = if self.leads() { Some(work()?) } else { None };
        self.group.barrier()?;
        Ok(done)
    }

    /// Lets stage `bundle` also copy bundle, teacher and sample to this folder.
    pub fn assets(self, assets: Option<PathBuf>) -> Self {
        Self { assets, ..self }
    }

    /// Takes the trained teacher and what it said of the training images from another run's folder, and its student if it is the one that this
    /// recipe would give; stages teacher and cache, and distill with such a student, then need not run here. Stages check that what they
    /// read belongs to this recipe.
    ///
    /// # Errors
    /// A file cannot be copied.
    pub fn take_from(&self, run: &Path) -> Result<()> {
        // Process 0 does it for all, which wait for it when they run.
        let taken = if self.leads() { self.take(run) } else { Ok(()) };
        if let Err(error) = &taken {
            self.group.abandon(error);
        }
        taken
    }

    fn take(&self, run: &Path) -> Result<()> {
        for file in [teacher::Teacher::FILE, cache::Cache::FILE] {
            let (from, to) = (run.join(file), self.dir.join(file));
            if to.exists() {
                continue;
            }
            link(&from, &to)?;
        }
        let done = run.join(Self::record(Stage::Distill));
        let same = json::read(&done).is_ok_and(|record: Record| record.inputs == self.inputs(Stage::Distill));
        if same && !self.record_path(Stage::Distill).exists() {
            let (search, distill) = (Self::record(Stage::Search), Self::record(Stage::Distill));
            for file in [distill::FILE, distill::FEATURES_FILE, search::FILE, &search, &distill] {
                // Nothing was searched for a student whose cells the recipe names, and features come with the first codec.
                if run.join(file).exists() {
                    link(&run.join(file), &self.dir.join(file))?;
                }
            }
        }
        Ok(())
    }

    /// Judges the student alone on the test split, without a channel.
    ///
    /// # Errors
    /// Stage distill has not run.
    pub fn evaluate_student(&self) -> Result<Network> {
        evaluate::student(self)
    }

    /// The genotype of this run's student; none if it is a residual network.
    ///
    /// # Errors
    /// Stage search has not run.
    pub fn genotype_of_student(&self) -> Result<Option<Genotype>> {
        Ok(match self.student()? {
            StudentConfig::Cells(config) => Some(config.genotype),
            StudentConfig::Residual(_) => None,
        })
    }

    /// Training and validation split, read once.
    pub(crate) fn data(&self) -> Result<&Data> {
        if let Some(data) = self.data.get() {
            return Ok(data);
        }
        let data = data::load(self.recipe, &self.data_dir, &self.device)?;
        Ok(self.data.get_or_init(|| data))
    }

    /// The student's network.
    pub(crate) fn student(&self) -> Result<StudentConfig> {
        if let Some(bundle) = &self.recipe.distill.from {
            return Ok(distill::manifest(bundle)?.student);
        }
        Ok(match &self.recipe.student {
            StudentSpec::Residual(config) => StudentConfig::Residual(config.clone()),
            StudentSpec::Cells(spec) => {
                let genotype = match &spec.genotype {
                    GenotypeSource::Search => self.genotype(&self.need(search::FILE, "search")?)?,
                    GenotypeSource::File(path) => self.genotype(path)?,
                    GenotypeSource::Random(seed) => {
                        let Some(config) = &self.recipe.search else {
                            return Err(Error::Split("a random genotype needs the recipe's [search]".into()));
                        };
                        let input = &self.data()?.input;
                        let size = (input.height, input.width, input.channels);
                        search::random_genotype(*seed, config, &spec.layout, size)?
                    }
                };
                let config = CellConfig { layout: spec.layout.clone(), genotype };
                config.validate()?;
                StudentConfig::Cells(config)
            }
        })
    }

    fn genotype(&self, path: &Path) -> Result<Genotype> {
        let text = fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Genotype::parse(&text).map_err(|e| Error::Report { path: path.to_owned(), what: e.to_string() })
    }

    pub(crate) fn job(&self, stage: Stage, config: FitConfig) -> Job<'_> {
        self.job_within(stage, stage.name(), config)
    }

    /// A training of its own within a stage; `name` is what metrics and checkpoint go by.
    pub(crate) fn job_within(&self, stage: Stage, name: &'static str, config: FitConfig) -> Job<'_> {
        Job {
            stage: name,
            config,
            dir: &self.dir,
            device: &self.device,
            // A search moves its architecture within a step; process 0 makes it alone.
            group: if stage == Stage::Search { &Alone } else { self.group.as_ref() },
            start: BTreeMap::new(),
            resume: self.resume,
            inputs: self.inputs(stage),
            seconds_before: &self.seconds_before,
            checkpoint_steps: 200,
            stop_after: self.stop_after,
        }
    }

    /// A file that an earlier stage wrote.
    pub(crate) fn need(&self, file: &str, earlier: &'static str) -> Result<PathBuf> {
        let path = self.dir.join(file);
        if path.exists() { Ok(path) } else { Err(Error::Missing { earlier, path }) }
    }

    fn record_path(&self, stage: Stage) -> PathBuf {
        self.dir.join(Self::record(stage))
    }

    pub(crate) fn record(stage: Stage) -> String {
        format!("{}.done.json", stage.name())
    }

    /// SHA-256 of those sections of the recipe that the stage's result follows from: its own and those of the stages before it.
    fn inputs(&self, stage: Stage) -> String {
        let recipe = self.recipe;
        // Where the files lie does not matter.
        let data = DataConfig { dir: PathBuf::new(), ..recipe.data.clone() };
        let sections = [
            (Stage::Teacher, json!([data, recipe.teacher])),
            (Stage::Cache, json!(recipe.cache)),
            (Stage::Search, json!(recipe.searched())),
            (Stage::Distill, json!([recipe.student, recipe.distill])),
            (Stage::Robust, json!([recipe.cat, recipe.robust])),
            (Stage::Evaluate, json!(recipe.evaluate)),
            (Stage::Bundle, json!(recipe.name)),
        ];
        let mut hash = Sha256::new();
        for (_, section) in sections.iter().filter(|(owner, _)| *owner <= stage) {
            hash.update(section.to_string());
        }
        to_hex(&hash.finalize())
    }

    /// What is known of the stage if it ended in this folder with what the recipe now says about it and the stages before it.
    fn done(&self, stage: Stage) -> Option<Record> {
        let record: Record = json::read(&self.record_path(stage)).ok()?;
        (record.inputs == self.inputs(stage)).then_some(record)
    }

    /// How long a stage computed in this folder, interrupted attempts included; none if it is not done.
    #[must_use]
    pub fn seconds(&self, stage: Stage) -> Option<f64> {
        self.done(stage).map(|record| record.seconds)
    }
}

/// A link costs nothing; across file systems it has to be a copy.
pub(crate) fn link(from: &Path, to: &Path) -> Result<()> {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).map_err(|source| Error::Io { path: from.to_owned(), source })?;
    }
    Ok(())
}
