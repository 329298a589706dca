//! Labelled images for a sweep, as encoded files in memory.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use image::{ExtendedColorType, ImageEncoder as _, codecs::png::PngEncoder};
use semlink_codec::images::cifar::Cifar;
use semlink_codec::images::folder::is_image;
use semlink_codec::images::{LabelledImages, Part, idx};
use semlink_proto::v1::Decision;

/// Labels in files of pixels are single bytes.
const MOST_CLASSES: usize = 256;

/// Images with their classes.
#[derive(Debug, Clone)]
pub(crate) struct Dataset {
    /// For the sweep's files.
    pub(crate) name: String,
    /// At least one.
    pub(crate) images: Vec<Labelled>,
}

/// An image and what it shows.
#[derive(Debug, Clone)]
pub(crate) struct Labelled {
    /// For error messages.
    pub(crate) name: String,
    /// An encoded image file.
    pub(crate) file: Bytes,
    /// Its class.
    pub(crate) class: Class,
}

/// A class by its index or by its label, whichever the data has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// From 0.
    Index(u32),
    /// As the codec calls it.
    Label(String),
}

impl Class {
    /// `None` where only its label is known.
    pub(crate) fn index(&self) -> Option<u32> {
        match self {
            Class::Index(index) => Some(*index),
            Class::Label(_) => None,
        }
    }

    /// Whether a decision is this class.
    pub(crate) fn is(&self, decision: &Decision) -> bool {
        match self {
            Class::Index(index) => decision.index == *index,
            Class::Label(label) => decision.label == *label,
        }
    }

    /// Its label, by those of the codec; its index where they do not tell.
    pub(crate) fn name(&self, labels: &[String]) -> String {
        match self {
            Class::Index(index) => labels.get(*index as usize).cloned().unwrap_or_else(|| index.to_string()),
            Class::Label(label) => label.clone(),
        }
    }
}

/// Reads the first `limit` images of an IDX file (labels beside it), of a folder with one, of the test part of a CIFAR folder, or of a folder with
/// a subfolder for each class.
///
/// The subfolders of a folder are named by class indices or by labels. Of a folder, `limit` takes images evenly from the classes.
pub(crate) fn load(path: &Path, labels: Option<&[String]>, limit: usize) -> Result<Dataset> {
    let dataset = if path.is_dir() {
        match (idx_in(path)?, cifar_in(path)) {
            (Some(images), _) => idx(&images, labels, limit)?,
            (None, Some(cifar)) => {
                let read = cifar.read(path, Part::Test, labels.map_or(MOST_CLASSES, <[String]>::len))?;
                encoded(&read, &path.join(cifar.files(Part::Test)[0]), limit)?
            }
            (None, None) => folder(path, labels, limit)?,
        }
    } else {
        ensure!(path.exists(), "{}: no such file or folder", path.display());
        idx(path, labels, limit)?
    };
    ensure!(!dataset.images.is_empty(), "{}: there are no images in it", path.display());
    Ok(dataset)
}

/// The IDX images file in a folder; of several the one with test images.
fn idx_in(folder: &Path) -> Result<Option<PathBuf>> {
    let mut found = entries(folder)?;
    found.retain(|path| path.is_file() && name(path).contains("images-idx3-ubyte"));
    let test = found.iter().position(|path| name(path).starts_with("t10k"));
    match (found.len(), test) {
        (0, _) => Ok(None),
        (_, Some(test)) => Ok(Some(found.swap_remove(test))),
        (1, None) => Ok(found.pop()),
        (n, None) => bail!("{} holds {n} IDX image files, name one of them", folder.display()),
    }
}

/// The CIFAR data set whose test images are in a folder.
fn cifar_in(folder: &Path) -> Option<Cifar> {
    [Cifar::Ten, Cifar::Hundred]
        .into_iter()
        .find(|cifar| cifar.files(Part::Test).iter().all(|file| folder.join(file).is_file()))
}

fn idx(images: &Path, labels: Option<&[String]>, limit: usize) -> Result<Dataset> {
    let label_file = label_file(images)?;
    let read = idx::read(images, &label_file, labels.map_or(MOST_CLASSES, <[String]>::len))?;
    encoded(&read, images, limit)
}

/// The first `limit` images of a file as PNG files.
fn encoded(read: &LabelledImages, file: &Path, limit: usize) -> Result<Dataset> {
    let (width, height) = (u32::try_from(read.width)?, u32::try_from(read.height)?);
    let colours = if read.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let encode = |(index, label): (usize, &u8)| -> Result<Labelled> {
        let name = format!("{} image {index}", file.display());
        let pixels = read.image(index).with_context(|| format!("{name}: not in the file"))?;
        let mut png = Cursor::new(Vec::new());
        PngEncoder::new(&mut png).write_image(pixels, width, height, colours).with_context(|| name.clone())?;
        Ok(Labelled { name, file: png.into_inner().into(), class: Class::Index(u32::from(*label)) })
    };
    let name = name(file).trim_end_matches(".gz").to_owned();
    let images = read.labels.iter().enumerate().take(limit).map(encode).collect::<Result<_>>()?;
    Ok(Dataset { name, images })
}

/// `t10k-images-idx3-ubyte.gz` has its labels in `t10k-labels-idx1-ubyte.gz`, or in the same without `.gz`.
fn label_file(images: &Path) -> Result<PathBuf> {
    let images_name = name(images);
    let labels_name = images_name.replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1");
    ensure!(
        labels_name != images_name,
        "{}: neither a folder nor an IDX file named like t10k-images-idx3-ubyte[.gz]",
        images.display()
    );
    let labels = images.with_file_name(&labels_name);
    let other = match labels_name.strip_suffix(".gz") {
        Some(plain) => images.with_file_name(plain),
        None => images.with_file_name(format!("{labels_name}.gz")),
    };
    [&labels, &other]
        .into_iter()
        .find(|path| path.is_file())
        .cloned()
        .with_context(|| format!("{}: the labels of {} are missing", labels.display(), images.display()))
}

fn folder(path: &Path, labels: Option<&[String]>, limit: usize) -> Result<Dataset> {
    let mut classes = Vec::new();
    for class in entries(path)?.into_iter().filter(|path| path.is_dir()) {
        let mut files = entries(&class)?;
        files.retain(|file| file.is_file() && is_image(file));
        classes.push((self::class(&class, labels)?, files));
    }
    ensure!(
        !classes.is_empty(),
        "{}: neither an IDX image file nor a subfolder for each class is in it",
        path.display()
    );
    // In turns, so that a limit does not leave classes out.
    let turns = classes.iter().map(|(_, files)| files.len()).max().unwrap_or(0);
    let in_turns =
        (0..turns).flat_map(|turn| classes.iter().filter_map(move |(class, files)| Some((class, files.get(turn)?))));
    let read = |(class, file): (&Class, &PathBuf)| -> Result<Labelled> {
        let bytes = fs::read(file).with_context(|| file.display().to_string())?;
        Ok(Labelled { name: file.display().to_string(), file: bytes.into(), class: class.clone() })
    };
    let images = in_turns.take(limit).map(read).collect::<Result<_>>()?;
    Ok(Dataset { name: name(path).into_owned(), images })
}

fn class(folder: &Path, labels: Option<&[String]>) -> Result<Class> {
    let name = name(folder);
    let class = match name.parse::<u32>() {
        Ok(index) => Class::Index(index),
        Err(_) => Class::Label(name.into_owned()),
    };
    let known = labels.is_none_or(|labels| match &class {
        Class::Index(index) => (*index as usize) < labels.len(),
        Class::Label(label) => labels.contains(label),
    });
    ensure!(known, "{}: no class of this codec", folder.display());
    Ok(class)
}

/// What a folder holds, in the order of names.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = read().with_context(|| folder.display().to_string())?;
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_idx(dir: &Path, images: &str, labels: &str) {
        let mut bytes = vec![0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 2];
        bytes.extend(0..12u8);
        fs::write(dir.join(images), bytes).unwrap();
        fs::write(dir.join(labels), [0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 9]).unwrap();
    }

    #[test]
    fn idx_images_become_png_files_with_the_same_pixels() {
        let dir = tempfile::tempdir().unwrap();
        write_idx(dir.path(), "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte");
        let dataset = load(dir.path(), None, 2).unwrap();
        assert_eq!(dataset.name, "t10k-images-idx3-ubyte");
        let classes: Vec<&Class> = dataset.images.iter().map(|image| &image.class).collect();
        assert_eq!(classes, [&Class::Index(7), &Class::Index(0)]);
        let pixels = image::load_from_memory(&dataset.images[1].file).unwrap().into_luma8();
        assert_eq!((pixels.dimensions(), pixels.as_raw().as_slice()), ((2, 2), &[4u8, 5, 6, 7][..]));
        // Class 9 does not exist among three.
        let labels = ["a", "b", "c"].map(String::from);
        assert!(load(&dir.path().join("t10k-images-idx3-ubyte"), Some(&labels), 3).is_err());
    }

    #[test]
    fn the_test_part_of_a_cifar_folder_becomes_colour_png_files() {
        let dir = tempfile::tempdir().unwrap();
        // Two records: label, then the planes.
        let record = |label: u8| [vec![label], vec![10; 1024], vec![20; 1024], vec![30; 1024]].concat();
        fs::write(dir.path().join("test_batch.bin"), [record(3), record(7)].concat()).unwrap();
        let dataset = load(dir.path(), None, 5).unwrap();
        assert_eq!((dataset.name.as_str(), dataset.images.len()), ("test_batch.bin", 2));
        assert_eq!(dataset.images[1].class, Class::Index(7));
        let pixels = image::load_from_memory(&dataset.images[1].file).unwrap().into_rgb8();
        assert_eq!((pixels.dimensions(), pixels.get_pixel(31, 31).0), ((32, 32), [10, 20, 30]));
    }

    #[test]
    fn folders_are_classes_and_a_limit_takes_from_each() {
        let dir = tempfile::tempdir().unwrap();
        for (class, files) in [("0", &["a.png", "b.png"][..]), ("shirt", &["c.JPG", "notes.txt"])] {
            fs::create_dir(dir.path().join(class)).unwrap();
            files.iter().for_each(|file| fs::write(dir.path().join(class).join(file), b"x").unwrap());
        }
        let dataset = load(dir.path(), None, 2).unwrap();
        let classes: Vec<&Class> = dataset.images.iter().map(|image| &image.class).collect();
        assert_eq!(classes, [&Class::Index(0), &Class::Label("shirt".into())]);
        assert_eq!(load(dir.path(), None, 10).unwrap().images.len(), 3);
        let error = load(dir.path(), Some(&["coat".to_owned()]), 10).unwrap_err().to_string();
        assert!(error.contains("shirt"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(&dir.path().join("none"), None, 1).unwrap_err().to_string().contains("none"));
        write_idx(dir.path(), "images-idx3-ubyte", "elsewhere");
        assert!(load(dir.path(), None, 1).unwrap_err().to_string().contains("labels-idx1-ubyte"));
    }
}
