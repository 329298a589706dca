//! The edge half in service: from an image file to a frame of symbols.

use std::path::Path;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use semlink_channel::{ChannelKind, ChannelUses, Complex32, SnrDb, power};
use semlink_nn::{Mode, ops, runtime};

use crate::bundle::{MANIFEST_FILE, build_half, parse_manifest, read_half, read_manifest};
use crate::{BundleError, Condition, EncoderNetwork, Error, Half, ImageError, ImageLimits, Input, Manifest, Result};

/// Student encoder and CAT encoder of a bundle: frozen, stateless, to be shared between threads.
#[derive(Debug, Clone)]
pub struct EncoderHalf {
    manifest: Manifest,
    network: EncoderNetwork,
}

/// What a transmitter knows of the channel, and how many symbols it is to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EncoderState {
    /// Average Es/N0 in dB, within [-60, 100], if known.
    pub snr_db: Option<f32>,
    /// The fading model, if known.
    pub kind: Option<ChannelKind>,
    /// Symbols of the frame; one of [`Manifest::rates`].
    pub uses: ChannelUses,
}

/// Images that one thread encodes at a time: as many as lie side by side in [`ops::images_last`], and few enough to stay in its cache.
const GROUP: usize = 16;
/// Images from which a group is worth filling up with empty ones.
const SIDE_BY_SIDE_FROM: usize = 10;

impl EncoderHalf {
    /// Loads the encoder of the bundle in `dir`, from `bundle.json` and `encoder.safetensors` alone.
    ///
    /// # Errors
    /// Any [`BundleError`], by the name of the file and tensor.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, BundleError> {
        let manifest = read_manifest(dir.as_ref(), Half::Encoder)?;
        let network = read_half(dir.as_ref(), Half::Encoder, &manifest, |params| manifest.encoder_network(params))?;
        Ok(Self { manifest, network })
    }

    /// The same from the content of the two files.
    ///
    /// # Errors
    /// As for [`EncoderHalf::open`].
    pub fn from_bytes(manifest: &[u8], weights: &[u8]) -> Result<Self, BundleError> {
        let manifest = parse_manifest(MANIFEST_FILE.into(), manifest)?;
        let path = Path::new(Half::Encoder.file_name());
        let network = build_half(path, weights, Half::Encoder, &manifest, |params| manifest.encoder_network(params))?;
        Ok(Self { manifest, network })
    }

    /// What the bundle says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Names the bundle; every frame carries it.
    pub fn codec_id(&self) -> &str {
        &self.manifest.codec_id
    }

    /// Decodes and preprocesses an image file, see [`InputSpec::prepare`](crate::InputSpec::prepare).
    ///
    /// # Errors
    /// Any [`ImageError`].
    pub fn prepare(&self, bytes: &[u8], limits: &ImageLimits) -> Result<Input, ImageError> {
        self.manifest.input.prepare(bytes, limits)
    }

    /// One frame for each image, of the number of symbols that its state asks for and of mean power 1. A frame does not depend on the
    /// others. Groups of images run on all threads, or on this one within [`on_this_thread`](crate::on_this_thread). An SNR outside the range that the codec was trained for counts as the nearest within.
    ///
    /// # Errors
    /// Not one state per input, an input of another codec's size, a number of uses that is not one of [`Manifest::rates`], an
    /// SNR that is no number, weights that lead to no finite symbols.
    pub fn encode(&self, inputs: &[Input], states: &[EncoderState]) -> Result<Vec<Vec<Complex32>>> {
        let Manifest { input, .. } = &self.manifest;
        if states.len() != inputs.len() {
            return Err(Error::Size { what: "encoder states", expected: inputs.len(), got: states.len() });
        }
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(one) = inputs.iter().find(|one| one.pixels.len() != input.len()) {
            return Err(Error::Size { what: "pixel values of an input", expected: input.len(), got: one.pixels.len() });
        }
        let group = |(inputs, states)| runtime::on_this_thread(|| self.encode_group(inputs, states));
        if inputs.len() <= GROUP {
            return group((inputs, states));
        }
        if !runtime::shares_work() {
            let groups = inputs.chunks(GROUP).zip(states.chunks(GROUP)).map(group);
            return Ok(groups.collect::<Result<Vec<_>>>()?.concat());
        }
        let groups = inputs.par_chunks(GROUP).zip(states.par_chunks(GROUP)).map(group);
        Ok(groups.collect::<Result<Vec<_>>>()?.concat())
    }

    /// At most [`GROUP`] images, from beginning to end on one thread.
    fn encode_group(&self, inputs: &[Input], states: &[EncoderState]) -> Result<Vec<Vec<Complex32>>> {
        let Manifest { input, .. } = &self.manifest;
        let conditions = states.iter().map(|state| self.condition(state)).collect::<Result<Vec<_>>>()?;
        let pixels: Vec<f32> = inputs.iter().flat_map(|one| one.pixels.iter().copied()).collect();
        let images = Tensor::from_vec(pixels, (inputs.len(), input.height, input.width, input.channels), &Device::Cpu)?;
        let images = if inputs.len() < SIDE_BY_SIDE_FROM { images } else { ops::images_last(&images)? };
        // A group that was filled up has more rows than images.
        let features = self.network.student.forward(&images, Mode::Eval)?.narrow(0, 0, inputs.len())?;
        let frames: Vec<Vec<f32>> = self.network.cat.forward(&features, &conditions)?.to_vec2()?;
        let frame = |(reals, state): (Vec<f32>, &EncoderState)| {
            let symbols = reals.chunks_exact(2).take(state.uses.get());
            let mut symbols: Vec<Complex32> = symbols.map(|s| Complex32::new(s[0], s[1])).collect();
            // The network has done so already, but it is this that refuses NaN and silence by name.
            power::normalize(&mut symbols)?;
            Ok(symbols)
        };
        frames.into_iter().zip(states).map(frame).collect()
    }

    /// What the network is told: the SNR moved into the trained range.
    fn condition(&self, state: &EncoderState) -> Result<Condition> {
        let [low, high] = self.manifest.snr_range_db;
        let snr = state.snr_db.map(SnrDb::try_new).transpose()?;
        let snr_db = snr.map(|snr| snr.db().clamp(low, high));
        Ok(Condition { snr_db, frame_snr_db: None, kind: state.kind, uses: state.uses.get() })
    }
}
