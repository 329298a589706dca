//! A sweep that a page starts: the one of `semlink sweep`, shown while it runs.

use std::sync::Arc;

use semlink_transmitter::rate::Rate;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::routes::SweepOrder;
use super::{Dashboard, settings};
use crate::files::Point;
use crate::images::Dataset;
use crate::progress::{PointStart, Progress};
use crate::sweep::{self, Peers, Plan};

/// Points of a sweep: more than a page could show apart.
const MOST_POINTS: usize = 500;

/// The sweep under way.
#[derive(Debug, Default)]
pub(super) struct Sweeping(Option<(CancellationToken, JoinHandle<()>)>);

/// Shows a sweep on the page.
struct Shown(Arc<Dashboard>);

impl Sweeping {
    /// Stops the sweep, if there is one; then the channel is as it was before.
    pub(super) async fn stop(&mut self) {
        if let Some((stop, task)) = self.0.take() {
            stop.cancel();
            // A panic in it has been told.
            let _ = task.await;
        }
    }
}

impl Dashboard {
    /// Starts a sweep of the page's images with its rate.
    ///
    /// # Errors
    /// What is wrong with the order, or that there is a sweep already.
    pub(super) async fn start_sweep(self: &Arc<Self>, order: SweepOrder) -> Result<(), String> {
        let (plan, dataset) = self.plan(&order)?;
        let mut sweeping = self.sweeping.lock().await;
        let points = plan.channels.len() * plan.snr.points().len();
        self.settings.update(|now| {
            if now.sweep.running {
                return Err("a sweep is running already; stop it first".to_owned());
            }
            let of = points * dataset.images.len();
            now.sweep = settings::Sweep { running: true, of, ..settings::Sweep::default() };
            Ok(())
        })?;
        let (stop, dashboard) = (CancellationToken::new(), Arc::clone(self));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let swept = dashboard.sweep(&plan, &dataset, stopped.clone()).await;
            dashboard.settings.update(|now| {
                now.sweep.running = false;
                now.sweep.at.clear();
                now.sweep.error = match swept {
                    Err(_) if stopped.is_cancelled() => "stopped".to_owned(),
                    Err(error) => format!("{error:#}"),
                    Ok(()) => String::new(),
                };
            });
        });
        sweeping.0 = Some((stop, task));
        Ok(())
    }

    fn plan(&self, order: &SweepOrder) -> Result<(Plan, Dataset), String> {
        let data =
            self.link.dataset.as_ref().ok_or("there are no images to sweep with: start the dashboard with --data")?;
        let snr: crate::grid::SnrGrid = order.snr.parse().map_err(|error| format!("SNR {:?}: {error}", order.snr))?;
        let mut channels = order.channels.clone();
        channels.sort_unstable();
        channels.dedup();
        if channels.is_empty() {
            return Err("a sweep needs a channel".to_owned());
        }
        let points = channels.len() * snr.points().len();
        if points > MOST_POINTS {
            return Err(format!("the sweep has {points} points, at most {MOST_POINTS} are shown"));
        }
        if !(1..=data.images.len()).contains(&order.images) {
            return Err(format!("images: {}, expected 1 to {}", order.images, data.images.len()));
        }
        let rate = self.settings.with(|now| match (now.feed.rate, now.uses()) {
            (Some(rate), _) => Ok(rate),
            (None, Some(uses)) => uses.to_string().parse().map_err(|error| format!("rate: {error}")),
            (None, None) => Ok(Rate::Auto),
        })?;
        let images = data.images.iter().take(order.images).cloned().collect();
        Ok((Plan { snr, channels, rate }, Dataset { name: data.name.clone(), images }))
    }

    async fn sweep(self: &Arc<Self>, plan: &Plan, dataset: &Dataset, stop: CancellationToken) -> anyhow::Result<()> {
        let link = &self.link;
        let mut peers = Peers::connect(&link.to, &link.control, &link.credentials).await?.with_link(&link.link);
        let mut shown = Shown(Arc::clone(self));
        sweep::run(&mut peers, plan, dataset, None, &mut shown, stop.cancelled_owned()).await.map(drop)
    }
}

impl Progress for Shown {
    fn point_started(&mut self, start: &PointStart) {
        self.0.settings.update(|now| now.sweep.at = format!("{} {} dB", start.channel, start.snr.db()));
    }

    fn answered(&mut self, _right: bool) {
        self.0.settings.update(|now| now.sweep.answered += 1);
    }

    fn point_done(&mut self, point: &Point) {
        self.0.settings.update(|now| now.sweep.points.push(point.clone()));
    }
}
