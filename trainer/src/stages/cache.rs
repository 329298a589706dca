//! Stage `cache`: the teacher's outputs for augmented views of the training images, so that it runs once for each and not once for each
//! epoch of the student.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::f16;
use semlink_nn::{Mode, checkpoint};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Context;
use super::teacher::Teacher;
use crate::data::to_hex;
use crate::progress::Progress;
use crate::{Error, Result};

/// Images that go through the teacher together.
pub(super) const BATCH: usize = 250;

/// What the teacher says about each view of each training image.
///
/// View v of image i is the one that [`Split::augmented`](crate::data::Split::augmented) gives for pass v with the seed and augmentation of the
/// recipe's `[cache]`.
pub(crate) struct Cache {
    pub(crate) views: usize,
    /// Mean over the features of their variance: the unit of distances between features.
    pub(crate) variance: f64,
    images: usize,
    /// \[views, images, features\].
    features: Vec<f16>,
    /// \[views, images, classes\].
    logits: Vec<f16>,
    /// Both as \[views x images, ..\] on a GPU.
    there: Option<(Tensor, Tensor)>,
}

impl Cache {
    pub(crate) const FILE: &'static str = "cache.safetensors";

    /// What stage `cache` wrote.
    ///
    /// # Errors
    /// It has not run, or it ran with another teacher, other images, another split or other views.
    pub(crate) fn load(context: &Context) -> Result<Self> {
        let path = context.need(Self::FILE, "cache")?;
        let file = checkpoint::load(&path, &Device::Cpu)?;
        let broken = |what: &str| Error::Report { path: path.clone(), what: format!("{what}: run stage cache again") };
        if file.metadata.get("key") != Some(&key(context)?) {
            return Err(broken("made from another teacher, other images or other views"));
        }
        let read = |name: &str| -> Result<(Vec<f16>, Vec<usize>)> {
            let t = file.tensors.get(name).ok_or_else(|| broken("incomplete"))?;
            Ok((t.flatten_all()?.to_vec1()?, t.dims().to_vec()))
        };
        let ((features, shape), (logits, logits_shape)) = (read("features")?, read("logits")?);
        let (views, images) = (context.recipe.cache.views, context.data()?.train.len());
        if !shape.starts_with(&[views, images]) || !logits_shape.starts_with(&[views, images]) {
            return Err(broken("of another size"));
        }
        let upload = |rows: &[f16]| Tensor::from_slice(rows, (views * images, ()), &context.device);
        let there = match context.device.is_cpu() {
            true => None,
            false => Some((upload(&features)?, upload(&logits)?)),
        };
        Ok(Self { variance: variance(&features, shape[2]), views, images, features, logits, there })
    }

    /// The view that a pass over the data uses.
    pub(crate) fn view(&self, pass: usize) -> usize {
        pass % self.views
    }

    /// Features \[n, features\] and logits \[n, classes\] of some images in one view.
    pub(crate) fn batch(&self, view: usize, indices: &[usize]) -> Result<(Tensor, Tensor)> {
        if let Some((features, logits)) = &self.there {
            let rows: Vec<u32> = indices.iter().map(|i| (view * self.images + i) as u32).collect();
            let rows = Tensor::new(rows, features.device())?;
            let take = |all: &Tensor| all.index_select(&rows, 0)?.to_dtype(DType::F32);
            return Ok((take(features)?, take(logits)?));
        }
        Ok((self.rows(&self.features, view, indices)?, self.rows(&self.logits, view, indices)?))
    }

    fn rows(&self, all: &[f16], view: usize, indices: &[usize]) -> Result<Tensor> {
        let len = all.len() / (self.views * self.images);
        let row = |i: &usize| {
            let start = (view * self.images + i) * len;
            all[start..start + len].iter().map(|value| value.to_f32())
        };
        let values: Vec<f32> = indices.iter().flat_map(row).collect();
        Ok(Tensor::from_vec(values, (indices.len(), len), &Device::Cpu)?)
    }
}

/// What [`store`] wrote to a file with this key, in f16; none if there is no such file, or it has another key.
pub(super) fn stored<const N: usize>(path: &Path, key: &str, names: [&str; N]) -> Result<Option<[Tensor; N]>> {
    if !path.exists() {
        return Ok(None);
    }
    let file = checkpoint::load(path, &Device::Cpu)?;
    if file.metadata.get("key").map(String::as_str) != Some(key) {
        return Ok(None);
    }
    let found: Option<Vec<Tensor>> = names.iter().map(|name| file.tensors.get(*name).cloned()).collect();
    Ok(found.and_then(|tensors| tensors.try_into().ok()))
}

/// Writes what a teacher said, in f16, and the key of all that it follows from; the file appears whole or not at all.
///
/// # Errors
/// A number does not fit into f16, or the folder does not take the file.
pub(super) fn store<const N: usize>(path: &Path, key: String, tensors: [(&str, Tensor); N]) -> Result<()> {
    for (name, tensor) in &tensors {
        if tensor.flatten_all()?.to_vec1::<f16>()?.iter().any(|value| !value.is_finite()) {
            return Err(Error::Report {
                path: path.to_owned(),
                what: format!("the teacher's {name} do not fit into f16"),
            });
        }
    }
    let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor)).into();
    let about = BTreeMap::from([("format".to_owned(), "semlink cache, version 1".to_owned()), ("key".to_owned(), key)]);
    Ok(checkpoint::save(path, &tensors, &about)?)
}

/// Names everything that the content follows from.
fn key(context: &Context) -> Result<String> {
    let path = context.need(Teacher::FILE, "teacher")?;
    let teacher = fs::read(&path).map_err(|source| Error::Io { path, source })?;
    let recipe = context.recipe;
    let inputs = json!({"data": context.data()?.hash, "split": recipe.data, "cache": recipe.cache});
    Ok(to_hex(&Sha256::new().chain_update(&teacher).chain_update(inputs.to_string()).finalize()))
}

/// Mean over the columns of `rows` of their variance.
fn variance(rows: &[f16], columns: usize) -> f64 {
    let (mut sums, mut squares) = (vec![0f64; columns], vec![0f64; columns]);
    for row in rows.chunks_exact(columns) {
        for ((sum, square), value) in sums.iter_mut().zip(&mut squares).zip(row) {
            let value = value.to_f64();
            *sum += value;
            *square += value * value;
        }
    }
    let n = (rows.len() / columns).max(1) as f64;
    let of = |(sum, square): (&f64, &f64)| square / n - (sum / n) * (sum / n);
    sums.iter().zip(&squares).map(of).sum::<f64>() / columns as f64
}

/// Applies the teacher to all views and writes what it says, in f16.
pub(crate) fn run(context: &Context) -> Result<()> {
    let (teacher, config, train) = (Teacher::load(context)?, context.recipe.cache, &context.data()?.train);
    let indices: Vec<usize> = (0..train.len()).collect();
    let per_view = indices.len().div_ceil(BATCH);
    let mut progress = Progress::new("cache", per_view * config.views, 0, BATCH);
    let (mut features, mut logits) = (Vec::new(), Vec::new());
    for view in 0..config.views {
        for (i, batch) in indices.chunks(BATCH).enumerate() {
            let images = train.augmented(batch, &config.augment, config.seed, view)?;
            let (f, l) = teacher.forward(&images, Mode::Eval)?;
            features.extend(f.to_dtype(DType::F16)?.flatten_all()?.to_vec1::<f16>()?);
            logits.extend(l.to_dtype(DType::F16)?.flatten_all()?.to_vec1::<f16>()?);
            progress.tick(view * per_view + i + 1);
        }
    }
    progress.finish();
    let path = context.dir.join(Cache::FILE);
    let tensor = |values: Vec<f16>| {
        let columns = values.len() / (config.views * indices.len());
        Tensor::from_vec(values, (config.views, indices.len(), columns), &Device::Cpu)
    };
    store(&path, key(context)?, [("features", tensor(features)?), ("logits", tensor(logits)?)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variance_is_that_of_the_columns() {
        // Columns 1, 3 and 10, 10: variances 1 and 0.
        let rows: Vec<f16> = [1.0, 10.0, 3.0, 10.0].map(f16::from_f32).to_vec();
        assert!((variance(&rows, 2) - 0.5).abs() < 1e-9);
    }
}
