//! The codecs that a receiver holds: those of its bundles, and for each bundle those that it held before, so that transmitters can move from
//! one to the next one by one.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use semlink_channel::pilots::Estimator;
use semlink_codec::{DecoderHalf, Labels};
use semlink_service::Drain;
use semlink_service::batch::Limits;
use semlink_service::metrics::{BatchMetrics, BundleMetrics};
use semlink_service::reload::Directory;
use tonic::Status;

use crate::check::Checker;
use crate::metrics::ReceiverMetrics;
use crate::model::{self, Model, Telling};

/// Characters of a foreign codec id that an error message repeats; a real id is a hash in hexadecimal.
const ID_SHOWN: usize = 80;

/// One codec, ready to decode.
#[derive(Debug)]
pub(crate) struct Codec {
    pub(crate) id: String,
    /// To give it other labels.
    half: DecoderHalf,
    pub(crate) checker: Checker,
    pub(crate) model: Model,
}

/// What every codec is run with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) estimator: Estimator,
    pub(crate) telling: Telling,
    pub(crate) batches: Limits,
    pub(crate) batch_metrics: BatchMetrics,
    /// Codecs that are held of one bundle: the present one and those before it.
    pub(crate) keep: usize,
}

/// All codecs.
#[derive(Debug)]
pub(crate) struct Codecs {
    settings: Settings,
    metrics: ReceiverMetrics,
    bundle_metrics: BundleMetrics,
    /// What is decided among instead of the bundles' classes. Locked while codecs change, so that none comes in with other labels than the rest.
    labels: Mutex<Option<Labels>>,
    /// Of each bundle, the newest first.
    held: RwLock<Vec<Vec<Arc<Codec>>>>,
}

impl Codec {
    fn start(half: DecoderHalf, settings: &Settings) -> Result<Codec, String> {
        let manifest = half.manifest();
        let id = manifest.codec_id.clone();
        let checker = Checker::new(manifest.rates().to_vec(), settings.estimator);
        let model = Model::spawn(half.clone(), settings.telling, settings.batches, settings.batch_metrics.clone())
            .map_err(|error| format!("no thread for the decoder: {error}"))?;
        Ok(Codec { id, half, checker, model })
    }
}

/// The same decoder with these labels, after a real forward pass.
///
/// # Errors
/// The labels are not of the space of its features, or it does not decide among them.
pub(crate) fn label(half: &DecoderHalf, labels: Option<&Labels>) -> Result<DecoderHalf, String> {
    let Some(labels) = labels else { return Ok(half.clone()) };
    let half = half.with_labels(labels).map_err(|error| error.to_string())?;
    model::probe(&half).map_err(|status| status.message().to_owned())?;
    Ok(half)
}

/// Reads a file of labels.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read_labels(path: &Path) -> Result<Labels, String> {
    Labels::read(path).map_err(|error| error.to_string())
}

/// The decoder of this bundle, after a real forward pass.
///
/// # Errors
/// What is wrong with the bundle, or that its decoder does not decode.
pub(crate) fn open(bundle: &Path) -> Result<DecoderHalf, String> {
    let half = DecoderHalf::open(bundle).map_err(|error| error.to_string())?;
    model::probe(&half).map_err(|status| status.message().to_owned())?;
    Ok(half)
}

impl Codecs {
    /// The codecs of these decoders, one for each bundle, which have these labels already.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn new(
        halves: Vec<DecoderHalf>,
        labels: Option<Labels>,
        settings: Settings,
        metrics: ReceiverMetrics,
        bundle_metrics: BundleMetrics,
    ) -> Result<Codecs, String> {
        let start = |half: DecoderHalf| {
            metrics.hold(half.labels().iter().map(String::as_str));
            Codec::start(half, &settings).map(|codec| vec![Arc::new(codec)])
        };
        let held: Vec<_> = halves.into_iter().map(start).collect::<Result<_, _>>()?;
        bundle_metrics.hold(held.iter().flatten().map(|codec| codec.id.as_str()));
        Ok(Codecs { settings, metrics, bundle_metrics, labels: Mutex::new(labels), held: RwLock::new(held) })
    }

    /// The codec of this id.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` with the ids that are held.
    #[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
    pub(crate) fn get(&self, id: &str) -> Result<Arc<Codec>, Status> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(codec) = held.iter().flatten().find(|codec| codec.id == id) {
            return Ok(Arc::clone(codec));
        }
        let other: String = id.chars().take(ID_SHOWN).collect();
        let ids: Vec<String> = held.iter().flatten().map(|codec| format!("{:?}", codec.id)).collect();
        Err(Status::failed_precondition(format!(
            "frame was made with codec {other:?}, this receiver holds codec {}",
            ids.join(", ")
        )))
    }

    /// Takes in the decoder that a bundle has now; the one that it had goes on being held.
    fn take(&self, bundle: usize, half: DecoderHalf) -> Result<(), String> {
        let labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        let half = label(&half, labels.as_ref())?;
        self.metrics.hold(half.labels().iter().map(String::as_str));
        let codec = Arc::new(Codec::start(half, &self.settings)?);
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let Some(of_bundle) = held.get_mut(bundle) else { return Err("no such bundle".to_owned()) };
        // After a rollback of the bundle it is there, but it may have been changed in all but its weights, which its id stands for.
        of_bundle.retain(|before| before.id != codec.id);
        of_bundle.insert(0, codec);
        of_bundle.truncate(self.settings.keep.max(1));
        self.bundle_metrics.hold(held.iter().flatten().map(|codec| codec.id.as_str()));
        Ok(())
    }

    /// Gives all codecs these labels, or none of them. Frames under way are decided among those before.
    fn relabel(&self, new: Labels) -> Result<(), String> {
        let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.held.read().unwrap_or_else(PoisonError::into_inner).clone();
        let start = |codec: &Arc<Codec>| Codec::start(label(&codec.half, Some(&new))?, &self.settings).map(Arc::new);
        let of_bundle = |codecs: &Vec<Arc<Codec>>| codecs.iter().map(start).collect::<Result<Vec<_>, String>>();
        let after = before.iter().map(of_bundle).collect::<Result<Vec<_>, _>>()?;
        self.metrics.hold(new.names().iter().map(String::as_str));
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = after;
        *labels = Some(new);
        Ok(())
    }

    /// Takes in what the file of labels changes to, until the drain begins. A file that cannot be used changes nothing.
    pub(crate) async fn follow_labels(self: Arc<Self>, mut file: Directory, drain: Drain) {
        while let Some(read) = file.next(&drain, read_labels).await {
            let codecs = Arc::clone(&self);
            // Forward passes of all codecs: not on a thread that serves.
            let taken = tokio::task::spawn_blocking(move || {
                let labels = read?;
                let count = labels.names().len();
                codecs.relabel(labels).map(|()| count)
            });
            let labels = file.path().display();
            match taken.await.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(count) => {
                    self.bundle_metrics.reloaded.inc();
                    tracing::info!(%labels, count, "labels taken in");
                }
                Err(why) => {
                    self.bundle_metrics.refused.inc();
                    tracing::warn!(%labels, why, "labels changed, but cannot be decided among; those before them stay");
                }
            }
        }
    }

    /// Takes in what a bundle changes to, until the drain begins. A bundle that cannot be served with changes nothing.
    pub(crate) async fn follow(self: Arc<Self>, bundle: usize, mut directory: Directory, drain: Drain) {
        while let Some(opened) = directory.next(&drain, open).await {
            let taken = opened.and_then(|half| {
                let id = half.codec_id().to_owned();
                self.take(bundle, half).map(|()| id)
            });
            let bundle = directory.path().display();
            match taken {
                Ok(codec_id) => {
                    self.bundle_metrics.reloaded.inc();
                    tracing::info!(%bundle, codec_id, "codec taken in");
                }
                Err(why) => {
                    self.bundle_metrics.refused.inc();
                    tracing::warn!(%bundle, why, "bundle changed, but cannot be served; the codec before it stays");
                }
            }
        }
    }
}
