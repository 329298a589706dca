//! From an encoded image file to the numbers that the student encoder reads.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::{ImageReader, imageops::FilterType};
use serde::{Deserialize, Serialize};

/// Size and scaling of the encoder's input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// 1 (gray) or 3 (RGB).
    pub channels: usize,
    /// Mean of each channel over the training data, of pixels scaled to \[0, 1\].
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, likewise.
    pub std: Vec<f32>,
}

/// What an image may cost before it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Bytes of the encoded file.
    pub max_bytes: usize,
    /// Width and height each.
    pub max_side: u32,
    /// Width x height.
    pub max_pixels: u64,
}

impl Default for ImageLimits {
    /// 8 MiB, 8,192 pixels a side, 16 megapixels.
    fn default() -> Self {
        Self { max_bytes: 8 << 20, max_side: 8192, max_pixels: 16_000_000 }
    }
}

/// One preprocessed image.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// \[height, width, channels\] of the [`InputSpec`], normalised.
    pub pixels: Vec<f32>,
    /// Height x width x channels of the image as it was captured, for the bandwidth ratio.
    pub captured: u64,
}

/// Why an image was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// No bytes.
    #[error("the image is empty")]
    Empty,
    /// More bytes than allowed.
    #[error("the image has {bytes} bytes, at most {max} are accepted")]
    TooManyBytes {
        /// In the request.
        bytes: usize,
        /// Allowed.
        max: usize,
    },
    /// Not one of the formats that are decoded.
    #[error("the bytes are not an image in a known format (PNG, JPEG, WebP)")]
    UnknownFormat,
    /// More pixels than allowed, by its header; nothing was decoded.
    #[error("the image is {width} x {height} pixels, at most {max_side} a side and {max_pixels} in all are accepted")]
    TooManyPixels {
        /// From the header.
        width: u32,
        /// From the header.
        height: u32,
        /// Allowed.
        max_side: u32,
        /// Allowed.
        max_pixels: u64,
    },
    /// Truncated or corrupt.
    #[error("the image cannot be decoded: {0}")]
    Corrupt(String),
}

impl InputSpec {
    /// Floats of one input.
    pub fn len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Whether an input has no floats; a valid specification never is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every fault of the specification, naming its field.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, value) in [("height", self.height), ("width", self.width)] {
            if !(1..=1024).contains(&value) {
                faults.push(format!("{name} = {value}, expected 1 to 1024"));
            }
        }
        if ![1, 3].contains(&self.channels) {
            faults.push(format!("channels = {}, expected 1 or 3", self.channels));
        }
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            if values.len() != self.channels {
                faults.push(format!(
                    "{name} has {} entries, expected one for each of {} channels",
                    values.len(),
                    self.channels
                ));
            }
        }
        if !self.mean.iter().all(|m| m.is_finite()) || !self.std.iter().all(|s| s.is_finite() && *s > 0.0) {
            faults.push("mean must be finite and std finite and above 0".into());
        }
        faults
    }

    /// One pixel value, 0 to 255, as the network reads it: (value / 255 - mean) / std.
    pub fn normalise(&self, value: u8, channel: usize) -> f32 {
        (f32::from(value) / 255.0 - self.mean[channel]) / self.std[channel]
    }

    /// [`InputSpec::normalise`] for every value of every channel: 256 floats for each channel.
    pub fn table(&self) -> Vec<[f32; 256]> {
        (0..self.channels).map(|c| std::array::from_fn(|v| self.normalise(v as u8, c))).collect()
    }

    /// Decodes an image file, turns it into gray (ITU-R BT.709 luma) or RGB, resizes it with a triangle filter where its size differs,
    /// and normalises it.
    ///
    /// # Errors
    /// Any [`ImageError`]. Sizes are checked against `limits` from the header, before a pixel is decoded.
    pub fn prepare(&self, bytes: &[u8], limits: &ImageLimits) -> Result<Input, ImageError> {
        let (values, captured) = self.scaled(bytes, limits)?;
        let pixels = values.iter().enumerate().map(|(i, v)| self.normalise(*v, i % self.channels)).collect();
        Ok(Input { pixels, captured })
    }

    /// The 8-bit values \[height, width, channels\] that [`InputSpec::prepare`] normalises, so that training on a file sees what serving it does.
    ///
    /// # Errors
    /// As [`InputSpec::prepare`].
    pub fn values(&self, bytes: &[u8], limits: &ImageLimits) -> Result<Vec<u8>, ImageError> {
        Ok(self.scaled(bytes, limits)?.0)
    }

    /// Decoded, in the right colours and size; and height x width x channels as captured.
    fn scaled(&self, bytes: &[u8], limits: &ImageLimits) -> Result<(Vec<u8>, u64), ImageError> {
        // The decoders are others' and the files come from anywhere: where a decoder panics (fuzzing found one that does), it is the file that is bad.
        let scaled = catch_unwind(AssertUnwindSafe(|| self.scaled_file(bytes, limits)));
        scaled.unwrap_or_else(|_| Err(ImageError::Corrupt("its decoder gave up on it".to_owned())))
    }

    fn scaled_file(&self, bytes: &[u8], limits: &ImageLimits) -> Result<(Vec<u8>, u64), ImageError> {
        if bytes.is_empty() {
            return Err(ImageError::Empty);
        }
        if bytes.len() > limits.max_bytes {
            return Err(ImageError::TooManyBytes { bytes: bytes.len(), max: limits.max_bytes });
        }
        let corrupt = |e: &dyn std::fmt::Display| ImageError::Corrupt(e.to_string());
        let format = image::guess_format(bytes).map_err(|_| ImageError::UnknownFormat)?;
        let reader = || ImageReader::with_format(Cursor::new(bytes), format);
        let (width, height) = reader().into_dimensions().map_err(|e| match e {
            image::ImageError::Unsupported(_) => ImageError::UnknownFormat,
            e => corrupt(&e),
        })?;
        let ImageLimits { max_side, max_pixels, .. } = *limits;
        if width.max(height) > max_side || u64::from(width) * u64::from(height) > max_pixels || width.min(height) == 0 {
            return Err(ImageError::TooManyPixels { width, height, max_side, max_pixels });
        }
        let mut reader = reader();
        let mut decoding = image::Limits::default();
        // Sixteen bytes for a pixel is the widest that a decoder makes; what it needs besides is bounded by the same amount.
        decoding.max_alloc = Some((max_pixels * 16).max(1 << 20));
        reader.limits(decoding);
        let decoded = reader.decode().map_err(|e| corrupt(&e))?;
        let captured = u64::from(width) * u64::from(height) * u64::from(decoded.color().channel_count().min(3));
        let (width, height) = (self.width as u32, self.height as u32);
        let sized = if (decoded.width(), decoded.height()) == (width, height) {
            decoded
        } else {
            decoded.resize_exact(width, height, FilterType::Triangle)
        };
        let values = if self.channels == 1 { sized.to_luma8().into_raw() } else { sized.to_rgb8().into_raw() };
        Ok((values, captured))
    }
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};

    use super::*;

    fn gray() -> InputSpec {
        InputSpec { height: 4, width: 5, channels: 1, mean: vec![0.25], std: vec![0.5] }
    }

    fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn ramp() -> GrayImage {
        GrayImage::from_fn(5, 4, |x, y| Luma([(x * 50 + y * 10) as u8]))
    }

    #[test]
    fn lossless_formats_give_the_normalised_pixels() {
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            let input = gray().prepare(&encode(ramp(), format), &ImageLimits::default()).unwrap();
            for (i, value) in input.pixels.iter().enumerate() {
                let expected = (((i % 5) * 50 + (i / 5) * 10) as f32 / 255.0 - 0.25) / 0.5;
                // WebP stores gray as RGB; the luma weights may round by one step.
                assert!(
                    (value - expected).abs() <= 1.01 / 255.0 / 0.5,
                    "{format:?} pixel {i}: {value}, not {expected}"
                );
            }
        }
        let png = gray().prepare(&encode(ramp(), ImageFormat::Png), &ImageLimits::default()).unwrap();
        assert_eq!(png.captured, 20);
        assert_eq!(png.pixels[1], (50.0 / 255.0 - 0.25) / 0.5);
    }

    #[test]
    fn jpeg_colour_and_other_sizes_are_taken() {
        let colour = RgbImage::from_pixel(10, 8, Rgb([200, 100, 50]));
        let input = gray().prepare(&encode(colour, ImageFormat::Jpeg), &ImageLimits::default()).unwrap();
        assert_eq!((input.pixels.len(), input.captured), (20, 240));
        // BT.709 luma of the flat colour, within JPEG's loss.
        let luma = (0.2126 * 200.0 + 0.7152 * 100.0 + 0.0722 * 50.0) / 255.0;
        assert!(input.pixels.iter().all(|p| (p - (luma - 0.25) / 0.5).abs() < 0.05), "{:?}", input.pixels);
        let rgb = InputSpec { channels: 3, mean: vec![0.0; 3], std: vec![1.0; 3], ..gray() };
        let input = rgb.prepare(&encode(ramp(), ImageFormat::Png), &ImageLimits::default()).unwrap();
        assert_eq!(input.pixels.len(), 60);
    }

    #[test]
    fn bad_bytes_are_refused_by_kind() {
        let limits = ImageLimits::default();
        let png = encode(ramp(), ImageFormat::Png);
        assert_eq!(gray().prepare(&[], &limits), Err(ImageError::Empty));
        assert_eq!(gray().prepare(b"GIF89a not decoded here, nor is text", &limits), Err(ImageError::UnknownFormat));
        assert_eq!(gray().prepare(b"hello, world", &limits), Err(ImageError::UnknownFormat));
        assert!(matches!(gray().prepare(&png[..png.len() / 2], &limits), Err(ImageError::Corrupt(_))));
        let small = ImageLimits { max_bytes: png.len() - 1, ..limits };
        assert_eq!(
            gray().prepare(&png, &small),
            Err(ImageError::TooManyBytes { bytes: png.len(), max: png.len() - 1 })
        );
    }

    #[test]
    fn a_large_image_is_refused_from_its_header() {
        // 60,000 x 60,000 by its header, with no pixel data at all: decoding it could not even begin.
        let mut png = encode(ramp(), ImageFormat::Png);
        png[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
        let mut crc = flate2::Crc::new();
        crc.update(&png[12..29]);
        png[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        let refused = gray().prepare(&png, &ImageLimits::default());
        assert!(matches!(refused, Err(ImageError::TooManyPixels { width: 60_000, height: 60_000, .. })), "{refused:?}");
    }

    #[test]
    fn no_bytes_panic() {
        let png = encode(ramp(), ImageFormat::Png);
        for i in 0..png.len() {
            let mut broken = png.clone();
            broken[i] ^= 0x55;
            let _ = gray().prepare(&broken, &ImageLimits::default());
        }
    }
}
