//! Stage `bundle`: what training hands to serving.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use candle_core::{Device, Tensor};
use semlink_codec::{
    AccuracyPoint, BundleDraft, DecoderHalf, EncoderHalf, Half, MANIFEST_FILE, Provenance, write_bundle,
};
use semlink_nn::checkpoint;
use sha2::{Digest, Sha256};

use super::teacher::Teacher;
use super::{CODEC_FILE, Context, evaluate, robust};
use crate::data::to_hex;
use crate::recipe::DataFormat;
use crate::report::Report;
use crate::search;
use crate::{Error, Result, dataset, json};

/// Writes the bundle into the run's folder `bundle`, opens both halves as a service would, and copies it to the assets if there is such
/// a folder.
pub(crate) fn run(context: &Context) -> Result<()> {
    let recipe = context.recipe;
    let config = &recipe.robust;
    if config.mlp.is_some() || !config.conditioned || config.images_per_frame != 1 {
        eprintln!("  bundle: services run CAT on single images; a recipe for comparison gives none");
        return Ok(());
    }
    let report = Report::read(&context.need(evaluate::FILE, "evaluate")?)?;
    let teacher = context.need(Teacher::FILE, "teacher")?;
    let data = context.data()?;
    let point = |p: &crate::report::Point| AccuracyPoint {
        channel: p.channel,
        snr_db: p.snr_db,
        k: p.k,
        accuracy: p.accuracy,
        images: p.images / p.draws.max(1),
    };
    let draft = BundleDraft {
        created: rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())),
        student: context.student()?,
        cat: recipe.cat.clone(),
        input: data.input.clone(),
        labels: recipe.data.labels.clone(),
        snr_range_db: recipe.robust.snr_db,
        clean_accuracy: Some(report.clean),
        accuracy: report.points.iter().filter(|p| p.pilots == 0).map(point).collect(),
        calibration: json::read(&context.need(robust::CALIBRATION_FILE, "robust")?)?,
        // Only a decoder that learns the teacher's features has them.
        feature_space: match recipe.robust.feature_weight > 0.0 {
            true => Teacher::feature_space(context)?,
            false => None,
        },
        provenance: Provenance {
            recipe: recipe.name.clone(),
            seed: recipe.data.seed,
            data_hash: format!("sha256:{}", data.hash),
            teacher: format!("sha256:{}", to_hex(&Sha256::digest(read(&teacher)?))),
        },
    };
    let tensors: BTreeMap<String, Tensor> =
        checkpoint::load(&context.need(CODEC_FILE, "robust")?, &Device::Cpu)?.tensors;
    let dir = context.dir.join("bundle");
    let manifest = write_bundle(&dir, draft, &tensors)?;
    EncoderHalf::open(&dir)?;
    DecoderHalf::open(&dir)?;
    match context.json {
        true => println!("{}", serde_json::json!({"bundle": dir.display().to_string(), "codec_id": manifest.codec_id})),
        false => println!("{} holds {}", dir.display(), manifest.codec_id),
    }
    if let Some(assets) = &context.assets {
        ship(context, assets, &dir, &teacher)?;
    }
    Ok(())
}

/// Copies bundle and teacher to `assets/NAME/` and `assets/teacher/NAME.safetensors`, and the sample of an IDX data set to `assets/sample/`.
fn ship(context: &Context, assets: &Path, bundle: &Path, teacher: &Path) -> Result<()> {
    let name = &context.recipe.name;
    let own = |file: &str| (bundle.join(file), assets.join(name).join(file));
    let files: [(PathBuf, PathBuf); 4] = [
        own(Half::Encoder.file_name()),
        own(Half::Decoder.file_name()),
        own(MANIFEST_FILE),
        (teacher.to_owned(), assets.join("teacher").join(format!("{name}.safetensors"))),
    ];
    for (from, to) in files {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })?;
        }
        checkpoint::write_atomically(&to, &read(&from)?)?;
    }
    // A searched student comes with the drawing of its cells.
    let drawing = context.dir.join(search::DRAWING);
    if context.recipe.searched().is_some() && drawing.exists() {
        checkpoint::write_atomically(&assets.join(name).join(search::DRAWING), &read(&drawing)?)?;
    }
    if context.recipe.data.format == DataFormat::Idx {
        dataset::sample(&context.data_dir, &assets.join("sample"))?;
    }
    eprintln!("  bundle: {} holds bundle and teacher, and a sample of IDX images", assets.display());
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Seconds since 1970 as RFC 3339, UTC.
fn rfc3339(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date() {
        // `date -u -d @SECONDS +%FT%TZ`
        let known = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, text) in known {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
