//! The task that runs a [`Readiness`] probe, and updates the registry when the result changes.

use super::readiness::Readiness;
use super::registry::Registry;
use crate::runtime::deadline;
use crate::runtime::escaped::Escaped;
use crate::runtime::isolated::in_current_span;
use crate::runtime::logging;
use std::sync::Arc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// The probe, and its last run.
struct Prober {
    readiness: Readiness,
    /// A task of its own: that contains a panic, and the task can be abandoned when it blocks its thread.
    asked: Option<AbortOnDropHandle<Result<(), String>>>,
}

/// The longest text of an error.
const MAX_REASON_BYTES: usize = 200;

/// Starts to probe, until `ended` is cancelled.
pub(super) fn start(registry: Arc<Registry>, readiness: Readiness, ended: CancellationToken) {
    // Made here and not in the task, because a runtime may end before it has polled the task once.
    let guard = RuntimeGuard(registry.clone(), ended.clone());
    let task = in_current_span(async move {
        let _guard = guard;
        run(registry, readiness).await;
    });
    tokio::spawn(ended.run_until_cancelled_owned(task));
}

/// Nobody asks the probe any more: the runtime has ended, and not the last registration.
struct RuntimeGuard(Arc<Registry>, CancellationToken);

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        if !self.1.is_cancelled() {
            self.0.on_probe_ended();
        }
    }
}

async fn run(registry: Arc<Registry>, readiness: Readiness) {
    let mut hysteresis = readiness.hysteresis();
    let interval = readiness.interval;
    let asked = None;
    let mut prober = Prober { readiness, asked };
    loop {
        let next = deadline::after(Instant::now(), interval);
        let outcome = prober.ask().await;
        let is_ready = hysteresis.count(outcome.is_ok());
        if let Err(reason) = &outcome {
            logging::debug!(service = %registry.services(), registrations = registry.count(), %reason, "the readiness probe failed");
        }
        match outcome {
            _ if is_ready => registry.set_not_ready(None),
            Err(reason) => registry.set_not_ready(Some(reason.into())),
            // More successes are needed.
            Ok(()) => {}
        }
        sleep_until(next).await;
    }
}

// === impl Prober ===

impl Prober {
    /// Runs the probe once. The error is the reason why the server is not ready.
    async fn ask(&mut self) -> Result<(), String> {
        let (limit, probe) = (self.readiness.limit(), self.readiness.probe.clone());
        // An aborted earlier run has ended by the next poll of its task, unless it blocks its thread.
        if let Some(before) = self.asked.as_mut().filter(|asked| !asked.is_finished())
            && timeout(limit, before).await.is_err()
        {
            return Err("not ready: the readiness probe blocks its thread".to_owned());
        }
        let task = tokio::spawn(in_current_span(async move { probe().await }));
        let asked = self.asked.insert(AbortOnDropHandle::new(task));
        let failure = match timeout(limit, &mut *asked).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(error))) if error.trim().is_empty() => {
                "the readiness probe failed".to_owned()
            }
            Ok(Ok(Err(error))) => Escaped::at_most(&error, MAX_REASON_BYTES).to_string(),
            Ok(Err(_panicked)) => "the readiness probe panicked".to_owned(),
            Err(_) => {
                asked.abort();
                format!("the readiness probe did not answer within {limit:?}")
            }
        };
        Err(format!("not ready: {failure}"))
    }
}
