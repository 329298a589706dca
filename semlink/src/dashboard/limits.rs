//! The physical limit beside the curve: that of the present channel, for the channel uses that the images have.

use std::sync::Arc;
use std::time::Duration;

use semlink_channel::{ChannelConfig, ChannelUses, RicianK, SnrDb, limit};

use super::Dashboard;
use super::settings::{Limit, Settings};

/// It follows what it depends on this fast.
const LOOK: Duration = Duration::from_millis(300);
/// SNRs in dB over which it is drawn where it is a curve.
const SNRS: std::ops::RangeInclusive<i32> = -20..=30;

/// What the limit depends on.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    channel: &'static str,
    config: ChannelConfig,
    clean: f64,
    classes: usize,
    uses: Option<u32>,
    points: Vec<(f32, u32)>,
}

/// Keeps the limit as it should be while pages are open.
pub(super) async fn follow(dashboard: Arc<Dashboard>) {
    let mut drawn = None;
    loop {
        dashboard.is_watched().await;
        let wanted = dashboard.settings.with(|now| wanted(now, &dashboard));
        if wanted != drawn {
            // Integrals over fading: a few milliseconds a point.
            let limit = match wanted.clone() {
                Some(wanted) => tokio::task::spawn_blocking(move || wanted.limit()).await.ok().flatten(),
                None => None,
            };
            dashboard.settings.update(|now| now.limit = limit);
            drawn = wanted;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn wanted(now: &Settings, dashboard: &Dashboard) -> Option<Wanted> {
    let (codec, channel) = (now.codec.as_ref()?, now.channel.as_ref()?);
    let config = ChannelConfig {
        kind: channel.kind.parse().ok()?,
        // Each point has its own.
        snr: SnrDb::try_new(0.0).ok()?,
        k_factor: RicianK::try_new_db(channel.k_factor_db).ok()?,
        coherence: channel.coherence as usize,
    };
    let uses = now.uses();
    let points = match uses {
        Some(uses) => SNRS.map(|snr_db| (snr_db as f32, uses)).collect(),
        // Lock order: settings, then live, here and nowhere the other way round.
        None => dashboard.live.with(|live| live.curve.uses(channel.kind, "auto")),
    };
    Some(Wanted {
        channel: channel.kind,
        config,
        clean: codec.clean_accuracy?,
        classes: codec.labels.len(),
        uses,
        points,
    })
}

impl Wanted {
    fn limit(&self) -> Option<Limit> {
        let at = |&(snr_db, uses): &(f32, u32)| -> Option<(f32, f64)> {
            let channel = ChannelConfig { snr: SnrDb::try_new(snr_db).ok()?, ..self.config };
            let uses = ChannelUses::try_new(uses as usize).ok()?;
            Some((snr_db, limit::accuracy(self.clean, self.classes, &channel, uses).ok()?))
        };
        let points = self.points.iter().map(at).collect::<Option<Vec<_>>>()?;
        Some(Limit { channel: self.channel, uses: self.uses, points })
    }
}
