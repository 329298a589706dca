//! The `ChannelControl` service: links and their channels, live.

use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use semlink_proto::v1::{self, channel_control_server::ChannelControl};
use semlink_service::Drain;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use crate::links::{LinkConfig, Links, responses};
use crate::record::Recording;
use crate::watch;

/// Shows and changes the links, and the profiles that their frames are sent through.
#[derive(Debug)]
pub(crate) struct ControlService {
    links: Arc<Links>,
    drain: Drain,
}

impl ControlService {
    pub(crate) fn new(links: Arc<Links>, drain: Drain) -> ControlService {
        ControlService { links, drain }
    }
}

/// Files are read and links checked on a thread for such work, so that a slow disk holds up no frames.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Status> + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))?
}

#[tonic::async_trait]
impl ChannelControl for ControlService {
    type WatchChannelStream = BoxStream<'static, Result<v1::ChannelProfile, Status>>;
    type WatchFramesStream = BoxStream<'static, Result<v1::FrameSample, Status>>;

    async fn get_channel(
        &self,
        request: Request<v1::GetChannelRequest>,
    ) -> Result<Response<v1::ChannelProfile>, Status> {
        let link = self.links.get(&request.get_ref().link)?;
        let profile = link.profile.borrow().to_wire(&link.name);
        Ok(Response::new(profile))
    }

    async fn set_channel(
        &self,
        request: Request<v1::SetChannelRequest>,
    ) -> Result<Response<v1::ChannelProfile>, Status> {
        let change = request.into_inner();
        let link = self.links.get(&change.link)?;
        let recordings = self.links.recordings.clone();
        // Not given up half-way when the client leaves.
        let changed = blocking(move || {
            let library = |name: &str| responses(recordings.as_deref(), name);
            link.change(|profile| profile.with(&change, &library))
        });
        changed.await.map(Response::new)
    }

    async fn reset_channel(
        &self,
        request: Request<v1::ResetChannelRequest>,
    ) -> Result<Response<v1::ChannelProfile>, Status> {
        let link = self.links.get(&request.get_ref().link)?;
        link.change(|profile| Ok(profile.changed_to(link.start().clone()))).map(Response::new)
    }

    async fn watch_channel(
        &self,
        request: Request<v1::WatchChannelRequest>,
    ) -> Result<Response<Self::WatchChannelStream>, Status> {
        let link = self.links.get(&request.get_ref().link)?;
        let (name, gone) = (link.name.clone(), link.gone.started());
        let profiles = WatchStream::new(link.profile.subscribe()).map(move |profile| Ok(profile.to_wire(&name)));
        Ok(Response::new(profiles.take_until(gone).take_until(self.drain.started()).boxed()))
    }

    async fn watch_frames(
        &self,
        request: Request<v1::WatchFramesRequest>,
    ) -> Result<Response<Self::WatchFramesStream>, Status> {
        let v1::WatchFramesRequest { link, max_per_second } = request.into_inner();
        let link = self.links.get(&link)?;
        let pause = watch::pause(max_per_second).map_err(Status::invalid_argument)?;
        let gone = link.gone.started();
        let samples = watch::samples(link, pause).map(Ok);
        Ok(Response::new(samples.take_until(gone).take_until(self.drain.started()).boxed()))
    }

    async fn create_link(&self, request: Request<v1::CreateLinkRequest>) -> Result<Response<v1::LinkState>, Status> {
        let settings = request.into_inner().link.ok_or_else(|| Status::invalid_argument("link is missing"))?;
        let config = LinkConfig::from_wire(&settings)?;
        let links = Arc::clone(&self.links);
        let created = blocking(move || {
            let link = links.build(&config).map_err(Status::invalid_argument)?;
            let state = link.to_wire();
            links.insert(link)?;
            Ok(state)
        });
        created.await.map(Response::new)
    }

    async fn delete_link(
        &self,
        request: Request<v1::DeleteLinkRequest>,
    ) -> Result<Response<v1::DeleteLinkResponse>, Status> {
        let link = self.links.remove(&request.get_ref().link)?;
        let recording = link.recording().take();
        if let Some(recording) = recording {
            recording.stop().await.map_err(Status::internal)?;
        }
        Ok(Response::new(v1::DeleteLinkResponse {}))
    }

    async fn list_links(
        &self,
        _request: Request<v1::ListLinksRequest>,
    ) -> Result<Response<v1::ListLinksResponse>, Status> {
        let links = self.links.all().iter().map(|link| link.to_wire()).collect();
        Ok(Response::new(v1::ListLinksResponse { links }))
    }

    async fn populate_links(
        &self,
        request: Request<v1::PopulateLinksRequest>,
    ) -> Result<Response<v1::PopulateLinksResponse>, Status> {
        let wanted = request.get_ref().links.iter().map(LinkConfig::from_wire).collect::<Result<Vec<_>, _>>()?;
        let links = Arc::clone(&self.links);
        blocking(move || links.populate(&wanted)).await.map(Response::new)
    }

    async fn start_recording(
        &self,
        request: Request<v1::StartRecordingRequest>,
    ) -> Result<Response<v1::StartRecordingResponse>, Status> {
        let v1::StartRecordingRequest { link, name } = request.into_inner();
        let link = self.links.get(&link)?;
        let directory: PathBuf = self.links.recordings.clone().ok_or_else(|| {
            Status::failed_precondition("there is no directory of recordings: start the emulator with --recordings DIR")
        })?;
        let counted = self.links.count_recording();
        let started = blocking(move || {
            let mut recording = link.recording();
            if let Some(recording) = recording.as_ref() {
                let name = &recording.name;
                return Err(Status::already_exists(format!("link {:?} is being recorded as {name:?}", link.name)));
            }
            let started = Recording::start(&directory, &name, &link.name, link.key, counted);
            *recording = Some(started.map_err(Status::invalid_argument)?);
            Ok(v1::StartRecordingResponse {})
        });
        started.await.map(Response::new)
    }

    async fn stop_recording(
        &self,
        request: Request<v1::StopRecordingRequest>,
    ) -> Result<Response<v1::StopRecordingResponse>, Status> {
        let link = self.links.get(&request.get_ref().link)?;
        let recording = link.recording().take();
        let recording = recording
            .ok_or_else(|| Status::failed_precondition(format!("link {:?} is not being recorded", link.name)))?;
        // A task of its own: the files are finished even if the client leaves.
        let stopped = tokio::spawn(recording.stop()).await.map_err(|error| Status::internal(error.to_string()))?;
        let done = stopped.map_err(Status::internal)?;
        Ok(Response::new(v1::StopRecordingResponse { frames: done.frames, before: done.before, after: done.after }))
    }
}
