//! `semlink-trainer teacher import`: a checkpoint, checked, to where recipes find it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_core::{DType, Device, Tensor};

use super::config::Config;
use super::{About, FILES, Precision, Pretrained, TOKENIZER, TextTower};
use crate::{Error, Result};

/// The Hugging Face hub.
pub const HUB: &str = "https://huggingface.co";

/// Beyond the largest checkpoint of today that is one file.
const MOST_BYTES: u64 = 16 << 30;

/// Where a checkpoint comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder.
    Folder(PathBuf),
    /// A repository of the hub.
    Hub {
        /// Where the hub is.
        endpoint: String,
        /// `OWNER/NAME`.
        repository: String,
        /// A branch, tag or commit.
        revision: String,
    },
}

/// What was imported.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Where it lies now.
    pub path: PathBuf,
    /// What it is.
    pub about: About,
    /// Whether texts can be embedded, too.
    pub text: bool,
}

/// A folder under way: removed unless it is kept.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        // What is left of a failed attempt is of no use; that it may not be there is no further error.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Puts a checkpoint into the folder `into` as `name` (or what it is called where it comes from), once it has been read and has computed something. The
/// folder appears whole or not at all.
///
/// # Errors
/// The checkpoint is not one that is read (by the name of its file and tensor), the hub cannot be reached, the folder is taken by another teacher.
pub fn import(source: &Source, into: &Path, name: Option<&str>) -> Result<Imported> {
    let given = match source {
        Source::Folder(folder) => {
            folder.canonicalize().ok().and_then(|f| f.file_name().map(|n| n.to_string_lossy().into_owned()))
        }
        Source::Hub { repository, .. } => repository.rsplit('/').next().map(str::to_owned),
    };
    let name = name.map(str::to_owned).or(given).unwrap_or_default();
    if name.is_empty() || name.starts_with('.') || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    {
        let path = into.to_owned();
        return Err(Error::Teacher {
            path,
            what: format!(
                "{name:?} is no name for a teacher: give one by --name, of letters, digits, '-', '_' and '.'"
            ),
        });
    }
    let (target, draft) = (into.join(&name), Draft(into.join(format!(".{name}.{}.part", std::process::id()))));
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    fs::create_dir_all(&draft.0).map_err(io(&draft.0))?;
    match source {
        Source::Folder(folder) => {
            super::need(folder)?;
            for file in FILES.into_iter().chain([TOKENIZER]).filter(|file| folder.join(file).is_file()) {
                crate::stages::link(&folder.join(file), &draft.0.join(file))?;
            }
        }
        Source::Hub { endpoint, repository, revision } => download(endpoint, repository, revision, &draft.0)?,
    }
    let (about, text) = check(&draft.0).map_err(|error| renamed(error, &draft.0, source))?;
    if target.exists() {
        let there = Pretrained::about_folder(&target)?;
        if there.id != about.id {
            let what = format!("holds another teacher, {}: remove it, or choose another --name", there.id);
            return Err(Error::Teacher { path: target, what });
        }
        return Ok(Imported { path: target, about, text });
    }
    fs::rename(&draft.0, &target).map_err(io(&target))?;
    Ok(Imported { path: target, about, text })
}

/// Reads everything and computes something.
fn check(folder: &Path) -> Result<(About, bool)> {
    let teacher = Pretrained::open(folder, &Device::Cpu, Precision::F32)?;
    let (height, width) = teacher.about().input;
    let gray = Tensor::full(128f32, (1, height, width, 3), &Device::Cpu)?;
    let sum = teacher.features(&teacher.prepare(&gray)?)?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
    if !sum.is_finite() {
        let what = "its features of a gray image are no numbers".to_owned();
        return Err(Error::Teacher { path: folder.to_owned(), what });
    }
    let text = Config::read(&folder.join(FILES[0]))?.text.is_some() && folder.join(TOKENIZER).is_file();
    if text {
        TextTower::open(folder)?.embed(&["a photo".to_owned()])?;
    }
    Ok((teacher.about().clone(), text))
}

/// The same error by the name that the user knows the file by.
fn renamed(error: Error, draft: &Path, source: &Source) -> Error {
    let known = |path: &Path| match (source, path.strip_prefix(draft)) {
        (Source::Folder(folder), Ok(rest)) => folder.join(rest),
        (Source::Hub { repository, .. }, Ok(rest)) => Path::new(repository).join(rest),
        _ => path.to_owned(),
    };
    match error {
        Error::Teacher { path, what } => Error::Teacher { path: known(&path), what },
        other => other,
    }
}

/// Fetches the files of a repository.
fn download(endpoint: &str, repository: &str, revision: &str, into: &Path) -> Result<()> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(30)))
        .http_status_as_error(false)
        .build()
        .into();
    for file in FILES.into_iter().chain([TOKENIZER]) {
        let url = format!("{}/{repository}/resolve/{revision}/{file}", endpoint.trim_end_matches('/'));
        let failed = |what: String| Error::Fetch { url: url.clone(), what };
        let advice = "is the hub reachable from here? A folder that was fetched elsewhere can be imported by its path";
        let mut response = agent.get(&url).call().map_err(|e| failed(format!("{e}; {advice}")))?;
        match response.status().as_u16() {
            200 => {}
            // Only CLIP has one.
            404 if file == TOKENIZER => continue,
            401 | 403 | 404 => {
                let what = "there is no such file, or it is not open to everyone; a teacher is a repository with config.json, preprocessor_config.json and model.safetensors";
                return Err(failed(what.to_owned()));
            }
            other => return Err(failed(format!("the hub answers {other}; {advice}"))),
        }
        let length = response.headers().get("content-length").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let path = into.join(file);
        let mut body = response.body_mut().as_reader().take(MOST_BYTES);
        let mut out = fs::File::create(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let found = std::io::copy(&mut body, &mut out).map_err(|e| failed(format!("{e}; {advice}")))?;
        if length.is_some_and(|length| length != found) {
            return Err(failed(format!("{found} bytes came of {}", length.unwrap_or_default())));
        }
        eprintln!("{url}: {found} bytes");
    }
    Ok(())
}
