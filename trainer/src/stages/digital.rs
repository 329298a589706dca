//! A baseline of separate source and channel coding: the image as a JPEG file over an ideal channel code.
//!
//! A code that achieves capacity carries k log2(1 + |h|^2 Es/N0) bits over k uses without error, and the transmitter knows |h|^2 beforehand: more than
//! any real system has. Of each image the best JPEG that fits is sent; the headers, which are the same for all images, are granted. The teacher classifies
//! what arrives; where nothing fits the class is guessed.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageFormat, ImageReader};
use rayon::prelude::*;
use semlink_channel::{ChannelConfig, FrameKey};
use semlink_nn::Mode;

use super::teacher::Teacher;
use crate::data::Split;
use crate::{Error, Result};

/// JPEG qualities to choose from.
const QUALITIES: [u8; 8] = [1, 3, 6, 12, 25, 50, 75, 95];

/// What JPEG makes of a split.
pub(crate) struct Digital {
    /// For each quality, for each image: bits of its entropy-coded data, and whether the teacher recognises it.
    coded: Vec<Vec<(usize, bool)>>,
    classes: usize,
}

impl Digital {
    /// Codes, decodes and classifies every image at every quality.
    pub(crate) fn new(split: &Split, teacher: &Teacher) -> Result<Self> {
        let (height, width) = split.size();
        let coded = QUALITIES.iter().map(|quality| {
            let images: Vec<usize> = (0..split.len()).collect();
            let files = images.par_iter().map(|i| through_jpeg(split.image(*i), (width, height), *quality));
            let (bits, pixels): (Vec<usize>, Vec<Vec<u8>>) = files.collect::<Result<Vec<_>>>()?.into_iter().unzip();
            let decoded = split.with_pixels(pixels.concat())?;
            let logits = decoded.map(|images| Ok(teacher.forward(images, Mode::Eval)?.1))?;
            let decided: Vec<u32> = logits.argmax(1)?.to_vec1()?;
            let right = decided.iter().zip(split.labels()).map(|(decided, label)| *decided == u32::from(*label));
            Ok(bits.into_iter().zip(right).collect())
        });
        Ok(Self { coded: coded.collect::<Result<_>>()?, classes: split.classes })
    }

    /// Accuracy, and the share of images of which anything fits.
    pub(crate) fn at(&self, channel: &ChannelConfig, uses: usize, seed: u64) -> (f64, f64) {
        let snr = 10f64.powf(f64::from(channel.snr.db()) / 10.0);
        let images = self.coded.first().map_or(0, Vec::len);
        let (mut right, mut fitting) = (0.0, 0.0);
        for i in 0..images {
            let key = FrameKey { seed, link: 0, stream: 0, frame: i as u64 };
            let h = channel.draw(key, uses).h;
            let gain = h.first().map_or(1.0, |h| f64::from(h.norm_sqr()));
            let bits = (uses as f64 * (1.0 + gain * snr).log2()) as usize;
            // The best quality that fits: a larger file is never a worse image.
            match self.coded.iter().rev().map(|images| images[i]).find(|(size, _)| *size <= bits) {
                Some((_, recognised)) => {
                    fitting += 1.0;
                    right += f64::from(u8::from(recognised));
                }
                None => right += 1.0 / self.classes as f64,
            }
        }
        (right / images.max(1) as f64, fitting / images.max(1) as f64)
    }
}

/// Bits of an image's entropy-coded data, and its pixels after decoding.
fn through_jpeg(pixels: &[u8], (width, height): (usize, usize), quality: u8) -> Result<(usize, Vec<u8>)> {
    let failed = |e: image::ImageError| Error::Split(format!("JPEG: {e}"));
    let gray = pixels.len() == width * height;
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, quality)
        .encode(pixels, width as u32, height as u32, if gray { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 })
        .map_err(failed)?;
    let decoded = ImageReader::with_format(Cursor::new(&file), ImageFormat::Jpeg).decode().map_err(failed)?;
    Ok((8 * entropy_coded(&file), if gray { decoded.into_luma8().into_raw() } else { decoded.into_rgb8().into_raw() }))
}

/// Bytes between the header of the scan and the end of the image.
fn entropy_coded(file: &[u8]) -> usize {
    let Some(at) = file.windows(2).position(|marker| marker == [0xff, 0xda]) else { return file.len() };
    let header = file.get(at + 2..at + 4).map_or(0, |n| usize::from(n[0]) << 8 | usize::from(n[1]));
    // The marker of the scan and that of the end, two bytes each.
    file.len().saturating_sub(at + 2 + header + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_image_takes_a_few_bytes_and_comes_back() {
        let (bits, pixels) = through_jpeg(&[128; 28 * 28], (28, 28), 50).unwrap();
        // 16 blocks: 6 bits for "no change" and "end of block" in each, by the standard's tables (ITU-T T.81, annex K).
        assert!((16 * 6..=16 * 6 + 16).contains(&bits), "{bits}");
        assert!(pixels.iter().all(|p| p.abs_diff(128) <= 2));
        let red: Vec<u8> = [200, 30, 40].repeat(32 * 32);
        let (_, pixels) = through_jpeg(&red, (32, 32), 95).unwrap();
        assert!(pixels.len() == red.len() && pixels.iter().zip(&red).all(|(a, b)| a.abs_diff(*b) <= 4));
        let noise: Vec<u8> = (0..784u32).map(|i| (i * 7919 % 251) as u8).collect();
        let sizes = QUALITIES.map(|q| through_jpeg(&noise, (28, 28), q).unwrap().0);
        assert!(sizes.windows(2).all(|pair| pair[0] <= pair[1]), "{sizes:?}");
    }
}
