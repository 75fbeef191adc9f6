//! [`Life`]: the one way a registration goes, and the signals along it. Private.
//!
//! ```text
//! leaving -> (health told, key gone) -> ended -> settle -> drain -> drain_timeout -> cut -> sever
//! ```
//!
//! Each signal fires once and stays. The registrar moves a life to `ended`; from there on it goes
//! its way by itself; the server side only listens.

use crate::status::{Status, StatusCell, StatusWatch};
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::Span;

/// How long a step of the way may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    pub(crate) settle: Duration,
    pub(crate) drain: Duration,
}

/// What a registration, its server and its health share.
#[derive(Debug)]
pub(crate) struct Life {
    status: Arc<StatusCell>,
    waits: Waits,
    span: Span,
    /// Where the registration was made. The keeper may run, and end, elsewhere.
    runtime: Handle,
    /// Skip what waits are left.
    pub(crate) hurry: CancellationToken,
    serving: OnceLock<Arc<Serving>>,
    /// Somebody owns a listener of this registration.
    pub(crate) listening: AtomicBool,
    /// Those who must have seen the way out begin before the key goes.
    witnesses: Mutex<Vec<watch::Receiver<u64>>>,
}

/// What only a server needs. Made when the first part of one asks for it: most of ten thousand
/// registrations in one process have none, and this is most of what each would weigh.
#[derive(Debug, Default)]
pub(crate) struct Serving {
    /// Stop accepting, finish what is in flight.
    pub(crate) drain: CancellationToken,
    /// The listener is closed, and nothing is left in its backlog.
    pub(crate) swept: CancellationToken,
    /// Close the connections that are still open. The flag is for those who ask on every read.
    pub(crate) sever: CancellationToken,
    severed: AtomicBool,
    /// The server has returned; there is nobody left to wait for.
    pub(crate) served: CancellationToken,
    /// Requests in flight, and the way to end them.
    pub(crate) gate: Arc<Gate>,
}

/// Held by every request in flight; counts them by being held.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    shut: AtomicBool,
    shutting: Arc<Notify>,
}

pin_project! {
    /// A request in flight: counted while it is held, and told when the gate shuts.
    ///
    /// Waiting for that takes a lock, so it is arranged only for a request that has to wait for
    /// something else anyway: one that is answered at once never pays for it.
    #[derive(Debug)]
    pub(crate) struct Pass {
        // `None` once it was handed on.
        gate: Option<Arc<Gate>>,
        #[pin]
        shutting: Option<OwnedNotified>,
    }
}

/// Time for the last answers to be written, between telling requests to end and cutting the
/// connections they are on.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(250);

/// How long a witness may take. They are tasks of ours that only store a value; a runtime too
/// busy for that must not keep the key in etcd any longer.
const WITNESS_LIMIT: Duration = Duration::from_millis(50);

// === impl Life ===

impl Life {
    pub(crate) fn new(waits: Waits, hurry: CancellationToken, runtime: Handle) -> Self {
        Self {
            runtime,
            status: Arc::new(StatusCell::new(Status::Registering { reason: None })),
            waits,
            span: Span::current(),
            hurry,
            serving: OnceLock::new(),
            listening: AtomicBool::new(false),
            witnesses: Mutex::default(),
        }
    }

    /// The server's side of the way.
    pub(crate) fn serving(&self) -> &Arc<Serving> {
        self.serving.get_or_init(Arc::default)
    }

    /// How many requests are in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.serving
            .get()
            .map_or(0, |serving| serving.gate.in_flight())
    }

    pub(crate) fn status(&self) -> Status {
        self.status.get().1
    }

    /// Whether the way out has begun.
    pub(crate) fn is_leaving(&self) -> bool {
        let (_, status) = self.status.get();
        status.is_final() || matches!(status, Status::Deregistering)
    }

    pub(crate) fn watch(&self) -> StatusWatch {
        self.status.watch()
    }

    /// Publishes a status, and logs it if it is another kind than the last one.
    ///
    /// There is no way back from [`Status::Deregistering`] but to an end, and none from an end.
    pub(crate) fn publish(&self, next: Status) {
        self.status.publish(|now| {
            let leaving = matches!(now, Status::Deregistering);
            if now.is_final() || (leaving && !next.is_final()) || *now == next {
                return None;
            }
            if std::mem::discriminant(now) != std::mem::discriminant(&next) {
                self.span.in_scope(|| log(now, &next));
            }
            Some(next)
        });
    }

    /// Adds somebody who must have seen the way out begin before the key goes. What they send is
    /// the number of the last publication they acted on.
    #[cfg(feature = "health")]
    pub(crate) fn add_witness(&self, witness: watch::Receiver<u64>) {
        self.witnesses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(witness);
    }

    /// Waits until every witness has acted on the status of now, but not for long.
    pub(crate) async fn witnessed(&self) {
        let (number, _) = self.status.get();
        let witnesses = self
            .witnesses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for mut witness in witnesses {
            let seen = witness.wait_for(|seen| *seen >= number);
            let _ = tokio::time::timeout(WITNESS_LIMIT, seen).await;
        }
    }

    /// The registration has ended; the server is led out.
    pub(crate) fn end(self: &Arc<Self>, last: Status) {
        self.publish(last);
        let life = self.clone();
        self.runtime.spawn(async move { life.lead_out().await });
    }

    async fn lead_out(&self) {
        let serving = self.serving();
        self.wait(self.waits.settle).await;
        serving.drain.cancel();
        self.wait(self.waits.drain).await;
        serving.gate.shut();
        // Not skipped in a hurry: without it a request would see a reset instead of its status.
        let _ = tokio::time::timeout(LAST_WORDS, serving.served.cancelled()).await;
        serving.sever();
    }

    /// Waits for `wait`, less if the server has returned or everything is to hurry.
    async fn wait(&self, wait: Duration) {
        tokio::select! {
            biased;
            () = self.hurry.cancelled() => {}
            () = self.serving().served.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn log(last: &Status, next: &Status) {
    match next {
        Status::Registering { .. } => {}
        Status::Registered(new) => tracing::info!(
            keys = ?new.keys, lease = format_args!("{:x}", new.lease), revision = new.revision,
            "{}", if matches!(last, Status::Suspect { .. }) { "registration confirmed" } else { "registered" },
        ),
        Status::Suspect { reason, .. } => {
            tracing::warn!(%reason, "etcd is out of reach, the registration still holds");
        }
        Status::Lost { reason, .. } => tracing::warn!(%reason, "registration lost, trying again"),
        Status::Yielding { to_lease } => tracing::warn!(
            lease = format_args!("{to_lease:x}"),
            "another lease holds the key, leaving it",
        ),
        Status::Deregistering => tracing::info!("deregistering"),
        Status::Deregistered => tracing::info!("deregistered"),
        Status::LeftToExpire { ttl, reason } => {
            tracing::warn!(?ttl, %reason, "etcd could not be told, the key goes with its lease");
        }
    }
}

// === impl Serving ===

impl Serving {
    /// Cuts what is left of connections.
    pub(crate) fn sever(&self) {
        self.severed.store(true, Ordering::Release);
        self.sever.cancel();
    }

    pub(crate) fn is_severed(&self) -> bool {
        self.severed.load(Ordering::Acquire)
    }
}

// === impl Gate ===

impl Gate {
    /// How many requests are in flight. The life itself holds one.
    pub(crate) fn in_flight(self: &Arc<Self>) -> usize {
        Arc::strong_count(self).saturating_sub(1)
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }

    fn shut(&self) {
        self.shut.store(true, Ordering::Release);
        self.shutting.notify_waiters();
    }
}

// === impl Pass ===

impl Pass {
    pub(crate) fn new(gate: Arc<Gate>) -> Self {
        Self {
            gate: Some(gate),
            shutting: None,
        }
    }

    /// Hands the request on, from its future to its body: counted once all the way.
    pub(crate) fn hand_on(self: Pin<&mut Self>) -> Self {
        Self {
            gate: self.project().gate.take(),
            shutting: None,
        }
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.is_shut())
    }

    pub(crate) fn poll_shut(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(gate) = this.gate else {
            return Poll::Pending;
        };
        if this.shutting.is_none() {
            // Made before the gate is asked, it cannot miss that it shuts.
            this.shutting
                .set(Some(gate.shutting.clone().notified_owned()));
        }
        if gate.is_shut() {
            return Poll::Ready(());
        }
        match this.shutting.as_pin_mut() {
            Some(shutting) => shutting.poll(cx),
            None => Poll::Pending,
        }
    }
}
