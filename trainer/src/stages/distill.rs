//! Stage `distill`, stage 1 of RKD-SC: the student learns the teacher's features.
//!
//! Loss for one image, f the student's features, f' the teacher's for the very same pixels, v the variance of f', z the logits of the student's
//! own classifier, z' the teacher's, T the temperature, y the label:
//! feature |f - f'|^2 / (features v) + logits T^2 KL(softmax(z' / T) || softmax(z / T)) + task CE(y, softmax(z)).

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use semlink_codec::{Classifier, Half, MANIFEST_FILE, Manifest, StudentConfig, StudentNet};
use semlink_nn::{Mode, Params, checkpoint, ops};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::cache::Cache;
use super::teacher::Teacher;
use super::{Context, Stage};
use crate::data::{Data, Split, accuracy, to_hex};
use crate::fit::{Job, Objective};
use crate::progress::Progress;
use crate::recipe::{LossWeights, Recipe};
use crate::{Error, Result, json};

/// The trained student's file; its encoder's parameters are below `student`, as in a bundle.
pub(crate) const FILE: &str = "student.safetensors";

/// A student with the classifier that reads its features best. The classifier stays here: over a channel, the decoder's own decides.
pub(crate) struct Student {
    pub(crate) encoder: StudentNet,
    pub(crate) classifier: Classifier,
}

impl Student {
    /// Prefix of the encoder's parameters.
    pub(crate) const ENCODER: &'static str = "student";
    const CLASSIFIER: &'static str = "student_classifier";

    fn new(params: &Params, config: &StudentConfig, data: &Data) -> Result<Self> {
        let classes = data.train.classes;
        Ok(Self {
            encoder: StudentNet::new(&params.sub(Self::ENCODER), config, data.input.channels)?,
            classifier: Classifier::new(&params.sub(Self::CLASSIFIER), config.features(), classes)?,
        })
    }

    /// The student of this run, frozen.
    pub(crate) fn load(context: &Context) -> Result<Self> {
        let path = context.need(FILE, "distill")?;
        let params = Params::frozen(checkpoint::load(&path, &context.device)?.tensors);
        let student = Self::new(&params, &context.student()?, context.data()?)?;
        params.check_all_used()?;
        Ok(student)
    }

    /// Features \[n, features\] and logits \[n, classes\].
    pub(crate) fn forward(&self, images: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let features = self.encoder.forward(images, mode)?;
        let logits = self.classifier.forward(&features)?;
        Ok((features, logits))
    }
}

/// What a student learns from: cached views of the training images with the teacher's outputs for them.
pub(crate) struct Lessons<'a> {
    pub(crate) weights: LossWeights,
    pub(crate) recipe: &'a Recipe,
    pub(crate) cache: &'a Cache,
    pub(crate) data: &'a Data,
    validation: Taught,
}

/// Some images of one view.
pub(crate) struct Lesson {
    /// \[n, h, w, channels\]
    pub(crate) images: Tensor,
    pub(crate) taught: Taught,
}

/// What a student should say of some images.
pub(crate) struct Taught {
    /// The teacher's, \[n, features\].
    features: Tensor,
    /// The teacher's, \[n, classes\].
    logits: Tensor,
    /// 1 at the label, \[n, classes\].
    targets: Tensor,
}

/// A student on the validation split.
pub(crate) struct Judgement {
    /// The distillation loss.
    pub(crate) loss: f64,
    pub(crate) accuracy: f64,
    /// Distance to the teacher's features, in units of their variance.
    pub(crate) distance: f64,
}

impl<'a> Lessons<'a> {
    pub(crate) fn new(context: &'a Context, cache: &'a Cache, weights: LossWeights) -> Result<Self> {
        let (teacher, data) = (Teacher::load(context)?, context.data()?);
        let (features, logits) = map_both(&data.validation, |images| teacher.forward(images, Mode::Eval))?;
        let all: Vec<usize> = (0..data.validation.len()).collect();
        let validation = Taught { features, logits, targets: data.validation.targets(&all, 0.0)? };
        Ok(Self { weights, recipe: context.recipe, cache, data, validation })
    }

    /// The training images `samples`, in the view that pass `epoch` sees.
    pub(crate) fn lesson(&self, epoch: usize, samples: &[usize]) -> Result<Lesson> {
        let (views, train) = (&self.recipe.cache, &self.data.train);
        let view = self.cache.view(epoch);
        let (features, logits) = self.cache.batch(view, samples)?;
        Ok(Lesson {
            images: train.augmented(samples, &views.augment, views.seed, view)?,
            taught: Taught { features, logits, targets: train.targets(samples, 0.0)? },
        })
    }

    /// The stage's loss of a student's features and logits, a scalar. Terms of weight 0 are left out.
    pub(crate) fn loss(&self, taught: &Taught, features: &Tensor, logits: &Tensor) -> Result<Tensor> {
        let config = &self.weights;
        let mut terms = Vec::new();
        if config.feature_weight > 0.0 {
            let weight = config.feature_weight / self.cache.variance;
            terms.push(ops::mse(features, &taught.features, None)?.affine(weight, 0.0)?);
        }
        if config.logit_weight > 0.0 {
            terms.push(divergence(logits, &taught.logits, config.temperature, None)?.affine(config.logit_weight, 0.0)?);
        }
        if config.task_weight > 0.0 {
            terms.push(ops::cross_entropy(logits, &taught.targets, None)?.affine(config.task_weight, 0.0)?);
        }
        let none = || Tensor::zeros((), candle_core::DType::F32, features.device());
        Ok(terms.into_iter().try_fold(none()?, |sum, term| sum + term)?)
    }

    /// Applies a trained student to the validation split.
    pub(crate) fn judge_trained(&self, weights: &Params, config: &StudentConfig) -> Result<Judgement> {
        let student = Student::new(weights, config, self.data)?;
        self.judge(|images| student.forward(images, Mode::Eval))
    }

    /// Applies a student, images to features and logits, to the validation split.
    pub(crate) fn judge(&self, student: impl Fn(&Tensor) -> Result<(Tensor, Tensor)>) -> Result<Judgement> {
        let (validation, taught) = (&self.data.validation, &self.validation);
        let (features, logits) = map_both(validation, student)?;
        let distance = f64::from(ops::mse(&features, &taught.features, None)?.to_scalar::<f32>()?);
        Ok(Judgement {
            loss: f64::from(self.loss(taught, &features, &logits)?.to_scalar::<f32>()?),
            accuracy: accuracy(&logits, validation.labels())?,
            distance: distance / self.cache.variance,
        })
    }
}

/// Features and logits of a whole split.
fn map_both(split: &Split, network: impl Fn(&Tensor) -> Result<(Tensor, Tensor)>) -> Result<(Tensor, Tensor)> {
    let both = split.map(|images| {
        let (features, logits) = network(images)?;
        Ok(Tensor::cat(&[features, logits], 1)?)
    })?;
    let features = both.dim(1)? - split.classes;
    Ok((both.narrow(1, 0, features)?.contiguous()?, both.narrow(1, features, split.classes)?.contiguous()?))
}

struct Task<'a> {
    student: Student,
    config: &'a StudentConfig,
    lessons: &'a Lessons<'a>,
}

impl Objective for Task<'_> {
    fn samples(&self) -> usize {
        self.lessons.data.train.len()
    }

    fn loss(&self, epoch: usize, samples: &[usize]) -> Result<Tensor> {
        let lesson = self.lessons.lesson(epoch, samples)?;
        let (features, logits) = self.student.forward(&lesson.images, Mode::Train)?;
        self.lessons.loss(&lesson.taught, &features, &logits)
    }

    fn validate(&self, weights: &Params) -> Result<Vec<(String, f64)>> {
        let found = self.lessons.judge_trained(weights, self.config)?;
        Ok(vec![("accuracy".into(), found.accuracy), ("feature distance".into(), found.distance)])
    }
}

/// T^2 KL(softmax(taught / T) || softmax(logits / T)), the mean over the rows (Hinton et al. 2015). No gradient to `taught`.
/// `weights` \[n\] scale the rows.
pub(crate) fn divergence(
    logits: &Tensor,
    taught: &Tensor,
    temperature: f32,
    weights: Option<&Tensor>,
) -> Result<Tensor> {
    let t = f64::from(temperature);
    let targets = ops::softmax(&taught.detach().affine(1.0 / t, 0.0)?)?;
    let cross = ops::cross_entropy(&logits.affine(1.0 / t, 0.0)?, &targets, weights)?;
    // The entropy of the targets, which the cross-entropy with themselves is.
    let entropy = ops::cross_entropy(&taught.detach().affine(1.0 / t, 0.0)?, &targets, weights)?;
    Ok((cross - entropy)?.affine(t * t, 0.0)?)
}

/// Trains a student, and gives the parameters of its best epoch.
pub(crate) fn train(job: &Job<'_>, config: &StudentConfig, lessons: &Lessons<'_>) -> Result<BTreeMap<String, Tensor>> {
    job.run(|params| Ok(Task { student: Student::new(params, config, lessons.data)?, config, lessons }))
}

/// Trains the student of the run.
pub(crate) fn run(context: &Context) -> Result<()> {
    let recipe = context.recipe;
    let config = context.student()?;
    let cache = Cache::load(context)?;
    let lessons = Lessons::new(context, &cache, recipe.distill.loss)?;
    let job = context.job(Stage::Distill, recipe.distill.fit);
    let trained = match &recipe.distill.from {
        None => train(&job, &config, &lessons)?,
        Some(bundle) => take(&job, bundle, &config, &lessons)?,
    };
    if !context.leads() {
        return Ok(());
    }
    let about = BTreeMap::from([
        ("format".to_owned(), "semlink student, version 1".to_owned()),
        ("network".to_owned(), json!(config).to_string()),
    ]);
    Ok(checkpoint::save(&context.dir.join(FILE), &trained, &about)?)
}

/// The manifest of the bundle that a recipe takes its student from.
pub(crate) fn manifest(bundle: &Path) -> Result<Manifest> {
    json::read(&bundle.join(MANIFEST_FILE))
}

/// The parameters of a bundle's student, with a classifier trained for it. Features do not change meanwhile, so an epoch takes seconds.
fn take(
    job: &Job<'_>,
    bundle: &Path,
    config: &StudentConfig,
    lessons: &Lessons<'_>,
) -> Result<BTreeMap<String, Tensor>> {
    let tensors = checkpoint::load(&bundle.join(Half::Encoder.file_name()), job.device)?.tensors;
    let prefix = format!("{}.", Student::ENCODER);
    let taken: BTreeMap<String, Tensor> = tensors.into_iter().filter(|(name, _)| name.starts_with(&prefix)).collect();
    let params = Params::frozen(taken.clone());
    let encoder = StudentNet::new(&params.sub(Student::ENCODER), config, lessons.data.input.channels)?;
    params.check_all_used()?;
    let views = compute_views(lessons.recipe, lessons.data, &encoder, job.group.leads())?;
    let validation = lessons.data.validation.map(|images| Ok(encoder.forward(images, Mode::Eval)?))?;
    let classifier = |params: &Params| {
        let classes = lessons.data.train.classes;
        Classifier::new(&params.sub(Student::CLASSIFIER), config.features(), classes)
    };
    let mut trained = job.run(|params| {
        Ok(ClassifierTask {
            classifier: classifier(params)?,
            build: &classifier,
            views: &views,
            validation: &validation,
            lessons,
        })
    })?;
    trained.extend(taken);
    Ok(trained)
}

/// The student's features of all views, so that trainings of several channel codecs compute them once.
pub(crate) const FEATURES_FILE: &str = "features.safetensors";

/// The run's student's features of all views of the training images, \[images, features\] each.
pub(crate) fn views(context: &Context, encoder: &StudentNet) -> Result<Vec<Vec<f32>>> {
    let path = context.dir.join(FEATURES_FILE);
    let student = context.need(FILE, "distill")?;
    let student = std::fs::read(&student).map_err(|source| Error::Io { path: student, source })?;
    let recipe = context.recipe;
    let inputs = json!({"data": context.data()?.hash, "split": recipe.data, "cache": recipe.cache}).to_string();
    let key = to_hex(&Sha256::new().chain_update(&student).chain_update(inputs).finalize());
    let stored = || -> Result<Option<Vec<Vec<f32>>>> {
        if !path.exists() {
            return Ok(None);
        }
        let file = checkpoint::load(&path, &Device::Cpu)?;
        if file.metadata.get("key") != Some(&key) {
            return Ok(None);
        }
        // Names ascend with the views: there are at most 64.
        let views = file.tensors.values().map(|rows| Ok(rows.flatten_all()?.to_vec1()?));
        views.collect::<Result<_>>().map(Some)
    };
    let computed = context.lead(|| {
        if let Some(views) = stored()? {
            return Ok(views);
        }
        let views = compute_views(recipe, context.data()?, encoder, true)?;
        let images = context.data()?.train.len();
        let tensors = views.iter().enumerate().map(|(view, rows)| {
            let columns = rows.len() / images;
            Ok((format!("view{view:02}"), Tensor::from_slice(rows, (images, columns), &Device::Cpu)?))
        });
        let tensors = tensors.collect::<Result<BTreeMap<_, _>>>()?;
        checkpoint::save(&path, &tensors, &BTreeMap::from([("key".to_owned(), key.clone())]))?;
        Ok(views)
    })?;
    let views = match computed {
        Some(views) => Some(views),
        None => stored()?,
    };
    views.ok_or_else(|| Error::Missing { earlier: "robust", path: path.clone() })
}

fn compute_views(recipe: &Recipe, data: &Data, encoder: &StudentNet, show: bool) -> Result<Vec<Vec<f32>>> {
    let indices: Vec<usize> = (0..data.train.len()).collect();
    let mut progress = show.then(|| Progress::new("features", recipe.cache.views, 0, indices.len()));
    let mut views = Vec::with_capacity(recipe.cache.views);
    for view in 0..recipe.cache.views {
        let mut rows = Vec::new();
        for part in indices.chunks(250) {
            let images = data.train.augmented(part, &recipe.cache.augment, recipe.cache.seed, view)?;
            rows.extend(encoder.forward(&images, Mode::Eval)?.flatten_all()?.to_vec1::<f32>()?);
        }
        views.push(rows);
        if let Some(progress) = &mut progress {
            progress.tick(view + 1);
        }
    }
    if let Some(progress) = &progress {
        progress.finish();
    }
    Ok(views)
}

/// A classifier for features that stay as they are.
struct ClassifierTask<'a, F> {
    classifier: Classifier,
    build: F,
    views: &'a [Vec<f32>],
    validation: &'a Tensor,
    lessons: &'a Lessons<'a>,
}

impl<F: Fn(&Params) -> semlink_codec::Result<Classifier>> Objective for ClassifierTask<'_, F> {
    fn samples(&self) -> usize {
        self.lessons.data.train.len()
    }

    /// As in stage `distill`, without the distance between features.
    fn loss(&self, epoch: usize, samples: &[usize]) -> Result<Tensor> {
        let Lessons { weights, cache, data, .. } = self.lessons;
        let rows = &self.views[cache.view(epoch)];
        let len = rows.len() / self.samples();
        let values: Vec<f32> = samples.iter().flat_map(|i| &rows[i * len..(i + 1) * len]).copied().collect();
        let logits = self.classifier.forward(&Tensor::from_vec(values, (samples.len(), len), data.train.device())?)?;
        let (_, taught) = cache.batch(cache.view(epoch), samples)?;
        let decision = divergence(&logits, &taught, weights.temperature, None)?.affine(weights.logit_weight, 0.0)?;
        let task = ops::cross_entropy(&logits, &data.train.targets(samples, 0.0)?, None)?;
        Ok((decision + task.affine(weights.task_weight, 0.0)?)?)
    }

    fn validate(&self, weights: &Params) -> Result<Vec<(String, f64)>> {
        let logits = (self.build)(weights)?.forward(self.validation)?;
        Ok(vec![("accuracy".into(), accuracy(&logits, self.lessons.data.validation.labels())?)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divergence_is_that_of_the_softened_decisions() {
        // P = softmax(2, 0) / (T = 2) = (e, 1) / (e + 1), Q = (1/2, 1/2): KL = ln 2 - H(P), by hand from p = 0.7310586.
        let row = |values: [f32; 2]| Tensor::new(&[values], &Device::Cpu).unwrap();
        let p = 0.731_058_578_630_004_9_f64;
        let expected = 4.0 * (2f64.ln() + p * p.ln() + (1.0 - p) * (1.0 - p).ln());
        let found = divergence(&row([1.0, 1.0]), &row([2.0, 0.0]), 2.0, None).unwrap().to_scalar::<f32>().unwrap();
        assert!((f64::from(found) - expected).abs() < 1e-6, "{found}, expected {expected}");
        let same = divergence(&row([2.0, 0.0]), &row([2.0, 0.0]), 3.0, None).unwrap().to_scalar::<f32>().unwrap();
        assert!(same.abs() < 1e-6);
    }
}
