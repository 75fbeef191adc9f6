//! The requests on an open connection: which one is next, and what its answer changes.

use super::state::{Connection, LeaseState, OpenConnection};
use super::{Action, Reconciler, Request};
use crate::etcd::{Applied, DENIED_RETRY, KeyMeta, Op, RpcError, RpcErrorKind, WatchResponse};
use crate::registrar::ids::Key;
use crate::runtime::logging;
use std::time::Duration;
use tokio::time::Instant;

// === impl Reconciler ===

impl Reconciler {
    /// When the next request is due, of those that wait only for a time.
    pub(super) fn next_request_due(&self, open: &OpenConnection) -> Option<Instant> {
        let lease = match &self.lease {
            LeaseState::None => return None,
            LeaseState::Granting { .. } | LeaseState::Revoking(_) => {
                return open.not_before.filter(|_| !open.has_request);
            }
            LeaseState::Held(lease) => lease,
        };
        let due = || open.renew_not_before.unwrap_or(lease.due());
        let renewal = (!open.is_renewing()).then(due);
        // No key is written before the lease is confirmed, so no write becomes due either.
        let is_waiting = open.has_request || open.refused_token.is_some();
        let write = match open.is_lease_confirmed && !is_waiting {
            true => open.not_before.or_else(|| self.keys.next_retry()),
            false => None,
        };
        let may_check = open.is_lease_confirmed && !is_waiting;
        let check = may_check.then(|| self.check_due()).flatten();
        renewal.into_iter().chain(write).chain(check).min()
    }

    pub(super) fn plan_requests(&mut self, now: Instant) {
        let Connection::Open(open) = &mut self.connection else {
            return;
        };
        let request = match &mut self.lease {
            LeaseState::Held(_) => return self.plan_held(now),
            LeaseState::None => return,
            _ if open.has_request || open.not_before.is_some_and(|at| at > now) => return,
            LeaseState::Granting {
                id,
                first_sent,
                attempts,
            } => match self.orphaned_leases.first() {
                Some(orphan) => Request::Revoke { lease: *orphan },
                None => {
                    first_sent.get_or_insert(now);
                    *attempts += 1;
                    let (lease, ttl) = (*id, self.settings.ttl);
                    Request::Grant { lease, ttl }
                }
            },
            LeaseState::Revoking(revoking) => match revoking.leases.first() {
                Some(lease) => Request::Revoke { lease: *lease },
                None => return,
            },
        };
        (open.has_request, open.not_before) = (true, None);
        open.request_sent = Some(now);
        self.send(request);
    }

    /// The lease is renewed first. There is something to write only if etcd does not have the lease any more, or
    /// its keys differ.
    fn plan_held(&mut self, now: Instant) {
        let again = self.again(now);
        let (LeaseState::Held(lease), Connection::Open(open)) = (&self.lease, &mut self.connection)
        else {
            return;
        };
        let (id, expiry) = (lease.id(), lease.expiry());
        let is_due = match open.renew_not_before {
            Some(at) => at <= now,
            None => !open.is_lease_confirmed || lease.due() <= now,
        };
        if is_due && !open.is_renewing() {
            (open.renewing_since, open.renew_not_before) = (Some(now), None);
            let late = self.patience.expected();
            self.actions.push_back(Action::Send(Request::Renew {
                lease: id,
                late,
                again,
            }));
        }
        if !open.is_lease_confirmed || open.refused_token.is_some() {
            return;
        }
        let is_late = open.is_late();
        if open.watch_request_sent.is_none() {
            self.plan_watch(now);
        }
        let reads = self.keys.next_read();
        // A lease that expired on this connection, because the process was frozen, needs a
        // renewal to confirm that it lives.
        if reads.is_empty() && expiry > now && !is_late {
            self.set_healthy(now);
        }
        self.plan_read_or_write(now, id, reads);
    }

    fn plan_read_or_write(&mut self, now: Instant, lease: i64, keys: Vec<Key>) {
        let Connection::Open(open) = &mut self.connection else {
            return;
        };
        if open.has_request || open.not_before.is_some_and(|at| at > now) {
            return;
        }
        open.not_before = None;
        open.request_sent = Some(now).filter(|_| !self.needs_local_ip);
        let action = if self.needs_local_ip {
            Action::FindLocalIp
        } else if !keys.is_empty() {
            Action::Send(Request::Read { keys })
        } else {
            let ops = self.keys.next_txn(now);
            if ops.is_empty() {
                open.request_sent = None;
                return self.plan_check(now);
            }
            let asks_replaced = self.keys.asks_replaced(&ops);
            Action::Send(Request::Write {
                lease,
                ops,
                asks_replaced,
            })
        };
        open.has_request = true;
        self.act(action);
    }

    fn plan_watch(&mut self, now: Instant) {
        let Connection::Open(open) = &mut self.connection else {
            return;
        };
        let request = if let Some(id) = self.keys.next_unwatch().filter(|_| open.is_watching) {
            open.cancelled_watches.insert(id);
            Request::Unwatch { id }
        } else if let Some((key, id, from)) = self.keys.next_watch() {
            open.is_watching = true;
            open.watch_asked(now);
            Request::Watch { key, id, from }
        } else {
            return;
        };
        open.watch_request_sent = Some(now);
        self.send(request);
    }

    /// The request under way has ended. An answer of etcd shows how long it takes.
    pub(super) fn request_done(&mut self, now: Instant, error: Option<&RpcError>) {
        use RpcErrorKind::{Broken, Timeout, Unreachable};
        let Connection::Open(open) = &mut self.connection else {
            return;
        };
        open.has_request = false;
        let is_answer =
            error.is_none_or(|error| !matches!(error.kind(), Broken | Timeout | Unreachable));
        if let Some(sent) = open.request_sent.take().filter(|_| is_answer) {
            self.patience.answered(now.saturating_duration_since(sent));
        }
    }

    pub(super) fn on_local_ip_found(&mut self, now: Instant) {
        self.request_done(now, None);
        self.needs_local_ip = false;
    }

    pub(super) fn on_read(
        &mut self,
        now: Instant,
        keys: Vec<Key>,
        result: Result<(i64, Vec<Option<KeyMeta>>), RpcError>,
    ) {
        self.request_done(now, result.as_ref().err());
        if let Some(check) = self.end_check() {
            return self.on_checked(now, keys, check, result);
        }
        match result {
            Ok((revision, found)) => self.keys.on_read(&keys, revision, &found),
            Err(error) => match error.kind() {
                RpcErrorKind::ResourceExhausted | RpcErrorKind::Busy => self.pause_requests(now),
                kind @ (RpcErrorKind::TooManyOps | RpcErrorKind::TooLarge) if keys.len() > 1 => {
                    logging::debug!(service = %self.services, %error, keys = keys.len(), "etcd takes fewer keys at once");
                    self.keys.on_read_too_large(&keys, kind);
                }
                RpcErrorKind::Denied | RpcErrorKind::TooManyOps | RpcErrorKind::TooLarge => {
                    self.keys.on_read_denied(&keys);
                }
                _ => self.on_error(now, error),
            },
        }
    }

    /// The answer to a write. Long, with a branch for each kind of error.
    pub(super) fn on_written(
        &mut self,
        now: Instant,
        ops: Vec<Op>,
        result: Result<Applied, RpcError>,
    ) {
        self.request_done(now, result.as_ref().err());
        self.report_write(&ops, result.as_ref().err());
        let error = match result {
            Ok(Applied {
                revision,
                refused_by,
                replaced,
            }) => {
                self.write_error = None;
                if let Connection::Open(open) = &mut self.connection {
                    open.refusals = 0;
                }
                self.keys.on_replaced(&ops, replaced);
                return self.keys.on_txn(&ops, revision, &refused_by, now);
            }
            Err(error) => error,
        };
        match error.kind() {
            // The write was rejected, but the connection works: renewals continue, and the write is repeated.
            RpcErrorKind::ResourceExhausted => {
                self.keys.on_txn_rejected(&ops, now);
                // A cluster that is full is full at each member.
                if !error.is_full() && self.is_member_busy(now) {
                    return self.on_disconnect(now, error);
                }
                self.pause_requests(now);
                self.on_write_rejected(now, &ops, &error);
            }
            // A role that may not read may not use `prev_kv` either.
            RpcErrorKind::Denied if self.keys.asks_replaced(&ops) => {
                self.keys.on_replaced_denied(&ops, now);
            }
            // The next member may allow it. Changing the member is free only while no key is held.
            RpcErrorKind::Denied if !self.holds_any() && self.has_other_member(now) => {
                self.on_error(now, error);
            }
            kind @ (RpcErrorKind::TooManyOps | RpcErrorKind::TooLarge) if ops.len() > 1 => {
                logging::debug!(service = %self.services, %error, ops = ops.len(), "etcd takes fewer writes at once");
                self.keys.on_txn_too_large(&ops, kind, now);
            }
            RpcErrorKind::Denied | RpcErrorKind::TooManyOps | RpcErrorKind::TooLarge => {
                self.keys.on_txn_denied(&ops, now, now + DENIED_RETRY);
                if ops.len() == 1 {
                    self.on_write_rejected(now, &ops, &error);
                }
            }
            _ => self.on_error(now, error),
        }
    }

    fn holds_any(&self) -> bool {
        self.entries.keys().any(|id| self.keys.view(*id).held)
    }

    pub(super) fn has_other_member(&self, now: Instant) -> bool {
        let endpoints = &self.settings.endpoints;
        let ours = self.member();
        self.rotation.has_other(&ours, endpoints, now) || endpoints.addresses(&ours) > 1
    }

    /// etcd rejected a request because it has too many, or is full.
    pub(super) fn pause_requests(&mut self, now: Instant) {
        let pause = self.busy_pause();
        if let Connection::Open(open) = &mut self.connection {
            open.not_before = Some(now + pause);
        }
    }

    pub(super) fn busy_pause(&mut self) -> Duration {
        let (limit, rng) = (self.renewal_interval(), &mut self.rng);
        self.rotation.retry.failed_after(Duration::ZERO, limit, rng)
    }

    pub(super) fn on_watch_requested(&mut self, now: Instant, result: Result<(), RpcError>) {
        if let Connection::Open(open) = &mut self.connection {
            open.watch_request_sent = None;
        }
        if let Err(error) = result {
            self.on_error(now, error);
        }
    }

    pub(super) fn on_watched(&mut self, now: Instant, result: Result<WatchResponse, RpcError>) {
        let response = match result {
            Ok(response) => response,
            Err(error) => return self.on_error(now, error),
        };
        if let Connection::Open(open) = &mut self.connection
            && response.created
        {
            open.watch_created(now);
            open.check.on_created(now, response.member);
        }
        for event in response.events {
            self.keys.on_watch_event(event, now);
        }
        let Connection::Open(open) = &mut self.connection else {
            return;
        };
        // A watch that is refused for its token ends with the id -1. So only the ends of
        // watches that we cancelled may be ignored.
        match response
            .ended
            .filter(|(id, _)| !open.cancelled_watches.remove(id))
        {
            Some((_, error)) if error.kind() == RpcErrorKind::Denied => {
                logging::warn!(service = %self.services, registrations = self.entries.len(), %error, "changes of the key by other clients will not be noticed");
            }
            Some((_, error)) => self.on_error(now, error),
            None => {}
        }
    }
}
