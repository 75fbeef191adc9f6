//! The way out: of one entry while others stay, and of the lease with everything under it.
//!
//! Health learns of it first, then etcd, and neither may take longer than it is given. What etcd
//! could not be told in time is still tried for as long as the registrar lives; the handle just
//! does not wait for it.

use super::desired::{Entry, Shared};
use super::keeper::{BRISK, Keeper, sleep_until_some};
use super::table::{EntryId, Table};
use crate::deadline;
use crate::etcd::{RpcError, Session, with_timeout};
use crate::lifecycle::health_acknowledged;
use crate::status::Status;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// An entry on its way out.
pub(super) struct Leaving {
    pub(super) entry: Arc<Entry>,
    /// When to stop waiting for etcd; `None` once that has happened.
    pub(super) deadline: Option<Instant>,
}

// === impl Keeper ===

impl Keeper {
    /// Health services were waited for before.
    pub(super) fn lead_out(&mut self, entry: &Arc<Entry>) {
        let config = &self.shared.config;
        let now = Instant::now();
        let mut deadline = deadline::after(now, config.revoke_timeout);
        if entry.lifecycle.shutdown_now.is_cancelled() {
            deadline = deadline.min(deadline::after(now, config.attempt));
        }
        entry.begin_leaving();
        self.table.unwant(entry.id);
        let leaving = self.leaving.entry(entry.id).or_insert(Leaving {
            entry: entry.clone(),
            deadline: Some(deadline),
        });
        leaving.deadline = leaving.deadline.map(|earlier| earlier.min(deadline));
        self.settle_leavers();
    }

    /// Ends the entries of which nothing is left.
    pub(super) fn settle_leavers(&mut self) {
        // The last ones go with the lease, all at once: see `step_down`.
        if self.shared.len() == self.leaving.len() && self.asked.is_some() {
            return;
        }
        let table = &mut self.table;
        self.leaving.retain(|id, leaving| {
            let gone = table.is_gone(*id);
            if gone {
                table.forget(*id);
                self.shared.forget(*id);
                leaving.end(Status::Deregistered);
            }
            !gone
        });
    }

    pub(super) async fn pass_deadlines(&mut self) {
        let now = Instant::now();
        let why = self.trouble_shown();
        let (ttl, expired) = match &self.lease {
            Some(lease) => (lease.ttl(), self.lost.is_none() && lease.expiry() <= now),
            None => (self.shared.config.ttl, false),
        };
        end_overdue(&mut self.leaving, &self.shared, ttl, &why);
        if expired {
            self.despair(&format!("the lease ran out unconfirmed: {why}"))
                .await;
        }
    }

    /// Lets the lease go, and every entry that is leaving; at a stop, that is all of them.
    pub(super) async fn step_down(&mut self) {
        let stop = self.shared.is_stopping();
        let asked = self.asked;
        let stop_by = self.stop_by.take();
        let stop_by = stop_by.unwrap_or_else(|| self.revoke_deadline());
        let entries = match stop {
            true => self.shared.close(),
            false => vec![],
        };
        for entry in entries {
            let leaving = || Leaving {
                entry: entry.clone(),
                deadline: Some(stop_by),
            };
            self.leaving.entry(entry.id).or_insert_with(leaving);
        }
        for leaving in self.leaving.values() {
            leaving.entry.begin_leaving();
        }
        let leaving = self.leaving.values();
        let all = leaving.map(|leaving| leaving.entry.lifecycle.clone());
        health_acknowledged(all.collect()).await;
        let ttl = self
            .lease
            .take()
            .map_or(self.shared.config.ttl, |lease| lease.ttl());
        let mut leaving = std::mem::take(&mut self.leaving);
        let revoked = {
            let why = self.trouble_shown();
            let shared = self.shared.clone();
            let mut revoke = pin!(self.revoke(stop_by));
            loop {
                // Some have been on their way out for a while, and their time goes on.
                let next = leaving
                    .values()
                    .filter_map(|leaving| leaving.deadline)
                    .min();
                tokio::select! {
                    biased;
                    revoked = &mut revoke => break revoked,
                    () = sleep_until_some(next) => {}
                }
                end_overdue(&mut leaving, &shared, ttl, &why);
            }
        };
        if revoked.is_err() {
            self.owed = asked.or(self.owed);
        }
        self.table = Table::new(0, self.shared.config.on_conflict);
        for (id, mut leaving) in leaving {
            self.shared.forget(id);
            leaving.end(match &revoked {
                Ok(()) => Status::Deregistered,
                Err(error) => Status::LeftToExpire {
                    ttl,
                    reason: error.to_string().into(),
                },
            });
        }
        (self.trouble, self.lost, self.session) = (None, None, None);
    }

    /// When a way out that begins now is to be over.
    pub(super) fn revoke_deadline(&self) -> Instant {
        deadline::after(Instant::now(), self.shared.config.revoke_timeout)
    }

    fn trouble_shown(&self) -> Arc<str> {
        let trouble = self.trouble.as_ref();
        trouble.map_or("etcd did not answer".into(), |t| t.why.clone())
    }

    /// Revokes the lease, on whichever member answers, within the time there is.
    pub(super) async fn revoke(&mut self, stop_by: Instant) -> Result<(), RpcError> {
        let Some(id) = self.asked.take() else {
            return Ok(());
        };
        let shared = self.shared.clone();
        let config = &shared.config;
        let limit = config.attempt.min(config.revoke_timeout);
        let give_up = async {
            let impatient = async {
                shared.shutdown_now.cancelled().await;
                sleep(limit).await;
            };
            tokio::select! {
                () = impatient => {}
                () = sleep_until(stop_by) => {}
            }
        };
        let mut give_up = pin!(give_up);
        let mut last = None;
        loop {
            let member = self.rotation.member(&config.members);
            let session = self.session.take();
            let endpoint = member.shown();
            let attempt = async {
                let session = match session {
                    Some(session) => session,
                    None => Session::connect(&config.members, &member, limit).await?,
                };
                with_timeout(limit, endpoint, session.revoke(id)).await
            };
            let error = tokio::select! {
                biased;
                done = attempt => match done {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
                () = &mut give_up => {
                    return Err(last.unwrap_or_else(|| RpcError::timeout(endpoint, config.revoke_timeout)));
                }
            };
            self.rotation.advance();
            let retry = &mut self.rotation.retry;
            let pause = retry.failed_after(Duration::ZERO, BRISK, &mut self.rng);
            tokio::select! {
                () = &mut give_up => return Err(error),
                () = sleep(pause) => last = Some(error),
            }
        }
    }
}

/// Ends the entries whose time to wait for etcd is over.
fn end_overdue(
    leaving: &mut BTreeMap<EntryId, Leaving>,
    shared: &Shared,
    ttl: Duration,
    why: &Arc<str>,
) {
    let now = Instant::now();
    for (id, leaving) in leaving {
        if leaving.deadline.is_some_and(|deadline| deadline <= now) {
            shared.forget(*id);
            let why = why.clone();
            leaving.end(Status::LeftToExpire { ttl, reason: why });
        }
    }
}

// === impl Leaving ===

impl Leaving {
    /// The entry has ended; a second end changes nothing.
    pub(super) fn end(&mut self, last: Status) {
        if self.deadline.take().is_some() {
            self.entry.lifecycle.ended(last);
        }
    }
}
