//! [`Worker`]: performs the reconciler's actions, and reports their results as events.
//!
//! It makes no decisions. Every await in it is bounded, and a stop is polled first.

use super::ask::{Call, some};
use super::ids::EntryId;
use super::link::{self, Beside, Link};
use super::local_ip;
use super::reconciler::{
    Action, Desired, Event, Question, RESTART_PAUSE, Reconciler, Renewed, Request,
};
use super::registry::Registry;
use super::report;
use super::runtime_guard::RuntimeGuard;
use super::streams::Streams;
use crate::error::RegisterError;
use crate::etcd::{Member, RpcError, Session, with_timeout};
use crate::observe::member_stats;
use crate::observe::observer::RenewalEvent;
use crate::observe::timestamp::Timestamp;
use crate::registrar::lifecycle::health_acknowledged;
use crate::runtime::clock;
use crate::runtime::isolated::in_current_span;
use crate::runtime::logging;
use futures_util::FutureExt as _;
use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// See the [module](self).
struct Worker {
    registry: Arc<Registry>,
    link: Link,
    beside: Beside,
}

const PANICKED: &str = "internal error: the registrar's task panicked";
/// During a stop there is no pause after a panic; after so many panics the worker gives up.
const MOST_PANICS_OF_A_STOP: u32 = 3;

/// Starts the worker of `registry`, in the current runtime or on a thread of its own.
pub(super) fn start(registry: Arc<Registry>) -> Result<(), RegisterError> {
    if !registry.config.dedicated_thread {
        // Made here and not in the task, because a runtime may end before it has polled the task once.
        let guard = RuntimeGuard::new(registry);
        tokio::spawn(in_current_span(supervise(guard)));
        return Ok(());
    }
    let task = in_current_span(async move { supervise(RuntimeGuard::new(registry)).await });
    let thread = std::thread::Builder::new().name("tonic-etcd".to_owned());
    on_thread(task, |job| thread.spawn(job).map(drop))
        .map_err(|source| RegisterError::Thread { source })
}

/// Runs `task` on a runtime of its own, on the thread that `spawn` starts.
///
/// The runtime is made there: dropped here, as when there is no thread to be had, it panics.
fn on_thread(
    task: impl Future<Output = ()> + Send + 'static,
    spawn: impl FnOnce(Box<dyn FnOnce() + Send>) -> io::Result<()>,
) -> io::Result<()> {
    let (began, begun) = std::sync::mpsc::sync_channel(1);
    spawn(Box::new(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        match builder.enable_all().build() {
            Err(error) => drop(began.send(Err(error))),
            Ok(runtime) => {
                let _ = began.send(Ok(()));
                runtime.block_on(task);
            }
        }
    }))?;
    let ended = |_| Err(io::Error::other("the thread ended"));
    begun.recv().unwrap_or_else(ended)
}

/// Runs workers until one finishes. The reconciler outlives a worker that panics, so that the next
/// worker can revoke the lease.
async fn supervise(mut guard: RuntimeGuard) {
    let (registry, reconciler) = (guard.registry.clone(), &mut guard.reconciler);
    let mut panics_of_a_stop = 0;
    while panics_of_a_stop < MOST_PANICS_OF_A_STOP {
        let mut worker = Worker {
            registry: registry.clone(),
            link: Link::Closed,
            beside: Beside::None,
        };
        let run = worker.run(reconciler);
        if AssertUnwindSafe(run).catch_unwind().await.is_ok() {
            return;
        }
        let (service, registrations) = (registry.services(), registry.count());
        logging::error!(%service, registrations, "the registrar's task panicked, starting it again");
        reconciler.handle_panic(clock::now(), PANICKED);
        let say = worker.perform_all(reconciler);
        let _ = AssertUnwindSafe(say).catch_unwind().await;
        panics_of_a_stop += u32::from(registry.is_stopping());
        let _ = timeout(RESTART_PAUSE, registry.stopping()).await;
    }
    guard.reason = PANICKED;
}

// === impl Worker ===

impl Worker {
    /// Returns after [`Action::Finish`].
    async fn run(&mut self, reconciler: &mut Reconciler) {
        let registry = self.registry.clone();
        let (mut is_shutdown_now, mut is_closed) = (false, false);
        loop {
            self.report_changes(reconciler);
            if self.perform_all(reconciler).await.is_break() {
                return;
            }
            registry.stats.set(|stats| {
                stats.lease = reconciler.held_lease();
                stats.renewal_due = reconciler.renewal_due().map(Timestamp::at);
            });
            let wake = reconciler.poll_timeout();
            tokio::select! {
                biased;
                () = registry.shutdown_now.cancelled(), if !is_shutdown_now => {
                    is_shutdown_now = true;
                    self.stop(reconciler, Event::StopNow);
                }
                () = registry.shutdown.cancelled(), if !reconciler.is_stopping() => {
                    self.stop(reconciler, Event::Stop);
                }
                event = self.link.next() => {
                    self.note(&event);
                    // First: an address that is gone must not be written any more once another one is found.
                    self.report_changes(reconciler);
                    reconciler.handle_event(clock::now(), event);
                }
                event = self.beside.next() => {
                    self.note(&event);
                    reconciler.handle_event(clock::now(), event);
                }
                () = some(wake.map(clock::sleep_until)) => reconciler.handle_timeout(clock::now()),
                () = registry.changed() => {}
                () = registry.abandoned.cancelled(), if !is_closed => {
                    is_closed = true;
                    reconciler.handle_event(clock::now(), Event::RegistryClosed);
                }
            }
        }
    }

    /// Reports the desired state of the entries that changed.
    fn report_changes(&self, reconciler: &mut Reconciler) {
        let changed = self.registry.take_changed();
        if !changed.is_empty() {
            reconciler.set_services(self.registry.services());
            let desired = self.desired(reconciler, changed);
            reconciler.handle_event(clock::now(), Event::Desired(desired));
        }
    }

    /// Updates stats and observers after an event.
    fn note(&self, event: &Event) {
        if let Some(error) = event.error() {
            self.note_error(error);
        }
        let Event::Renewed(Renewed { sent, result, .. }) = event else {
            return;
        };
        if result.is_ok() {
            let stats = &self.registry.stats;
            stats.set(|stats| stats.renewal_acknowledged = Some(Timestamp::at(*sent)));
        }
        self.note_renewal(*sent, result.as_ref().err());
    }

    fn note_renewal(&self, sent: Instant, error: Option<&RpcError>) {
        let observers = &self.registry.config.observers;
        if observers.is_empty() {
            return;
        }
        let error = error.map(RpcError::to_string);
        let renewal = RenewalEvent {
            took: clock::now().saturating_duration_since(sent),
            error: error.as_deref(),
        };
        observers.notify(|observer| observer.on_renewal(&renewal));
    }

    fn note_error(&self, error: &RpcError) {
        let Registry { config, stats, .. } = &*self.registry;
        let (now, text) = (Timestamp::now(), error.to_string().into());
        stats.set(|stats| {
            stats.last_error = Some((now, text));
            member_stats::failed(&mut stats.members, error, now, |it| {
                config.cluster.members.any(|shown| **shown == *it)
            });
        });
    }

    fn stop(&mut self, reconciler: &mut Reconciler, event: Event) {
        // From here on no entry is added, so that the event covers all of them.
        self.registry.close();
        self.registry.take_changed();
        let all = self
            .registry
            .entries()
            .iter()
            .map(|entry| entry.id)
            .collect();
        let desired = self.desired(reconciler, all);
        let now = clock::now();
        reconciler.handle_event(now, Event::Desired(desired));
        reconciler.handle_event(now, event);
    }

    fn desired(&self, reconciler: &Reconciler, ids: Vec<EntryId>) -> Vec<(EntryId, Desired)> {
        let (lease, pause) = (reconciler.held_lease(), self.registry.pause_of_all());
        let entries = ids.into_iter().filter_map(|id| self.registry.entry(id));
        let desired = entries.map(|entry| (entry.id, entry.desired(lease, pause.clone())));
        desired.collect()
    }

    async fn perform_all(&mut self, reconciler: &mut Reconciler) -> ControlFlow<()> {
        while let Some(action) = reconciler.poll_action() {
            self.perform(reconciler, action).await?;
        }
        ControlFlow::Continue(())
    }

    /// Breaks at the end. Long, with a branch for each action.
    async fn perform(&mut self, reconciler: &mut Reconciler, action: Action) -> ControlFlow<()> {
        let registry = self.registry.clone();
        let Registry { config, stats, .. } = &*registry;
        match action {
            Action::ReadDesired(entries) => self.read_desired(reconciler, entries),
            Action::Connect { member, limit } => {
                self.link = Link::Connecting(self.connect(member, limit));
            }
            Action::ConnectBeside {
                member,
                limit,
                question,
            } => self.connect_beside(member, limit, question),
            Action::UseBeside => self.use_beside(),
            Action::DropBeside => self.beside = Beside::None,
            Action::Late { error, renewal } => {
                self.note_error(&error);
                if let Some(sent) = renewal {
                    self.note_renewal(sent, Some(&error));
                }
            }
            Action::Disconnect => {
                self.link = Link::Closed;
                stats.set(|stats| member_stats::disconnected(&mut stats.members));
            }
            Action::CloseStreams => self.on_session(Streams::close),
            Action::Send(request) => {
                if let Request::Renew { .. } = request {
                    stats.set(|stats| stats.renewal_sent = Some(Timestamp::now()));
                }
                self.on_session(|streams| streams.send(request));
            }
            Action::FindLocalIp => {
                let found = local_ip::find(registry.clone());
                self.on_session(|streams| streams.request(found));
            }
            Action::LeaseExpiry(at) => registry.lease_expiry.set(at),
            Action::Rival(id, rival) => {
                if let Some(entry) = registry.entry(id) {
                    report::rival(&entry, &rival);
                }
            }
            Action::Wrote(reasons, error) => {
                report::wrote(&config.observers, reasons, error.as_deref());
            }
            Action::Publish(id, status) => {
                if let Some(entry) = registry.entry(id) {
                    report::publish(&registry, &entry, status);
                }
            }
            Action::AwaitHealth(entries) => await_health(&registry, entries).await,
            Action::End(id, status) => {
                if let Some(entry) = registry.forget(id) {
                    report::ended(&registry, &entry, status);
                }
            }
            Action::Finish => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn read_desired(&self, reconciler: &mut Reconciler, ids: Vec<EntryId>) {
        let failed = ids.iter().filter_map(|id| self.registry.entry(*id));
        let failed = failed.filter(|entry| entry.draft().has_failed());
        let to_render = failed.filter(|entry| entry.begin_rendering());
        drop(self.registry.render(to_render.collect()));
        let desired = self.desired(reconciler, ids);
        reconciler.handle_event(clock::now(), Event::Desired(desired));
    }

    /// Runs `what` on the open session. Without one there is nothing to do: its end is reported.
    fn on_session(&mut self, what: impl FnOnce(&mut Streams)) {
        if let Link::Open(streams) = &mut self.link {
            what(streams);
        }
    }

    fn connect(&self, member: Member, limit: Duration) -> Call<Result<Session, RpcError>> {
        let registry = self.registry.clone();
        Box::pin(async move {
            let session = connect(&registry, &member, limit).await;
            if session.is_ok() {
                let stats = &registry.stats;
                stats.set(|stats| member_stats::connected(&mut stats.members, member.shown()));
            }
            session
        })
    }

    fn connect_beside(&mut self, member: Member, limit: Duration, question: Question) {
        let registry = self.registry.clone();
        self.beside = Beside::Connecting(Box::pin(async move {
            let session = connect(&registry, &member, limit).await?;
            with_timeout(limit, member.shown(), link::prove(session, question)).await
        }));
    }

    /// Uses the connection that was opened beside the first one.
    fn use_beside(&mut self) {
        let Beside::Ready(streams) = std::mem::replace(&mut self.beside, Beside::None) else {
            return;
        };
        self.registry.stats.set(|stats| {
            member_stats::disconnected(&mut stats.members);
            member_stats::connected(&mut stats.members, streams.endpoint());
        });
        self.link = Link::Open(streams);
    }
}

async fn connect(
    registry: &Registry,
    member: &Member,
    limit: Duration,
) -> Result<Session, RpcError> {
    let (config, started) = (&registry.config, clock::now());
    let session = Session::connect(&config.cluster, member, limit).await;
    let took = clock::now().saturating_duration_since(started);
    config.observers.connected(member.shown(), took, &session);
    if session.is_ok() {
        local_ip::check(registry);
    }
    session
}

/// Waits for the health services of `entries`, at most 50 ms for all, and yields once to others that
/// watch the status. Otherwise the next lease is often there before they could see that one was
/// lost.
async fn await_health(registry: &Registry, entries: Vec<EntryId>) {
    let entries = entries.into_iter().filter_map(|id| registry.entry(id));
    health_acknowledged(entries.map(|entry| entry.lifecycle.clone()).collect()).await;
    tokio::task::yield_now().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_thread_to_be_had_the_error_says_so() {
        let no_thread = |_job| Err(io::Error::other("no thread"));
        let error = on_thread(async {}, no_thread).unwrap_err();
        assert_eq!(error.to_string(), "no thread");
        let at_once = |job: Box<dyn FnOnce() + Send>| std::thread::Builder::new().spawn(job);
        on_thread(async {}, |job| at_once(job).map(drop)).unwrap();
    }
}
