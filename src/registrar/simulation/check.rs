//! [`Checker`]: the invariants, checked on the reconciler's events and actions.
//!
//! The ids are those of the list in DESIGN.md. Checked here:
//!
//! | | |
//! |---|---|
//! | I1 | once etcd works again, every announced entry is registered with its value, within a bound (`drive.rs`) |
//! | I2 | an entry that is deregistered is not in etcd, and nothing writes it again |
//! | I4 | nothing is written for an entry that leaves or is paused, nor after the end |
//! | I5 | with `OnConflict::Yield` nothing is written unguarded, and a registrar never yields to itself |
//! | I6 | a status says that keys are held only until the last acknowledged renewal was sent plus the TTL, or a read of the lease plus its remaining time |
//! | I7 | no lease is left behind: one that could not be revoked is revoked before the next grant |
//! | I8 | no busy timers, no storm of connections |
//! | I10 | an entry that leaves has ended within the revoke timeout |
//! | I13 | health changes before a key goes, and reports a lost lease before the next one is used; nothing follows a final status |
//! | I15 | a paused entry has no key once the write that was under way and the next one are answered |
//!
//! Every write carries a lease by its type, which is I3.

use super::etcd::{Etcd, Stored};
use super::world::{Entry, Request};
use crate::etcd::{Op, RpcError, RpcErrorKind};
use crate::observe::status::{Ended, RegistrationStatus};
use crate::registrar::ids::{EntryId, Key};
use crate::registrar::reconciler::{
    Action, Answer, Event, Granted, Question, Renewed, Request as Sent,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Default)]
pub(super) struct Checker {
    pub(super) violation: Option<String>,
    pub(super) yields: bool,
    pub(super) keys_name_lease: bool,
    /// No other client changes our keys.
    pub(super) is_alone: bool,
    pub(super) ttl: Duration,
    pub(super) revoke_timeout: Duration,
    pub(super) statuses: BTreeMap<EntryId, RegistrationStatus>,
    /// The lease that was acknowledged last, by which request, and for how long.
    acknowledged: Option<(i64, Instant, Duration)>,
    /// For each lease that was requested: when first, and how often.
    pub(super) asked: BTreeMap<i64, (Instant, u32)>,
    /// Leases that etcd granted to us.
    pub(super) granted: BTreeSet<i64>,
    /// Leases whose revoke etcd has not confirmed.
    unrevoked: BTreeSet<i64>,
    /// Leases whose revoke etcd denied. Keys under them stay until they expire, and `Yield` yields to them.
    not_revocable: BTreeSet<i64>,
    /// Keys with a write that may be applied after it was given up.
    abandoned: BTreeSet<Key>,
    /// Names of entries that were left to expire: their keys may still be there after the next entry has left.
    left_to_expire: BTreeSet<String>,
    /// Since when an entry leaves, on a clock that stops while the process is stopped.
    leaving: BTreeMap<EntryId, Instant>,
    paused: Duration,
    /// Entries whose last status health has not reported yet.
    unreported: BTreeSet<EntryId>,
    /// The last lease under which an entry was published as registered, and whether health reported its loss since.
    shown: BTreeMap<EntryId, (i64, bool)>,
    is_lease_gone: bool,
    /// Entries under a lease that had expired when the event came.
    expired: BTreeSet<EntryId>,
    /// When the stop began, on the clock of `leaving`.
    stopped: Option<Instant>,
    connects: Vec<Instant>,
    is_finished: bool,
    /// For each paused entry: how many transactions in a row were applied since, without a failure.
    paused_for: BTreeMap<EntryId, u32>,
    /// Keys that a restored etcd has again, until they are written or deleted.
    pub(super) brought_back: BTreeSet<Key>,
    /// A write was denied under the current lease: keys may be written one by one.
    are_isolated: bool,
}

/// The wait for health, in addition to the revoke timeout, and rounding.
const SLACK: Duration = Duration::from_millis(2);
const MOST_CONNECTS_A_SECOND: usize = 30;
/// With more entries, their deletions take several transactions.
const MOST_ENTRIES_OF_A_TXN: usize = 30;

// === impl Checker ===

impl Checker {
    pub(super) fn new(ttl: Duration, revoke_timeout: Duration) -> Self {
        Self {
            ttl,
            revoke_timeout,
            ..Self::default()
        }
    }

    pub(super) fn violated(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert(what.into());
    }

    /// The process was stopped.
    pub(super) fn pause(&mut self, time: Duration) {
        self.paused += time;
    }

    pub(super) fn abandoned(&mut self, request: &Request) {
        if let Request::Write { ops, .. } = request {
            // A deletion that is applied late deletes the key of the next entry with that name.
            self.is_alone &= !ops.iter().any(|op| matches!(op, Op::Delete { .. }));
            self.abandoned.extend(ops.iter().map(|op| op.key().clone()));
        }
    }

    pub(super) fn applied(&mut self, request: &Request) {
        if let Request::Grant { lease, .. }
        | Request::ConnectBeside(Question::Grant { lease, .. }) = request
        {
            self.granted.insert(*lease);
        }
    }

    pub(super) fn before(&mut self, event: &Event, now: Instant) {
        match event {
            Event::ConnectedBeside(Ok(Answer::Granted(granted))) => {
                return self.before(&Event::Granted(granted.clone()), now);
            }
            Event::ConnectedBeside(Ok(Answer::Renewed(renewed))) => {
                return self.before(&Event::Renewed(renewed.clone()), now);
            }
            _ => {}
        }
        if let Some((_, since, ttl)) = self.acknowledged
            && since + ttl <= now
        {
            let held = self
                .statuses
                .iter()
                .filter(|(_, status)| status.is_registered());
            self.expired = held.map(|(id, _)| *id).collect();
        }
        if matches!(event, Event::Stop | Event::StopNow) {
            self.stopped.get_or_insert(now - self.paused);
        }
        let failed = event.error().map(RpcError::kind);
        self.acknowledge(event, failed);
        self.count_transactions(event, failed);
        match (event, failed) {
            (Event::Revoked { lease, .. }, None) => {
                self.unrevoked.remove(lease);
            }
            // It may be left to expire.
            (Event::Revoked { lease, .. }, Some(RpcErrorKind::Denied)) => {
                self.unrevoked.remove(lease);
                self.not_revocable.insert(*lease);
            }
            (Event::Renewed(_) | Event::Written { .. }, Some(kind)) => {
                self.is_lease_gone = kind == RpcErrorKind::LeaseGone;
            }
            _ => {}
        }
    }

    /// Notes until when the lease lives, by this answer.
    fn acknowledge(&mut self, event: &Event, failed: Option<RpcErrorKind>) {
        match (event, &mut self.acknowledged) {
            (
                Event::Granted(Granted {
                    lease,
                    sent,
                    result: Ok(ttl),
                }),
                last,
            ) => *last = Some((*lease, *sent, *ttl)),
            (Event::Granted(Granted { lease, .. }), last)
                if failed == Some(RpcErrorKind::LeaseExists) =>
            {
                if let Some((first_sent, 2..)) = self.asked.get(lease) {
                    *last = Some((*lease, *first_sent, self.ttl));
                }
            }
            (
                Event::Renewed(Renewed {
                    sent,
                    result: Ok(granted),
                    ..
                }),
                Some((_, since, ttl)),
            ) => {
                *since = (*since).max(*sent);
                *ttl = granted.unwrap_or(*ttl);
            }
            (
                Event::RenewalLate {
                    seen_at,
                    remaining: Some(remaining),
                },
                Some((_, since, ttl)),
            ) => *since = (*since).max(*seen_at + *remaining - *ttl),
            _ => {}
        }
    }

    /// Counts the transactions since an entry was paused.
    fn count_transactions(&mut self, event: &Event, failed: Option<RpcErrorKind>) {
        match (event, failed) {
            (Event::Written { ops, .. }, None) => {
                self.paused_for.values_mut().for_each(|count| *count += 1);
                self.brought_back
                    .retain(|key| !ops.iter().any(|op| op.key() == key));
            }
            (Event::Written { .. } | Event::Connected(_) | Event::Read { .. }, _) => {
                self.paused_for.values_mut().for_each(|count| *count = 0);
            }
            (Event::Granted(_), _) => self.are_isolated = false,
            _ => {}
        }
        if matches!(event, Event::Written { .. }) {
            self.are_isolated |= failed == Some(RpcErrorKind::Denied);
        }
    }

    /// After the write that was under way and the next one, the keys of a paused entry are gone.
    pub(super) fn check_paused(&mut self, entries: &BTreeMap<EntryId, Entry>, etcd: &Etcd) {
        if self.are_isolated || entries.len() > MOST_ENTRIES_OF_A_TXN {
            return;
        }
        let due = self.paused_for.iter().filter(|(_, count)| **count >= 2);
        let due: Vec<&Entry> = due.filter_map(|(id, _)| entries.get(id)).collect();
        let found = etcd.keys.iter().find(|(key, stored)| {
            let is_wanted = |entry: &Entry| entry.wants_keys() && entry.has(key);
            // Not by another entry that had the key meanwhile.
            let is_by = |entry: &&Entry| stored.value.starts_with(&format!("{}:", entry.id));
            let is_its = due.iter().any(is_by) && !entries.values().any(is_wanted);
            let is_unrevoked = self.unrevoked.contains(&stored.lease);
            is_its && self.is_to_go(key, stored) && !is_unrevoked
        });
        if let Some((key, _)) = found {
            self.violated(format!("I15: {key} is there, two transactions later"));
        }
    }

    pub(super) fn end_of_actions(&mut self) {
        self.is_lease_gone = false;
    }

    /// Checks an action. Long, with a branch for each action.
    pub(super) fn action(
        &mut self,
        action: &Action,
        entries: &BTreeMap<EntryId, Entry>,
        etcd: &Etcd,
        now: Instant,
    ) {
        if self.is_finished {
            self.violated(format!("I4: after the end: {action:?}"));
        }
        match action {
            Action::Publish(id, status) => {
                self.check_holder(*id, status, etcd);
                self.published(*id, status, now);
            }
            Action::AwaitHealth(ids) => self.reported(ids),
            Action::LeaseExpiry(at) if !matches!(self.acknowledged, Some((_, since, ttl)) if since + ttl >= *at) =>
            {
                self.violated(format!("I6: {at:?} but {:?}", self.acknowledged));
            }
            Action::End(id, status) => self.ended(*id, status, entries, etcd, now),
            Action::Send(Sent::Grant { lease, .. })
            | Action::ConnectBeside {
                question: Question::Grant { lease, .. },
                ..
            } => {
                self.asked.entry(*lease).or_insert((now, 0)).1 += 1;
                if let Some(left) = self.unrevoked.first() {
                    self.violated(format!("I7: {left:x} is not revoked before the next grant"));
                }
            }
            Action::Send(Sent::Revoke { lease }) => {
                self.unrevoked.insert(*lease);
                self.check_reported();
            }
            Action::Send(Sent::Write { lease, ops, .. }) => {
                self.check_reported();
                self.check_write(*lease, ops, entries);
            }
            Action::Connect { .. } | Action::ConnectBeside { .. } => self.connects(now),
            Action::Disconnect if self.is_lease_gone => {
                self.violated("I8: the end of a lease cost the connection");
            }
            Action::Finish => {
                self.is_finished = true;
                if self.stopped.is_some_and(|since| self.is_late(since, now)) {
                    self.violated("I10: a stop takes longer than the revoke timeout");
                }
                if !entries.is_empty() {
                    self.violated("I10: entries are left at the end");
                }
            }
            _ => {}
        }
    }

    fn connects(&mut self, now: Instant) {
        let second = Duration::from_secs(1);
        self.connects.push(now);
        self.connects.retain(|at| now < *at + second);
        if self.connects.len() > MOST_CONNECTS_A_SECOND {
            self.violated("I8: a storm of connections");
        }
    }

    /// Whether what began at `since` takes longer than the revoke timeout.
    fn is_late(&self, since: Instant, now: Instant) -> bool {
        now - self.paused > since + self.revoke_timeout + SLACK
    }

    fn published(&mut self, id: EntryId, status: &RegistrationStatus, now: Instant) {
        let last = self.statuses.insert(id, status.clone());
        if !status.is_registered() {
            self.expired.remove(&id);
        }
        if matches!(last, Some(RegistrationStatus::Deregistering)) || status.is_final() {
            self.violated(format!("I13: {status:?} after {last:?}"));
        }
        match (&last, status) {
            (Some(RegistrationStatus::Paused { .. }), RegistrationStatus::Paused { .. }) => {}
            (last, RegistrationStatus::Paused { .. }) => {
                self.paused_for.insert(id, 0);
                if last.as_ref().is_some_and(RegistrationStatus::is_registered) {
                    self.unreported.insert(id);
                }
            }
            _ => drop(self.paused_for.remove(&id)),
        }
        match status {
            RegistrationStatus::Deregistering => {
                self.leaving.insert(id, now - self.paused);
                self.unreported.insert(id);
            }
            RegistrationStatus::Lost { reason, .. }
                if self.is_alone && reason.contains("deleted") =>
            {
                self.violated(format!("I1: nobody touched the key, and yet {status:?}"));
            }
            RegistrationStatus::Yielding { to_lease }
                if self.granted.contains(to_lease) && !self.not_revocable.contains(to_lease) =>
            {
                self.violated(format!("I5: yields to our own lease {to_lease:x}"));
            }
            _ => {}
        }
        if let Some(registered) = status.registered() {
            self.check_shown(id, registered.lease);
        }
    }

    /// An entry is not registered by the value of another one that had the key before. Another client may restore it.
    fn check_holder(&mut self, id: EntryId, status: &RegistrationStatus, etcd: &Etcd) {
        let RegistrationStatus::Registered(registered) = status else {
            return;
        };
        let own = format!("{id}:");
        let is_others = |key: &&Key| {
            let stored = etcd.keys.get(*key);
            let ours = stored.filter(|stored| stored.lease == registered.lease);
            let is_known = self.is_alone && !self.abandoned.contains(*key);
            is_known && ours.is_some_and(|stored| !stored.value.starts_with(&own))
        };
        if let Some(key) = registered.keys.iter().find(is_others) {
            self.violated(format!(
                "I1: {id} is registered by another's value of {key}"
            ));
        }
    }

    fn check_shown(&mut self, id: EntryId, lease: i64) {
        let before = self.shown.insert(id, (lease, false));
        if before.is_some_and(|(last, is_told)| last != lease && !is_told) {
            self.violated("I13: health did not report that the lease was lost");
        }
        if !self.granted.contains(&lease) {
            self.violated(format!("I5: {lease:x} was not granted to us"));
        }
    }

    fn reported(&mut self, ids: &[EntryId]) {
        for id in ids {
            self.unreported.remove(id);
            let is_held = self
                .statuses
                .get(id)
                .is_some_and(RegistrationStatus::is_registered);
            if let Some((_, is_told)) = self.shown.get_mut(id) {
                *is_told |= !is_held;
            }
        }
    }

    fn check_reported(&mut self) {
        if let Some(id) = self.unreported.first() {
            self.violated(format!(
                "I13: health did not report that {id} leaves before its key goes"
            ));
        }
    }

    fn ended(
        &mut self,
        id: EntryId,
        status: &RegistrationStatus,
        entries: &BTreeMap<EntryId, Entry>,
        etcd: &Etcd,
        now: Instant,
    ) {
        let since = self.leaving.remove(&id);
        if since.is_none_or(|since| self.is_late(since, now)) {
            self.violated(format!(
                "I10: {id} ends too late, or without having begun: {status:?}"
            ));
        }
        self.statuses.remove(&id);
        self.paused_for.remove(&id);
        self.shown.remove(&id);
        if let (Some(entry), RegistrationStatus::Ended(Ended::LeftToExpire { .. })) =
            (entries.get(&id), status)
        {
            self.left_to_expire.extend(entry.names.iter().cloned());
        }
        let is_checked = |entry: &&Entry| {
            entry.is_announced && *status == RegistrationStatus::Ended(Ended::Deregistered)
        };
        let Some(entry) = entries.get(&id).filter(is_checked) else {
            return;
        };
        for (key, stored) in &etcd.keys {
            let is_others = |(other, entry): (&EntryId, &Entry)| *other != id && entry.has(key);
            if entry.has(key) && self.is_to_go(key, stored) && !entries.iter().any(is_others) {
                self.violated(format!("I2: {id} is deregistered, and {key} is there"));
            }
        }
    }

    /// Whether nothing but the end of its entry is missing for this key to be gone.
    fn is_to_go(&self, key: &Key, stored: &Stored) -> bool {
        let name = key.split('/').next().unwrap_or_default();
        self.granted.contains(&stored.lease)
            && !self.left_to_expire.contains(name)
            && !self.abandoned.contains(key)
            && !self.brought_back.contains(key)
    }

    fn check_write(&mut self, lease: i64, ops: &[Op], entries: &BTreeMap<EntryId, Entry>) {
        if ops.len() > 16 {
            return;
        }
        let announced = entries.values().filter(|entry| entry.wants_keys());
        let records = announced.flat_map(|entry| entry.records(lease, self.keys_name_lease));
        // Several may want one key: which of them has it in the end is I1.
        let records: BTreeSet<_> = records.collect();
        for op in ops {
            let (key, value) = match op {
                Op::Put { .. } if self.yields => return self.violated("I5: an unguarded write"),
                Op::Put { key, value } | Op::PutIfFree { key, value } => (key, value),
                Op::Delete { .. } => continue,
            };
            if !records.contains(&(key.clone(), value.clone())) {
                self.violated(format!("I4: nobody wants {key} = {value}"));
            }
        }
    }

    pub(super) fn after_event(&mut self, now: Instant) {
        if let Some(id) = std::mem::take(&mut self.expired).first() {
            self.violated(format!(
                "I6: an answer was handled before the expiry of the lease of {id}"
            ));
        }
        if self.leaving.values().any(|since| self.is_late(*since, now)) {
            self.violated("I10: an entry that leaves has not ended");
        }
        for status in self.statuses.values() {
            let Some(registered) = status.registered() else {
                continue;
            };
            let is_safe = matches!(self.acknowledged, Some((lease, since, ttl))
                if lease == registered.lease && now < since + ttl);
            if !is_safe {
                let what = format!("I6: {status:?} but {:?}", self.acknowledged);
                return self.violated(what);
            }
        }
    }
}
