//! Labelled images in the formats of public data sets: [`idx`] (MNIST and its kin), [`cifar`] (binary version), [`folder`] (image files, a
//! subfolder for each class). Nothing is guessed, cut or skipped: what does not fit is an error that says what, where and what to do.

pub mod cifar;
pub mod folder;
pub mod idx;

use std::path::PathBuf;

/// Images of one size, and their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledImages {
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// 1 (gray) or 3 (RGB).
    pub channels: usize,
    /// All pixels, image after image, row after row, the channels of a pixel side by side, 0 black.
    pub pixels: Vec<u8>,
    /// Class index of each image.
    pub labels: Vec<u8>,
}

impl LabelledImages {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Pixels of one image, \[height, width, channels\]; `None` past the end.
    pub fn image(&self, index: usize) -> Option<&[u8]> {
        let size = self.height * self.width * self.channels;
        self.pixels.get(index * size..(index + 1) * size)
    }
}

/// The two parts in which data sets come. A part of the training images serves for validation; that is the reader's affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// To train and to select.
    Train,
    /// To judge at last.
    Test,
}

/// Why images could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImagesError {
    /// A file or folder cannot be read, or a file's compression is broken.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file or folder is not there.
    #[error("{} is missing: {what}", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// What to do.
        what: String,
    },
    /// Not an IDX file of unsigned bytes with the expected number of axes.
    #[error("{}: magic number {found:#010x}, expected {expected:#010x} ({what}); give an IDX file of that kind", path.display())]
    Magic {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
        /// The right number.
        expected: u32,
        /// The number found.
        found: u32,
    },
    /// Fewer or more bytes than the header announces.
    #[error("{}: {found} bytes, expected {expected} from its header; fetch it again", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// From the header.
        expected: u64,
        /// In the file.
        found: u64,
    },
    /// Not a whole number of records.
    #[error("{}: {found} bytes, expected a multiple of {record} ({what}); it is truncated or of another version, fetch it again", path.display())]
    Records {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: u64,
        /// Bytes of a record.
        record: usize,
        /// Of what.
        what: &'static str,
    },
    /// One of several files of equal length is shorter or longer.
    #[error("{} holds {found} images, but {} holds {expected}; fetch the one that is wrong again", path.display(), first.display())]
    Uneven {
        /// The file.
        path: PathBuf,
        /// Images in it.
        found: usize,
        /// The file it was compared with.
        first: PathBuf,
        /// Images in that.
        expected: usize,
    },
    /// Images and labels do not belong together.
    #[error("{} holds {images} images, but {} holds {labels} labels; fetch both again", images_path.display(), labels_path.display())]
    Count {
        /// The image file.
        images_path: PathBuf,
        /// The label file.
        labels_path: PathBuf,
        /// Images found.
        images: usize,
        /// Labels found.
        labels: usize,
    },
    /// A label is not below the number of classes.
    #[error("{}: label {label} of image {index} is not below {classes}; the file is damaged, or data.labels lacks classes", path.display())]
    Label {
        /// The file.
        path: PathBuf,
        /// Which image, from 0.
        index: usize,
        /// The label.
        label: u8,
        /// The number of classes.
        classes: usize,
    },
    /// The data set's own class names are not those that were expected.
    #[error("{}: class {index} is {found:?}, but data.labels has {expected:?} there; name the classes as the file does", path.display())]
    Name {
        /// The file of names.
        path: PathBuf,
        /// Which class.
        index: usize,
        /// In the file.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// The subfolders of a folder are not the expected classes.
    #[error("{}: {what}; the subfolders are {found:?}, name them in data.labels", path.display())]
    Classes {
        /// The folder.
        path: PathBuf,
        /// What does not fit.
        what: String,
        /// Its subfolders, sorted.
        found: Vec<String>,
    },
    /// Files that are no images, or images that cannot be decoded.
    #[error("{}; mend or remove {}", faults.join("; "), if faults.len() == 1 { "it" } else { "them" })]
    Files {
        /// Each file with what is wrong; of many, the first ones and how many there are.
        faults: Vec<String>,
    },
}
