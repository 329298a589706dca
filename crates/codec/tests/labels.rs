//! Labels in the classifier's place, beside the closed form computed here.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use semlink_channel::{ChannelConfig, Complex32, FrameKey, SnrDb, power};
use semlink_codec::{
    BundleDraft, Csi, DecoderHalf, DecoderNetwork, Estimates, Half, Labels, LabelsError, Received, testing,
};
use semlink_nn::{Params, checkpoint};

const WIDTH: usize = 16;

fn space(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

/// Rows that differ in direction and length.
fn rows(n: usize) -> Vec<Vec<f32>> {
    (0..n).map(|i| (0..WIDTH).map(|j| ((i * 5 + j * (i + 2)) % 7) as f32 - 2.5 + i as f32 * 0.1).collect()).collect()
}

fn labels(n: usize, scale: f32, teacher: &str) -> Labels {
    Labels::new((0..n).map(|i| format!("class {i}")).collect(), &rows(n), scale, teacher, "a {}").unwrap()
}

fn frames() -> Vec<Received> {
    let frame = |id: u64| {
        let k = [8, 64, 256][id as usize % 3];
        let mut symbols: Vec<Complex32> =
            (0..k).map(|i| Complex32::from_polar(1.0, (id as f32 + 1.0) * 0.7 * i as f32)).collect();
        power::normalize(&mut symbols).unwrap();
        let channel = ChannelConfig::rayleigh(SnrDb::try_new(10.0).unwrap());
        let applied = channel.apply(FrameKey { seed: 1, link: 0, stream: 0, frame: id }, &mut symbols);
        Received { symbols, csi: Csi::Perfect(applied.state) }
    };
    (0..40).map(frame).collect()
}

#[test]
fn probabilities_are_the_softmax_of_scaled_cosines_of_the_decoders_features() {
    let dir = tempfile::tempdir().unwrap();
    let draft = BundleDraft { feature_space: Some(space('a')), ..testing::draft() };
    let manifest = testing::write_draft(dir.path(), 3, draft).unwrap();
    let half = DecoderHalf::open(dir.path()).unwrap();
    let (n, scale) = (13, 7.5);
    let open = half.with_labels(&labels(n, scale, &space('a'))).unwrap();
    assert_eq!((open.labels().len(), open.labels()[12].as_str(), half.labels()), (n, "class 12", &manifest.labels[..]));

    // The decoder's features by its network alone.
    let tensors: BTreeMap<String, Tensor> =
        checkpoint::load(&dir.path().join(Half::Decoder.file_name()), &Device::Cpu).unwrap().tensors;
    let network = DecoderNetwork::new(&Params::frozen(tensors), &manifest.cat, WIDTH, 10).unwrap();
    let frames = frames();
    let received: Vec<_> = frames.iter().map(|frame| (frame.symbols.as_slice(), &frame.csi)).collect();
    let estimates = Estimates::receive(&received, manifest.cat.max_uses()).unwrap();
    let features: Vec<Vec<f32>> = network.cat.forward(&estimates).unwrap().to_vec2().unwrap();
    let norm = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    for (decision, row) in open.decode(&frames).unwrap().iter().zip(&features) {
        let cosine = |label: &Vec<f32>| {
            let dot: f64 = label.iter().zip(row).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            dot / (norm(label) * norm(row))
        };
        let powers: Vec<f64> = rows(n).iter().map(|label| (f64::from(scale) * cosine(label)).exp()).collect();
        let sum: f64 = powers.iter().sum();
        for (found, power) in decision.probabilities.iter().zip(&powers) {
            assert!((f64::from(*found) - power / sum).abs() < 1e-5, "{found}, {}", power / sum);
        }
        let best = powers.iter().copied().fold(0.0, f64::max);
        assert!((powers[decision.index] - best).abs() < 1e-6 * best);
    }
}

#[test]
fn labels_of_another_space_are_refused() {
    let (own, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    testing::write_bundle(own.path(), 1).unwrap();
    let draft = BundleDraft { feature_space: Some(space('a')), ..testing::draft() };
    testing::write_draft(shared.path(), 1, draft).unwrap();
    let (own, shared) = (DecoderHalf::open(own.path()).unwrap(), DecoderHalf::open(shared.path()).unwrap());
    assert!(matches!(own.with_labels(&labels(3, 1.0, &space('a'))), Err(LabelsError::NoSpace { .. })));
    assert!(matches!(shared.with_labels(&labels(3, 1.0, &space('b'))), Err(LabelsError::Teacher { .. })));
    let narrow =
        Labels::new(vec!["a".into(), "b".into()], &[vec![1.0; 8], vec![2.0; 8]], 1.0, &space('a'), "{}").unwrap();
    assert!(matches!(shared.with_labels(&narrow), Err(LabelsError::Width { codec: 16, labels: 8, .. })));
    // A manifest whose space is no hash is none.
    let draft = BundleDraft { feature_space: Some("clip".into()), ..testing::draft() };
    let fault = testing::write_draft(tempfile::tempdir().unwrap().path(), 1, draft).unwrap_err().to_string();
    assert!(fault.contains("feature_space"), "{fault}");
}

#[test]
fn a_file_comes_back_and_what_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("labels.safetensors");
    let labels = labels(4, 12.25, &space('c'));
    labels.write(&path).unwrap();
    let back = Labels::read(&path).unwrap();
    assert_eq!(
        (back.names(), back.teacher(), back.prompt(), back.width()),
        (labels.names(), labels.teacher(), "a {}", WIDTH)
    );
    let first = std::fs::read(&path).unwrap();
    back.write(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first);

    for at in 0..first.len() {
        assert!(Labels::from_bytes(&first[..at]).is_err(), "{at} bytes");
        // Damaged anywhere: refused, or labels of other numbers; no panic.
        let mut damaged = first.clone();
        damaged[at] ^= 0x55;
        let _ = Labels::from_bytes(&damaged);
    }
    let file = checkpoint::from_bytes(&first, &Device::Cpu).unwrap();
    let spoil = |key: &str, value: &str| {
        let mut about = file.metadata.clone();
        about.insert(key.to_owned(), value.to_owned());
        Labels::from_bytes(&checkpoint::to_bytes(&file.tensors, &about).unwrap()).unwrap_err()
    };
    for (key, value, expected) in [
        ("format", "semlink teacher, version 1", "its format is"),
        ("names", "[\"a\"]", "1 names"),
        ("names", "[\"a\", \"b\"]", "4 embeddings for 2 names"),
        ("names", "[\"a\", \"b\", \"c\", \"a\"]", "\"a\" is there twice"),
        ("names", "a, b", "names:"),
        ("logit_scale", "-1", "logit_scale is -1"),
        ("logit_scale", "NaN", "logit_scale is NaN"),
        ("logit_scale", "much", "expected a number"),
    ] {
        let fault = spoil(key, value);
        assert!(fault.contains(expected), "{fault}");
    }
    let zero = Labels::new(vec!["a".into(), "b".into()], &[vec![1.0; 3], vec![0.0; 3]], 1.0, "", "").unwrap_err();
    assert!(zero.contains("\"b\" is zero"), "{zero}");
    let missing = Labels::read(&dir.path().join("none")).unwrap_err().to_string();
    assert!(missing.contains("none") && !missing.contains('\n'), "{missing}");
}
