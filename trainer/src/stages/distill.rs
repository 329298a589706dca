//! Stage `distill`, stage 1 of RKD-SC: the student learns the teacher's features.
//!
//! Loss for one image, f the student's features, f' the teacher's for the very same pixels, v the variance of f', z the logits of the student's
//! own classifier, z' the teacher's, T the temperature, y the label:
//! feature |f - f'|^2 / (features v) + logits T^2 KL(softmax(z' / T) || softmax(z / T)) + task CE(y, softmax(z)).

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use semlink_codec::{Classifier, StudentConfig, StudentNet};
use semlink_nn::{Mode, Params, checkpoint, ops};
use serde_json::json;

use super::cache::Cache;
use super::teacher::Teacher;
use super::{Context, Stage};
use crate::Result;
use crate::data::{Data, Split, accuracy};
use crate::fit::{Job, Objective};
use crate::recipe::{LossWeights, Recipe};

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
        let params = Params::frozen(checkpoint::load(&path, &Device::Cpu)?.tensors);
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
            terms.push(divergence(logits, &taught.logits, config.temperature)?.affine(config.logit_weight, 0.0)?);
        }
        if config.task_weight > 0.0 {
            terms.push(ops::cross_entropy(logits, &taught.targets, None)?.affine(config.task_weight, 0.0)?);
        }
        let none = || Tensor::zeros((), candle_core::DType::F32, &Device::Cpu);
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
pub(crate) fn divergence(logits: &Tensor, taught: &Tensor, temperature: f32) -> Result<Tensor> {
    let t = f64::from(temperature);
    let targets = ops::softmax(&taught.detach().affine(1.0 / t, 0.0)?)?;
    let cross = ops::cross_entropy(&logits.affine(1.0 / t, 0.0)?, &targets, None)?;
    // The entropy of the targets, which the cross-entropy with themselves is.
    let entropy = ops::cross_entropy(&taught.detach().affine(1.0 / t, 0.0)?, &targets, None)?;
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
    let trained = train(&context.job(Stage::Distill, recipe.distill.fit), &config, &lessons)?;
    let about = BTreeMap::from([
        ("format".to_owned(), "semlink student, version 1".to_owned()),
        ("network".to_owned(), json!(config).to_string()),
    ]);
    Ok(checkpoint::save(&context.dir.join(FILE), &trained, &about)?)
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
        let found = divergence(&row([1.0, 1.0]), &row([2.0, 0.0]), 2.0).unwrap().to_scalar::<f32>().unwrap();
        assert!((f64::from(found) - expected).abs() < 1e-6, "{found}, expected {expected}");
        let same = divergence(&row([2.0, 0.0]), &row([2.0, 0.0]), 3.0).unwrap().to_scalar::<f32>().unwrap();
        assert!(same.abs() < 1e-6);
    }
}
