//! Variables with the vectors that an optimiser keeps for each of them.

use std::collections::BTreeMap;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor, Var};
use rayon::prelude::*;

use crate::ops::raw::{self, View};
use crate::{Error, Result};

/// Elements updated by one task.
const CHUNK: usize = raw::CHUNK;
const STEPS: &str = "steps";

/// Variables, `K` vectors of the variable's length for each, and the number of steps done.
#[derive(Debug)]
pub(super) struct Slots<const K: usize> {
    pub(super) vars: Vec<(String, Var)>,
    names: [&'static str; K],
    data: Vec<[Vec<f32>; K]>,
    /// Instead of `data`, where the variables are on a GPU.
    #[cfg(feature = "cuda")]
    pub(super) there: Option<crate::cuda::Many<K>>,
    pub(super) steps: usize,
}

impl<const K: usize> Slots<K> {
    /// Zero vectors for each variable. `decay_vectors`: variables of rank 0 and 1 decay too.
    pub(super) fn new(vars: Vec<(String, Var)>, names: [&'static str; K], decay_vectors: bool) -> Result<Self> {
        for (_, var) in &vars {
            raw::prepare("optimizer", var)?;
        }
        #[cfg(feature = "cuda")]
        if let Some((_, first)) = vars.first().filter(|(_, var)| var.device().is_cuda()) {
            let shapes = vars.iter().map(|(_, var)| var.dims().to_vec()).collect();
            let decays: Vec<bool> = vars.iter().map(|(_, var)| decay_vectors || var.rank() > 1).collect();
            let there = Some(crate::cuda::Many::new(first, shapes, &decays)?);
            return Ok(Self { vars, names, data: Vec::new(), there, steps: 0 });
        }
        #[cfg(not(feature = "cuda"))]
        let _ = decay_vectors;
        let data = vars.iter().map(|(_, var)| std::array::from_fn(|_| vec![0.0; var.elem_count()])).collect();
        Ok(Self {
            vars,
            names,
            data,
            #[cfg(feature = "cuda")]
            there: None,
            steps: 0,
        })
    }

    /// Calls `update(is_vector, weights, gradient, slots)` for every chunk of variable number `i`; `is_vector` is true for
    /// variables of rank 0 or 1. `grad` is contiguous.
    pub(super) fn update<F>(&mut self, i: usize, grad: &Tensor, update: F) -> Result<()>
    where
        F: Fn(bool, &mut [f32], &[f32], [&mut [f32]; K]) + Sync,
    {
        let (name, var) = &self.vars[i];
        if grad.dims() != var.dims() {
            return Err(Error::ParamShape {
                name: format!("{name} (gradient)"),
                expected: var.dims().to_vec(),
                got: grad.dims().to_vec(),
            });
        }
        let op = Update { grad, slots: std::sync::Mutex::new(&mut self.data[i]), is_vector: var.rank() < 2, update };
        Ok(var.inplace_op1(&op)?)
    }

    pub(super) fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        #[cfg(feature = "cuda")]
        if let Some(there) = &self.there {
            for (i, slot) in self.names.iter().enumerate() {
                for ((name, _), value) in self.vars.iter().zip(there.slot(i)?) {
                    state.insert(format!("{slot}.{name}"), value.to_device(&Device::Cpu)?);
                }
            }
        }
        for ((name, var), slots) in self.vars.iter().zip(&self.data) {
            for (slot, data) in self.names.iter().zip(slots) {
                state.insert(format!("{slot}.{name}"), raw::tensor(data.clone(), var.dims())?);
            }
        }
        state.insert(STEPS.to_owned(), Tensor::new(self.steps as i64, &Device::Cpu)?);
        Ok(state)
    }

    pub(super) fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let bad = |what: String| Error::OptimizerState { what };
        let get = |name: &str| state.get(name).ok_or_else(|| bad(format!("{name} is missing")));
        let steps = get(STEPS)?.to_scalar::<i64>().map_err(|e| bad(format!("{STEPS}: {e}")))?;
        let steps = usize::try_from(steps).map_err(|_| bad(format!("{STEPS} is {steps}")))?;
        let mut all = Vec::with_capacity(self.vars.len());
        for (name, var) in &self.vars {
            let mut slots: [Vec<f32>; K] = std::array::from_fn(|_| Vec::new());
            for (slot, data) in self.names.iter().zip(&mut slots) {
                let name = format!("{slot}.{name}");
                let t = raw::prepare("optimizer", &get(&name)?.to_device(&Device::Cpu)?)?;
                if t.dims() != var.dims() {
                    return Err(bad(format!("{name} has shape {:?}, expected {:?}", t.dims(), var.dims())));
                }
                *data = View::new("optimizer", &t)?.to_vec();
            }
            all.push(slots);
        }
        let expected = 1 + K * self.vars.len();
        if state.len() != expected {
            return Err(bad(format!("{} tensors, expected {expected} for {} variables", state.len(), self.vars.len())));
        }
        self.steps = steps;
        #[cfg(feature = "cuda")]
        if let Some(there) = &mut self.there {
            for slot in 0..K {
                let values = all.iter().map(|slots| Ok(Tensor::new(slots[slot].as_slice(), &Device::Cpu)?));
                there.set_slot(slot, &values.collect::<Result<Vec<_>>>()?)?;
            }
            return Ok(());
        }
        self.data = all;
        Ok(())
    }
}

/// One variable's update, run while candle holds its storage for writing.
struct Update<'a, const K: usize, F> {
    grad: &'a Tensor,
    slots: std::sync::Mutex<&'a mut [Vec<f32>; K]>,
    is_vector: bool,
    update: F,
}

impl<const K: usize, F> InplaceOp1 for Update<'_, K, F>
where
    F: Fn(bool, &mut [f32], &[f32], [&mut [f32]; K]) + Sync,
{
    fn name(&self) -> &'static str {
        "optimizer"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (Some((start, end)), CpuStorage::F32(data)) = (layout.contiguous_offsets(), storage) else {
            return Err(candle_core::Error::msg("optimizer: variables must be contiguous and f32"));
        };
        let weights = &mut data[start..end];
        let grad = View::new(self.name(), self.grad)?;
        let grad: &[f32] = &grad;
        let mut slots = self.slots.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut slots = slots.each_mut().map(|s| s.chunks_mut(CHUNK));
        let tasks: Vec<_> = weights
            .chunks_mut(CHUNK)
            .zip(grad.chunks(CHUNK))
            .map(|(w, g)| (w, g, slots.each_mut().map(|s| s.next().unwrap_or_default())))
            .collect();
        if tasks.len() == 1 {
            tasks.into_iter().for_each(|(w, g, s)| (self.update)(self.is_vector, w, g, s));
        } else {
            tasks.into_par_iter().for_each(|(w, g, s)| (self.update)(self.is_vector, w, g, s));
        }
        Ok(())
    }
}
