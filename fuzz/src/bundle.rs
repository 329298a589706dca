//! Bundles as a transmitter and a receiver load them.

use std::sync::LazyLock;

use candle_core::Device;
use semlink_channel::{ChannelUses, Complex32};
use semlink_codec::cells::{CellConfig, CellKind, CellLayout, Edge, Genotype, Operation};
use semlink_codec::{
    BlocksConfig, BundleDraft, CatConfig, Csi, DecoderHalf, DecoderNetwork, EncoderHalf, EncoderNetwork, EncoderState,
    Half, Input, InputSpec, MANIFEST_FILE, Received, ResidualConfig, StageConfig, StudentConfig, testing, write_bundle,
};
use semlink_nn::Params;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::edit::Source;
use crate::pair::{self, Pair};

/// Networks beyond it are loaded but not run.
const MOST_MACS: u64 = 100_000;

/// Encoder and decoder of both.
static BASES: LazyLock<[[Pair; 2]; 2]> = LazyLock::new(tiny_bundles);

/// Files of a half. The first byte: bit 0 which half, bit 1 which of [`tiny_bundles`] is edited, bit 2 both files in full instead, bit 3 hashes and id
/// as they are; else they are made to fit, as a faulty writer would.
pub fn bundle(data: &[u8]) {
    let mut source = Source::new(data);
    let first = source.byte();
    let half = if first & 1 == 0 { Half::Encoder } else { Half::Decoder };
    if first & 4 != 0 {
        let (manifest, weights) = pair::split(&mut source);
        load(half, manifest, weights);
        if let Ok(document) = serde_json::from_slice::<Value>(manifest)
            && first & 8 == 0
        {
            load_sealed(half, document, weights);
        }
        return;
    }
    let base = &BASES[usize::from(first >> 1 & 1)][usize::from(first & 1)];
    let Pair { document, data } = pair::edited(base, &mut source);
    if first & 8 == 0 {
        load_sealed(half, document, &data);
    } else {
        load(half, document.to_string().as_bytes(), &data);
    }
}

/// With the hash of these weights and the id that follows from it.
fn load_sealed(half: Half, mut document: Value, weights: &[u8]) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (own, other) = (Sha256::digest(weights), [7u8; 32]);
    let (encoder, decoder) = match half {
        Half::Encoder => (own.as_slice(), other.as_slice()),
        Half::Decoder => (other.as_slice(), own.as_slice()),
    };
    let id = Sha256::new().chain_update(encoder).chain_update(decoder).finalize();
    if let Some(map) = document.as_object_mut() {
        map.insert("hashes".into(), json!({ "encoder": hex(encoder), "decoder": hex(decoder) }));
        map.insert("codec_id".into(), format!("sha256:{}", hex(&id)).into());
    }
    load(half, document.to_string().as_bytes(), weights);
}

/// Loads a half and, if it is small, runs it.
fn load(half: Half, manifest: &[u8], weights: &[u8]) {
    match half {
        Half::Encoder => match EncoderHalf::from_bytes(manifest, weights) {
            Ok(encoder) => encode(&encoder),
            Err(error) => assert!(!error.to_string().is_empty()),
        },
        Half::Decoder => match DecoderHalf::from_bytes(manifest, weights) {
            Ok(decoder) => decode(&decoder),
            Err(error) => assert!(!error.to_string().is_empty()),
        },
    }
}

fn encode(encoder: &EncoderHalf) {
    let manifest = encoder.manifest();
    let spec = &manifest.input;
    let cost = manifest.student.cost(spec.height, spec.width, spec.channels).macs;
    if cost.saturating_add((manifest.cat.max_uses() * manifest.cat.tokens) as u64) > MOST_MACS {
        return;
    }
    let input = Input { pixels: vec![0.5; spec.len()], captured: 1 };
    for uses in manifest.rates() {
        let Ok(uses) = ChannelUses::try_new(*uses) else { continue };
        let state = EncoderState { snr_db: Some(3.0), kind: None, uses };
        match encoder.encode(std::slice::from_ref(&input), &[state]) {
            Ok(frames) => {
                let power = frames[0].iter().map(|s| f64::from(s.norm_sqr())).sum::<f64>() / uses.get() as f64;
                assert_eq!(frames[0].len(), uses.get());
                assert!((power - 1.0).abs() < 1e-3, "a frame of power {power}");
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn decode(decoder: &DecoderHalf) {
    let manifest = decoder.manifest();
    if manifest.cat.max_uses() * manifest.cat.tokens > 1024 || manifest.classes() > 1024 {
        return;
    }
    for uses in manifest.rates() {
        let received = Received { symbols: vec![Complex32::new(0.5, -0.5); *uses], csi: Csi::None };
        match decoder.decode(&[received]) {
            Ok(decisions) => assert!(decisions[0].index < manifest.classes()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// Encoder and decoder of two bundles as small as they may be: a residual network's and a network of cells'.
pub fn tiny_bundles() -> [[Pair; 2]; 2] {
    let residual =
        ResidualConfig { stem: 1, stages: vec![StageConfig { channels: 2, blocks: 1, stride: 2 }], features: 2 };
    let edge = |from, op| Edge { from, op };
    let genotype = Genotype {
        version: Genotype::VERSION,
        normal: vec![vec![edge(0, Operation::Sep3), edge(1, Operation::Skip)]],
        reduction: vec![vec![edge(0, Operation::MaxPool3), edge(1, Operation::Skip)]],
    };
    let layout = CellLayout {
        stem: vec![1],
        width: 1,
        cells: vec![CellKind::Normal, CellKind::Reduction],
        nodes: 1,
        features: 2,
    };
    [StudentConfig::Residual(residual), StudentConfig::Cells(CellConfig { layout, genotype })].map(tiny_bundle)
}

fn tiny_bundle(student: StudentConfig) -> [Pair; 2] {
    let blocks = BlocksConfig { width: 2, blocks: 1, heads: 1, expansion: 1 };
    let draft = BundleDraft {
        student,
        cat: CatConfig { tokens: 2, rates: vec![2, 4], codewords: 2, encoder: blocks, decoder: blocks },
        input: InputSpec { height: 4, width: 4, channels: 1, mean: vec![0.5], std: vec![0.25] },
        labels: vec!["a".to_owned(), "b".to_owned()],
        ..testing::draft()
    };
    let params = Params::init(1, &Device::Cpu);
    EncoderNetwork::new(&params, &draft.student, &draft.cat, draft.input.channels).expect("an encoder");
    DecoderNetwork::new(&params, &draft.cat, draft.student.features(), draft.labels.len()).expect("a decoder");
    let dir = tempfile::tempdir().expect("a folder");
    write_bundle(dir.path(), draft, &params.tensors().expect("tensors")).expect("a bundle");
    let read = |name: &str| std::fs::read(dir.path().join(name)).expect("a file");
    let document: Value = serde_json::from_slice(&read(MANIFEST_FILE)).expect("JSON");
    [Half::Encoder, Half::Decoder].map(|half| Pair { document: document.clone(), data: read(half.file_name()) })
}
