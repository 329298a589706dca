//! Every shipped recipe is read; small ones of the same formats go through all stages to a bundle.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use semlink_codec::images::cifar::Cifar;
use semlink_codec::{DecoderHalf, EncoderHalf};
use semlink_nn::DeviceChoice;
use semlink_trainer::recipe::{DataFormat, Recipe, StudentSpec};
use semlink_trainer::testing::write_cifar;
use semlink_trainer::{Context, Stage};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> Recipe {
    Recipe::read(path, &[]).unwrap_or_else(|e| panic!("{e}"))
}

/// All recipes of a folder and those below it.
fn recipes(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        match path.is_dir() {
            true => found.extend(recipes(&path)),
            false if path.extension().is_some_and(|e| e == "toml") => found.push(path),
            false => {}
        }
    }
    found
}

#[test]
fn every_recipe_is_read_and_no_two_have_one_name() {
    let mut names: Vec<String> = recipes(&root().join("recipes")).iter().map(|path| read(path).name).collect();
    assert!(names.len() >= 24, "{names:?}");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), recipes(&root().join("recipes")).len());
}

#[test]
fn the_cifar_recipes_are_the_papers_setup() {
    // arXiv 2508.02148: CLIP ViT-B/32, a student of 2.9 M parameters, training at -5 to 20 dB, tests at -10 to 24 dB.
    for (name, classes) in [("cifar10", 10), ("cifar100", 100)] {
        for kind in ["clip", "clip-searched"] {
            let recipe = read(&root().join(format!("recipes/{name}-{kind}.toml")));
            assert_eq!(recipe.classes(), classes);
            assert_eq!(recipe.teacher.pretrained.as_ref().unwrap().features, 512);
            assert_eq!(recipe.robust.snr_db, [-5.0, 20.0]);
            assert_eq!((recipe.evaluate.snr_db[0], *recipe.evaluate.snr_db.last().unwrap()), (-10.0, 24.0));
            let params = match (&recipe.student, recipe.searched()) {
                (StudentSpec::Residual(network), _) => network.cost(32, 32, 3).params as f64,
                (_, Some((search, _))) => search.target,
                _ => panic!("{} has no student", recipe.name),
            };
            assert!((2.85e6..2.95e6).contains(&params), "{}: {params}", recipe.name);
        }
    }
}

/// `SEMLINK_DEVICE`, as the trainer reads it; the CPU without it.
fn device() -> Device {
    let choice = std::env::var("SEMLINK_DEVICE").ok().map(|text| text.parse::<DeviceChoice>().unwrap());
    choice.unwrap_or(DeviceChoice::Cpu).open().unwrap()
}

#[test]
fn small_recipes_go_from_generated_files_to_a_bundle() {
    let mut found = 0;
    for path in recipes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recipes")) {
        let recipe = read(&path);
        let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        match recipe.data.format {
            DataFormat::Cifar10 => write_cifar(Cifar::Ten, data.path(), 20).unwrap(),
            DataFormat::Cifar100 => write_cifar(Cifar::Hundred, data.path(), 100).unwrap(),
            other => panic!("{other:?} is not generated here"),
        }
        let context = Context::new(&recipe, Some(data.path()), Some(out.path())).unwrap().on(device());
        for stage in Stage::ALL {
            context.run(Some(stage)).unwrap_or_else(|e| panic!("{}, {}: {e}", recipe.name, stage.name()));
        }
        let manifest = EncoderHalf::open(out.path().join("bundle")).unwrap().manifest().clone();
        assert_eq!(manifest.labels, recipe.data.labels);
        assert_eq!((manifest.input.height, manifest.input.width, manifest.input.channels), (32, 32, 3));
        // A receiver can be given labels of the teacher's space.
        assert!(DecoderHalf::open(out.path().join("bundle")).unwrap().manifest().feature_space.is_some());
        found += 1;
    }
    assert_eq!(found, 3);
}
