//! `semlink-trainer labels`: what a receiver decides among, by the meaning of its texts.

use std::path::Path;

use semlink_codec::Labels;

use super::{Pretrained, TextTower};
use crate::{Error, Result};

/// Labels of `names`, each put in the place of `{}` in the prompts and embedded by the text tower of the CLIP in `teacher`; with several prompts, the
/// mean of the normalised embeddings (Radford et al. 2021, section 3.1.4).
///
/// # Errors
/// The teacher cannot be read or has no text tower, a prompt has no `{}`, or the names cannot be labels.
pub fn labels(teacher: &Path, prompts: &[String], names: Vec<String>) -> Result<Labels> {
    let wrong = |what: String| Error::Teacher { path: teacher.to_owned(), what };
    if let Some(prompt) = prompts.iter().find(|prompt| !prompt.contains("{}")) {
        return Err(Error::Split(format!("{prompt:?} has no {{}} for the names, as in \"a photo of a {{}}\"")));
    }
    let tower = TextTower::open(teacher)?;
    let mut rows: Vec<Vec<f32>> = Vec::new();
    for prompt in prompts {
        let texts: Vec<String> = names.iter().map(|name| prompt.replace("{}", name)).collect();
        let embedded = tower.embed(&texts)?;
        rows.resize_with(names.len(), || vec![0.0; embedded.first().map_or(0, Vec::len)]);
        for (sum, row) in rows.iter_mut().zip(&embedded) {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x / norm);
        }
    }
    let about = Pretrained::about_folder(teacher)?;
    Labels::new(names, &rows, tower.logit_scale(), &about.id, &prompts.join("; ")).map_err(wrong)
}
