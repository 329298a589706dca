//! Reader of IDX files, the format of MNIST and Fashion-MNIST: plain or gzipped.
//!
//! An IDX file is a magic number (two zero bytes, element type 8 for unsigned bytes, number of axes), the axes' lengths as
//! big-endian u32, and the elements.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Gray images of one size, and their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledImages {
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// All pixels, image after image, row after row, 0 black.
    pub pixels: Vec<u8>,
    /// Class index of each image.
    pub labels: Vec<u8>,
}

/// Why IDX files could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdxError {
    /// The file cannot be read, or its compression is broken.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Not an IDX file of unsigned bytes with the expected number of axes.
    #[error("{}: magic number {found:#010x}, expected {expected:#010x} ({what})", path.display())]
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
    #[error("{}: {found} bytes, expected {expected} from its header", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// From the header.
        expected: u64,
        /// In the file.
        found: u64,
    },
    /// Images and labels do not belong together.
    #[error("{} holds {images} images, but {} holds {labels} labels", images_path.display(), labels_path.display())]
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
    #[error("{}: label {label} of image {index} is not below {classes}", path.display())]
    Label {
        /// The label file.
        path: PathBuf,
        /// Which image.
        index: usize,
        /// The label.
        label: u8,
        /// The number of classes.
        classes: usize,
    },
}

impl LabelledImages {
    /// Reads an image file and its label file.
    ///
    /// # Errors
    /// Any [`IdxError`]; nothing is guessed or cut.
    pub fn read(images: &Path, labels: &Path, classes: usize) -> Result<Self, IdxError> {
        let (shape, pixels) = read(images, 3, "images: unsigned bytes, 3 axes")?;
        let (_, label_bytes) = read(labels, 1, "labels: unsigned bytes, 1 axis")?;
        let &[count, height, width] = shape.as_slice() else { unreachable!("three axes were read") };
        if count != label_bytes.len() {
            return Err(IdxError::Count {
                images_path: images.to_owned(),
                labels_path: labels.to_owned(),
                images: count,
                labels: label_bytes.len(),
            });
        }
        if let Some((index, &label)) = label_bytes.iter().enumerate().find(|(_, l)| usize::from(**l) >= classes) {
            return Err(IdxError::Label { path: labels.to_owned(), index, label, classes });
        }
        Ok(Self { height, width, pixels, labels: label_bytes })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Pixels of one image; `None` past the end.
    pub fn image(&self, index: usize) -> Option<&[u8]> {
        let size = self.height * self.width;
        self.pixels.get(index * size..(index + 1) * size)
    }
}

/// Lengths of the axes, and the elements.
fn read(path: &Path, axes: usize, what: &'static str) -> Result<(Vec<usize>, Vec<u8>), IdxError> {
    let io = |source| IdxError::Io { path: path.to_owned(), source };
    let file = fs::read(path).map_err(io)?;
    let bytes = if file.starts_with(&[0x1f, 0x8b]) {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(file.as_slice()).read_to_end(&mut bytes).map_err(io)?;
        bytes
    } else {
        file
    };
    let header = 4 * (axes + 1);
    let length = |expected: u64| IdxError::Length { path: path.to_owned(), expected, found: bytes.len() as u64 };
    if bytes.len() < header {
        return Err(length(header as u64));
    }
    let mut words = bytes[..header].chunks_exact(4).map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
    let found = words.next().unwrap_or(0);
    let expected = 0x0800 | axes as u32;
    if found != expected {
        return Err(IdxError::Magic { path: path.to_owned(), what, expected, found });
    }
    let shape: Vec<usize> = words.map(|w| w as usize).collect();
    // In 128 bits: three u32 factors cannot overflow there.
    let elements: u128 = shape.iter().map(|&n| n as u128).product();
    let total = elements + header as u128;
    if total != bytes.len() as u128 {
        return Err(length(u64::try_from(total).unwrap_or(u64::MAX)));
    }
    Ok((shape, bytes[header..].to_vec()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn idx(shape: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = (0x0800u32 | shape.len() as u32).to_be_bytes().to_vec();
        shape.iter().for_each(|n| bytes.extend(n.to_be_bytes()));
        bytes.extend(data);
        bytes
    }

    fn read_pair(images: &[u8], labels: &[u8]) -> Result<LabelledImages, IdxError> {
        let dir = tempfile::tempdir().unwrap();
        let (image_path, label_path) = (dir.path().join("images"), dir.path().join("labels"));
        fs::write(&image_path, images).unwrap();
        fs::write(&label_path, labels).unwrap();
        LabelledImages::read(&image_path, &label_path, 10)
    }

    #[test]
    fn plain_and_gzipped_files_read_alike() {
        let pixels: Vec<u8> = (0..12).collect();
        let (images, labels) = (idx(&[2, 2, 3], &pixels), idx(&[2], &[7, 9]));
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gz.write_all(&images).unwrap();
        let read = read_pair(&images, &labels).unwrap();
        assert_eq!(read, LabelledImages { height: 2, width: 3, pixels: pixels.clone(), labels: vec![7, 9] });
        assert_eq!(read_pair(&gz.finish().unwrap(), &labels).unwrap(), read);
        assert_eq!(read.image(1), Some(&pixels[6..]));
        assert_eq!(read.image(2), None);
    }

    #[test]
    fn truncated_at_any_byte_is_an_error() {
        let (images, labels) = (idx(&[2, 2, 3], &[5; 12]), idx(&[2], &[1, 2]));
        for cut in 0..images.len() {
            assert!(read_pair(&images[..cut], &labels).is_err(), "{cut} bytes of images");
        }
        for cut in 0..labels.len() {
            assert!(read_pair(&images, &labels[..cut]).is_err(), "{cut} bytes of labels");
        }
    }

    #[test]
    fn counts_labels_and_magic_are_checked() {
        let images = idx(&[2, 2, 3], &[5; 12]);
        assert!(matches!(
            read_pair(&images, &idx(&[3], &[1, 2, 3])),
            Err(IdxError::Count { images: 2, labels: 3, .. })
        ));
        assert!(matches!(read_pair(&images, &idx(&[2], &[1, 10])), Err(IdxError::Label { index: 1, label: 10, .. })));
        assert!(matches!(
            read_pair(&idx(&[2], &[1, 2]), &idx(&[2], &[1, 2])),
            Err(IdxError::Magic { .. } | IdxError::Length { .. })
        ));
        // A header that announces more than memory holds.
        assert!(matches!(read_pair(&idx(&[u32::MAX; 3], &[0; 4]), &idx(&[2], &[1, 2])), Err(IdxError::Length { .. })));
    }
}
