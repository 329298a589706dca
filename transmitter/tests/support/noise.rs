//! A Link that adds seeded noise to each frame and passes it on, with perfect channel state: all of an emulator that these tests need.

use futures::{StreamExt as _, stream::BoxStream};
use semlink_channel::{ChannelConfig, FrameKey, SnrDb, iq};
use semlink_proto::v1::{self, link_client::LinkClient, link_server};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::Service;

const SEED: u64 = 11;
const VERSION: u64 = 3;

struct Noise {
    next: String,
    channel: ChannelConfig,
}

/// Starts the stand-in in front of `next`.
pub(crate) async fn start(next: String, snr_db: f32) -> Service {
    let channel = ChannelConfig::awgn(SnrDb::try_new(snr_db).expect("an SNR"));
    Service::start(|listener, shutdown| async move {
        tonic::transport::Server::builder()
            .add_service(link_server::LinkServer::new(Noise { next, channel }))
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), shutdown.asked())
            .await
            .expect("a served Link");
    })
    .await
}

fn pass(channel: &ChannelConfig, mut frame: v1::Frame) -> v1::Frame {
    let mut symbols = iq::decode(&frame.symbols).expect("whole symbols");
    let key = FrameKey { seed: SEED, link: 0, stream: frame.stream, frame: frame.sequence };
    let applied = channel.apply(key, &mut symbols);
    frame.symbols = iq::encode(&symbols).into();
    frame.csi = Some(v1::ChannelState {
        kind: v1::ChannelKind::Awgn.into(),
        h: iq::encode(&applied.state.h).into(),
        coherence: 0,
        noise_var: applied.state.noise_var,
    });
    frame.truth = Some(v1::ChannelTruth {
        snr_db_requested: channel.snr.db(),
        snr_db_realised: applied.snr_db_realised,
        seed: SEED,
        profile_version: VERSION,
    });
    frame
}

#[tonic::async_trait]
impl link_server::Link for Noise {
    type TransmitStream = BoxStream<'static, Result<v1::FrameReport, Status>>;

    async fn transmit(&self, request: Request<Streaming<v1::Frame>>) -> Result<Response<Self::TransmitStream>, Status> {
        let channel = self.channel;
        let frames = request
            .into_inner()
            .scan((), |(), frame| std::future::ready(frame.ok()))
            .map(move |frame| pass(&channel, frame));
        let mut next = LinkClient::connect(self.next.clone()).await.map_err(|e| Status::unavailable(e.to_string()))?;
        Ok(Response::new(next.transmit(frames).await?.into_inner().boxed()))
    }
}
