//! The codec over one channel, as it is served: symbols out of the encoder, through the channel, equalised, decoded.

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;
use semlink_channel::{ChannelConfig, ChannelKind, Complex32, FrameKey};
use semlink_codec::{Condition, Csi, CsiSource, Estimates};

use super::codec::Codec;
use super::frames::Frames;
use crate::Result;

/// Frames that go through the networks together.
const BATCH: usize = 500;

/// An operating point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) channel: ChannelConfig,
    /// Payload channel uses.
    pub(crate) uses: usize,
    /// Average SNR that the encoder is told.
    pub(crate) told_db: Option<f32>,
    /// Kind of channel that it is told.
    pub(crate) told_kind: Option<ChannelKind>,
    /// What the receiver knows.
    pub(crate) csi: CsiSource,
}

/// Frames to send, and the key of their noise.
pub(crate) struct Sounding<'a> {
    pub(crate) codec: &'a Codec,
    pub(crate) frames: &'a Frames,
    /// Those frames of the split that are sent; what lies beyond its end is left out.
    pub(crate) part: Range<usize>,
    pub(crate) seed: u64,
    pub(crate) link: u64,
}

/// Frames that were decoded together.
pub(crate) struct Heard<'a> {
    pub(crate) logits: Tensor,
    pub(crate) labels: &'a [u8],
    /// What the receiver knew of each.
    pub(crate) conditions: Vec<Condition>,
    /// Sum of |h x|^2 and of |n|^2 over all symbols.
    pub(crate) power: [f64; 2],
}

impl Setting {
    /// Everything known to both ends.
    pub(crate) fn known(channel: ChannelConfig, uses: usize) -> Self {
        let (told_db, told_kind) = (Some(channel.snr.db()), Some(channel.kind));
        Self { channel, uses, told_db, told_kind, csi: CsiSource::Perfect }
    }
}

impl Sounding<'_> {
    /// Sends every frame `draws` times and hands on what is heard.
    pub(crate) fn run(
        &self,
        setting: &Setting,
        draws: usize,
        mut hear: impl FnMut(Heard<'_>) -> Result<()>,
    ) -> Result<()> {
        let Setting { channel, uses, told_db, told_kind, csi } = *setting;
        let condition = Condition { snr_db: told_db, frame_snr_db: None, kind: told_kind, uses };
        let all: Vec<usize> = (self.part.start..self.part.end.min(self.frames.len())).collect();
        for batch in all.chunks(BATCH) {
            let members = self.frames.members(0, batch);
            let (features, labels) = (self.frames.features(0, &members)?, self.frames.labels(&members));
            let sent = self.codec.encode(&features, &vec![condition; batch.len()])?.to_vec2::<f32>()?;
            for draw in 0..draws {
                let through = |(frame, x): (&usize, &Vec<f32>)| {
                    let stream = draw as u64;
                    let key = FrameKey { seed: self.seed, link: self.link, stream, frame: *frame as u64 };
                    send(&channel, key, &x[..2 * uses], csi)
                };
                let arrived = batch.par_iter().zip(&sent).map(through).collect::<Result<Vec<Arrived>>>()?;
                let received: Vec<_> = arrived.iter().map(|frame| (frame.symbols.as_slice(), &frame.csi)).collect();
                let estimates = Estimates::receive(&received, self.codec.max_uses())?;
                let conditions = estimates.conditions.clone();
                let (_, logits) = self.codec.decode(estimates)?;
                let sum = |which: usize| arrived.iter().map(|frame| frame.power[which]).sum();
                hear(Heard { logits, labels: &labels, conditions, power: [sum(0), sum(1)] })?;
            }
        }
        Ok(())
    }
}

/// One frame after the channel.
struct Arrived {
    symbols: Vec<Complex32>,
    csi: Csi,
    power: [f64; 2],
}

/// Sends interleaved symbols.
fn send(channel: &ChannelConfig, key: FrameKey, reals: &[f32], csi: CsiSource) -> Result<Arrived> {
    let sent: Vec<Complex32> = reals.chunks_exact(2).map(|x| Complex32::new(x[0], x[1])).collect();
    let mut symbols = sent.clone();
    let state = channel.apply(key, &mut symbols).state;
    let mut power = [0.0; 2];
    for (i, (x, y)) in sent.iter().zip(&symbols).enumerate() {
        let h = state.h.get(i.checked_div(state.coherence).unwrap_or(0)).copied().unwrap_or(Complex32::ONE);
        power[0] += f64::from((h * x).norm_sqr());
        power[1] += f64::from((y - h * x).norm_sqr());
    }
    let csi = Csi::observe(csi, key, &state, &symbols)?;
    Ok(Arrived { symbols, csi, power })
}
