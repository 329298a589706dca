//! The client: images, streams of them, and what became of each.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::stream;
use image::imageops::{self, FilterType};
use image::{ExtendedColorType, GrayImage, ImageEncoder as _, codecs::png::PngEncoder};
use semlink_codec::images::idx;
use semlink_proto::v1::transmitter_client::TransmitterClient;
use semlink_proto::v1::{ClassifyRequest, ClassifyResponse};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::results::root;

/// Encoded images and their classes.
pub(crate) struct Images(Vec<(Bytes, u32)>);

/// The numbers of the images that are sent, each once.
pub(crate) struct Ids {
    next: AtomicU64,
    end: AtomicU64,
}

/// What became of the images.
#[derive(Default)]
pub(crate) struct Answers {
    decided: AtomicU64,
    correct: AtomicU64,
    failed: AtomicU64,
    codes: Mutex<BTreeMap<i32, u64>>,
    /// Answers to each id; empty where they are not counted.
    times: Vec<AtomicU8>,
    /// Answers to ids that were never sent, where they are counted.
    unknown: AtomicU64,
}

/// How many ids had no answer, one, and more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) never: u64,
    pub(crate) once: u64,
    pub(crate) more: u64,
}

/// Streams of images, each with some under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streams {
    pub(crate) streams: usize,
    /// Over which they are spread.
    pub(crate) connections: usize,
    /// Of each stream.
    pub(crate) outstanding: usize,
}

impl Images {
    /// The sample in the repository, as PNG files.
    pub(crate) fn sample() -> Result<Images> {
        Images::enlarged(1)
    }

    /// The same, each pixel a square of this side.
    pub(crate) fn enlarged(side: u32) -> Result<Images> {
        let sample = root().join("assets/sample");
        let (images, labels) = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz");
        let read = idx::read(&sample.join(images), &sample.join(labels), 10)?;
        let (width, height) = (u32::try_from(read.width)?, u32::try_from(read.height)?);
        let encode = |(index, label): (usize, &u8)| {
            let mut file = Cursor::new(Vec::new());
            let pixels = read.image(index).context("fewer images than labels")?.to_vec();
            let pixels = GrayImage::from_raw(width, height, pixels).context("an image of another size")?;
            let (width, height) = (width * side, height * side);
            let pixels = imageops::resize(&pixels, width, height, FilterType::Nearest);
            PngEncoder::new(&mut file).write_image(&pixels, width, height, ExtendedColorType::L8)?;
            Ok((Bytes::from(file.into_inner()), u32::from(*label)))
        };
        let images = read.labels.iter().enumerate().map(encode).collect::<Result<Vec<_>>>()?;
        ensure!(!images.is_empty(), "the sample is empty");
        Ok(Images(images))
    }

    /// Of an image file, on average.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|(file, _)| file.len()).sum::<usize>() / self.0.len()
    }

    /// Images of the sample come again and again.
    fn of(&self, id: u64) -> &(Bytes, u32) {
        &self.0[(id % self.0.len() as u64) as usize]
    }

    pub(crate) fn request(&self, id: u64) -> ClassifyRequest {
        ClassifyRequest { id, image: self.of(id).0.clone(), ..Default::default() }
    }
}

impl Ids {
    /// From 0, `count` of them.
    pub(crate) fn first(count: u64) -> Arc<Ids> {
        Arc::new(Ids { next: AtomicU64::new(0), end: AtomicU64::new(count) })
    }

    /// Until [`Ids::stop`].
    pub(crate) fn endless() -> Arc<Ids> {
        Ids::first(u64::MAX)
    }

    pub(crate) fn take(&self) -> Option<u64> {
        let end = self.end.load(Ordering::Acquire);
        self.next.fetch_update(Ordering::AcqRel, Ordering::Acquire, |next| (next < end).then_some(next + 1)).ok()
    }

    pub(crate) fn stop(&self) {
        self.end.store(0, Ordering::Release);
    }

    /// Those taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }
}

impl Answers {
    /// Answers to the ids below `count` are counted for each.
    pub(crate) fn to_each(count: u64) -> Answers {
        Answers { times: (0..count).map(|_| AtomicU8::new(0)).collect(), ..Answers::default() }
    }

    pub(crate) fn take(&self, images: &Images, response: &ClassifyResponse) {
        match usize::try_from(response.id).ok().and_then(|id| self.times.get(id)) {
            // No more than 255 are told apart.
            Some(times) => drop(times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_add(1))),
            None => drop(self.unknown.fetch_add(1, Ordering::Relaxed)),
        }
        match &response.decision {
            Some(decision) => {
                let correct = decision.index == images.of(response.id).1;
                self.correct.fetch_add(u64::from(correct), Ordering::Relaxed);
                self.decided.fetch_add(1, Ordering::Relaxed);
            }
            None => self.fail(response.error.as_ref().map_or(Code::Unknown as i32, |error| error.code)),
        }
    }

    pub(crate) fn fail(&self, code: i32) {
        *self.codes.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn decided(&self) -> u64 {
        self.decided.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn answered(&self) -> u64 {
        self.decided() + self.failed()
    }

    /// Share of the decisions that are right.
    pub(crate) fn accuracy(&self) -> f64 {
        self.correct.load(Ordering::Relaxed) as f64 / self.decided() as f64
    }

    /// Errors by code, as a note tells them.
    pub(crate) fn errors(&self) -> String {
        let codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        let each: Vec<_> = codes.iter().map(|(code, count)| format!("{count} {:?}", Code::from(*code))).collect();
        if each.is_empty() { "no errors".to_owned() } else { format!("errors: {}", each.join(", ")) }
    }

    /// Of the ids that are counted.
    pub(crate) fn times(&self) -> Times {
        let count = |range: std::ops::RangeInclusive<u8>| {
            self.times.iter().filter(|times| range.contains(&times.load(Ordering::Relaxed))).count() as u64
        };
        Times {
            never: count(0..=0),
            once: count(1..=1),
            more: count(2..=u8::MAX) + self.unknown.load(Ordering::Relaxed),
        }
    }
}

/// Channels to a service.
pub(crate) async fn connect(url: &str, connections: usize) -> Result<Vec<Channel>> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true);
    let mut channels = Vec::with_capacity(connections);
    for _ in 0..connections {
        channels.push(endpoint.connect().await.with_context(|| url.to_owned())?);
    }
    Ok(channels)
}

impl Streams {
    /// Sends all ids that there are; ends when each stream has ended, with the first failure of one if any failed.
    pub(crate) async fn run(
        self,
        url: &str,
        images: &Arc<Images>,
        ids: &Arc<Ids>,
        answers: &Arc<Answers>,
    ) -> Result<()> {
        let channels = connect(url, self.connections).await?;
        let mut streams = JoinSet::new();
        for (_, channel) in (0..self.streams).zip(channels.iter().cycle()) {
            let (images, ids, answers) = (Arc::clone(images), Arc::clone(ids), Arc::clone(answers));
            streams.spawn(drive(channel.clone(), self.outstanding, images, ids, answers));
        }
        let mut outcome = Ok(());
        while let Some(ended) = streams.join_next().await {
            outcome = outcome.and(ended?);
        }
        outcome
    }
}

async fn drive(
    channel: Channel,
    outstanding: usize,
    images: Arc<Images>,
    ids: Arc<Ids>,
    answers: Arc<Answers>,
) -> Result<()> {
    let (ask, asked) = mpsc::channel(outstanding);
    for _ in 0..outstanding {
        ask.send(()).await?;
    }
    let requests = stream::unfold(asked, {
        let images = Arc::clone(&images);
        move |mut asked| {
            let (images, ids) = (Arc::clone(&images), Arc::clone(&ids));
            async move {
                asked.recv().await?;
                Some((images.request(ids.take()?), asked))
            }
        }
    });
    let mut responses = TransmitterClient::new(channel).classify_stream(requests).await?.into_inner();
    while let Some(response) = responses.message().await? {
        answers.take(&images, &response);
        // It fails at the end, when nothing is sent any more.
        ask.send(()).await.ok();
    }
    Ok(())
}

/// Images decided per second in each of `periods` windows, after a warm-up.
pub(crate) async fn rates(
    answers: &Answers,
    warm_up: Duration,
    period: Duration,
    periods: usize,
    mut started: impl FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    tokio::time::sleep(warm_up).await;
    started()?;
    let mut before = (Instant::now(), answers.decided());
    let mut rates = Vec::with_capacity(periods);
    for _ in 0..periods {
        tokio::time::sleep(period).await;
        let after = (Instant::now(), answers.decided());
        rates.push((after.1 - before.1) as f64 / (after.0 - before.0).as_secs_f64());
        before = after;
    }
    Ok(rates)
}

#[cfg(test)]
mod tests {
    use semlink_proto::v1::{Decision, Error};

    use super::*;

    #[test]
    fn ids_are_given_out_once_and_end() {
        let ids = Ids::first(3);
        let taken: Vec<_> = std::iter::from_fn(|| ids.take()).collect();
        assert_eq!((taken, ids.taken()), (vec![0, 1, 2], 3));
        let ids = Ids::endless();
        assert_eq!(ids.take(), Some(0));
        ids.stop();
        assert_eq!((ids.take(), ids.taken()), (None, 1));
    }

    #[test]
    fn answers_are_counted_by_id_and_by_code() {
        let images = Images(vec![(Bytes::new(), 7)]);
        let answers = Answers::to_each(4);
        let decision = |id, index| ClassifyResponse {
            id,
            decision: Some(Decision { index, ..Default::default() }),
            ..Default::default()
        };
        let error = Some(Error { code: Code::Unavailable as i32, message: String::new() });
        answers.take(&images, &decision(0, 7));
        answers.take(&images, &decision(1, 6));
        answers.take(&images, &decision(1, 7));
        answers.take(&images, &ClassifyResponse { id: 2, error, ..Default::default() });
        answers.take(&images, &decision(9, 7));
        assert_eq!(answers.times(), Times { never: 1, once: 2, more: 2 });
        assert_eq!((answers.decided(), answers.failed(), answers.accuracy()), (4, 1, 0.75));
        assert_eq!(answers.errors(), "errors: 1 Unavailable");
    }

    #[test]
    fn the_sample_is_the_shipped_one() {
        let images = Images::sample().expect("the sample");
        let request = images.request(1001);
        assert_eq!((request.id, images.0.len()), (1001, 1000));
        let pixels = image::load_from_memory(&request.image).expect("a PNG file").into_luma8();
        assert_eq!(pixels.dimensions(), (28, 28));
        assert_eq!(images.request(1).image, request.image);
    }
}
