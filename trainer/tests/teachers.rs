//! Pretrained teachers beside transformers: golden values of tiny networks, see golden/generate.py.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use semlink_trainer::teachers::{Kind, Precision, Pretrained};
use serde_json::Value;

const TOLERANCE: f32 = 1e-4;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn read(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn pixels(case: &Value) -> Tensor {
    let [height, width] = ["height", "width"].map(|side| case[side].as_u64().unwrap() as usize);
    let bytes: Vec<u8> = floats(&case["pixels"]).into_iter().map(|v| v as u8).collect();
    Tensor::from_vec(bytes, (1, height, width, 3), &Device::Cpu).unwrap()
}

/// Largest difference, in units of 1 + the largest magnitude.
fn difference(found: &Tensor, expected: &Value) -> f32 {
    let (found, expected) = (found.flatten_all().unwrap().to_vec1::<f32>().unwrap(), floats(expected));
    assert_eq!(found.len(), expected.len());
    let most = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    found.iter().zip(&expected).fold(0f32, |worst, (a, b)| worst.max((a - b).abs())) / (1.0 + most)
}

fn open(name: &str, precision: Precision) -> Pretrained {
    Pretrained::open(&golden(name), &Device::Cpu, precision).unwrap()
}

#[test]
fn features_are_those_of_transformers() {
    let expected = read("teachers.json");
    let names: Vec<&String> = expected.as_object().unwrap().keys().collect();
    assert_eq!(names.len(), 7, "{names:?}");
    for name in names {
        let teacher = open(name, Precision::F32);
        for case in expected[name]["images"].as_array().unwrap() {
            let prepared = teacher.prepare(&pixels(case)).unwrap();
            let features = teacher.features(&prepared).unwrap();
            for (what, found) in [("prepared", &prepared), ("features", &features)] {
                let worst = difference(found, &case[what]);
                assert!(worst < TOLERANCE, "{name}, {} x {}: {what} {worst}", case["height"], case["width"]);
            }
            if let Some(logits) = case.get("logits") {
                let worst = difference(&teacher.logits(&prepared).unwrap().unwrap(), logits);
                assert!(worst < TOLERANCE, "{name}: logits {worst}");
            }
            if let Some(embeds) = case.get("image_embeds") {
                let norm = features.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap();
                let worst = difference(&features.broadcast_div(&norm).unwrap(), embeds);
                assert!(worst < TOLERANCE, "{name}: image_embeds {worst}");
            }
        }
    }
}

#[test]
fn what_a_checkpoint_is_follows_from_its_files() {
    // Parameters as `sum(p.numel() for p in model.parameters())` counts them.
    let clip = open("clip", Precision::F32);
    let about = clip.about();
    assert_eq!((about.kind, about.features, about.input, about.shared_space), (Kind::Clip, 12, (24, 24), true));
    assert!(about.id.starts_with("sha256:") && about.id.len() == 71, "{}", about.id);
    let alone = open("clip-vision", Precision::F32);
    assert!(!alone.about().shared_space && alone.about().id != about.id);
    // CLIP ViT-B/32's vision tower: 87,849,216 by transformers; 4.4 G multiply-accumulates.
    let [config, preprocessor] = semlink_trainer::teachers::timing::CLIP_BASE_32;
    let large = Pretrained::random(config, preprocessor, 1, &Device::Cpu, Precision::F16).unwrap();
    assert_eq!(large.about().params, 87_849_216);
    assert!((4.3e9..4.5e9).contains(&(large.macs() as f64)), "{}", large.macs());
}

#[test]
fn half_precision_is_close() {
    let case = &read("teachers.json")["clip"]["images"][0];
    for (precision, tolerance) in [(Precision::Bf16, 0.05), (Precision::F16, 0.01)] {
        let teacher = open("clip", precision);
        let worst = difference(&teacher.features(&teacher.prepare(&pixels(case)).unwrap()).unwrap(), &case["features"]);
        assert!((1e-6..tolerance).contains(&worst), "{precision}: {worst}");
    }
}

#[test]
fn images_do_not_see_each_other_and_gray_ones_are_taken() {
    let teacher = open("clip", Precision::F32);
    let cases = read("teachers.json");
    let image = pixels(&cases["clip"]["images"][0]);
    let other = image.to_dtype(candle_core::DType::F32).unwrap().affine(-1.0, 255.0).unwrap();
    let other = other.to_dtype(candle_core::DType::U8).unwrap();
    let features = |pixels: &Tensor| teacher.features(&teacher.prepare(pixels).unwrap()).unwrap();
    let both = features(&Tensor::cat(&[&image, &other], 0).unwrap());
    for (i, alone) in [&image, &other].into_iter().enumerate() {
        let apart = (both.get(i).unwrap() - features(alone).squeeze(0).unwrap()).unwrap().abs().unwrap();
        assert!(apart.max(0).unwrap().to_scalar::<f32>().unwrap() < 1e-5);
    }
    let gray = image.narrow(3, 0, 1).unwrap();
    let colour = gray.broadcast_as(image.dims()).unwrap().contiguous().unwrap();
    assert_eq!(features(&gray).to_vec2::<f32>().unwrap(), features(&colour).to_vec2::<f32>().unwrap());
}
