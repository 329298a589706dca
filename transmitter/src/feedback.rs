//! What the receiver last reported about the channel, while it is fresh.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::rate::Condition;

/// The last report of the channel; it expires, so that a link that went quiet is not encoded for by a stale SNR.
#[derive(Debug)]
pub(crate) struct Feedback {
    max_age: Duration,
    last: Mutex<Option<(Instant, Condition)>>,
}

impl Feedback {
    /// Reports count for `max_age`; with zero they are never used, and every frame depends on its image and rate alone.
    pub(crate) fn new(max_age: Duration) -> Feedback {
        Feedback { max_age, last: Mutex::new(None) }
    }

    /// Remembers a report that arrived at `now`. One without a finite SNR says nothing and changes nothing.
    pub(crate) fn report(&self, now: Instant, condition: Condition) {
        if condition.snr_db.is_finite() {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, condition));
        }
    }

    /// The last reported channel, unless there was none or it is `max_age` old at `now`.
    pub(crate) fn current(&self, now: Instant) -> Option<Condition> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|(at, _)| now.saturating_duration_since(*at) < self.max_age).map(|(_, condition)| condition)
    }
}

#[cfg(test)]
mod tests {
    use semlink_channel::ChannelKind;

    use super::*;

    fn condition(snr_db: f32) -> Condition {
        Condition { snr_db, kind: Some(ChannelKind::Awgn) }
    }

    #[test]
    fn the_last_report_counts_until_it_is_too_old() {
        let feedback = Feedback::new(Duration::from_secs(5));
        let start = Instant::now();
        assert_eq!(feedback.current(start), None);

        feedback.report(start, condition(3.0));
        feedback.report(start + Duration::from_secs(1), condition(7.0));
        let at = |seconds| feedback.current(start + Duration::from_secs(seconds));
        assert_eq!(at(5), Some(condition(7.0)));
        assert_eq!(at(6), None);
    }

    #[test]
    fn a_report_without_a_finite_snr_changes_nothing() {
        let feedback = Feedback::new(Duration::from_secs(5));
        let now = Instant::now();
        feedback.report(now, condition(3.0));
        feedback.report(now, condition(f32::NAN));
        assert_eq!(feedback.current(now), Some(condition(3.0)));
    }

    #[test]
    fn with_no_age_allowed_reports_are_never_used() {
        let feedback = Feedback::new(Duration::ZERO);
        let now = Instant::now();
        feedback.report(now, condition(3.0));
        assert_eq!(feedback.current(now), None);
    }
}
