//! Images as files in a folder with a subfolder for each class.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{ImagesError, LabelledImages};
use crate::{ImageLimits, InputSpec};

/// What image files end in.
pub const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
/// Bad files that an error names.
const NAMED: usize = 3;

/// An image file and its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// Index among the labels.
    pub class: u8,
}

/// Whether a file's name says that it is an image.
pub fn is_image(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
}

/// The images of `dir/CLASS/`, a subfolder for each of the `labels`: class after class, in the order of names. Names that begin with a dot
/// are passed over.
///
/// # Errors
/// A folder cannot be read, a class has no subfolder or no image, a subfolder is no class, or a file is no image by its name.
pub fn list(dir: &Path, labels: &[String]) -> Result<Vec<File>, ImagesError> {
    let subfolders: Vec<PathBuf> = entries(dir)?.into_iter().filter(|path| path.is_dir()).collect();
    let found: Vec<String> = subfolders.iter().map(|path| name(path)).collect();
    let refuse = |what: String| ImagesError::Classes { path: dir.to_owned(), what, found: found.clone() };
    if let Some(other) = found.iter().find(|name| !labels.contains(name)) {
        return Err(refuse(format!("subfolder {other:?} is none of the {} classes", labels.len())));
    }
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    for (class, label) in labels.iter().enumerate() {
        let folder = dir.join(label);
        let class = u8::try_from(class).map_err(|_| refuse(format!("{} classes, at most 256", labels.len())))?;
        if !folder.is_dir() {
            return Err(refuse(format!("class {label:?} has no subfolder")));
        }
        let (images, others): (Vec<_>, Vec<_>) = entries(&folder)?.into_iter().partition(|path| is_image(path));
        if images.is_empty() {
            return Err(refuse(format!("class {label:?} has no image")));
        }
        faults.extend(others.iter().map(|path| format!("{}: no PNG, JPEG or WebP file", path.display())));
        files.extend(images.into_iter().map(|path| File { path, class }));
    }
    if faults.is_empty() { Ok(files) } else { Err(bad(faults)) }
}

/// Decodes files, in their order, to size and channels of `input`, as the services decode what they are sent.
///
/// # Errors
/// Files that cannot be read or decoded, each with the reason.
pub fn read(files: &[File], input: &InputSpec) -> Result<LabelledImages, ImagesError> {
    let decode = |file: &File| {
        let fault = |what: &dyn std::fmt::Display| format!("{}: {what}", file.path.display());
        let bytes = fs::read(&file.path).map_err(|e| fault(&e))?;
        input.values(&bytes, &ImageLimits::default()).map_err(|e| fault(&e))
    };
    let decoded: Vec<Result<Vec<u8>, String>> = files.par_iter().map(decode).collect();
    let faults: Vec<String> = decoded.iter().filter_map(|image| image.as_ref().err().cloned()).collect();
    if !faults.is_empty() {
        return Err(bad(faults));
    }
    Ok(LabelledImages {
        height: input.height,
        width: input.width,
        channels: input.channels,
        pixels: decoded.into_iter().flatten().flatten().collect(),
        labels: files.iter().map(|file| file.class).collect(),
    })
}

fn bad(mut faults: Vec<String>) -> ImagesError {
    let count = faults.len();
    faults.truncate(NAMED);
    if count > NAMED {
        faults.push(format!("and {} more", count - NAMED));
    }
    ImagesError::Files { faults }
}

/// What a folder holds, in the order of names, but for what is hidden.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, ImagesError> {
    let read = || fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = read().map_err(|source| ImagesError::Io { path: folder.to_owned(), source })?;
    paths.retain(|path| !name(path).starts_with('.'));
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};

    use super::*;

    fn spec(channels: usize) -> InputSpec {
        InputSpec { height: 4, width: 6, channels, mean: vec![0.5; channels], std: vec![0.5; channels] }
    }

    fn labels() -> Vec<String> {
        ["dog", "cat"].map(String::from).to_vec()
    }

    fn save(dir: &Path, name: &str, image: impl Into<DynamicImage>) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.into().save_with_format(path, ImageFormat::Png).unwrap();
    }

    fn colour(r: u8, g: u8, b: u8) -> RgbImage {
        RgbImage::from_pixel(6, 4, Rgb([r, g, b]))
    }

    #[test]
    fn files_come_by_class_and_name_in_size_and_colours_of_the_input() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), "cat/2.png", colour(10, 20, 30));
        save(dir.path(), "cat/10.PNG", colour(40, 50, 60));
        // Twice the size; and a gray one.
        save(dir.path(), "dog/a.png", RgbImage::from_pixel(12, 8, Rgb([200, 100, 50])));
        save(dir.path(), "dog/b.png", GrayImage::from_fn(6, 4, |x, y| Luma([(10 * y + x) as u8])));
        fs::write(dir.path().join("dog/.DS_Store"), b"x").unwrap();
        fs::write(dir.path().join("README"), b"x").unwrap();
        let files = list(dir.path(), &labels()).unwrap();
        let names: Vec<_> = files.iter().map(|file| (name(&file.path), file.class)).collect();
        assert_eq!(names, [("a.png", 0), ("b.png", 0), ("10.PNG", 1), ("2.png", 1)].map(|(n, c)| (n.to_owned(), c)));
        let read = read(&files, &spec(3)).unwrap();
        assert_eq!((read.height, read.width, read.channels), (4, 6, 3));
        assert_eq!(read.labels, [0, 0, 1, 1]);
        assert_eq!(&read.image(0).unwrap()[..6], [200, 100, 50, 200, 100, 50]);
        assert_eq!(&read.image(1).unwrap()[18..24], [10, 10, 10, 11, 11, 11]);
        assert_eq!(&read.image(2).unwrap()[..3], [40, 50, 60]);
        // What serving the same file reads is what training reads.
        let served = spec(3).prepare(&fs::read(&files[0].path).unwrap(), &ImageLimits::default()).unwrap();
        let trained: Vec<f32> =
            read.image(0).unwrap().iter().enumerate().map(|(i, v)| spec(3).normalise(*v, i % 3)).collect();
        assert_eq!((served.pixels, served.captured), (trained, 12 * 8 * 3));
        let gray = super::read(&files[2..], &spec(1)).unwrap();
        // BT.709 luma of (40, 50, 60) is 48.6.
        assert!((48..=49).contains(&gray.pixels[0]), "{}", gray.pixels[0]);
    }

    #[test]
    fn classes_that_do_not_fit_are_named_with_those_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), "dog/a.png", colour(1, 2, 3));
        let fails = || list(dir.path(), &labels()).unwrap_err().to_string();
        let message = fails();
        assert!(message.contains("\"cat\" has no subfolder") && message.contains("[\"dog\"]"), "{message}");
        fs::create_dir(dir.path().join("cat")).unwrap();
        assert!(fails().contains("\"cat\" has no image"), "{}", fails());
        save(dir.path(), "cat/a.png", colour(1, 2, 3));
        save(dir.path(), "cow/a.png", colour(1, 2, 3));
        assert!(fails().contains("\"cow\" is none of the 2 classes"), "{}", fails());
        let message = list(&dir.path().join("none"), &labels()).unwrap_err().to_string();
        assert!(message.contains("none"), "{message}");
    }

    #[test]
    fn bad_files_are_named_and_many_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        for class in labels() {
            save(dir.path(), &format!("{class}/good.png"), colour(1, 2, 3));
        }
        let notes = dir.path().join("cat/notes.txt");
        fs::write(&notes, b"x").unwrap();
        let message = list(dir.path(), &labels()).unwrap_err().to_string();
        assert!(message.contains("cat/notes.txt: no PNG") && message.ends_with("mend or remove it"), "{message}");
        fs::remove_file(notes).unwrap();
        let whole = fs::read(dir.path().join("cat/good.png")).unwrap();
        for i in 0..5 {
            fs::write(dir.path().join(format!("cat/{i}.png")), &whole[..whole.len() / 2]).unwrap();
        }
        fs::write(dir.path().join("cat/0.png"), b"").unwrap();
        let files = list(dir.path(), &labels()).unwrap();
        let message = read(&files, &spec(3)).unwrap_err().to_string();
        assert!(message.contains("cat/0.png: the image is empty"), "{message}");
        assert!(message.contains("cat/1.png: the image cannot be decoded"), "{message}");
        assert!(message.contains("and 2 more; mend or remove them") && !message.contains('\n'), "{message}");
    }
}
