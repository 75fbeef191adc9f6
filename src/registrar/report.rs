//! What the keeper tells the world: from its own state and the table to each entry's status.

use super::desired::Entry;
use super::keeper::Keeper;
use super::table::{Table, View};
use crate::etcd::{Op, RpcError};
use crate::lease::Lease;
use crate::lifecycle::health_acknowledged;
use crate::status::{Registered, Status};
use std::sync::Arc;
use tokio::time::Instant;

/// Something is wrong, since when and why.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) since: Instant,
    pub(super) why: Arc<str>,
}

// === impl Keeper ===

impl Keeper {
    /// etcd is out of reach.
    pub(super) fn worry(&mut self, why: &str) {
        if self.trouble.is_none() {
            tracing::warn!(%why, "etcd is out of reach, trying until it answers");
        }
        if self
            .trouble
            .as_ref()
            .is_some_and(|trouble| *trouble.why == *why)
        {
            return;
        }
        let since = self
            .trouble
            .as_ref()
            .map_or_else(Instant::now, |trouble| trouble.since);
        self.trouble = Some(Trouble {
            since,
            why: why.into(),
        });
        self.publish_all();
    }

    /// etcd answers, and has our keys.
    pub(super) fn calm(&mut self) {
        if let Some(trouble) = self.trouble.take() {
            tracing::info!(after = ?trouble.since.elapsed(), "etcd answers again");
        }
        self.lost = None;
        self.publish_all();
    }

    /// The lease is not known to live any more.
    pub(super) async fn despair(&mut self, why: &str) {
        self.lost = Some(Trouble {
            since: Instant::now(),
            why: why.into(),
        });
        self.publish_all();
        let entries = self.shared.entries();
        health_acknowledged(
            entries
                .iter()
                .map(|entry| entry.lifecycle.clone())
                .collect(),
        )
        .await;
        // On a connection that works, the next lease is there before anybody looked: whoever
        // watches gets a turn to see that there was none.
        tokio::task::yield_now().await;
    }

    /// The lease is gone, and every key under it.
    pub(super) async fn lose(&mut self, why: &str) {
        self.lease = None;
        self.asked = None;
        self.despair(why).await;
        self.table = Table::new(0, self.shared.config.on_conflict);
        self.settle_leavers();
    }

    /// A write was refused although the connection is fine: says so where the key is missing.
    pub(super) fn turned_down(&mut self, ops: &[Op], error: &RpcError) {
        let why: Arc<str> = error.to_string().into();
        if self
            .refusal
            .replace(why.clone())
            .is_none_or(|last| last != why)
        {
            tracing::warn!(%why, keys = ops.len(), "etcd turned a write down, repeating it later");
        }
        for entry in ops
            .iter()
            .filter_map(|op| self.shared.entry(self.table.owner(op.key())?))
        {
            match entry.lifecycle.published() {
                Status::Registering { .. } => {
                    entry.lifecycle.publish(Status::Registering {
                        reason: Some(why.clone()),
                    });
                }
                Status::Lost { since, .. } => {
                    entry.lifecycle.publish(Status::Lost {
                        since,
                        reason: why.clone(),
                    });
                }
                _ => {}
            }
        }
    }

    pub(super) fn is_worried(&self) -> bool {
        self.trouble.is_some() || self.lost.is_some()
    }

    /// Publishes what changed in the table.
    pub(super) fn publish(&mut self) {
        for id in self.table.take_touched() {
            if let Some(entry) = self.shared.entry(id) {
                self.publish_one(&entry);
            }
        }
        if !self.leaving.is_empty() {
            self.settle_leavers();
        }
    }

    pub(super) fn publish_all(&self) {
        for entry in self.shared.entries() {
            self.publish_one(&entry);
        }
    }

    pub(super) fn publish_one(&self, entry: &Entry) {
        if !entry.is_leaving() {
            entry.lifecycle.publish(self.stand(entry));
        }
    }

    pub(super) fn stand(&self, entry: &Entry) -> Status {
        let last = entry.lifecycle.published();
        let lost = |since, why| match &last {
            Status::Lost { .. } => last.clone(),
            Status::Registering { .. } => Status::Registering { reason: Some(why) },
            _ => Status::Lost { since, reason: why },
        };
        if let Some(trouble) = &self.lost {
            return lost(trouble.since, trouble.why.clone());
        }
        let View {
            keys,
            held,
            revision,
            foreign,
            contested,
        } = self.table.view(entry.id);
        if let Some(to_lease) = foreign {
            return Status::Yielding { to_lease };
        }
        let Some(lease) = self.lease.as_ref().filter(|_| held).map(Lease::id) else {
            let why = match &self.trouble {
                Some(trouble) => trouble.why.clone(),
                None if contested => "somebody rewrites the key again and again, waiting".into(),
                None if last.is_registered() => "the key was deleted or overwritten".into(),
                None => return last,
            };
            return lost(Instant::now(), why);
        };
        let since = last
            .registered()
            .map_or_else(Instant::now, |registered| registered.since);
        let registered = Registered {
            lease,
            keys: keys.into(),
            revision,
            since,
        };
        match &self.trouble {
            None => Status::Registered(registered),
            Some(Trouble { since, why }) => Status::Suspect {
                registered,
                since: *since,
                reason: why.clone(),
            },
        }
    }
}
