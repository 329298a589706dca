//! The encoder on its threads: batches of image files in, frames of symbols out.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use semlink_channel::{ChannelUses, Complex32, iq};
use semlink_codec::{EncoderHalf, EncoderState, ImageLimits, Input};
use tonic::Status;

use crate::control::{Choice, Control};
use crate::rate::Rate;
use semlink_service::batch::{Batcher, Done, Limits, Lost};
use semlink_service::metrics::BatchMetrics;

/// The way to the encoder.
#[derive(Debug)]
pub(crate) struct Model(Batcher<Image, Result<Encoded, Status>>);

/// One image that is to be sent.
#[derive(Debug)]
pub(crate) struct Image {
    /// An encoded image file.
    pub(crate) file: Bytes,
    /// The rate that the client asks for, if it does.
    pub(crate) rate: Option<Rate>,
}

/// One image as it goes on the air.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// `uses` symbols, cf32_le.
    pub(crate) symbols: Bytes,
    /// Payload channel uses k.
    pub(crate) uses: ChannelUses,
    /// height x width x channels of the image as captured.
    pub(crate) captured: u64,
    /// Decoding and preprocessing of this image, in microseconds.
    pub(crate) prepare_us: u64,
    /// The forward pass of its batch, in microseconds.
    pub(crate) encode_us: u64,
}

/// What the encoder's threads work with.
#[derive(Debug)]
pub(crate) struct Encoder {
    pub(crate) half: EncoderHalf,
    pub(crate) limits: ImageLimits,
    pub(crate) control: Arc<Control>,
}

struct Prepared {
    input: Input,
    rate: Option<Rate>,
    us: u64,
}

impl Model {
    /// Moves the encoder to its threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn spawn(encoder: Encoder, limits: Limits, metrics: BatchMetrics) -> io::Result<Model> {
        let work = move |images: Vec<Image>| semlink_codec::on_this_thread(|| encoder.encode(images));
        Batcher::spawn("encoder", limits, metrics, work).map(Model)
    }

    /// The frame of one image; waits while the queue is full.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for bytes that are no image within the limits, `INTERNAL` when the encoder fails.
    pub(crate) async fn encode(&self, image: Image) -> Result<Done<Encoded>, Status> {
        let Done { output, waited } = self.0.submit(image).await.map_err(|Lost| failed())?;
        Ok(Done { output: output?, waited })
    }
}

impl Encoder {
    /// One answer per image, in order. Each image is prepared and judged alone; those that are good are encoded together.
    pub(crate) fn encode(&self, images: Vec<Image>) -> Vec<Result<Encoded, Status>> {
        let mut good = Vec::with_capacity(images.len());
        let refused: Vec<Option<Status>> =
            images.iter().map(|image| self.prepare(image).map(|image| good.push(image)).err()).collect();
        let mut encoded = self.forward(good).into_iter();
        refused
            .into_iter()
            .map(|refused| match refused {
                Some(status) => Err(status),
                None => encoded.next().unwrap_or_else(|| Err(Status::internal("encoder: no frame"))),
            })
            .collect()
    }

    /// A real forward pass with an input of zeros: what readiness means. Its frame is good for a trial of the link.
    ///
    /// # Errors
    /// What the encoder says.
    pub(crate) fn probe(&self) -> Result<Encoded, Status> {
        let spec = &self.half.manifest().input;
        let input = Input { pixels: vec![0.0; spec.len()], captured: spec.len() as u64 };
        let frames = self.forward(vec![Prepared { input, rate: None, us: 0 }]);
        frames.into_iter().next().unwrap_or_else(|| Err(Status::internal("encoder: no frame")))
    }

    fn prepare(&self, image: &Image) -> Result<Prepared, Status> {
        let start = Instant::now();
        let input = self.half.prepare(&image.file, &self.limits);
        let input = input.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Prepared { input, rate: image.rate, us: micros(start) })
    }

    /// A batch is encoded for the channel as it was last reported when the batch began.
    fn forward(&self, images: Vec<Prepared>) -> Vec<Result<Encoded, Status>> {
        if images.is_empty() {
            return Vec::new();
        }
        let start = Instant::now();
        let Choice { told, uses, auto } = self.control.choice(start);
        let state = |rate: Option<Rate>| EncoderState {
            snr_db: told.map(|condition| condition.snr_db),
            kind: told.and_then(|condition| condition.kind),
            uses: match rate {
                Some(Rate::Fixed(asked)) => asked,
                Some(Rate::Auto) => auto,
                None => uses,
            },
        };
        let mut inputs = Vec::with_capacity(images.len());
        let mut states = Vec::with_capacity(images.len());
        let mut facts = Vec::with_capacity(images.len());
        for Prepared { input, rate, us } in images {
            let state = state(rate);
            facts.push((state.uses, input.captured, us));
            states.push(state);
            inputs.push(input);
        }
        let frames = self.symbols(&inputs, &states);
        let encode_us = micros(start);
        let encoded = |(symbols, (uses, captured, prepare_us)): (Result<Vec<Complex32>, Status>, _)| {
            Ok(Encoded { symbols: iq::encode(&symbols?).into(), uses, captured, prepare_us, encode_us })
        };
        frames.into_iter().zip(facts).map(encoded).collect()
    }

    /// The symbols of each input. One that the encoder refuses must not cost its neighbours.
    fn symbols(&self, inputs: &[Input], states: &[EncoderState]) -> Vec<Result<Vec<Complex32>, Status>> {
        match self.half.encode(inputs, states) {
            Ok(frames) => frames.into_iter().map(Ok).collect(),
            Err(_) if inputs.len() > 1 => {
                let alone = inputs.chunks(1).zip(states.chunks(1));
                alone.flat_map(|(input, state)| self.symbols(input, state)).collect()
            }
            Err(error) => vec![Err(Status::internal(format!("encoder: {error}")))],
        }
    }
}

fn failed() -> Status {
    Status::internal("the encoder failed on this image; see the log")
}

fn micros(since: Instant) -> u64 {
    // Half a million years fit.
    since.elapsed().as_micros() as u64
}
