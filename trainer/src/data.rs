//! The data set and its three splits.

use std::path::Path;

use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use semlink_codec::InputSpec;
use semlink_codec::images::{LabelledImages, Part};
use sha2::{Digest, Sha256};

use semlink_nn::ops::{View, render_views};

use crate::augment::{self, AugmentConfig};
use crate::recipe::Recipe;
use crate::{Error, Result, source};

/// Images of one split, as the networks read them.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    images: LabelledImages,
    tables: Vec<[f32; 256]>,
    pub(crate) classes: usize,
    device: Device,
    /// Pixels \[n, h, w, c\] in u8 and tables \[c, 256\] on a GPU, so that a step copies nothing there but what it draws.
    there: Option<(Tensor, Tensor)>,
}

/// What training and selection may see. The test split is read by [`test_split`], which only stage `evaluate` calls.
#[derive(Clone, Debug)]
pub(crate) struct Data {
    pub(crate) train: Split,
    pub(crate) validation: Split,
    pub(crate) input: InputSpec,
    /// SHA-256 of the training pixels and labels.
    pub(crate) hash: String,
}

/// Reads the training files and splits them.
pub(crate) fn load(recipe: &Recipe, dir: &Path, device: &Device) -> Result<Data> {
    let all = source::read(&recipe.data, dir, Part::Train)?;
    let keep = recipe.data.validation;
    if keep >= all.len() {
        return Err(Error::Split(format!("data.validation = {keep} leaves none of the {} training images", all.len())));
    }
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(recipe.data.seed));
    let (validation, train) = order.split_at(keep);
    let input = recipe.input(all.height, all.width);
    Ok(Data {
        hash: hash(&all),
        train: Split::new(select(&all, train), &input, recipe.classes(), device)?,
        validation: Split::new(select(&all, validation), &input, recipe.classes(), device)?,
        input,
    })
}

/// Reads the test files. No other stage than `evaluate` may call this: nothing is trained, chosen or tuned on them.
pub(crate) fn test_split(recipe: &Recipe, dir: &Path, device: &Device) -> Result<Split> {
    let all = source::read(&recipe.data, dir, Part::Test)?;
    let input = recipe.input(all.height, all.width);
    Split::new(all, &input, recipe.classes(), device)
}

fn select(all: &LabelledImages, indices: &[usize]) -> LabelledImages {
    let pixels = indices.iter().filter_map(|i| all.image(*i)).flatten().copied().collect();
    let labels = indices.iter().map(|i| all.labels[*i]).collect();
    LabelledImages { height: all.height, width: all.width, channels: all.channels, pixels, labels }
}

fn hash(images: &LabelledImages) -> String {
    let mut hash = Sha256::new();
    hash.update(&images.pixels);
    hash.update(&images.labels);
    to_hex(&hash.finalize())
}

/// Lower-case hexadecimal.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Split {
    fn new(images: LabelledImages, input: &InputSpec, classes: usize, device: &Device) -> Result<Self> {
        Self { tables: input.table(), images, classes, device: device.clone(), there: None }.placed()
    }

    /// With its pixels on the GPU, if it is one's and they fit; otherwise each batch is made here and copied there.
    fn placed(self) -> Result<Self> {
        if self.device.is_cpu() {
            return Ok(self);
        }
        let (n, (height, width), channels) = (self.len(), self.size(), self.tables.len());
        let Ok(pixels) = Tensor::from_slice(&self.images.pixels, (n, height, width, channels), &self.device) else {
            return Ok(self);
        };
        let tables = Tensor::from_slice(self.tables.as_flattened(), (channels, 256), &self.device)?;
        Ok(Self { there: Some((pixels, tables)), ..self })
    }

    /// Where batches are made.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The first `count` images.
    ///
    /// # Errors
    /// The GPU has no room.
    pub(crate) fn first(&self, count: usize) -> Result<Self> {
        let some: Vec<usize> = (0..count.min(self.len())).collect();
        Self { images: select(&self.images, &some), ..self.clone() }.placed()
    }

    pub(crate) fn len(&self) -> usize {
        self.images.len()
    }

    pub(crate) fn labels(&self) -> &[u8] {
        &self.images.labels
    }

    /// Pixels of an image, row by row, channels side by side.
    pub(crate) fn image(&self, index: usize) -> &[u8] {
        self.images.image(index).unwrap_or_default()
    }

    /// The same labels with other pixels, image after image.
    ///
    /// # Errors
    /// The GPU has no room.
    pub(crate) fn with_pixels(&self, pixels: Vec<u8>) -> Result<Self> {
        let LabelledImages { height, width, channels, labels, .. } = self.images.clone();
        Self { images: LabelledImages { height, width, channels, pixels, labels }, ..self.clone() }.placed()
    }

    /// Height and width of the images.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.images.height, self.images.width)
    }

    /// Images \[n, height, width, channels\], each through the view that `view(index)` gives.
    pub(crate) fn batch(&self, indices: &[usize], view: impl Fn(usize) -> View + Sync) -> Result<Tensor> {
        if let Some((pixels, tables)) = &self.there {
            let views: Vec<View> = indices.iter().map(|index| view(*index)).collect();
            return Ok(render_views(pixels, indices, &views, tables)?);
        }
        let size = self.size();
        let len = size.0 * size.1 * self.tables.len();
        let mut pixels = vec![0.0; indices.len() * len];
        pixels.par_chunks_mut(len).zip(indices).for_each(|(out, index)| {
            if let Some(image) = self.images.image(*index) {
                view(*index).render(image, size, &self.tables, out);
            }
        });
        Ok(Tensor::from_vec(pixels, (indices.len(), size.0, size.1, self.tables.len()), &self.device)?)
    }

    /// As [`Split::batch`], with the augmentation of one pass over the data.
    pub(crate) fn augmented(
        &self,
        indices: &[usize],
        config: &AugmentConfig,
        seed: u64,
        pass: usize,
    ) -> Result<Tensor> {
        let size = self.size();
        self.batch(indices, |index| augment::draw(config, size, seed, pass, index))
    }

    /// Images as they are.
    pub(crate) fn plain(&self, indices: &[usize]) -> Result<Tensor> {
        self.augmented(indices, &AugmentConfig::default(), 0, 0)
    }

    /// Targets \[n, classes\]: 1 at the label, or spread by `smoothing` over all classes.
    pub(crate) fn targets(&self, indices: &[usize], smoothing: f32) -> Result<Tensor> {
        let mut targets = vec![smoothing / self.classes as f32; indices.len() * self.classes];
        for (row, index) in indices.iter().enumerate() {
            targets[row * self.classes + usize::from(self.images.labels[*index])] += 1.0 - smoothing;
        }
        Ok(Tensor::from_vec(targets, (indices.len(), self.classes), &self.device)?)
    }

    /// Applies `network` to the whole split in batches; rows of the results one after another.
    pub(crate) fn map(&self, network: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let indices: Vec<usize> = (0..self.len()).collect();
        let parts = indices.chunks(250).map(|part| network(&self.plain(part)?)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }
}

/// Share of rows of `logits` \[n, classes\] whose largest entry is at the label.
pub(crate) fn accuracy(logits: &Tensor, labels: &[u8]) -> Result<f64> {
    let decided: Vec<u32> = logits.argmax(1)?.to_vec1()?;
    let correct = decided.iter().zip(labels).filter(|(d, l)| **d == u32::from(**l)).count();
    Ok(correct as f64 / labels.len().max(1) as f64)
}
