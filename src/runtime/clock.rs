//! A clock that also counts the time in which the system is suspended, as etcd's leases do.
//!
//! tokio's [`Instant`] is CLOCK_MONOTONIC on Linux, which stops in a suspend. [`now`] is that
//! clock plus the time that the system was suspended since the first call in this process. Instants of the
//! two clocks differ after a suspend: compare an instant from [`now`] only with [`now`], and wait for it with
//! [`sleep_until`].
//!
//! On other systems than Linux, and while a hypervisor pauses a virtual machine, a suspend cannot be
//! detected. Only the next renewal notices it.

use std::time::Duration;
use tokio::time::Instant;

/// The time now, with the time that the system was suspended.
pub(crate) fn now() -> Instant {
    Instant::now() + suspended()
}

/// Sleeps until `at`, an instant from [`now`]. After a suspend meanwhile it ends late, because the timers of the
/// runtime stop in a suspend, too. Cancel safe.
pub(crate) async fn sleep_until(at: Instant) {
    let at = at.checked_sub(suspended()).unwrap_or(at);
    tokio::time::sleep_until(at).await;
}

/// How long the system was suspended since the first call.
#[cfg(not(test))]
pub(crate) fn suspended() -> Duration {
    system::suspended()
}

#[cfg(test)]
pub(crate) use tests::suspended;

#[cfg(target_os = "linux")]
mod system {
    use rustix::time::{ClockId, Timespec, clock_gettime};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    /// Two clocks are read one after the other. If that takes longer than this, they are read again.
    const READ_TOGETHER: Duration = Duration::from_millis(1);

    /// A smaller difference comes from reading them one after the other. Without this bound
    /// the clock would sometimes go back.
    const SHORTEST_SUSPEND: Duration = Duration::from_millis(10);

    pub(super) fn suspended() -> Duration {
        static FIRST: OnceLock<Duration> = OnceLock::new();
        static LAST_MS: AtomicU64 = AtomicU64::new(0);
        let total = since_boot();
        let total = total.saturating_sub(*FIRST.get_or_init(|| total));
        let last = Duration::from_millis(LAST_MS.load(Ordering::Acquire));
        if total < last + SHORTEST_SUSPEND {
            return last;
        }
        let total = u64::try_from(total.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(LAST_MS.fetch_max(total, Ordering::AcqRel).max(total))
    }

    /// How long the system was suspended since it was booted.
    fn since_boot() -> Duration {
        loop {
            let before = read(ClockId::Monotonic);
            let boot = read(ClockId::Boottime);
            if read(ClockId::Monotonic).saturating_sub(before) <= READ_TOGETHER {
                return boot.saturating_sub(before);
            }
        }
    }

    fn read(clock: ClockId) -> Duration {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
        Duration::from_secs(tv_sec.try_into().unwrap_or_default())
            + Duration::from_nanos(tv_nsec.try_into().unwrap_or_default())
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub(super) fn suspended() -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local!(static SUSPENDED: Cell<Duration> = const { Cell::new(Duration::ZERO) });

    pub(crate) fn suspended() -> Duration {
        SUSPENDED.get()
    }

    /// Simulates for this thread that the system was suspended for another `time`.
    pub(crate) fn suspend(time: Duration) {
        SUSPENDED.set(SUSPENDED.get() + time);
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspend_counts_although_the_clock_of_the_runtime_stood_still() {
        let (tokio, ours) = (Instant::now(), now());
        suspend(Duration::from_secs(7));
        assert_eq!(Instant::now(), tokio);
        assert_eq!(now(), ours + Duration::from_secs(7));
        sleep_until(ours + Duration::from_secs(7)).await;
        assert_eq!(Instant::now(), tokio, "it was over before");
        sleep_until(ours + Duration::from_secs(8)).await;
        assert_eq!(Instant::now(), tokio + Duration::from_secs(1));
    }

    #[test]
    fn without_a_suspend_the_clock_adds_nothing() {
        let first = system::suspended();
        for _ in 0..100_000 {
            assert_eq!(system::suspended(), first);
        }
    }
}
