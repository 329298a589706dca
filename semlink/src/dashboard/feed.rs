//! The images that a page sends: from a data set, at a pace, and never more than a few at a time.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use semlink_proto::v1::{self, ClassifyRequest, ClassifyResponse};
use semlink_transmitter::rate::Rate;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Status};

use super::Dashboard;
use super::codec::told;
use super::curve::Bin;
use super::live::{Decided, Recent};
use super::settings::Settings;
use crate::images::Labelled;

/// Images under way. A link that is slow or away gets no more.
const UNDER_WAY: usize = 16;
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Looked at so often while there is nothing to send.
const REST: Duration = Duration::from_millis(100);

/// How a page's images are to be sent; `None`: not now.
struct Pace {
    pause: Duration,
    rate: Option<Rate>,
}

/// What a frame met, by the version of the channel's profile.
#[derive(Debug, Clone, Copy)]
struct Met {
    channel: &'static str,
    snr_db: f32,
    version: u64,
    scheduled: bool,
}

/// Sends for as long as pages are open.
pub(super) async fn run(dashboard: Arc<Dashboard>) {
    let Some(images) = dashboard.link.dataset.as_ref().map(|data| data.images.len()) else {
        return std::future::pending().await;
    };
    // One of its own, so that what others send is not taken for it.
    let stream = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    for number in 1_u64.. {
        let sent = Instant::now();
        let pace = loop {
            dashboard.is_watched().await;
            match dashboard.settings.with(Pace::of) {
                Some(pace) => break pace,
                None => tokio::time::sleep(REST).await,
            }
        };
        // It is never closed.
        let place = Arc::clone(&room).acquire_owned().await.ok();
        let task = Arc::clone(&dashboard);
        let index = (number as usize - 1) % images;
        let rate = pace.rate;
        tokio::spawn(async move {
            task.send(stream, number, index, rate).await;
            drop(place);
        });
        tokio::select! {
            () = tokio::time::sleep(pace.pause.saturating_sub(sent.elapsed())) => {}
            // What was changed is to be seen.
            () = dashboard.nudge.notified() => {}
        }
    }
}

impl Pace {
    fn of(now: &Settings) -> Option<Pace> {
        if now.feed.paused || now.sweep.running {
            return None;
        }
        Some(Pace { pause: Duration::from_secs_f64(1.0 / now.feed.images_per_second), rate: now.feed.rate })
    }
}

impl Met {
    fn of(now: &Settings) -> Option<Met> {
        let channel = now.channel.as_ref()?;
        let (snr_db, version, scheduled) = (channel.snr_db, channel.version, channel.scheduled);
        Some(Met { channel: channel.kind, snr_db, version, scheduled })
    }
}

impl Dashboard {
    /// One image of the data set.
    async fn send(&self, stream: u64, number: u64, index: usize, rate: Option<Rate>) {
        let Some(image) = self.link.dataset.as_ref().and_then(|data| data.images.get(index)) else { return };
        let request = ClassifyRequest {
            id: number,
            image: image.file.clone(),
            stream,
            label: image.class.index(),
            ..asked(rate)
        };
        let began = Instant::now();
        let answer = self.classify(request).await;
        self.take(number, format!("images/{index}"), Some(image), rate, began, answer);
    }

    /// Sends an image and waits for its answer.
    pub(super) async fn classify(&self, request: ClassifyRequest) -> Result<ClassifyResponse, Status> {
        let mut request = Request::new(request);
        request.set_timeout(PATIENCE);
        let answered = tokio::time::timeout(2 * PATIENCE, self.transmitter.clone().classify(request)).await;
        answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))).map(tonic::Response::into_inner)
    }

    /// Shows an answer.
    pub(super) fn take(
        &self,
        number: u64,
        image: String,
        labelled: Option<&Labelled>,
        rate: Option<Rate>,
        began: Instant,
        answer: Result<ClassifyResponse, Status>,
    ) {
        let now = Instant::now();
        let took = now.duration_since(began);
        let truth = self.settings.with(|now| {
            let labels = now.codec.as_ref().map_or(&[][..], |codec| &codec.labels);
            labelled.map(|image| image.class.name(labels))
        });
        let mut recent = Recent { number, image, truth, decided: None, error: None };
        match answer {
            Ok(answer) => {
                let link = answer.link.unwrap_or_default();
                let decision = answer.decision.unwrap_or_default();
                let right = labelled.map(|image| image.class.is(&decision));
                recent.decided = Some(Decided {
                    label: decision.label,
                    confidence: decision.confidence,
                    unsure: decision.unsure,
                    right,
                    uses: link.uses,
                    milliseconds: took.as_secs_f64() * 1e3,
                });
                let bin = self.settings.with(|now| bin(now, &link, rate));
                self.live.update(|live| {
                    live.answered(recent, &link, took, now);
                    if let (Some(bin), Some(right)) = (bin, right) {
                        live.curve.add(bin, right, link.uses);
                    }
                });
                if self.settings.with(|now| now.link.up != Some(true)) {
                    self.settings.update(|now| now.link.set(Ok(())));
                }
            }
            Err(status) => self.failed(recent, &status, took, now),
        }
    }

    fn failed(&self, mut recent: Recent, status: &Status, took: Duration, now: Instant) {
        let why = told(self.link.to.as_str(), status);
        // Without the address: the head of the page names it.
        recent.error = Some(status.message().to_owned());
        self.live.update(|live| live.answered(recent, &v1::LinkInfo::default(), took, now));
        // A cause: the connection's, not the transmitter's word.
        if std::error::Error::source(status).is_some() {
            self.look.notify_one();
        }
        // Only what says something about the link.
        if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::DataLoss | Code::Unauthenticated)
        {
            self.settings.update(|now| now.link.set(Err(why)));
        }
    }
}

/// A request as the page's setting of the rate has it.
pub(super) fn asked(rate: Option<Rate>) -> ClassifyRequest {
    let uses = match rate {
        Some(Rate::Fixed(uses)) => u32::try_from(uses.get()).ok(),
        _ => None,
    };
    ClassifyRequest { uses, auto: rate == Some(Rate::Auto), ..Default::default() }
}

/// Where on the curve an answer counts; nowhere, where it is not known what its frame met.
fn bin(now: &Settings, link: &v1::LinkInfo, rate: Option<Rate>) -> Option<Bin> {
    let met = Met::of(now)?;
    let snr_db = match (met.scheduled, link.profile_version) {
        // Its schedule decides, and the receiver knows best.
        (true, _) => link.snr_db_estimated?,
        (false, Some(version)) if version == met.version => met.snr_db,
        // The channel has been changed meanwhile.
        (false, _) => return None,
    };
    let rate = match rate {
        Some(rate) => rate.to_string(),
        None => {
            now.codec.as_ref().and_then(|codec| codec.default_uses).map_or_else(|| "auto".to_owned(), |k| k.to_string())
        }
    };
    Some(Bin { channel: met.channel, rate, snr_db: snr_db.round() as i32 })
}
