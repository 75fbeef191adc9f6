//! Leases and their keys. Pure: the clock is an argument.
//!
//! As in etcd, a lease that has expired still exists until the sweep, every 0.5 s, revokes it. Until then keys
//! can still be put under it. A renewal waits for the sweep, and is then answered that the lease does not exist.

use crate::errors;
use etcd_client::proto::{PbKeyValue, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// etcd's limit, in seconds.
const MAX_TTL: i64 = 9_000_000_000;
/// After an election every lease gets its full TTL and this (the election timeout) in addition.
const ELECTION: Duration = Duration::from_secs(1);

/// All leases.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leases {
    leases: BTreeMap<i64, Lease>,
}

/// One lease.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    ttl: i64,
    pub(crate) expires: Instant,
    pub(super) keys: BTreeSet<Vec<u8>>,
}

/// The result of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// Renewed for so many seconds.
    Renewed(i64),
    /// No such lease.
    Gone,
    /// It has expired, and the next sweep will revoke it: try again then.
    Expiring,
}

impl Renewal {
    /// The TTL in the answer.
    pub(crate) fn ttl(self) -> i64 {
        match self {
            Self::Renewed(ttl) => ttl,
            Self::Gone | Self::Expiring => 0,
        }
    }
}

impl Leases {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    /// Grants a lease for `ttl` seconds.
    pub(super) fn grant(&mut self, id: i64, ttl: i64, now: Instant) -> Result<(), Status> {
        if ttl > MAX_TTL {
            return Err(errors::ttl_too_large());
        }
        if self.leases.contains_key(&id) {
            return Err(errors::lease_exists());
        }
        let lease = Lease {
            ttl,
            expires: now + seconds(ttl),
            keys: BTreeSet::new(),
        };
        self.leases.insert(id, lease);
        Ok(())
    }

    pub(crate) fn renew(&mut self, id: i64, now: Instant) -> Renewal {
        match self.leases.get_mut(&id) {
            None => Renewal::Gone,
            Some(lease) if lease.expires <= now => Renewal::Expiring,
            Some(lease) => {
                lease.expires = now + seconds(lease.ttl);
                Renewal::Renewed(lease.ttl)
            }
        }
    }

    /// Removes a lease; the caller has to delete its keys.
    pub(super) fn remove(&mut self, id: i64) -> Option<Lease> {
        self.leases.remove(&id)
    }

    pub(crate) fn time_to_live(
        &self,
        request: &PbLeaseTimeToLiveRequest,
        now: Instant,
    ) -> PbLeaseTimeToLiveResponse {
        let mut answer = PbLeaseTimeToLiveResponse {
            id: request.id,
            ttl: -1,
            ..PbLeaseTimeToLiveResponse::default()
        };
        if let Some(lease) = self.leases.get(&request.id) {
            answer.ttl = lease.remaining(now);
            answer.granted_ttl = lease.ttl;
            if request.keys {
                answer.keys = lease.keys.iter().cloned().collect();
            }
        }
        answer
    }

    /// A put under a lease needs that lease; 0 is none.
    pub(super) fn must_exist(&self, id: i64) -> Result<(), Status> {
        match id == 0 || self.leases.contains_key(&id) {
            true => Ok(()),
            false => Err(errors::lease_not_found()),
        }
    }

    /// The key was written under this lease; 0 is none.
    pub(super) fn attach(&mut self, key: &[u8], id: i64) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key.to_vec());
        }
    }

    /// The key, as it was, is deleted or written again.
    pub(super) fn detach(&mut self, was: &PbKeyValue) {
        if let Some(lease) = self.leases.get_mut(&was.lease) {
            lease.keys.remove(&was.key);
        }
    }

    /// The leases that have expired, at most `limit` of them.
    pub(crate) fn expired(&self, now: Instant, limit: usize) -> Vec<i64> {
        let over = self.iter().filter(|(_, lease)| lease.expires <= now);
        over.map(|(id, _)| id).take(limit).collect()
    }

    /// A new leader, also after a restart: every lease gets its full TTL.
    pub(crate) fn extend(&mut self, now: Instant) {
        for lease in self.leases.values_mut() {
            lease.expires = now + seconds(lease.ttl) + ELECTION;
        }
    }
}

impl Lease {
    /// Whole seconds left, as etcd reports them.
    fn remaining(&self, now: Instant) -> i64 {
        let left = self.expires.saturating_duration_since(now).as_secs();
        i64::try_from(left).unwrap_or(i64::MAX)
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}
