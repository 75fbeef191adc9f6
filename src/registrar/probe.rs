//! [`ReadinessProbe`]: runs the probe of a [`Readiness`], and pauses all registrations of the registrar while it fails.

use super::readiness::Readiness;
use super::registry::Registry;
use crate::runtime::deadline;
use crate::runtime::escaped::Escaped;
use crate::runtime::isolated::in_current_span;
use crate::runtime::lock::Lock;
use crate::runtime::logging;
use std::sync::Arc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// See the [module](self). It runs while there are registrations.
#[derive(Debug)]
pub(super) struct ReadinessProbe {
    readiness: Readiness,
    /// The task, and the token that ends it.
    task: Lock<Option<(AbortHandle, CancellationToken)>>,
}

/// The probe, and its last run.
struct Prober {
    readiness: Readiness,
    /// A task of its own contains panics, and can be abandoned when it blocks its thread.
    last: Option<AbortOnDropHandle<Result<(), String>>>,
}

/// Pauses all registrations if the runtime of the probe ends before the last of them does.
struct RuntimeGuard(Arc<Registry>, CancellationToken);

/// The longest text of an error.
const MAX_REASON_BYTES: usize = 200;

// === impl ReadinessProbe ===

impl ReadinessProbe {
    pub(super) fn new(readiness: Readiness) -> Self {
        let task = Lock::default();
        Self { readiness, task }
    }

    /// Starts the probe if it does not run. All registrations are paused until its first result.
    pub(super) fn start(&self, registry: &Arc<Registry>) {
        let (mut task, ended) = (self.task.lock(), registry.unused());
        let runs = task
            .as_ref()
            .is_some_and(|(task, ended)| !task.is_finished() && !ended.is_cancelled());
        if runs || ended.is_cancelled() {
            return;
        }
        registry.pause_all(Some(
            "not ready: the readiness probe has not answered".into(),
        ));
        // Made here and not in the task, because a runtime may end before it has polled the task once.
        let guard = RuntimeGuard(registry.clone(), ended.clone());
        let (registry, readiness) = (registry.clone(), self.readiness.clone());
        let run = in_current_span(async move {
            let _guard = guard;
            run(registry, readiness).await;
        });
        let run = tokio::spawn(ended.clone().run_until_cancelled_owned(run));
        *task = Some((run.abort_handle(), ended));
    }
}

// === impl RuntimeGuard ===

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        if !self.1.is_cancelled() {
            self.0.pause_all(Some(
                "not ready: the runtime of the readiness probe has ended".into(),
            ));
        }
    }
}

async fn run(registry: Arc<Registry>, readiness: Readiness) {
    let mut hysteresis = readiness.hysteresis();
    let interval = readiness.interval;
    let last = None;
    let mut prober = Prober { readiness, last };
    loop {
        let next = deadline::after(Instant::now(), interval);
        let outcome = prober.run().await;
        let is_ready = hysteresis.count(outcome.is_ok());
        if let Err(reason) = &outcome {
            logging::debug!(service = %registry.services(), registrations = registry.count(), %reason, "the readiness probe failed");
        }
        match outcome {
            _ if is_ready => registry.pause_all(None),
            Err(reason) => registry.pause_all(Some(reason.into())),
            // More successes are needed.
            Ok(()) => {}
        }
        sleep_until(next).await;
    }
}

// === impl Prober ===

impl Prober {
    /// Runs the probe once. The error says why the server is not ready.
    async fn run(&mut self) -> Result<(), String> {
        let (limit, probe) = (self.readiness.limit(), self.readiness.probe.clone());
        // An aborted run ends at the next poll of its task, unless it blocks its thread.
        if let Some(before) = self.last.as_mut().filter(|last| !last.is_finished())
            && timeout(limit, before).await.is_err()
        {
            return Err("not ready: the readiness probe blocks its thread".to_owned());
        }
        let task = tokio::spawn(in_current_span(async move { probe().await }));
        let running = self.last.insert(AbortOnDropHandle::new(task));
        let failure = match timeout(limit, &mut *running).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(error))) if error.trim().is_empty() => {
                "the readiness probe failed".to_owned()
            }
            Ok(Ok(Err(error))) => Escaped::at_most(&error, MAX_REASON_BYTES).to_string(),
            Ok(Err(_panicked)) => "the readiness probe panicked".to_owned(),
            Err(_) => {
                running.abort();
                format!("the readiness probe did not answer within {limit:?}")
            }
        };
        Err(format!("not ready: {failure}"))
    }
}
