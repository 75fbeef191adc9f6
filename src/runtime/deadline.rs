//! Deadlines that cannot overflow, however long the configured [`Duration`].
//!
//! `Instant + Duration` panics on overflow, and so does what hyper and tonic compute from their settings.
//! A duration of [`FOR_EVER`] or more means "forever" here.

use std::time::Duration;
use tokio::time::Instant;

/// 30 years. Further deadlines overflow on some systems.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// `at` plus `wait`, at most [`FOR_EVER`] later.
pub(crate) fn after(at: Instant, wait: Duration) -> Instant {
    at + wait.min(FOR_EVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_duration_overflows_a_deadline() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(after(now, second), now + second);
        for wait in [FOR_EVER, Duration::from_secs(u64::MAX), Duration::MAX] {
            assert_eq!(after(now, wait), now + FOR_EVER, "{wait:?}");
        }
        assert!(after(after(now, Duration::MAX), Duration::MAX) > now + FOR_EVER);
    }
}
