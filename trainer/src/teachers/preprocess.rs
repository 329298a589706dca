//! What happens to an image before a teacher sees it, as its `preprocessor_config.json` says: resize, crop, scaling. On any device, and with
//! the numbers that transformers' processors give with Pillow.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::config::Kind;
use super::resample::{self, Filter};
use crate::{Error, Result};

/// The steps.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Preprocess {
    resize: Option<(Size, Filter)>,
    crop: Option<(usize, usize)>,
    /// Value v of channel c becomes factor\[c\] v + offset\[c\].
    factor: [f64; 3],
    offset: [f64; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// The shorter side; the other keeps the proportions.
    Shortest(usize),
    Exact(usize, usize),
}

/// Sides beyond this are no input of today's networks.
const MOST: u64 = 4096;

impl Preprocess {
    pub(super) fn read(path: &Path, kind: Kind) -> Result<Self> {
        let wrong = |what: String| Error::Teacher { path: path.to_owned(), what };
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let value = serde_json::from_str(&text).map_err(|e| wrong(format!("not JSON: {e}")))?;
        Self::parse(&value, kind).map_err(wrong)
    }

    /// What is left out has the value that the processor of the kind has.
    pub(super) fn parse(value: &Value, kind: Kind) -> Result<Self, String> {
        let on = |key: &str, default: bool| match value.get(key).filter(|v| !v.is_null()) {
            None => Ok(default),
            Some(flag) => flag.as_bool().ok_or_else(|| format!("{key} is {flag}, expected true or false")),
        };
        let (default_filter, default_size) = match kind {
            Kind::Clip => (3, Size::Shortest(224)),
            Kind::Vit => (2, Size::Exact(224, 224)),
            Kind::Dinov2 => (3, Size::Shortest(256)),
        };
        let resize = if on("do_resize", true)? {
            let number = value.get("resample").filter(|v| !v.is_null()).map_or(Some(default_filter), Value::as_u64);
            let filter = number.and_then(Filter::of).ok_or_else(|| {
                format!("resample is {}, expected 1 (lanczos), 2 (bilinear) or 3 (bicubic)", value["resample"])
            })?;
            Some((size(value.get("size"), default_size, kind)?, filter))
        } else {
            None
        };
        let crop = if on("do_center_crop", kind != Kind::Vit)? {
            match size(value.get("crop_size"), Size::Exact(224, 224), Kind::Vit)? {
                Size::Exact(height, width) => Some((height, width)),
                Size::Shortest(_) => return Err("crop_size has a shortest_edge, expected height and width".to_owned()),
            }
        } else {
            None
        };
        let rescale = if on("do_rescale", true)? {
            let factor = value.get("rescale_factor").filter(|v| !v.is_null()).map_or(Some(1.0 / 255.0), Value::as_f64);
            factor.filter(|f| f.is_finite() && *f > 0.0).ok_or("rescale_factor: expected a number above 0")?
        } else {
            1.0
        };
        let (mut mean, mut std) = ([0.0; 3], [1.0; 3]);
        if on("do_normalize", true)? {
            let clip = [[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]];
            let defaults = match kind {
                Kind::Clip => clip,
                Kind::Vit => [[0.5; 3]; 2],
                Kind::Dinov2 => [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]],
            };
            mean = triple(value, "image_mean", defaults[0])?;
            std = triple(value, "image_std", defaults[1])?;
            if std.iter().any(|s| *s <= 0.0) {
                return Err(format!("image_std is {std:?}, expected above 0"));
            }
        }
        let each = |f: &dyn Fn(usize) -> f64| [f(0), f(1), f(2)];
        Ok(Self { resize, crop, factor: each(&|c| rescale / std[c]), offset: each(&|c| -mean[c] / std[c]) })
    }

    /// Height and width of what comes out for images of this size.
    pub(super) fn output(&self, height: usize, width: usize) -> (usize, usize) {
        self.crop.unwrap_or_else(|| self.resized(height, width))
    }

    fn resized(&self, height: usize, width: usize) -> (usize, usize) {
        match self.resize {
            None => (height, width),
            Some((Size::Exact(height, width), _)) => (height, width),
            Some((Size::Shortest(short), _)) => {
                let long = |other: usize, shorter: usize| (short * other / shorter.max(1)).max(1);
                if height <= width { (short, long(width, height)) } else { (long(height, width), short) }
            }
        }
    }

    /// What the steps do to images of one size, as maps on `device`.
    pub(super) fn plan(&self, height: usize, width: usize, device: &Device) -> Result<Plan> {
        let (rows, columns) = self.resized(height, width);
        let (out_height, out_width) = self.output(height, width);
        let axis = |inputs: usize, resized: usize, outputs: usize| -> Result<Tensor> {
            let weights = match self.resize {
                Some((_, filter)) if inputs != resized => {
                    let mut weights = resample::resize(filter, inputs, resized);
                    resample::fixed_point(&mut weights);
                    weights
                }
                _ => identity(inputs),
            };
            // Transposed, as the map is applied from the right.
            let cropped = centre(&weights, inputs, outputs);
            let values: Vec<f64> = (0..inputs).flat_map(|i| cropped.iter().map(move |row| row[i])).collect();
            Ok(Tensor::from_vec(values, (inputs, outputs), device)?)
        };
        let channels = |values: [f64; 3]| Tensor::new(&values.map(|v| v as f32), device);
        Ok(Plan {
            columns: axis(width, columns, out_width)?,
            rows: axis(height, rows, out_height)?,
            factor: channels(self.factor)?,
            offset: channels(self.offset)?,
        })
    }

    /// In words, for people.
    pub(super) fn describe(&self) -> String {
        let resize = match self.resize {
            None => "as they are".to_owned(),
            Some((Size::Shortest(side), filter)) => format!("shorter side to {side}, {}", filter.name()),
            Some((Size::Exact(height, width), filter)) => format!("to {height} x {width}, {}", filter.name()),
        };
        let crop = self.crop.map_or(String::new(), |(height, width)| format!(", centre {height} x {width}"));
        format!("{resize}{crop}")
    }
}

/// A preprocessing for images of one size.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// \[width, width after the crop\], f64.
    columns: Tensor,
    /// \[height, height after the crop\], f64.
    rows: Tensor,
    /// \[3\].
    factor: Tensor,
    offset: Tensor,
}

impl Plan {
    /// Pixels \[n, height, width, 1 or 3\], whole numbers from 0 to 255 of any type, to \[n, height, width, 3\] in f32.
    ///
    /// Pillow computes with whole numbers: weights of 22 binary places, results of each direction rounded to 8 bits. Products of these are
    /// exact in f64, so what comes out are its very numbers.
    pub(super) fn apply(&self, pixels: &Tensor) -> Result<Tensor> {
        let (n, height, _, channels) = pixels.dims4()?;
        let ((_, out_width), (_, out_height)) = (self.columns.dims2()?, self.rows.dims2()?);
        let along = |x: &Tensor, map: &Tensor| -> Result<Tensor> {
            let (inputs, outputs) = map.dims2()?;
            let mut dims = x.dims().to_vec();
            let y = x.contiguous()?.reshape(((), inputs))?.matmul(map)?;
            let whole = y.affine(1.0, 0.5)?.floor()?.to_dtype(DType::F32)?.clamp(0f32, 255f32)?;
            if let Some(last) = dims.last_mut() {
                *last = outputs;
            }
            Ok(whole.reshape(dims)?)
        };
        let planes = pixels.permute((0, 3, 1, 2))?.contiguous()?.to_dtype(DType::F64)?;
        let wide = along(&planes, &self.columns)?.reshape((n, channels, height, out_width))?;
        let turned = wide.permute((0, 1, 3, 2))?.contiguous()?.to_dtype(DType::F64)?;
        let sized = along(&turned, &self.rows)?.permute((0, 3, 2, 1))?.contiguous()?;
        let colour = sized.broadcast_as((n, out_height, out_width, 3))?;
        Ok(colour.broadcast_mul(&self.factor)?.broadcast_add(&self.offset)?)
    }
}

fn identity(size: usize) -> Vec<Vec<f64>> {
    (0..size).map(|i| (0..size).map(|j| f64::from(u8::from(i == j))).collect()).collect()
}

/// The middle rows; rows of zeros around them where there are too few, which paints black.
fn centre(rows: &[Vec<f64>], inputs: usize, outputs: usize) -> Vec<Vec<f64>> {
    let there = rows.len();
    if there >= outputs {
        let first = (there - outputs) / 2;
        return rows[first..first + outputs].to_vec();
    }
    let before = (outputs - there).div_ceil(2);
    let black = || vec![0.0; inputs];
    let mut padded: Vec<Vec<f64>> = (0..before).map(|_| black()).collect();
    padded.extend_from_slice(rows);
    padded.resize_with(outputs, black);
    padded
}

/// `{"shortest_edge": s}`, `{"height": h, "width": w}` or a number, which means the shorter side to CLIP and DINOv2 and both to ViT.
fn size(value: Option<&Value>, default: Size, kind: Kind) -> Result<Size, String> {
    let Some(value) = value.filter(|v| !v.is_null()) else { return Ok(default) };
    let side = |value: &Value| value.as_u64().filter(|side| (1..=MOST).contains(side)).map(|side| side as usize);
    let both = |height: &Value, width: &Value| Some(Size::Exact(side(height)?, side(width)?));
    let found = if value.is_number() {
        side(value).map(|side| if kind == Kind::Vit { Size::Exact(side, side) } else { Size::Shortest(side) })
    } else if let Some(edge) = value.get("shortest_edge").filter(|v| !v.is_null()) {
        side(edge).map(Size::Shortest)
    } else {
        both(&value["height"], &value["width"])
    };
    found.ok_or_else(|| format!("size is {value}, expected shortest_edge, or height and width, from 1 to {MOST}"))
}

fn triple(value: &Value, key: &str, default: [f64; 3]) -> Result<[f64; 3], String> {
    let Some(list) = value.get(key).filter(|v| !v.is_null()) else { return Ok(default) };
    let numbers: Option<Vec<f64>> = list.as_array().map(|list| list.iter().filter_map(Value::as_f64).collect());
    let three = numbers.and_then(|numbers| <[f64; 3]>::try_from(numbers).ok());
    three
        .filter(|three| three.iter().all(|x| x.is_finite()))
        .ok_or_else(|| format!("{key} is {list}, expected 3 numbers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sides that grow and shrink, crops that cut and pad, every filter; see tests/golden/generate.py.
    #[test]
    fn odd_sizes_and_settings_give_the_numbers_of_transformers() {
        let cases: Value = serde_json::from_str(include_str!("../../tests/golden/preprocessing.json")).unwrap();
        let floats =
            |v: &Value| -> Vec<f32> { v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect() };
        for (i, case) in cases.as_array().unwrap().iter().enumerate() {
            let kind = if case["kind"] == "vit" { Kind::Vit } else { Kind::Clip };
            let preprocess = Preprocess::parse(&case["config"], kind).unwrap();
            let [height, width] = ["height", "width"].map(|side| case[side].as_u64().unwrap() as usize);
            let pixels = Tensor::from_vec(floats(&case["pixels"]), (1, height, width, 3), &Device::Cpu).unwrap();
            let found = preprocess.plan(height, width, &Device::Cpu).unwrap().apply(&pixels).unwrap();
            let shape: Vec<usize> = floats(&case["shape"]).iter().map(|x| *x as usize).collect();
            assert_eq!(found.dims()[1..], shape, "case {i}");
            let (found, expected) = (found.flatten_all().unwrap().to_vec1::<f32>().unwrap(), floats(&case["prepared"]));
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert!(
                    (found - expected).abs() < 1e-5 * (1.0 + expected.abs()),
                    "case {i} at {at}: {found}, {expected}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_read_is_named() {
        for (config, expected) in [
            (r#"{"resample": 0}"#, "resample is 0"),
            (r#"{"size": {"longest_edge": 3}}"#, "size is"),
            (r#"{"crop_size": {"height": 0, "width": 3}}"#, "size is"),
            (r#"{"image_mean": [0.5]}"#, "image_mean"),
            (r#"{"image_std": [0.5, 0.0, 0.5]}"#, "image_std"),
            (r#"{"do_resize": "yes"}"#, "do_resize"),
        ] {
            let fault = Preprocess::parse(&serde_json::from_str(config).unwrap(), Kind::Clip).unwrap_err();
            assert!(fault.contains(expected), "{fault}");
        }
        // In old files, a number is the shorter side to CLIP and both to ViT.
        let old = serde_json::json!({"size": 20, "crop_size": 16});
        let output = |kind| Preprocess::parse(&old, kind).unwrap().output(10, 30);
        assert_eq!((output(Kind::Clip), output(Kind::Vit)), ((16, 16), (20, 20)));
    }
}
