//! What `config.json` says of a checkpoint's networks, in the words of transformers' configurations.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result};

/// Families of vision transformers that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// CLIP (Radford et al. 2021): image and text towers with one space of embeddings.
    Clip,
    /// ViT (Dosovitskiy et al. 2020).
    Vit,
    /// DINOv2 (Oquab et al. 2023), with or without registers (Darcet et al. 2023).
    Dinov2,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Clip => "clip",
            Self::Vit => "vit",
            Self::Dinov2 => "dinov2",
        })
    }
}

/// The function between the two layers of a block's perceptron.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hidden {
    /// x sigmoid(1.702 x)
    QuickGelu,
    /// x Phi(x)
    Gelu,
    /// Its approximation by tanh.
    GeluTanh,
    /// silu(a) b, of the two halves of a layer twice as wide (Shazeer 2020).
    SwiGlu,
}

/// Widths and depth of a stack of blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Blocks {
    pub(super) width: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    /// Between the layers of the perceptron.
    pub(super) hidden: usize,
    pub(super) function: Hidden,
    pub(super) eps: f32,
    /// Whether queries, keys and values have a bias.
    pub(super) qkv_bias: bool,
}

/// The vision tower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Vision {
    pub(super) kind: Kind,
    pub(super) blocks: Blocks,
    /// Side of the images that its positions were trained for.
    pub(super) image: usize,
    pub(super) patch: usize,
    pub(super) registers: usize,
    /// Width of the shared space; CLIP only.
    pub(super) projection: Option<usize>,
    /// Outputs of a classifier; ViT only.
    pub(super) classes: Option<usize>,
}

/// CLIP's text tower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Text {
    pub(super) blocks: Blocks,
    pub(super) vocabulary: usize,
    pub(super) positions: usize,
    pub(super) projection: usize,
    /// Id of the token that ends a text, whose state is the text's; 2 in old configurations, where the largest id of a text is meant.
    pub(super) end: u32,
}

/// A `config.json`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Config {
    pub(super) vision: Vision,
    pub(super) text: Option<Text>,
}

/// Sides, widths and depths beyond this are no network of today.
const MOST: usize = 1 << 20;

impl Config {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let wrong = |what: String| Error::Teacher { path: path.to_owned(), what };
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let value: Value = serde_json::from_str(&text).map_err(|e| wrong(format!("not JSON: {e}")))?;
        Self::parse(&value).map_err(wrong)
    }

    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        let model = value.get("model_type").and_then(Value::as_str).unwrap_or("absent");
        let config = match model {
            "clip" => {
                let (vision, text) = (Fields::section(value, "vision_config")?, Fields::section(value, "text_config")?);
                let projection = Fields(value).number("projection_dim", 512)?;
                Self { vision: vision.clip_vision(Some(projection))?, text: Some(text.clip_text(projection)?) }
            }
            // The vision tower alone, with or without projection; which of the two, its class tells.
            "clip_vision_model" => {
                let projected = architecture(value) == Some("CLIPVisionModelWithProjection");
                let fields = Fields(value);
                let projection = projected.then(|| fields.number("projection_dim", 512)).transpose()?;
                Self { vision: fields.clip_vision(projection)?, text: None }
            }
            "vit" => Self { vision: Fields(value).vit(architecture(value))?, text: None },
            "dinov2" | "dinov2_with_registers" => Self { vision: Fields(value).dinov2(model)?, text: None },
            other => {
                return Err(format!("model_type is {other}, expected clip, vit, dinov2 or dinov2_with_registers"));
            }
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let Vision { image, patch, .. } = self.vision;
        if !image.is_multiple_of(patch) {
            return Err(format!("image_size {image} is not a multiple of patch_size {patch}"));
        }
        for blocks in [Some(self.vision.blocks), self.text.map(|text| text.blocks)].into_iter().flatten() {
            if !blocks.width.is_multiple_of(blocks.heads) {
                return Err(format!("{} num_attention_heads do not divide hidden_size {}", blocks.heads, blocks.width));
            }
        }
        Ok(())
    }
}

fn architecture(value: &Value) -> Option<&str> {
    value.get("architectures")?.as_array()?.first()?.as_str()
}

/// A table of the file. What it leaves out has the value that transformers gives it.
struct Fields<'a>(&'a Value);

impl<'a> Fields<'a> {
    fn section(value: &'a Value, name: &str) -> Result<Self, String> {
        value.get(name).filter(|section| section.is_object()).map(Fields).ok_or_else(|| format!("{name} is missing"))
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn number(&self, key: &str, default: usize) -> Result<usize, String> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=MOST).contains(n));
        number.ok_or_else(|| format!("{key} is {value}, expected a number from 1 to {MOST}"))
    }

    fn float(&self, key: &str, default: f64) -> Result<f64, String> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value
            .as_f64()
            .filter(|x| x.is_finite() && *x > 0.0)
            .ok_or_else(|| format!("{key} is {value}, expected above 0"))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| format!("{key} is {value}, expected true or false"))
    }

    fn function(&self, default: &str) -> Result<Hidden, String> {
        match self.get("hidden_act").map_or(Some(default), Value::as_str) {
            Some("quick_gelu") => Ok(Hidden::QuickGelu),
            Some("gelu") => Ok(Hidden::Gelu),
            Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Hidden::GeluTanh),
            _ => Err(format!(
                "hidden_act is {}, expected quick_gelu, gelu, gelu_new or gelu_pytorch_tanh",
                self.0["hidden_act"]
            )),
        }
    }

    /// Only colour images are taken.
    fn colour(&self) -> Result<(), String> {
        match self.number("num_channels", 3)? {
            3 => Ok(()),
            other => Err(format!("num_channels is {other}, expected 3")),
        }
    }

    fn blocks(&self, defaults: [usize; 4], function: &str, eps: f64) -> Result<Blocks, String> {
        let [width, layers, heads, hidden] = defaults;
        Ok(Blocks {
            width: self.number("hidden_size", width)?,
            layers: self.number("num_hidden_layers", layers)?,
            heads: self.number("num_attention_heads", heads)?,
            hidden: self.number("intermediate_size", hidden)?,
            function: self.function(function)?,
            eps: self.float("layer_norm_eps", eps)? as f32,
            qkv_bias: self.flag("qkv_bias", true)?,
        })
    }

    fn clip_vision(&self, projection: Option<usize>) -> Result<Vision, String> {
        self.colour()?;
        Ok(Vision {
            kind: Kind::Clip,
            blocks: self.blocks([768, 12, 12, 3072], "quick_gelu", 1e-5)?,
            image: self.number("image_size", 224)?,
            patch: self.number("patch_size", 32)?,
            registers: 0,
            projection,
            classes: None,
        })
    }

    fn clip_text(&self, projection: usize) -> Result<Text, String> {
        Ok(Text {
            blocks: self.blocks([512, 12, 8, 2048], "quick_gelu", 1e-5)?,
            vocabulary: self.number("vocab_size", 49408)?,
            positions: self.number("max_position_embeddings", 77)?,
            projection,
            end: self.number("eos_token_id", 49407)? as u32,
        })
    }

    fn vit(&self, architecture: Option<&str>) -> Result<Vision, String> {
        self.colour()?;
        let classes = self.get("id2label").and_then(Value::as_object).map(serde_json::Map::len);
        let classes = classes.or_else(|| self.number("num_labels", 2).ok());
        Ok(Vision {
            kind: Kind::Vit,
            blocks: self.blocks([768, 12, 12, 3072], "gelu", 1e-12)?,
            image: self.number("image_size", 224)?,
            patch: self.number("patch_size", 16)?,
            registers: 0,
            projection: None,
            classes: classes.filter(|_| architecture == Some("ViTForImageClassification")),
        })
    }

    fn dinov2(&self, model: &str) -> Result<Vision, String> {
        self.colour()?;
        let mut blocks = self.blocks([768, 12, 12, 3072], "gelu", 1e-6)?;
        blocks.hidden = (blocks.width as f64 * self.float("mlp_ratio", 4.0)?) as usize;
        if self.flag("use_swiglu_ffn", false)? {
            blocks.function = Hidden::SwiGlu;
            // Two thirds, as there are three matrices instead of two, rounded up to a multiple of 8.
            blocks.hidden = (blocks.hidden * 2 / 3).next_multiple_of(8);
        }
        let registers = if model == "dinov2" { 0 } else { self.number("num_register_tokens", 4)? };
        Ok(Vision {
            kind: Kind::Dinov2,
            blocks,
            image: self.number("image_size", 224)?,
            patch: self.number("patch_size", 16)?,
            registers,
            projection: None,
            classes: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::vision::Tower;
    use super::*;

    /// Published configurations, shortened; parameters as transformers counts them, without the token that pretraining masks patches with.
    #[test]
    fn published_models_have_their_sizes() {
        let clip = |vision: Value, projection: usize| json!({"model_type": "clip", "projection_dim": projection, "vision_config": vision, "text_config": {"eos_token_id": 2}});
        let large = json!({
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14
        });
        let dinov2 = |model: &str| json!({"model_type": model, "image_size": 518, "patch_size": 14});
        let mut giant = dinov2("dinov2");
        for (key, value) in [("hidden_size", 1536), ("num_hidden_layers", 40), ("num_attention_heads", 24)] {
            giant[key] = value.into();
        }
        giant["use_swiglu_ffn"] = true.into();
        for (config, params, features) in [
            (clip(json!({}), 512), 87_849_216, 512),
            (clip(json!({"patch_size": 16}), 512), 86_192_640, 512),
            (clip(large, 768), 303_966_208, 768),
            (json!({"model_type": "vit"}), 85_798_656, 768),
            (dinov2("dinov2"), 86_579_712, 768),
            (dinov2("dinov2_with_registers"), 86_582_784, 768),
            (giant, 1_136_479_232, 1536),
        ] {
            let vision = Config::parse(&config).unwrap().vision;
            assert_eq!((Tower::params(&vision), Tower::features(&vision)), (params, features), "{config}");
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (config, expected) in [
            (json!({}), "model_type is absent"),
            (json!({"model_type": "clip", "text_config": {}}), "vision_config is missing"),
            (json!({"model_type": "clip", "vision_config": {}}), "text_config is missing"),
            (json!({"model_type": "vit", "patch_size": 0}), "patch_size is 0"),
            (json!({"model_type": "vit", "image_size": 225}), "image_size 225 is not a multiple of patch_size 16"),
            (json!({"model_type": "vit", "num_attention_heads": 7}), "7 num_attention_heads do not divide"),
            (json!({"model_type": "vit", "hidden_act": "selu"}), "hidden_act is \"selu\""),
            (json!({"model_type": "vit", "num_channels": 1}), "num_channels is 1"),
            (json!({"model_type": "dinov2", "layer_norm_eps": -1.0}), "layer_norm_eps"),
            (json!({"model_type": "dinov2", "use_swiglu_ffn": "yes"}), "use_swiglu_ffn"),
        ] {
            let fault = Config::parse(&config).unwrap_err();
            assert!(fault.contains(expected) && !fault.contains('\n'), "{fault}");
        }
    }
}
