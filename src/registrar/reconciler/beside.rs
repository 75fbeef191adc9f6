//! A connection that does not answer: when that is reported, and when another one is tried beside it.
//!
//! ```text
//! sent ──(limit)──> late: reported ──(another member, or the patience for the only one)──> connect beside
//!   the late answer comes first: the attempt beside is dropped
//!   the other connection answers first: it is used, and the silent one is dropped
//! ```
//!
//! No request is given up while nothing else works. A member that is slow because it is busy would only have
//! more to do: the requests that were given up, and the same ones again.

use super::state::{Beside, Connection, LeaseState, OpenConnection};
use super::{Action, Answer, Question, Reconciler};
use crate::etcd::{Member, RpcError, RpcErrorKind};
use crate::registrar::lease;
use crate::runtime::deadline;
use crate::runtime::logging;
use std::time::Duration;
use tokio::time::Instant;

// === impl Reconciler ===

impl Reconciler {
    /// When the next step is due for a connection that does not answer.
    pub(super) fn silence_due(&self, open: &OpenConnection) -> Option<Instant> {
        let since = open.waiting_since()?;
        match open.is_late() {
            false => Some(self.late_at(since)),
            true if self.beside.is_connecting => None,
            true => Some(self.beside_at(since)),
        }
    }

    pub(super) fn plan_beside(&mut self, now: Instant) {
        let Connection::Open(open) = &mut self.connection else {
            return;
        };
        let (since, is_late) = (open.waiting_since(), open.is_late());
        if !is_late {
            open.late_since = None;
            self.end_beside(now, since);
        }
        let Some(since) = since.filter(|since| is_late || self.late_at(*since) <= now) else {
            return;
        };
        if !is_late {
            self.on_late(now, since);
        }
        if !self.beside.is_connecting && self.beside_at(since) <= now {
            self.connect_beside(now);
        }
    }

    /// The late request was answered. The attempt beside is dropped, unless it would be begun again at once for the
    /// request that waits longest now.
    fn end_beside(&mut self, now: Instant, since: Option<Instant>) {
        let attempt = std::mem::take(&mut self.beside);
        let is_due = |since| self.late_at(since) <= now && self.beside_at(since) <= now;
        if attempt.is_connecting && since.is_some_and(is_due) {
            self.beside = Beside {
                is_connecting: true,
                member: attempt.member,
                place: attempt.place,
                ..Beside::default()
            };
        } else if attempt.is_connecting {
            self.act(Action::DropBeside);
        }
    }

    /// The limit of an attempt that begins at `at`: shorter while the lease needs an answer soon, but not shorter than
    /// answers take anyway.
    pub(super) fn limit(&self, at: Instant) -> Duration {
        let (limit, attempt) = (self.patience.limit(), self.settings.cluster.attempt_timeout);
        let limit = match self.unexpired(at) {
            Some(expiry) => limit.min(((expiry - at) / 3).max(attempt)),
            // A stop has one second.
            None if matches!(self.lease, LeaseState::Revoking(_)) => return attempt,
            None => limit,
        };
        limit.max(self.patience.expected())
    }

    /// How long to wait for a connect that begins now.
    pub(super) fn connect_limit(&self, now: Instant) -> Duration {
        let cluster = &self.settings.cluster;
        let is_unknown = cluster.is_unknown(&self.rotation.member(&cluster.members));
        match is_unknown || self.may_try_another(now) {
            true => self.limit(now),
            false => self.patience.alone(),
        }
    }

    /// Whether another member may answer that was not tried since the last answer.
    fn may_try_another(&self, now: Instant) -> bool {
        let silent = self.beside.silent;
        self.has_other_member(now) && (silent == 0 || silent < self.most_silent())
    }

    /// The most members that can be silent, the one in use included, while the others have a quorum. If more are,
    /// there is no quorum, or they are busy, and more connections do not help. The addresses of one name may be proxies.
    fn most_silent(&self) -> usize {
        let cluster = &self.settings.cluster;
        match cluster.members.len() {
            1 => cluster.addresses(&self.member()) - 1,
            members => members.saturating_sub(1) / 2,
        }
    }

    /// The member of the connection. The member list may have changed since it was made.
    pub(super) fn member(&self) -> Member {
        let next = || self.rotation.member(&self.settings.cluster.members);
        self.member.clone().unwrap_or_else(next)
    }

    /// Until when the lease lives, if it is held and lives at `at`.
    fn unexpired(&self, at: Instant) -> Option<Instant> {
        match &self.lease {
            LeaseState::Held(lease) => Some(lease.expiry()).filter(|expiry| *expiry > at),
            _ => None,
        }
    }

    fn late_at(&self, since: Instant) -> Instant {
        deadline::after(since, self.limit(since))
    }

    /// When another connection is tried.
    ///
    /// With one member only, that can help against a dead connection, and makes a busy member busier. So it is tried once
    /// while the lease can still be saved, unless answers take that long anyway, and then after a long wait.
    fn beside_at(&self, since: Instant) -> Instant {
        let at = match self.may_try_another(since) {
            true => since,
            false => self.alone_at(since),
        };
        at.max(self.beside.not_before.unwrap_or(at))
    }

    fn alone_at(&self, since: Instant) -> Instant {
        let patient = deadline::after(since, self.patience.alone());
        let reserve = lease::reserve(self.settings.cluster.attempt_timeout);
        // A new connection that has not answered yet is most likely to a member that has many of them.
        let may_be_dead = self.connected_since().is_some() && self.beside.failures == 0;
        let is_leaving = matches!(self.lease, LeaseState::Revoking(_))
            || self
                .deregistrations
                .values()
                .any(|it| it.deadline.is_some());
        match self.unexpired(since) {
            // It is tried once, before the deadline.
            _ if may_be_dead && is_leaving => self.late_at(since),
            Some(expiry) if may_be_dead => {
                let expected = deadline::after(since, self.patience.expected());
                let last = expiry.checked_sub(reserve).unwrap_or(since);
                patient.min(last.max(expected))
            }
            _ => patient,
        }
    }

    /// A request has no answer in time.
    fn on_late(&mut self, now: Instant, since: Instant) {
        let limit = logging::rounded(self.limit(since));
        let member = self.member();
        let error = RpcError::timeout(member.shown(), limit);
        let Connection::Open(open) = &mut self.connection else {
            return;
        };
        open.late_since = Some(since);
        let renewal = open.renewing_since.filter(|sent| *sent == since);
        self.actions.push_back(Action::Late {
            error: error.clone(),
            renewal,
        });
        self.report_failure(now, error);
    }

    fn connect_beside(&mut self, now: Instant) {
        // While nothing else can be tried, an attempt that is given up is begun again.
        let is_last = self.beside.silent + 2 > self.most_silent();
        let limit = match is_last {
            true => self.patience.last(),
            false => self.limit(now),
        };
        self.patience.missed(&mut self.rng);
        self.beside.is_connecting = true;
        let (ahead, ours) = (self.beside.failures + 1, self.member());
        let members = &self.settings.cluster.members;
        let (place, member) = self.rotation.ahead(ahead, &ours, members, now);
        (self.beside.place, self.beside.member) = (place, Some(member.clone()));
        let question = self.question(now);
        self.act(Action::ConnectBeside {
            member,
            limit,
            question,
        });
    }

    /// When a request is repeated on the same connection: as late as the lease allows, because an election takes some
    /// seconds, and not before an answer is expected.
    pub(super) fn again(&self, now: Instant) -> Option<Duration> {
        let attempt = self.settings.cluster.attempt_timeout;
        let wait = match self.unexpired(now) {
            Some(expiry) => (expiry - now).saturating_sub(attempt * 3 / 2),
            None => self.settings.ttl / 2,
        };
        let wait = wait.max(attempt).max(self.patience.expected());
        Some(wait).filter(|_| self.settings.cluster.members.len() > 1)
    }

    fn question(&mut self, now: Instant) -> Question {
        let again = self.again(now);
        match &mut self.lease {
            LeaseState::Granting {
                id,
                first_sent: Some(_),
                attempts,
            } => {
                *attempts += 1;
                let (lease, ttl) = (*id, self.settings.ttl);
                Question::Grant { lease, ttl, again }
            }
            LeaseState::Held(lease) => {
                let lease = lease.id();
                Question::Renew { lease, again }
            }
            _ => Question::Read,
        }
    }

    pub(super) fn on_connected_beside(&mut self, now: Instant, result: Result<Answer, RpcError>) {
        let error = match result {
            Ok(answer) => return self.use_beside(now, answer),
            Err(error) => error,
        };
        self.beside.is_connecting = false;
        self.beside.failures += 1;
        if error.kind() == RpcErrorKind::Timeout {
            self.beside.silent += 1;
            self.patience.missed(&mut self.rng);
        }
        let limits = self.pauses();
        let pause = self
            .rotation
            .pause(&error, Duration::ZERO, limits, now, &mut self.rng);
        self.beside.not_before = Some(now + pause);
        self.report_failure(now, error);
    }

    /// The other connection answered first.
    fn use_beside(&mut self, now: Instant, answer: Answer) {
        let beside = std::mem::take(&mut self.beside);
        self.rotation.move_to(beside.place);
        self.member = beside.member;
        if let LeaseState::Revoking(revoking) = &mut self.lease {
            revoking.grant_deadline = None;
        }
        self.keys.on_disconnect();
        self.connection = Connection::Open(Box::default());
        self.act(Action::UseBeside);
        // The lease may be another one by now.
        match (answer, &self.lease) {
            (Answer::Granted(granted), LeaseState::Granting { id, .. }) if *id == granted.lease => {
                self.on_granted(now, granted);
            }
            (Answer::Renewed(renewed), LeaseState::Held(held)) if held.id() == renewed.lease => {
                self.on_renewed(now, renewed);
            }
            _ => {}
        }
    }

    pub(super) fn drop_beside(&mut self) {
        let beside = std::mem::take(&mut self.beside);
        if beside.is_connecting {
            self.act(Action::DropBeside);
        }
    }
}
