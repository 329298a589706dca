//! Stage `distill`, stage 1 of RKD-SC: the student learns the teacher's features.
//!
//! Loss for one image, f the student's features, f' the teacher's for the very same pixels, v the variance of f', c the teacher's
//! classifier (frozen), T the temperature, y the label:
//! feature |f - f'|^2 / (features v) + logits T^2 KL(softmax(c(f') / T) || softmax(c(f) / T)) + task CE(y, softmax(c(f))).

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use semlink_codec::ResidualNet;
use semlink_nn::{Mode, Params, checkpoint, ops};
use serde_json::json;

use super::cache::Cache;
use super::teacher::Teacher;
use super::{Context, Stage};
use crate::Result;
use crate::data::{Data, accuracy};
use crate::fit::Objective;
use crate::recipe::Recipe;

/// The trained student's file; its parameters are below `student`, as in a bundle.
pub(crate) const FILE: &str = "student.safetensors";

/// The student of this run, frozen.
pub(crate) fn load(context: &Context) -> Result<ResidualNet> {
    let path = context.need(FILE, "distill")?;
    let params = Params::frozen(checkpoint::load(&path, &Device::Cpu)?.tensors);
    let student = build(&params, context.recipe, context.data()?.input.channels)?;
    params.check_all_used()?;
    Ok(student)
}

fn build(params: &Params, recipe: &Recipe, channels: usize) -> Result<ResidualNet> {
    Ok(ResidualNet::new(&params.sub("student"), &recipe.student.network, channels)?)
}

struct Task<'a> {
    student: ResidualNet,
    teacher: &'a Teacher,
    cache: &'a Cache,
    /// The teacher's features of the validation split.
    taught: &'a Tensor,
    recipe: &'a Recipe,
    data: &'a Data,
}

impl Objective for Task<'_> {
    fn samples(&self) -> usize {
        self.data.train.len()
    }

    fn loss(&self, epoch: usize, samples: &[usize]) -> Result<Tensor> {
        let (config, views, train) = (&self.recipe.distill, &self.recipe.cache, &self.data.train);
        let view = self.cache.view(epoch);
        let images = train.augmented(samples, &views.augment, views.seed, view)?;
        let (taught, taught_logits) = self.cache.batch(view, samples)?;
        let features = self.student.forward(&images, Mode::Train)?;
        let logits = self.teacher.logits(&features)?;
        let distance = ops::mse(&features, &taught, None)?.affine(config.feature_weight / self.cache.variance, 0.0)?;
        let decision = divergence(&logits, &taught_logits, config.temperature)?.affine(config.logit_weight, 0.0)?;
        let task = ops::cross_entropy(&logits, &train.targets(samples, 0.0)?, None)?.affine(config.task_weight, 0.0)?;
        Ok(((distance + decision)? + task)?)
    }

    fn validate(&self, weights: &Params) -> Result<Vec<(String, f64)>> {
        let validation = &self.data.validation;
        let student = build(weights, self.recipe, self.data.input.channels)?;
        let features = validation.map(|images| Ok(student.forward(images, Mode::Eval)?))?;
        let logits = self.teacher.logits(&features)?;
        let distance = f64::from(ops::mse(&features, self.taught, None)?.to_scalar::<f32>()?) / self.cache.variance;
        Ok(vec![("accuracy".into(), accuracy(&logits, validation.labels())?), ("feature distance".into(), distance)])
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
    let (teacher, cache) = (Teacher::load(context)?, Cache::load(context)?);
    let taught = data.validation.map(|images| Ok(teacher.forward(images, Mode::Eval)?.0))?;
    let job = context.job(Stage::Distill, recipe.distill.fit);
    let trained = job.run(|params| {
        let student = build(params, recipe, data.input.channels)?;
        Ok(Task { student, teacher: &teacher, cache: &cache, taught: &taught, recipe, data })
    })?;
    let about = BTreeMap::from([
        ("format".to_owned(), "semlink student, version 1".to_owned()),
        ("network".to_owned(), json!(recipe.student.network).to_string()),
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
