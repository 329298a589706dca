//! Pretrained teachers beside transformers: golden values of tiny networks, see golden/generate.py.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use semlink_trainer::teachers::import::{Source, import};
use semlink_trainer::teachers::{Kind, Precision, Pretrained, TextTower, labels};
use serde_json::Value;

const TOLERANCE: f32 = 1e-4;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn read(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(golden(name)).unwrap()).unwrap()
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

#[test]
fn texts_are_embedded_as_by_transformers() {
    let expected = &read("teachers.json")["clip"];
    let tower = TextTower::open(&golden("clip")).unwrap();
    assert!((tower.logit_scale() - expected["logit_scale"].as_f64().unwrap() as f32).abs() < 1e-4);
    let cases = expected["texts"].as_array().unwrap();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u64> = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        let found: Vec<u64> = tower.tokenize(text).unwrap().into_iter().map(u64::from).collect();
        assert_eq!(found, ids, "{text:?}");
    }
    // Old configurations say 2 and mean the largest id, which the end token has.
    let old = copy("clip");
    let config = fs::read_to_string(old.path().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["text_config"]["eos_token_id"] = 2.into();
    fs::write(old.path().join("config.json"), config.to_string()).unwrap();
    let old = TextTower::open(old.path()).unwrap();
    let text = ["a photo of a cat".to_owned()];
    assert_eq!(old.embed(&text).unwrap(), tower.embed(&text).unwrap());
    // All at once: longer texts beside shorter ones.
    let texts: Vec<String> = cases.iter().map(|case| case["text"].as_str().unwrap().to_owned()).collect();
    for (row, case) in tower.embed(&texts).unwrap().into_iter().zip(cases) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        let row: Vec<f32> = row.iter().map(|x| x / norm).collect();
        let worst = difference(&Tensor::new(row, &Device::Cpu).unwrap(), &case["text_embeds"]);
        assert!(worst < TOLERANCE, "{}: {worst}", case["text"]);
    }
}

#[test]
fn labels_are_the_texts_directions_with_the_teachers_name() {
    let expected = read("teachers.json");
    let names = || vec!["cat".to_owned(), "dog".to_owned()];
    let one = labels(&golden("clip"), &["a photo of a {}".to_owned()], names()).unwrap();
    assert_eq!((one.names(), one.width(), one.prompt()), (&names()[..], 12, "a photo of a {}"));
    assert_eq!(one.teacher(), open("clip", Precision::F32).about().id);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("labels.safetensors");
    one.write(&path).unwrap();
    // The first row is that of the first text of the golden values, which Python wrote.
    let file = semlink_nn::checkpoint::load(&path, &Device::Cpu).unwrap();
    let row = file.tensors["embeddings"].get(0).unwrap();
    let worst = difference(&row, &expected["clip"]["texts"][0]["text_embeds"]);
    assert!(worst < TOLERANCE, "{worst}");
    // Two prompts: between the two, and of length 1 again.
    let both = labels(&golden("clip"), &["a photo of a {}".to_owned(), "a {}".to_owned()], names()).unwrap();
    both.write(&path).unwrap();
    let row = semlink_nn::checkpoint::load(&path, &Device::Cpu).unwrap().tensors["embeddings"].get(0).unwrap();
    let norm = row.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
    assert!((norm - 1.0).abs() < 1e-5 && difference(&row, &expected["clip"]["texts"][0]["text_embeds"]) > 0.01);

    for (teacher, prompt, fault) in [
        ("clip", "a photo", "has no {}"),
        ("clip-vision", "a {}", "no text tower"),
        ("vit", "a {}", "no text tower"),
        ("nowhere", "a {}", "config.json"),
    ] {
        let text = labels(&golden(teacher), &[prompt.to_owned()], names()).unwrap_err().to_string();
        assert!(text.contains(fault) && !text.contains('\n'), "{text}");
    }
    let same = labels(&golden("clip"), &["a {}".to_owned()], vec!["cat".to_owned(); 2]).unwrap_err().to_string();
    assert!(same.contains("\"cat\" is there twice"), "{same}");
}

/// A copy of a golden checkpoint to spoil.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(golden(name)).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&file, dir.path().join(file.file_name().unwrap())).unwrap();
    }
    dir
}

/// Changes the tensors of a checkpoint.
fn change(dir: &Path, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
    let path = dir.join("model.safetensors");
    let mut file = semlink_nn::checkpoint::load(&path, &Device::Cpu).unwrap();
    change(&mut file.tensors);
    semlink_nn::checkpoint::save(&path, &file.tensors, &file.metadata).unwrap();
}

#[test]
fn a_checkpoint_that_is_not_read_is_refused_by_file_and_tensor_and_leaves_nothing() {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil, &[&str]); 10] = [
        (
            "clip",
            |dir| fs::remove_file(dir.join("preprocessor_config.json")).unwrap(),
            &["preprocessor_config.json missing"],
        ),
        (
            "clip",
            |dir| fs::rename(dir.join("model.safetensors"), dir.join("pytorch_model.bin")).unwrap(),
            &["model.safetensors missing", "save them as safetensors"],
        ),
        (
            "clip",
            |dir| change(dir, |tensors| drop(tensors.remove("vision_model.post_layernorm.bias"))),
            &["model.safetensors", "missing tensors: vision_model.post_layernorm.bias"],
        ),
        (
            "clip",
            |dir| {
                change(dir, |tensors| {
                    let odd = tensors["vision_model.post_layernorm.bias"].clone();
                    tensors.insert("vision_model.adapter.weight".to_owned(), odd);
                });
            },
            &["do not have: vision_model.adapter.weight"],
        ),
        (
            "vit",
            |dir| {
                change(dir, |tensors| {
                    let short = tensors["layernorm.weight"].narrow(0, 0, 8).unwrap();
                    tensors.insert("layernorm.weight".to_owned(), short);
                });
            },
            &["wrong shapes: layernorm.weight has shape [8], config.json gives [16]"],
        ),
        (
            "dinov2",
            |dir| {
                change(dir, |tensors| {
                    let name = "encoder.layer.1.mlp.fc1.bias";
                    let nan = tensors[name].affine(f64::NAN, 0.0).unwrap();
                    tensors.insert(name.to_owned(), nan);
                });
            },
            &["no numbers, in: encoder.layer.1.mlp.fc1.bias"],
        ),
        (
            "clip",
            |dir| {
                let path = dir.join("model.safetensors");
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            },
            &["model.safetensors", "not a safetensors file", "cut short"],
        ),
        (
            "clip",
            |dir| fs::write(dir.join("config.json"), r#"{"model_type": "siglip"}"#).unwrap(),
            &["config.json", "model_type is siglip", "clip, vit, dinov2"],
        ),
        (
            "vit",
            |dir| fs::write(dir.join("preprocessor_config.json"), r#"{"size": 20}"#).unwrap(),
            &["preprocessor_config.json", "20 x 20", "16 x 16"],
        ),
        ("clip", |dir| fs::write(dir.join("tokenizer.json"), "{}").unwrap(), &["tokenizer.json", "not a tokenizer"]),
    ];
    for (name, spoil, expected) in cases {
        let (dir, into) = (copy(name), tempfile::tempdir().unwrap());
        spoil(dir.path());
        let source = Source::Folder(dir.path().to_owned());
        let text = import(&source, into.path(), Some("spoilt")).unwrap_err().to_string();
        assert!(expected.iter().all(|part| text.contains(part)) && !text.contains('\n'), "{text}");
        // By the name that the user gave, not that of a draft.
        assert!(text.contains(&dir.path().display().to_string()), "{text}");
        assert_eq!(fs::read_dir(into.path()).unwrap().count(), 0, "{name}: {text}");
    }
}

#[test]
fn a_folder_is_imported_once_and_never_overwritten() {
    let into = tempfile::tempdir().unwrap();
    let source = Source::Folder(golden("clip"));
    let imported = import(&source, into.path(), None).unwrap();
    assert_eq!(imported.path, into.path().join("clip"));
    assert!(imported.text && imported.about == *open("clip", Precision::F32).about());
    let again = import(&source, into.path(), None).unwrap();
    assert_eq!(again.about, imported.about);
    let other = import(&Source::Folder(golden("vit")), into.path(), Some("clip")).unwrap_err().to_string();
    assert!(other.contains("holds another teacher") && other.contains("--name"), "{other}");
    let bad = import(&source, into.path(), Some("../up")).unwrap_err().to_string();
    assert!(bad.contains("--name"), "{bad}");
    assert_eq!(fs::read_dir(into.path()).unwrap().count(), 1);
}

/// A hub on a free port that has some files, the last of them cut short, for as many requests as there are answers.
fn hub(files: Vec<(String, Option<Vec<u8>>, usize)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (path, body, missing) in files {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            reader.read_line(&mut request).unwrap();
            let mut line = String::new();
            while reader.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            assert!(request.starts_with(&format!("GET {path} ")), "{request}");
            let answer = match body {
                None => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec(),
                Some(body) => {
                    let head =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                    [head.as_bytes(), &body[..body.len() - missing]].concat()
                }
            };
            stream.write_all(&answer).unwrap();
        }
    });
    format!("http://{address}")
}

#[test]
fn the_hub_is_asked_for_a_repository_and_what_goes_wrong_there_leaves_nothing() {
    let into = tempfile::tempdir().unwrap();
    let fetch = |endpoint: String| {
        let source = Source::Hub { endpoint, repository: "openai/tiny".to_owned(), revision: "v1".to_owned() };
        import(&source, into.path(), None)
    };
    let path = |file: &str| format!("/openai/tiny/resolve/v1/{file}");
    let file = |file: &str| (path(file), Some(fs::read(golden("vit").join(file)).unwrap()), 0);
    let all = || ["config.json", "preprocessor_config.json", "model.safetensors"].map(file).to_vec();
    let nothing = || fs::read_dir(into.path()).unwrap().count() == 0;

    // Nobody listens on port 1.
    let text = fetch("http://127.0.0.1:1".to_owned()).unwrap_err().to_string();
    assert!(
        text.contains("http://127.0.0.1:1/openai/tiny/resolve/v1/config.json") && text.contains("reachable"),
        "{text}"
    );
    assert!(nothing() && !text.contains('\n'));

    let text = fetch(hub(vec![(path("config.json"), None, 0)])).unwrap_err().to_string();
    assert!(text.contains("no such file") && nothing(), "{text}");

    let mut cut = all();
    cut[2].2 = 1000;
    let text = fetch(hub(cut)).unwrap_err().to_string();
    assert!(text.contains("model.safetensors") && nothing() && !text.contains('\n'), "{text}");

    let mut whole = all();
    whole.push((path("tokenizer.json"), None, 0));
    let imported = fetch(hub(whole)).unwrap();
    assert_eq!((imported.path, imported.about.kind, imported.text), (into.path().join("tiny"), Kind::Vit, false));
}
