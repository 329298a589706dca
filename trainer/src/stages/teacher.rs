//! Stage `teacher`: a large classifier whose features the student learns, trained here or pretrained with a classifier trained for its features.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use semlink_channel::stats::wilson;
use semlink_codec::{Classifier, Cost, InputSpec, ResidualNet};
use semlink_nn::{Mode, Params, checkpoint, ops};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::cache::{self, BATCH};
use super::{Context, Stage};
use crate::data::{Data, Split, accuracy, to_hex};
use crate::fit::Objective;
use crate::progress::Progress;
use crate::recipe::{PretrainedConfig, Recipe};
use crate::teachers::{About, Pretrained};
use crate::{Error, Result, json};

/// Encoder and classifier.
pub(crate) struct Teacher {
    encoder: Encoder,
    classifier: Classifier,
}

enum Encoder {
    Trained(ResidualNet),
    Pretrained(Box<Frozen>),
}

/// A pretrained encoder that takes images as the student does.
struct Frozen {
    teacher: Pretrained,
    /// Of each channel, \[c\]: images times the first plus the second are pixels of 0 to 255.
    pixels: (Tensor, Tensor),
}

impl Frozen {
    fn open(config: &PretrainedConfig, input: &InputSpec, device: &Device) -> Result<Self> {
        let teacher = Pretrained::open(&config.path, device, config.precision)?;
        let about = teacher.about();
        let wrong = |what: String| Err(Error::Teacher { path: config.path.clone(), what });
        if about.features != config.features {
            return wrong(format!(
                "has features of {}, the recipe's teacher.pretrained.features is {}",
                about.features, config.features
            ));
        }
        if let Some(id) = config.id.as_ref().filter(|id| **id != about.id) {
            return wrong(format!("is teacher {}, the recipe asks for {id}", about.id));
        }
        let channels =
            |values: &[f32]| Tensor::from_vec(values.iter().map(|v| 255.0 * v).collect(), values.len(), device);
        let pixels = (channels(&input.std)?, channels(&input.mean)?);
        Ok(Self { teacher, pixels })
    }

    /// Those of a whole split as it is, in f16, on the CPU.
    fn features(&self, split: &Split) -> Result<Tensor> {
        let all: Vec<usize> = (0..split.len()).collect();
        let mut progress = Progress::new("teacher", all.len().div_ceil(BATCH), 0, BATCH);
        let mut parts = Vec::new();
        for part in all.chunks(BATCH) {
            let features = self.forward(&split.plain(part)?)?;
            parts.push(features.to_dtype(DType::F16)?.to_device(&Device::Cpu)?);
            progress.tick(parts.len());
        }
        progress.finish();
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// Feature vectors of images as the student sees them. Their pixels, whole numbers, come back exactly.
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let (factor, offset) = &self.pixels;
        let pixels = images.to_device(factor.device())?.broadcast_mul(factor)?.broadcast_add(offset)?.round()?;
        Ok(self.teacher.features(&self.teacher.prepare(&pixels)?)?.to_device(images.device())?)
    }
}

impl Teacher {
    pub(crate) const FILE: &'static str = "teacher.safetensors";
    /// What metadata says of a pretrained teacher: [`About`] and precision.
    const PRETRAINED: &'static str = "pretrained";

    /// One that is trained here.
    fn trained(params: &Params, recipe: &Recipe, channels: usize) -> Result<Self> {
        let Some(network) = &recipe.teacher.network else {
            return Err(Error::Split("the recipe's teacher has no network to train".into()));
        };
        Ok(Self {
            encoder: Encoder::Trained(ResidualNet::new(&params.sub("encoder"), network, channels)?),
            classifier: Classifier::new(&params.sub("classifier"), network.features, recipe.classes())?,
        })
    }

    /// Features \[n, features\] and logits \[n, classes\].
    pub(crate) fn forward(&self, images: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let features = match &self.encoder {
            Encoder::Trained(net) => net.forward(images, mode)?,
            Encoder::Pretrained(frozen) => frozen.forward(images)?,
        };
        let logits = self.classifier.forward(&features)?;
        Ok((features, logits))
    }

    /// Parameters and multiply-accumulates for one image.
    pub(crate) fn cost(&self, recipe: &Recipe, height: usize, width: usize) -> Cost {
        let features = recipe.teacher.features().unwrap_or_default();
        let encoder = match (&self.encoder, &recipe.teacher.network) {
            (Encoder::Pretrained(frozen), _) => {
                Cost { params: frozen.teacher.about().params, macs: frozen.teacher.macs() }
            }
            (Encoder::Trained(_), Some(network)) => network.cost(height, width, recipe.data.mean.len()),
            (Encoder::Trained(_), None) => Cost::default(),
        };
        encoder + Classifier::cost(features, recipe.classes())
    }

    /// The teacher of this run.
    pub(crate) fn load(context: &Context) -> Result<Self> {
        let path = context.need(Self::FILE, "teacher")?;
        let file = checkpoint::load(&path, &context.device)?;
        let (recipe, input) = (context.recipe, &context.data()?.input);
        let tensors = file.tensors.into_iter().map(|(name, t)| Ok((name, t.to_dtype(DType::F32)?)));
        let params = Params::frozen(tensors.collect::<Result<BTreeMap<_, _>>>()?);
        let teacher = match &recipe.teacher.pretrained {
            None => Self::trained(&params, recipe, input.channels)?,
            Some(config) => {
                let frozen = Frozen::open(config, input, &context.device)?;
                if file.metadata.get(Self::PRETRAINED) != Some(&describe(&frozen, config)) {
                    let what =
                        format!("made with another teacher than {}: run stage teacher again", config.path.display());
                    return Err(Error::Report { path, what });
                }
                Self { classifier: classifier(&params, recipe)?, encoder: Encoder::Pretrained(Box::new(frozen)) }
            }
        };
        params.check_all_used()?;
        Ok(teacher)
    }

    /// The space that features lie in, if texts are embedded there, too.
    pub(crate) fn feature_space(context: &Context) -> Result<Option<String>> {
        let file = checkpoint::load(&context.need(Self::FILE, "teacher")?, &Device::Cpu)?;
        let about = file.metadata.get(Self::PRETRAINED).and_then(|text| serde_json::from_str::<Described>(text).ok());
        Ok(about.map(|described| described.about).filter(|about| about.shared_space).map(|about| about.id))
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Described {
    about: About,
    precision: crate::teachers::Precision,
}

/// What features follow from.
fn describe(frozen: &Frozen, config: &PretrainedConfig) -> String {
    let described = Described { about: frozen.teacher.about().clone(), precision: config.precision };
    serde_json::to_string(&described).unwrap_or_default()
}

fn classifier(params: &Params, recipe: &Recipe) -> Result<Classifier> {
    let features = recipe.teacher.features().unwrap_or_default();
    Ok(Classifier::new(&params.sub("classifier"), features, recipe.classes())?)
}

struct Task<'a> {
    teacher: Teacher,
    recipe: &'a Recipe,
    data: &'a Data,
}

impl Objective for Task<'_> {
    fn samples(&self) -> usize {
        self.data.train.len()
    }

    fn loss(&self, epoch: usize, samples: &[usize]) -> Result<Tensor> {
        let config = &self.recipe.teacher;
        let images = self.data.train.augmented(samples, &config.augment, config.fit.seed, epoch)?;
        let targets = self.data.train.targets(samples, config.label_smoothing)?;
        let (_, logits) = self.teacher.forward(&images, Mode::Train)?;
        Ok(ops::cross_entropy(&logits, &targets, None)?)
    }

    fn validate(&self, weights: &Params) -> Result<Vec<(String, f64)>> {
        let teacher = Teacher::trained(weights, self.recipe, self.data.input.channels)?;
        let logits = self.data.validation.map(|images| Ok(teacher.forward(images, Mode::Eval)?.1))?;
        Ok(vec![("accuracy".into(), accuracy(&logits, self.data.validation.labels())?)])
    }
}

/// Trains the teacher, or takes the one that the recipe names, and writes it in f16; of a pretrained one, trains the classifier.
pub(crate) fn run(context: &Context) -> Result<()> {
    let target = context.dir.join(Teacher::FILE);
    let recipe = context.recipe;
    if let Some(config) = &recipe.teacher.pretrained {
        return probe(context, config);
    }
    if let Some(from) = &recipe.teacher.from {
        if context.leads() {
            std::fs::copy(from, &target).map_err(|source| Error::Io { path: from.clone(), source })?;
            Teacher::load(context)?;
        }
        return Ok(());
    }
    let data = context.data()?;
    let job = context.job(Stage::Teacher, recipe.teacher.fit);
    let trained =
        job.run(|params| Ok(Task { teacher: Teacher::trained(params, recipe, data.input.channels)?, recipe, data }))?;
    if !context.leads() {
        return Ok(());
    }
    let half = trained.into_iter().map(|(name, t)| Ok((name, t.to_dtype(DType::F16)?)));
    let half = half.collect::<Result<BTreeMap<_, _>>>()?;
    let about = BTreeMap::from([
        ("format".to_owned(), "semlink teacher, version 1".to_owned()),
        ("network".to_owned(), json!(recipe.teacher.network).to_string()),
        ("data_hash".to_owned(), data.hash.clone()),
    ]);
    checkpoint::save(&target, &half, &about)?;
    Ok(())
}

/// Features of both splits as they are, in f16.
const FEATURES_FILE: &str = "teacher-features.safetensors";
/// What the classifier of a pretrained teacher reaches.
const PROBE_FILE: &str = "probe.json";

/// A linear probe: logistic regression from a pretrained teacher's features of the training images, which stay as they are.
struct Probe<'a> {
    classifier: Classifier,
    recipe: &'a Recipe,
    data: &'a Data,
    /// Standardised, \[n, features\] each.
    train: &'a Tensor,
    validation: &'a Tensor,
}

impl Objective for Probe<'_> {
    fn samples(&self) -> usize {
        self.data.train.len()
    }

    fn loss(&self, _: usize, samples: &[usize]) -> Result<Tensor> {
        let rows: Vec<u32> = samples.iter().map(|i| *i as u32).collect();
        let rows = Tensor::from_vec(rows, samples.len(), self.train.device())?;
        let logits = self.classifier.forward(&self.train.index_select(&rows, 0)?)?;
        let targets = self.data.train.targets(samples, self.recipe.teacher.label_smoothing)?;
        Ok(ops::cross_entropy(&logits, &targets, None)?)
    }

    fn validate(&self, weights: &Params) -> Result<Vec<(String, f64)>> {
        let logits = classifier(weights, self.recipe)?.forward(self.validation)?;
        Ok(vec![("accuracy".into(), accuracy(&logits, self.data.validation.labels())?)])
    }
}

fn probe(context: &Context, config: &PretrainedConfig) -> Result<()> {
    let (recipe, data) = (context.recipe, context.data()?);
    let frozen = Frozen::open(config, &data.input, &context.device)?;
    let described = describe(&frozen, config);
    let key = json!({"teacher": described, "data": data.hash, "split": recipe.data}).to_string();
    let key = to_hex(&Sha256::digest(key));
    let path = context.dir.join(FEATURES_FILE);
    let names = ["train", "validation"];
    let computed = context.lead(|| match cache::stored(&path, &key, names)? {
        Some(features) => Ok(features),
        None => {
            let features = [frozen.features(&data.train)?, frozen.features(&data.validation)?];
            let [train, validation] = features.clone();
            cache::store(&path, key.clone(), [("train", train), ("validation", validation)])?;
            Ok(features)
        }
    })?;
    let found = match computed {
        Some(features) => Some(features),
        None => cache::stored(&path, &key, names)?,
    };
    let [train, validation] = found.ok_or(Error::Missing { earlier: "teacher", path })?;
    let device = &context.device;
    let (train, validation) =
        (train.to_device(device)?.to_dtype(DType::F32)?, validation.to_device(device)?.to_dtype(DType::F32)?);
    // A scale of its own for each feature, so that one learning rate does for every teacher.
    let mean = train.mean_keepdim(0)?;
    let deviation = train.broadcast_sub(&mean)?.sqr()?.mean_keepdim(0)?.sqrt()?.affine(1.0, 1e-6)?;
    let standard = |x: &Tensor| -> Result<Tensor> { Ok(x.broadcast_sub(&mean)?.broadcast_div(&deviation)?) };
    let (train, validation) = (standard(&train)?, standard(&validation)?);
    let job = context.job(Stage::Teacher, recipe.teacher.fit);
    let trained = job.run(|params| {
        Ok(Probe { classifier: classifier(params, recipe)?, recipe, data, train: &train, validation: &validation })
    })?;
    if !context.leads() {
        return Ok(());
    }
    let logits = classifier(&Params::frozen(trained.clone()), recipe)?.forward(&validation)?;
    let (found, images) = (accuracy(&logits, data.validation.labels())?, data.validation.len());
    let [low, high] = wilson(found, images);
    eprintln!(
        "  linear probe of {}: {:.2} % of {images} validation images, 95 % interval {:.2} to {:.2} %",
        frozen.teacher.about().id,
        100.0 * found,
        100.0 * low,
        100.0 * high
    );
    let about = frozen.teacher.about();
    let report =
        json!({"teacher": about, "accuracy": found, "ci95": [low, high], "images": images, "split": "validation"});
    json::write(&context.dir.join(PROBE_FILE), &report)?;
    let about = BTreeMap::from([
        ("format".to_owned(), "semlink teacher, version 1".to_owned()),
        (Teacher::PRETRAINED.to_owned(), described),
        ("data_hash".to_owned(), data.hash.clone()),
    ]);
    Ok(checkpoint::save(&context.dir.join(Teacher::FILE), &unscaled(trained, &mean, &deviation)?, &about)?)
}

/// The classifier for features as they are: w (f - mean) / deviation + b; mean and deviation \[1, features\].
fn unscaled(trained: BTreeMap<String, Tensor>, mean: &Tensor, deviation: &Tensor) -> Result<BTreeMap<String, Tensor>> {
    let (weight, bias) = ("classifier.linear.weight", "classifier.linear.bias");
    let (Some(w), Some(b)) = (trained.get(weight), trained.get(bias)) else {
        return Err(Error::Split("a classifier without weight or bias".into()));
    };
    let w = w.broadcast_div(deviation)?;
    let b = (b - w.matmul(&mean.t()?)?.squeeze(1)?)?;
    Ok(BTreeMap::from([(weight.to_owned(), w), (bias.to_owned(), b)]))
}
