//! Stage `teacher`: a large classifier whose features the student learns.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use semlink_codec::{Classifier, ResidualNet};
use semlink_nn::{Mode, Params, checkpoint, ops};
use serde_json::json;

use super::{Context, Stage};
use crate::data::{Data, accuracy};
use crate::fit::Objective;
use crate::recipe::Recipe;
use crate::{Error, Result};

/// Encoder and classifier.
pub(crate) struct Teacher {
    encoder: ResidualNet,
    classifier: Classifier,
}

impl Teacher {
    pub(crate) const FILE: &'static str = "teacher.safetensors";

    pub(crate) fn new(params: &Params, recipe: &Recipe, channels: usize) -> Result<Self> {
        let network = &recipe.teacher.network;
        Ok(Self {
            encoder: ResidualNet::new(&params.sub("encoder"), network, channels)?,
            classifier: Classifier::new(&params.sub("classifier"), network.features, recipe.classes())?,
        })
    }

    /// Features \[n, features\] and logits \[n, classes\].
    pub(crate) fn forward(&self, images: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let features = self.encoder.forward(images, mode)?;
        let logits = self.classifier.forward(&features)?;
        Ok((features, logits))
    }

    /// The trained teacher of this run.
    pub(crate) fn load(context: &Context) -> Result<Self> {
        let path = context.need(Self::FILE, "teacher")?;
        let file = checkpoint::load(&path, &context.device)?;
        let tensors = file.tensors.into_iter().map(|(name, t)| Ok((name, t.to_dtype(DType::F32)?)));
        let params = Params::frozen(tensors.collect::<Result<BTreeMap<_, _>>>()?);
        let teacher = Self::new(&params, context.recipe, context.data()?.input.channels)?;
        params.check_all_used()?;
        Ok(teacher)
    }
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
        let teacher = Teacher::new(weights, self.recipe, self.data.input.channels)?;
        let logits = self.data.validation.map(|images| Ok(teacher.forward(images, Mode::Eval)?.1))?;
        Ok(vec![("accuracy".into(), accuracy(&logits, self.data.validation.labels())?)])
    }
}

/// Trains the teacher, or takes the one that the recipe names, and writes it in f16.
pub(crate) fn run(context: &Context) -> Result<()> {
    let target = context.dir.join(Teacher::FILE);
    let recipe = context.recipe;
    if let Some(from) = &recipe.teacher.from {
        std::fs::copy(from, &target).map_err(|source| Error::Io { path: from.clone(), source })?;
        Teacher::load(context)?;
        return Ok(());
    }
    let data = context.data()?;
    let job = context.job(Stage::Teacher, recipe.teacher.fit);
    let trained =
        job.run(|params| Ok(Task { teacher: Teacher::new(params, recipe, data.input.channels)?, recipe, data }))?;
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
