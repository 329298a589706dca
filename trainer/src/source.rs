//! Where a recipe's images come from: the formats of data sets and the files of each part.

use std::fs;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use semlink_codec::images::cifar::Cifar;
use semlink_codec::images::{ImagesError, LabelledImages, Part, folder, idx};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::to_hex;
use crate::recipe::DataConfig;
use crate::{Error, Result};

/// Separates the choice of held-out images from that of validation images.
const HELD_OUT: u64 = 0x7465_7374;
/// What to do where IDX files are missing; those of Fashion-MNIST can be had easily.
const GET_IDX: &str = "give the folder of the four IDX files with --data; Fashion-MNIST's are Debian's package dataset-fashion-mnist, \
                       or: semlink-trainer data fetch --out DIR";

/// Formats of data sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataFormat {
    /// Four IDX files of gray images, plain or gzipped, named as MNIST's.
    #[default]
    Idx,
    /// CIFAR-10, binary version.
    Cifar10,
    /// CIFAR-100, binary version; the fine labels are the classes.
    Cifar100,
    /// Image files: `train/CLASS/*` and `test/CLASS/*`, or `CLASS/*` with images held out for the test.
    Folder,
}

impl DataFormat {
    fn cifar(self) -> Option<Cifar> {
        match self {
            Self::Cifar10 => Some(Cifar::Ten),
            Self::Cifar100 => Some(Cifar::Hundred),
            Self::Idx | Self::Folder => None,
        }
    }

    /// Names of the files, where they are fixed.
    fn names(self) -> Vec<String> {
        let parts = [Part::Train, Part::Test];
        match self.cifar() {
            Some(cifar) => parts.iter().flat_map(|part| cifar.files(*part)).map(|name| (*name).to_owned()).collect(),
            None if self == Self::Folder => Vec::new(),
            None => {
                parts.iter().flat_map(|part| idx_names(*part)).flat_map(|name| [format!("{name}.gz"), name]).collect()
            }
        }
    }
}

impl DataConfig {
    /// Every fault of what says where images come from, naming its field.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, fault: String| {
            if !ok {
                faults.push(fault);
            }
        };
        let is_folder = self.format == DataFormat::Folder;
        let (classes, channels) = (self.labels.len(), self.mean.len());
        if let Some(cifar) = self.format.cifar() {
            let expected = cifar.classes();
            check(classes == expected, format!("labels has {classes} entries, expected the data set's {expected}"));
            check(channels == 3, format!("mean has {channels} entries, expected 3: the images are in colour"));
        }
        for (i, label) in self.labels.iter().enumerate() {
            check(!self.labels[..i].contains(label), format!("labels has {label:?} twice"));
            let plain =
                Path::new(label).file_name().is_some_and(|name| name == label.as_str()) && !label.starts_with('.');
            check(!is_folder || plain, format!("labels: {label:?} cannot be the name of a folder"));
        }
        check(
            self.size.is_some() == is_folder,
            match is_folder {
                true => "size is missing: [height, width] to which image files are resized".into(),
                false => "size: only image files are resized".into(),
            },
        );
        check(is_folder || self.held_out.is_none(), "held_out: the format has test images of its own".into());
        check(self.held_out != Some(0), "held_out = 0, expected at least 1 image, or absent".into());
        let names = self.format.names();
        for (name, hash) in &self.sha256 {
            let known = is_folder || names.contains(name);
            check(known, format!("sha256: {name:?} is none of the files {}", names.join(", ")));
            let hex = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            check(hex, format!("sha256: {hash:?} of {name:?}, expected 64 lower-case hexadecimal digits"));
        }
        faults
    }
}

/// Reads a part of a data set. Only stage `evaluate` may ask for the test images.
pub(crate) fn read(config: &DataConfig, dir: &Path, part: Part) -> Result<LabelledImages> {
    let classes = config.labels.len();
    let images = match (config.format, config.format.cifar()) {
        (_, Some(cifar)) => {
            cifar.check_names(dir, &config.labels)?;
            verify(config, dir, cifar.files(part).iter().map(|name| dir.join(name)))?;
            cifar.read(dir, part, classes)?
        }
        (DataFormat::Folder, None) => {
            let files = files(config, dir, part)?;
            verify(config, dir, files.iter().map(|file| file.path.clone()))?;
            let [height, width] = config.size.unwrap_or_default();
            folder::read(&files, &config.input(height, width))?
        }
        (_, None) => {
            verify(config, dir, idx_files(dir, part))?;
            read_idx(dir, part, classes)?
        }
    };
    let channels = config.mean.len();
    if images.channels != channels {
        return Err(Error::Split(format!(
            "{}: the images have {} channel(s), but data.mean and data.std have {channels} entries: give one for each channel",
            dir.display(),
            images.channels
        )));
    }
    Ok(images)
}

/// A part of an IDX data set.
pub(crate) fn read_idx(dir: &Path, part: Part, classes: usize) -> Result<LabelledImages> {
    let [images, labels] = idx_files(dir, part);
    for path in [&images, &labels] {
        if !path.exists() {
            return Err(ImagesError::Missing { path: path.clone(), what: GET_IDX.into() }.into());
        }
    }
    Ok(idx::read(&images, &labels, classes)?)
}

fn idx_names(part: Part) -> [String; 2] {
    let which = if part == Part::Train { "train" } else { "t10k" };
    ["images-idx3-ubyte", "labels-idx1-ubyte"].map(|kind| format!("{which}-{kind}"))
}

/// Images and labels, plain or else gzipped.
fn idx_files(dir: &Path, part: Part) -> [PathBuf; 2] {
    idx_names(part).map(|name| {
        let plain = dir.join(&name);
        if plain.exists() { plain } else { dir.join(format!("{name}.gz")) }
    })
}

/// The image files of a part: those in its own folder, or those that the seed holds out or leaves.
fn files(config: &DataConfig, dir: &Path, part: Part) -> Result<Vec<folder::File>> {
    let labels = &config.labels;
    let own = |name: &str| dir.join(name).is_dir() && labels.iter().all(|label| label != name);
    let split = own("train") || own("test");
    let refuse = |what: &str| Err(Error::Split(format!("{}: {what}", dir.display())));
    let held_out = match (split, config.held_out) {
        (true, None) => {
            let folder = dir.join(if part == Part::Train { "train" } else { "test" });
            if !folder.is_dir() {
                let what = "put the part's images there, in a subfolder for each class".into();
                return Err(ImagesError::Missing { path: folder, what }.into());
            }
            return Ok(folder::list(&folder, labels)?);
        }
        (true, Some(_)) => return refuse("there are folders train and test; remove data.held_out or the folders"),
        (false, None) => {
            return refuse(
                "there are no folders train and test; make them, or hold test images out: data.held_out = N",
            );
        }
        (false, Some(count)) => count,
    };
    let all = folder::list(dir, labels)?;
    if held_out >= all.len() {
        return refuse(&format!("data.held_out = {held_out} leaves none of the {} images to train on", all.len()));
    }
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(config.seed ^ HELD_OUT));
    let (test, train) = order.split_at_mut(held_out);
    let mine = if part == Part::Train { train } else { test };
    mine.sort_unstable();
    Ok(mine.iter().map(|i| all[*i].clone()).collect())
}

/// Compares files with the hashes that the recipe states.
fn verify(config: &DataConfig, dir: &Path, files: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    for path in files {
        let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
        let other = name.strip_suffix(".gz").map_or_else(|| format!("{name}.gz"), str::to_owned);
        let Some(expected) = config.sha256.get(&name) else {
            if config.sha256.contains_key(&other) {
                let what =
                    format!("data.sha256 is that of {other}, but {name} is read: state its hash, or remove the file");
                return Err(Error::Split(format!("{}: {what}", path.display())));
            }
            continue;
        };
        // Whoever reads it says best what is missing.
        if !path.exists() {
            continue;
        }
        let bytes = fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let found = to_hex(&Sha256::digest(&bytes));
        if found != *expected {
            return Err(Error::Hash { path, found, expected: expected.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use image::{Rgb, RgbImage};

    use super::*;

    fn config(format: &str, more: &str) -> DataConfig {
        let classes = if format == "cifar10" { 10 } else { 2 };
        let labels: Vec<String> = (0..classes).map(|i| format!("c{i}")).collect();
        let text = format!(
            "format = \"{format}\"\ndir = \"\"\nlabels = {labels:?}\nvalidation = 1\nseed = 1\n\
             mean = [0.5, 0.5, 0.5]\nstd = [0.2, 0.2, 0.2]\n{more}"
        );
        toml::from_str(&text).unwrap()
    }

    /// `n` images of 3 x 2, each of a colour of its own.
    fn write_folder(dir: &Path, n: u8) {
        for class in ["c0", "c1"] {
            fs::create_dir_all(dir.join(class)).unwrap();
            for i in 0..n {
                let blue = if class == "c0" { 0 } else { 255 };
                RgbImage::from_pixel(2, 3, Rgb([i, 2 * i, blue]))
                    .save(dir.join(class).join(format!("{i:03}.png")))
                    .unwrap();
            }
        }
    }

    fn colours(images: &LabelledImages) -> Vec<[u8; 2]> {
        (0..images.len()).map(|i| [images.image(i).unwrap()[0], images.image(i).unwrap()[2]]).collect()
    }

    #[test]
    fn images_are_held_out_by_the_seed_and_each_serves_once() {
        let dir = tempfile::tempdir().unwrap();
        write_folder(dir.path(), 20);
        let config = config("folder", "size = [3, 2]\nheld_out = 10");
        assert_eq!(config.faults(), [""; 0]);
        let both = [Part::Train, Part::Test].map(|part| read(&config, dir.path(), part).unwrap());
        assert_eq!(both.each_ref().map(LabelledImages::len), [30, 10]);
        for images in &both {
            let (pixels, labels) = (colours(images), &images.labels);
            assert!(pixels.iter().zip(labels).all(|(pixel, label)| (pixel[1] == 255) == (*label == 1)));
        }
        let all: BTreeSet<[u8; 2]> = both.iter().flat_map(colours).collect();
        assert_eq!(all.len(), 40);
        assert_eq!(read(&config, dir.path(), Part::Test).unwrap(), both[1]);
        let other = DataConfig { seed: 2, ..config };
        assert_ne!(read(&other, dir.path(), Part::Test).unwrap(), both[1]);
    }

    #[test]
    fn folders_of_the_parts_are_read_and_what_is_unclear_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write_folder(&dir.path().join("train"), 3);
        let plain = config("folder", "size = [3, 2]");
        assert_eq!(read(&plain, dir.path(), Part::Train).unwrap().len(), 6);
        let fails = |config: &DataConfig, dir: &Path, part| read(config, dir, part).unwrap_err().to_string();
        let message = fails(&plain, dir.path(), Part::Test);
        assert!(message.contains("test is missing: put"), "{message}");
        let held_out = config("folder", "size = [3, 2]\nheld_out = 2");
        assert!(fails(&held_out, dir.path(), Part::Train).contains("remove data.held_out"));
        let inner = dir.path().join("train");
        assert!(fails(&plain, &inner, Part::Train).contains("data.held_out = N"));
        let many = config("folder", "size = [3, 2]\nheld_out = 6");
        assert!(fails(&many, &inner, Part::Train).contains("leaves none of the 6 images"));
    }

    #[test]
    fn a_stated_hash_is_compared_before_a_file_is_used() {
        let dir = tempfile::tempdir().unwrap();
        write_folder(dir.path(), 2);
        let bytes = fs::read(dir.path().join("c1/001.png")).unwrap();
        let right = to_hex(&Sha256::digest(&bytes));
        let stating = |hash: &str| {
            config(
                "folder",
                &format!(
                    "size = [3, 2]\nheld_out = 1\n[sha256]\n\"c0/000.png\" = \"{hash}\"\n\"c1/001.png\" = \"{right}\""
                ),
            )
        };
        let zeros = "0".repeat(64);
        let messages =
            [Part::Train, Part::Test].map(|part| read(&stating(&zeros), dir.path(), part).map_err(|e| e.to_string()));
        // One of the parts has the file.
        let wrong: Vec<_> = messages.into_iter().filter_map(std::result::Result::err).collect();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].contains("c0/000.png: SHA-256") && wrong[0].contains(&zeros), "{}", wrong[0]);
        // SHA-256 of "abc", from FIPS 180-4's examples.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        fs::write(dir.path().join("data_batch_1.bin"), b"abc").unwrap();
        let cifar = config("cifar10", &format!("sha256 = {{ \"data_batch_1.bin\" = \"{abc}\" }}"));
        let message = read(&cifar, dir.path(), Part::Train).unwrap_err().to_string();
        assert!(message.contains("3 bytes, expected a multiple of 3073"), "the hash was right: {message}");
        let gz = config("idx", &format!("sha256 = {{ \"train-images-idx3-ubyte.gz\" = \"{abc}\" }}"));
        fs::write(dir.path().join("train-images-idx3-ubyte"), b"abc").unwrap();
        let message = read(&gz, dir.path(), Part::Train).unwrap_err().to_string();
        assert!(message.contains("is that of train-images-idx3-ubyte.gz"), "{message}");
    }

    #[test]
    fn channels_and_fields_that_do_not_fit_the_format_are_faults() {
        let faults = |format: &str, more: &str| config(format, more).faults().join("; ");
        assert!(faults("cifar10", "size = [8, 8]").contains("only image files are resized"));
        assert!(faults("cifar10", "held_out = 3").contains("test images of its own"));
        assert!(faults("cifar100", "").contains("labels has 2 entries, expected the data set's 100"));
        assert!(faults("folder", "").contains("size is missing"));
        let hash = faults("cifar10", "sha256 = { \"train.bin\" = \"12\" }");
        assert!(hash.contains("\"train.bin\" is none of") && hash.contains("64 lower-case"), "{hash}");
        let gray = DataConfig { mean: vec![0.5], std: vec![0.5], ..config("cifar10", "") };
        assert!(gray.faults().join("; ").contains("the images are in colour"));
        let odd = DataConfig { labels: vec!["a/b".into(), "a/b".into()], ..config("folder", "size = [3, 2]") };
        let odd = odd.faults().join("; ");
        assert!(odd.contains("twice") && odd.contains("cannot be the name of a folder"), "{odd}");
        // IDX files are gray.
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("train-images-idx3-ubyte"), [0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 9])
            .unwrap();
        fs::write(dir.path().join("train-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 1, 1]).unwrap();
        let message = read(&config("idx", ""), dir.path(), Part::Train).unwrap_err().to_string();
        assert!(message.contains("1 channel(s), but data.mean and data.std have 3 entries"), "{message}");
    }
}
