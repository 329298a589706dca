//! The decoder on its thread: batches of received frames in, decisions out.

use std::{io, time::Instant};

use semlink_channel::{ChannelKind, ChannelState, Complex32};
use semlink_codec::{Csi, Decision, DecoderHalf, Received};
use semlink_proto::v1;
use tonic::Status;

use semlink_service::batch::{Batcher, Limits};

/// The way to the decoder.
#[derive(Debug)]
pub(crate) struct Model(Batcher<Received, Result<Decoded, Status>>);

/// One decided frame.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) decision: v1::Decision,
    /// Wall-clock time of its batch, in microseconds.
    pub(crate) decode_us: u64,
}

impl Model {
    /// Moves the decoder to its thread.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn spawn(half: DecoderHalf, limits: Limits) -> io::Result<Model> {
        let work = move |frames: Vec<Received>| decode(&half, &frames);
        Batcher::spawn("decoder", limits, work).map(Model)
    }

    /// The decision of one frame.
    ///
    /// # Errors
    /// `INTERNAL` when the decoder cannot decide on it.
    pub(crate) async fn decode(&self, frame: Received) -> Result<Decoded, Status> {
        self.0.submit(frame).await.map_err(|lost| Status::internal(lost.to_string()))?
    }
}

/// A real forward pass with the codec's longest frame: what readiness means.
///
/// # Errors
/// What the decoder says, or that its probabilities are no numbers.
pub(crate) fn probe(half: &DecoderHalf) -> Result<(), Status> {
    let symbols = half.manifest().rates().last().copied().unwrap_or_default();
    let frame = Received {
        symbols: vec![Complex32::new(1.0, 0.0); symbols],
        csi: Csi::Perfect(ChannelState {
            kind: ChannelKind::Awgn,
            h: vec![Complex32::new(1.0, 0.0)],
            coherence: 0,
            noise_var: 0.1,
        }),
    };
    decode(half, &[frame]).into_iter().next().unwrap_or_else(|| Err(Status::internal("no decision"))).map(drop)
}

fn decode(half: &DecoderHalf, frames: &[Received]) -> Vec<Result<Decoded, Status>> {
    let start = Instant::now();
    match half.decode(frames) {
        Ok(decisions) => {
            let decode_us = start.elapsed().as_micros() as u64;
            decisions
                .into_iter()
                .map(|decision| label(half, decision).map(|decision| Decoded { decision, decode_us }))
                .collect()
        }
        // One frame that the decoder refuses must not cost its neighbours.
        Err(_) if frames.len() > 1 => {
            frames.iter().flat_map(|frame| decode(half, std::slice::from_ref(frame))).collect()
        }
        Err(error) => vec![Err(Status::internal(format!("decoder: {error}")))],
    }
}

fn label(half: &DecoderHalf, decision: Decision) -> Result<v1::Decision, Status> {
    if !decision.confidence.is_finite() {
        return Err(Status::internal("decoder: the probabilities are not finite"));
    }
    let label = half
        .manifest()
        .labels
        .get(decision.index)
        .ok_or_else(|| Status::internal("decoder: a class without a label"))?;
    Ok(v1::Decision { index: decision.index as u32, label: label.clone(), confidence: decision.confidence })
}
