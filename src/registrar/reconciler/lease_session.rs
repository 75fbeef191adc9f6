//! The lease and the connection: the next step of each.

use super::state::{Connection, LeaseState, OpenConnection};
use super::{Action, Granted, Reconciler, Renewed, Request};
use crate::etcd::{RpcError, RpcErrorKind};
use crate::registrar::lease::{self, Lease};
use crate::runtime::backoff::Rate;
use crate::runtime::deadline;
use crate::runtime::logging;
use std::time::Duration;
use tokio::time::Instant;

/// The longest pause after a refused connection. Another attempt is cheap, and etcd
/// may be back at any moment: the median recovery takes half of this.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_millis(250);
/// The rate of leases that replace lost ones. The burst is enough for any accident; the refill bounds the load when
/// somebody revokes each lease. A lease that we revoked ourselves does not count: its application may begin again.
const GRANTS: Rate = Rate {
    burst: 24,
    refill: Duration::from_secs(5),
};

/// The rate of log lines about failed attempts.
const ATTEMPT_LINES: Rate = Rate {
    burst: 1,
    refill: Duration::from_secs(1),
};

// === impl Reconciler ===

impl Reconciler {
    pub(super) fn plan_lease(&mut self, now: Instant) {
        match &mut self.lease {
            LeaseState::Revoking(revoking) => {
                let is_over = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
                if is_over(Some(revoking.deadline)) {
                    self.on_revoke_timeout();
                } else if is_over(revoking.grant_deadline) {
                    revoking.grant_deadline = None;
                    if let Connection::Open(open) = &mut self.connection {
                        (open.has_request, open.request_sent) = (false, None);
                    }
                }
            }
            _ if self.entries.is_empty() => self.release_lease(now),
            _ => {}
        }
        if matches!(self.lease, LeaseState::None) && !self.entries.is_empty() {
            self.begin_grant(now);
        }
    }

    fn begin_grant(&mut self, now: Instant) {
        let limit = self
            .is_lease_lost
            .then(|| self.lost_leases.take(GRANTS, now));
        let was_waiting = self.grant_at.is_some();
        self.grant_at = limit.and_then(Result::err);
        match self.grant_at {
            None => {
                self.is_lease_lost = false;
                self.lease = self.granting();
            }
            Some(_) if was_waiting => {}
            Some(_) => self.say_why_lost(", again and again: waiting for the next lease"),
        }
    }

    /// A fresh lease, not requested yet.
    fn granting(&mut self) -> LeaseState {
        LeaseState::granting(lease::id_of((self.settings.random_id)(&mut self.rng)))
    }

    /// A session is kept while there is a lease, or an entry that needs one.
    pub(super) fn needs_session(&self) -> bool {
        !matches!(self.lease, LeaseState::None) || !self.entries.is_empty()
    }

    pub(super) fn plan_connection(&mut self, now: Instant) {
        match &self.connection {
            Connection::Closed { retry_at } => {
                let is_due = retry_at.is_none_or(|at| at <= now);
                if is_due && !matches!(self.lease, LeaseState::None) {
                    // It may be at a member that hangs, and now there is no other connection.
                    self.drop_beside();
                    self.connection = Connection::Opening;
                    let limit = self.connect_limit(now);
                    let member = self.rotation.member(&self.settings.endpoints);
                    self.member = Some(member.clone());
                    self.act(Action::Connect { member, limit });
                }
            }
            _ if !self.needs_session() => self.disconnect(None),
            _ => {}
        }
        if !self.needs_session() {
            self.drop_beside();
        }
    }

    pub(super) fn disconnect(&mut self, retry_at: Option<Instant>) {
        self.connection = Connection::Closed { retry_at };
        self.keys.on_disconnect();
        self.act(Action::Disconnect);
    }

    pub(super) fn on_connected(&mut self, now: Instant, result: Result<(), RpcError>) {
        match result {
            Ok(()) => {
                self.connect_misses = 0;
                self.connection = Connection::Open(Box::default());
            }
            Err(error) => self.on_disconnect(now, error),
        }
    }

    /// A request failed for a reason that does not concern the lease: the connection is closed.
    pub(super) fn on_disconnect(&mut self, now: Instant, error: RpcError) {
        let error = self.noted(now, error);
        // Balancers and members that restart end connections all the time, and tokens are replaced.
        // So it is reported only if the next attempt fails too.
        let is_routine = self.connected_since().is_some()
            && self.held_lease().is_some()
            && !matches!(error.kind(), RpcErrorKind::Timeout | RpcErrorKind::Denied);
        if error.kind() == RpcErrorKind::Timeout {
            self.connect_misses += 1;
            // Each member and each address gets the first limit once.
            let endpoints = &self.settings.endpoints;
            let ways = endpoints.len().max(endpoints.addresses(&self.member()));
            if self.connect_misses >= ways {
                self.patience.missed(&mut self.rng);
            }
        }
        let (worked, limits) = (self.worked(now), self.pauses());
        let (rotation, rng) = (&mut self.rotation, &mut self.rng);
        if let LeaseState::Revoking(revoking) = &mut self.lease {
            revoking.grant_deadline = None;
            rotation.advance();
            let retry = &mut rotation.retry;
            let pause = retry.failed_after(Duration::ZERO, REFUSED_PAUSE, rng);
            return self.disconnect(Some(now + pause));
        }
        let endpoints = &self.settings.endpoints;
        let pause = rotation.failed(&error, endpoints, worked, limits, now, rng);
        let failures = rotation.failures();
        self.disconnect(Some(now + pause));
        if !is_routine {
            self.set_degraded(now, &failures);
        }
    }

    /// An attempt failed, and the connection stays.
    pub(super) fn report_failure(&mut self, now: Instant, error: RpcError) {
        let error = self.noted(now, error);
        if !matches!(self.lease, LeaseState::Revoking(_)) {
            let worked = self.worked(now);
            let endpoints = &self.settings.endpoints;
            self.rotation.note(&error, endpoints, worked);
            self.set_degraded(now, &self.rotation.failures());
        }
    }

    /// Notes an error: with advice if nothing has worked yet, in the log, and as the reason if a revoke fails.
    pub(super) fn noted(&mut self, now: Instant, error: RpcError) -> RpcError {
        let is_first = self.connected_since().is_none() && self.held_lease().is_none();
        let error = if is_first { error.at_first() } else { error };
        let reason = error.to_string();
        if self.attempt_lines.take(ATTEMPT_LINES, now).is_ok() {
            let (service, registrations) = (&self.services, self.entries.len());
            logging::debug!(%service, registrations, %reason, "attempt failed");
        }
        if let LeaseState::Revoking(revoking) = &mut self.lease {
            revoking.last_error = Some(reason.into());
        }
        error
    }

    pub(super) fn connected_since(&self) -> Option<Instant> {
        match &self.connection {
            Connection::Open(open) => open.connected_since,
            _ => None,
        }
    }

    /// For how long the connection has worked.
    pub(super) fn worked(&self, now: Instant) -> Duration {
        let since = self.connected_since();
        since.map_or(Duration::ZERO, |since| now - since)
    }

    /// The longest pauses after a refused connection, and after any other failure. The second one makes no more
    /// requests than the renewals at rest.
    pub(super) fn pauses(&self) -> (Duration, Duration) {
        (REFUSED_PAUSE, self.renewal_interval())
    }

    pub(super) fn renewal_interval(&self) -> Duration {
        let interval = lease::interval(self.settings.ttl);
        interval.max(self.settings.attempt_timeout)
    }

    pub(super) fn on_granted(&mut self, now: Instant, granted: Granted) {
        let Granted {
            lease,
            sent,
            result,
        } = granted;
        self.request_done(now, result.as_ref().err());
        match (&mut self.lease, result) {
            (LeaseState::Granting { .. }, Err(error)) if error.is_busy() => {
                self.on_busy(now, error);
            }
            (LeaseState::Granting { id, .. }, Ok(ttl)) if *id == lease => {
                self.on_lease_held(now, lease, ttl, sent);
            }
            (
                LeaseState::Granting {
                    first_sent,
                    attempts,
                    ..
                },
                Err(error),
            ) if error.kind() == RpcErrorKind::LeaseExists => {
                match first_sent {
                    // An earlier request of ours made it. Its TTL counts from the first one.
                    Some(first_sent) if *attempts > 1 => {
                        let first_sent = *first_sent;
                        self.on_lease_held(now, lease, self.settings.ttl, first_sent);
                    }
                    // The lease is another client's.
                    _ => self.lease = self.granting(),
                }
            }
            (LeaseState::Granting { .. }, Err(error)) => self.on_disconnect(now, error),
            (LeaseState::Revoking(revoking), _) => revoking.grant_deadline = None,
            _ => {}
        }
    }

    fn on_lease_held(&mut self, now: Instant, id: i64, ttl: Duration, sent: Instant) {
        let wanted = self.settings.ttl;
        if ttl != wanted {
            logging::warn!(service = %self.services, registrations = self.entries.len(), ?wanted, granted = ?ttl, "etcd granted another TTL, following it");
        }
        if let Connection::Open(open) = &mut self.connection {
            open.confirm_lease(sent);
            open.refusals = 0;
        }
        let lease = Lease::granted(id, ttl, sent, &mut self.rng);
        self.act(Action::LeaseExpiry(lease.expiry()));
        self.lease = LeaseState::Held(lease);
        self.keys.reset(id);
        let (service, registrations) = (&self.services, self.entries.len());
        logging::debug!(%service, registrations, lease = format_args!("{id:016x}"), ?ttl, "lease granted");
        self.set_healthy(now);
        self.act(Action::ReadDesired(self.entries.keys().copied().collect()));
    }

    pub(super) fn on_renewed(&mut self, now: Instant, renewed: Renewed) {
        let Renewed {
            sent,
            member,
            result,
            ..
        } = renewed;
        if let Connection::Open(open) = &mut self.connection {
            open.check.on_renewed(member);
        }
        if let Connection::Open(open) = &mut self.connection
            && let since = open.renewing_since.take()
            && since == Some(sent)
            && result.is_ok()
        {
            self.patience.answered(now.saturating_duration_since(sent));
        }
        match (&mut self.lease, &mut self.connection, result) {
            (LeaseState::Held(lease), Connection::Open(open), Ok(ttl)) => {
                lease.renewed(ttl.unwrap_or(lease.ttl()), sent, &mut self.rng);
                self.actions.push_back(Action::LeaseExpiry(lease.expiry()));
                open.confirm_lease(sent);
            }
            (_, _, Err(error)) => self.on_renewal_error(now, error),
            _ => {}
        }
    }

    /// Keep waiting for the answer while enough of the lease is left to reconnect if this connection fails.
    pub(super) fn on_renewal_late(
        &mut self,
        now: Instant,
        seen_at: Instant,
        remaining: Option<Duration>,
    ) {
        self.patience
            .answered(now.saturating_duration_since(seen_at));
        let Some(remaining) = remaining else {
            return self.on_renewal_busy(now);
        };
        let reserve = lease::reserve(self.settings.attempt_timeout);
        if let LeaseState::Held(lease) = &mut self.lease {
            lease.seen(remaining, seen_at);
            let expiry = lease.expiry();
            self.act(Action::LeaseExpiry(expiry));
            if let Connection::Open(open) = &mut self.connection
                && expiry >= deadline::after(now, reserve)
            {
                // The lease lives, and this connection works: writing keys need not wait for the
                // renewal.
                open.confirm_lease(seen_at);
                open.renewing_since = Some(now);
            }
        }
    }

    pub(super) fn on_failure(&mut self, now: Instant, error: RpcError) {
        match (error.kind(), &self.lease) {
            (RpcErrorKind::LeaseGone, LeaseState::Held(_)) => self.on_lease_lost(now, &error),
            _ => self.on_disconnect(now, error),
        }
    }

    /// Handles the error of any request but a renewal. While a refused token is replaced, the renewals
    /// continue if etcd allows them: to authenticate may take longer than the lease lives.
    pub(super) fn on_error(&mut self, now: Instant, error: RpcError) {
        let open = match &mut self.connection {
            Connection::Open(open) if open.is_lease_confirmed => open,
            _ => return self.on_failure(now, error),
        };
        if error.kind() != RpcErrorKind::Unauthenticated {
            return self.on_failure(now, error);
        }
        if open.refused_token.is_none() {
            logging::debug!(service = %self.services, registrations = self.entries.len(), %error, "getting another token");
            open.refused_token = Some(error);
            // The watch stream is closed: nothing on it is waited for.
            open.watch_request_sent = None;
            (open.unanswered_watches, open.watch_since) = (0, None);
            self.send(Request::Authenticate);
        }
    }

    /// The refused requests are repeated, on a connection with the new token.
    pub(super) fn on_authenticated(&mut self, now: Instant, result: Result<(), RpcError>) {
        let refused = match &mut self.connection {
            Connection::Open(open) => open.refused_token.take(),
            _ => None,
        };
        if let Some(error) = result.err().or(refused) {
            self.on_disconnect(now, error);
        }
    }

    /// etcd does not know the lease: every key under it is gone. The connection is kept.
    fn on_lease_lost(&mut self, now: Instant, error: &RpcError) {
        self.lease = LeaseState::None;
        self.keys.reset(0);
        self.close_streams();
        self.is_lease_lost = true;
        self.set_lease_error(now, &error.to_string());
    }

    pub(super) fn close_streams(&mut self) {
        if let Connection::Open(open) = &mut self.connection {
            let connected_since = open.connected_since;
            **open = OpenConnection {
                connected_since,
                ..OpenConnection::default()
            };
            self.act(Action::CloseStreams);
        }
    }
}
