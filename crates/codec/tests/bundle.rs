//! Bundle files: what is written is what is read, and each fault is refused by its own name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use semlink_codec::{
    BUNDLE_VERSION, BundleError, DecoderHalf, EncoderHalf, Half, MANIFEST_FILE, Manifest, testing, write_bundle,
};
use semlink_nn::checkpoint::{self, Checkpoint};
use sha2::{Digest, Sha256};

const ENCODER: &str = "encoder.safetensors";
const DECODER: &str = "decoder.safetensors";

/// A good bundle in a folder of its own, to be damaged.
struct Bundle(tempfile::TempDir);

impl Bundle {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        testing::write_bundle(dir.path(), 7).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn encoder_error(&self) -> BundleError {
        EncoderHalf::open(self.0.path()).expect_err("a refused encoder")
    }

    fn decoder_error(&self) -> BundleError {
        DecoderHalf::open(self.0.path()).expect_err("a refused decoder")
    }

    fn manifest(&self) -> Manifest {
        serde_json::from_slice(&fs::read(self.path(MANIFEST_FILE)).unwrap()).unwrap()
    }

    /// Changes the manifest as JSON, without correcting anything.
    fn edit_manifest(&self, edit: impl FnOnce(&mut serde_json::Value)) {
        let path = self.path(MANIFEST_FILE);
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut value);
        fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
    }

    /// Changes the content of a half and makes hashes and id fit again, as a faulty writer would.
    fn edit_half(&self, name: &str, edit: impl FnOnce(&mut Checkpoint)) {
        let mut content = checkpoint::load(&self.path(name), &Device::Cpu).unwrap();
        edit(&mut content);
        fs::write(self.path(name), checkpoint::to_bytes(&content.tensors, &content.metadata).unwrap()).unwrap();
        self.reseal();
    }

    fn reseal(&self) {
        let mut manifest = self.manifest();
        let hash = |name| format!("{:x}", Sha256::digest(fs::read(self.path(name)).unwrap()));
        manifest.hashes.encoder = hash(ENCODER);
        manifest.hashes.decoder = hash(DECODER);
        manifest.codec_id = manifest.hashes.codec_id().unwrap();
        fs::write(self.path(MANIFEST_FILE), serde_json::to_vec(&manifest).unwrap()).unwrap();
    }
}

fn first_name(content: &Checkpoint) -> String {
    content.tensors.keys().next().unwrap().clone()
}

fn is(path: &Path, name: &str) -> bool {
    path.file_name().is_some_and(|n| n == name)
}

#[test]
fn what_is_written_is_read() {
    let bundle = Bundle::new();
    let (encoder, decoder) = (EncoderHalf::open(bundle.0.path()).unwrap(), DecoderHalf::open(bundle.0.path()).unwrap());
    assert_eq!(encoder.codec_id(), decoder.codec_id());
    assert!(encoder.codec_id().starts_with("sha256:") && encoder.codec_id().len() == 7 + 64);
    assert_eq!(encoder.manifest(), &bundle.manifest());
    assert_eq!(encoder.manifest().labels, testing::draft().labels);
    assert_eq!(encoder.manifest().rates(), [8, 16, 32, 64, 128, 256]);
}

#[test]
fn the_same_seed_gives_the_same_bundle_and_another_seed_another() {
    let dir = tempfile::tempdir().unwrap();
    let id = |seed| testing::write_bundle(dir.path(), seed).unwrap().codec_id;
    assert_eq!(id(1), id(1));
    assert_ne!(id(1), id(2));
}

#[test]
fn each_half_does_without_the_others_file() {
    let bundle = Bundle::new();
    fs::remove_file(bundle.path(DECODER)).unwrap();
    EncoderHalf::open(bundle.0.path()).unwrap();
    let bundle = Bundle::new();
    fs::remove_file(bundle.path(ENCODER)).unwrap();
    DecoderHalf::open(bundle.0.path()).unwrap();
}

#[test]
fn a_missing_file_is_named() {
    for missing in [ENCODER, MANIFEST_FILE] {
        let bundle = Bundle::new();
        fs::remove_file(bundle.path(missing)).unwrap();
        let error = bundle.encoder_error();
        assert!(
            matches!(&error, BundleError::MissingFile { path, half: Half::Encoder } if is(path, missing)),
            "{error}"
        );
    }
    let bundle = Bundle::new();
    fs::remove_file(bundle.path(DECODER)).unwrap();
    let error = bundle.decoder_error();
    assert!(matches!(&error, BundleError::MissingFile { path, half: Half::Decoder } if is(path, DECODER)), "{error}");
}

#[test]
fn a_folder_in_a_files_place_is_an_input_error() {
    let bundle = Bundle::new();
    fs::remove_file(bundle.path(ENCODER)).unwrap();
    fs::create_dir(bundle.path(ENCODER)).unwrap();
    let error = bundle.encoder_error();
    assert!(matches!(&error, BundleError::Io { path, .. } if is(path, ENCODER)), "{error}");
}

#[test]
fn swapped_halves_are_recognised() {
    let bundle = Bundle::new();
    fs::rename(bundle.path(ENCODER), bundle.path("x")).unwrap();
    fs::rename(bundle.path(DECODER), bundle.path(ENCODER)).unwrap();
    fs::rename(bundle.path("x"), bundle.path(DECODER)).unwrap();
    let error = bundle.encoder_error();
    assert!(
        matches!(&error, BundleError::WrongHalf { path, expected: Half::Encoder, found: Some(f) } if is(path, ENCODER) && f == "decoder"),
        "{error}"
    );
    let error = bundle.decoder_error();
    assert!(matches!(&error, BundleError::WrongHalf { expected: Half::Decoder, .. }), "{error}");
}

#[test]
fn a_half_that_does_not_say_which_is_refused() {
    let bundle = Bundle::new();
    bundle.edit_half(DECODER, |content| content.metadata.clear());
    let error = bundle.decoder_error();
    assert!(matches!(&error, BundleError::WrongHalf { expected: Half::Decoder, found: None, .. }), "{error}");
}

#[test]
fn one_flipped_byte_anywhere_is_noticed() {
    let bundle = Bundle::new();
    let good = fs::read(bundle.path(ENCODER)).unwrap();
    // Length of the header, its text, the first and the last weights.
    for at in [0, 9, 200, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(bundle.path(ENCODER), bad).unwrap();
        let error = bundle.encoder_error();
        assert!(matches!(&error, BundleError::Hash { path, .. } if is(path, ENCODER)), "byte {at}: {error}");
    }
    DecoderHalf::open(bundle.0.path()).expect("the other half is whole");
}

#[test]
fn a_half_of_another_bundle_is_refused() {
    let (bundle, other) = (Bundle::new(), tempfile::tempdir().unwrap());
    testing::write_bundle(other.path(), 8).unwrap();
    fs::copy(other.path().join(DECODER), bundle.path(DECODER)).unwrap();
    let error = bundle.decoder_error();
    assert!(matches!(&error, BundleError::Hash { path, .. } if is(path, DECODER)), "{error}");
}

#[test]
fn an_id_that_is_not_that_of_the_hashes_is_refused() {
    let bundle = Bundle::new();
    bundle.edit_manifest(|m| m["codec_id"] = format!("sha256:{}", "0".repeat(64)).into());
    let error = bundle.encoder_error();
    assert!(matches!(&error, BundleError::CodecId { found, .. } if found.ends_with("000")), "{error}");
}

#[test]
fn a_file_that_is_no_safetensors_file_is_refused() {
    let bundle = Bundle::new();
    fs::write(bundle.path(ENCODER), b"not tensors").unwrap();
    bundle.reseal();
    let error = bundle.encoder_error();
    assert!(matches!(&error, BundleError::Format { path, .. } if is(path, ENCODER)), "{error}");
}

#[test]
fn missing_and_unexpected_names_are_listed_together() {
    let bundle = Bundle::new();
    let mut renamed = String::new();
    bundle.edit_half(ENCODER, |content| {
        renamed = first_name(content);
        let tensor = content.tensors.remove(&renamed).unwrap();
        content.tensors.insert("intruder".to_owned(), tensor);
    });
    let error = bundle.encoder_error();
    let BundleError::Names { missing, unexpected, .. } = &error else { panic!("{error}") };
    assert_eq!((missing.as_slice(), unexpected.as_slice()), ([renamed].as_slice(), ["intruder".to_owned()].as_slice()));
}

#[test]
fn a_wrong_shape_is_named() {
    let bundle = Bundle::new();
    let mut name = String::new();
    bundle.edit_half(DECODER, |content| {
        name = first_name(content);
        content.tensors.insert(name.clone(), Tensor::zeros((1, 2, 3, 4, 5), DType::F32, &Device::Cpu).unwrap());
    });
    let error = bundle.decoder_error();
    assert!(
        matches!(&error, BundleError::Shape { tensor, found, .. } if *tensor == name && found == &[1, 2, 3, 4, 5]),
        "{error}"
    );
}

#[test]
fn a_wrong_type_is_named() {
    let bundle = Bundle::new();
    let mut name = String::new();
    bundle.edit_half(DECODER, |content| {
        name = first_name(content);
        let half = content.tensors[&name].to_dtype(DType::F16).unwrap();
        content.tensors.insert(name.clone(), half);
    });
    let error = bundle.decoder_error();
    assert!(matches!(&error, BundleError::Dtype { tensor, .. } if *tensor == name), "{error}");
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let bundle = Bundle::new();
        let mut name = String::new();
        bundle.edit_half(ENCODER, |content| {
            name = first_name(content);
            let mut values: Vec<f32> = content.tensors[&name].flatten_all().unwrap().to_vec1().unwrap();
            values[3] = bad;
            let tensor = Tensor::from_vec(values, content.tensors[&name].dims(), &Device::Cpu).unwrap();
            content.tensors.insert(name.clone(), tensor);
        });
        let error = bundle.encoder_error();
        assert!(matches!(&error, BundleError::NonFinite { tensor, index: 3, .. } if *tensor == name), "{error}");
    }
}

#[test]
fn a_manifest_that_cannot_be_read_says_where() {
    let bundle = Bundle::new();
    bundle.edit_manifest(|m| m["surprise"] = 1.into());
    let error = bundle.encoder_error();
    assert!(matches!(&error, BundleError::ManifestSyntax { .. }) && error.to_string().contains("surprise"), "{error}");
    fs::write(bundle.path(MANIFEST_FILE), "{").unwrap();
    let error = bundle.encoder_error();
    assert!(matches!(&error, BundleError::ManifestSyntax { .. }), "{error}");
}

#[test]
fn another_version_is_refused_whatever_else_changed() {
    let bundle = Bundle::new();
    bundle.edit_manifest(|m| *m = serde_json::json!({ "version": BUNDLE_VERSION + 1, "all": "new" }));
    let error = bundle.encoder_error();
    assert!(
        matches!(&error, BundleError::Version { found, supported: BUNDLE_VERSION, .. } if *found == u64::from(BUNDLE_VERSION) + 1),
        "{error}"
    );
}

#[test]
fn every_fault_of_a_manifest_is_listed() {
    let bundle = Bundle::new();
    bundle.edit_manifest(|m| {
        m["labels"] = serde_json::json!(["one", "one"]);
        m["snr_range_db"] = serde_json::json!([20.0, -10.0]);
        m["student"]["residual"]["stem"] = 0.into();
        m["cat"]["tokens"] = 0.into();
        m["input"]["channels"] = 2.into();
        m["clean_accuracy"] = 1.5.into();
        m["accuracy"] = serde_json::json!([{"channel": "awgn", "snr_db": 0.0, "k": 9, "accuracy": 2.0, "images": 1}]);
    });
    let error = bundle.encoder_error();
    let BundleError::Manifest { faults, .. } = &error else { panic!("{error}") };
    for field in [
        "labels",
        "snr_range_db",
        "stem",
        "tokens",
        "input: channels",
        "clean_accuracy",
        "accuracy[0].k",
        "accuracy[0]:",
    ] {
        assert!(faults.iter().any(|fault| fault.contains(field)), "{field} is not among {faults:?}");
    }
}

#[test]
fn nothing_is_written_of_a_bundle_that_could_not_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let good = Bundle::new();
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    for name in [ENCODER, DECODER] {
        tensors.extend(checkpoint::load(&good.path(name), &Device::Cpu).unwrap().tensors);
    }
    write_bundle(&dir.path().join("good"), testing::draft(), &tensors).unwrap();

    let target = dir.path().join("bad");
    let mut extra = tensors.clone();
    extra.insert("intruder".to_owned(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
    let error = write_bundle(&target, testing::draft(), &extra).unwrap_err();
    assert!(matches!(&error, BundleError::Names { unexpected, .. } if unexpected == &["intruder"]), "{error}");
    let mut draft = testing::draft();
    draft.labels.clear();
    let error = write_bundle(&target, draft, &tensors).unwrap_err();
    assert!(matches!(&error, BundleError::Manifest { .. }), "{error}");
    assert!(!target.exists());
}

#[test]
fn half_precision_is_written_as_f32() {
    let dir = tempfile::tempdir().unwrap();
    let good = Bundle::new();
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    for name in [ENCODER, DECODER] {
        let content = checkpoint::load(&good.path(name), &Device::Cpu).unwrap();
        tensors.extend(content.tensors.into_iter().map(|(name, t)| (name, t.to_dtype(DType::F16).unwrap())));
    }
    write_bundle(dir.path(), testing::draft(), &tensors).unwrap();
    EncoderHalf::open(dir.path()).unwrap();
}
