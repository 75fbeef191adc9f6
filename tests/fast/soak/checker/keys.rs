//! I1 and I2: the keys that should be there are there, the others are not.

use super::super::record::{Entry, Look, Record};
use super::ownership::Ownership;
use super::{I1, I2, MILD, Violation, found};
use tokio::time::Instant;
use tonic_etcd::{Ended, RegistrationStatus};

pub fn check(record: &Record, ownership: &Ownership, list: &mut Vec<Violation>) {
    for look in &record.looks {
        for (number, entry) in record.entries.iter().enumerate() {
            if let Err(what) = present(record, ownership, look, entry) {
                list.push(found(I1, look.at, format!("entry {number}: {what}")));
            }
        }
        orphaned_keys(record, ownership, look, list);
    }
    for (number, entry) in record.entries.iter().enumerate() {
        absent(record, ownership, (number, entry), list);
    }
    mild(record, ownership, list);
}

fn present(
    record: &Record,
    ownership: &Ownership,
    look: &Look,
    entry: &Entry,
) -> Result<(), String> {
    let Some(value) = entry.wanted(look.at) else {
        return Ok(());
    };
    let status = entry.status(look.at);
    if record.terms.yields {
        let is_foreign = |key: &String| {
            let holder = look.keys.get(key).map(|stored| stored.lease);
            holder.is_some_and(|lease| ownership.owner(lease) != Some(entry.registrar))
        };
        // No other client holds a key with our lease in it, unless it overwrote that key on purpose.
        let lease = look
            .leases
            .keys()
            .find(|l| ownership.owner(**l) == Some(entry.registrar));
        if entry
            .keys(&record.terms, lease.copied().unwrap_or(0))
            .iter()
            .any(is_foreign)
        {
            return match status {
                Some(RegistrationStatus::Yielding { .. }) => Ok(()),
                other => Err(format!("somebody else's, but the status is {other:?}")),
            };
        }
    }
    let Some(RegistrationStatus::Registered(registered)) = status else {
        return Err(format!(
            "the status is {status:?}, there are {:?}",
            look.keys
        ));
    };
    let lease = registered.lease;
    if !look.leases.contains_key(&lease) || ownership.owner(lease) != Some(entry.registrar) {
        return Err(format!("lease {lease} does not live: {:?}", look.leases));
    }
    for key in entry.keys(&record.terms, lease) {
        match look.keys.get(&key) {
            Some(stored) if stored.lease == lease && stored.value == value => {}
            other => {
                return Err(format!(
                    "{key} should be {value:?} under {lease}: {other:?}"
                ));
            }
        }
    }
    Ok(())
}

/// Whether an entry of that registrar desires the key at that time.
pub fn is_wanted(record: &Record, registrar: usize, key: &str, lease: i64, at: Instant) -> bool {
    let mut entries = record
        .entries
        .iter()
        .filter(|entry| entry.registrar == registrar);
    entries.any(|e| e.wanted(at).is_some() && e.keys(&record.terms, lease).iter().any(|k| k == key))
}

/// Keys that no entry desires.
fn orphaned_keys(record: &Record, ownership: &Ownership, look: &Look, list: &mut Vec<Violation>) {
    for (key, stored) in look.keys.iter().filter(|_| look.aged) {
        let Some(registrar) = ownership.owner(stored.lease) else {
            continue;
        };
        if !is_wanted(record, registrar, key, stored.lease, look.at) {
            list.push(found(
                I2,
                look.at,
                format!("nobody wants {key}, but there is {stored:?}"),
            ));
        }
    }
}

/// The keys of a deregistered entry were gone at that moment.
fn absent(
    record: &Record,
    ownership: &Ownership,
    (number, entry): (usize, &Entry),
    list: &mut Vec<Violation>,
) {
    let Some((at, RegistrationStatus::Ended(Ended::Deregistered))) = entry.ended() else {
        return;
    };
    // Of a lease of before, etcd has said itself that it is gone, or it is left to expire.
    let grants = record.ours(entry.registrar).filter(|call| call.ttl > 0);
    let latest = grants.take_while(|call| call.at <= at).last();
    // So are keys that another entry with the same name left there, or is about to delete.
    let is_left_to_expire = |key: &str, lease| {
        let others = record
            .entries
            .iter()
            .filter(|e| e.registrar == entry.registrar);
        let mut left = others.filter(|e| {
            let leaves = e.left.is_some_and(|left| left <= at);
            let ended = e.ended().filter(|(ended, _)| *ended <= at);
            leaves
                && ended.is_none_or(|(_, status)| {
                    matches!(
                        status,
                        RegistrationStatus::Ended(Ended::LeftToExpire { .. })
                    )
                })
        });
        left.any(|e| e.keys(&record.terms, lease).iter().any(|k| k == key))
    };
    for (key, lease) in ownership.held_at(at) {
        let ours = latest.is_some_and(|call| call.lease == lease) && !is_left_to_expire(key, lease);
        if ours
            && entry.keys(&record.terms, lease).iter().any(|k| k == key)
            && !is_wanted(record, entry.registrar, key, lease, at)
        {
            let what = format!("entry {number} is called deregistered, but {key} is under {lease}");
            list.push(found(I2, at, what));
        }
    }
}

/// Keys that were held when a mild fault began stay held.
fn mild(record: &Record, ownership: &Ownership, list: &mut Vec<Violation>) {
    for (what, during) in &record.mild {
        let changes = record.changes.iter().enumerate();
        for (index, change) in changes.filter(|(_, c)| c.put.is_none() && during.contains(&c.at)) {
            let Some((lease, registrar)) =
                ownership.before[index].and_then(|l| Some((l, ownership.owner(l)?)))
            else {
                continue;
            };
            let held = |entry: &Entry| {
                let status = entry.status(during.start);
                entry.registrar == registrar
                    && status
                        .and_then(RegistrationStatus::registered)
                        .is_some_and(|r| r.lease == lease)
                    && entry.keys(&record.terms, lease).contains(&change.key)
                    && entry.wanted(change.at).is_some()
            };
            if record.entries.iter().any(held) {
                list.push(found(
                    MILD,
                    change.at,
                    format!("{what}: {} was deleted", change.key),
                ));
            }
        }
        // If etcd is down for longer than a TTL, the status cannot stay registered.
        for entry in record.entries.iter().filter(|_| !what.contains("Down)")) {
            let held = entry
                .status(during.start)
                .is_some_and(RegistrationStatus::is_registered);
            let lost = entry.statuses.iter().find(|(at, status)| {
                during.contains(at) && matches!(status, RegistrationStatus::Lost { .. })
            });
            if let (true, Some((at, status))) = (held, lost) {
                list.push(found(MILD, *at, format!("{what}: {status:?}")));
            }
        }
    }
}
