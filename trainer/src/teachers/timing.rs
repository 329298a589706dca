//! How many images a second a teacher takes, for `semlink-trainer teacher time` and its peer `bench/peers/clip_features.py`.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use half::f16;
use serde::Serialize;

use super::{Precision, Pretrained};
use crate::Result;

/// CLIP ViT-B/32, as its authors published it.
pub const CLIP_BASE_32: [&str; 2] = [
    r#"{"model_type": "clip", "projection_dim": 512, "text_config": {}, "vision_config": {"hidden_size": 768, "intermediate_size": 3072,
        "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu"}}"#,
    r#"{"size": {"shortest_edge": 224}, "resample": 3, "crop_size": {"height": 224, "width": 224}}"#,
];

/// What to time.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Images that go through together.
    pub batch: usize,
    /// Side of the square images before they are resized.
    pub side: usize,
    /// Batches timed.
    pub batches: usize,
    /// Rounds; the median counts.
    pub rounds: usize,
    /// Of the products.
    pub precision: Precision,
}

/// Images per second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// As stage `cache` does it: pixels of 8 bits in memory to features of f16 in memory, resizing included.
    pub caching: f64,
    /// The tower alone, from prepared images on its device.
    pub tower: f64,
    /// Parameters of the tower.
    pub params: usize,
    /// Multiply-accumulates for an image.
    pub macs: u64,
}

/// Times a ViT-B/32 of CLIP's with random weights.
///
/// # Errors
/// The device has too little memory, or cannot compute so.
pub fn clip_base_32(device: &Device, timing: &Timing) -> Result<Rates> {
    let [config, preprocessor] = CLIP_BASE_32;
    let teacher = Pretrained::random(config, preprocessor, 1, device, timing.precision)?;
    let (n, side) = (timing.batch, timing.side);
    let pixels: Vec<u8> = (0..n * side * side * 3).map(|i| (i * 31 % 251) as u8).collect();
    let cache = || -> Result<Vec<f16>> {
        let pixels = Tensor::from_slice(&pixels, (n, side, side, 3), &Device::Cpu)?;
        let features = teacher.features(&teacher.prepare(&pixels)?)?;
        Ok(features.to_dtype(DType::F16)?.flatten_all()?.to_vec1()?)
    };
    let prepared = teacher.prepare(&Tensor::from_slice(&pixels, (n, side, side, 3), &Device::Cpu)?)?;
    let caching = rate(timing, device, &|| cache().map(drop))?;
    let tower = rate(timing, device, &|| teacher.features(&prepared).map(drop))?;
    Ok(Rates { caching, tower, params: teacher.about().params, macs: teacher.macs() })
}

fn rate(timing: &Timing, device: &Device, run: &dyn Fn() -> Result<()>) -> Result<f64> {
    run()?;
    device.synchronize()?;
    let mut rates = Vec::with_capacity(timing.rounds);
    for _ in 0..timing.rounds.max(1) {
        let start = Instant::now();
        for _ in 0..timing.batches {
            run()?;
        }
        device.synchronize()?;
        rates.push((timing.batches * timing.batch) as f64 / start.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    Ok(rates[rates.len() / 2])
}
