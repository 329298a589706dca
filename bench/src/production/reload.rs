//! Bundles are replaced while images stream.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use candle_core::{Device, Tensor};
use futures::stream;
use semlink_codec::{Half, MANIFEST_FILE, Manifest, write_bundle};
use semlink_nn::checkpoint;
use semlink_proto::v1::decisions_client::DecisionsClient;
use semlink_proto::v1::link_client::LinkClient;
use semlink_proto::v1::{DecisionEvent, Frame, SubscribeRequest};
use serde_json::json;
use tonic::Streaming;
use tonic::transport::Channel;

use super::chain::{self, Chain, Setup};
use super::client::{Answers, Ids, Images, Streams, connect};
use super::{RIG, command};
use crate::measure::row;
use crate::results::Row;
use crate::rig::runtime;

const STREAMS: Streams = Streams { streams: 16, connections: 4, outstanding: 8 };
/// Within which a service is to have taken up a bundle.
const LATE: Duration = Duration::from_secs(60);
/// Streaming before, between and after the changes.
const BETWEEN: Duration = Duration::from_secs(3);
/// Weights of the other bundle over the first's.
const OTHER: f64 = 1.001;

/// Two bundles that differ in their weights a little.
struct Bundles {
    first: Manifest,
    other: Manifest,
    tensors: BTreeMap<String, Tensor>,
}

impl Bundles {
    /// The shipped one, and the same with other weights.
    fn read() -> Result<Bundles> {
        let shipped = chain::bundle();
        let first: Manifest = serde_json::from_slice(&fs::read(shipped.join(MANIFEST_FILE))?)?;
        let mut tensors = BTreeMap::new();
        for half in [Half::Encoder, Half::Decoder] {
            tensors.extend(checkpoint::load(&shipped.join(half.file_name()), &Device::Cpu)?.tensors);
        }
        let other = tempfile::tempdir()?;
        let other = write_bundle(other.path(), first.clone().into(), &changed(&tensors)?)?;
        ensure!(other.hashes.encoder != first.hashes.encoder, "both encoders are the same");
        ensure!(other.hashes.decoder != first.hashes.decoder, "both decoders are the same");
        Ok(Bundles { first, other, tensors })
    }

    /// Replaces the files in `dir` by renaming, the manifest last.
    fn write(&self, dir: &Path, other: bool) -> Result<String> {
        if other {
            return Ok(write_bundle(dir, self.other.clone().into(), &changed(&self.tensors)?)?.codec_id);
        }
        let shipped = chain::bundle();
        for file in [Half::Encoder.file_name(), Half::Decoder.file_name(), MANIFEST_FILE] {
            checkpoint::write_atomically(&dir.join(file), &fs::read(shipped.join(file))?)?;
        }
        Ok(self.first.codec_id.clone())
    }
}

/// The last layers of both halves scaled: other files, the same decisions but for a few.
fn changed(tensors: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = tensors.clone();
    for name in ["cat_encoder.symbols.bias", "classifier.linear.bias"] {
        let tensor = tensors.get_mut(name).with_context(|| format!("the bundle has no {name}"))?;
        *tensor = (&*tensor * OTHER)?;
    }
    Ok(tensors)
}

/// Waits until the receiver takes frames of a codec, by trials.
async fn taken_up(receiver: &Channel, codec_id: &str) -> Result<Duration> {
    let start = Instant::now();
    let mut link = LinkClient::new(receiver.clone());
    // 64 symbols of 1 + 0i.
    let symbols: Vec<u8> = [1_f32, 0.0].iter().flat_map(|part| part.to_le_bytes()).collect::<Vec<u8>>().repeat(64);
    let mut last = String::new();
    while start.elapsed() < LATE {
        let frame =
            Frame { codec_id: codec_id.to_owned(), symbols: symbols.clone().into(), trial: true, ..Default::default() };
        let mut reports = link.transmit(stream::iter([frame])).await?.into_inner();
        let report = reports.message().await?.context("a frame was not reported")?;
        match report.error {
            None => return Ok(start.elapsed()),
            Some(error) => last = error.message,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("the receiver did not take up the bundle within {} s: {last}", LATE.as_secs())
}

/// Waits until decisions are made with a codec.
async fn used(events: &mut Streaming<DecisionEvent>, codec_id: &str) -> Result<Duration> {
    let start = Instant::now();
    while start.elapsed() < LATE {
        // An error tells of events that were missed.
        let event = match events.message().await {
            Ok(event) => event.context("the receiver ended the decisions")?,
            Err(status) if status.code() == tonic::Code::DataLoss => continue,
            Err(status) => return Err(status.into()),
        };
        if event.codec_id == codec_id {
            return Ok(start.elapsed());
        }
    }
    bail!("the transmitter did not take up the bundle within {} s", LATE.as_secs())
}

pub(super) fn reload() -> Result<Row> {
    let bundles = Bundles::read()?;
    let dirs = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (receiver_dir, transmitter_dir) = (dirs.0.path(), dirs.1.path());
    bundles.write(receiver_dir, false)?;
    bundles.write(transmitter_dir, false)?;
    let setup = Setup {
        receiver_bundle: receiver_dir.to_owned(),
        transmitter_bundle: transmitter_dir.to_owned(),
        ..Setup::default()
    };
    let chain = Chain::start(&setup)?;
    let (images, ids, answers) = (Arc::new(Images::sample()?), Ids::endless(), Arc::new(Answers::default()));
    let (url, receiver_url) = (chain.transmitter.url(), chain.receiver.url());
    let changes = async {
        let receiver = connect(&receiver_url, 1).await?.pop().context("no connection")?;
        let mut decisions = DecisionsClient::new(receiver.clone());
        let mut told = Vec::new();
        tokio::time::sleep(BETWEEN).await;
        for other in [true, false] {
            let codec_id = bundles.write(receiver_dir, other)?;
            let receiving = taken_up(&receiver, &codec_id).await?;
            bundles.write(transmitter_dir, other)?;
            let mut events = decisions.subscribe(SubscribeRequest {}).await?.into_inner();
            let sending = used(&mut events, &codec_id).await?;
            told.push(format!("{:.1} and {:.1} s", receiving.as_secs_f64(), sending.as_secs_f64()));
            tokio::time::sleep(BETWEEN).await;
        }
        anyhow::Ok(told)
    };
    let (streamed, told) = runtime()?.block_on(async {
        let changes = async {
            let told = changes.await;
            // Whatever happened, or the streams would not end.
            ids.stop();
            told
        };
        tokio::join!(STREAMS.run(&url, &images, &ids, &answers), changes)
    });
    let told = told?;
    let sent = ids.taken();
    let failed = sent.saturating_sub(answers.decided());
    let what = "hot reload under load: failed requests";
    let mut row = row(what, failed as f64, "requests", "lower", json!(0), json!(0), &command("reload"));
    let broken = streamed.err().map(|error| format!("; a stream broke: {error:#}")).unwrap_or_default();
    row.note = format!(
        "{sent} images in {} streams, {} decisions, {:.2} % right, {}{broken}; another bundle and back, first at the receiver, then at the transmitter, \
         taken up after {} (seen by trial frames and in the decisions); {RIG}",
        STREAMS.streams,
        answers.decided(),
        100.0 * answers.accuracy(),
        answers.errors(),
        told.join(", then ")
    );
    Ok(row)
}

#[cfg(test)]
mod tests {
    use semlink_codec::{DecoderHalf, EncoderHalf};

    use super::*;

    #[test]
    fn both_bundles_can_be_served_and_are_told_apart() {
        let bundles = Bundles::read().expect("bundles");
        let dir = tempfile::tempdir().expect("a directory");
        let ids = [true, false].map(|other| {
            let id = bundles.write(dir.path(), other).expect("files");
            let (encoder, decoder) = (EncoderHalf::open(dir.path()), DecoderHalf::open(dir.path()));
            assert_eq!(encoder.expect("an encoder").codec_id(), id);
            assert_eq!(decoder.expect("a decoder").codec_id(), id);
            id
        });
        assert_ne!(ids[0], ids[1]);
    }
}
