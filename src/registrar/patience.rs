//! [`Patience`]: how long to wait for an answer before something else is tried. Pure: time and randomness are passed in.
//!
//! The limits were a constant of 0.6 s once, and a request that missed it was given up with its connection. That is
//! right for a dead member, and wrong for a busy one: 5,000 registrars that started together opened 37,983 keep-alive
//! streams and cancelled 31,844 of them, and after a wipe etcd never recovered. So a limit follows the answers, as TCP's
//! retransmission timer does (RFC 6298): it grows with the round trips that were measured, and doubles with each attempt
//! that was not answered. What is late is not cancelled; another connection is tried beside it.

use crate::runtime::deadline::FOR_EVER;
use std::time::Duration;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Patience {
    /// The shortest limit.
    attempt: Duration,
    /// The longest limit while there is another member.
    longest: Duration,
    round_trip: Option<RoundTrip>,
    /// Attempts without an answer since the last one that was answered.
    misses: u32,
    /// Between 0 and 1: two clients that failed together do not try again together.
    spread: f64,
}

/// The round trips that were measured, smoothed.
#[derive(Debug, Clone, Copy)]
struct RoundTrip {
    mean: Duration,
    deviation: Duration,
}

/// A lost request is noticed after so many times the longest usual round trip.
const ROUND_TRIPS: u32 = 3;
/// The first wait for the only member, and the longest, in multiples of `longest`. A fleet of 5,000 needs more than a TTL
/// for its first grants at a small etcd.
const FIRST_ALONE: u32 = 2;
const LONGEST_ALONE: u32 = 4;
/// The longest attempt while nothing else can be tried, in multiples of `longest`.
const LONGEST_LAST: u32 = 6;
/// No wait for another member is longer, whatever the TTL.
const LONGEST: Duration = Duration::from_secs(5);

// === impl Patience ===

impl Patience {
    pub(crate) fn new(attempt: Duration, ttl: Duration, rng: &mut fastrand::Rng) -> Self {
        let attempt = attempt.min(FOR_EVER);
        Self {
            attempt,
            longest: ttl.min(LONGEST).max(attempt),
            round_trip: None,
            misses: 0,
            spread: rng.f64(),
        }
    }

    /// A request was answered after `took`.
    pub(crate) fn answered(&mut self, took: Duration) {
        self.misses = 0;
        let measured = match self.round_trip {
            None => RoundTrip {
                mean: took,
                deviation: took / 2,
            },
            // The answers are fast again: failover must not wait as if they were slow.
            Some(RoundTrip { mean, deviation }) if took < mean / 4 => RoundTrip {
                mean: mean / 4 + took,
                deviation: deviation / 4,
            },
            Some(RoundTrip { mean, deviation }) => RoundTrip {
                mean: (mean * 7 + took) / 8,
                deviation: (deviation * 3 + mean.abs_diff(took)) / 4,
            },
        };
        self.round_trip = Some(measured);
    }

    /// An attempt was not answered in time.
    pub(crate) fn missed(&mut self, rng: &mut fastrand::Rng) {
        self.misses = self.misses.saturating_add(1);
        self.spread = rng.f64();
    }

    /// How long to wait before another member is tried.
    pub(crate) fn limit(&self) -> Duration {
        let usual = self.usual();
        if self.misses == 0 {
            return usual.min(self.longest);
        }
        let limit = usual.saturating_mul(1 << self.misses.min(8));
        let limit = limit.min(self.longest).mul_f64(0.75 + self.spread / 4.0);
        limit.max(self.attempt)
    }

    /// How long to wait before another connection to the only member is tried. No other member can be used, and
    /// the answer may still come, so this wait is much longer.
    pub(crate) fn alone(&self) -> Duration {
        let longest = self.longest.saturating_mul(LONGEST_ALONE);
        let wait = self.longest.saturating_mul(FIRST_ALONE).max(self.usual());
        let wait = wait.saturating_mul(1 << self.misses.min(8)).min(longest);
        wait.mul_f64(0.6 + 0.4 * self.spread)
    }

    /// How long an attempt may take while nothing else can be tried. If it is given up, it is begun again.
    pub(crate) fn last(&self) -> Duration {
        let longest = self.longest.saturating_mul(LONGEST_LAST);
        self.alone().saturating_mul(ROUND_TRIPS).min(longest)
    }

    /// Within this time an answer is expected, by those before it.
    pub(crate) fn expected(&self) -> Duration {
        let expected = self.round_trip.map_or(Duration::ZERO, |measured| {
            measured.mean + measured.deviation * 4
        });
        let longest = self.longest.saturating_mul(LONGEST_ALONE);
        expected.clamp(self.attempt / ROUND_TRIPS, longest)
    }

    fn usual(&self) -> Duration {
        let usual = self.expected().saturating_mul(ROUND_TRIPS);
        usual.max(self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SEC: Duration = Duration::from_secs(1);

    fn patience() -> (Patience, fastrand::Rng) {
        let mut rng = fastrand::Rng::with_seed(1);
        (Patience::new(600 * MS, 5 * SEC, &mut rng), rng)
    }

    #[test]
    fn fast_answers_leave_the_limit_at_the_attempt_timeout() {
        let (mut patience, _) = patience();
        assert_eq!(patience.limit(), 600 * MS);
        for _ in 0..100 {
            patience.answered(2 * MS);
        }
        assert_eq!(patience.limit(), 600 * MS);
        assert_eq!(patience.expected(), 200 * MS);
    }

    #[test]
    fn slow_answers_raise_the_limit_and_fast_ones_lower_it_again() {
        let (mut patience, _) = patience();
        patience.answered(400 * MS);
        assert!(patience.limit() > 3 * SEC, "{:?}", patience.limit());
        patience.answered(60 * SEC);
        assert_eq!(patience.limit(), 5 * SEC, "at most a TTL");
        for _ in 0..100 {
            patience.answered(2 * MS);
        }
        assert_eq!(patience.limit(), 600 * MS);
    }

    #[test]
    fn limits_double_with_each_miss_until_an_answer_comes() {
        let (mut patience, mut rng) = patience();
        for most in [1200, 2400, 4800, 5000, 5000] {
            patience.missed(&mut rng);
            let limit = patience.limit();
            let most = most * MS;
            assert!(limit <= most && limit >= most.mul_f64(0.75), "{limit:?}");
        }
        for _ in 0..u16::MAX {
            patience.missed(&mut rng);
        }
        assert!(patience.limit() <= 5 * SEC && patience.alone() <= 20 * SEC);
        patience.answered(MS);
        assert_eq!(patience.limit(), 600 * MS);
    }

    #[test]
    fn the_only_member_gets_more_time_than_one_of_several() {
        let (mut patience, mut rng) = patience();
        for most in [10, 20, 20] {
            let (wait, most) = (patience.alone(), most * SEC);
            assert!(wait <= most && wait >= most.mul_f64(0.6), "{wait:?}");
            patience.missed(&mut rng);
        }
    }

    #[test]
    fn no_setting_overflows() {
        let mut rng = fastrand::Rng::with_seed(1);
        for (attempt, ttl) in [(Duration::MAX, Duration::MAX), (Duration::ZERO, SEC)] {
            let mut patience = Patience::new(attempt, ttl, &mut rng);
            for _ in 0..20 {
                patience.missed(&mut rng);
                assert!(patience.limit() >= attempt.min(SEC) / 8);
                assert!(patience.alone() >= patience.expected() / 4);
            }
        }
    }
}
