//! Stands in for parts of semlink-service until that has them.
#![allow(dead_code, missing_docs, unreachable_pub)]
pub mod peer;
pub(crate) use tokio_util::sync::CancellationToken;
#[derive(Clone, Debug)]
pub(crate) struct Drain(pub(crate) CancellationToken);
impl Drain {
    pub(crate) fn started(&self) -> impl Future<Output = ()> + Send + 'static {
        self.0.clone().cancelled_owned()
    }
}
pub(crate) mod wire {
    use semlink_channel::ChannelKind;
    use semlink_proto::v1;
    use tonic::Status;
    pub(crate) fn try_kind(kind: i32) -> Result<ChannelKind, Status> {
        match v1::ChannelKind::try_from(kind) {
            Ok(v1::ChannelKind::Awgn) => Ok(ChannelKind::Awgn),
            Ok(v1::ChannelKind::Rayleigh) => Ok(ChannelKind::Rayleigh),
            Ok(v1::ChannelKind::Rician) => Ok(ChannelKind::Rician),
            _ => Err(Status::invalid_argument(format!("kind {kind}"))),
        }
    }
    pub(crate) fn error(s: &Status) -> v1::Error {
        v1::Error { code: s.code() as i32, message: s.message().into() }
    }
    pub(crate) fn status(e: &v1::Error) -> Status {
        Status::new(e.code.into(), e.message.clone())
    }
}
