//! Named parameters and buffers, drawn from a seed or taken from a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use candle_core::{DType, Device, Tensor, Var};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// How a parameter is drawn when there is no checkpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// All the same.
    Constant(f32),
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// Normal with mean 0 and variance 2 / `fan` (He et al. 2015), for layers followed by a ReLU.
    KaimingNormal {
        /// Inputs (or outputs) of one unit.
        fan: usize,
    },
    /// Uniform in +-sqrt(6 / (`fan_in` + `fan_out`)) (Glorot and Bengio 2010).
    XavierUniform {
        /// Inputs of one unit.
        fan_in: usize,
        /// Outputs that one input feeds.
        fan_out: usize,
    },
}

/// A tensor that a layer changes while it trains and that no optimiser touches: running statistics. Clones share the content.
#[derive(Debug, Clone)]
pub struct Buffer(Arc<RwLock<Tensor>>);

/// The parameters of a network by name. Cheap to clone; clones and [`Params::sub`] views share their content.
///
/// A layer asks for its tensors with [`Params::weight`] and [`Params::buffer`] when it is built. Names are joined with dots;
/// the same name asked for twice gives the same tensor (shared weights).
#[derive(Debug, Clone)]
pub struct Params {
    inner: Arc<Inner>,
    prefix: String,
    /// Weights are handed out without gradient.
    detached: bool,
}

#[derive(Debug)]
struct Inner {
    device: Device,
    source: Source,
    state: Mutex<State>,
}

#[derive(Debug)]
enum Source {
    /// Drawn from the seed, but for those that are given.
    Seed(u64, BTreeMap<String, Tensor>),
    /// No values, only shapes.
    Shapes,
    Checkpoint {
        tensors: BTreeMap<String, Tensor>,
        frozen: bool,
    },
}

/// What layers have asked for so far.
#[derive(Debug, Default)]
struct State {
    vars: BTreeMap<String, Var>,
    constants: BTreeMap<String, Tensor>,
    buffers: BTreeMap<String, Buffer>,
}

impl Init {
    /// `count` values for the parameter `name`. The generator is ChaCha8 keyed with SHA-256(seed, name), so that a parameter's
    /// value depends neither on the order in which layers are built nor on which other layers there are.
    fn draw(self, seed: u64, name: &str, count: usize) -> Vec<f32> {
        let key = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize();
        let mut rng = ChaCha8Rng::from_seed(key.into());
        let mut normal = |std: f32| match Normal::new(0.0, std) {
            Ok(distribution) => distribution.sample_iter(&mut rng).take(count).collect(),
            Err(_) => vec![f32::NAN; count],
        };
        match self {
            Init::Zeros => vec![0.0; count],
            Init::Ones => vec![1.0; count],
            Init::Constant(value) => vec![value; count],
            Init::Normal { std } => normal(std),
            Init::KaimingNormal { fan } => normal((2.0 / fan.max(1) as f32).sqrt()),
            Init::XavierUniform { fan_in, fan_out } => {
                let bound = (6.0 / (fan_in + fan_out).max(1) as f32).sqrt();
                (0..count).map(|_| rng.random_range(-bound..=bound)).collect()
            }
        }
    }
}

impl Buffer {
    fn new(t: Tensor) -> Self {
        Self(Arc::new(RwLock::new(t)))
    }

    /// The present content; later changes do not show in the returned tensor.
    pub fn get(&self) -> Tensor {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the content by a tensor of the same shape, without its history.
    pub fn set(&self, t: &Tensor) -> Result<()> {
        let mut content = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if content.dims() != t.dims() {
            return Err(Error::Shape {
                op: "buffer",
                what: "new content",
                expected: format!("{:?}", content.dims()),
                got: t.dims().to_vec(),
            });
        }
        *content = t.detach();
        Ok(())
    }
}

impl Params {
    /// Trainable parameters that are drawn when a layer asks for them, from (`seed`, full name): independent of creation order.
    pub fn init(seed: u64, device: &Device) -> Self {
        Self::new(device.clone(), Source::Seed(seed, BTreeMap::new()))
    }

    /// Trainable parameters on `device` that start from `tensors` where it has them and are drawn as by [`Params::init`] elsewhere: fine-tuning.
    pub fn warm(seed: u64, tensors: BTreeMap<String, Tensor>, device: &Device) -> Self {
        Self::new(device.clone(), Source::Seed(seed, tensors))
    }

    /// Names and shapes alone: [`Params::tensors`] then tells what a network asks for. Every tensor is one zero seen many times over, so
    /// that a description of any size takes next to no memory; nothing here can be trained.
    pub fn shapes() -> Self {
        Self::new(Device::Cpu, Source::Shapes)
    }

    /// Trainable parameters from a checkpoint. Half-precision tensors are converted to f32.
    pub fn trainable(tensors: BTreeMap<String, Tensor>) -> Self {
        Self::from_checkpoint(tensors, false)
    }

    /// Parameters for serving: plain tensors without autograd; layers fold batch-norm when they are built. Half-precision
    /// tensors are converted to f32.
    pub fn frozen(tensors: BTreeMap<String, Tensor>) -> Self {
        Self::from_checkpoint(tensors, true)
    }

    fn from_checkpoint(tensors: BTreeMap<String, Tensor>, frozen: bool) -> Self {
        let device = tensors.values().next().map_or(Device::Cpu, |t| t.device().clone());
        Self::new(device, Source::Checkpoint { tensors, frozen })
    }

    fn new(device: Device, source: Source) -> Self {
        let state = Mutex::new(State::default());
        Self { inner: Arc::new(Inner { device, source, state }), prefix: String::new(), detached: false }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether these parameters are for serving only.
    pub fn is_frozen(&self) -> bool {
        matches!(self.inner.source, Source::Checkpoint { frozen: true, .. })
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.inner.device
    }

    /// The same parameters with `name` appended to the prefix of names: `params.sub("student").sub("stem")` is `student.stem`.
    pub fn sub(&self, name: impl Display) -> Self {
        Self { prefix: self.full_name(&name.to_string()), ..self.clone() }
    }

    /// The same parameters, handed out without gradient: a network built from them computes with the present values, follows every step
    /// of the optimiser, and spares a backward pass the gradients of its weights.
    pub fn detached(&self) -> Self {
        Self { detached: true, ..self.clone() }
    }

    /// The prefix of names; empty at the root.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    /// The parameter `name` of the given shape; `init` says how to draw it when there is no checkpoint.
    ///
    /// # Errors
    /// The checkpoint lacks the name or holds another shape, or the name is in use as a buffer.
    pub fn weight(&self, name: &str, shape: &[usize], init: Init) -> Result<Tensor> {
        let weight = self.attached(name, shape, init)?;
        Ok(if self.detached { weight.detach() } else { weight })
    }

    fn attached(&self, name: &str, shape: &[usize], init: Init) -> Result<Tensor> {
        let name = self.full_name(name);
        let mut state = self.state();
        if state.buffers.contains_key(&name) {
            return Err(Error::ParamKind { name });
        }
        let known = state.vars.get(&name).map(|var| var.as_tensor()).or_else(|| state.constants.get(&name));
        if let Some(known) = known {
            return check_shape(&name, known.clone(), shape);
        }
        let value = self.value(&name, shape, |seed, count| init.draw(seed, &name, count))?;
        if self.is_frozen() || matches!(self.inner.source, Source::Shapes) {
            state.constants.insert(name, value.clone());
            return Ok(value);
        }
        // A copy of its own: an optimiser writes to it in place.
        let var = Var::from_tensor(&value.copy()?)?;
        let tensor = var.as_tensor().clone();
        state.vars.insert(name, var);
        Ok(tensor)
    }

    /// The buffer `name` of the given shape, filled with `value` when there is no checkpoint.
    ///
    /// # Errors
    /// The checkpoint lacks the name or holds another shape, or the name is in use as a parameter.
    pub fn buffer(&self, name: &str, shape: &[usize], value: f32) -> Result<Buffer> {
        let name = self.full_name(name);
        let mut state = self.state();
        if state.vars.contains_key(&name) || state.constants.contains_key(&name) {
            return Err(Error::ParamKind { name });
        }
        if let Some(known) = state.buffers.get(&name) {
            check_shape(&name, known.get(), shape)?;
            return Ok(known.clone());
        }
        let buffer = Buffer::new(self.value(&name, shape, |_, count| vec![value; count])?);
        state.buffers.insert(name, buffer.clone());
        Ok(buffer)
    }

    fn value(&self, name: &str, shape: &[usize], draw: impl FnOnce(u64, usize) -> Vec<f32>) -> Result<Tensor> {
        match &self.inner.source {
            Source::Seed(seed, given) => match given.get(name) {
                Some(t) => stored(name, &t.to_device(&self.inner.device)?, shape),
                None => {
                    let data = draw(*seed, shape.iter().product());
                    Ok(Tensor::from_vec(data, shape, &self.inner.device)?)
                }
            },
            Source::Shapes => Ok(Tensor::zeros((), DType::F32, &self.inner.device)?.broadcast_as(shape)?),
            Source::Checkpoint { tensors, .. } => match tensors.get(name) {
                Some(t) => stored(name, t, shape),
                None => Err(Error::MissingParam { name: name.to_owned() }),
            },
        }
    }

    fn is_below(&self, name: &str) -> bool {
        self.prefix.is_empty()
            || name.strip_prefix(&self.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// The trainable parameters below this prefix with their full names, sorted by name; none when frozen.
    pub fn vars(&self) -> Vec<(String, Var)> {
        let state = self.state();
        let below = state.vars.iter().filter(|(name, _)| self.is_below(name));
        below.map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// The buffers below this prefix with their full names, sorted by name.
    pub fn buffers(&self) -> Vec<(String, Buffer)> {
        let state = self.state();
        let below = state.buffers.iter().filter(|(name, _)| self.is_below(name));
        below.map(|(name, buffer)| (name.clone(), buffer.clone())).collect()
    }

    /// Parameters and buffers below this prefix with their full names, for saving: a snapshot, which later training steps do
    /// not change. Only what layers have asked for is in it.
    ///
    /// # Errors
    /// A copy cannot be made on the device.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let state = self.state();
        let mut all = BTreeMap::new();
        for (name, var) in &state.vars {
            all.insert(name.clone(), var.as_detached_tensor().copy()?);
        }
        for (name, t) in &state.constants {
            all.insert(name.clone(), t.clone());
        }
        for (name, buffer) in &state.buffers {
            all.insert(name.clone(), buffer.get());
        }
        all.retain(|name, _| self.is_below(name));
        Ok(all)
    }

    /// As [`Params::tensors`], but sharing memory: the next training step changes them.
    #[must_use]
    pub fn current(&self) -> BTreeMap<String, Tensor> {
        let state = self.state();
        let vars = state.vars.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor()));
        let constants = state.constants.iter().map(|(name, t)| (name.clone(), t.clone()));
        let buffers = state.buffers.iter().map(|(name, buffer)| (name.clone(), buffer.get()));
        vars.chain(constants).chain(buffers).filter(|(name, _)| self.is_below(name)).collect()
    }

    /// Scalars in the trainable parameters below this prefix (when frozen: in all parameters; buffers never count).
    pub fn count(&self) -> usize {
        let state = self.state();
        let vars = state.vars.iter().map(|(name, var)| (name, var.elem_count()));
        let constants = state.constants.iter().map(|(name, t)| (name, t.elem_count()));
        vars.chain(constants).filter(|(name, _)| self.is_below(name)).map(|(_, count)| count).sum()
    }

    /// Refuses names of the checkpoint below this prefix that no layer asked for: the network is then not the one that was
    /// saved.
    pub fn check_all_used(&self) -> Result<()> {
        let Source::Checkpoint { tensors, .. } = &self.inner.source else {
            return Ok(());
        };
        let state = self.state();
        let used: BTreeSet<&String> =
            state.vars.keys().chain(state.constants.keys()).chain(state.buffers.keys()).collect();
        let unused = tensors.keys().filter(|name| self.is_below(name) && !used.contains(name));
        let names: Vec<String> = unused.cloned().collect();
        if names.is_empty() { Ok(()) } else { Err(Error::UnusedParams { names }) }
    }
}

fn stored(name: &str, t: &Tensor, shape: &[usize]) -> Result<Tensor> {
    check_shape(name, t.detach().to_dtype(DType::F32)?.contiguous()?, shape)
}

fn check_shape(name: &str, t: Tensor, expected: &[usize]) -> Result<Tensor> {
    if t.dims() == expected {
        return Ok(t);
    }
    Err(Error::ParamShape { name: name.to_owned(), expected: expected.to_vec(), got: t.dims().to_vec() })
}
