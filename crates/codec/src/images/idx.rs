//! Reader of IDX files, the format of MNIST and Fashion-MNIST: plain or gzipped.
//!
//! An IDX file is a magic number (two zero bytes, element type 8 for unsigned bytes, number of axes), the axes' lengths as
//! big-endian u32, and the elements.

use std::fs;
use std::io::Read;
use std::path::Path;

use super::{ImagesError, LabelledImages};

/// Reads a file of gray images and its label file; labels are below `classes`.
///
/// # Errors
/// Any [`ImagesError`]; nothing is guessed or cut.
pub fn read(images: &Path, labels: &Path, classes: usize) -> Result<LabelledImages, ImagesError> {
    let (shape, pixels) = elements(images, 3, "images: unsigned bytes, 3 axes")?;
    let (_, label_bytes) = elements(labels, 1, "labels: unsigned bytes, 1 axis")?;
    let &[count, height, width] = shape.as_slice() else { unreachable!("three axes were read") };
    if count != label_bytes.len() {
        return Err(ImagesError::Count {
            images_path: images.to_owned(),
            labels_path: labels.to_owned(),
            images: count,
            labels: label_bytes.len(),
        });
    }
    if let Some((index, &label)) = label_bytes.iter().enumerate().find(|(_, l)| usize::from(**l) >= classes) {
        return Err(ImagesError::Label { path: labels.to_owned(), index, label, classes });
    }
    Ok(LabelledImages { height, width, channels: 1, pixels, labels: label_bytes })
}

/// Lengths of the axes, and the elements.
fn elements(path: &Path, axes: usize, what: &'static str) -> Result<(Vec<usize>, Vec<u8>), ImagesError> {
    let io = |source| ImagesError::Io { path: path.to_owned(), source };
    let file = fs::read(path).map_err(io)?;
    let bytes = if file.starts_with(&[0x1f, 0x8b]) {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(file.as_slice()).read_to_end(&mut bytes).map_err(io)?;
        bytes
    } else {
        file
    };
    let header = 4 * (axes + 1);
    let length = |expected: u64| ImagesError::Length { path: path.to_owned(), expected, found: bytes.len() as u64 };
    if bytes.len() < header {
        return Err(length(header as u64));
    }
    let mut words = bytes[..header].chunks_exact(4).map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
    let found = words.next().unwrap_or(0);
    let expected = 0x0800 | axes as u32;
    if found != expected {
        return Err(ImagesError::Magic { path: path.to_owned(), what, expected, found });
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

    fn read_pair(images: &[u8], labels: &[u8]) -> Result<LabelledImages, ImagesError> {
        let dir = tempfile::tempdir().unwrap();
        let (image_path, label_path) = (dir.path().join("images"), dir.path().join("labels"));
        fs::write(&image_path, images).unwrap();
        fs::write(&label_path, labels).unwrap();
        read(&image_path, &label_path, 10)
    }

    #[test]
    fn plain_and_gzipped_files_read_alike() {
        let pixels: Vec<u8> = (0..12).collect();
        let (images, labels) = (idx(&[2, 2, 3], &pixels), idx(&[2], &[7, 9]));
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gz.write_all(&images).unwrap();
        let read = read_pair(&images, &labels).unwrap();
        assert_eq!(
            read,
            LabelledImages { height: 2, width: 3, channels: 1, pixels: pixels.clone(), labels: vec![7, 9] }
        );
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
            Err(ImagesError::Count { images: 2, labels: 3, .. })
        ));
        assert!(matches!(
            read_pair(&images, &idx(&[2], &[1, 10])),
            Err(ImagesError::Label { index: 1, label: 10, .. })
        ));
        assert!(matches!(
            read_pair(&idx(&[2], &[1, 2]), &idx(&[2], &[1, 2])),
            Err(ImagesError::Magic { .. } | ImagesError::Length { .. })
        ));
        // A header that announces more than memory holds.
        assert!(matches!(
            read_pair(&idx(&[u32::MAX; 3], &[0; 4]), &idx(&[2], &[1, 2])),
            Err(ImagesError::Length { .. })
        ));
    }
}
