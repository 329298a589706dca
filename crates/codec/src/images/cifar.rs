//! Reader of CIFAR-10 and CIFAR-100, binary version (Krizhevsky 2009).
//!
//! A file is a row of records without header: the label (CIFAR-100: coarse label, fine label), one byte each, then 32 x 32 pixels, all red
//! values row by row, then all green, then all blue ones. The fine label is the class.

use std::fs;
use std::path::Path;

use super::{ImagesError, LabelledImages, Part};

/// Rows and columns of an image.
pub const SIDE: usize = 32;
const PIXELS: usize = SIDE * SIDE;
const CHANNELS: usize = 3;
const COARSE_CLASSES: usize = 20;

/// Which of the two data sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cifar {
    /// CIFAR-10.
    Ten,
    /// CIFAR-100.
    Hundred,
}

impl Cifar {
    /// Number of classes.
    pub fn classes(self) -> usize {
        match self {
            Self::Ten => 10,
            Self::Hundred => 100,
        }
    }

    /// The files of a part.
    pub fn files(self, part: Part) -> &'static [&'static str] {
        match (self, part) {
            (Self::Ten, Part::Train) => {
                &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"]
            }
            (Self::Ten, Part::Test) => &["test_batch.bin"],
            (Self::Hundred, Part::Train) => &["train.bin"],
            (Self::Hundred, Part::Test) => &["test.bin"],
        }
    }

    /// The file of class names, one a line; not all copies of the data have it.
    pub fn names_file(self) -> &'static str {
        match self {
            Self::Ten => "batches.meta.txt",
            Self::Hundred => "fine_label_names.txt",
        }
    }

    /// The folder that unpacking makes.
    fn folder(self) -> &'static str {
        match self {
            Self::Ten => "cifar-10-batches-bin",
            Self::Hundred => "cifar-100-binary",
        }
    }

    /// Bytes before the pixels; the class is the last of them.
    fn label_bytes(self) -> usize {
        match self {
            Self::Ten => 1,
            Self::Hundred => 2,
        }
    }

    fn record(self) -> (usize, &'static str) {
        let what = match self {
            Self::Ten => "records of CIFAR-10: a label and 32 x 32 x 3 pixels",
            Self::Hundred => "records of CIFAR-100: two labels and 32 x 32 x 3 pixels",
        };
        (self.label_bytes() + CHANNELS * PIXELS, what)
    }

    /// Reads a part from the folder of the `.bin` files; labels are below `classes`.
    ///
    /// # Errors
    /// Any [`ImagesError`].
    pub fn read(self, dir: &Path, part: Part, classes: usize) -> Result<LabelledImages, ImagesError> {
        let mut all =
            LabelledImages { height: SIDE, width: SIDE, channels: CHANNELS, pixels: Vec::new(), labels: Vec::new() };
        let mut of_first = None;
        for name in self.files(part) {
            let path = dir.join(name);
            let before = all.len();
            self.append(&path, classes, &mut all)?;
            let found = all.len() - before;
            // The batches are parts of one size: a file that was cut between two records shows.
            let expected = *of_first.get_or_insert(found);
            if found != expected {
                return Err(ImagesError::Uneven { path, found, first: dir.join(self.files(part)[0]), expected });
            }
        }
        Ok(all)
    }

    fn append(self, path: &Path, classes: usize, all: &mut LabelledImages) -> Result<(), ImagesError> {
        if !path.exists() {
            let what = format!("give the folder {}, which unpacking the binary version makes", self.folder());
            return Err(ImagesError::Missing { path: path.to_owned(), what });
        }
        let bytes = fs::read(path).map_err(|source| ImagesError::Io { path: path.to_owned(), source })?;
        let (record, what) = self.record();
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            return Err(ImagesError::Records { path: path.to_owned(), found: bytes.len() as u64, record, what });
        }
        let classes = classes.min(self.classes());
        for (index, record) in bytes.chunks_exact(record).enumerate() {
            let (given, planes) = record.split_at(self.label_bytes());
            let bounds: &[usize] = if self == Self::Ten { &[classes] } else { &[COARSE_CLASSES, classes] };
            for (label, classes) in given.iter().zip(bounds) {
                if usize::from(*label) >= *classes {
                    return Err(ImagesError::Label { path: path.to_owned(), index, label: *label, classes: *classes });
                }
            }
            all.labels.extend(given.last());
            all.pixels.extend((0..PIXELS).flat_map(|p| (0..CHANNELS).map(move |c| planes[c * PIXELS + p])));
        }
        Ok(())
    }

    /// Refuses `labels` that are not the data set's own class names, where the folder holds these.
    ///
    /// # Errors
    /// The first name that differs, or a file that cannot be read.
    pub fn check_names(self, dir: &Path, labels: &[String]) -> Result<(), ImagesError> {
        let path = dir.join(self.names_file());
        if !path.exists() {
            return Ok(());
        }
        let text = fs::read_to_string(&path).map_err(|source| ImagesError::Io { path: path.clone(), source })?;
        let names = text.lines().map(str::trim).filter(|line| !line.is_empty());
        for (index, (found, expected)) in names.zip(labels).enumerate() {
            if found != expected {
                let (found, expected) = (found.to_owned(), expected.clone());
                return Err(ImagesError::Name { path, index, found, expected });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record whose red, green and blue planes count up from `first` in different steps.
    fn record(labels: &[u8], first: u8) -> Vec<u8> {
        let plane = |step: usize| (0..PIXELS).map(move |p| first.wrapping_add((p * step) as u8));
        labels.iter().copied().chain(plane(1)).chain(plane(2)).chain(plane(3)).collect()
    }

    fn write_ten(dir: &Path, images: usize) {
        for (i, name) in Cifar::Ten.files(Part::Train).iter().chain(Cifar::Ten.files(Part::Test)).enumerate() {
            let bytes = (0..images).flat_map(|n| record(&[((i + n) % 10) as u8], (10 * i + n) as u8));
            fs::write(dir.join(name), bytes.collect::<Vec<u8>>()).unwrap();
        }
    }

    #[test]
    fn the_batches_come_in_order_with_the_channels_side_by_side() {
        let dir = tempfile::tempdir().unwrap();
        write_ten(dir.path(), 2);
        let read = Cifar::Ten.read(dir.path(), Part::Train, 10).unwrap();
        assert_eq!((read.height, read.width, read.channels, read.len()), (32, 32, 3, 10));
        assert_eq!(read.labels, [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]);
        // Image 3 is the second of batch 2 and begins at 11; pixel (2, 5) is number 69 of each plane.
        let pixel = &read.image(3).unwrap()[3 * 69..3 * 70];
        assert_eq!(pixel, [11 + 69, 11 + 138, 11u8.wrapping_add(207)]);
        assert_eq!(read.image(10), None);
        let test = Cifar::Ten.read(dir.path(), Part::Test, 10).unwrap();
        assert_eq!((test.labels.as_slice(), test.pixels[0]), (&[5, 6][..], 50));
    }

    #[test]
    fn of_two_labels_the_fine_one_is_the_class() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = [record(&[19, 99], 0), record(&[3, 0], 1)].concat();
        fs::write(dir.path().join("train.bin"), &bytes).unwrap();
        let read = Cifar::Hundred.read(dir.path(), Part::Train, 100).unwrap();
        assert_eq!((read.labels.as_slice(), read.pixels.len()), (&[99, 0][..], 2 * 3072));
        assert_eq!(&read.image(1).unwrap()[..6], [1, 1, 1, 2, 3, 4]);
    }

    #[test]
    fn bad_files_are_named_with_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let fails = || Cifar::Ten.read(dir.path(), Part::Train, 10).unwrap_err().to_string();
        let has = |message: &str, parts: &[&str]| {
            assert!(parts.iter().all(|part| message.contains(part)), "{message} lacks one of {parts:?}");
            assert!(!message.contains('\n'), "{message}");
        };
        has(&fails(), &["data_batch_1.bin is missing", "cifar-10-batches-bin"]);
        write_ten(dir.path(), 3);
        let third = dir.path().join("data_batch_3.bin");
        let whole = fs::read(&third).unwrap();
        for cut in [0, 1, 3072, whole.len() - 1] {
            fs::write(&third, &whole[..cut]).unwrap();
            has(&fails(), &["data_batch_3.bin", &format!("{cut} bytes"), "3073", "fetch it again"]);
        }
        fs::write(&third, &whole[..2 * 3073]).unwrap();
        has(&fails(), &["data_batch_3.bin holds 2 images", "data_batch_1.bin holds 3"]);
        let mut bad = whole.clone();
        bad[3073] = 10;
        fs::write(&third, &bad).unwrap();
        has(&fails(), &["data_batch_3.bin: label 10 of image 1 is not below 10"]);
        fs::write(&third, &whole).unwrap();
        fs::write(dir.path().join("batches.meta.txt"), "class-0\nclass-2\n\n").unwrap();
        let names: Vec<String> = (0..10).map(|i| format!("class-{i}")).collect();
        let other = Cifar::Ten.check_names(dir.path(), &names).unwrap_err().to_string();
        has(&other, &["batches.meta.txt", "class 1 is \"class-2\"", "\"class-1\""]);
        fs::write(dir.path().join("batches.meta.txt"), names.join("\n")).unwrap();
        Cifar::Ten.check_names(dir.path(), &names).unwrap();
        // A file of CIFAR-10 for CIFAR-100.
        fs::copy(&third, dir.path().join("train.bin")).unwrap();
        let other = Cifar::Hundred.read(dir.path(), Part::Train, 100).unwrap_err().to_string();
        has(&other, &["train.bin", "9219 bytes", "3074", "CIFAR-100"]);
        fs::write(dir.path().join("train.bin"), record(&[20, 0], 0)).unwrap();
        let coarse = Cifar::Hundred.read(dir.path(), Part::Train, 100).unwrap_err().to_string();
        has(&coarse, &["label 20 of image 0 is not below 20"]);
    }
}
