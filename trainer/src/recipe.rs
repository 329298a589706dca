//! One experiment, one file: the typed content of `recipes/*.toml`.

mod changes;
mod faults;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use semlink_channel::ChannelKind;
use semlink_codec::cells::CellLayout;
use semlink_codec::{CatConfig, InputSpec, ResidualConfig};
use serde::{Deserialize, Serialize};

use crate::augment::AugmentConfig;
use crate::fit::FitConfig;
use crate::search::SearchConfig;
use crate::teachers::Precision;
use crate::{Error, Result};

pub use crate::source::DataFormat;
pub use crate::stages::robust::config::{CsiConfig, RobustConfig, ToldConfig};

use changes::layered;
pub(crate) use changes::{merge, set};

/// A whole experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Names the run directory and the bundle.
    pub name: String,
    /// Images and splits.
    pub data: DataConfig,
    /// Stage `teacher`.
    pub teacher: TeacherConfig,
    /// Stage `cache`.
    pub cache: CacheConfig,
    /// Stage `search`; needed by students whose cells are searched or random.
    #[serde(default)]
    pub search: Option<SearchConfig>,
    /// The network that stage `distill` trains.
    pub student: StudentSpec,
    /// Stage `distill`.
    pub distill: DistillConfig,
    /// The codec that stage `robust` trains.
    pub cat: CatConfig,
    /// Stage `robust`.
    pub robust: RobustConfig,
    /// Stage `evaluate`.
    pub evaluate: EvaluateConfig,
}

/// Where images come from and how they are split and scaled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// What the files are.
    #[serde(default, skip_serializing_if = "is_default")]
    pub format: DataFormat,
    /// Their folder.
    pub dir: PathBuf,
    /// Class names, by index; of image files the subfolders' names.
    pub labels: Vec<String>,
    /// Height and width to which image files are resized; other formats have a size of their own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub size: Option<[usize; 2]>,
    /// Image files without folders `train` and `test`: how many of them, by `seed`, are the test images.
    #[serde(default, skip_serializing_if = "is_default")]
    pub held_out: Option<usize>,
    /// SHA-256 of files by their path below the folder, compared when they are read; files that are not named here are not checked.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sha256: BTreeMap<String, String>,
    /// Images of the training files that are kept for validation.
    pub validation: usize,
    /// Decides which those are.
    pub seed: u64,
    /// Mean of the pixels, scaled to \[0, 1\], for each channel.
    pub mean: Vec<f32>,
    /// Their standard deviation.
    pub std: Vec<f32>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl DataConfig {
    /// Input of the encoder for images of this size.
    pub fn input(&self, height: usize, width: usize) -> InputSpec {
        InputSpec { height, width, channels: self.mean.len(), mean: self.mean.clone(), std: self.std.clone() }
    }
}

/// Stage `teacher`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherConfig {
    /// Its encoder, to be trained; the classifier is linear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<ResidualConfig>,
    /// Or a large pretrained one, of which the linear classifier alone is trained, on its features.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<PretrainedConfig>,
    /// A trained teacher to take instead of training one.
    #[serde(default)]
    pub from: Option<PathBuf>,
    /// Probability mass that the targets spread over all classes.
    pub label_smoothing: f32,
    /// Augmentation; a pretrained teacher's classifier is trained on images as they are.
    #[serde(default)]
    pub augment: AugmentConfig,
    /// Optimisation.
    pub fit: FitConfig,
}

/// A pretrained teacher; see docs/TEACHERS.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainedConfig {
    /// Folder of the checkpoint, as `semlink-trainer teacher import` leaves it.
    pub path: PathBuf,
    /// Length of its feature vector, which the student's is.
    pub features: usize,
    /// What it must be, `sha256:` and 64 digits; absent: whatever lies there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What it computes in.
    #[serde(default)]
    pub precision: Precision,
}

impl TeacherConfig {
    /// Length of its feature vector; none if the recipe does not say which teacher it has.
    pub fn features(&self) -> Option<usize> {
        let trained = self.network.as_ref().map(|network| network.features);
        trained.or_else(|| self.pretrained.as_ref().map(|pretrained| pretrained.features))
    }
}

/// Stage `cache`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// Augmented views of each training image.
    pub views: usize,
    /// Augmentation of the views.
    pub augment: AugmentConfig,
    /// With view and image, decides the augmentation.
    pub seed: u64,
}

/// The student's encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StudentSpec {
    /// A residual network, made by hand.
    Residual(ResidualConfig),
    /// A network of cells.
    Cells(CellsSpec),
}

/// A student of cells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellsSpec {
    /// Stem, order and width of the cells, head.
    pub layout: CellLayout,
    /// Where the cells come from.
    pub genotype: GenotypeSource,
}

/// Where the cells of a student come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenotypeSource {
    /// Stage `search` finds them.
    Search,
    /// A `genotype.json`.
    File(PathBuf),
    /// Random ones within 5 % of the search's target, from this seed: a control.
    Random(u64),
}

impl StudentSpec {
    /// Length of the feature vector.
    pub fn features(&self) -> usize {
        match self {
            Self::Residual(config) => config.features,
            Self::Cells(spec) => spec.layout.features,
        }
    }
}

/// The distillation loss of stages `search` and `distill`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossWeights {
    /// Weight of the feature distance.
    pub feature_weight: f64,
    /// Weight of the divergence from the teacher's softened decision.
    pub logit_weight: f64,
    /// Weight of the cross-entropy with the label.
    pub task_weight: f64,
    /// Temperature of the softened decision.
    pub temperature: f32,
}

impl LossWeights {
    /// Every fault, naming its field.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let Self { feature_weight, logit_weight, task_weight, temperature } = *self;
        for (name, weight) in
            [("feature_weight", feature_weight), ("logit_weight", logit_weight), ("task_weight", task_weight)]
        {
            if !(weight >= 0.0 && weight.is_finite()) {
                faults.push(format!("{name} = {weight}, expected at least 0"));
            }
        }
        if feature_weight + logit_weight + task_weight == 0.0 {
            faults.push("all weights are 0".into());
        }
        if !(temperature > 0.0 && temperature.is_finite()) {
            faults.push(format!("temperature = {temperature}, expected above 0"));
        }
        faults
    }
}

/// Stage `distill`: stage 1 of RKD-SC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// A bundle whose trained student is taken as it is, cells included; only a classifier is trained for it here, and nothing is searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// What the student minimises.
    pub loss: LossWeights,
    /// Optimisation.
    pub fit: FitConfig,
}

/// Stage `evaluate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateConfig {
    /// Seeds the channel.
    pub seed: u64,
    /// Channel kinds to measure.
    pub channels: Vec<ChannelKind>,
    /// Es/N0 values to measure.
    pub snr_db: Vec<f32>,
    /// K of each Rician channel to measure.
    pub k_factor_db: Vec<f32>,
    /// Frames sent for each image over fading channels.
    pub fading_draws: usize,
    /// Numbers of pilots with which all but the Rician channels are measured again.
    #[serde(default)]
    pub pilots: Vec<usize>,
    /// Whether to measure a digital scheme too: JPEG over an ideal channel code.
    #[serde(default)]
    pub digital: bool,
    /// Channel uses of the table of assumed against true SNR; absent: there is none.
    #[serde(default)]
    pub mismatch_uses: Option<usize>,
    /// Es/N0 values of that table, true and assumed.
    #[serde(default)]
    pub mismatch_snr_db: Vec<f32>,
}

impl Recipe {
    /// Reads and checks a file, with `changes` of the form `section.key=value` (TOML values) made to it.
    ///
    /// A recipe with a line `base = "FILE"`, relative to its own folder, is that recipe with its own keys changed, table by table; only a
    /// `[student]` replaces the other's whole.
    ///
    /// # Errors
    /// The file cannot be read, has unknown or missing keys, or describes something that cannot be run; all faults are listed.
    pub fn read(path: &Path, changes: &[String]) -> Result<Self> {
        let refuse = |faults| Error::Recipe { path: path.to_owned(), faults };
        let mut table = layered(path, 0)?;
        for change in changes {
            set(&mut table, change).map_err(|fault| refuse(vec![fault]))?;
        }
        Self::check(table.try_into().map_err(|e: toml::de::Error| e.to_string())).map_err(refuse)
    }

    /// The content of a file.
    ///
    /// # Errors
    /// Every fault found.
    pub fn parse(text: &str) -> std::result::Result<Self, Vec<String>> {
        Self::check(toml::from_str(text).map_err(|e| e.to_string()))
    }

    pub(crate) fn check(read: std::result::Result<Self, String>) -> std::result::Result<Self, Vec<String>> {
        let recipe = read.map_err(|fault| vec![fault.trim().replace('\n', " ")])?;
        let faults = recipe.faults();
        if faults.is_empty() { Ok(recipe) } else { Err(faults) }
    }

    /// Input of the encoder for images of this size.
    pub fn input(&self, height: usize, width: usize) -> InputSpec {
        self.data.input(height, width)
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.data.labels.len()
    }

    /// What stage `search` has to do; nothing where the student is not searched.
    pub fn searched(&self) -> Option<(&SearchConfig, &CellLayout)> {
        match (&self.student, &self.search) {
            (StudentSpec::Cells(spec), Some(config))
                if spec.genotype == GenotypeSource::Search && self.distill.from.is_none() =>
            {
                Some((config, &spec.layout))
            }
            _ => None,
        }
    }

    /// Refuses to share batches among more processes than they have images.
    ///
    /// # Errors
    /// Every batch that is too small.
    pub fn check_processes(&self, processes: usize) -> Result<()> {
        let fits = [("teacher", &self.teacher.fit), ("distill", &self.distill.fit), ("robust", &self.robust.fit)];
        let small = fits.into_iter().filter(|(_, fit)| fit.batch < processes);
        let faults: Vec<String> = small
            .map(|(name, fit)| format!("{name}.fit.batch = {}, expected at least the {processes} processes", fit.batch))
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(Error::Recipe { path: (&self.name).into(), faults }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::robust::codec::Codec;

    const SHIPPED: &str = include_str!("../../recipes/fashion-mnist.toml");

    #[test]
    fn the_shipped_recipe_parses() {
        let recipe = Recipe::parse(SHIPPED).unwrap();
        assert_eq!(recipe.classes(), 10);
        // Whatever the search finds, the student is at most a 30th of the teacher.
        let teacher = recipe.teacher.network.as_ref().unwrap().cost(28, 28, 1).params as f64;
        let (search, _) = recipe.searched().unwrap();
        let student = search.target * (1.0 + search.tolerance);
        assert!(student * 30.0 <= teacher, "student {student}, teacher {teacher}");
    }

    #[test]
    fn all_faults_are_listed_together() {
        let bad = SHIPPED
            .replace("views = 6", "views = 0")
            .replace("unknown = 0.15", "unknown = 1.5")
            .replace("snr_db = [-13.0, 20.0]", "snr_db = [-10.0, 200.0]")
            .replace("batch = 512", "batch = 0")
            .replace("{ channels = 256, blocks = 1, stride = 2 }", "{ channels = 256, blocks = 1, stride = 9 }");
        let faults = Recipe::parse(&bad).unwrap_err().join("\n");
        for expected in ["cache.views", "robust.told", "200", "robust.fit.batch", "stages[2].stride"] {
            assert!(faults.contains(expected), "{faults}\nlacks {expected}");
        }
    }

    #[test]
    fn every_shipped_recipe_is_read_and_a_change_changes_one_key() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("recipes");
        let mut found = 0;
        for folder in [folder.clone(), folder.join("search"), folder.join("cat")] {
            for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if file.extension().is_some_and(|e| e == "toml") {
                    Recipe::read(&file, &[]).unwrap_or_else(|e| panic!("{e}"));
                    found += 1;
                }
            }
        }
        assert!(found >= 18, "{found}");
        let read = |changes: &[&str]| {
            let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
            Recipe::read(&folder.join("search/random.toml"), &changes)
        };
        let StudentSpec::Cells(spec) = read(&["student.cells.genotype.random=7"]).unwrap().student else { panic!() };
        assert_eq!(spec.genotype, GenotypeSource::Random(7));
        for (change, expected) in [
            ("search.targte=3.0", "targte"),
            ("search.target=1.0", "lies between"),
            ("serach.target=1.0", "no serach"),
            ("search.operations=[\"conv_9x9\"]", "conv_9x9"),
            ("search.partial=5", "divisor"),
            ("search.target", "section.key=value"),
        ] {
            let fault = read(&[change]).unwrap_err().to_string();
            assert!(fault.contains(expected), "{change}: {fault}");
        }
    }

    #[test]
    fn codecs_that_are_compared_are_of_one_size() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("recipes");
        let read = |file: &str| Recipe::read(&folder.join(file), &[]).unwrap();
        for (cat, mlp) in [("fashion-mnist.toml", "cat/mlp.toml"), ("fashion-pairs.toml", "cat/pairs-mlp.toml")] {
            let (cat, mlp) = (Codec::cost(&read(cat)), Codec::cost(&read(mlp)));
            for (cat, mlp) in cat.iter().zip(mlp) {
                let ratio = mlp.params as f64 / cat.params as f64;
                assert!((0.98..1.02).contains(&ratio), "{} and {} parameters", mlp.params, cat.params);
            }
        }
        // The edge half of CAT stays at most half the size of the student, whatever the search finds.
        let shipped = read("fashion-mnist.toml");
        let (search, _) = shipped.searched().unwrap();
        let encoder = Codec::cost(&shipped)[0].params as f64;
        assert!(encoder <= 0.5 * search.target * (1.0 - search.tolerance), "{encoder}");
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let faults = Recipe::parse(&SHIPPED.replace("[cache]", "[cache]\nveiws = 3")).unwrap_err();
        assert!(faults[0].contains("veiws"), "{faults:?}");
    }
}
