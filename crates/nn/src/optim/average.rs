//! The exponential moving average of weights.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::ops::raw::View;
use crate::{Params, Result};

/// Exponential moving average of weights and running statistics (Polyak averaging), which generalises better than the last weights.
#[derive(Debug)]
pub struct Average {
    decay: f32,
    names: Vec<String>,
    shadow: Shadow,
    updates: usize,
}

#[derive(Debug)]
enum Shadow {
    Off,
    Here(Vec<Vec<f32>>),
    #[cfg(feature = "cuda")]
    There(crate::cuda::Many<1>),
}

const UPDATES: &str = "updates";

impl Average {
    /// An average that begins at the present values; with `decay` 0 it is the values themselves at any time.
    ///
    /// # Errors
    /// A tensor cannot be read.
    pub fn new(decay: f64, params: &Params) -> Result<Self> {
        let now = params.current();
        let names = now.keys().cloned().collect();
        let shadow = match now.values().next() {
            None => Shadow::Off,
            Some(_) if decay <= 0.0 => Shadow::Off,
            #[cfg(feature = "cuda")]
            Some(first) if first.device().is_cuda() => {
                let shapes: Vec<Vec<usize>> = now.values().map(|t| t.dims().to_vec()).collect();
                let mut there = crate::cuda::Many::new(first, shapes, &vec![false; now.len()])?;
                there.set_slot(0, &now.values().cloned().collect::<Vec<_>>())?;
                Shadow::There(there)
            }
            Some(_) => Shadow::Here(now.values().map(values).collect::<Result<_>>()?),
        };
        Ok(Self { decay: decay as f32, names, shadow, updates: 0 })
    }

    /// Moves the average towards the present values.
    ///
    /// # Errors
    /// The parameters are not those that the average was made of.
    pub fn update(&mut self, params: &Params) -> Result<()> {
        self.updates += 1;
        // Early on, the average follows faster: the initial weights are worth nothing.
        let decay = self.decay.min((1.0 + self.updates as f32) / (10.0 + self.updates as f32));
        match &mut self.shadow {
            Shadow::Off => {}
            Shadow::Here(shadow) => {
                let now = params.current();
                let now: Vec<&Tensor> = now.values().collect();
                shadow.par_iter_mut().zip(now).try_for_each(|(shadow, now)| {
                    let now = now.contiguous()?;
                    let now = View::new("average", &now)?;
                    shadow.iter_mut().zip(now.iter()).for_each(|(s, x)| *s += (1.0 - decay) * (x - *s));
                    Ok::<_, candle_core::Error>(())
                })?;
            }
            #[cfg(feature = "cuda")]
            Shadow::There(there) => there.follow(params.current().values(), 1.0 - decay)?,
        }
        Ok(())
    }

    /// The averages by name, on the parameters' device: a snapshot.
    ///
    /// # Errors
    /// A copy cannot be made.
    pub fn tensors(&self, params: &Params) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = params.tensors()?;
        let averages: Vec<Tensor> = match &self.shadow {
            Shadow::Off => return Ok(tensors),
            Shadow::Here(shadow) => {
                let shaped = |(name, shadow): (&String, &Vec<f32>)| {
                    let shape = tensors.get(name).map_or_else(|| vec![shadow.len()], |t| t.dims().to_vec());
                    Ok(Tensor::from_slice(shadow, shape, &Device::Cpu)?)
                };
                self.names.iter().zip(shadow).map(shaped).collect::<Result<_>>()?
            }
            #[cfg(feature = "cuda")]
            Shadow::There(there) => there.slot(0)?.iter().map(|t| Ok(t.copy()?)).collect::<Result<_>>()?,
        };
        tensors.extend(self.names.iter().cloned().zip(averages));
        Ok(tensors)
    }

    /// What [`Average::load`] continues from; nothing without an average.
    ///
    /// # Errors
    /// A copy cannot be made.
    pub fn state(&self, params: &Params) -> Result<BTreeMap<String, Tensor>> {
        if matches!(self.shadow, Shadow::Off) {
            return Ok(BTreeMap::new());
        }
        let mut tensors = self.tensors(params)?;
        tensors.insert(UPDATES.into(), Tensor::new(&[self.updates as u32], &Device::Cpu)?);
        Ok(tensors)
    }

    /// Continues from a [`state`](Self::state); names that it lacks stay as they are.
    ///
    /// # Errors
    /// A tensor cannot be read.
    pub fn load(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        match &mut self.shadow {
            Shadow::Off => {}
            Shadow::Here(shadow) => {
                for (name, shadow) in self.names.iter().zip(shadow) {
                    if let Some(t) = state.get(name) {
                        *shadow = values(t)?;
                    }
                }
            }
            #[cfg(feature = "cuda")]
            Shadow::There(there) => {
                let mut now = there.slot(0)?;
                for (name, now) in self.names.iter().zip(&mut now) {
                    if let Some(t) = state.get(name) {
                        *now = t.clone();
                    }
                }
                there.set_slot(0, &now)?;
            }
        }
        if let Some(t) = state.get(UPDATES) {
            self.updates = t.to_vec1::<u32>()?.first().copied().unwrap_or(0) as usize;
        }
        Ok(())
    }
}

fn values(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.flatten_all()?.to_vec1()?)
}
