//! [`Timestamp`]: a moment, on a clock that counts the time in which the system is suspended.

use crate::runtime::clock;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// A moment, such as the beginning of an outage.
///
/// Its clock never goes back, and it also counts the time in which the system is suspended, as the leases of etcd do.
/// [`std::time::Instant`] does not count it on Linux. `SystemTime::from(timestamp)` is the wall-clock time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(Instant);

// === impl Timestamp ===

impl Timestamp {
    /// The current time.
    #[must_use]
    pub fn now() -> Self {
        Self(clock::now())
    }

    /// The time since this moment. Zero if it is in the future.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        clock::now().saturating_duration_since(self.0)
    }

    /// The time until this moment. Zero if it has passed.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.0.saturating_duration_since(clock::now())
    }

    /// An instant of [`clock::now`].
    pub(crate) fn at(instant: Instant) -> Self {
        Self(instant)
    }

    #[cfg(any(test, feature = "introspection"))]
    pub(crate) fn checked_add(self, duration: Duration) -> Option<Self> {
        self.0.checked_add(duration).map(Self)
    }
}

impl From<Timestamp> for SystemTime {
    #[allow(clippy::disallowed_methods, reason = "tokio's clock has no dates")]
    fn from(timestamp: Timestamp) -> Self {
        let now = Self::now();
        let past = now.checked_sub(timestamp.elapsed());
        let at = past.and_then(|past| past.checked_add(timestamp.remaining()));
        // A lease of centuries.
        at.unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_age_of_a_timestamp_includes_a_suspend() {
        let second = Duration::from_secs(1);
        let then = Timestamp::now();
        let due = then.checked_add(10 * second).unwrap();
        clock::tests::suspend(7 * second);
        tokio::time::advance(second).await;
        assert_eq!(
            (then.elapsed(), then.remaining()),
            (8 * second, Duration::ZERO)
        );
        assert_eq!(
            (due.elapsed(), due.remaining()),
            (Duration::ZERO, 2 * second)
        );
        let age = |at: Timestamp| SystemTime::from(at).elapsed().unwrap();
        assert!(
            (8 * second..60 * second).contains(&age(then)),
            "{:?}",
            age(then)
        );
        assert!(due > then && SystemTime::from(due) > SystemTime::from(then) + 9 * second);
    }
}
