//! Stands in for parts of semlink-service until that has them.
#![allow(dead_code, missing_docs, unreachable_pub)]
use semlink_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;

pub(crate) struct Shell(Drain);

#[derive(Clone, Debug)]
pub(crate) struct Drain(CancellationToken);

impl Drain {
    pub(crate) fn started(&self) -> impl Future<Output = ()> + Send + 'static {
        self.0.clone().cancelled_owned()
    }
}

impl Shell {
    pub(crate) fn new() -> Shell {
        Shell(Drain(CancellationToken::new()))
    }

    pub(crate) fn drain(&self) -> Drain {
        self.0.clone()
    }

    pub(crate) async fn serve(
        self,
        listener: tokio::net::TcpListener,
        link: v1::link_server::LinkServer<crate::link::LinkService>,
        decisions: v1::decisions_server::DecisionsServer<crate::decisions::DecisionsService>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let names = ["", "semlink.v1.Link", "semlink.v1.Decisions"];
        for name in names {
            reporter.set_service_status(name, ServingStatus::Serving).await;
        }
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(semlink_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .ok();
        let drain = self.0.0;
        tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .add_service(health)
            .add_optional_service(reflection)
            .add_service(link)
            .add_service(decisions)
            .serve_with_incoming_shutdown(tokio_stream::wrappers::TcpListenerStream::new(listener), async {
                shutdown.await;
                for name in names {
                    reporter.set_service_status(name, ServingStatus::NotServing).await;
                }
                drain.cancel();
            })
            .await
    }
}

pub(crate) mod wire {
    use semlink_channel::{ChannelKind, ChannelState, Complex32, iq};
    use semlink_proto::v1;
    use tonic::Status;
    pub(crate) fn symbols(field: &str, bytes: &[u8]) -> Result<Vec<Complex32>, Status> {
        iq::decode(bytes).map_err(|e| Status::invalid_argument(format!("{field}: {e}")))
    }
    pub(crate) fn kind(kind: ChannelKind) -> v1::ChannelKind {
        match kind {
            ChannelKind::Awgn => v1::ChannelKind::Awgn,
            ChannelKind::Rayleigh => v1::ChannelKind::Rayleigh,
            ChannelKind::Rician => v1::ChannelKind::Rician,
        }
    }
    pub(crate) fn error(s: &Status) -> v1::Error {
        v1::Error { code: s.code() as i32, message: s.message().into() }
    }
    pub(crate) fn state(csi: &v1::ChannelState, n: usize) -> Result<ChannelState, Status> {
        let kind = match v1::ChannelKind::try_from(csi.kind) {
            Ok(v1::ChannelKind::Awgn) => ChannelKind::Awgn,
            Ok(v1::ChannelKind::Rayleigh) => ChannelKind::Rayleigh,
            Ok(v1::ChannelKind::Rician) => ChannelKind::Rician,
            _ => return Err(Status::invalid_argument(format!("kind {}", csi.kind))),
        };
        let state = ChannelState {
            kind,
            h: symbols("h", &csi.h)?,
            coherence: csi.coherence as usize,
            noise_var: csi.noise_var,
        };
        state.validate(n).map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(state)
    }
}
