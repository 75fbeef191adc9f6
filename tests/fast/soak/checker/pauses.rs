//! I15: a paused entry has no key.

use super::super::record::{Entry, Record};
use super::keys::is_wanted;
use super::ownership::Ownership;
use super::{I15, Violation, found};
use tokio::time::Instant;
use tonic_etcd::Status;

pub fn check(record: &Record, ownership: &Ownership, list: &mut Vec<Violation>) {
    for (number, entry) in record.entries.iter().enumerate() {
        let mut report =
            |at, what: String| list.push(found(I15, at, format!("entry {number}: {what}")));
        // Without a fault, one request is enough.
        for during in &entry.paused {
            let due = during.start + record.terms.attempt;
            let is_undisturbed = record
                .undisturbed
                .iter()
                .any(|u| u.contains(&during.start) && u.contains(&due));
            if is_undisturbed
                && is_paused(entry, due)
                && let Some(key) = key_at(record, ownership, entry, due)
            {
                report(due, format!("{key} is there"));
            }
        }
        // After a fault, it is gone when all others are there.
        for look in record.looks.iter().filter(|look| look.settled) {
            if !is_paused(entry, look.at) || entry.paused_since(look.at) > Some(look.quiet) {
                continue;
            }
            if let Some(key) = key_at(record, ownership, entry, look.at) {
                report(look.at, format!("{key} is still there"));
            }
            let status = entry.status(look.at);
            if !matches!(status, Some(Status::Paused { .. })) {
                report(look.at, format!("the status is {status:?}"));
            }
        }
    }
}

fn is_paused(entry: &Entry, at: Instant) -> bool {
    entry.paused_since(at).is_some() && entry.left.is_none_or(|left| left > at)
}

/// A key of the entry that only it can have written under the lease at that time. Keys under an earlier lease
/// are left to expire.
fn key_at(record: &Record, ownership: &Ownership, entry: &Entry, at: Instant) -> Option<String> {
    let grants = record.ours(entry.registrar).filter(|call| call.ttl > 0);
    let latest = grants.take_while(|call| call.at <= at).last()?.lease;
    let mut held = ownership.held_at(at).filter(|(_, lease)| *lease == latest);
    let keys = entry.keys(&record.terms, latest);
    let key = held.find(|(key, _)| {
        keys.iter().any(|of| of == key) && !is_wanted(record, entry.registrar, key, latest, at)
    });
    key.map(|(key, _)| key.to_owned())
}
