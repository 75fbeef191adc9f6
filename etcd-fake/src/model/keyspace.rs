//! Applies requests to keys and leases. Pure: no tasks, the clock is an argument.
//!
//! A transaction has three steps, as in etcd. Check the request alone ([`txn::check`]). Decide every branch, also nested
//! ones, on the state *before* the transaction ([`Path`]). Check the operations of that path. Only then it writes, and
//! the writes cannot fail.

use super::leases::Leases;
use super::ranges::{range, revision_only};
use super::settings::Settings;
use super::store::{Span, Store, Write};
use super::txn;
use crate::errors;
use etcd_client::proto::{
    PbDeleteRequest, PbDeleteResponse, PbPutRequest, PbPutResponse, PbRangeRequest,
    PbRangeResponse, PbResponseOp, PbTxnOpRequest, PbTxnOpResponse, PbTxnRequest, PbTxnRequestOp,
    PbTxnResponse,
};
use tokio::time::Instant;
use tonic::Status;

/// etcd revokes at most that many leases in one sweep.
const REVOKED_PER_SWEEP: usize = 500;

/// The keys, and the leases that hold them.
#[derive(Clone, Debug)]
pub(crate) struct Keyspace {
    pub(crate) store: Store,
    pub(crate) leases: Leases,
}

/// A transaction whose branches are decided.
struct Path<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Range(&'a PbRangeRequest),
    Put(&'a PbPutRequest),
    Delete(&'a PbDeleteRequest),
    Txn(Path<'a>),
}

impl Keyspace {
    /// An etcd without data.
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            store: Store::new(settings),
            leases: Leases::default(),
        }
    }

    /// Grants a lease and returns its TTL, which may be longer than the requested one.
    pub(crate) fn grant(&mut self, id: i64, ttl: i64, now: Instant) -> Result<i64, Status> {
        let ttl = ttl.max(self.store.settings.min_ttl);
        self.leases.grant(id, ttl, now).map(|()| ttl)
    }

    pub(crate) fn range(&self, request: &PbRangeRequest) -> Result<PbRangeResponse, Status> {
        txn::check_key(&request.key)?;
        self.store.readable(request.revision)?;
        Ok(range(&self.store, request))
    }

    pub(crate) fn put(&mut self, request: &PbPutRequest) -> Result<PbPutResponse, Status> {
        txn::check_put(request)?;
        self.survives_put(request)?;
        Ok(put(&mut self.store.write(), &mut self.leases, request))
    }

    pub(crate) fn delete(&mut self, request: &PbDeleteRequest) -> Result<PbDeleteResponse, Status> {
        txn::check_key(&request.key)?;
        Ok(delete(&mut self.store.write(), &mut self.leases, request))
    }

    /// Deletes one key; says whether there was one.
    pub(crate) fn delete_key(&mut self, key: &str) -> bool {
        let request = PbDeleteRequest {
            key: key.into(),
            ..PbDeleteRequest::default()
        };
        self.delete(&request).is_ok_and(|answer| answer.deleted > 0)
    }

    pub(crate) fn txn(&mut self, request: &PbTxnRequest) -> Result<PbTxnResponse, Status> {
        txn::check(request, self.store.settings.max_txn_ops)?;
        let path = Path::of(request, &self.store);
        self.survives(&path)?;
        Ok(path.walk(&mut self.store.write(), &mut self.leases))
    }

    /// Deletes the lease and its keys, at one revision.
    pub(crate) fn revoke(&mut self, id: i64) -> Result<(), Status> {
        let lease = self.leases.remove(id).ok_or_else(errors::lease_not_found)?;
        let mut write = self.store.write();
        for key in &lease.keys {
            write.delete(&Span::new(key, &[]));
        }
        Ok(())
    }

    /// Revokes the expired leases, each at a revision of its own.
    pub(crate) fn sweep(&mut self, now: Instant) {
        for id in self.leases.expired(now, REVOKED_PER_SWEEP) {
            // Cannot fail: the lease was found above.
            let _revoked = self.revoke(id);
        }
    }

    fn survives(&self, path: &Path<'_>) -> Result<(), Status> {
        path.steps.iter().try_for_each(|step| match step {
            Step::Range(range) => self.store.readable(range.revision),
            Step::Put(put) => self.survives_put(put),
            Step::Delete(_) => Ok(()),
            Step::Txn(inner) => self.survives(inner),
        })
    }

    fn survives_put(&self, put: &PbPutRequest) -> Result<(), Status> {
        self.leases.must_exist(put.lease)?;
        let needs_old = put.ignore_value || put.ignore_lease;
        if needs_old && !self.store.live().contains_key(&put.key) {
            return Err(errors::key_not_found());
        }
        Ok(())
    }
}

impl<'a> Path<'a> {
    fn of(txn: &'a PbTxnRequest, store: &Store) -> Self {
        let succeeded = txn::holds(txn, store);
        let branch = if succeeded {
            &txn.success
        } else {
            &txn.failure
        };
        let steps = branch.iter().filter_map(|op| Step::of(op, store));
        let steps = steps.collect();
        Self { succeeded, steps }
    }

    fn walk(&self, write: &mut Write<'_>, leases: &mut Leases) -> PbTxnResponse {
        let responses = self.steps.iter().map(|step| step.take(write, leases));
        let responses = responses.map(|response| PbResponseOp {
            response: Some(response),
        });
        PbTxnResponse {
            responses: responses.collect(),
            header: revision_only(write.revision()),
            succeeded: self.succeeded,
        }
    }
}

impl<'a> Step<'a> {
    fn of(operation: &'a PbTxnRequestOp, store: &Store) -> Option<Self> {
        Some(match operation.request.as_ref()? {
            PbTxnOpRequest::RequestRange(range) => Self::Range(range),
            PbTxnOpRequest::RequestPut(put) => Self::Put(put),
            PbTxnOpRequest::RequestDeleteRange(delete) => Self::Delete(delete),
            PbTxnOpRequest::RequestTxn(txn) => Self::Txn(Path::of(txn, store)),
        })
    }

    fn take(&self, write: &mut Write<'_>, leases: &mut Leases) -> PbTxnOpResponse {
        match self {
            Self::Range(request) => {
                let mut answer = range(write.store(), request);
                answer.header = revision_only(write.revision());
                PbTxnOpResponse::ResponseRange(answer)
            }
            Self::Put(request) => PbTxnOpResponse::ResponsePut(put(write, leases, request)),
            Self::Delete(request) => {
                PbTxnOpResponse::ResponseDeleteRange(delete(write, leases, request))
            }
            Self::Txn(path) => {
                let mut answer = path.walk(write, leases);
                // As in etcd: the single answers have the revision.
                answer.header = revision_only(0);
                PbTxnOpResponse::ResponseTxn(answer)
            }
        }
    }
}

fn put(write: &mut Write<'_>, leases: &mut Leases, request: &PbPutRequest) -> PbPutResponse {
    let (mut value, mut lease) = (request.value.clone(), request.lease);
    if let Some(old) = write.store().live().get(&request.key) {
        if request.ignore_value {
            value = old.value.clone();
        }
        if request.ignore_lease {
            lease = old.lease;
        }
        leases.detach(old);
    }
    leases.attach(&request.key, lease);
    let previous = write.put(request.key.clone(), value, lease);
    PbPutResponse {
        header: revision_only(write.revision()),
        prev_kv: previous.filter(|_| request.prev_kv),
    }
}

fn delete(
    write: &mut Write<'_>,
    leases: &mut Leases,
    request: &PbDeleteRequest,
) -> PbDeleteResponse {
    let gone = write.delete(&Span::new(&request.key, &request.range_end));
    gone.iter().for_each(|kv| leases.detach(kv));
    PbDeleteResponse {
        header: revision_only(write.revision()),
        deleted: i64::try_from(gone.len()).unwrap_or(i64::MAX),
        prev_kvs: if request.prev_kv { gone } else { Vec::new() },
    }
}
