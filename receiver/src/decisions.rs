//! The `Decisions` service: what was decided, for consumers on the server side.

use futures::{StreamExt as _, stream::BoxStream};
use semlink_proto::v1::{self, decisions_server::Decisions};
use semlink_service::Drain;
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tonic::{Request, Response, Status};

use crate::metrics::ReceiverMetrics;

/// Where decisions are announced; never waits for a consumer.
#[derive(Debug, Clone)]
pub(crate) struct Broadcast {
    events: broadcast::Sender<v1::DecisionEvent>,
    metrics: ReceiverMetrics,
}

/// Streams the decisions made from now on.
///
/// A consumer may lag behind by a bounded number of decisions. One that lags further loses the oldest and is told so: its stream ends
/// with `DATA_LOSS` naming the number, and it may subscribe again.
#[derive(Debug)]
pub(crate) struct DecisionsService {
    events: Broadcast,
    drain: Drain,
}

impl Broadcast {
    /// Consumers may lag behind by `lag` decisions.
    pub(crate) fn new(lag: usize, metrics: ReceiverMetrics) -> Broadcast {
        Broadcast { events: broadcast::Sender::new(lag.max(1)), metrics }
    }

    /// Announces the decision of a frame, if anybody listens.
    pub(crate) fn publish(&self, frame: &v1::Frame, report: &v1::FrameReport) {
        if self.events.receiver_count() == 0 {
            return;
        }
        // A failed send: the last consumer left meanwhile.
        let _ = self.events.send(v1::DecisionEvent {
            frame_id: frame.id,
            stream: frame.stream,
            sequence: frame.sequence,
            codec_id: frame.codec_id.clone(),
            decision: report.decision.clone(),
            uses: report.uses,
            snr_db_estimated: report.snr_db_estimated,
            origin: frame.origin,
            number: frame.number,
        });
    }

    fn events(&self) -> impl futures::Stream<Item = Result<v1::DecisionEvent, Status>> + use<> {
        let (metrics, subscriber) = (self.metrics.clone(), self.metrics.subscribe());
        BroadcastStream::new(self.events.subscribe())
            .map(move |event| {
                event.map_err(|BroadcastStreamRecvError::Lagged(lost)| {
                    metrics.lost(lost);
                    Status::data_loss(format!("{lost} decisions lost: this consumer reads too slowly; subscribe again"))
                })
            })
            .scan(false, move |ended, event| {
                // Counted as long as the stream is open.
                let _ = &subscriber;
                let item = (!*ended).then(|| {
                    *ended = event.is_err();
                    event
                });
                futures::future::ready(item)
            })
    }
}

impl DecisionsService {
    pub(crate) fn new(events: Broadcast, drain: Drain) -> DecisionsService {
        DecisionsService { events, drain }
    }
}

#[tonic::async_trait]
impl Decisions for DecisionsService {
    type SubscribeStream = BoxStream<'static, Result<v1::DecisionEvent, Status>>;

    async fn subscribe(
        &self,
        _request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let events = self.events.events().take_until(self.drain.started());
        Ok(Response::new(events.boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(broadcast: &Broadcast, sequence: u64) {
        let frame = v1::Frame { sequence, ..Default::default() };
        broadcast.publish(&frame, &v1::FrameReport::default());
    }

    #[tokio::test]
    async fn a_consumer_sees_what_is_decided_after_it_subscribed() {
        let broadcast = Broadcast::new(8, ReceiverMetrics::default());
        publish(&broadcast, 1);
        let events = broadcast.events();
        for sequence in 2..5 {
            publish(&broadcast, sequence);
        }
        drop(broadcast);
        let seen: Vec<u64> = events.map(|event| event.expect("no lag").sequence).collect().await;
        assert_eq!(seen, [2, 3, 4]);
    }

    #[tokio::test]
    async fn a_consumer_that_lags_too_far_is_told_how_much_it_lost() {
        let broadcast = Broadcast::new(8, ReceiverMetrics::default());
        let mut events = std::pin::pin!(broadcast.events());
        for sequence in 0..11 {
            publish(&broadcast, sequence);
        }
        let status = events.next().await.expect("an item").expect_err("3 of 11 are lost");
        assert_eq!(status.code(), tonic::Code::DataLoss);
        assert!(status.message().contains("3 decisions lost"), "{status}");
        assert!(events.next().await.is_none());
    }
}
