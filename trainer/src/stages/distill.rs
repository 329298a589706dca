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
use crate::data::{Data, accuracy};
use crate::fit::Objective;
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
    /// The teacher's features and logits of the validation split.
    taught: Tensor,
    taught_logits: Tensor,
}

/// Some images of one view.
pub(crate) struct Lesson {
    /// \[n, h, w, channels\]
    pub(crate) images: Tensor,
    features: Tensor,
    logits: Tensor,
    targets: Tensor,
}

impl<'a> Lessons<'a> {
    pub(crate) fn new(context: &'a Context, cache: &'a Cache, weights: LossWeights) -> Result<Self> {
        let (teacher, data) = (Teacher::load(context)?, context.data()?);
        let taught = data.validation.map(|images| Ok(teacher.forward(images, Mode::Eval)?.0))?;
        let taught_logits = data.validation.map(|images| Ok(teacher.forward(images, Mode::Eval)?.1))?;
        Ok(Self { weights, recipe: context.recipe, cache, data, taught, taught_logits })
    }

    /// The training images `samples`, in the view that pass `epoch` sees.
    pub(crate) fn lesson(&self, epoch: usize, samples: &[usize]) -> Result<Lesson> {
        let (views, train) = (&self.recipe.cache, &self.data.train);
        let view = self.cache.view(epoch);
        let (features, logits) = self.cache.batch(view, samples)?;
        Ok(Lesson {
            images: train.augmented(samples, &views.augment, views.seed, view)?,
            features,
            logits,
            targets: train.targets(samples, 0.0)?,
        })
    }

    /// The stage's loss of a student's features and logits, a scalar. Terms of weight 0 are left out.
    pub(crate) fn loss(&self, lesson: &Lesson, features: &Tensor, logits: &Tensor) -> Result<Tensor> {
        let config = &self.weights;
        let mut terms = Vec::new();
        if config.feature_weight > 0.0 {
            let weight = config.feature_weight / self.cache.variance;
            terms.push(ops::mse(features, &lesson.features, None)?.affine(weight, 0.0)?);
        }
        if config.logit_weight > 0.0 {
            terms.push(divergence(logits, &lesson.logits, config.temperature)?.affine(config.logit_weight, 0.0)?);
        }
        if config.task_weight > 0.0 {
            terms.push(ops::cross_entropy(logits, &lesson.targets, None)?.affine(config.task_weight, 0.0)?);
        }
        let none = || Tensor::zeros((), candle_core::DType::F32, &Device::Cpu);
        Ok(terms.into_iter().try_fold(none()?, |sum, term| sum + term)?)
    }

    /// Accuracy on the validation split, and the distance to the teacher's features in units of their variance.
    pub(crate) fn validate(&self, student: impl Fn(&Tensor) -> Result<(Tensor, Tensor)>) -> Result<(f64, f64)> {
        let (_, accuracy, distance) = self.validate_loss(student)?;
        Ok((accuracy, distance))
    }

    /// As [`Lessons::validate`], with the stage's loss before them.
    pub(crate) fn validate_loss(
        &self,
        student: impl Fn(&Tensor) -> Result<(Tensor, Tensor)>,
    ) -> Result<(f64, f64, f64)> {
        let validation = &self.data.validation;
        let features = self.taught.dim(1)?;
        let both = validation.map(|images| {
            let (features, logits) = student(images)?;
            Ok(Tensor::cat(&[features, logits], 1)?)
        })?;
        let logits = both.narrow(1, features, both.dim(1)? - features)?.contiguous()?;
        let features = both.narrow(1, 0, features)?.contiguous()?;
        let distance = f64::from(ops::mse(&features, &self.taught, None)?.to_scalar::<f32>()?) / self.cache.variance;
        let all: Vec<usize> = (0..validation.len()).collect();
        let lesson = Lesson {
            images: Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu)?,
            features: self.taught.clone(),
            logits: self.taught_logits.clone(),
            targets: validation.targets(&all, 0.0)?,
        };
        let loss = f64::from(self.loss(&lesson, &features, &logits)?.to_scalar::<f32>()?);
        Ok((loss, accuracy(&logits, validation.labels())?, distance))
    }
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
        self.lessons.loss(&lesson, &features, &logits)
    }

    fn validate(&self, weights: &Params) -> Result<Vec<(String, f64)>> {
        let student = Student::new(weights, self.config, self.lessons.data)?;
        let (accuracy, distance) = self.lessons.validate(|images| student.forward(images, Mode::Eval))?;
        Ok(vec![("accuracy".into(), accuracy), ("feature distance".into(), distance)])
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

/// Trains the student.
pub(crate) fn run(context: &Context) -> Result<()> {
    let (recipe, data) = (context.recipe, context.data()?);
    let config = context.student()?;
    let cache = Cache::load(context)?;
    let lessons = Lessons::new(context, &cache, recipe.distill.loss)?;
    let job = context.job(Stage::Distill, recipe.distill.fit);
    let trained = job
        .run(|params| Ok(Task { student: Student::new(params, &config, data)?, config: &config, lessons: &lessons }))?;
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
