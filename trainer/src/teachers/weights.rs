//! The tensors of a checkpoint, each checked when a network asks for it; all faults are told together.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use semlink_nn::checkpoint;

use crate::{Error, Result};

/// Faults of one kind that a message names; a wrong file may lack them all.
const NAMED: usize = 5;

/// Where a network's parameters come from.
pub(super) struct Weights {
    path: PathBuf,
    source: Source,
    device: Device,
    dtype: DType,
    asked: RefCell<BTreeSet<String>>,
    missing: RefCell<Vec<String>>,
    misshapen: RefCell<Vec<String>>,
}

enum Source {
    File(BTreeMap<String, Tensor>),
    /// Small random numbers, for measurements.
    Random(Box<RefCell<ChaCha8Rng>>),
}

impl Weights {
    /// Those of a safetensors file, to be put on `device` as `dtype`.
    pub(super) fn open(path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let file = checkpoint::load(path, &Device::Cpu).map_err(|e| match e {
            semlink_nn::Error::Checkpoint { path, what } => {
                // A backtrace may follow the first line.
                let what = what.lines().next().unwrap_or_default();
                Error::Teacher { path, what: format!("{what}; a file cut short on its way? fetch it again") }
            }
            other => other.into(),
        })?;
        Ok(Self::new(path, Source::File(file.tensors), device, dtype))
    }

    /// Random ones.
    pub(super) fn random(seed: u64, device: &Device, dtype: DType) -> Self {
        let rng = RefCell::new(ChaCha8Rng::seed_from_u64(seed));
        Self::new(Path::new("random weights"), Source::Random(Box::new(rng)), device, dtype)
    }

    fn new(path: &Path, source: Source, device: &Device, dtype: DType) -> Self {
        let (asked, missing, misshapen) = Default::default();
        Self { path: path.to_owned(), source, device: device.clone(), dtype, asked, missing, misshapen }
    }

    /// What tensors are computed in.
    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether a file holds a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        matches!(&self.source, Source::File(tensors) if tensors.contains_key(name))
    }

    /// A tensor in f32 on the CPU, to be folded with others; zeros where it is missing or misshapen, which [`Weights::finish`] tells.
    pub(super) fn raw(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.asked.borrow_mut().insert(name.to_owned());
        let found = match &self.source {
            Source::File(tensors) => tensors.get(name).cloned(),
            Source::Random(rng) => Some(draw(name, shape, &mut rng.borrow_mut())?),
        };
        match found {
            Some(tensor) if tensor.dims() == shape => Ok(tensor.to_dtype(DType::F32)?),
            Some(tensor) => {
                let fault = format!("{name} has shape {:?}, config.json gives {shape:?}", tensor.dims());
                self.misshapen.borrow_mut().push(fault);
                Ok(Tensor::zeros(shape, DType::F32, &Device::Cpu)?)
            }
            None => {
                self.missing.borrow_mut().push(name.to_owned());
                Ok(Tensor::zeros(shape, DType::F32, &Device::Cpu)?)
            }
        }
    }

    /// What was made of raw tensors, to compute with.
    pub(super) fn place(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.to_dtype(self.dtype)?.to_device(&self.device)?.contiguous()?)
    }

    /// Refuses what was missing or misshapen, values that are no numbers, and tensors that no network asked for, unless `known` says that
    /// they are of no use here.
    pub(super) fn finish(&self, known: impl Fn(&str) -> bool) -> Result<()> {
        let mut faults = Vec::new();
        let mut list = |what: &str, names: &[String]| {
            if let Some(more) = names.len().checked_sub(NAMED).filter(|more| *more > 0) {
                faults.push(format!("{what}: {} and {more} more", names[..NAMED].join(", ")));
            } else if !names.is_empty() {
                faults.push(format!("{what}: {}", names.join(", ")));
            }
        };
        list("missing tensors", &self.missing.borrow());
        list("wrong shapes", &self.misshapen.borrow());
        if let Source::File(tensors) = &self.source {
            let asked = self.asked.borrow();
            let odd: Vec<String> =
                tensors.keys().filter(|name| !asked.contains(*name) && !known(name)).cloned().collect();
            list("tensors that the networks of config.json do not have", &odd);
            if odd.is_empty() {
                list("values that are no numbers, in", &self.infinite(tensors)?);
            }
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Error::Teacher { path: self.path.clone(), what: faults.join("; ") })
        }
    }

    fn infinite(&self, tensors: &BTreeMap<String, Tensor>) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for name in self.asked.borrow().iter() {
            // A sum is finite if and only if all of it is, but for overflow, which no network's weights come near.
            let Some(tensor) = tensors.get(name) else { continue };
            if !tensor.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?.is_finite() {
                found.push(name.clone());
            }
        }
        Ok(found)
    }
}

/// As large as transformers initialises them: N(0, 0.02^2), normalisations as they are without.
fn draw(name: &str, shape: &[usize], rng: &mut ChaCha8Rng) -> Result<Tensor> {
    if name.contains("norm") || name.contains("layrnorm") {
        let value = if name.ends_with("weight") { 1.0 } else { 0.0 };
        return Ok(Tensor::full(value as f32, shape, &Device::Cpu)?);
    }
    let normal = Normal::new(0.0f32, 0.02).map_err(|e| Error::Split(e.to_string()))?;
    let values: Vec<f32> = normal.sample_iter(rng).take(shape.iter().product()).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
