//! The `ChannelControl` service: the channel, live.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use semlink_proto::v1::{self, channel_control_server::ChannelControl};
use semlink_service::Drain;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use crate::profile::Profile;

/// Shows and changes the profile that frames are sent through.
#[derive(Debug)]
pub(crate) struct ControlService {
    start: Profile,
    profile: watch::Sender<Profile>,
    drain: Drain,
}

impl ControlService {
    /// Resets go back to what `profile` holds now.
    pub(crate) fn new(profile: watch::Sender<Profile>, drain: Drain) -> ControlService {
        let start = *profile.borrow();
        ControlService { start, profile, drain }
    }

    /// Applies a change; concurrent ones one after the other.
    #[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
    fn change(
        &self,
        next: impl FnOnce(&Profile) -> Result<Profile, Status>,
    ) -> Result<Response<v1::ChannelProfile>, Status> {
        let mut result = Ok(self.start);
        self.profile.send_if_modified(|profile| match next(profile) {
            Ok(next) => {
                let modified = next != *profile;
                *profile = next;
                result = Ok(next);
                modified
            }
            Err(status) => {
                result = Err(status);
                false
            }
        });
        result.map(|now| Response::new(now.to_wire()))
    }
}

#[tonic::async_trait]
impl ChannelControl for ControlService {
    type WatchChannelStream = BoxStream<'static, Result<v1::ChannelProfile, Status>>;

    async fn get_channel(
        &self,
        _request: Request<v1::GetChannelRequest>,
    ) -> Result<Response<v1::ChannelProfile>, Status> {
        Ok(Response::new(self.profile.borrow().to_wire()))
    }

    async fn set_channel(
        &self,
        request: Request<v1::SetChannelRequest>,
    ) -> Result<Response<v1::ChannelProfile>, Status> {
        let change = request.into_inner();
        self.change(|profile| profile.with(&change))
    }

    async fn reset_channel(
        &self,
        _request: Request<v1::ResetChannelRequest>,
    ) -> Result<Response<v1::ChannelProfile>, Status> {
        self.change(|profile| Ok(profile.changed_to(self.start)))
    }

    async fn watch_channel(
        &self,
        _request: Request<v1::WatchChannelRequest>,
    ) -> Result<Response<Self::WatchChannelStream>, Status> {
        let profiles = WatchStream::new(self.profile.subscribe()).map(|profile| Ok(profile.to_wire()));
        Ok(Response::new(profiles.take_until(self.drain.started()).boxed()))
    }
}
