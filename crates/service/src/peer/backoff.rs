//! How long to wait before the next attempt.

use std::time::Duration;

use rand::Rng;

/// Exponential, with jitter: peers that lost the same server must not come back in step.
#[derive(Debug)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Before the second attempt.
    const FIRST: Duration = Duration::from_millis(25);
    const LONGEST: Duration = Duration::from_secs(2);

    pub(super) fn new() -> Backoff {
        Backoff { failures: 0 }
    }

    /// Begins anew, after a success.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure: uniform between half of it and all of it, twice as long each time.
    pub(super) fn pause(&mut self, random: &mut impl Rng) -> Duration {
        let whole = Backoff::FIRST.saturating_mul(1 << self.failures.min(16)).min(Backoff::LONGEST);
        self.failures += 1;
        whole.mul_f64(random.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn pauses_double_up_to_two_seconds_and_differ_between_peers() {
        let pauses = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            let mut backoff = Backoff::new();
            (0..40).map(|_| backoff.pause(&mut random)).collect::<Vec<_>>()
        };
        let one = pauses(1);
        for (attempt, pause) in one.iter().enumerate() {
            let whole = 0.025 * 2_f64.powi(attempt.min(20) as i32);
            let whole = whole.min(2.0);
            let pause = pause.as_secs_f64();
            assert!(whole / 2.0 <= pause && pause <= whole, "attempt {attempt}: {pause} s, at most {whole} s");
        }
        assert_ne!(one, pauses(2));
        let mut backoff = Backoff::new();
        let mut random = StdRng::seed_from_u64(3);
        for _ in 0..9 {
            backoff.pause(&mut random);
        }
        backoff.reset();
        assert!(backoff.pause(&mut random) <= Backoff::FIRST);
    }
}
