//! [`Reconciler`]: every decision of the registrar. No I/O, no clock, no locks, no tasks.
//!
//! ```text
//!                 Event                              Action
//! worker ──> handle_event(now, ..)    ──> poll_action() ──────> worker performs it on the session
//!            handle_timeout(now)      ──> poll_timeout() ─────> worker waits until then
//! ```
//!
//! Its input are events: changes of the desired state, and etcd's answers. Its output are actions: requests,
//! statuses and ends, in the order in which they have to be performed. Each answer is the variant of [`Event`] that
//! repeats its request, so that it cannot be matched to another request.
//!
//! ```text
//! lease   None ─> Granting ─> Held ─> Revoking ─> None
//!           ^                  │ "lease not found": the keys are gone with it
//!           └──────────────────┘
//! connection   Closed ─> Opening ─> Open ─> (an error) ─> Closed until `retry_at`
//! ```
//!
//! The two are independent: the end of a connection does not change the state of the lease. So restarts of etcd, cut
//! networks and frozen processes are all handled in the same way: connect, renew the lease
//! that we have, read the keys, write only what differs.
//!
//! | file | |
//! |---|---|
//! | `messages.rs` | the input and output: `Event` and `Action` |
//! | `state.rs` | the states of the lease, the connection and the entries that leave |
//! | `lease_session.rs` | the lease and the connection: the next step of each |
//! | `busy.rs` | a member that refuses requests because it is busy |
//! | `beside.rs` | a connection that does not answer, and another one beside it |
//! | `requests.rs` | the requests on an open connection, and their answers |
//! | `deregister.rs` | one entry leaves, or all of them |
//! | `pause.rs` | the keys of one entry are withheld, and come back |
//! | `watch_check.rs`, `check_keys.rs` | reads keys now and then, because a watch may hang |
//! | `status.rs` | the status of each entry |

mod beside;
mod busy;
mod check_keys;
mod deregister;
mod lease_session;
mod messages;
mod pause;
mod requests;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod watch_check;

pub(crate) use messages::{Action, Answer, Desired, Event, Granted, Question, Renewed, Request};

use super::ids::EntryId;
use super::key_table::KeyTable;
use super::on_conflict::OnConflict;
use super::rivals::Rivals;
use crate::etcd::{Endpoints, Member, Rotation};
use crate::observe::status::RegistrationStatus;
use crate::observe::timestamp::Timestamp;
use crate::registrar::patience::Patience;
use crate::runtime::backoff::{Backoff, Bucket};
use crate::runtime::deadline;
use crate::runtime::logging;
use state::{Beside, Connection, Deregistration, LeaseState, Problem};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The settings that the reconciler needs.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) ttl: Duration,
    /// The limit of a TCP connect, which the worker enforces, and the shortest time before an answer counts as late.
    pub(crate) attempt_timeout: Duration,
    pub(crate) revoke_timeout: Duration,
    pub(crate) on_conflict: OnConflict,
    pub(crate) endpoints: Endpoints,
    /// 64 random bits for the id of a lease: from the kernel, or in tests from the generator.
    pub(crate) random_id: fn(&mut fastrand::Rng) -> u64,
}

/// See the [module](self).
pub(crate) struct Reconciler {
    settings: Settings,
    rng: fastrand::Rng,
    /// The entries that should be there, each with the status that was published last.
    entries: BTreeMap<EntryId, Arc<RegistrationStatus>>,
    /// The entries that are being deregistered.
    deregistrations: BTreeMap<EntryId, Deregistration>,
    /// Entries whose keys could not be made, and when to try again.
    failed: BTreeSet<EntryId>,
    retry_failed_at: Option<Instant>,
    is_stopping: bool,
    /// The deadline of a stop for revoking the lease.
    stop_deadline: Option<Instant>,
    is_registry_closed: bool,
    is_finished: bool,

    lease: LeaseState,
    /// Leases that may exist in etcd although they are not used any more. They are revoked before the next grant.
    orphaned_leases: Vec<i64>,
    /// Keys of entries that have not ended may be under the orphaned leases, because a worker panicked.
    orphans_hold_keys: bool,
    lost_leases: Bucket,
    /// The next lease replaces one that was lost.
    is_lease_lost: bool,
    /// So many leases were lost that the next one may not be requested earlier.
    grant_at: Option<Instant>,
    keys: KeyTable,
    needs_local_ip: bool,

    connection: Connection,
    /// The member of the connection.
    member: Option<Member>,
    beside: Beside,
    /// Connects without an answer, one after the other.
    connect_misses: usize,
    /// How long answers may take.
    patience: Patience,
    /// Which member is used, and how long to wait before the next connection.
    rotation: Rotation,

    /// etcd is out of reach, though the lease may live.
    connection_error: Option<Problem>,
    /// The lease is not known to live.
    lease_error: Option<Problem>,
    /// Why the last write was rejected, logged once.
    write_error: Option<Arc<str>>,
    /// The services, for log lines about all entries.
    services: Arc<str>,
    /// Lines about attempts that failed.
    attempt_lines: Bucket,
    rivals: Rivals,
    /// Whether observers need the number of writes and their reasons.
    is_observed: bool,

    actions: VecDeque<Action>,
}

/// After a failure of our own or of the user's code.
pub(super) const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// For how many actions the queue keeps its memory.
const KEPT_ACTIONS: usize = 64;
const FIRST_RETRY: Duration = Duration::from_millis(50);

// === impl Reconciler ===

impl Reconciler {
    pub(crate) fn new(settings: Settings, mut rng: fastrand::Rng) -> Self {
        Self {
            rotation: Rotation::new(Backoff::new(FIRST_RETRY, settings.ttl), &mut rng),
            patience: Patience::new(settings.attempt_timeout, settings.ttl, &mut rng),
            rng,
            entries: BTreeMap::new(),
            deregistrations: BTreeMap::new(),
            failed: BTreeSet::new(),
            retry_failed_at: None,
            is_stopping: false,
            stop_deadline: None,
            is_registry_closed: false,
            is_finished: false,
            lease: LeaseState::None,
            orphaned_leases: vec![],
            orphans_hold_keys: false,
            lost_leases: Bucket::default(),
            is_lease_lost: false,
            grant_at: None,
            keys: KeyTable::new(0, settings.on_conflict),
            needs_local_ip: false,
            connection: Connection::Closed { retry_at: None },
            member: None,
            beside: Beside::default(),
            connect_misses: 0,
            connection_error: None,
            lease_error: None,
            write_error: None,
            services: "none".into(),
            attempt_lines: Bucket::default(),
            rivals: Rivals::default(),
            is_observed: false,
            actions: VecDeque::new(),
            settings,
        }
    }

    /// Reports each write as [`Action::Wrote`].
    pub(crate) fn observed(mut self, is_observed: bool) -> Self {
        self.is_observed = is_observed;
        self
    }

    /// The services in log lines about all entries.
    pub(crate) fn set_services(&mut self, services: String) {
        if *self.services != *services {
            self.services = services.into();
        }
    }

    /// When the next renewal is due.
    pub(crate) fn renewal_due(&self) -> Option<Instant> {
        match &self.lease {
            LeaseState::Held(lease) => Some(lease.due()),
            _ => None,
        }
    }

    /// The lease that keys are made for.
    pub(crate) fn held_lease(&self) -> Option<i64> {
        match &self.lease {
            LeaseState::Held(lease) => Some(lease.id()),
            _ => None,
        }
    }

    /// Whether this lease is held, requested, or to be revoked.
    #[cfg(test)]
    pub(crate) fn knows_lease(&self, lease: i64) -> bool {
        self.orphaned_leases.contains(&lease)
            || match &self.lease {
                LeaseState::None => false,
                LeaseState::Granting { id, .. } => *id == lease,
                LeaseState::Held(held) => held.id() == lease,
                LeaseState::Revoking(revoking) => revoking.leases.contains(&lease),
            }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// The next action. Perform it, and report its results, before the next event.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if action.is_none() {
            // After a status of each of 10,000 entries the queue would keep 2 MiB.
            self.actions.shrink_to(KEPT_ACTIONS);
        }
        action
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due, if nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let deregistrations = self.deregistrations.values().filter_map(|d| d.deadline);
        let lease = match &self.lease {
            LeaseState::None if self.entries.is_empty() => None,
            LeaseState::None => self.grant_at,
            LeaseState::Granting { .. } => None,
            LeaseState::Held(lease) if self.lease_error.is_none() => Some(lease.expiry()),
            LeaseState::Held(_) => None,
            LeaseState::Revoking(revoking) => Some(
                revoking
                    .deadline
                    .min(revoking.grant_deadline.unwrap_or(revoking.deadline)),
            ),
        };
        let connection = match &self.connection {
            Connection::Closed { retry_at }
                if self.needs_session() && !self.beside.is_connecting =>
            {
                *retry_at
            }
            Connection::Closed { .. } | Connection::Opening => None,
            Connection::Open(open) => {
                let due = [self.next_request_due(open), self.silence_due(open)];
                due.into_iter().flatten().min()
            }
        };
        deregistrations
            .chain(lease)
            .chain(connection)
            .chain(self.retry_failed_at)
            .min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
        self.plan(now);
    }

    /// Handles an event. Timeouts that have passed come first: after the process was
    /// frozen, the answer to a renewal and the expiry of the lease may be there together, and `Lost`
    /// has to be published before `Registered`.
    pub(crate) fn handle_event(&mut self, now: Instant, event: Event) {
        self.expire(now);
        self.apply(now, event);
        self.plan(now);
    }

    /// The worker panicked. The results of its requests are unknown, and our own state may be wrong.
    /// So the lease is revoked with all keys under it, and then all keys are written again.
    pub(crate) fn handle_panic(&mut self, now: Instant, reason: &str) {
        self.actions.retain(|action| {
            use Action::{AwaitHealth, End, Finish, Publish};
            matches!(action, Publish(..) | AwaitHealth(_) | End(..) | Finish)
        });
        self.disconnect(Some(now + RESTART_PAUSE));
        self.beside = Beside::default();
        self.set_lease_error(now, reason);
        match std::mem::replace(&mut self.lease, LeaseState::None) {
            LeaseState::None
            | LeaseState::Granting {
                first_sent: None, ..
            } => {}
            LeaseState::Granting { id, .. } => self.orphaned_leases.push(id),
            LeaseState::Held(lease) => self.orphaned_leases.push(lease.id()),
            LeaseState::Revoking(revoking) => self.orphaned_leases.extend(revoking.leases),
        }
        self.orphans_hold_keys = !self.orphaned_leases.is_empty();
        self.keys.reset(0);
    }

    fn expire(&mut self, now: Instant) {
        self.end_overdue(now);
        let expired = matches!(&self.lease, LeaseState::Held(lease) if lease.expiry() <= now);
        if expired && self.lease_error.is_none() {
            let reason = format!(
                "the lease expired unconfirmed: {}",
                self.connection_reason()
            );
            self.set_lease_error(now, &reason);
        }
    }

    fn apply(&mut self, now: Instant, event: Event) {
        match event {
            Event::Desired(entries) => self.on_desired(now, entries),
            Event::RegistryClosed => self.is_registry_closed = true,
            Event::Stop => self.on_stop(deadline::after(now, self.settings.revoke_timeout)),
            Event::StopNow => self.on_stop(deadline::after(now, self.one_attempt())),
            Event::LocalIpFound => self.on_local_ip_found(now),
            Event::Authenticated(result) => self.on_authenticated(now, result),
            Event::Connected(result) => self.on_connected(now, result),
            Event::ConnectedBeside(result) => self.on_connected_beside(now, result),
            Event::Granted(granted) => self.on_granted(now, granted),
            Event::Renewed(renewed) => self.on_renewed(now, renewed),
            Event::RenewalLate { seen_at, remaining } => {
                self.on_renewal_late(now, seen_at, remaining);
            }
            Event::Revoked { lease, result } => self.on_revoked(now, lease, result),
            Event::Read { keys, result } => self.on_read(now, keys, result),
            Event::Written { ops, result } => self.on_written(now, ops, result),
            Event::WatchRequested(result) => self.on_watch_requested(now, result),
            Event::Watched(result) => self.on_watched(now, result),
        }
    }

    /// Starts the requests that are due and not under way.
    fn plan(&mut self, now: Instant) {
        self.plan_lease(now);
        self.plan_connection(now);
        self.plan_beside(now);
        self.plan_requests(now);
        self.publish_changed(now);
        self.end_gone();
        self.retry_failed(now);
        if self.is_idle() && (self.is_stopping || self.is_registry_closed) && !self.is_finished {
            self.is_finished = true;
            self.act(Action::Finish);
        }
    }

    /// No entry is left, and no lease that is still to be revoked.
    fn is_idle(&self) -> bool {
        matches!(self.lease, LeaseState::None)
            && self.entries.is_empty()
            && self.deregistrations.is_empty()
    }

    fn on_desired(&mut self, now: Instant, entries: Vec<(EntryId, Desired)>) {
        let mut deadline = deadline::after(now, self.settings.revoke_timeout);
        let (mut gone, mut paused) = (vec![], vec![]);
        for (id, desired) in entries {
            self.failed.remove(&id);
            match desired {
                Desired::Gone { now: at_once } => {
                    if at_once {
                        deadline = deadline.min(deadline::after(now, self.one_attempt()));
                    }
                    gone.push(id);
                }
                _ if self.is_stopping => gone.push(id),
                _ if self.deregistrations.contains_key(&id) => {}
                Desired::Paused {
                    reasons,
                    needs_local_ip,
                } => {
                    self.add_entry(now, id);
                    self.needs_local_ip |= needs_local_ip;
                    if self.pause(now, id, reasons) {
                        paused.push(id);
                    }
                }
                desired => self.on_entry_desired(now, id, desired),
            }
        }
        self.await_health(paused);
        self.deregister(gone, deadline);
    }

    fn add_entry(&mut self, now: Instant, id: EntryId) {
        if self.entries.contains_key(&id) {
            return;
        }
        let new = Arc::new(RegistrationStatus::Registering { reason: None });
        self.entries.insert(id, new);
        // Why it has to wait, if it has to.
        self.publish_current(now, id);
    }

    fn on_entry_desired(&mut self, now: Instant, id: EntryId, desired: Desired) {
        self.add_entry(now, id);
        let reason = self.write_reason(id);
        self.resume(now, id);
        match desired {
            Desired::Waiting { needs_local_ip } => self.needs_local_ip |= needs_local_ip,
            Desired::Keys(records) if self.held_lease().is_some() => {
                // `register` and `update` refuse this. It can happen with a format that changes its keys.
                if let Some(key) = self.keys.set_desired(id, records) {
                    logging::error!(service = %self.services, %key, "another registration here has the key");
                }
                self.keys.set_reason(id, reason);
            }
            Desired::Keys(_) => {}
            Desired::Failed(reason) => {
                self.failed.insert(id);
                self.retry_failed_at = Some(now + RESTART_PAUSE);
                // Its earlier keys are still there.
                if !self
                    .status(id)
                    .is_some_and(RegistrationStatus::is_registered)
                {
                    self.publish(
                        id,
                        RegistrationStatus::Lost {
                            since: Timestamp::at(now),
                            reason,
                        },
                    );
                }
            }
            Desired::Gone { .. } | Desired::Paused { .. } => {}
        }
    }

    fn retry_failed(&mut self, now: Instant) {
        if self.retry_failed_at.is_some_and(|at| at <= now) {
            self.retry_failed_at = None;
            let failed = std::mem::take(&mut self.failed);
            self.act(Action::ReadDesired(failed.into_iter().collect()));
        }
    }

    fn one_attempt(&self) -> Duration {
        self.settings
            .attempt_timeout
            .min(self.settings.revoke_timeout)
    }

    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn send(&mut self, request: Request) {
        self.act(Action::Send(request));
    }
}
