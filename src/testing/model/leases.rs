//! Leases and their keys. Pure: the clock is an argument.
//!
//! As in etcd, a lease that has expired still exists until the sweep, every 0.5 s, revokes it. Until then keys
//! can still be put under it. A renewal waits for the sweep, and is then answered that the lease does not exist.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use etcd_client::proto::{PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse};
use tokio::time::Instant;
use tonic::Status;

use super::errors;

/// etcd's limit, in seconds.
const MAX_TTL: i64 = 9_000_000_000;
/// After an election every lease gets its full TTL and this (the election timeout) in addition.
const ELECTION: Duration = Duration::from_secs(1);

/// All leases.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    /// Shorter ones are raised to this: 1.5 times etcd's election timeout, rounded up.
    min_ttl: i64,
    leases: BTreeMap<i64, Lease>,
    owners: HashMap<Vec<u8>, i64>,
}

/// One lease.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) ttl: i64,
    pub(crate) expires: Instant,
    pub(crate) keys: BTreeSet<Vec<u8>>,
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

impl Leases {
    pub(crate) fn new(min_ttl: i64) -> Self {
        Self {
            min_ttl,
            leases: BTreeMap::new(),
            owners: HashMap::new(),
        }
    }

    pub(crate) fn set_min_ttl(&mut self, seconds: i64) {
        self.min_ttl = seconds;
    }

    /// The same etcd, but without its data.
    pub(crate) fn wipe(&mut self) {
        self.leases.clear();
        self.owners.clear();
    }

    pub(crate) fn get(&self, id: i64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    /// Grants a lease and returns its TTL, which may be longer than the requested one.
    pub(crate) fn grant(&mut self, id: i64, ttl: i64, now: Instant) -> Result<i64, Status> {
        if ttl > MAX_TTL {
            return Err(errors::ttl_too_large());
        }
        if self.leases.contains_key(&id) {
            return Err(errors::lease_exists());
        }
        let ttl = ttl.max(self.min_ttl);
        let lease = Lease {
            ttl,
            expires: now + seconds(ttl),
            keys: BTreeSet::new(),
        };
        self.leases.insert(id, lease);
        Ok(ttl)
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
    pub(crate) fn remove(&mut self, id: i64) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        for key in &lease.keys {
            self.owners.remove(key);
        }
        Some(lease)
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
        if let Some(lease) = self.get(request.id) {
            answer.ttl = lease.remaining(now);
            answer.granted_ttl = lease.ttl;
            if request.keys {
                answer.keys = lease.keys.iter().cloned().collect();
            }
        }
        answer
    }

    /// A put under a lease needs that lease; 0 is none.
    pub(crate) fn must_exist(&self, id: i64) -> Result<(), Status> {
        match id == 0 || self.leases.contains_key(&id) {
            true => Ok(()),
            false => Err(errors::lease_not_found()),
        }
    }

    /// The key was written under this lease (0: none), and belongs to no other any more.
    pub(crate) fn attach(&mut self, key: &[u8], id: i64) {
        self.detach(key);
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key.to_vec());
            self.owners.insert(key.to_vec(), id);
        }
    }

    /// The key is gone.
    pub(crate) fn detach(&mut self, key: &[u8]) {
        let owner = self.owners.remove(key);
        if let Some(lease) = owner.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.remove(key);
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
    pub(crate) fn remaining(&self, now: Instant) -> i64 {
        let left = self.expires.saturating_duration_since(now).as_secs();
        i64::try_from(left).unwrap_or(i64::MAX)
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}
