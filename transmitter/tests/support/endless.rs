//! A stream of images that goes on while a test changes what it runs through.

use std::pin::pin;

use semlink_proto::v1::transmitter_client::TransmitterClient;
use semlink_proto::v1::{ClassifyRequest, ClassifyResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use super::{Service, decided, request};

/// Different images.
pub(crate) const IMAGES: u64 = 12;
/// Images that are under way.
const UNDER_WAY: u64 = 8;

/// What an image is decided to be: its number, class and confidence.
pub(crate) type Decided = (u64, u32, String, u32);

/// The same images again and again: each answer makes room for another image.
pub(crate) struct Endless {
    images: mpsc::UnboundedSender<ClassifyRequest>,
    answers: Streaming<ClassifyResponse>,
    sent: u64,
    answered: u64,
}

impl Endless {
    pub(crate) async fn start(transmitter: &Service) -> Endless {
        let mut client = TransmitterClient::new(transmitter.channel().await);
        let (images, requests) = mpsc::unbounded_channel();
        let answers = client.classify_stream(UnboundedReceiverStream::new(requests)).await.expect("a stream");
        let mut endless = Endless { images, answers: answers.into_inner(), sent: 0, answered: 0 };
        (0..UNDER_WAY).for_each(|_| endless.send());
        endless
    }

    fn send(&mut self) {
        let request = ClassifyRequest { id: self.sent, ..request(self.sent % IMAGES) };
        self.images.send(request).expect("an open stream");
        self.sent += 1;
    }

    /// The next answer, with the id that its image had in the stream.
    async fn answer(&mut self) -> Option<(u64, Decided)> {
        let answer = self.answers.message().await.expect("no error")?;
        self.answered += 1;
        let (id, index, label, confidence) = decided(&answer);
        Some((id, (id % IMAGES, index, label, confidence)))
    }

    /// What is answered while this happens.
    pub(crate) async fn during(&mut self, happens: impl Future<Output = ()>) -> Vec<Decided> {
        let mut happens = pin!(happens);
        let mut seen = Vec::new();
        loop {
            tokio::select! {
                () = &mut happens => return seen,
                answer = self.answer() => seen.push(answer.expect("an open stream").1),
            }
            self.send();
        }
    }

    /// Answers to images that are sent from now on.
    pub(crate) async fn fresh(&mut self) -> Vec<Decided> {
        let (first, mut seen) = (self.sent, Vec::new());
        while seen.len() < IMAGES as usize {
            let (id, answer) = self.answer().await.expect("an open stream");
            self.send();
            if id >= first {
                seen.push(answer);
            }
        }
        seen
    }

    /// Ends the stream and gives the number of its images, each of which was decided.
    pub(crate) async fn stop(mut self) -> u64 {
        // Another stream's: this one's sender is gone.
        self.images = mpsc::unbounded_channel().0;
        while self.answer().await.is_some() {}
        assert_eq!(self.answered, self.sent);
        self.sent
    }
}
