//! [`Readiness`]: the probe that decides whether a server is ready, and its timing. `probe.rs` runs it.

use crate::error::BuildError;
use crate::runtime::deadline::FOR_EVER;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A probe of whether a server is ready. Its keys are in etcd only while it is.
///
/// Give it to [`ready_when`](crate::RegistrarBuilder::ready_when). No key is written before the first success. While the
/// server is not ready, its registrations are [paused](crate::RegistrationStatus::Paused), with the probe's error as the
/// reason. The server keeps serving.
///
/// ```
/// # #[derive(Clone)] struct Db;
/// # impl Db { async fn ping(&self) -> Result<(), std::io::Error> { Ok(()) } }
/// use std::time::Duration;
/// use tonic_etcd::{Etcd, Readiness, Registrar};
///
/// # fn build(db: Db) -> Result<Registrar, tonic_etcd::BuildError> {
/// let readiness = Readiness::every(Duration::from_secs(2), move || {
///     let db = db.clone();
///     async move { db.ping().await }
/// });
/// let registrar = Registrar::builder(Etcd::new(["http://127.0.0.1:2379"]))
///     .ready_when(readiness.failure_threshold(2))
///     .build()?;
/// # Ok(registrar)
/// # }
/// # build(Db).unwrap();
/// ```
///
/// One probe runs for all registrations of a registrar, as a task of the runtime in which the first of them was made. It
/// starts with the first registration, and ends with the last one or with a shutdown.
#[derive(Clone)]
#[must_use = "does nothing until a registrar is built with it"]
pub struct Readiness {
    pub(super) probe: Probe,
    pub(super) interval: Duration,
    timeout: Option<Duration>,
    failure_threshold: u32,
    success_threshold: u32,
}

pub(super) type Probe = Arc<dyn Fn() -> Answer + Send + Sync>;
pub(super) type Answer = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Computes from the results of a probe whether the server is ready.
#[derive(Debug)]
pub(super) struct Hysteresis {
    failure_threshold: u32,
    success_threshold: u32,
    is_ready: bool,
    /// The number of consecutive results that contradict the current state.
    in_a_row: u32,
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// A shorter interval would be a busy loop.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

// === impl Readiness ===

impl Readiness {
    /// Runs `probe` every `interval`, from start to start. The interval is at least 1 ms. Runs do not overlap.
    ///
    /// The probe is a function that returns a future, such as a closure that clones what it needs. An error is shown in
    /// the status and in logs, cut to 200 bytes. A panic is a failure, and the next run is as usual. The future is
    /// dropped at the timeout, or when the last registration ends.
    pub fn every<F, R, E>(interval: Duration, probe: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        let probe = Arc::new(move || {
            let run = probe();
            Box::pin(async move { run.await.map_err(|error| error.to_string()) }) as Answer
        });
        Self {
            probe,
            interval,
            timeout: None,
            failure_threshold: 3,
            success_threshold: 1,
        }
    }

    /// How long one run may take. Default: the interval, at most 5 s. A run that takes longer is dropped and has failed. A
    /// run that blocks its thread has failed too, if the runtime has other threads. The next run starts only after it
    /// has returned.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// The number of consecutive failures after which a ready server is not ready. Default: 3.
    ///
    /// When a probe begins to hang, the keys are withheld after at most one interval and `in_a_row` times the timeout or
    /// the interval, whichever is longer.
    pub fn failure_threshold(mut self, in_a_row: u32) -> Self {
        self.failure_threshold = in_a_row;
        self
    }

    /// The number of consecutive successes after which a server is ready, at first and again. Default: 1.
    pub fn success_threshold(mut self, in_a_row: u32) -> Self {
        self.success_threshold = in_a_row;
        self
    }

    /// How long one run may take.
    pub(super) fn limit(&self) -> Duration {
        let default = self.interval.min(DEFAULT_TIMEOUT);
        self.timeout.unwrap_or(default).min(FOR_EVER)
    }

    pub(super) fn hysteresis(&self) -> Hysteresis {
        Hysteresis {
            failure_threshold: self.failure_threshold,
            success_threshold: self.success_threshold,
            is_ready: false,
            in_a_row: 0,
        }
    }

    /// Checks that the settings can work.
    pub(super) fn check(self) -> Result<Self, BuildError> {
        let reason = if self.interval < SHORTEST_INTERVAL {
            format!(
                "an interval of {:?} is a busy loop: use 1 ms or more",
                self.interval
            )
        } else if self.limit().is_zero() {
            "a timeout of zero: no probe can succeed".to_owned()
        } else if self.failure_threshold == 0 || self.success_threshold == 0 {
            "a threshold of 0: use 1 or more".to_owned()
        } else {
            return Ok(self);
        };
        let name = "ready_when";
        Err(BuildError::Setting { name, reason })
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness")
            .field("interval", &self.interval)
            .field("timeout", &self.limit())
            .field("failure_threshold", &self.failure_threshold)
            .field("success_threshold", &self.success_threshold)
            .finish_non_exhaustive()
    }
}

// === impl Hysteresis ===

impl Hysteresis {
    /// Counts a result. Returns whether the server is ready now.
    pub(super) fn count(&mut self, is_success: bool) -> bool {
        if is_success == self.is_ready {
            self.in_a_row = 0;
            return self.is_ready;
        }
        self.in_a_row += 1;
        let enough = match is_success {
            true => self.success_threshold,
            false => self.failure_threshold,
        };
        if self.in_a_row >= enough {
            (self.is_ready, self.in_a_row) = (is_success, 0);
        }
        self.is_ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    fn every(interval: Duration) -> Readiness {
        Readiness::every(interval, || async { Ok::<_, String>(()) })
    }

    #[test]
    fn a_server_is_ready_after_successes_and_not_after_failures_in_a_row() {
        // Results, `+` and `-`, and whether the server is ready after each.
        for (failures, successes, outcomes, ready) in [
            (3, 1, "---+--+---+", "...++++++.+"),
            (1, 1, "+-+-", "+.+."),
            (1, 2, "+-++-+-++", "...+....+"),
            (2, 3, "++-+++-+--", ".....++++."),
            (u32::MAX, 1, "+-----", "++++++"),
        ] {
            let readiness = every(SEC)
                .failure_threshold(failures)
                .success_threshold(successes);
            let mut hysteresis = readiness.hysteresis();
            let shown = outcomes
                .chars()
                .map(|outcome| match hysteresis.count(outcome == '+') {
                    true => '+',
                    false => '.',
                });
            assert_eq!(shown.collect::<String>(), ready, "{outcomes}");
        }
    }

    #[test]
    fn a_probe_that_cannot_work_is_refused_with_the_reason() {
        let ms = Duration::from_millis(1);
        for (bad, why) in [
            (every(Duration::ZERO), "busy loop"),
            (every(ms - Duration::from_nanos(1)), "busy loop"),
            (every(SEC).timeout(Duration::ZERO), "timeout of zero"),
            (every(SEC).failure_threshold(0), "threshold of 0"),
            (every(SEC).success_threshold(0), "threshold of 0"),
        ] {
            let error = bad.check().unwrap_err();
            assert!(matches!(
                error,
                BuildError::Setting {
                    name: "ready_when",
                    ..
                }
            ));
            assert!(error.to_string().contains(why), "{error}");
        }
        for good in [
            every(ms),
            every(Duration::MAX).timeout(Duration::MAX),
            every(SEC).timeout(Duration::from_nanos(1)),
            every(SEC)
                .failure_threshold(u32::MAX)
                .success_threshold(u32::MAX),
        ] {
            drop(good.check().unwrap());
        }
    }

    #[test]
    fn a_probe_may_take_its_interval_and_five_seconds_at_most() {
        for (interval, limit) in [(SEC, SEC), (5 * SEC, 5 * SEC), (6 * SEC, 5 * SEC)] {
            assert_eq!(every(interval).limit(), limit);
            assert_eq!(every(interval).timeout(7 * SEC).limit(), 7 * SEC);
        }
    }
}
