//! What a sweep says while it runs, and who shows it.

use indicatif::{ProgressBar, ProgressStyle};
use semlink_channel::{ChannelKind, SnrDb};

use crate::files::Point;

/// Follows a sweep. Called between answers, so it must not wait.
pub(crate) trait Progress: Send {
    /// The channel is set for the next point.
    fn point_started(&mut self, start: &PointStart);

    /// An image of this point was answered.
    fn answered(&mut self, right: bool);

    /// All of its images were.
    fn point_done(&mut self, point: &Point);
}

/// A point that begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PointStart {
    pub(crate) channel: ChannelKind,
    pub(crate) snr: SnrDb,
    /// Its place among the points, from 0.
    pub(crate) place: usize,
    /// Points in all.
    pub(crate) points: usize,
    /// Images of each.
    pub(crate) images: usize,
}

/// A bar on standard error; hidden where that is no terminal.
#[derive(Debug, Default)]
pub(crate) struct Bar(Option<ProgressBar>);

impl Progress for Bar {
    fn point_started(&mut self, start: &PointStart) {
        let bar = self.0.get_or_insert_with(|| {
            let bar = ProgressBar::new((start.points * start.images) as u64);
            match ProgressStyle::with_template("{bar:32} {pos}/{len} images, {per_sec}, {eta} left  {msg}") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        bar.set_message(format!("{} {} dB", start.channel, start.snr.db()));
    }

    fn answered(&mut self, _right: bool) {
        if let Some(bar) = &self.0 {
            bar.inc(1);
        }
    }

    fn point_done(&mut self, _point: &Point) {}
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
