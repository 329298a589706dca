//! What the emulator tells: its channel, its frames, its count.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use semlink_proto::v1::{self, ListLinksRequest, WatchChannelRequest, WatchFramesRequest};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::{Code, Status};

use super::Dashboard;
use super::codec::told;
use super::settings::Channel;

/// Until an emulator that is away is looked for again.
const LOOK_FOR: Duration = Duration::from_millis(250);
/// How often frames are counted.
const COUNT: Duration = Duration::from_secs(1);
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Frames of which the emulator is to tell in a second: twice what pages show, so that none waits long.
const SAMPLES: u32 = 50;

/// Follows the emulator for as long as pages are open, whatever becomes of it.
pub(super) async fn emulator(dashboard: Arc<Dashboard>) {
    loop {
        dashboard.is_watched().await;
        tokio::select! {
            // Nobody looks: no frame is to be copied.
            () = dashboard.is_left() => continue,
            ended = watch(&dashboard) => {
                let why = told(dashboard.link.control.as_str(), &ended);
                dashboard.live.update(super::live::Live::lost_count);
                dashboard.settings.update(|now| {
                    if now.emulator.set(Err(why)) {
                        now.channel = None;
                    }
                });
            }
        }
        tokio::time::sleep(LOOK_FOR).await;
    }
}

/// Takes in what there is until the emulator leaves; says why it did.
async fn watch(dashboard: &Dashboard) -> Status {
    match open(dashboard).await {
        Ok((mut profiles, mut samples)) => {
            let mut count = interval(COUNT);
            count.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    profile = profiles.message() => match profile {
                        Ok(Some(profile)) => changed(dashboard, &profile),
                        Ok(None) => return Status::unavailable("the emulator ended the stream"),
                        Err(status) => return status,
                    },
                    // Its end is told by the other stream.
                    Some(Ok(sample)) = samples.next() => dashboard.live.update(|live| live.passed(&sample)),
                    _ = count.tick() => {
                        if let Err(status) = counted(dashboard).await {
                            return status;
                        }
                    }
                }
            }
        }
        Err(status) => status,
    }
}

type Samples = BoxStream<'static, Result<v1::FrameSample, Status>>;

async fn open(dashboard: &Dashboard) -> Result<(tonic::Streaming<v1::ChannelProfile>, Samples), Status> {
    let late = |_| Status::deadline_exceeded("no answer");
    let link = &dashboard.link.link;
    let mut client = dashboard.control.clone();
    let profiles = client.watch_channel(WatchChannelRequest { link: link.clone() });
    let profiles = timeout(PATIENCE, profiles).await.map_err(late)??.into_inner();
    let samples = client.watch_frames(WatchFramesRequest { link: link.clone(), max_per_second: SAMPLES });
    let samples: Samples = match timeout(PATIENCE, samples).await.map_err(late)? {
        Ok(samples) => samples.into_inner().chain(stream::pending()).boxed(),
        // One from before there was this call.
        Err(status) if status.code() == Code::Unimplemented => stream::pending().boxed(),
        Err(status) => return Err(status),
    };
    Ok((profiles, samples))
}

pub(super) fn changed(dashboard: &Dashboard, profile: &v1::ChannelProfile) {
    let channel = Channel::from(profile);
    dashboard.settings.update(|now| {
        now.emulator.set(Ok(()));
        // A change's answer and the watch tell of it, in either order.
        if now.channel.as_ref().is_none_or(|known| known.version <= channel.version) {
            now.channel = Some(channel);
        }
    });
    dashboard.nudge.notify_one();
}

async fn counted(dashboard: &Dashboard) -> Result<(), Status> {
    let asked = timeout(PATIENCE, dashboard.control.clone().list_links(ListLinksRequest {})).await;
    let links = asked.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner().links;
    if let Some(link) = links.iter().find(|link| link.name == dashboard.link.link) {
        dashboard.live.update(|live| live.counted(link.frames, Instant::now()));
    }
    Ok(())
}
