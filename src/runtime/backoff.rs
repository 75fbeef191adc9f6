//! How long to wait before the next attempt. Pure: time and randomness are passed in.
//!
//! A [`Backoff`] grows with failed attempts, and is reset only after a success that lasted: a reset on each connect would
//! defeat it when connections break right after they are made. A [`Bucket`] allows a burst
//! and bounds the rate after it, so that two servers that overwrite each other write only a few times a minute.

use std::time::Duration;
use tokio::time::Instant;

/// Exponential, capped, unbounded in number; each wait is drawn from the upper half of its range.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    reset_after: Duration,
    next: Duration,
}

/// A token bucket. It does not hold its own rate, because there is one bucket for every key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bucket {
    spent: u32,
    since: Option<Instant>,
}

/// How fast a [`Bucket`] may be emptied: `burst` at once, then one every `refill`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) refill: Duration,
}

/// No wait is longer: the cap is often the limit of one attempt, which may be forever.
const LONGEST: Duration = Duration::from_secs(5);

// === impl Backoff ===

impl Backoff {
    /// Waits that grow from `first`; a success that lasted `reset_after` starts over.
    pub(crate) fn new(first: Duration, reset_after: Duration) -> Self {
        Self {
            first,
            reset_after,
            next: Duration::ZERO,
        }
    }

    /// The wait, `cap` at most, after a failure of something that had worked for `lasted`.
    ///
    /// The first wait after a success that lasted is zero: a single failure is retried at once.
    pub(crate) fn failed_after(
        &mut self,
        lasted: Duration,
        cap: Duration,
        rng: &mut fastrand::Rng,
    ) -> Duration {
        if lasted >= self.reset_after {
            self.next = Duration::ZERO;
        }
        let wait = self.next.min(cap).min(LONGEST);
        self.next = (wait * 2).max(self.first);
        wait.mul_f64(0.5 + rng.f64() / 2.0)
    }
}

// === impl Bucket ===

impl Bucket {
    /// Takes a token, or returns when there will be one.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Instant> {
        let Rate { burst, refill } = rate;
        let since = *self.since.get_or_insert(now);
        let back = (now - since).as_nanos() / refill.as_nanos().max(1);
        let back = u32::try_from(back).unwrap_or(u32::MAX).min(self.spent);
        self.spent -= back;
        self.since = Some(if self.spent == 0 {
            now
        } else {
            since + refill * back
        });
        if self.spent < burst {
            self.spent += 1;
            Ok(())
        } else {
            Err(self.since.unwrap_or(now) + refill)
        }
    }

    /// Takes a token for something that has happened already. The debt, up to 15 bursts, is paid before the next token.
    #[cfg(any(test, feature = "discovery"))]
    pub(crate) fn take_anyway(&mut self, rate: Rate, now: Instant) {
        if self.take(rate, now).is_err() {
            self.spent = (self.spent + 1).min(rate.burst.saturating_mul(16));
        }
    }

    /// Puts a token back that was taken for something that cost nothing.
    #[cfg(any(test, feature = "discovery"))]
    pub(crate) fn give_back(&mut self) {
        self.spent = self.spent.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn waits_double_to_the_cap_and_survive_a_short_success() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::new(50 * MS, 5000 * MS);
        let mut upper = vec![];
        for lasted in [9000, 0, 0, 0, 4999, 0] {
            let wait = backoff.failed_after(lasted * MS, 400 * MS, &mut rng);
            upper.push(wait);
        }
        for (wait, at_most) in upper.iter().zip([0, 50, 100, 200, 400, 400]) {
            let at_most = at_most * MS;
            assert!(*wait <= at_most && *wait >= at_most / 2, "{upper:?}");
        }
    }

    #[test]
    fn no_cap_makes_a_wait_longer_than_five_seconds() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::new(50 * MS, 5000 * MS);
        let mut waits =
            (0..200).map(|_| backoff.failed_after(Duration::ZERO, Duration::MAX, &mut rng));
        assert!(waits.all(|wait| wait <= 5000 * MS));
    }

    #[test]
    fn a_success_that_lasts_resets_the_backoff() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::new(50 * MS, 5000 * MS);
        for _ in 0..5 {
            backoff.failed_after(Duration::ZERO, 400 * MS, &mut rng);
        }
        assert_eq!(
            backoff.failed_after(5000 * MS, 400 * MS, &mut rng),
            Duration::ZERO
        );
    }

    #[test]
    fn a_bucket_gives_its_burst_then_one_for_each_refill() {
        let start = Instant::now();
        let mut bucket = Bucket::default();
        let rate = Rate {
            burst: 2,
            refill: 10 * MS,
        };
        assert_eq!(bucket.take(rate, start), Ok(()));
        assert_eq!(bucket.take(rate, start), Ok(()));
        assert_eq!(bucket.take(rate, start), Err(start + 10 * MS));
        assert_eq!(bucket.take(rate, start + 9 * MS), Err(start + 10 * MS));
        assert_eq!(bucket.take(rate, start + 10 * MS), Ok(()));
        assert_eq!(bucket.take(rate, start + 10 * MS), Err(start + 20 * MS));
        assert_eq!(bucket.take(rate, start + 90 * MS), Ok(()));
        assert_eq!(bucket.take(rate, start + 90 * MS), Ok(()));
        assert!(bucket.take(rate, start + 90 * MS).is_err());
        for _ in 0..100 {
            bucket.take_anyway(rate, start + 90 * MS);
        }
        assert!(
            bucket.take(rate, start + 399 * MS).is_err(),
            "the debt is 30"
        );
        assert_eq!(bucket.take(rate, start + 400 * MS), Ok(()));
        bucket.give_back();
        assert_eq!(bucket.take(rate, start + 400 * MS), Ok(()));
    }
}
