//! Whole runs of the shipped recipe, made small, on synthetic images.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use candle_core::Device;
use semlink_codec::cells::{CellKind, Edge, Genotype, Operation};
use semlink_codec::images::cifar::Cifar;
use semlink_codec::{EncoderHalf, MlpConfig, ResidualConfig, StageConfig};
use semlink_nn::checkpoint;

use super::{Context, Stage};
use crate::Error;
use crate::group::Patience;
use crate::recipe::{DataFormat, PretrainedConfig, Recipe, StudentSpec};
use crate::testing::{together, write_cifar};

/// IDX files of `n` images of 12 x 12 whose class shows as a bright column, plus a pattern of their own.
fn write_images(dir: &Path, which: &str, n: usize) {
    let label = |i: usize| (i * 7 % 10) as u8;
    // The first two pixels number the image, so that no two are the same.
    let pixel = |i: usize, p: usize| match p {
        0 => i as u8,
        1 => (i >> 8) as u8,
        _ if p % 12 == usize::from(label(i)) + 1 => 250,
        _ => (i * 31 + p * 17) as u8 % 60,
    };
    let mut images: Vec<u8> = [0x0803, n as u32, 12, 12].iter().flat_map(|x| x.to_be_bytes()).collect();
    images.extend((0..n).flat_map(|i| (0..144).map(move |p| pixel(i, p))));
    let mut labels: Vec<u8> = [0x0801, n as u32].iter().flat_map(|x| x.to_be_bytes()).collect();
    labels.extend((0..n).map(label));
    fs::write(dir.join(format!("{which}-images-idx3-ubyte")), images).unwrap();
    fs::write(dir.join(format!("{which}-labels-idx1-ubyte")), labels).unwrap();
}

/// The shipped recipe with networks as small as they get and two or three short epochs for each stage.
fn small_recipe() -> Recipe {
    shrunk(Recipe::parse(include_str!("../../../recipes/fashion-mnist.toml")).unwrap())
}

fn shrunk(mut recipe: Recipe) -> Recipe {
    let network =
        ResidualConfig { stem: 4, stages: vec![StageConfig { channels: 8, blocks: 1, stride: 2 }], features: 16 };
    recipe.teacher.network = Some(network);
    recipe.data.validation = 40;
    let StudentSpec::Cells(spec) = &mut recipe.student else { panic!("not searched") };
    (spec.layout.stem, spec.layout.width, spec.layout.nodes, spec.layout.features) = (vec![4, 4], 4, 2, 16);
    spec.layout.cells = vec![CellKind::Normal, CellKind::Reduction];
    let search = recipe.search.as_mut().unwrap();
    search.target = 1500.0;
    // With so few operations, a cell of pools is no collapse.
    (search.warmup_epochs, search.max_free_share, search.tolerance) = (1, 1.0, 0.1);
    (search.fit.epochs, search.fit.batch, search.fit.lr) = (3, 16, 0.01);
    // Longer than the search itself, so that a test can stop in a trial.
    let trials = search.trials.as_mut().unwrap();
    (trials.candidates, trials.fit.epochs, trials.fit.batch, trials.fit.lr) = (3, 4, 16, 0.01);
    recipe.cache.views = 2;
    recipe.cat.rates = if recipe.cat.rates.len() == 1 { vec![16] } else { vec![8, 16] };
    (recipe.cat.encoder.width, recipe.cat.decoder.width) = (8, 16);
    (recipe.cat.encoder.blocks, recipe.cat.decoder.blocks) = (1, 1);
    for fit in [&mut recipe.teacher.fit, &mut recipe.distill.fit, &mut recipe.robust.fit] {
        (fit.epochs, fit.batch, fit.lr) = (2, 32, 0.01);
    }
    recipe.evaluate.snr_db = vec![0.0, 20.0];
    recipe.evaluate.fading_draws = 2;
    recipe.evaluate.mismatch_uses = Some(16);
    recipe.robust.mlp.iter_mut().for_each(|mlp| *mlp = MlpConfig { encoder: 8, decoder: 16 });
    recipe
}

fn weights(dir: &Path, file: &str) -> BTreeMap<String, Vec<f32>> {
    let tensors = checkpoint::load(&dir.join(file), &Device::Cpu).unwrap().tensors;
    let values =
        |t: candle_core::Tensor| t.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    tensors.into_iter().map(|(name, t)| (name, values(t))).collect()
}

#[test]
fn every_stage_of_the_shipped_recipe_runs_from_images_to_a_bundle() {
    let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_images(data.path(), "train", 200);
    let recipe = small_recipe();
    let run = |stage| Context::new(&recipe, Some(data.path()), Some(out.path())).unwrap().run(Some(stage));
    // There are no test images yet: whatever trains and selects cannot have seen them.
    for stage in [Stage::Teacher, Stage::Cache, Stage::Search, Stage::Distill, Stage::Robust] {
        run(stage).unwrap_or_else(|e| panic!("{}: {e}", stage.name()));
    }
    assert!(matches!(run(Stage::Evaluate), Err(Error::Data(_))));
    write_images(data.path(), "t10k", 60);
    for stage in [Stage::Evaluate, Stage::Bundle] {
        run(stage).unwrap_or_else(|e| panic!("{}: {e}", stage.name()));
    }
    let half = EncoderHalf::open(out.path().join("bundle")).unwrap();
    assert_eq!(half.manifest().rates(), [8, 16]);
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(out.path().join("report.json")).unwrap()).unwrap();
    // AWGN, Rayleigh and Rician of three K, then AWGN and Rayleigh with pilots; two SNRs, two rates.
    assert_eq!(report["points"].as_array().unwrap().len(), 28);
    let point = &report["points"][0];
    assert!(point["limit"].is_number() && point["gap"].is_number() && point["calibration_error"].is_number());
    // Two channels, four true SNRs, each of them assumed, or none.
    assert_eq!(report["mismatch"].as_array().unwrap().len(), 40);
    assert!(!half.manifest().calibration.0.is_empty());
    // AWGN, Rayleigh and Rician of three K at both SNRs, with 16 channel uses; every image is in each matrix as often as it was sent.
    let details = report["details"].as_array().unwrap();
    assert_eq!(details.len(), 10);
    for detail in details {
        let counts = detail["confusion"].as_array().unwrap().iter().map(|triple| triple[2].as_u64().unwrap());
        let draws = if detail["channel"] == "awgn" { 1 } else { 2 };
        assert_eq!((counts.sum::<u64>(), &detail["k"]), (60 * draws, &16.into()));
        assert_eq!(detail["decisions"].as_array().unwrap().len(), 8);
        let rights = detail["confusion"].as_array().unwrap().iter().filter(|triple| triple[0] == triple[1]);
        let same = |p: &&serde_json::Value| {
            ["channel", "snr_db", "k", "k_factor_db"].iter().all(|key| p[key] == detail[key]) && p["csi"] == "perfect"
        };
        let point = report["points"].as_array().unwrap().iter().find(same).unwrap();
        assert_eq!(rights.map(|triple| triple[2].as_u64().unwrap()).sum::<u64>(), point["correct"].as_u64().unwrap());
    }
    // The recipe as it counted runs again, and the page of the run has all of its parts.
    let kept = Recipe::parse(&fs::read_to_string(out.path().join("recipe.toml")).unwrap()).unwrap();
    assert_eq!(kept, recipe);
    let page = out.path().join("report.html");
    let run = crate::page::Run::read(out.path()).unwrap();
    assert!(run.summary(&page).missing.is_empty());
    run.write(semlink_report::Output::prepare(&page).unwrap()).unwrap();
    let html = fs::read_to_string(&page).unwrap();
    for part in [
        "Accuracy over SNR",
        "Images and decisions",
        "What is taken for what",
        "The searched student",
        "How training went",
        "Recipe",
    ] {
        assert!(html.contains(&format!(">{part}</h2>")), "{part}");
    }
    assert!(!html.contains("Not done here"));
}

#[test]
fn every_codec_of_the_comparison_trains_and_is_judged() {
    let (data, base) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_images(data.path(), "train", 200);
    write_images(data.path(), "t10k", 60);
    let recipe = small_recipe();
    for stage in [Stage::Teacher, Stage::Cache, Stage::Search, Stage::Distill] {
        let context = Context::new(&recipe, Some(data.path()), Some(base.path())).unwrap();
        context.run(Some(stage)).unwrap();
    }
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("recipes");
    let mut files: Vec<_> = fs::read_dir(recipes.join("cat")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(recipes.join("fashion-pairs.toml"));
    assert!(files.len() >= 12, "{files:?}");
    for file in files {
        let name = file.display().to_string();
        let recipe = shrunk(Recipe::read(&file, &[]).unwrap());
        let out = tempfile::tempdir().unwrap();
        let run = Context::new(&recipe, Some(data.path()), Some(out.path())).unwrap();
        run.take_from(base.path()).unwrap();
        for stage in [Stage::Robust, Stage::Evaluate] {
            run.run(Some(stage)).unwrap_or_else(|e| panic!("{name}: {}: {e}", stage.name()));
        }
        let report = crate::report::Report::read(&out.path().join("report.json")).unwrap();
        let sound =
            |p: &crate::report::Point| (0.0..=1.0).contains(&p.limit) && (p.gap - (p.limit - p.accuracy)).abs() < 1e-9;
        assert!(!report.points.is_empty() && report.points.iter().all(sound), "{name}");
        assert_eq!(report.classes, recipe.classes().pow(recipe.robust.images_per_frame as u32), "{name}");
    }
}

#[test]
fn a_resumed_run_ends_like_an_uninterrupted_one() {
    let data = tempfile::tempdir().unwrap();
    write_images(data.path(), "train", 200);
    let recipe = small_recipe();
    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Context::new(&recipe, Some(data.path()), Some(whole.path())).unwrap().run(Some(Stage::Teacher)).unwrap();
    // Stopped inside the first epoch (of five steps) and inside the second.
    for stop in [3, 7] {
        let mut context = Context::new(&recipe, Some(data.path()), Some(broken.path())).unwrap().resume(true);
        context.stop_after = Some(stop);
        assert!(matches!(context.run(Some(Stage::Teacher)), Err(Error::Stopped { step, .. }) if step == stop));
    }
    let context = Context::new(&recipe, Some(data.path()), Some(broken.path())).unwrap().resume(true);
    context.run(Some(Stage::Teacher)).unwrap();
    let (a, b) = (weights(whole.path(), "teacher.safetensors"), weights(broken.path(), "teacher.safetensors"));
    assert_eq!(a, b);
}

#[test]
fn a_search_finds_a_genotype_of_its_target_and_resumes_to_the_same() {
    let data = tempfile::tempdir().unwrap();
    write_images(data.path(), "train", 200);
    write_images(data.path(), "t10k", 60);
    let recipe = small_recipe();
    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let context = |out: &Path| Context::new(&recipe, Some(data.path()), Some(out)).unwrap().resume(true);
    for stage in [Stage::Teacher, Stage::Cache, Stage::Search, Stage::Distill] {
        context(whole.path()).run(Some(stage)).unwrap_or_else(|e| panic!("{}: {e}", stage.name()));
    }
    // Stopped during warm-up, while the architecture moves (five steps to an epoch) and, the search being done, in a trial.
    context(broken.path()).take_from(whole.path()).unwrap();
    for stop in [3, 8, 20] {
        let mut context = context(broken.path());
        context.stop_after = Some(stop);
        assert!(matches!(context.run(Some(Stage::Search)), Err(Error::Stopped { step, .. }) if step == stop));
    }
    context(broken.path()).run(Some(Stage::Search)).unwrap();
    for file in ["genotype.json", "search.json", "genotype.svg"] {
        let read = |dir: &Path| fs::read_to_string(dir.join(file)).unwrap();
        assert_eq!(read(whole.path()), read(broken.path()), "{file}");
    }
    let report = fs::read_to_string(whole.path().join("search.json")).unwrap();
    let report: crate::SearchReport = serde_json::from_str(&report).unwrap();
    assert!((report.realised_cost / report.target - 1.0).abs() <= 0.1, "{report:?}");
    assert!(report.entropy < 1.0 && report.discretised_loss.is_finite(), "{report:?}");
    let genotype = Genotype::parse(&fs::read_to_string(whole.path().join("genotype.json")).unwrap()).unwrap();
    let best = report.trials.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).unwrap();
    assert_eq!((report.trials.len(), &best.genotype), (3, &genotype));
    let student = context(whole.path()).evaluate_student().unwrap();
    assert_eq!(student.params as f64, report.realised_cost);
    assert_eq!(student.images, 60);
}

#[test]
fn every_shipped_recipe_takes_a_step_of_search_and_distillation() {
    let [gray, ten, hundred] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    write_images(gray.path(), "train", 200);
    write_cifar(Cifar::Ten, ten.path(), 20).unwrap();
    write_cifar(Cifar::Hundred, hundred.path(), 100).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("recipes");
    let files = [folder.clone(), folder.join("search")].map(|f| fs::read_dir(f).unwrap()).into_iter().flatten();
    for file in files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let mut recipe = Recipe::read(&file, &[]).unwrap();
        let small = small_recipe();
        // The networks of search and distillation stay as they are; the teacher only has to have as many features.
        let features = recipe.student.features();
        recipe.teacher.pretrained = None;
        recipe.teacher.network = Some(ResidualConfig { features, ..small.teacher.network.unwrap() });
        (recipe.data.validation, recipe.cache.views) = (small.data.validation, 1);
        (recipe.teacher.fit.epochs, recipe.teacher.fit.batch) = (1, 32);
        recipe.distill.fit.batch = 8;
        if let Some(search) = &mut recipe.search {
            search.fit.batch = 8;
            search.warmup_epochs = 0;
        }
        let data = match recipe.data.format {
            DataFormat::Idx => &gray,
            DataFormat::Cifar10 => &ten,
            DataFormat::Cifar100 => &hundred,
            DataFormat::Folder => panic!("no images for {}", file.display()),
        };
        let out = tempfile::tempdir().unwrap();
        let mut context = Context::new(&recipe, Some(data.path()), Some(out.path())).unwrap();
        for stage in [Stage::Teacher, Stage::Cache] {
            context.run(Some(stage)).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        }
        context.stop_after = Some(1);
        for stage in [Stage::Search, Stage::Distill] {
            if let (Stage::Distill, Some((_, layout))) = (stage, recipe.searched()) {
                // What the search would have left.
                let edge = |from| Edge { from, op: Operation::Conv1 };
                let cell = vec![vec![edge(0), edge(1)]; layout.nodes];
                let genotype = Genotype { version: Genotype::VERSION, normal: cell.clone(), reduction: cell };
                fs::write(out.path().join("genotype.json"), genotype.to_json()).unwrap();
            }
            match context.run(Some(stage)) {
                Ok(()) if stage == Stage::Search && recipe.searched().is_none() => {}
                Err(Error::Stopped { step: 1, .. }) => {}
                other => panic!("{}, {}: {other:?}", file.display(), stage.name()),
            }
        }
    }
}

#[test]
fn the_second_order_search_steps_too() {
    let data = tempfile::tempdir().unwrap();
    write_images(data.path(), "train", 200);
    let mut recipe = small_recipe();
    let search = recipe.search.as_mut().unwrap();
    (search.second_order, search.fit.epochs) = (true, 2);
    let out = tempfile::tempdir().unwrap();
    let context = Context::new(&recipe, Some(data.path()), Some(out.path())).unwrap();
    for stage in [Stage::Teacher, Stage::Cache, Stage::Search] {
        context.run(Some(stage)).unwrap_or_else(|e| panic!("{}: {e}", stage.name()));
    }
}

#[test]
fn a_search_that_runs_into_pools_stops_and_says_so() {
    let data = tempfile::tempdir().unwrap();
    write_images(data.path(), "train", 200);
    let mut recipe = small_recipe();
    let search = recipe.search.as_mut().unwrap();
    search.operations = vec![Operation::Skip, Operation::MaxPool3];
    (search.penalty, search.max_free_share) = (0.0, 0.5);
    let out = tempfile::tempdir().unwrap();
    let context = Context::new(&recipe, Some(data.path()), Some(out.path())).unwrap();
    context.run(Some(Stage::Teacher)).unwrap();
    context.run(Some(Stage::Cache)).unwrap();
    let stopped = context.run(Some(Stage::Search)).unwrap_err();
    assert!(stopped.to_string().contains("collapsed"), "{stopped}");
}

#[test]
fn training_and_validation_share_no_image_and_follow_from_the_seed() {
    let data = tempfile::tempdir().unwrap();
    write_images(data.path(), "train", 200);
    let recipe = small_recipe();
    let load = |recipe: &Recipe| crate::data::load(recipe, data.path(), &Device::Cpu).unwrap();
    let images = |split: &crate::data::Split| {
        let all: Vec<usize> = (0..split.len()).collect();
        split.plain(&all).unwrap().flatten_from(1).unwrap().to_vec2::<f32>().unwrap()
    };
    let first = load(&recipe);
    let (train, validation) = (images(&first.train), images(&first.validation));
    assert_eq!((train.len(), validation.len()), (160, 40));
    assert!(validation.iter().all(|image| !train.contains(image)));
    assert_eq!(images(&load(&recipe).train), train);
    let mut other = small_recipe();
    other.data.seed += 1;
    assert_ne!(images(&load(&other).train), train);
}

/// The shipped recipe, small, with a pretrained teacher: the tiny CLIP of tests/golden.
fn pretrained_recipe() -> Recipe {
    let mut recipe = small_recipe();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/clip");
    recipe.teacher.network = None;
    recipe.teacher.augment = crate::AugmentConfig::default();
    recipe.teacher.pretrained =
        Some(PretrainedConfig { path, features: 12, id: None, precision: crate::teachers::Precision::F32 });
    recipe.teacher.fit.epochs = 20;
    recipe.cache.views = 1;
    recipe.student = StudentSpec::Residual(ResidualConfig {
        stem: 4,
        stages: vec![StageConfig { channels: 8, blocks: 0, stride: 2 }],
        features: 12,
    });
    recipe
}

#[test]
fn a_pretrained_teacher_goes_through_all_stages_to_a_bundle_that_takes_labels() {
    let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_images(data.path(), "train", 200);
    write_images(data.path(), "t10k", 60);
    let recipe = pretrained_recipe();
    let run =
        |recipe: &Recipe, stage| Context::new(recipe, Some(data.path()), Some(out.path())).unwrap().run(Some(stage));
    for stage in Stage::ALL {
        run(&recipe, stage).unwrap_or_else(|e| panic!("{}: {e}", stage.name()));
    }
    let read = |file: &str| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(out.path().join(file)).unwrap()).unwrap()
    };
    // Random features tell bright columns apart better than chance, 0.1.
    let probe = read("probe.json");
    let accuracy = probe["accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.2 && probe["ci95"][0].as_f64().unwrap() < accuracy && probe["images"] == 40, "{probe}");

    // What the cache holds is what the teacher says of the very pixels, computed here on its own.
    let teacher = crate::teachers::Pretrained::open(
        &recipe.teacher.pretrained.as_ref().unwrap().path,
        &Device::Cpu,
        crate::teachers::Precision::F32,
    );
    let (teacher, train) = (teacher.unwrap(), crate::data::load(&recipe, data.path(), &Device::Cpu).unwrap().train);
    let cached = checkpoint::load(&out.path().join("teacher-features.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(cached.tensors["train"].dtype(), candle_core::DType::F16);
    for i in [0, 77, 159] {
        let pixels = candle_core::Tensor::from_slice(train.image(i), (1, 12, 12, 1), &Device::Cpu).unwrap();
        let expected =
            teacher.features(&teacher.prepare(&pixels).unwrap()).unwrap().to_vec2::<f32>().unwrap().remove(0);
        let found = cached.tensors["train"]
            .get(i)
            .unwrap()
            .to_dtype(candle_core::DType::F32)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            // Of f16, and of another order of sums.
            assert!((found - expected).abs() < 1e-3 * (1.0 + expected.abs()), "image {i}: {found}, {expected}");
        }
    }

    // The bundle says whose space its features are in, and decides among labels of that space alone.
    let half = semlink_codec::DecoderHalf::open(out.path().join("bundle")).unwrap();
    assert_eq!(half.manifest().feature_space.as_ref(), Some(&teacher.about().id));
    let names = vec!["cat".to_owned(), "dog".to_owned(), "bird".to_owned()];
    let path = &recipe.teacher.pretrained.as_ref().unwrap().path;
    let labels = crate::teachers::labels(path, &["a photo of a {}".to_owned()], names.clone()).unwrap();
    assert_eq!(half.with_labels(&labels).unwrap().labels(), names);
    let params = read("report.json")["teacher"]["params"].as_u64().unwrap() as usize;
    assert_eq!(params, teacher.about().params + 12 * 10 + 10);

    // Another teacher in the same place is noticed by what comes after.
    let mut other = pretrained_recipe();
    other.teacher.pretrained.as_mut().unwrap().precision = crate::teachers::Precision::F16;
    let text = run(&other, Stage::Cache).unwrap_err().to_string();
    assert!(text.contains("another teacher") && text.contains("stage teacher"), "{text}");
    let pretrained = other.teacher.pretrained.as_mut().unwrap();
    pretrained.id = Some("sha256:0".to_owned());
    assert!(run(&other, Stage::Teacher).unwrap_err().to_string().contains("the recipe asks for sha256:0"));
    let pretrained = other.teacher.pretrained.as_mut().unwrap();
    (pretrained.id, pretrained.features) = (None, 16);
    assert!(run(&other, Stage::Teacher).unwrap_err().to_string().contains("has features of 12"));
}

#[test]
fn a_cache_of_a_pretrained_teacher_is_whole_or_not_there() {
    let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_images(data.path(), "train", 200);
    let mut recipe = pretrained_recipe();
    // f16 does not hold what a teacher with such weights says.
    let huge = tempfile::tempdir().unwrap();
    for file in ["config.json", "preprocessor_config.json", "tokenizer.json"] {
        fs::copy(recipe.teacher.pretrained.as_ref().unwrap().path.join(file), huge.path().join(file)).unwrap();
    }
    let file = recipe.teacher.pretrained.as_ref().unwrap().path.join("model.safetensors");
    let mut tensors = checkpoint::load(&file, &Device::Cpu).unwrap().tensors;
    let name = "visual_projection.weight";
    let larger = tensors[name].affine(1e6, 0.0).unwrap();
    tensors.insert(name.to_owned(), larger);
    checkpoint::save(&huge.path().join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    recipe.teacher.pretrained.as_mut().unwrap().path = huge.path().to_owned();
    let context = Context::new(&recipe, Some(data.path()), Some(out.path())).unwrap();
    let text = context.run(Some(Stage::Teacher)).unwrap_err().to_string();
    assert!(text.contains("do not fit into f16") && !text.contains('\n'), "{text}");
    let mut left: Vec<_> = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["recipe.toml", "run.json"]);
}

/// Runs `stages` of a recipe in a group of two, each on a thread of its own; what each ended with.
fn by_two(
    recipe: &Recipe,
    data: &Path,
    out: &Path,
    stages: &[Stage],
    change: impl Fn(&mut Context) + Sync,
) -> [Result<(), Error>; 2] {
    let found = together(2, Patience::new(Duration::from_secs(60)), |group| {
        let mut context = Context::new(recipe, Some(data), Some(out)).unwrap().together(Arc::new(group));
        change(&mut context);
        stages.iter().try_for_each(|stage| context.run(Some(*stage)))
    });
    found.try_into().unwrap()
}

#[test]
fn two_processes_go_through_all_stages_to_a_bundle() {
    for mut recipe in [small_recipe(), pretrained_recipe()] {
        recipe.teacher.fit.epochs = 2;
        let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_images(data.path(), "train", 200);
        write_images(data.path(), "t10k", 60);
        let found = by_two(&recipe, data.path(), out.path(), &Stage::ALL, |_| ());
        assert!(found.iter().all(Result::is_ok), "{found:?}");
        EncoderHalf::open(out.path().join("bundle")).unwrap();
        // What one process alone finds done.
        let again = Context::new(&recipe, Some(data.path()), Some(out.path())).unwrap();
        assert!(Stage::ALL.into_iter().all(|stage| again.seconds(stage).is_some()));
        let left = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(left.into_iter().all(|name| !name.ends_with(".tmp")));
    }
}

#[test]
fn a_step_of_two_processes_is_that_of_one_as_all_draws_follow_from_the_sample() {
    let (data, base) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_images(data.path(), "train", 200);
    let mut recipe = pretrained_recipe();
    // Steps as long as the gradient, so that gradients show.
    recipe.robust.fit.optimizer = crate::OptimizerKind::Sgd;
    recipe.robust.fit.warmup = 0.0;
    for stage in [Stage::Teacher, Stage::Cache, Stage::Distill] {
        Context::new(&recipe, Some(data.path()), Some(base.path())).unwrap().run(Some(stage)).unwrap();
    }
    // Channel, noise, what each end is told, and the images of a frame are drawn in stage robust; the codec has no batch-norm.
    let [alone, together] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let stop = 3;
    let mut context = Context::new(&recipe, Some(data.path()), Some(alone.path())).unwrap();
    context.take_from(base.path()).unwrap();
    context.stop_after = Some(stop);
    assert!(matches!(context.run(Some(Stage::Robust)), Err(Error::Stopped { .. })));
    let found = by_two(&recipe, data.path(), together.path(), &[Stage::Robust], |context| {
        context.take_from(base.path()).unwrap();
        context.stop_after = Some(stop);
    });
    assert!(found.iter().all(|result| matches!(result, Err(Error::Stopped { .. }))), "{found:?}");
    let [a, b] = [&alone, &together].map(|dir| {
        let file = dir.path().join("robust.checkpoint.safetensors");
        let mut tensors = checkpoint::load(&file, &Device::Cpu).unwrap().tensors;
        tensors.retain(|name, t| {
            (name.starts_with("model/") || name.starts_with("optimizer/")) && t.dtype() == candle_core::DType::F32
        });
        tensors
    });
    let flat = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(a.len() > 10 && a.keys().eq(b.keys()));
    // The momentum is made of gradients.
    let momentum = a.iter().filter(|(name, _)| name.starts_with("optimizer/")).flat_map(|(_, t)| flat(t));
    assert!(momentum.fold(0f32, |most, g| most.max(g.abs())) > 0.05);
    for (name, one) in &a {
        let worst = flat(one).iter().zip(flat(&b[name])).fold(0f32, |worst, (x, y)| worst.max((x - y).abs()));
        assert!(worst < 1e-5, "{name}: {worst}");
    }
}

#[test]
fn processes_of_another_recipe_or_with_too_small_a_batch_are_refused() {
    let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_images(data.path(), "train", 200);
    let mut recipe = small_recipe();
    recipe.robust.fit.batch = 1;
    let found = by_two(&recipe, data.path(), out.path(), &[Stage::Teacher], |_| ());
    for error in found.map(Result::unwrap_err) {
        let text = error.to_string();
        assert!(text.contains("robust.fit.batch = 1, expected at least the 2 processes"), "{text}");
    }
    let [one, other] = [small_recipe(), Recipe { name: "other".into(), ..small_recipe() }];
    let found = by_two(&one, data.path(), out.path(), &[Stage::Teacher], |context| {
        if !context.leads() {
            context.recipe = Box::leak(Box::new(other.clone()));
        }
    });
    let texts = found.map(|result| result.unwrap_err().to_string());
    assert!(texts[1].contains("this process has another recipe than process 0"), "{texts:?}");
    assert_eq!(texts[0], format!("process 1: {}", texts[1]));
}
