//! Vision towers: CLIP's, ViT and DINOv2, which differ in what stands before and after their blocks.

use candle_core::{DType, Device, Tensor};

use super::config::{Kind, Vision};
use super::resample::{self, Filter};
use super::transformer::{self, Block, Linear, Names, Norm};
use super::weights::Weights;
use crate::Result;

/// A frozen tower, for images of one size.
#[derive(Clone, Debug)]
pub(super) struct Tower {
    config: Vision,
    /// \[width, patch x patch x 3\], the channels of a pixel side by side.
    patches: Linear,
    /// The class token in its place and the registers, \[1, 1 + registers, width\].
    leading: Tensor,
    /// Of the patches, \[1, patches, width\].
    positions: Tensor,
    first_norm: Option<Norm>,
    blocks: Vec<Block>,
    last_norm: Norm,
    projection: Option<Linear>,
    classifier: Option<Linear>,
    dtype: DType,
}

const CLIP: Names = Names {
    attention: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"],
    norms: ["layer_norm1", "layer_norm2"],
    hidden: ["mlp.fc1", "mlp.fc2"],
    scales: None,
};

const VIT: Names = Names {
    attention: [
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
        "attention.output.dense",
    ],
    norms: ["layernorm_before", "layernorm_after"],
    hidden: ["intermediate.dense", "output.dense"],
    scales: None,
};

const DINOV2: Names = Names {
    norms: ["norm1", "norm2"],
    hidden: ["mlp.fc1", "mlp.fc2"],
    scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
    ..VIT
};

/// Blocks of CLIP, in both towers.
pub(super) const CLIP_BLOCK: &Names = &CLIP;

/// DINOv2's giant: its perceptrons have a gate.
const DINOV2_GATED: Names = Names { hidden: ["mlp.weights_in", "mlp.weights_out"], ..DINOV2 };

impl Tower {
    /// For images of `size` (height, width).
    pub(super) fn new(weights: &Weights, config: &Vision, size: (usize, usize)) -> Result<Self> {
        let (width, patch, eps) = (config.blocks.width, config.patch, config.blocks.eps);
        // A tower that is part of a larger model has a prefix; alone it has one or not, as the version of transformers has it that wrote it.
        let (class, prefix) = match config.kind {
            Kind::Clip => ("embeddings.class_embedding", "vision_model."),
            Kind::Vit => ("embeddings.cls_token", "vit."),
            Kind::Dinov2 => ("embeddings.cls_token", "dinov2."),
        };
        let prefix = if weights.has(class) { "" } else { prefix };
        let name = |rest: &str| format!("{prefix}{rest}");
        let side = config.image / patch;
        let (kernel, bias, class, positions) = match config.kind {
            Kind::Clip => (
                weights.raw(&name("embeddings.patch_embedding.weight"), &[width, 3, patch, patch])?,
                None,
                weights.raw(&name(class), &[width])?,
                weights.raw(&name("embeddings.position_embedding.weight"), &[side * side + 1, width])?,
            ),
            Kind::Vit | Kind::Dinov2 => (
                weights.raw(&name("embeddings.patch_embeddings.projection.weight"), &[width, 3, patch, patch])?,
                Some(weights.raw(&name("embeddings.patch_embeddings.projection.bias"), &[width])?),
                weights.raw(&name(class), &[1, 1, width])?,
                weights.raw(&name("embeddings.position_embeddings"), &[1, side * side + 1, width])?,
            ),
        };
        let kernel = kernel.permute((0, 2, 3, 1))?.contiguous()?.reshape((width, patch * patch * 3))?;
        let positions = positions.reshape((side * side + 1, width))?;
        let mut leading = (class.reshape((1, width))? + positions.narrow(0, 0, 1)?)?;
        if config.registers > 0 {
            let registers = weights.raw(&name("embeddings.register_tokens"), &[1, config.registers, width])?;
            leading = Tensor::cat(&[leading, registers.reshape((config.registers, width))?], 0)?;
        }
        let grid = (size.0 / patch, size.1 / patch);
        let positions = regrid(&positions.narrow(0, 1, side * side)?, side, grid, config.registers > 0)?;

        let (names, layer) = match (config.kind, config.blocks.function) {
            (Kind::Clip, _) => (&CLIP, "encoder.layers"),
            (Kind::Vit, _) => (&VIT, "encoder.layer"),
            (Kind::Dinov2, super::config::Hidden::SwiGlu) => (&DINOV2_GATED, "encoder.layer"),
            (Kind::Dinov2, _) => (&DINOV2, "encoder.layer"),
        };
        let block = |i: usize| Block::new(weights, &name(&format!("{layer}.{i}")), names, &config.blocks, false);
        let last_norm = if config.kind == Kind::Clip { "post_layernorm" } else { "layernorm" };
        let linear = |name: &str, outputs: usize, bias: bool| -> Result<Linear> {
            let weight = weights.raw(&format!("{name}.weight"), &[outputs, width])?;
            let bias = bias.then(|| weights.raw(&format!("{name}.bias"), &[outputs])).transpose()?;
            Linear::new(weights, &weight, bias.as_ref())
        };
        Ok(Self {
            config: *config,
            patches: Linear::new(weights, &kernel, bias.as_ref())?,
            leading: weights.place(&leading.unsqueeze(0)?)?,
            positions: weights.place(&positions.unsqueeze(0)?)?,
            first_norm: match config.kind {
                // Spelt so in all checkpoints.
                Kind::Clip => Some(Norm::new(weights, &name("pre_layrnorm"), width, eps)?),
                Kind::Vit | Kind::Dinov2 => None,
            },
            blocks: (0..config.blocks.layers).map(block).collect::<Result<_>>()?,
            last_norm: Norm::new(weights, &name(last_norm), width, eps)?,
            projection: config.projection.map(|outputs| linear("visual_projection", outputs, false)).transpose()?,
            classifier: config.classes.map(|classes| linear("classifier", classes, true)).transpose()?,
            dtype: weights.dtype(),
        })
    }

    /// Length of the feature vector.
    pub(super) fn features(config: &Vision) -> usize {
        config.projection.unwrap_or(config.blocks.width)
    }

    /// Images \[n, height, width, 3\], preprocessed, to feature vectors \[n, features\] in f32: the class token's state after the last
    /// normalisation, and with CLIP its projection into the shared space (transformers: `image_embeds` before they are normalised).
    pub(super) fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let class = self.class(images)?;
        let features = match &self.projection {
            Some(projection) => projection.forward(&class)?,
            None => class,
        };
        Ok(features.to_dtype(DType::F32)?)
    }

    /// What the checkpoint's own classifier says of images, \[n, classes\]; none if it has none.
    pub(super) fn logits(&self, images: &Tensor) -> Result<Option<Tensor>> {
        let Some(classifier) = &self.classifier else { return Ok(None) };
        Ok(Some(classifier.forward(&self.class(images)?)?.to_dtype(DType::F32)?))
    }

    /// The class token's state after the last normalisation, \[n, width\].
    fn class(&self, images: &Tensor) -> Result<Tensor> {
        let (n, height, width, _) = images.dims4()?;
        let side = self.config.patch;
        let (rows, columns) = (height / side, width / side);
        let patches = images.to_dtype(self.dtype)?.reshape((n, rows, side, columns, side * 3))?;
        let patches = patches.transpose(2, 3)?.contiguous()?.reshape((n, rows * columns, side * side * 3))?;
        let patches = self.patches.forward(&patches)?.broadcast_add(&self.positions)?;
        let leading = self.leading.broadcast_as((n, self.leading.dim(1)?, self.leading.dim(2)?))?;
        let mut x = Tensor::cat(&[&leading, &patches], 1)?;
        if let Some(norm) = &self.first_norm {
            x = norm.forward(&x)?;
        }
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, None, i + 1 == self.blocks.len())?;
        }
        self.last_norm.forward(&x.narrow(1, 0, 1)?.squeeze(1)?)
    }

    /// Tensors of such checkpoints that inference has no use for.
    pub(super) fn is_idle(config: &Vision, name: &str) -> bool {
        match config.kind {
            // Numbers from 0 on, in old files.
            Kind::Clip => name.ends_with("position_ids"),
            // The head of pretraining.
            Kind::Vit => name.contains("pooler."),
            // What patches are replaced by in pretraining; the classifier of patches' means is another network's.
            Kind::Dinov2 => name.ends_with("embeddings.mask_token") || name.starts_with("classifier."),
        }
    }

    /// Parameters of the tower, its projection included.
    pub(super) fn params(config: &Vision) -> usize {
        let (width, side) = (config.blocks.width, config.image / config.patch);
        let patch_bias = if config.kind == Kind::Clip { 0 } else { width };
        let embeddings =
            config.patch * config.patch * 3 * width + patch_bias + (side * side + 2 + config.registers) * width;
        let norms = if config.kind == Kind::Clip { 4 } else { 2 } * width;
        let head = config.projection.unwrap_or(0) * width;
        embeddings + norms + head + transformer::count(&config.blocks, config.kind == Kind::Dinov2)
    }

    /// Multiply-accumulates for one image of `size`: of all matrix products, those of the attention included.
    pub(super) fn macs(config: &Vision, size: (usize, usize)) -> u64 {
        let (width, patches) = (config.blocks.width, (size.0 / config.patch) * (size.1 / config.patch));
        let tokens = patches + 1 + config.registers;
        let blocks = &config.blocks;
        let inner = if blocks.function == super::config::Hidden::SwiGlu { 3 } else { 2 } * blocks.hidden;
        let block = tokens * width * (4 * width + inner) + 2 * tokens * tokens * width;
        let patching = patches * config.patch * config.patch * 3 * width;
        (patching + blocks.layers * block + config.projection.unwrap_or(0) * width) as u64
    }
}

/// Position embeddings \[side x side, width\] for another grid of patches, as the model's authors do it: bicubic interpolation; with registers, one that
/// widens its filter.
fn regrid(positions: &Tensor, side: usize, (rows, columns): (usize, usize), antialias: bool) -> Result<Tensor> {
    if (rows, columns) == (side, side) {
        return Ok(positions.clone());
    }
    let axis = |outputs: usize| -> Result<Tensor> {
        let weights = if antialias {
            resample::resize(Filter::Bicubic, side, outputs)
        } else {
            resample::interpolate(side, outputs)
        };
        let values: Vec<f32> = weights.into_iter().flatten().map(|w| w as f32).collect();
        Ok(Tensor::from_vec(values, (outputs, side), &Device::Cpu)?)
    };
    let width = positions.dim(1)?;
    let tall = axis(rows)?.matmul(&positions.reshape((side, side * width))?)?;
    let turned = tall.reshape((rows, side, width))?.transpose(0, 1)?.contiguous()?.reshape((side, rows * width))?;
    let both = axis(columns)?.matmul(&turned)?.reshape((columns, rows, width))?;
    Ok(both.transpose(0, 1)?.contiguous()?.reshape((rows * columns, width))?)
}
