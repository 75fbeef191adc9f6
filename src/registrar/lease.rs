//! The arithmetic of one lease: until when it certainly lives, when to renew it, which timings fit in it.
//!
//! Pure: the time is passed in. The rule: a lease lives at
//! least until *the time its last acknowledged renewal was sent* plus the granted TTL, because
//! etcd starts counting no earlier than it received that request. The time of the answer must not be used,
//! because the answer may have been delayed.

use crate::etcd::ATTEMPT_TIMEOUT;
use crate::runtime::deadline;
use std::time::Duration;
use tokio::time::Instant;

/// A lease that etcd granted us.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    id: i64,
    ttl: Duration,
    confirmed: Instant,
    due: Instant,
}

/// Renewals per TTL: two in a row may be lost, and the third is still in time.
const RENEWALS_PER_TTL: u32 = 3;
/// Jitter of a renewal, as a share of its interval, so that a fleet that starts together does not renew together.
const JITTER: f64 = 0.1;

// === impl Lease ===

impl Lease {
    /// A lease granted for `ttl` by a request sent at `sent`.
    pub(crate) fn granted(id: i64, ttl: Duration, sent: Instant, rng: &mut fastrand::Rng) -> Self {
        let mut lease = Self {
            id,
            ttl,
            confirmed: sent,
            due: sent,
        };
        lease.renewed(ttl, sent, rng);
        lease
    }

    /// A renewal sent at `sent` was acknowledged with `ttl`.
    pub(crate) fn renewed(&mut self, ttl: Duration, sent: Instant, rng: &mut fastrand::Rng) {
        self.ttl = ttl;
        self.confirmed = self.confirmed.max(sent);
        let interval = interval(ttl).mul_f64(1.0 + JITTER * (2.0 * rng.f64() - 1.0));
        self.due = deadline::after(self.confirmed, interval);
    }

    /// A request sent at `sent` was answered with the time that the lease lives without a renewal.
    pub(crate) fn seen(&mut self, remaining: Duration, sent: Instant) {
        // A member that is no leader any more may answer more than was granted.
        let spent = self.ttl.saturating_sub(remaining);
        if let Some(confirmed) = sent.checked_sub(spent) {
            self.confirmed = self.confirmed.max(confirmed);
        }
    }

    pub(crate) fn id(&self) -> i64 {
        self.id
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// From this time on the lease may have expired.
    pub(crate) fn expiry(&self) -> Instant {
        deadline::after(self.confirmed, self.ttl)
    }

    /// When the next renewal should be sent.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }
}

/// A lease id of our own choice from 64 random bits: positive, 63 bits.
///
/// Choosing it makes a repeated grant idempotent, and lets us revoke a lease whose grant was
/// sent but never answered.
pub(crate) fn id_of(random: u64) -> i64 {
    i64::try_from(random >> 1).unwrap_or(i64::MAX).max(1)
}

/// How often a lease is renewed, without the jitter.
pub(crate) fn interval(ttl: Duration) -> Duration {
    ttl / RENEWALS_PER_TTL
}

/// The time to reserve when a renewal is late: for one attempt without an answer, and two more on other members.
pub(crate) fn reserve(attempt: Duration) -> Duration {
    attempt.saturating_mul(3)
}

/// Whether the lease survives one lost answer with these timings.
///
/// These have to fit in a TTL: the longest interval between renewals, one attempt without an answer,
/// two more on other members, and a tenth of the TTL as margin.
pub(crate) fn fits(ttl: Duration, attempt: Duration) -> bool {
    let interval = interval(ttl).mul_f64(1.0 + JITTER);
    reserve(attempt).saturating_add(interval + ttl / 10) <= ttl
}

/// The limit of one attempt when none is configured: 0.6 s, less for a TTL below 5 s.
pub(crate) fn default_attempt(ttl: Duration) -> Duration {
    (ttl * 3 / 25).min(ATTEMPT_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_renewal_is_due_after_a_third_of_the_ttl_give_or_take_a_tenth() {
        let mut rng = fastrand::Rng::with_seed(7);
        let sent = Instant::now();
        for _ in 0..1000 {
            let lease = Lease::granted(1, 6 * SEC, sent, &mut rng);
            let after = lease.due() - sent;
            assert!(after >= 1800 * MS && after <= 2200 * MS, "{after:?}");
        }
    }

    #[test]
    fn expiry_counts_from_the_sending_of_the_last_acknowledged_renewal() {
        let mut rng = fastrand::Rng::with_seed(7);
        let t0 = Instant::now();
        let mut lease = Lease::granted(1, 5 * SEC, t0, &mut rng);
        assert_eq!(lease.expiry(), t0 + 5 * SEC);
        lease.renewed(5 * SEC, t0 + 2 * SEC, &mut rng);
        assert_eq!(lease.expiry(), t0 + 7 * SEC);
        lease.renewed(5 * SEC, t0 + SEC, &mut rng);
        assert_eq!(
            lease.expiry(),
            t0 + 7 * SEC,
            "an older answer takes nothing away"
        );
    }

    #[test]
    fn a_look_at_a_lease_extends_its_expiry_and_never_shortens_it() {
        let mut rng = fastrand::Rng::with_seed(7);
        let t0 = Instant::now();
        for (remaining, expiry) in [
            (0, 5 * SEC),
            (3, 5 * SEC),
            (4, 6 * SEC),
            (5, 7 * SEC),
            (99, 7 * SEC),
        ] {
            let mut lease = Lease::granted(1, 5 * SEC, t0, &mut rng);
            let due = lease.due();
            lease.seen(remaining * SEC, t0 + 2 * SEC);
            assert_eq!(lease.expiry(), t0 + expiry, "{remaining}");
            assert_eq!(lease.due(), due);
        }
    }

    #[test]
    fn timers_follow_the_ttl_that_was_granted() {
        let mut rng = fastrand::Rng::with_seed(7);
        let t0 = Instant::now();
        let mut lease = Lease::granted(1, 5 * SEC, t0, &mut rng);
        lease.renewed(60 * SEC, t0, &mut rng);
        assert_eq!(lease.ttl(), 60 * SEC);
        assert_eq!(lease.expiry(), t0 + 60 * SEC);
        assert!(lease.due() >= t0 + 18 * SEC);
        // The largest TTL that a server could answer.
        let longest = Duration::from_secs(i64::MAX.unsigned_abs());
        lease.renewed(longest, t0, &mut rng);
        assert!(lease.due() > t0 && lease.expiry() > t0);
    }

    #[test]
    fn the_defaults_fit_every_ttl_etcd_allows() {
        for ttl in [2, 3, 5, 10, 60, 9_000_000_000] {
            let ttl = Duration::from_secs(ttl);
            assert!(fits(ttl, default_attempt(ttl)), "{ttl:?}");
        }
    }

    #[test]
    fn an_attempt_limit_that_could_cost_the_lease_does_not_fit() {
        assert!(fits(5 * SEC, 888 * MS));
        assert!(!fits(5 * SEC, 889 * MS));
        assert!(!fits(5 * SEC, Duration::MAX));
    }

    #[test]
    fn chosen_ids_are_positive() {
        for (random, id) in [(0, 1), (1, 1), (2, 1), (7, 3), (u64::MAX, i64::MAX)] {
            assert_eq!(id_of(random), id);
        }
    }
}
