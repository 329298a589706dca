//! What lies between the last layer of the encoder and the first of the decoder: channel and equaliser.
//!
//! Training and serving give the decoder the same numbers: [`through_channel`] applies to tensors, with a gradient, what the
//! channel emulator and [`Estimates::receive`] apply to symbols.

use std::borrow::Cow;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};
use num_complex::Complex32;
use rayon::prelude::*;
use semlink_channel::{ChannelKind, ChannelState, FrameKey, equalize, noise, pilots, pilots::Estimator};
use semlink_nn::runtime::shares_work;

use super::Condition;
use super::slices::{each_sample, on_host, output, read, slice, tensor};
use crate::{Error, Result};

/// Frames below which a loop is not worth a second thread.
const FRAMES_PER_TASK: usize = 16;

/// Frames as the decoder reads them.
#[derive(Debug, Clone)]
pub struct Estimates {
    /// Minimum-mean-square-error estimates of the symbols, \[n, 2 K\] interleaved, zeros beyond each frame's k.
    pub symbols: Tensor,
    /// |h|^2 / (|h|^2 + N0) of each symbol, \[n, K\]: 0 tells nothing, 1 is certain.
    pub reliability: Tensor,
    /// What the receiver knows of each frame.
    pub conditions: Vec<Condition>,
}

/// Channel state information: what a receiver knows of the channel that a frame passed.
#[derive(Debug, Clone, PartialEq)]
pub enum Csi {
    /// Fading and noise power, exactly.
    Perfect(ChannelState),
    /// Estimates from the frame's pilots.
    Estimated(pilots::Estimate),
    /// Nothing. The frame is taken to have passed no fading, and its noise power to be what its power exceeds 1 by.
    None,
}

/// Where a receiver's channel state information comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CsiSource {
    /// The channel emulator tells.
    Perfect,
    /// This many pilots precede the payload.
    Pilots(usize),
    /// There is none.
    None,
}

/// A training frame: the channel that it goes through, and what the receiver is told.
#[derive(Debug, Clone)]
pub struct Passage {
    /// Fading and noise power; fading coefficients for `uses` symbols.
    pub state: ChannelState,
    /// Decides the noise.
    pub key: FrameKey,
    /// Channel uses of the frame.
    pub uses: usize,
    /// How the receiver comes to know of `state`.
    pub csi: CsiSource,
}

impl Estimates {
    /// Equalises received frames.
    ///
    /// # Errors
    /// A frame longer than `max_uses`, or a state that does not fit its frame.
    pub fn receive<'a>(frames: &[(&'a [Complex32], &'a Csi)], max_uses: usize) -> Result<Self> {
        let n = frames.len();
        let mut symbols = vec![0.0; n * 2 * max_uses];
        let mut reliability = vec![0.0; n * max_uses];
        let outputs = symbols.par_chunks_exact_mut(2 * max_uses).zip(reliability.par_chunks_exact_mut(max_uses));
        let per_task = if shares_work() { FRAMES_PER_TASK } else { usize::MAX };
        let conditions = outputs.zip(frames).with_min_len(per_task).map(|((symbols, reliability), (y, csi))| {
            if y.len() > max_uses {
                return Err(Error::Size { what: "symbols of a frame", expected: max_uses, got: y.len() });
            }
            let equalized = equalize::mmse(y, &csi.assumed(y))?;
            for (out, symbol) in symbols.chunks_exact_mut(2).zip(&equalized.symbols) {
                out.copy_from_slice(&[symbol.re, symbol.im]);
            }
            reliability.iter_mut().zip(&equalized.noise_var).for_each(|(out, error)| *out = 1.0 - error);
            Ok(Condition::at_receiver(csi, y.len()))
        });
        let conditions = conditions.collect::<Result<_>>()?;
        Ok(Self {
            symbols: Tensor::from_vec(symbols, (n, 2 * max_uses), &Device::Cpu)?,
            reliability: Tensor::from_vec(reliability, (n, max_uses), &Device::Cpu)?,
            conditions,
        })
    }
}

impl Estimates {
    /// The same on a device, for a decoder that is there.
    ///
    /// # Errors
    /// The device has no room.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let (symbols, reliability) = (self.symbols.to_device(device)?, self.reliability.to_device(device)?);
        Ok(Self { symbols, reliability, conditions: self.conditions.clone() })
    }
}

impl Csi {
    /// What a receiver learns of a simulated frame from this source; pilots are sent through the frame's own channel.
    ///
    /// # Errors
    /// A number of pilots outside \[[`pilots::MIN`], [`pilots::MAX`]\].
    pub fn observe(source: CsiSource, key: FrameKey, state: &ChannelState, received: &[Complex32]) -> Result<Self> {
        Ok(match source {
            CsiSource::Perfect => Self::Perfect(state.clone()),
            CsiSource::None => Self::None,
            CsiSource::Pilots(count) => {
                let mut sounded = pilots::sequence(count);
                pilots::apply(key, state, &mut sounded);
                Self::Estimated(pilots::estimate(&sounded, received, Estimator::default())?)
            }
        })
    }

    /// What the equaliser assumes of a frame `y`.
    fn assumed(&self, y: &[Complex32]) -> Cow<'_, ChannelState> {
        match self {
            Self::Perfect(state) => Cow::Borrowed(state),
            Self::Estimated(estimate) => Cow::Owned(estimate.state()),
            Self::None => {
                let power = y.iter().map(|y| y.norm_sqr()).sum::<f32>() / y.len().max(1) as f32;
                let noise_var = (power - 1.0).clamp(0.01, 1e9);
                Cow::Owned(ChannelState { kind: ChannelKind::Awgn, h: vec![Complex32::ONE], coherence: 0, noise_var })
            }
        }
    }
}

/// Sends frames x \[n, 2 K\] through their channels and equalises them, differentiably in x (what the receiver estimates and the
/// reliability are constants of the gradient).
///
/// # Errors
/// Another number of passages than frames; frames longer than K.
pub fn through_channel(x: &Tensor, passages: &[Passage]) -> Result<Estimates> {
    let (n, reals) = x.dims2()?;
    if passages.len() != n {
        return Err(Error::Size { what: "passages", expected: n, got: passages.len() });
    }
    let device = x.device();
    let x = on_host(x)?;
    let max_uses = reals / 2;
    if let Some(long) = passages.iter().find(|p| p.uses > max_uses) {
        return Err(Error::Size { what: "symbols of a frame", expected: max_uses, got: long.uses });
    }
    // The estimate is tap (h x + n) = gain x + offset with gain = tap h and offset = tap n.
    let mut gain = vec![0.0; n * reals];
    let mut offset = vec![0.0; n * reals];
    let mut reliability = vec![0.0; n * max_uses];
    let conditions = read(Channel::NAME, &x, |x| {
        let outputs =
            gain.par_chunks_mut(reals).zip(offset.par_chunks_mut(reals)).zip(reliability.par_chunks_mut(max_uses));
        let frames = outputs.zip(x.par_chunks(reals)).zip(passages).with_min_len(FRAMES_PER_TASK);
        frames
            .map(|((((gain, offset), reliability), x), passage)| {
                let Passage { state, key, uses, .. } = passage;
                let mut noise = vec![Complex32::ZERO; *uses];
                noise::fill(*key, state.noise_var, &mut noise);
                let sent = x.chunks_exact(2).map(|x| Complex32::new(x[0], x[1]));
                let received: Vec<Complex32> =
                    sent.zip(&noise).enumerate().map(|(s, (x, n))| coefficient(state, s) * x + n).collect();
                let csi = passage.known(&received).map_err(candle_core::Error::wrap)?;
                let assumed = csi.assumed(&received);
                let outputs = gain.chunks_exact_mut(2).zip(offset.chunks_exact_mut(2)).zip(reliability);
                for (s, (noise, ((gain, offset), reliability))) in noise.iter().zip(outputs).enumerate() {
                    let assumed_h = coefficient(&assumed, s);
                    let total = assumed_h.norm_sqr() + assumed.noise_var;
                    let tap = assumed_h.conj() / total;
                    let (g, o) = (tap * coefficient(state, s), tap * noise);
                    gain.copy_from_slice(&[g.re, g.im]);
                    offset.copy_from_slice(&[o.re, o.im]);
                    *reliability = assumed_h.norm_sqr() / total;
                }
                Ok(Condition::at_receiver(&csi, *uses))
            })
            .collect::<candle_core::Result<Vec<_>>>()
    })?;
    Ok(Estimates {
        symbols: x.apply_op1(Channel { reals, gain, offset })?.to_device(device)?,
        reliability: Tensor::from_vec(reliability, (n, max_uses), device)?,
        conditions,
    })
}

impl Passage {
    /// What the receiver knows after `received` symbols.
    fn known(&self, received: &[Complex32]) -> Result<Csi> {
        Csi::observe(self.csi, self.key, &self.state, received)
    }
}

/// Fading of symbol `s`.
fn coefficient(state: &ChannelState, s: usize) -> Complex32 {
    state.h.get(s.checked_div(state.coherence).unwrap_or(0)).copied().unwrap_or(Complex32::ONE)
}

/// gain x + offset, complex, symbol by symbol.
struct Channel {
    reals: usize,
    gain: Vec<f32>,
    offset: Vec<f32>,
}

impl Channel {
    const NAME: &'static str = "channel";
}

impl CustomOp1 for Channel {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = slice(Self::NAME, s, l)?;
        let mut y = vec![0.0; x.len()];
        each_sample(&mut y, self.reals, |i, y| {
            let part = i * self.reals..(i + 1) * self.reals;
            let inputs = x[part.clone()].chunks_exact(2).zip(self.gain[part.clone()].chunks_exact(2));
            for ((y, (x, g)), o) in y.chunks_exact_mut(2).zip(inputs).zip(self.offset[part].chunks_exact(2)) {
                y[0] = g[0] * x[0] - g[1] * x[1] + o[0];
                y[1] = g[0] * x[1] + g[1] * x[0] + o[1];
            }
        });
        output(y, l.shape())
    }

    /// dx = conj(gain) dy
    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let mut dx = vec![0.0; x.elem_count()];
        read(Self::NAME, &grad, |dy| {
            each_sample(&mut dx, self.reals, |i, dx| {
                let part = i * self.reals..(i + 1) * self.reals;
                let inputs = dy[part.clone()].chunks_exact(2).zip(self.gain[part].chunks_exact(2));
                for (dx, (dy, g)) in dx.chunks_exact_mut(2).zip(inputs) {
                    dx[0] = g[0] * dy[0] + g[1] * dy[1];
                    dx[1] = g[0] * dy[1] - g[1] * dy[0];
                }
            });
            Ok(())
        })?;
        tensor(dx, x.dims()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;
    use semlink_channel::{ChannelConfig, SnrDb};

    use super::*;

    fn frame(uses: usize, seed: usize) -> Vec<Complex32> {
        (0..uses)
            .map(|i| Complex32::new(((i * 7 + seed) % 5) as f32 - 2.0, ((i * 3 + seed) % 4) as f32 - 1.5))
            .collect()
    }

    fn interleaved(frames: &[Vec<Complex32>], max_uses: usize) -> Tensor {
        let padded = frames.iter().flat_map(|f| (0..max_uses).map(move |s| f.get(s).copied().unwrap_or_default()));
        let reals: Vec<f32> = padded.flat_map(|x| [x.re, x.im]).collect();
        Tensor::from_vec(reals, (frames.len(), 2 * max_uses), &Device::Cpu).unwrap()
    }

    fn configs() -> [ChannelConfig; 3] {
        let mut fast = ChannelConfig::rayleigh(SnrDb::try_new(3.0).unwrap());
        fast.coherence = 3;
        [
            ChannelConfig::awgn(SnrDb::try_new(-5.0).unwrap()),
            ChannelConfig::rayleigh(SnrDb::try_new(8.0).unwrap()),
            fast,
        ]
    }

    #[test]
    fn training_gives_the_decoder_the_numbers_of_serving() {
        let max_uses = 16;
        let sent: Vec<_> = [16, 8, 10].iter().enumerate().map(|(i, uses)| frame(*uses, i)).collect();
        for csi in [CsiSource::Perfect, CsiSource::Pilots(8), CsiSource::None] {
            let key = |i| FrameKey { seed: 1, link: 2, stream: 3, frame: i as u64 };
            let passages: Vec<_> = configs()
                .iter()
                .zip(&sent)
                .enumerate()
                .map(|(i, (config, x))| Passage {
                    state: config.draw(key(i), x.len()),
                    key: key(i),
                    uses: x.len(),
                    csi,
                })
                .collect();
            let trained = through_channel(&interleaved(&sent, max_uses), &passages).unwrap();
            let mut received = sent.clone();
            let known: Vec<Csi> = configs()
                .iter()
                .zip(&mut received)
                .enumerate()
                .map(|(i, (config, x))| {
                    let state = config.apply(key(i), x).state;
                    Csi::observe(csi, key(i), &state, x).unwrap()
                })
                .collect();
            let frames: Vec<_> = received.iter().zip(&known).map(|(y, csi)| (y.as_slice(), csi)).collect();
            let served = Estimates::receive(&frames, max_uses).unwrap();
            for (a, b) in [(&trained.symbols, &served.symbols), (&trained.reliability, &served.reliability)] {
                let (a, b): (Vec<Vec<f32>>, Vec<Vec<f32>>) = (a.to_vec2().unwrap(), b.to_vec2().unwrap());
                for (a, b) in a.concat().iter().zip(b.concat()) {
                    assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()), "{csi:?}: {a} in training, {b} in serving");
                }
            }
            assert_eq!(trained.conditions, served.conditions);
        }
    }

    #[test]
    fn the_gradient_is_that_of_the_linear_map() {
        // y = G x + o is linear, so <dy, G dx> = <G^T dy, dx> for any dx.
        let sent: Vec<_> = (0..3).map(|i| frame(8, i)).collect();
        let passages: Vec<_> = configs()
            .iter()
            .enumerate()
            .map(|(i, config)| {
                let key = FrameKey { seed: 5, link: 0, stream: 0, frame: i as u64 };
                Passage { state: config.draw(key, 8), key, uses: 8, csi: CsiSource::Perfect }
            })
            .collect();
        let x = Var::from_tensor(&interleaved(&sent, 8)).unwrap();
        let moved = (x.as_tensor() + interleaved(&[frame(8, 9), frame(8, 7), frame(8, 4)], 8)).unwrap();
        let dy = interleaved(&[frame(8, 2), frame(8, 5), frame(8, 8)], 8);
        let dot = |a: &Tensor, b: &Tensor| (a * b).unwrap().sum_all().unwrap();
        let at = |x: &Tensor| dot(&through_channel(x, &passages).unwrap().symbols, &dy);
        let loss = at(x.as_tensor());
        let grad = loss.backward().unwrap().get(x.as_tensor()).unwrap().clone();
        let change = (at(&moved) - loss).unwrap().to_scalar::<f32>().unwrap();
        let predicted = dot(&grad, &(&moved - x.as_tensor()).unwrap()).to_scalar::<f32>().unwrap();
        assert!((change - predicted).abs() < 1e-3 * (1.0 + change.abs()), "{change}, by the gradient {predicted}");
    }
}
