//! What a sweep says while it runs, and who shows it.

use std::io::{IsTerminal as _, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use semlink_channel::{ChannelKind, SnrDb};
use semlink_report::spark;

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

/// Between lines within a point, where standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// Columns of the plot beside the bar.
const PLOT: usize = 24;

/// What standard error shows: on a terminal a bar with rate, remaining time and a plot of the accuracies, elsewhere plain lines.
pub(crate) fn on_stderr() -> Box<dyn Progress> {
    if stderr().is_terminal() {
        Box::new(Bar { bar: None, start: None, right: 0, answered: 0, accuracies: Vec::new() })
    } else {
        Box::new(Lines { began: Instant::now(), last: Instant::now(), start: None, answered: 0 })
    }
}

/// A bar on a terminal.
struct Bar {
    bar: Option<ProgressBar>,
    start: Option<PointStart>,
    right: usize,
    answered: usize,
    /// Of this channel's points.
    accuracies: Vec<f64>,
}

/// Lines for a log.
struct Lines {
    began: Instant,
    last: Instant,
    start: Option<PointStart>,
    /// Of this point.
    answered: usize,
}

impl Progress for Bar {
    fn point_started(&mut self, start: &PointStart) {
        if self.start.is_none_or(|before| before.channel != start.channel) {
            self.accuracies.clear();
        }
        (self.start, self.right, self.answered) = (Some(*start), 0, 0);
        self.bar.get_or_insert_with(|| {
            let target = ProgressDrawTarget::stderr();
            let bar = ProgressBar::with_draw_target(Some((start.points * start.images) as u64), target);
            let lines = "{bar:32} {pos}/{len} images, {per_sec}, {eta} left\n{msg}";
            match ProgressStyle::with_template(lines) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        self.show();
    }

    fn answered(&mut self, right: bool) {
        self.answered += 1;
        self.right += usize::from(right);
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
        // The message is made of many pieces, the bar itself is drawn a few times a second only.
        if self.answered.is_multiple_of(64) {
            self.show();
        }
    }

    fn point_done(&mut self, point: &Point) {
        self.accuracies.push(point.accuracy);
        self.show();
    }
}

impl Bar {
    /// The point's settings and the accuracy so far, after those of the channel's points before it.
    fn show(&self) {
        let (Some(bar), Some(start)) = (&self.bar, &self.start) else { return };
        let mut values = self.accuracies.clone();
        if self.answered > 0 && self.answered < start.images {
            values.push(self.right as f64 / self.answered as f64);
        }
        let last = values.last().map_or_else(String::new, |share| format!(" {:.1} %", 100.0 * share));
        let plot = spark(&values, 0.0, 1.0, PLOT);
        let (place, points) = (start.place + 1, start.points);
        bar.set_message(format!("point {place}/{points}, {} {} dB  {plot}{last}", start.channel, start.snr.db()));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Lines {
    fn point_started(&mut self, start: &PointStart) {
        (self.start, self.answered) = (Some(*start), 0);
    }

    fn answered(&mut self, _right: bool) {
        self.answered += 1;
        // A clock is read for some answers only.
        if self.answered.is_multiple_of(64) && self.last.elapsed() >= LINE_EVERY {
            self.last = Instant::now();
            if let Some(start) = &self.start {
                let (kind, db, images) = (start.channel, start.snr.db(), start.images);
                eprintln!("{kind} {db} dB: {} of {images} images, {}", self.answered, self.left(start));
            }
        }
    }

    fn point_done(&mut self, point: &Point) {
        self.last = Instant::now();
        self.answered = point.images;
        if let Some(start) = &self.start {
            eprintln!(
                "{} {} dB: {:.2} % of {} images, {:.0} images/s; point {} of {}, {}",
                point.channel,
                point.snr_db,
                100.0 * point.accuracy,
                point.images,
                point.images_per_second,
                start.place + 1,
                start.points,
                self.left(start)
            );
        }
    }
}

impl Lines {
    /// The time that is left if the rest goes as fast as what is done.
    fn left(&self, start: &PointStart) -> String {
        let done = start.place * start.images + self.answered;
        let all = start.points * start.images;
        let seconds = self.began.elapsed().as_secs_f64() * (all - done.min(all)) as f64 / done.max(1) as f64;
        format!("{seconds:.0} s left")
    }
}
