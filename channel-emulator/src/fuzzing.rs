//! What `fuzz/` calls of this crate: a link's settings, a change of them and a frame, as the services treat them, without a next Link.

use semlink_channel::{FrameKey, Library, iq};
use semlink_proto::v1;
use tonic::Status;

use crate::distort::distort;
use crate::links::{LinkConfig, Way, key};
use crate::profile::{Parts, Profile};
use crate::transport::Line;

/// A link without its next hop.
#[derive(Debug)]
pub struct Channel {
    name: String,
    profile: Profile,
}

impl Channel {
    /// Of the settings that `CreateLink` and `PopulateLinks` take.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` as these calls give it.
    #[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
    pub fn new(settings: &v1::LinkSettings, library: Library<'_>) -> Result<Channel, Status> {
        let config = LinkConfig::from_wire(settings)?;
        config.hop(&Way::default()).map_err(Status::invalid_argument)?;
        let LinkConfig { name, csi, seed, stages, transport, schedule, .. } = config;
        let profile = Profile::new(Parts { stages: &stages, csi, seed, transport, schedule }, library);
        Ok(Channel { name, profile: profile.map_err(Status::invalid_argument)? })
    }

    /// After a `SetChannel`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` as this call gives it.
    #[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
    pub fn changed(&self, change: &v1::SetChannelRequest, library: Library<'_>) -> Result<Channel, Status> {
        Ok(Channel { name: self.name.clone(), profile: self.profile.with(change, library)? })
    }

    /// As it is told.
    pub fn to_wire(&self) -> v1::ChannelProfile {
        self.profile.to_wire(&self.name)
    }

    /// Sends a frame through; whether it is lost.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what is no frame.
    #[allow(clippy::result_large_err, reason = "Status is the currency of gRPC services")]
    pub fn pass(&self, frame: &mut v1::Frame) -> Result<bool, Status> {
        let link = key(&self.name, 0);
        let key = FrameKey { seed: self.profile.seed, link, stream: frame.stream, frame: frame.sequence };
        let snr = self.profile.snr(frame.sequence, link);
        let symbols = (frame.symbols.len() + frame.pilots.len()) / iq::SYMBOL_BYTES;
        drop(Line::default().take(&self.profile.transport, key, symbols));
        distort(frame, &self.profile, key, snr, true)?;
        Ok(self.profile.transport.loses(key))
    }

    /// As a recording keeps it.
    pub fn to_json(&self) -> serde_json::Value {
        self.profile.to_json()
    }
}
