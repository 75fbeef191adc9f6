//! Transactions: the checks before etcd reads any key, and the comparisons. Pure.

use super::store::{Span, Store};
use crate::errors;
use etcd_client::proto::{
    PbCompare, PbCompareTarget, PbKeyValue, PbPutRequest, PbTargetUnion, PbTxnOpRequest,
    PbTxnRequest, PbTxnRequestOp,
};
use std::cmp::Ordering;
use std::collections::HashSet;
use tonic::Status;

/// The keys that a transaction names, in any branch. Of a range it is the first key.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// Compared or read, or put with `prev_kv`: etcd requires the permission to read them.
    pub(crate) reads: Vec<Vec<u8>>,
    pub(crate) puts: Vec<Vec<u8>>,
    pub(crate) deletes: Vec<Vec<u8>>,
}

/// Checks the request of a transaction alone.
pub(crate) fn check(txn: &PbTxnRequest, max_operations: usize) -> Result<(), Status> {
    check_sizes(txn, max_operations)?;
    check_writes(&txn.success)?;
    check_writes(&txn.failure)?;
    Ok(())
}

/// The same for a single put.
pub(crate) fn check_put(put: &PbPutRequest) -> Result<(), Status> {
    if put.key.is_empty() {
        Err(errors::empty_key())
    } else if put.ignore_value && !put.value.is_empty() {
        Err(errors::value_provided())
    } else if put.ignore_lease && put.lease != 0 {
        Err(errors::lease_provided())
    } else {
        Ok(())
    }
}

/// Reads and deletes only need a key.
pub(crate) fn check_key(key: &[u8]) -> Result<(), Status> {
    match key.is_empty() {
        true => Err(errors::empty_key()),
        false => Ok(()),
    }
}

/// Whether all comparisons hold, which decides between the two branches.
pub(crate) fn holds(txn: &PbTxnRequest, store: &Store) -> bool {
    txn.compare
        .iter()
        .all(|compare| compare_holds(compare, store))
}

impl Keys {
    pub(crate) fn of(txn: &PbTxnRequest) -> Self {
        let mut keys = Self::default();
        keys.add(txn);
        keys
    }

    fn add(&mut self, txn: &PbTxnRequest) {
        self.reads.extend(txn.compare.iter().map(|c| c.key.clone()));
        for operation in txn.success.iter().chain(&txn.failure) {
            match &operation.request {
                Some(PbTxnOpRequest::RequestRange(range)) => self.reads.push(range.key.clone()),
                Some(PbTxnOpRequest::RequestPut(put)) => {
                    self.reads.extend(put.prev_kv.then(|| put.key.clone()));
                    self.puts.push(put.key.clone());
                }
                Some(PbTxnOpRequest::RequestDeleteRange(delete)) => {
                    self.deletes.push(delete.key.clone());
                }
                Some(PbTxnOpRequest::RequestTxn(inner)) => self.add(inner),
                None => {}
            }
        }
    }
}

/// The lease of the first put, 0 for none.
pub(crate) fn lease(operations: &[PbTxnRequestOp]) -> i64 {
    let mut leases = operations.iter().map(|op| match &op.request {
        Some(PbTxnOpRequest::RequestPut(put)) => put.lease,
        Some(PbTxnOpRequest::RequestTxn(txn)) => lease(&txn.success),
        _ => 0,
    });
    leases.find(|lease| *lease != 0).unwrap_or(0)
}

/// The limit counts the longest of the three lists; nested transactions have the rest of it.
fn check_sizes(txn: &PbTxnRequest, limit: usize) -> Result<(), Status> {
    let lists = [txn.compare.len(), txn.success.len(), txn.failure.len()];
    let longest = lists.into_iter().max().unwrap_or(0);
    if longest > limit {
        return Err(errors::too_many_operations());
    }
    for compare in &txn.compare {
        check_key(&compare.key)?;
    }
    for operation in txn.success.iter().chain(&txn.failure) {
        match &operation.request {
            Some(PbTxnOpRequest::RequestRange(range)) => check_key(&range.key)?,
            Some(PbTxnOpRequest::RequestPut(put)) => check_put(put)?,
            Some(PbTxnOpRequest::RequestDeleteRange(delete)) => check_key(&delete.key)?,
            Some(PbTxnOpRequest::RequestTxn(inner)) => check_sizes(inner, limit - longest)?,
            None => return Err(errors::key_not_found()),
        }
    }
    Ok(())
}

/// No key may be put twice, or put and deleted, along one path. Returns the puts and deletes of this branch.
fn check_writes(branch: &[PbTxnRequestOp]) -> Result<(HashSet<Vec<u8>>, Vec<Span>), Status> {
    let requests = || branch.iter().filter_map(|op| op.request.as_ref());
    let deleted = requests().filter_map(|request| match request {
        PbTxnOpRequest::RequestDeleteRange(it) => Some(Span::new(&it.key, &it.range_end)),
        _ => None,
    });
    let (mut puts, mut deletes) = (HashSet::new(), deleted.collect::<Vec<_>>());
    for request in requests() {
        let PbTxnOpRequest::RequestTxn(txn) = request else {
            continue;
        };
        let (then_puts, then_deletes) = check_writes(&txn.success)?;
        let (else_puts, else_deletes) = check_writes(&txn.failure)?;
        // Only one of the two is done, so they may share keys with each other, but not with operations before them.
        for key in then_puts.union(&else_puts) {
            if puts.contains(key) || deletes.iter().any(|span| span.contains(key)) {
                return Err(errors::duplicate_key());
            }
        }
        puts.extend(then_puts.into_iter().chain(else_puts));
        deletes.extend(then_deletes.into_iter().chain(else_deletes));
    }
    for request in requests() {
        let PbTxnOpRequest::RequestPut(put) = request else {
            continue;
        };
        if deletes.iter().any(|span| span.contains(&put.key)) || !puts.insert(put.key.clone()) {
            return Err(errors::duplicate_key());
        }
    }
    Ok((puts, deletes))
}

fn compare_holds(compare: &PbCompare, store: &Store) -> bool {
    let span = Span::new(&compare.key, &compare.range_end);
    let mut found = span.select(store.live()).peekable();
    if found.peek().is_some() {
        return found.all(|kv| key_holds(compare, kv));
    }
    // A key that does not exist has zeros for everything, but it has no value, not even an empty one.
    let by_value = compare.target == i32::from(PbCompareTarget::Value);
    !by_value && key_holds(compare, &PbKeyValue::default())
}

fn key_holds(compare: &PbCompare, kv: &PbKeyValue) -> bool {
    let order = match &compare.target_union {
        Some(PbTargetUnion::Version(wanted)) => kv.version.cmp(wanted),
        Some(PbTargetUnion::CreateRevision(wanted)) => kv.create_revision.cmp(wanted),
        Some(PbTargetUnion::ModRevision(wanted)) => kv.mod_revision.cmp(wanted),
        Some(PbTargetUnion::Lease(wanted)) => kv.lease.cmp(wanted),
        Some(PbTargetUnion::Value(wanted)) => kv.value.as_slice().cmp(wanted.as_slice()),
        None => Ordering::Equal,
    };
    // `CompareResult` as it stands in the protocol; etcd-client has no public name for it but its own `CompareOp`.
    match compare.result {
        0 => order.is_eq(),
        1 => order.is_gt(),
        2 => order.is_lt(),
        _ => order.is_ne(),
    }
}
