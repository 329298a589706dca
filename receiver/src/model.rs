//! The decoder on its threads: batches of received frames in, decisions out.

use std::{io, time::Instant};

use semlink_channel::{ChannelKind, ChannelState, Complex32};
use semlink_codec::{Csi, Decision, DecoderHalf, Received};
use semlink_proto::v1;
use tonic::Status;

use semlink_service::batch::{Batcher, Done, Limits};
use semlink_service::metrics::BatchMetrics;

/// The way to the decoder.
#[derive(Debug)]
pub(crate) struct Model(Batcher<Received, Result<Decoded, Status>>);

/// How much is told of a decision.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Telling {
    /// Most probable classes to name.
    pub(crate) top: usize,
    /// Confidence below which a decision is unsure.
    pub(crate) min_confidence: f32,
}

/// One decided frame.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) decision: v1::Decision,
    /// Wall-clock time of its batch, in microseconds.
    pub(crate) decode_us: u64,
}

impl Model {
    /// Moves the decoder to its threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn spawn(
        half: DecoderHalf,
        telling: Telling,
        limits: Limits,
        metrics: BatchMetrics,
    ) -> io::Result<Model> {
        let work = move |frames: Vec<Received>| semlink_codec::on_this_thread(|| decode(&half, telling, &frames));
        Batcher::spawn("decoder", limits, metrics, work).map(Model)
    }

    /// The decision of one frame.
    ///
    /// # Errors
    /// `INTERNAL` when the decoder cannot decide on it.
    pub(crate) async fn decode(&self, frame: Received) -> Result<Done<Decoded>, Status> {
        let Done { output, waited } = self.0.submit(frame).await.map_err(|lost| Status::internal(lost.to_string()))?;
        Ok(Done { output: output?, waited })
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
    decode(half, Telling::default(), &[frame])
        .into_iter()
        .next()
        .unwrap_or_else(|| Err(Status::internal("no decision")))
        .map(drop)
}

fn decode(half: &DecoderHalf, telling: Telling, frames: &[Received]) -> Vec<Result<Decoded, Status>> {
    let start = Instant::now();
    match half.decode(frames) {
        Ok(decisions) => {
            let decode_us = start.elapsed().as_micros() as u64;
            decisions
                .into_iter()
                .map(|decision| tell(half, telling, &decision).map(|decision| Decoded { decision, decode_us }))
                .collect()
        }
        // One frame that the decoder refuses must not cost its neighbours.
        Err(_) if frames.len() > 1 => {
            frames.iter().flat_map(|frame| decode(half, telling, std::slice::from_ref(frame))).collect()
        }
        Err(error) => vec![Err(Status::internal(format!("decoder: {error}")))],
    }
}

fn tell(half: &DecoderHalf, telling: Telling, decision: &Decision) -> Result<v1::Decision, Status> {
    let Decision { index, confidence, probabilities } = decision;
    if !confidence.is_finite() {
        return Err(Status::internal("decoder: the probabilities are not finite"));
    }
    let label = |index: usize| {
        let label = half.labels().get(index).cloned();
        label.ok_or_else(|| Status::internal("decoder: a class without a label"))
    };
    let mut order: Vec<(usize, f32)> = probabilities.iter().copied().enumerate().collect();
    // Stable, so that of equal probabilities the first class leads, as it does in the decision.
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    let top = order
        .into_iter()
        .take(telling.top)
        .map(|(index, probability)| Ok(v1::Candidate { index: index as u32, label: label(index)?, probability }));
    Ok(v1::Decision {
        index: *index as u32,
        label: label(*index)?,
        confidence: *confidence,
        top: top.collect::<Result<_, Status>>()?,
        unsure: *confidence < telling.min_confidence,
    })
}
