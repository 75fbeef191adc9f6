//! The environment of the reconciler: a worker that performs its actions on the model of etcd, with
//! requests that are lost, answered late, or applied after they were given up.

use super::check::Checker;
use super::etcd::Etcd;
use crate::etcd::{Op, RpcError, RpcErrorKind, WatchResponse};
use crate::registrar::ids::{EntryId, Key};
use crate::registrar::reconciler::{
    Action, Answer, Desired, Event, Granted, Question, Reconciler, Renewed, Request as Sent,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) rng: fastrand::Rng,
    pub(super) attempt: Duration,
    pub(super) reconciler: Reconciler,
    pub(super) etcd: Etcd,
    pub(super) snapshot: Option<Etcd>,
    pub(super) faults: Faults,
    pub(super) is_quiet: bool,
    /// A proxy sends the watch stream to another member than renewals.
    pub(super) is_spread: bool,
    pub(super) link: Link,
    pub(super) beside: Beside,
    /// Requests that were given up and may still be applied.
    pub(super) abandoned: Vec<Request>,
    pub(super) entries: BTreeMap<EntryId, Entry>,
    pub(super) next_entry: EntryId,
    pub(super) check: Checker,
    pub(super) events: u64,
    pub(super) is_finished: bool,
    pub(super) trace: Option<VecDeque<String>>,
    pub(super) endpoint: Arc<str>,
}

/// The faults of etcd, or of the network to it, until they are changed.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Faults {
    pub(super) refuses_connections: bool,
    /// Requests do not arrive.
    pub(super) hangs: bool,
    /// Answers do not arrive.
    pub(super) loses_answers: bool,
    pub(super) denies_writes: bool,
    pub(super) denies_reads: bool,
    pub(super) denies_leases: bool,
    pub(super) is_exhausted: bool,
    pub(super) forgot_token: bool,
}

pub(super) enum Link {
    Closed,
    Connecting(Pending),
    Open(Box<Session>),
}

/// Another connection beside one that does not answer.
pub(super) enum Beside {
    None,
    Connecting(Pending),
    Ready,
}

#[derive(Default)]
pub(super) struct Session {
    pub(super) request: Option<Pending>,
    pub(super) renewal: Option<Pending>,
    pub(super) watch_request: Option<Pending>,
    pub(super) authentication: Option<Pending>,
    /// The keys that are watched, each with its next revision.
    pub(super) watches: BTreeMap<i64, (Key, i64)>,
    pub(super) responses: VecDeque<WatchResponse>,
    /// A watch was denied. It is not requested again before the next connection.
    pub(super) is_blind: bool,
    /// The member of the watch hangs: no event comes, and no watch is acknowledged.
    pub(super) is_mute: bool,
    /// A watch was lost: etcd does not acknowledge it.
    pub(super) has_lost_watch: bool,
}

/// Where a request is under way.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Connect,
    ConnectBeside,
    Request,
    Renewal,
    WatchRequest,
    Authentication,
    Response,
    Timer,
}

/// A request that the worker waits for.
pub(super) struct Pending {
    pub(super) request: Request,
    pub(super) sent: Instant,
    /// When the worker gives it up. Most requests have no limit there.
    pub(super) deadline: Option<Instant>,
    pub(super) stage: Stage,
}

pub(super) enum Stage {
    Sent,
    Answered(Event),
    /// Neither it nor its answer will arrive.
    Lost,
}

#[derive(Debug, Clone)]
pub(super) enum Request {
    Connect,
    ConnectBeside(Question),
    Grant { lease: i64, ttl: Duration },
    Revoke { lease: i64 },
    Renew { lease: i64, is_first: bool },
    Read { keys: Vec<Key> },
    Write { lease: i64, ops: Vec<Op> },
    LocalIp,
    Authenticate,
    Watch { key: Key, id: i64, from: i64 },
    Unwatch { id: i64 },
}

/// An entry, as handles see it.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) id: EntryId,
    pub(super) names: Vec<String>,
    pub(super) value: u64,
    /// Its value is that of all other entries.
    pub(super) has_common_value: bool,
    pub(super) is_announced: bool,
    pub(super) needs_local_ip: bool,
    /// It is bound to no particular address.
    pub(super) is_anywhere: bool,
    /// How many times the address of the machine was found; the first one does not change the key.
    pub(super) addresses: u32,
    pub(super) is_leaving: bool,
    /// The number of its pauses.
    pub(super) pauses: u32,
    pub(super) at_once: bool,
    /// How many times its format fails.
    pub(super) failures: u32,
}

// === impl World ===

impl World {
    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() == 100_000 {
                trace.pop_front();
            }
            trace.push_back(format!("{:>12?} {}", self.now - self.start, what()));
        }
    }

    /// Reports an event to the reconciler, performs what follows, and checks the invariants.
    pub(super) fn handle(&mut self, event: Event) {
        self.note(|| format!("-> {event:?}"));
        self.check.before(&event, self.now);
        self.events += 1;
        self.reconciler.handle_event(self.now, event);
        self.perform_all();
        self.handle_timeouts();
        self.check.after_event(self.now);
        self.check.check_paused(&self.entries, &self.etcd);
    }

    /// Fires the timers that are due. One that is still due afterwards would be a busy loop.
    pub(super) fn handle_timeouts(&mut self) {
        for _ in 0..20 {
            if self
                .reconciler
                .poll_timeout()
                .is_none_or(|at| at > self.now)
            {
                return;
            }
            self.note(|| "-> timeout".to_owned());
            self.events += 1;
            self.reconciler.handle_timeout(self.now);
            self.perform_all();
        }
        self.check
            .violated("I8: a timer that is due again and again keeps the worker busy");
    }

    pub(super) fn perform_all(&mut self) {
        while let Some(action) = self.reconciler.poll_action() {
            self.note(|| format!("<- {action:?}"));
            self.check
                .action(&action, &self.entries, &self.etcd, self.now);
            self.perform(action);
        }
        self.check.end_of_actions();
    }

    /// Long, with a branch for each action.
    fn perform(&mut self, action: Action) {
        match action {
            Action::ReadDesired(ids) => {
                let desired = self.desired(&ids);
                self.events += 1;
                self.reconciler
                    .handle_event(self.now, Event::Desired(desired));
            }
            Action::Connect { limit, .. } => {
                self.link = Link::Connecting(self.limited(Request::Connect, limit));
            }
            Action::ConnectBeside {
                limit, question, ..
            } => {
                let request = Request::ConnectBeside(question);
                self.beside = Beside::Connecting(self.limited(request, limit));
            }
            Action::UseBeside => {
                self.drop_link();
                match std::mem::replace(&mut self.beside, Beside::None) {
                    Beside::Ready => self.link = Link::Open(Box::default()),
                    _ => self
                        .check
                        .violated("a connection is used that is not there"),
                }
            }
            Action::DropBeside => self.beside = Beside::None,
            Action::Disconnect => self.drop_link(),
            Action::CloseStreams => {
                if let Link::Open(session) = &mut self.link {
                    let session = std::mem::take(&mut **session);
                    self.abandon(session);
                }
            }
            Action::Send(request) => self.send(request),
            Action::FindLocalIp => {
                self.request(Request::LocalIp);
                let limit = Some(self.now + self.attempt);
                if let Link::Open(session) = &mut self.link
                    && let Some(pending) = &mut session.request
                {
                    pending.deadline = limit;
                }
            }
            Action::Publish(..)
            | Action::LeaseExpiry(_)
            | Action::Rival(..)
            | Action::Late { .. }
            | Action::Wrote(..) => {}
            // The health service takes its time.
            Action::AwaitHealth(_) => {
                if self.rng.u8(..) < 32 {
                    let pause = Duration::from_millis(self.rng.u64(..=50));
                    self.check.pause(pause);
                    self.now += pause;
                    self.etcd.expire(self.now);
                }
            }
            Action::End(id, _) => drop(self.entries.remove(&id)),
            Action::Finish => self.is_finished = true,
        }
    }

    fn send(&mut self, request: Sent) {
        match request {
            Sent::Grant { lease, ttl } => self.request(Request::Grant { lease, ttl }),
            Sent::Revoke { lease } => self.request(Request::Revoke { lease }),
            Sent::Read { keys } => self.request(Request::Read { keys }),
            Sent::Write { lease, ops, .. } => self.request(Request::Write { lease, ops }),
            Sent::Authenticate => self.authenticate(),
            Sent::Renew { lease, .. } => {
                let is_first = self.rng.bool();
                let pending = self.pending(Request::Renew { lease, is_first });
                if let Link::Open(session) = &mut self.link {
                    session.renewal = Some(pending);
                }
            }
            Sent::Watch { key, id, from } => self.watch(Request::Watch { key, id, from }),
            Sent::Unwatch { id } => self.watch(Request::Unwatch { id }),
        }
    }

    fn pending(&self, request: Request) -> Pending {
        Pending {
            request,
            sent: self.now,
            deadline: None,
            stage: Stage::Sent,
        }
    }

    fn limited(&self, request: Request, limit: Duration) -> Pending {
        Pending {
            deadline: Some(self.now + limit),
            ..self.pending(request)
        }
    }

    fn request(&mut self, request: Request) {
        let pending = self.pending(request);
        let Link::Open(session) = &mut self.link else {
            return self.check.violated("a request without a session");
        };
        if let Some(earlier) = session.request.replace(pending) {
            match earlier.request {
                Request::Grant { .. } => self.abandoned.push(earlier.request),
                _ => self.check.violated("two requests at a time"),
            }
        }
    }

    fn authenticate(&mut self) {
        let pending = self.limited(Request::Authenticate, self.attempt * 10);
        if let Link::Open(session) = &mut self.link {
            session.watches.clear();
            session.watch_request = None;
            session.responses.clear();
            session.authentication = Some(pending);
        }
    }

    fn watch(&mut self, request: Request) {
        let pending = self.pending(request);
        let Link::Open(session) = &mut self.link else {
            return self.check.violated("a watch request without a session");
        };
        if session.watch_request.replace(pending).is_some() {
            self.check.violated("two watch requests at a time");
        }
    }

    pub(super) fn drop_link(&mut self) {
        if let Link::Open(session) = std::mem::replace(&mut self.link, Link::Closed) {
            self.abandon(*session);
        }
    }

    /// The requests that were sent may still be applied.
    fn abandon(&mut self, session: Session) {
        for pending in session.request.into_iter().chain(session.renewal) {
            if matches!(pending.stage, Stage::Sent) && self.rng.bool() {
                self.check.abandoned(&pending.request);
                self.abandoned.push(pending.request);
            }
        }
    }

    pub(super) fn desired(&mut self, ids: &[EntryId]) -> Vec<(EntryId, Desired)> {
        let lease = self.reconciler.held_lease();
        let mut desired = vec![];
        for id in ids {
            let Some(entry) = self.entries.get_mut(id) else {
                continue;
            };
            let value = match (entry.is_leaving, lease) {
                (true, _) => Desired::Gone { now: entry.at_once },
                (false, _) if entry.pauses > 0 => Desired::Paused {
                    reasons: vec![format!("{}", entry.pauses).into()].into(),
                    needs_local_ip: entry.is_announced && entry.needs_local_ip,
                },
                (false, Some(_)) if entry.is_announced && entry.failures > 0 => {
                    entry.failures -= 1;
                    Desired::Failed("a bug".into())
                }
                (false, Some(lease)) if entry.is_announced && !entry.needs_local_ip => {
                    Desired::Keys(entry.records(lease, self.check.keys_name_lease))
                }
                (false, _) => Desired::Waiting {
                    needs_local_ip: entry.is_announced && entry.needs_local_ip,
                },
            };
            desired.push((*id, value));
        }
        desired
    }

    /// Handles changed these entries.
    pub(super) fn touch(&mut self, ids: &[EntryId]) {
        let desired = self.desired(ids);
        self.handle(Event::Desired(desired));
    }

    /// Applies a request to etcd. Returns its answer.
    pub(super) fn apply(&mut self, request: &Request, sent: Instant) -> Event {
        let refused = self.refusal(request);
        if refused.is_none() {
            self.check.applied(request);
        }
        self.event(request, sent, refused)
    }

    pub(super) fn failed(&mut self, request: &Request, sent: Instant, kind: RpcErrorKind) -> Event {
        self.event(request, sent, Some(kind))
    }

    /// Why etcd refuses a request.
    fn refusal(&mut self, request: &Request) -> Option<RpcErrorKind> {
        let faults = self.faults;
        match request {
            Request::LocalIp | Request::Authenticate => None,
            Request::Connect | Request::ConnectBeside(_) if faults.refuses_connections => {
                Some(RpcErrorKind::Unreachable)
            }
            _ if faults.forgot_token => Some(RpcErrorKind::Unauthenticated),
            Request::Write { .. } if faults.denies_writes => Some(RpcErrorKind::Denied),
            Request::Read { .. } if faults.denies_reads => Some(RpcErrorKind::Denied),
            Request::Grant { .. } | Request::Revoke { .. } if faults.denies_leases => {
                Some(RpcErrorKind::Denied)
            }
            Request::Write { .. } | Request::Grant { .. } | Request::Read { .. }
                if faults.is_exhausted =>
            {
                Some(RpcErrorKind::ResourceExhausted)
            }
            Request::Renew { .. } | Request::Revoke { .. } if faults.is_exhausted => {
                Some(RpcErrorKind::Busy)
            }
            Request::Grant { lease, .. } => {
                let asked = self.check.asked.get(lease);
                let is_first = asked.is_some_and(|(_, count)| *count == 1);
                // Another client has a lease with the id that we chose.
                let is_taken = is_first && !self.is_quiet && self.rng.u8(..) < 2;
                is_taken.then_some(RpcErrorKind::LeaseExists)
            }
            _ => None,
        }
    }

    /// The event that a request ends with. Applies it to the model of etcd, unless it `failed`. Long, with a branch
    /// for each request.
    fn event(&mut self, request: &Request, sent: Instant, failed: Option<RpcErrorKind>) -> Event {
        let now = self.now;
        match request.clone() {
            Request::Connect => Event::Connected(self.result(failed, |_| Ok(()))),
            Request::ConnectBeside(question) => {
                Event::ConnectedBeside(self.answer_to(question, sent, failed))
            }
            Request::LocalIp => Event::LocalIpFound,
            Request::Authenticate => {
                self.faults.forgot_token &= failed.is_some();
                Event::Authenticated(self.result(failed, |_| Ok(())))
            }
            Request::Grant { lease, ttl } => {
                let result = self.result(failed, |etcd| etcd.grant(lease, ttl, now));
                Event::Granted(Granted {
                    lease,
                    sent,
                    result,
                })
            }
            Request::Revoke { lease } => {
                let result = self.result(failed, |etcd| {
                    etcd.revoke(lease);
                    Ok(())
                });
                Event::Revoked { lease, result }
            }
            Request::Renew { lease, is_first } => {
                let ttl = self.result(failed, |etcd| etcd.renew(lease, now));
                let result = ttl.map(|ttl| Some(ttl).filter(|_| !is_first));
                Event::Renewed(Renewed {
                    lease,
                    sent,
                    member: 1,
                    result,
                })
            }
            Request::Read { keys } => {
                let result = self.result(failed, |etcd| Ok(etcd.read(&keys)));
                Event::Read { keys, result }
            }
            Request::Write { lease, ops } => {
                let result = self.result(failed, |etcd| etcd.txn(lease, &ops));
                Event::Written { ops, result }
            }
            Request::Watch { .. } | Request::Unwatch { .. } => {
                Event::WatchRequested(self.result(failed, |_| Ok(())))
            }
        }
    }

    fn answer_to(
        &mut self,
        question: Question,
        sent: Instant,
        failed: Option<RpcErrorKind>,
    ) -> Result<Answer, RpcError> {
        if let Some(kind) = failed {
            return self.result(Some(kind), |_| Ok(Answer::Read));
        }
        let now = self.now;
        let (answer, failure) = match question {
            Question::Read => return Ok(Answer::Read),
            Question::Grant { lease, ttl, .. } => {
                let result = self.result(None, |etcd| etcd.grant(lease, ttl, now));
                let failure = result.clone().err();
                let answer = Answer::Granted(Granted {
                    lease,
                    sent,
                    result,
                });
                (answer, failure)
            }
            Question::Renew { lease, .. } => {
                let result = self.result(None, |etcd| etcd.renew(lease, now).map(|_| None));
                let failure = result.clone().err();
                let answer = Answer::Renewed(Renewed {
                    lease,
                    sent,
                    member: 0,
                    result,
                });
                (answer, failure)
            }
        };
        let is_answer = |error: &RpcError| {
            matches!(
                error.kind(),
                RpcErrorKind::LeaseGone | RpcErrorKind::LeaseExists
            )
        };
        match failure {
            Some(error) if !is_answer(&error) => Err(error),
            _ => Ok(answer),
        }
    }

    /// At a new connection the address of the machine may be another one. Entries that are bound to no particular
    /// address then need it.
    fn change_address(&mut self) {
        if self.is_quiet || self.rng.u8(..) >= 60 {
            return;
        }
        let anywhere = self.entries.iter_mut().filter(|(_, it)| it.is_anywhere);
        let found = anywhere.filter(|(_, it)| it.is_announced && it.addresses > 0);
        let ids = found.map(|(id, entry)| {
            entry.needs_local_ip = true;
            *id
        });
        let ids: Vec<_> = ids.collect();
        self.note(|| format!("the address changes, of {ids:?}"));
        self.touch(&ids);
    }

    fn result<T>(
        &mut self,
        failed: Option<RpcErrorKind>,
        apply: impl FnOnce(&mut Etcd) -> Result<T, RpcErrorKind>,
    ) -> Result<T, RpcError> {
        let result = failed.map_or_else(|| apply(&mut self.etcd), Err);
        result.map_err(|kind| RpcError::new(kind, &self.endpoint, format!("{kind:?}")))
    }

    /// A request of the worker's was answered, or its time is over.
    pub(super) fn answer(&mut self, request: Request, event: Event) {
        let is_ok = matches!(event, Event::WatchRequested(Ok(())));
        match request {
            Request::Connect if matches!(event, Event::Connected(Ok(()))) => {
                self.link = Link::Open(Box::default());
                self.change_address();
            }
            Request::Connect => self.link = Link::Closed,
            Request::ConnectBeside(_) => {
                self.beside = match event {
                    Event::ConnectedBeside(Ok(_)) => Beside::Ready,
                    _ => Beside::None,
                };
            }
            // Reported before the event, as the worker does.
            Request::LocalIp => {
                let waiting = self.entries.iter_mut().filter(|(_, e)| e.is_announced);
                let ids: Vec<_> = waiting
                    .map(|(id, entry)| {
                        entry.addresses += u32::from(entry.needs_local_ip);
                        entry.needs_local_ip = false;
                        *id
                    })
                    .collect();
                self.touch(&ids);
            }
            Request::Watch { key, id, from } if is_ok => self.watched(key, id, from),
            Request::Unwatch { id } if is_ok => {
                if let Link::Open(session) = &mut self.link {
                    session.watches.remove(&id);
                }
                self.respond(false, Some((id, RpcErrorKind::Broken)));
            }
            _ => {}
        }
        // What was reported before may have been the end.
        if !self.is_finished {
            self.handle(event);
        }
    }

    fn watched(&mut self, key: Key, id: i64, from: i64) {
        let is_lost = !self.is_quiet && self.rng.u8(..) < 8;
        let Link::Open(session) = &mut self.link else {
            return;
        };
        // In a quiet period, a stream whose member hangs still acknowledges watches, and sends no events.
        if is_lost || session.is_mute && !self.is_quiet {
            session.has_lost_watch = true;
        } else if self.faults.denies_reads {
            session.is_blind = true;
            self.respond(true, None);
            self.respond(false, Some((-1, RpcErrorKind::Denied)));
        } else {
            session.watches.insert(id, (key, from));
            self.respond(true, None);
        }
    }

    /// The next response of the watch stream.
    pub(super) fn respond(&mut self, created: bool, ended: Option<(i64, RpcErrorKind)>) {
        let error = |kind| RpcError::new(kind, &self.endpoint, "watch cancelled");
        let response = WatchResponse {
            events: vec![],
            created,
            member: if self.is_spread { 2 } else { 1 },
            id: 0,
            revision: self.etcd.revision,
            ended: ended.map(|(id, kind)| (id, error(kind))),
        };
        if let Link::Open(session) = &mut self.link {
            session.responses.push_back(response);
        }
    }
}

// === impl Link ===

impl Link {
    /// The requests under way, and where each is.
    pub(super) fn pending(&self) -> Vec<(Place, &Pending)> {
        let session = match self {
            Self::Closed => return vec![],
            Self::Connecting(pending) => return vec![(Place::Connect, pending)],
            Self::Open(session) => session,
        };
        let slots = [
            (Place::Request, &session.request),
            (Place::Renewal, &session.renewal),
            (Place::WatchRequest, &session.watch_request),
            (Place::Authentication, &session.authentication),
        ];
        let pending = slots
            .into_iter()
            .filter_map(|(place, slot)| Some((place, slot.as_ref()?)));
        pending.collect()
    }
}

// === impl Entry ===

impl Entry {
    /// Whether a key is one of its.
    pub(super) fn has(&self, key: &str) -> bool {
        let name = key.split('/').next();
        self.names.iter().any(|its| Some(&**its) == name)
    }

    /// Whether its keys should be in etcd.
    pub(super) fn wants_keys(&self) -> bool {
        self.is_announced && !self.needs_local_ip && !self.is_leaving && self.pauses == 0
    }

    pub(super) fn records(&self, lease: i64, keys_name_lease: bool) -> Vec<(Key, Arc<str>)> {
        let value: Arc<str> = match self.has_common_value {
            true => "common".into(),
            false => format!("{}:{}", self.id, self.value).into(),
        };
        let key = |name: &String| match (keys_name_lease, self.addresses) {
            (true, moved @ 2..) => format!("{name}/{lease}/{moved}").into(),
            (true, _) => format!("{name}/{lease}").into(),
            (false, moved @ 2..) => format!("{name}/{moved}").into(),
            (false, _) => name.as_str().into(),
        };
        self.names
            .iter()
            .map(|name| (key(name), value.clone()))
            .collect()
    }
}
