//! Reads: their keys, the order and the limit. Pure.

use super::store::{Span, Store};
use etcd_client::proto::{PbKeyValue, PbRangeRequest, PbRangeResponse, PbResponseHeader};
use std::borrow::Cow;
use std::cmp::Ordering;

/// `SortTarget::Value`.
const SORT_BY_VALUE: i32 = 4;

/// Reads at a revision that is not compacted.
pub(crate) fn range(store: &Store, request: &PbRangeRequest) -> PbRangeResponse {
    let keys = match request.revision {
        past if past > 0 && past < store.revision() => Cow::Owned(store.at(past)),
        _ => Cow::Borrowed(store.live()),
    };
    let span = Span::new(&request.key, &request.range_end);
    let mut found: Vec<_> = span.select(&keys).collect();
    let count = found.len();
    if request.count_only {
        found.clear();
    }
    found.retain(|kv| wanted(request, kv));
    sort(request, &mut found);
    let limit = match usize::try_from(request.limit) {
        Ok(limit) if limit > 0 => limit,
        _ => usize::MAX,
    };
    PbRangeResponse {
        header: revision_only(store.revision()),
        more: found.len() > limit,
        count: i64::try_from(count).unwrap_or(i64::MAX),
        kvs: found
            .into_iter()
            .take(limit)
            .map(|kv| requested_fields(store, request, kv))
            .collect(),
    }
}

fn wanted(request: &PbRangeRequest, kv: &PbKeyValue) -> bool {
    let above = |limit: i64, revision: i64| limit == 0 || revision >= limit;
    let below = |limit: i64, revision: i64| limit == 0 || revision <= limit;
    above(request.min_mod_revision, kv.mod_revision)
        && below(request.max_mod_revision, kv.mod_revision)
        && above(request.min_create_revision, kv.create_revision)
        && below(request.max_create_revision, kv.create_revision)
}

/// By the numbers of `SortTarget` and `SortOrder`; keys come in ascending order anyway.
fn sort(request: &PbRangeRequest, found: &mut [&PbKeyValue]) {
    let order = |a: &PbKeyValue, b: &PbKeyValue| -> Ordering {
        match request.sort_target {
            1 => a.version.cmp(&b.version),
            2 => a.create_revision.cmp(&b.create_revision),
            3 => a.mod_revision.cmp(&b.mod_revision),
            SORT_BY_VALUE => a.value.cmp(&b.value),
            _ => a.key.cmp(&b.key),
        }
    };
    found.sort_by(|a, b| order(a, b));
    if request.sort_order == 2 {
        found.reverse();
    }
}

fn requested_fields(store: &Store, request: &PbRangeRequest, kv: &PbKeyValue) -> PbKeyValue {
    let mut kv = kv.clone();
    if request.keys_only {
        kv.value.clear();
        // From 3.7 on these come from the index in memory, which has no leases; only a sort by value reads the keys
        // themselves (`FastKeysOnly` in etcd's `txn/range.go`).
        let from_index = request.sort_target != SORT_BY_VALUE;
        if from_index && !store.settings.keys_only_with_lease {
            kv.lease = 0;
        }
    }
    kv
}

/// The header inside a transaction; the caller completes the outermost one.
pub(crate) fn revision_only(revision: i64) -> Option<PbResponseHeader> {
    Some(PbResponseHeader {
        revision,
        ..PbResponseHeader::default()
    })
}
