//! A model of etcd: leases, keys, one history. No gRPC, no tasks; time is passed in.

use crate::etcd::{Applied, Event, EventKind, KeyMeta, Op, Replaced, RpcErrorKind};
use crate::registrar::ids::Key;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// See the [module](self).
#[derive(Clone, Default)]
pub(super) struct Etcd {
    pub(super) revision: i64,
    pub(super) leases: BTreeMap<i64, Granted>,
    pub(super) keys: BTreeMap<Key, Stored>,
    /// Every change of each key, in order.
    pub(super) history: BTreeMap<Key, Vec<Event>>,
    /// The shortest TTL that it grants.
    pub(super) min_ttl: Duration,
}

#[derive(Clone, Copy)]
pub(super) struct Granted {
    ttl: Duration,
    expires: Instant,
}

#[derive(Clone)]
pub(super) struct Stored {
    pub(super) value: Arc<str>,
    pub(super) lease: i64,
    pub(super) revision: i64,
}

type Answer<T> = Result<T, RpcErrorKind>;

// === impl Etcd ===

impl Etcd {
    pub(super) fn grant(&mut self, id: i64, ttl: Duration, now: Instant) -> Answer<Duration> {
        if self.leases.contains_key(&id) {
            return Err(RpcErrorKind::LeaseExists);
        }
        let ttl = ttl.max(self.min_ttl);
        let expires = now + ttl;
        self.leases.insert(id, Granted { ttl, expires });
        Ok(ttl)
    }

    pub(super) fn renew(&mut self, id: i64, now: Instant) -> Answer<Duration> {
        let lease = self.leases.get_mut(&id).ok_or(RpcErrorKind::LeaseGone)?;
        lease.expires = now + lease.ttl;
        Ok(lease.ttl)
    }

    /// How long a lease lives without a renewal, in whole seconds.
    pub(super) fn remaining(&self, id: i64, now: Instant) -> Option<Duration> {
        let left = self.leases.get(&id)?.expires.checked_duration_since(now)?;
        Some(Duration::from_secs(left.as_secs()))
    }

    /// Ends a lease, and deletes all keys under it at one revision.
    pub(super) fn revoke(&mut self, id: i64) {
        if self.leases.remove(&id).is_none() {
            return;
        }
        let under = self.keys.iter().filter(|(_, stored)| stored.lease == id);
        let keys: Vec<Key> = under.map(|(key, _)| key.clone()).collect();
        if !keys.is_empty() {
            self.revision += 1;
        }
        for key in keys {
            self.change(&key, None);
        }
    }

    /// Ends the leases that have expired.
    pub(super) fn expire(&mut self, now: Instant) {
        let expired = |(_, lease): &(&i64, &Granted)| lease.expires <= now;
        while let Some((id, _)) = self.leases.iter().find(expired) {
            let id = *id;
            self.revoke(id);
        }
    }

    /// A restart with the same data, or another leader: every lease gets a full TTL.
    pub(super) fn extend_leases(&mut self, now: Instant) {
        for lease in self.leases.values_mut() {
            lease.expires = now + lease.ttl;
        }
    }

    pub(super) fn txn(&mut self, lease: i64, ops: &[Op]) -> Answer<Applied> {
        let is_put = |op: &Op| !matches!(op, Op::Delete { .. });
        if !self.leases.contains_key(&lease) && ops.iter().any(is_put) {
            return Err(RpcErrorKind::LeaseGone);
        }
        let holder = |keys: &BTreeMap<Key, Stored>, key| keys.get(key).map(|s: &Stored| s.lease);
        let revision = self.revision + 1;
        let before = std::mem::replace(&mut self.revision, revision);
        let (mut refused_by, mut replaced, mut has_changed) = (vec![], vec![], false);
        for op in ops {
            let held_by = holder(&self.keys, op.key());
            let refused = match op {
                Op::PutIfFree { .. } => held_by.filter(|holder| *holder != lease),
                Op::Put { .. } | Op::Delete { .. } => None,
            };
            refused_by.push(refused);
            let previous = self
                .keys
                .get(op.key())
                .filter(|_| matches!(op, Op::Put { .. }));
            replaced.push(previous.map(|stored| Replaced {
                lease: stored.lease,
                value: stored.value.as_bytes().to_vec(),
            }));
            match op {
                Op::Put { key, value } => self.change(key, Some((value.clone(), lease))),
                Op::PutIfFree { key, value } if refused.is_none() => {
                    self.change(key, Some((value.clone(), lease)));
                }
                Op::Delete { key } if held_by == Some(lease) => self.change(key, None),
                Op::PutIfFree { .. } | Op::Delete { .. } => continue,
            }
            has_changed = true;
        }
        if !has_changed {
            self.revision = before;
        }
        let revision = self.revision;
        Ok(Applied {
            revision,
            refused_by,
            replaced,
        })
    }

    pub(super) fn read(&self, keys: &[Key]) -> (i64, Vec<Option<KeyMeta>>) {
        let meta = |key: &Key| {
            self.keys.get(key).map(|stored| KeyMeta {
                lease: stored.lease,
                revision: stored.revision,
            })
        };
        (self.revision, keys.iter().map(meta).collect())
    }

    /// Another client puts a key, or deletes it.
    pub(super) fn set(&mut self, key: &Key, put: Option<(Arc<str>, i64)>) {
        if put.is_some() || self.keys.contains_key(key) {
            self.revision += 1;
            self.change(key, put);
        }
    }

    fn change(&mut self, key: &Key, put: Option<(Arc<str>, i64)>) {
        let revision = self.revision;
        let kind = match &put {
            None => EventKind::Delete,
            Some((value, lease)) => EventKind::Put {
                lease: *lease,
                value: value.as_bytes().to_vec(),
            },
        };
        match put {
            None => drop(self.keys.remove(key)),
            Some((value, lease)) => {
                let stored = Stored {
                    value,
                    lease,
                    revision,
                };
                self.keys.insert(key.clone(), stored);
            }
        }
        let event = Event {
            key: key.to_string(),
            revision,
            kind,
        };
        self.history.entry(key.clone()).or_default().push(event);
    }

    /// What happened to a key from a revision on.
    pub(super) fn events(&self, key: &Key, from: i64) -> &[Event] {
        let history = self.history.get(key).map_or(&[][..], Vec::as_slice);
        let first = history.partition_point(|event| event.revision < from);
        &history[first..]
    }
}
