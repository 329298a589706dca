//! Large pretrained teachers: CLIP, ViT and DINOv2 from Hugging Face checkpoints, frozen, on any device.
//!
//! A checkpoint is a folder with `config.json`, `preprocessor_config.json` and `model.safetensors`, and for CLIP's text tower `tokenizer.json`.
//! [`Pretrained`] is its vision tower with its own preprocessing; everything is checked by name before anything is computed.

mod config;
pub mod import;
mod labels;
mod preprocess;
mod resample;
mod silu;
mod text;
pub mod timing;
mod transformer;
mod vision;
mod weights;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use config::Kind;
pub use labels::labels;
pub use text::TextTower;

use crate::data::to_hex;
use crate::{Error, Result};
use config::{Config, Vision};
use preprocess::{Plan, Preprocess};
use vision::Tower;
use weights::Weights;

/// Files of a checkpoint. The first three name it, see [`About::id`].
const FILES: [&str; 3] = ["config.json", "preprocessor_config.json", "model.safetensors"];

/// Read by CLIP's text tower; features of images do not follow from it.
const TOKENIZER: &str = "tokenizer.json";

/// Numbers that matrix products are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As everything else of a run; on a GPU products are of TF32 unless the run is `--exact`.
    #[default]
    F32,
    /// 16 bits with the range of f32; products add up in f32.
    Bf16,
    /// 16 bits with 11 of mantissa.
    F16,
}

impl Precision {
    const ALL: [(Self, &'static str); 3] = [(Self::F32, "f32"), (Self::Bf16, "bf16"), (Self::F16, "f16")];

    /// What tensors are kept as.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Self::ALL.iter().find(|(precision, _)| precision == self).map_or("", |(_, name)| name))
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(precision, _)| *precision).ok_or_else(|| format!("{text}, expected f32, bf16 or f16"))
    }
}

/// What a checkpoint is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Its family.
    pub kind: Kind,
    /// `sha256:` and the SHA-256 of the SHA-256 of config.json, preprocessor_config.json and model.safetensors, each as 32 bytes: what features
    /// follow from.
    pub id: String,
    /// Of the vision tower, its projection included.
    pub params: usize,
    /// Height and width of its input.
    pub input: (usize, usize),
    /// Length of the feature vector.
    pub features: usize,
    /// Whether features lie in a space that texts are embedded in too.
    pub shared_space: bool,
    /// How images are brought to the input's size, in words.
    pub preprocessing: String,
}

/// A frozen vision tower with its preprocessing.
#[derive(Debug)]
pub struct Pretrained {
    about: About,
    config: Vision,
    preprocess: Preprocess,
    tower: Tower,
    device: Device,
    /// For the size of images that came last.
    plan: Mutex<Option<((usize, usize), Plan)>>,
}

impl Pretrained {
    /// Reads and checks a checkpoint's folder.
    ///
    /// # Errors
    /// A file is missing, cut short, or of a model that is not read; tensors are missing, misshapen or odd: by name.
    pub fn open(folder: &Path, device: &Device, precision: Precision) -> Result<Self> {
        let [config, preprocess, weights] = FILES.map(|file| folder.join(file));
        need(folder)?;
        let config = Config::read(&config)?;
        let preprocess_path = preprocess;
        let preprocess = Preprocess::read(&preprocess_path, config.vision.kind)?;
        let input = preprocess.output(config.vision.image, config.vision.image);
        check_input(&preprocess_path, &config.vision, input)?;
        let weights = Weights::open(&weights, device, precision.dtype())?;
        let tower = Tower::new(&weights, &config.vision, input)?;
        weights.finish(|name| {
            let text = config.text.is_some() && (name.starts_with("text_") || name == "logit_scale");
            text || Tower::is_idle(&config.vision, name)
        })?;
        let about = About::new(&config.vision, &preprocess, input, identity(folder)?);
        Ok(Self::new(about, config.vision, preprocess, tower, device))
    }

    /// What the checkpoint in a folder is, without reading its weights into memory.
    ///
    /// # Errors
    /// A file is missing, or of a model that is not read.
    pub fn about_folder(folder: &Path) -> Result<About> {
        need(folder)?;
        let config = Config::read(&folder.join(FILES[0]))?.vision;
        let preprocess = Preprocess::read(&folder.join(FILES[1]), config.kind)?;
        let input = preprocess.output(config.image, config.image);
        Ok(About::new(&config, &preprocess, input, identity(folder)?))
    }

    /// A tower of random weights, for measurements: `config` and `preprocessor` are the content of the two files.
    ///
    /// # Errors
    /// What the two say cannot be.
    pub fn random(config: &str, preprocessor: &str, seed: u64, device: &Device, precision: Precision) -> Result<Self> {
        let wrong = |what: String| Error::Teacher { path: "random weights".into(), what };
        let json = |text: &str| serde_json::from_str(text).map_err(|e| wrong(e.to_string()));
        let config = Config::parse(&json(config)?).map_err(wrong)?.vision;
        let preprocess = Preprocess::parse(&json(preprocessor)?, config.kind).map_err(wrong)?;
        let input = preprocess.output(config.image, config.image);
        check_input(Path::new("random weights"), &config, input)?;
        let tower = Tower::new(&Weights::random(seed, device, precision.dtype()), &config, input)?;
        let about = About::new(&config, &preprocess, input, format!("random weights of seed {seed}"));
        Ok(Self::new(about, config, preprocess, tower, device))
    }

    fn new(about: About, config: Vision, preprocess: Preprocess, tower: Tower, device: &Device) -> Self {
        Self { about, config, preprocess, tower, device: device.clone(), plan: Mutex::default() }
    }

    /// What it is.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Multiply-accumulates for one image.
    pub fn macs(&self) -> u64 {
        Tower::macs(&self.config, self.about.input)
    }

    /// Pixels \[n, height, width, 1 or 3\], whole numbers from 0 to 255 of any type and on any device, to what the tower reads: \[n, height, width,
    /// 3\] of its input, f32, on its device.
    ///
    /// # Errors
    /// Another number of axes or channels; images whose preprocessed size is not the tower's.
    pub fn prepare(&self, pixels: &Tensor) -> Result<Tensor> {
        let (_, height, width, channels) = pixels.dims4()?;
        let output = self.preprocess.output(height, width);
        if output != self.about.input || ![1, 3].contains(&channels) {
            let ((h, w), (rows, columns)) = (output, self.about.input);
            return Err(Error::Split(format!(
                "images of {height} x {width} x {channels} become {h} x {w}, but the teacher reads {rows} x {columns} x 3"
            )));
        }
        let plan = {
            let mut last = self.plan.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match &*last {
                Some((size, plan)) if *size == (height, width) => plan.clone(),
                _ => {
                    let plan = self.preprocess.plan(height, width, &self.device)?;
                    last.insert(((height, width), plan)).1.clone()
                }
            }
        };
        plan.apply(&pixels.to_device(&self.device)?)
    }

    /// Feature vectors \[n, features\], f32, on the tower's device, of what [`Pretrained::prepare`] gave.
    ///
    /// # Errors
    /// Another shape.
    pub fn features(&self, prepared: &Tensor) -> Result<Tensor> {
        self.tower.forward(prepared)
    }

    /// What the checkpoint's own classifier says, \[n, classes\]; none if it has none.
    ///
    /// # Errors
    /// As for [`Pretrained::features`].
    pub fn logits(&self, prepared: &Tensor) -> Result<Option<Tensor>> {
        self.tower.logits(prepared)
    }
}

impl About {
    fn new(config: &Vision, preprocess: &Preprocess, input: (usize, usize), id: String) -> Self {
        Self {
            kind: config.kind,
            id,
            params: Tower::params(config),
            input,
            features: Tower::features(config),
            shared_space: config.projection.is_some(),
            preprocessing: preprocess.describe(),
        }
    }
}

/// Positions other than those that were trained are DINOv2's alone.
fn check_input(path: &Path, config: &Vision, (height, width): (usize, usize)) -> Result<()> {
    let patch = config.patch;
    let fits = match config.kind {
        Kind::Dinov2 => height.is_multiple_of(patch) && width.is_multiple_of(patch),
        Kind::Clip | Kind::Vit => (height, width) == (config.image, config.image),
    };
    let expected = match config.kind {
        Kind::Dinov2 => format!("multiples of its patches of {patch}"),
        Kind::Clip | Kind::Vit => format!("{0} x {0} as in config.json", config.image),
    };
    let what = format!("gives images of {height} x {width}, but the network reads {expected}");
    if fits { Ok(()) } else { Err(Error::Teacher { path: path.to_owned(), what }) }
}

/// Refuses a folder that lacks a file.
fn need(folder: &Path) -> Result<()> {
    let missing: Vec<&str> = FILES.into_iter().filter(|file| !folder.join(file).is_file()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let pickled = missing.contains(&FILES[2]) && folder.join("pytorch_model.bin").exists();
    let hint = if pickled { "; weights in pytorch_model.bin are not read, save them as safetensors" } else { "" };
    let what = format!("{} missing: a teacher is a folder with {}{hint}", missing.join(", "), FILES.join(", "));
    Err(Error::Teacher { path: folder.to_owned(), what })
}

/// See [`About::id`].
fn identity(folder: &Path) -> Result<String> {
    let mut whole = Sha256::new();
    for file in FILES {
        whole.update(hash_file(&folder.join(file))?);
    }
    Ok(format!("sha256:{}", to_hex(&whole.finalize())))
}

fn hash_file(path: &PathBuf) -> Result<[u8; 32]> {
    let io = |source| Error::Io { path: path.clone(), source };
    let mut file = std::fs::File::open(path).map_err(io)?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(io)?;
    Ok(hash.finalize().into())
}
