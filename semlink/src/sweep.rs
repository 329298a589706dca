//! The core of `sweep` and `demo`: images streamed through a transmitter while the channel is changed live.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures::stream;
use semlink_channel::stats::wilson;
use semlink_channel::{ChannelConfig, ChannelKind, RicianK, SnrDb};
use semlink_proto::v1::channel_control_client::ChannelControlClient;
use semlink_proto::v1::transmitter_client::TransmitterClient;
use semlink_proto::v1::{self, ClassifyRequest, ClassifyResponse, SetChannelRequest};
use semlink_service::peer::NextHop;
use semlink_service::security::Credentials;
use semlink_service::wire;
use semlink_transmitter::rate::Rate;

use crate::channel;
use crate::client::{self, Secured};
use crate::files::{Details, Point, SAMPLES, Shown, Sweep};
use crate::grid::SnrGrid;
use crate::images::{Dataset, Labelled};
use crate::progress::{PointStart, Progress};

/// How long setting the channel back may take after a sweep that failed or was stopped.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(5);

/// Ids of the images that are sent ahead of a point begin here; no image of a data set has them.
const AHEAD: u64 = 1 << 63;
/// Images ahead where the transmitter chooses the rate: as many reports as its rate control takes to follow a rise of the SNR. After 30 dB
/// more, 64 reports leave 0.006 dB.
const SETTLING: usize = 64;

/// What to sweep.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) snr: SnrGrid,
    pub(crate) channels: Vec<ChannelKind>,
    pub(crate) rate: Rate,
}

/// The two services that a sweep talks to.
#[derive(Debug)]
pub(crate) struct Peers {
    transmitter: TransmitterClient<Secured>,
    control: ChannelControlClient<Secured>,
    to: String,
    control_url: String,
    /// Of the emulator; empty: its default one.
    link: String,
}

/// What the answers of one point add up to.
#[derive(Debug, Default)]
struct Tally {
    correct: usize,
    uses: u64,
    pilots: u64,
    side_information_bits: u64,
    snr_db: f64,
    snr_known: usize,
    details: Details,
}

impl Peers {
    /// Connects to a transmitter and to the control of the emulator behind it.
    pub(crate) async fn connect(to: &NextHop, control: &NextHop, credentials: &Credentials) -> Result<Peers> {
        Ok(Peers {
            transmitter: TransmitterClient::new(client::connect(to, credentials).await?),
            control: ChannelControlClient::new(client::connect(control, credentials).await?),
            to: to.as_str().to_owned(),
            control_url: control.as_str().to_owned(),
            link: String::new(),
        })
    }

    /// The same for another of the emulator's links: that which the transmitter's frames take.
    pub(crate) fn with_link(self, link: &str) -> Peers {
        Peers { link: link.to_owned(), ..self }
    }
}

/// Measures every point of `plan` with every image of `dataset`, then sets the channel back to what it was before: also when the sweep
/// fails, and when `stop` ends it.
///
/// Each point has a stream number of its own and its images count from 0, so that a repeated sweep meets the same noise.
pub(crate) async fn run(
    peers: &mut Peers,
    plan: &Plan,
    dataset: &Dataset,
    codec_id: Option<String>,
    progress: &mut dyn Progress,
    stop: impl Future<Output = ()>,
) -> Result<Sweep> {
    let before = peers.get().await?;
    let measured = tokio::select! {
        // First, so that signals are listened for before anything is changed.
        biased;
        () = stop => Err(anyhow!("stopped before the end; nothing was written")),
        measured = measure(peers, plan, dataset, progress) => measured,
    };
    let restored = tokio::time::timeout(RESTORE_TIMEOUT, peers.set(restore(&before))).await;
    let restored = restored.unwrap_or_else(|_| Err(anyhow!("{}: no answer", peers.control_url)));
    let points = match (measured, restored) {
        (Ok(points), Ok(_)) => points,
        (Err(error), Ok(_)) => return Err(error),
        (Ok(_), Err(lost)) => return Err(lost.context("the channel could not be set back")),
        (Err(error), Err(lost)) => return Err(anyhow!("{error:#}; the channel could not be set back: {lost:#}")),
    };
    Ok(Sweep { codec_id, dataset: dataset.name.clone(), points })
}

async fn measure(peers: &mut Peers, plan: &Plan, dataset: &Dataset, progress: &mut dyn Progress) -> Result<Vec<Point>> {
    let grid: Vec<(ChannelKind, SnrDb)> =
        plan.channels.iter().flat_map(|kind| plan.snr.points().iter().map(|snr| (*kind, *snr))).collect();
    let (all, images) = (grid.len(), dataset.images.len());
    let mut points = Vec::with_capacity(all);
    for (number, (kind, snr)) in (1..).zip(grid) {
        let change =
            SetChannelRequest { kind: Some(wire::kind(kind).into()), snr_db: Some(snr.db()), ..Default::default() };
        let profile = peers.set(change).await?;
        progress.point_started(&PointStart { channel: kind, snr, place: points.len(), points: all, images });
        let point = peers.point(&profile, plan.rate, number, &dataset.images, progress).await;
        let point = point.with_context(|| format!("{kind} at {} dB", snr.db()))?;
        progress.point_done(&point);
        points.push(point);
    }
    Ok(points)
}

impl Peers {
    async fn get(&mut self) -> Result<v1::ChannelProfile> {
        let got = self.control.get_channel(v1::GetChannelRequest { link: self.link.clone() }).await;
        Ok(got.map_err(|status| client::failed(&self.control_url, &status))?.into_inner())
    }

    async fn set(&mut self, change: SetChannelRequest) -> Result<v1::ChannelProfile> {
        let change = SetChannelRequest { link: self.link.clone(), ..change };
        let set = self.control.set_channel(change).await;
        Ok(set.map_err(|status| client::failed(&self.control_url, &status))?.into_inner())
    }

    /// Streams all images once.
    async fn point(
        &mut self,
        profile: &v1::ChannelProfile,
        rate: Rate,
        number: u64,
        images: &[Labelled],
        progress: &mut dyn Progress,
    ) -> Result<Point> {
        let (uses, auto) = match rate {
            Rate::Auto => (None, true),
            Rate::Fixed(uses) => (Some(u32::try_from(uses.get())?), false),
        };
        let request = |id: u64, image: &Labelled| ClassifyRequest {
            id,
            image: image.file.clone(),
            stream: number,
            uses,
            auto,
            ..Default::default()
        };
        // Images ahead, not counted: their reports tell the transmitter what the channel is now, before the first image that counts.
        let ahead = if rate == Rate::Auto { SETTLING } else { 1 };
        for (id, image) in (AHEAD..).zip(images.iter().cycle().take(ahead)) {
            let answered = self.transmitter.classify(request(id, image)).await;
            answered.map_err(|status| client::failed(&self.to, &status))?;
        }
        // With its class, so that the transmitter's own metrics know the accuracy, too.
        let labelled =
            |(id, image): (u64, &Labelled)| ClassifyRequest { label: image.class.index(), ..request(id, image) };
        let requests: Vec<ClassifyRequest> = (0..).zip(images).map(labelled).collect();
        let start = Instant::now();
        let answers = self.transmitter.classify_stream(stream::iter(requests)).await;
        let mut answers = answers.map_err(|status| client::failed(&self.to, &status))?.into_inner();
        let mut missing: HashMap<u64, &Labelled> = (0..).zip(images).collect();
        let mut tally = Tally::default();
        while let Some(answer) = answers.message().await.map_err(|status| client::failed(&self.to, &status))? {
            let image = missing.remove(&answer.id);
            let image = image.with_context(|| format!("{}: an answer with unknown id {}", self.to, answer.id))?;
            let right = tally.add(image, &answer)?;
            progress.answered(right);
        }
        let seconds = start.elapsed().as_secs_f64();
        ensure!(missing.is_empty(), "{}: {} of {} images were not answered", self.to, missing.len(), images.len());
        tally.point(profile, images.len(), seconds)
    }
}

impl Tally {
    /// Gives whether the decision was right.
    fn add(&mut self, image: &Labelled, answer: &ClassifyResponse) -> Result<bool> {
        if let Some(error) = &answer.error {
            bail!("{}: {}", image.name, error.message);
        }
        let decision =
            answer.decision.as_ref().with_context(|| format!("{}: an answer without decision", image.name))?;
        let right = image.class.is(decision);
        self.correct += usize::from(right);
        let details = &mut self.details;
        *details.decided.entry((image.class.clone(), decision.index)).or_default() += 1;
        details.names.entry(decision.index).or_insert_with(|| decision.label.clone());
        details.reliability.push(decision.confidence, right);
        if let Some(place) = usize::try_from(answer.id).ok().filter(|place| *place < SAMPLES) {
            details.samples.resize((place + 1).max(details.samples.len()), None);
            let shown = Shown { label: decision.label.clone(), confidence: decision.confidence, right };
            details.samples[place] = Some(shown);
        }
        let link = answer.link.unwrap_or_default();
        self.uses += u64::from(link.uses);
        self.pilots += u64::from(link.pilots);
        self.side_information_bits += u64::from(link.side_information_bits);
        if let Some(snr_db) = link.snr_db_estimated {
            self.snr_db += f64::from(snr_db);
            self.snr_known += 1;
        }
        Ok(right)
    }

    fn point(mut self, profile: &v1::ChannelProfile, images: usize, seconds: f64) -> Result<Point> {
        self.details.profile = channel::describe(profile);
        let channel = ChannelConfig {
            kind: wire::try_kind(profile.kind).map_err(|status| anyhow!("{}", status.message()))?,
            snr: SnrDb::try_new(profile.snr_db)?,
            k_factor: RicianK::try_new_db(profile.k_factor_db)?,
            coherence: profile.coherence as usize,
        };
        let n = images as f64;
        let accuracy = self.correct as f64 / n;
        Ok(Point {
            channel: channel.kind,
            snr_db: profile.snr_db,
            k: self.uses as f64 / n,
            pilots: self.pilots as f64 / n,
            side_information_bits: self.side_information_bits as f64 / n,
            csi: client::csi_name(profile.csi()).to_owned(),
            images,
            correct: self.correct,
            accuracy,
            ci95: wilson(accuracy, images),
            snr_db_measured: (self.snr_known > 0).then(|| self.snr_db / self.snr_known as f64),
            images_per_second: n / seconds.max(1e-9),
            config: channel,
            details: self.details,
        })
    }
}

/// The change that leads back to a profile.
fn restore(profile: &v1::ChannelProfile) -> SetChannelRequest {
    SetChannelRequest {
        link: profile.link.clone(),
        stages: profile.stages.clone(),
        schedule: Some(profile.schedule.clone().unwrap_or_default()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::Class;

    #[test]
    fn a_point_counts_by_index_and_label_and_averages_the_reported_snr() {
        let image = |class| Labelled { name: "x.png".into(), file: Vec::new().into(), class };
        let answer = |snr_db_estimated, uses| ClassifyResponse {
            decision: Some(v1::Decision { index: 2, label: "coat".into(), confidence: 0.5, ..Default::default() }),
            link: Some(v1::LinkInfo {
                uses,
                pilots: 4,
                snr_db_estimated,
                side_information_bits: 3,
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut tally = Tally::default();
        tally.add(&image(Class::Index(2)), &answer(Some(4.0), 64)).unwrap();
        tally.add(&image(Class::Index(1)), &answer(None, 32)).unwrap();
        tally.add(&image(Class::Label("coat".into())), &answer(Some(6.0), 64)).unwrap();
        tally.add(&image(Class::Label("shirt".into())), &answer(Some(5.0), 32)).unwrap();
        let profile = v1::ChannelProfile { kind: 2, snr_db: 5.0, csi: 1, ..Default::default() };
        let point = tally.point(&profile, 4, 2.0).unwrap();
        assert_eq!((point.channel, point.csi.as_str()), (ChannelKind::Rayleigh, "perfect"));
        assert_eq!((point.correct, point.accuracy, point.images_per_second), (2, 0.5, 2.0));
        assert_eq!((point.k, point.pilots, point.snr_db_measured), (48.0, 4.0, Some(5.0)));
        assert_eq!(point.side_information_bits, 3.0);
        let details = point.details;
        let decided: Vec<_> = details.decided.into_iter().collect();
        let label = |label: &str| Class::Label(label.into());
        assert_eq!(
            decided,
            [((Class::Index(1), 2), 1), ((Class::Index(2), 2), 1), ((label("coat"), 2), 1), ((label("shirt"), 2), 1)]
        );
        // Four decisions at 0.5, two of them right.
        assert_eq!((details.reliability.total(), details.reliability.error()), (4, 0.0));
        assert_eq!(details.names.get(&2).map(String::as_str), Some("coat"));
        let error =
            ClassifyResponse { error: Some(v1::Error { code: 3, message: "no image".into() }), ..Default::default() };
        let refused = Tally::default().add(&image(Class::Index(0)), &error).unwrap_err();
        assert_eq!(refused.to_string(), "x.png: no image");
    }
}
