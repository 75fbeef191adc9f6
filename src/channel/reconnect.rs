//! The tasks of a channel: one reads the changes and decides, and one for each dial runs its connection to its end.
//!
//! ```text
//! source -> run: DialPolicy -> a task: dial -> ready (while healthy) -> its end
//!            ^                             |                              |
//!            +-- connected, failed, gave way, ended (was it of use?) -----+
//! ```
//!
//! A connection that its peer ends gracefully (`GOAWAY`) has ended for the policy as soon as it accepts no more calls, so
//! that the next one is made while the calls in flight end where they are. When the last connection to an address ended
//! gracefully after so many calls, the next one is replaced before its end: after three quarters of them the task dials its
//! replacement, which gets the calls once the old connection ends.
//!
//! How hyper (1.12) reports the end of a connection:
//!
//! * The [`Dispatch`](super::dial::Dispatch) future takes calls from the queue and opens their
//!   streams. It ends when the connection has ended. After a `GOAWAY` it ends when it polls the
//!   connection next: at the first call, which comes back unsent, together with all
//!   calls behind it. Without an open stream the connection ends with the `GOAWAY`, and so does the
//!   future.
//! * The connection itself is a task of hyper, and continues until its last stream has ended.
//!   Dropping the dispatch future ends no stream; the calls in its queue come back unsent.
//! * A call above the last stream of a `GOAWAY` ends with that `GOAWAY` as its error.

use super::addresses::{AddressChange, Addresses};
use super::dial::Dialled;
use super::dial_policy::{DialDecision, DialPolicy, Ended, Id};
use super::health;
use super::origin::Origin;
use super::pool::Pool;
use super::replacement::Replacement;
use super::retry::lost;
use super::subchannel::{Connection, Subchannel};
use crate::change::Change;
use crate::observe::connectivity::ConnectivityState;
use crate::runtime::escaped::Escaped;
use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::task::AbortOnDropHandle;

/// The source of the changes.
pub(super) type Source = Pin<Box<dyn Stream<Item = Change> + Send>>;

/// What the task of a dial reports.
#[derive(Debug)]
enum DialEvent {
    Connected,
    Failed,
    /// It gave up its place, because the policy decided that.
    GaveWay,
    Ended(Ended),
}

/// The addresses of a channel, and the tasks of their dials.
struct Dials {
    pool: Arc<Pool>,
    policy: DialPolicy,
    ids: HashMap<Origin, Id>,
    targets: HashMap<Id, Target>,
    next_id: Id,
    events: mpsc::UnboundedSender<(Id, DialEvent)>,
}

/// One address.
struct Target {
    subchannel: Arc<Subchannel>,
    /// How often it was dialled.
    turn: usize,
    dial: Option<Dial>,
}

/// The task of one dial, which also runs its connection.
struct Dial {
    /// `None`: it was sent already.
    give_way: Option<oneshot::Sender<()>>,
    _task: AbortOnDropHandle<()>,
}

/// Keeps a connection in the ready set until it is dropped.
struct ReadyGuard<'a> {
    pool: &'a Pool,
    connection: &'a Arc<Connection>,
}

/// Keeps the addresses of the source connected. Dropping it ends everything except calls in flight.
pub(super) async fn run(pool: Arc<Pool>, mut source: Source, mut addresses: Addresses) {
    let (events, mut reported) = mpsc::unbounded_channel();
    let mut dials = Dials::new(pool.clone(), events);
    let mut lines = pin!(pool.log_later());
    let mut has_source = true;
    loop {
        let next = dials.policy.next_at();
        let due = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            change = source.next(), if has_source => match change {
                Some(change) => dials.apply(&mut addresses, &change),
                // The last instances stay.
                None => has_source = false,
            },
            Some((id, event)) = reported.recv() => dials.on_event(id, event),
            () = due => {}
            () = &mut lines => {}
        }
        dials.dial();
        // A source that is always ready must not starve other tasks.
        tokio::task::consume_budget().await;
    }
}

/// Dials, and runs the connection to its end. Cancel safe.
async fn dial(
    pool: &Pool,
    subchannel: &Arc<Subchannel>,
    turn: usize,
    give_way: oneshot::Receiver<()>,
    report: impl Fn(DialEvent),
) {
    pool.set_state(subchannel, ConnectivityState::Connecting);
    let dialled = tokio::select! {
        biased;
        dialled = pool.dialer.dial(&subchannel.origin, turn) => dialled,
        Ok(()) = give_way => return report(DialEvent::GaveWay),
    };
    let dialled = match dialled {
        Ok(dialled) => dialled,
        Err(reason) => {
            pool.set_state(subchannel, failure(&reason));
            return report(DialEvent::Failed);
        }
    };
    report(DialEvent::Connected);
    let mut dialled = dialled;
    // The connection before this one answered calls.
    let mut has_served = false;
    loop {
        let (since, peer, interval) = (Instant::now(), dialled.peer.clone(), dialled.ping_interval);
        let (reason, replacement) = run_connection(pool, subchannel, turn, dialled).await;
        if peer.has_too_many_pings() {
            pool.dialer.ping_interval.too_many(interval);
        }
        if let Some(replacement) = replacement.filter(|_| peer.ends_gracefully())
            && let Some(next) = replacement.take(pool, subchannel).await
        {
            (dialled, has_served) = (next, peer.has_answered());
            continue;
        }
        // A peer that accepted a call may still answer it. That is believed until the next connection ends.
        let was_useful = peer.has_answered()
            // A server that stops ends them all: a replacement without a call was as useful as the one before.
            || (has_served && !peer.was_called())
            || (peer.was_useful() && !subchannel.is_believed.swap(true, Relaxed));
        // The next connection is made at once.
        if !was_useful {
            pool.set_state(subchannel, failure(&reason));
        }
        let lasted = since.elapsed();
        return report(DialEvent::Ended(Ended { was_useful, lasted }));
    }
}

/// Keeps the connection in the ready set until it accepts no more calls. Returns why that is so, and the connection that is to
/// replace it, if its end was near.
async fn run_connection(
    pool: &Pool,
    subchannel: &Arc<Subchannel>,
    turn: usize,
    dialled: Dialled,
) -> (String, Option<Replacement>) {
    let peer = dialled.peer.clone();
    let connection = Connection::new(subchannel.clone(), dialled.sender, dialled.peer);
    let connection = Arc::new(connection);
    let mut dispatch = dialled.dispatch;
    let (report, mut serving) = watch::channel(None);
    let service = pool.health_service.as_deref();
    let mut health = pin!(health::watch_health(service, &connection, &report));
    let (mut ready, mut replacement) = (None, None::<Replacement>);
    let since = Instant::now();
    let reason = loop {
        // The end first, so that a lost connection does not become ready.
        tokio::select! {
            biased;
            end = &mut dispatch => break match (end, peer.complaint()) {
                (Ok(Err(error)), complaint) => lost(&error, complaint.as_ref()),
                (_, Some(complaint)) => complaint.to_string(),
                (_, None) => "the connection ended".to_owned(),
            },
            () = peer.draining() => break match peer.complaint() {
                Some(complaint) => complaint.to_string(),
                None => "it accepts no more calls on this connection".to_owned(),
            },
            // With few calls a second the end is not so near.
            () = connection.near_end() => if since.elapsed() <= Replacement::UNUSED_LIMIT * 3 {
                replacement = Some(Replacement::dial(pool, subchannel, turn));
            },
            () = Replacement::unused(replacement.as_ref()) => replacement = None,
            () = &mut health => {}
            _ = serving.changed() => {
                let state = match *serving.borrow_and_update() {
                    Some(true) => {
                        ready.get_or_insert_with(|| ReadyGuard::new(pool, &connection));
                        ConnectivityState::Ready
                    }
                    _ => {
                        ready = None;
                        failure("its health service says that it does not serve")
                    }
                };
                pool.set_state(subchannel, state);
            }
            () = subchannel.weight_changed() => pool.ready.update_weight(&connection),
        }
    };
    connection.on_end();
    (reason, replacement)
}

fn failure(reason: &str) -> ConnectivityState {
    let reason = reason.into();
    ConnectivityState::TransientFailure { reason }
}

// === impl Dials ===

impl Dials {
    fn new(pool: Arc<Pool>, events: mpsc::UnboundedSender<(Id, DialEvent)>) -> Self {
        Self {
            pool,
            policy: DialPolicy::new(fastrand::Rng::new()),
            ids: HashMap::new(),
            targets: HashMap::new(),
            next_id: 0,
            events,
        }
    }

    fn apply(&mut self, addresses: &mut Addresses, change: &Change) {
        if let Change::Insert { instance, .. } = change {
            self.pool.set_name(instance.name());
        }
        for change in addresses.apply(change) {
            match change {
                AddressChange::Add(origin, weight) => self.add(origin, weight),
                AddressChange::SetWeight(origin, weight) => {
                    let id = self.ids.get(&origin);
                    if let Some(target) = id.and_then(|id| self.targets.get(id)) {
                        target.subchannel.set_weight(weight);
                    }
                }
                AddressChange::Remove(origin) => {
                    let Some(id) = self.ids.remove(&origin) else {
                        continue;
                    };
                    self.policy.on_removed(id);
                    if let Some(target) = self.targets.remove(&id) {
                        self.pool.remove(&target.subchannel.address);
                    }
                }
            }
        }
    }

    fn add(&mut self, origin: Origin, weight: u32) {
        let address = origin.to_string();
        let uri = match origin.uri() {
            Ok(uri) => uri,
            Err(error) => {
                let service = self.pool.name();
                if self.pool.lines.take().is_ok() {
                    crate::runtime::logging::warn!(%service, address = %Escaped::new(&address), %error, "not an address, left out");
                }
                return;
            }
        };
        let subchannel = Arc::new(Subchannel::new(address.into(), uri, weight));
        self.pool.insert(subchannel.clone());
        let id = self.next_id;
        self.next_id += 1;
        self.ids.insert(origin, id);
        let target = Target {
            subchannel,
            turn: 0,
            dial: None,
        };
        self.targets.insert(id, target);
        self.policy.on_added(id);
    }

    fn on_event(&mut self, id: Id, event: DialEvent) {
        let now = Instant::now();
        match event {
            DialEvent::Connected => self.policy.on_connected(id),
            DialEvent::Failed => self.policy.on_failed(id, now),
            DialEvent::GaveWay => {
                let is_failure = self.policy.on_gave_way(id, now);
                if let (true, Some(target)) = (is_failure, self.targets.get(&id)) {
                    let reason = "no answer to a connect yet, others are tried first";
                    self.pool.set_state(&target.subchannel, failure(reason));
                }
            }
            DialEvent::Ended(ended) => self.policy.on_ended(id, ended, now),
        }
    }

    /// Does what is to be done now.
    fn dial(&mut self) {
        while let Some(decision) = self.policy.poll(Instant::now()) {
            let (DialDecision::Dial(id) | DialDecision::GiveWay(id)) = decision;
            let Some(target) = self.targets.get_mut(&id) else {
                continue;
            };
            match decision {
                DialDecision::Dial(id) => target.begin(&self.pool, id, &self.events),
                DialDecision::GiveWay(_) => {
                    let dial = target.dial.as_mut();
                    let give_way = dial.and_then(|dial| dial.give_way.take());
                    // If nobody listens it has ended already, and that event is in the queue.
                    let _ended = give_way.map(|tell| tell.send(()));
                }
            }
        }
    }
}

// === impl Target ===

impl Target {
    fn begin(&mut self, pool: &Arc<Pool>, id: Id, events: &mpsc::UnboundedSender<(Id, DialEvent)>) {
        let (tell, told) = oneshot::channel();
        let (pool, subchannel) = (pool.clone(), self.subchannel.clone());
        let (turn, events) = (self.turn, events.clone());
        self.turn += 1;
        let task = tokio::spawn(async move {
            // If nobody listens the channel has ended, and so does this task.
            let report = |event| drop(events.send((id, event)));
            dial(&pool, &subchannel, turn, told, report).await;
        });
        self.dial = Some(Dial {
            give_way: Some(tell),
            _task: AbortOnDropHandle::new(task),
        });
    }
}

// === impl ReadyGuard ===

impl<'a> ReadyGuard<'a> {
    fn new(pool: &'a Pool, connection: &'a Arc<Connection>) -> Self {
        pool.ready.insert(connection.clone());
        Self { pool, connection }
    }
}

impl Drop for ReadyGuard<'_> {
    fn drop(&mut self) {
        self.pool.ready.remove(self.connection);
    }
}
