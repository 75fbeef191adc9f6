//! I3, I4, I5: writes that must not happen.

use super::super::record::{Look, Record};
use super::ownership::Ownership;
use super::{I3, I4, I5, QUIET, Violation, found};
use crate::support::fake::Rpc;
use std::collections::HashMap;
use tonic_etcd::{Ended, RegistrationStatus};

pub fn check(record: &Record, ownership: &Ownership, list: &mut Vec<Violation>) {
    leased(record, list);
    never_again(record, list);
    asked_again(record, ownership, list);
    foreign(record, ownership, list);
    quiet(record, list);
}

/// I3.
fn leased(record: &Record, list: &mut Vec<Violation>) {
    for (index, change) in record.changes.iter().enumerate() {
        if matches!(change.put, Some((_, 0))) && !record.is_foreign(index) {
            list.push(found(I3, change.at, format!("{change:?}")));
        }
    }
}

/// The entry that a value was made for.
fn author(value: &str) -> Option<usize> {
    value.strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// I4: no value of an entry is put after it ended by our own decision.
///
/// A write that was sent before the end, timed out, and was applied by a slow etcd after the end is
/// allowed. I2 checks that its key is removed again.
fn never_again(record: &Record, list: &mut Vec<Violation>) {
    for change in &record.changes {
        let Some((value, lease)) = &change.put else {
            continue;
        };
        let Some(entry) = author(value).and_then(|entry| record.entries.get(entry)) else {
            continue;
        };
        let Some((ended, RegistrationStatus::Ended(Ended::Deregistered))) = entry.ended() else {
            continue;
        };
        let mut calls = record.ours(entry.registrar);
        let asked_before = calls.any(|call| {
            let reached = call.at <= ended && call.lease == *lease;
            reached && call.puts.contains(&change.key)
        });
        if change.at > ended && !asked_before {
            let what = format!("{change:?} of an entry deregistered before");
            list.push(found(I4, change.at, what));
        }
    }
}

/// I4: no such put is requested on connections that were made after the end, whatever the end was.
fn asked_again(record: &Record, ownership: &Ownership, list: &mut Vec<Violation>) {
    let connects = record.calls.iter().filter(|call| call.rpc == Rpc::Connect);
    let opened: HashMap<_, _> = connects.map(|call| (call.connection, call.at)).collect();
    for call in record.calls.iter().filter(|call| !call.puts.is_empty()) {
        let Some(registrar) = ownership.owner(call.lease) else {
            continue;
        };
        let Some(opened) = opened.get(&call.connection) else {
            continue;
        };
        for key in &call.puts {
            let entries = record.entries.iter().filter(|e| e.registrar == registrar);
            let mut owners = entries.filter(|e| e.keys(&record.terms, call.lease).contains(key));
            if owners.all(|entry| entry.ended().is_some_and(|(at, _)| at < *opened)) {
                list.push(found(
                    I4,
                    call.at,
                    format!("{key} is put, and nobody wants it: {call:?}"),
                ));
            }
        }
    }
}

/// I5.
fn foreign(record: &Record, ownership: &Ownership, list: &mut Vec<Violation>) {
    for (index, change) in record.changes.iter().enumerate() {
        let Some(before) = ownership.before[index].filter(|_| !record.is_foreign(index)) else {
            continue;
        };
        match &change.put {
            None if ownership.owner(before).is_none() => {
                let what = format!("{} was deleted although {before} held it", change.key);
                list.push(found(I5, change.at, what));
            }
            Some((_, lease))
                if record.terms.yields && ownership.owner(*lease) != ownership.owner(before) =>
            {
                let what = format!("{change:?} although {before} held it");
                list.push(found(I5, change.at, what));
            }
            _ => {}
        }
    }
}

/// Between the first and the last look of a quiet period nothing is put.
fn quiet(record: &Record, list: &mut Vec<Violation>) {
    for looks in record.looks.chunk_by(|a: &Look, b| a.quiet == b.quiet) {
        let (Some(first), Some(last)) = (looks.first(), looks.last()) else {
            continue;
        };
        for (index, change) in record.changes.iter().enumerate() {
            if change.at > first.at
                && change.at < last.at
                && change.put.is_some()
                && !record.is_foreign(index)
            {
                list.push(found(QUIET, change.at, format!("{change:?}")));
            }
        }
    }
}
