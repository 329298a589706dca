//! Whether the transmitter is there, and what its codec is.

use std::sync::Arc;
use std::time::Duration;

use semlink_proto::v1::GetCodecRequest;
use tonic::{Code, Request, Status};

use super::Dashboard;
use super::settings::Codec;
use crate::client;

/// How often the transmitter is asked: a bundle may be replaced; and while it is away.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_FOR: Duration = Duration::from_millis(250);
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks for as long as pages are open.
pub(super) async fn follow(dashboard: Arc<Dashboard>) {
    loop {
        dashboard.is_watched().await;
        let is_up = look(&dashboard).await;
        tokio::select! {
            () = tokio::time::sleep(if is_up { LOOK } else { LOOK_FOR }) => {}
            () = dashboard.look.notified() => {}
        }
    }
}

/// Asks once; whether it was answered.
pub(super) async fn look(dashboard: &Dashboard) -> bool {
    let mut request = Request::new(GetCodecRequest {});
    request.set_timeout(PATIENCE);
    let asked = tokio::time::timeout(PATIENCE, dashboard.transmitter.clone().get_codec(request)).await;
    let answer = asked.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
    take(dashboard, answer.map(|answer| answer.into_inner().into()))
}

fn take(dashboard: &Dashboard, answer: Result<Codec, Status>) -> bool {
    let found = match answer {
        Ok(codec) => Ok(Some(codec)),
        // One from before there was this call.
        Err(status) if status.code() == Code::Unimplemented => Ok(None),
        Err(status) => Err(told(dashboard.link.to.as_str(), &status)),
    };
    let is_up = found.is_ok();
    let is_same = dashboard.settings.with(|now| {
        let codec = found.as_ref().ok().and_then(Option::as_ref);
        now.transmitter.up == Some(is_up) && (codec.is_none() || codec == now.codec.as_ref())
    });
    if !is_same {
        dashboard.settings.update(|now| {
            if let Ok(Some(codec)) = &found {
                now.codec = Some(codec.clone());
            }
            now.transmitter.set(found.map(drop));
        });
    }
    is_up
}

/// What a failed call says, for a page.
pub(super) fn told(url: &str, status: &Status) -> String {
    format!("{:#}", client::failed(url, status))
}
