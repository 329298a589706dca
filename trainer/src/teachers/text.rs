//! CLIP's text tower and tokenizer: what a text means, in the space of its images.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use tokenizers::Tokenizer;

use super::config::{Config, Text};
use super::transformer::{Block, Linear, Norm};
use super::vision::CLIP_BLOCK;
use super::weights::Weights;
use super::{FILES, TOKENIZER};
use crate::{Error, Result};

/// Texts that go through together.
const BATCH: usize = 64;
/// As the end token's id, it means the largest id of a text: configurations of before 2023 have it so by mistake.
const LARGEST: u32 = 2;

/// The frozen tower, on the CPU: labels are few.
pub struct TextTower {
    config: Text,
    tokenizer: Tokenizer,
    /// \[vocabulary, width\].
    tokens: Tensor,
    /// \[positions, width\].
    positions: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
    projection: Linear,
    logit_scale: f32,
}

impl TextTower {
    /// Reads and checks the text tower of a checkpoint's folder.
    ///
    /// # Errors
    /// It has none; a file is missing or wrong, a tensor missing or misshapen, by name.
    pub fn open(folder: &Path) -> Result<Self> {
        super::need(folder)?;
        let config_path = folder.join(FILES[0]);
        let Some(config) = Config::read(&config_path)?.text else {
            let what = "has no text tower: labels need a whole CLIP (CLIPModel), not its vision tower, ViT or DINOv2"
                .to_owned();
            return Err(Error::Teacher { path: config_path, what });
        };
        let path = folder.join(TOKENIZER);
        if !path.is_file() {
            let what = format!("{TOKENIZER} is missing, which CLIP's text tower reads texts with");
            return Err(Error::Teacher { path: folder.to_owned(), what });
        }
        let wrong = |e: tokenizers::Error| Error::Teacher { path: path.clone(), what: format!("not a tokenizer: {e}") };
        let mut tokenizer = Tokenizer::from_file(&path).map_err(wrong)?;
        // Texts are cut and filled up here.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(wrong)?;

        let weights = Weights::open(&folder.join(FILES[2]), &Device::Cpu, DType::F32)?;
        let Text { vocabulary, positions, projection, .. } = config;
        let width = config.blocks.width;
        let raw = |name: &str, shape: &[usize]| weights.raw(&format!("text_model.{name}"), shape);
        let block = |i: usize| {
            Block::new(&weights, &format!("text_model.encoder.layers.{i}"), CLIP_BLOCK, &config.blocks, true)
        };
        let tower = Self {
            config,
            tokenizer,
            tokens: raw("embeddings.token_embedding.weight", &[vocabulary, width])?,
            positions: raw("embeddings.position_embedding.weight", &[positions, width])?,
            blocks: (0..config.blocks.layers).map(block).collect::<Result<_>>()?,
            norm: Norm::new(&weights, "text_model.final_layer_norm", width, config.blocks.eps)?,
            projection: Linear::new(&weights, &weights.raw("text_projection.weight", &[projection, width])?, None)?,
            logit_scale: weights.raw("logit_scale", &[])?.to_scalar::<f32>()?.exp(),
        };
        // Opening the vision tower looks for what is odd.
        weights.finish(|_| true)?;
        Ok(tower)
    }

    /// What cosines are multiplied by before the softmax.
    pub fn logit_scale(&self) -> f32 {
        self.logit_scale
    }

    /// Ids of a text's tokens, start and end included, cut to the tower's positions with the end kept.
    ///
    /// # Errors
    /// The tokenizer cannot read the text, or gives ids that the tower does not know.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        let wrong = |what: String| Error::Split(format!("{text:?}: {what}"));
        let encoding = self.tokenizer.encode(text, true).map_err(|e| wrong(e.to_string()))?;
        let mut ids = encoding.get_ids().to_vec();
        if let (true, Some(end)) = (ids.len() > self.config.positions, ids.last().copied()) {
            ids.truncate(self.config.positions - 1);
            ids.push(end);
        }
        if ids.is_empty() || ids.iter().any(|id| *id as usize >= self.config.vocabulary) {
            return Err(wrong(format!("tokens {ids:?} do not belong to a vocabulary of {}", self.config.vocabulary)));
        }
        Ok(ids)
    }

    /// Embeddings of texts, one row of `projection_dim` numbers each, not normalised (transformers: `text_embeds` before they are).
    ///
    /// # Errors
    /// As for [`TextTower::tokenize`].
    pub fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        let mut rows = Vec::with_capacity(texts.len());
        for part in texts.chunks(BATCH) {
            let ids = part.iter().map(|text| self.tokenize(text)).collect::<Result<Vec<_>>>()?;
            rows.extend(self.forward(&ids)?.to_vec2::<f32>()?);
        }
        Ok(rows)
    }

    fn forward(&self, texts: &[Vec<u32>]) -> Result<Tensor> {
        let (n, tokens) = (texts.len(), texts.iter().map(Vec::len).max().unwrap_or(1));
        // What texts are filled up with does not matter: no token sees one behind it.
        let ids: Vec<u32> =
            texts.iter().flat_map(|ids| ids.iter().copied().chain(std::iter::repeat(0)).take(tokens)).collect();
        let ids = Tensor::from_vec(ids, n * tokens, &Device::Cpu)?;
        let embedded = self.tokens.index_select(&ids, 0)?.reshape((n, tokens, self.config.blocks.width))?;
        let mut x = embedded.broadcast_add(&self.positions.narrow(0, 0, tokens)?)?;
        let seen = |i: usize| if i % tokens <= i / tokens { 0.0 } else { f32::NEG_INFINITY };
        let mask =
            Tensor::from_vec((0..tokens * tokens).map(seen).collect::<Vec<f32>>(), (tokens, tokens), &Device::Cpu)?;
        for block in &self.blocks {
            x = block.forward(&x, Some(&mask), false)?;
        }
        let ends = texts.iter().enumerate().map(|(i, ids)| (i * tokens + self.end(ids)) as u32);
        let ends = Tensor::from_vec(ends.collect::<Vec<u32>>(), n, &Device::Cpu)?;
        let states = x.reshape((n * tokens, ()))?.index_select(&ends, 0)?;
        self.projection.forward(&self.norm.forward(&states)?)
    }

    /// Where a text ends: its first end token.
    fn end(&self, ids: &[u32]) -> usize {
        let end = if self.config.end == LARGEST { ids.iter().copied().max().unwrap_or(0) } else { self.config.end };
        ids.iter().position(|id| *id == end).unwrap_or(ids.len() - 1)
    }
}
