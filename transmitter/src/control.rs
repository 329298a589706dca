//! Closed-loop rate control: from reports of the channel to what the next frames are encoded for.
//!
//! Reports of a receiver with perfect channel state carry the average SNR; those from pilots scatter. Their level is smoothed in dB, fast
//! downwards and slowly upwards, as a frame that is too short costs a decision and one that is too long costs channel uses. A longer
//! frame is sent at once when the level asks for it; a shorter one only when the level would do so with and without a margin, for several
//! reports of the same kind in a row. Reports that stop expire: the encoder is then told nothing and sends the longest frame.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use semlink_channel::{ChannelKind, ChannelUses};

use crate::rate::{Condition, Rate, RateTable};

/// Share of a report in the level, when it lies above.
const UP: f32 = 0.125;
/// And when it lies below: of one that knows the channel, and of an estimate.
const DOWN_KNOWN: f32 = 1.0;
const DOWN_ESTIMATED: f32 = 0.5;
/// What the level has to exceed the threshold of a shorter frame by, in dB.
const MARGIN_DB: f32 = 1.0;
/// Reports in a row that have to allow a shorter frame.
const PATIENCE: usize = 8;

/// What frames are encoded for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    /// Average SNR and kind that the encoder is told.
    pub(crate) told: Option<Condition>,
    /// Payload channel uses of a frame that does not ask for others.
    pub(crate) uses: ChannelUses,
    /// Payload channel uses that the reports call for, whatever the setting.
    pub(crate) auto: ChannelUses,
}

/// The rate of one transmitter.
#[derive(Debug)]
pub(crate) struct Control {
    rate: Rate,
    /// Fraction of the clean accuracy.
    target: f64,
    table: Arc<RateTable>,
    /// How long a report counts; zero: never.
    max_age: Duration,
    state: Mutex<Option<State>>,
}

/// What reports have led to.
#[derive(Debug, Clone, Copy)]
struct State {
    /// When the last one came.
    at: Instant,
    last: Condition,
    /// Smoothed SNR in dB.
    level_db: f32,
    uses: ChannelUses,
    /// Reports in a row that allowed a shorter frame.
    patience: usize,
}

impl Control {
    pub(crate) fn new(rate: Rate, target: f64, table: Arc<RateTable>, max_age: Duration) -> Control {
        Control { rate, target, table, max_age, state: Mutex::new(None) }
    }

    /// The codec's rates.
    pub(crate) fn table(&self) -> &RateTable {
        &self.table
    }

    /// Takes in a report that arrived at `now`. One without a finite SNR says nothing and changes nothing.
    pub(crate) fn report(&self, now: Instant, condition: Condition) {
        if !condition.snr_db.is_finite() {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = Some(match state.filter(|state| self.fresh(state, now)) {
            Some(before) => self.after(before, now, condition),
            // The first report, or the first after a silence.
            None => State {
                at: now,
                last: condition,
                level_db: condition.snr_db,
                uses: self.table.choose(self.target, condition),
                patience: 0,
            },
        });
    }

    /// What to encode for at `now`.
    pub(crate) fn choice(&self, now: Instant) -> Choice {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = state.filter(|state| self.fresh(state, now));
        let auto = state.map_or_else(|| self.table.fallback(), |state| state.uses);
        let uses = match self.rate {
            Rate::Fixed(uses) => uses,
            Rate::Auto => auto,
        };
        // A receiver that knows the kind knows the SNR, too; what pilots tell scatters.
        let told = state.map(|State { last, level_db, .. }| match last.kind {
            Some(_) => last,
            None => Condition { snr_db: level_db, ..last },
        });
        Choice { told, uses, auto }
    }

    fn fresh(&self, state: &State, now: Instant) -> bool {
        now.saturating_duration_since(state.at) < self.max_age
    }

    fn after(&self, before: State, now: Instant, last: Condition) -> State {
        let share = match last.kind {
            // A new level for another kind, whose SNR means something else; but one stray report must not shorten frames.
            kind if kind != before.last.kind => 1.0,
            _ if last.snr_db >= before.level_db => UP,
            Some(_) => DOWN_KNOWN,
            None => DOWN_ESTIMATED,
        };
        let level_db = before.level_db + share * (last.snr_db - before.level_db);
        let at = |margin_db| self.table.choose(self.target, Condition { snr_db: level_db - margin_db, ..last });
        let needed = at(0.0);
        // Where the measured accuracy dips as the SNR rises, more is needed without the margin than with it.
        let shorter = needed.max(at(MARGIN_DB));
        let so_far = if last.kind == before.last.kind { before.patience } else { 0 };
        let patience = if shorter < before.uses { so_far + 1 } else { 0 };
        let (uses, patience) = if needed > before.uses {
            (needed, 0)
        } else if patience >= PATIENCE {
            (shorter, 0)
        } else {
            (before.uses, patience)
        };
        State { at: now, last, level_db, uses, patience }
    }
}

/// The condition of a report: its SNR within what can be encoded for.
pub(crate) fn condition(snr_db: f32, kind: Option<ChannelKind>) -> Condition {
    let (low, high) = (semlink_channel::SnrDb::MIN.db(), semlink_channel::SnrDb::MAX.db());
    Condition { snr_db: snr_db.clamp(low, high), kind }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::Point;

    const MAX_AGE: Duration = Duration::from_secs(5);

    fn uses(k: usize) -> ChannelUses {
        ChannelUses::try_new(k).expect("a valid number of uses")
    }

    /// 64 is good from -10 dB, 16 from 0 dB, 8 from 10 dB; the accuracy rises by a tenth over a dB.
    fn control(rate: Rate) -> Control {
        let mut points = Vec::new();
        for kind in [ChannelKind::Awgn, ChannelKind::Rayleigh] {
            for (k, from) in [(8, 10.0), (16, 0.0), (64, -10.0)] {
                points.push(Point { kind, snr_db: from - 10.0, uses: uses(k), accuracy: 0.0 });
                points.push(Point { kind, snr_db: from, uses: uses(k), accuracy: 1.0 });
            }
        }
        let table = RateTable::new([8, 16, 64].map(uses).to_vec(), points, Some(1.0));
        Control::new(rate, 1.0, Arc::new(table), MAX_AGE)
    }

    fn report(control: &Control, now: Instant, snr_db: f32) -> usize {
        control.report(now, condition(snr_db, Some(ChannelKind::Awgn)));
        control.choice(now).uses.get()
    }

    #[test]
    fn a_falling_snr_lengthens_frames_at_once() {
        let (control, now) = (control(Rate::Auto), Instant::now());
        assert_eq!(report(&control, now, 100.0), 8);
        assert_eq!(report(&control, now, 4.0), 16);
        assert_eq!(report(&control, now, -12.0), 64);
    }

    #[test]
    fn a_falling_estimate_lengthens_frames_within_a_few_reports() {
        let (control, now) = (control(Rate::Auto), Instant::now());
        let chosen = [20.0, -5.0, -5.0, -5.0].map(|snr_db| {
            control.report(now, condition(snr_db, None));
            control.choice(now).uses.get()
        });
        // Levels: 20, 7.5, 1.25, -1.875 dB.
        assert_eq!(chosen, [8, 16, 16, 64]);
    }

    #[test]
    fn a_rising_snr_shortens_frames_once_it_has_lasted() {
        let (control, now) = (control(Rate::Auto), Instant::now());
        assert_eq!(report(&control, now, -5.0), 64);
        let chosen: Vec<usize> = (0..60).map(|_| report(&control, now, 20.0)).collect();
        assert!(chosen[..PATIENCE].iter().all(|k| *k == 64), "{chosen:?}");
        assert!(chosen.windows(2).all(|pair| pair[0] >= pair[1]), "{chosen:?}");
        assert_eq!(chosen[59], 8);
    }

    #[test]
    fn an_snr_that_jitters_around_a_threshold_changes_the_rate_once_at_most() {
        for threshold in [0.0, 10.0] {
            for start in [threshold - 5.0, threshold + 5.0] {
                let (control, now) = (control(Rate::Auto), Instant::now());
                let mut last = report(&control, now, start);
                let mut changes = 0;
                for i in 0..2000u32 {
                    // A fixed sequence without pattern within half a dB.
                    let jitter = (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32 - 0.5;
                    let k = report(&control, now, threshold + jitter);
                    changes += usize::from(k != last);
                    last = k;
                }
                assert!(changes <= 1, "{changes} changes around {threshold} dB from {start} dB");
            }
        }
    }

    #[test]
    fn a_dip_of_the_measured_accuracy_does_not_make_the_rate_alternate() {
        // Good at 9 dB, not good enough at 10 dB: with the margin it would do, without it it would not.
        let point = |k, snr_db, accuracy| Point { kind: ChannelKind::Awgn, snr_db, uses: uses(k), accuracy };
        let points = vec![point(8, 9.0, 0.95), point(8, 10.0, 0.85), point(16, 9.0, 0.95)];
        let table = RateTable::new([8, 16].map(uses).to_vec(), points, Some(1.0));
        let (control, now) = (Control::new(Rate::Auto, 0.9, Arc::new(table), MAX_AGE), Instant::now());
        let chosen: Vec<usize> = (0..100).map(|_| report(&control, now, 10.0)).collect();
        assert!(chosen.iter().all(|k| *k == 16), "{chosen:?}");
    }

    #[test]
    fn a_single_report_of_a_high_snr_changes_nothing() {
        let (control, now) = (control(Rate::Auto), Instant::now());
        for i in 0..100 {
            let snr_db = if i % 10 == 9 { 60.0 } else { -9.0 };
            assert_eq!(report(&control, now, snr_db), 64, "report {i}");
        }
    }

    #[test]
    fn reports_without_a_number_change_nothing() {
        let (control, now) = (control(Rate::Auto), Instant::now());
        report(&control, now, 12.0);
        let before = control.choice(now);
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            control.report(now, Condition { snr_db: odd, kind: Some(ChannelKind::Awgn) });
            assert_eq!(control.choice(now), before);
        }
    }

    #[test]
    fn when_reports_stop_the_longest_frame_is_sent_for_an_unknown_channel() {
        let (control, start) = (control(Rate::Auto), Instant::now());
        let nothing = Choice { told: None, uses: uses(64), auto: uses(64) };
        assert_eq!(control.choice(start), nothing);
        assert_eq!(report(&control, start, 12.0), 8);
        assert_eq!(control.choice(start + MAX_AGE - Duration::from_millis(1)).uses.get(), 8);
        let late = start + MAX_AGE;
        assert_eq!(control.choice(late), nothing);
        // The first report after the silence counts as the very first did.
        assert_eq!(report(&control, late, 12.0), 8);
    }

    #[test]
    fn another_kind_of_channel_has_a_level_of_its_own_and_shortens_no_frame_at_once() {
        let (control, now) = (control(Rate::Auto), Instant::now());
        let rayleigh = |snr_db| {
            control.report(now, condition(snr_db, Some(ChannelKind::Rayleigh)));
            control.choice(now).uses.get()
        };
        assert_eq!(report(&control, now, -5.0), 64);
        let chosen: Vec<usize> = (0..PATIENCE).map(|_| rayleigh(12.0)).collect();
        assert!(chosen[..PATIENCE - 1].iter().all(|k| *k == 64), "{chosen:?}");
        assert_eq!(chosen[PATIENCE - 1], 8, "the level did not have to climb from -5 dB");
        assert_eq!(report(&control, now, -5.0), 64, "a longer frame at once");
    }

    #[test]
    fn kinds_that_alternate_never_shorten_a_frame() {
        let (control, now) = (control(Rate::Auto), Instant::now());
        assert_eq!(report(&control, now, -5.0), 64);
        for i in 0..100 {
            control.report(now, condition(60.0, [Some(ChannelKind::Rayleigh), None][i % 2]));
            assert_eq!(control.choice(now).uses.get(), 64, "report {i}");
        }
    }

    #[test]
    fn the_encoder_is_told_what_is_known_and_the_level_of_what_scatters() {
        let (control, now) = (control(Rate::Auto), Instant::now());
        report(&control, now, 12.0);
        report(&control, now, 4.0);
        assert_eq!(control.choice(now).told, Some(condition(4.0, Some(ChannelKind::Awgn))));
        control.report(now, condition(12.0, None));
        control.report(now, condition(4.0, None));
        assert_eq!(control.choice(now).told, Some(condition(8.0, None)));
    }

    #[test]
    fn a_fixed_rate_stays_and_the_encoder_is_told_nonetheless() {
        let (control, now) = (control(Rate::Fixed(uses(16))), Instant::now());
        assert_eq!(report(&control, now, -12.0), 16);
        let choice = control.choice(now);
        assert_eq!(choice.told, Some(condition(-12.0, Some(ChannelKind::Awgn))));
        assert_eq!(choice.auto.get(), 64, "for an image that asks for it");
    }

    #[test]
    fn with_no_age_allowed_reports_are_never_used() {
        let table = Arc::new(RateTable::new(vec![uses(8)], vec![], None));
        let (control, now) = (Control::new(Rate::Auto, 0.98, table, Duration::ZERO), Instant::now());
        control.report(now, condition(3.0, Some(ChannelKind::Awgn)));
        assert_eq!(control.choice(now), Choice { told: None, uses: uses(8), auto: uses(8) });
    }
}
