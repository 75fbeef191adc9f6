//! [`Lifecycle`]: the state that a registration shares with its server and its health services, from the first status to
//! the end of the drain. The registrar changes it:
//!
//! * [`publish`](Lifecycle::publish) publishes a status;
//! * [`health_acknowledged`] waits until health services have reported it;
//! * [`drain_in_background`](Lifecycle::drain_in_background) starts the [drain](crate::drain) after the final status;
//! * [`LeaseExpiry`] limits how long a published status stays "registered".

use crate::drain::{Drain, DrainTimeouts};
use crate::observe::lease_expiry::LeaseExpiry;
use crate::observe::status::{RegistrationStatus, StatusCell};
use crate::runtime::isolated::IsolatedSpan;
use crate::runtime::lock::Lock;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Lifecycle {
    pub(crate) status: Arc<StatusCell>,
    timeouts: DrainTimeouts,
    span: Arc<IsolatedSpan>,
    /// The runtime of `register`. The worker and the server may run, and end, in other ones: see [`Drain::runtime`].
    runtime: Handle,
    /// Skips the remaining waits of all registrations of the registrar.
    registrar_shutdown_now: CancellationToken,
    /// Made at its first use: it takes 200 B, and is needed only once the registration leaves.
    shutdown_now: OnceLock<CancellationToken>,
    drain: OnceLock<Arc<Drain>>,
    /// The number of the last publication that each health service has reported.
    health_acks: Lock<Vec<watch::Receiver<u64>>>,
}

/// Ends the drain when its runtime ends: the server may run in another one.
struct RuntimeGuard(Arc<Lifecycle>);

/// How long to wait for all health services together. They only store a value. A runtime that is too busy for that must
/// not delay the deletion of the keys any longer.
const HEALTH_LIMIT: Duration = Duration::from_millis(50);

// === impl Lifecycle ===

impl Lifecycle {
    pub(crate) fn new(
        timeouts: DrainTimeouts,
        registrar_shutdown_now: CancellationToken,
        runtime: Handle,
        expiry: Arc<LeaseExpiry>,
    ) -> Self {
        Self {
            runtime,
            status: Arc::new(StatusCell::new(expiry)),
            timeouts,
            span: IsolatedSpan::current(),
            registrar_shutdown_now,
            shutdown_now: OnceLock::new(),
            drain: OnceLock::new(),
            health_acks: Lock::default(),
        }
    }

    /// Skips the remaining waits of this registration.
    pub(crate) fn shutdown_now(&self) -> &CancellationToken {
        let child = || self.registrar_shutdown_now.child_token();
        self.shutdown_now.get_or_init(child)
    }

    /// How its server stops.
    pub(crate) fn drain(&self) -> &Arc<Drain> {
        self.drain.get_or_init(Arc::default)
    }

    /// The same, if anything has used it.
    pub(crate) fn server(&self) -> Option<&Drain> {
        self.drain.get().map(|drain| &**drain)
    }

    /// The number of requests in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.server().map_or(0, |drain| drain.in_flight.count())
    }

    /// Whether a server owns, or owned, a listener.
    pub(crate) fn has_listener(&self) -> bool {
        self.server().is_some_and(|drain| drain.listeners.exist())
    }

    /// Whether deregistration has begun.
    pub(crate) fn is_leaving(&self) -> bool {
        let (_, status) = self.status.published();
        status.is_final() || matches!(*status, RegistrationStatus::Deregistering)
    }

    /// Publishes a status. Returns the previous one if that differs.
    ///
    /// After [`RegistrationStatus::Deregistering`] only a final status is published, and nothing after that.
    pub(crate) fn publish(&self, next: Arc<RegistrationStatus>) -> Option<Arc<RegistrationStatus>> {
        let is_final = next.is_final();
        self.status.publish(next, |last| {
            let leaving = matches!(last, RegistrationStatus::Deregistering);
            !last.is_final() && (!leaving || is_final)
        })
    }

    /// Runs `log` in the span that the registration was made in.
    pub(crate) fn in_span(&self, log: impl FnOnce()) {
        self.span.in_scope(log);
    }

    /// Adds a health service. It sends the number of the last publication that it has reported.
    #[cfg(feature = "health")]
    pub(crate) fn add_health(&self, acks: watch::Receiver<u64>) {
        self.health_acks.lock().push(acks);
    }

    async fn acknowledged(&self) {
        let (number, _) = self.status.published();
        let acks = self.health_acks.lock().clone();
        for mut ack in acks {
            let _ = ack.wait_for(|reported| *reported >= number).await;
        }
    }

    /// The registration has ended: spawns a task that runs the drain together with `begun`. `done` gets the number of
    /// requests that were ended.
    pub(crate) fn drain_in_background(
        self: &Arc<Self>,
        begun: impl Future<Output = ()> + Send + 'static,
        done: impl FnOnce(&Drain, usize) + Send + 'static,
    ) {
        let this = self.clone();
        // Made here and not in the task, which is dropped at once if the runtime has ended.
        let guard = RuntimeGuard(self.clone());
        let drain = async move {
            let _guard = guard;
            let drain = this.drain();
            let (cut, ()) = tokio::join!(drain.run(this.timeouts, this.shutdown_now()), begun);
            done(drain, cut);
            drain.reported.cancel();
        };
        let runtime = self.drain().runtime.get().unwrap_or(&self.runtime);
        runtime.spawn(self.span.clone().instrument(drain));
    }

    /// Drains without waiting: the runtime and all its tasks have ended.
    pub(crate) fn drain_now(&self) {
        self.drain().run_now();
        self.drain().reported.cancel();
    }
}

// === impl RuntimeGuard ===

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        if !self.0.drain().reported.is_cancelled() {
            self.0.drain_now();
        }
    }
}

/// Waits until the health services of these registrations have reported the published status, for at most 50 ms. Cancel
/// safe.
///
/// They report independently, so it waits for one after the other, within one limit.
pub(crate) async fn health_acknowledged(all: Vec<Arc<Lifecycle>>) {
    let deadline = Instant::now() + HEALTH_LIMIT;
    for lifecycle in all {
        let _ = timeout_at(deadline, lifecycle.acknowledged()).await;
    }
}
