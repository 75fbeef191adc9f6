//! I6: a status says that keys are held only while that is certain.

use super::super::record::Record;
use super::{BUG, I6, Violation, WORDS, found};
use crate::support::fake::{Call, Rpc};
use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;
use tonic_etcd::RegistrationStatus;

/// Timers are a millisecond coarse; a status is published in the same one.
const SLACK: Duration = Duration::from_millis(3);
/// A reason of each of eight members, in bytes.
const LONGEST: usize = 8000;

pub fn check(record: &Record, list: &mut Vec<Violation>) {
    let mut renewals: HashMap<i64, Vec<Instant>> = HashMap::new();
    for call in record
        .calls
        .iter()
        .filter(|call| is_acknowledged(record, call))
    {
        let confirmed = match call.rpc {
            Rpc::LeaseTimeToLive => seen(record, call),
            _ => Some(call.at),
        };
        renewals.entry(call.lease).or_default().extend(confirmed);
    }
    for (number, entry) in record.entries.iter().enumerate() {
        for (index, (since, status)) in entry.statuses.iter().enumerate() {
            if let RegistrationStatus::Lost { reason, .. } = status
                && reason.contains("internal error")
            {
                list.push(found(BUG, *since, format!("entry {number}: {reason}")));
            }
            let shown = status.to_string();
            if shown.contains(char::is_control) || shown.len() > LONGEST {
                list.push(found(WORDS, *since, format!("entry {number}: {shown:?}")));
            }
            let Some(registered) = status.registered() else {
                continue;
            };
            let until = entry
                .statuses
                .get(index + 1)
                .map_or(record.end, |(next, _)| *next);
            let acknowledged = renewals
                .get(&registered.lease)
                .map_or(&[][..], Vec::as_slice);
            if let Some(gap) = uncovered(record, acknowledged, *since, until) {
                let rest = gap.end - gap.start;
                let what = format!("entry {number} was {status:?} for {rest:?} too long");
                list.push(found(I6, gap.start, what));
            }
        }
    }
}

/// The time after which a whole TTL ends when the lease ends by the answer of a read.
fn seen(record: &Record, call: &Call) -> Option<Instant> {
    let left = Duration::from_secs(call.ttl.try_into().unwrap_or(0));
    call.at.checked_sub(record.terms.ttl.saturating_sub(left))
}

/// The first period that no renewal confirms.
fn uncovered(
    record: &Record,
    renewals: &[Instant],
    since: Instant,
    until: Instant,
) -> Option<Range<Instant>> {
    let mut sure = since;
    let acknowledged = renewals.iter().filter(|sent| **sent < until);
    for sent in acknowledged.chain([&until]) {
        // A frozen process publishes nothing; it may correct its status when it continues.
        if *sent > sure + SLACK + record.frozen(sure, *sent) {
            return Some(sure..*sent);
        }
        sure = sure.max(*sent + record.terms.ttl);
    }
    None
}

/// It was applied, and its answer can have arrived.
///
/// The fake records when a request arrived, which is when it was sent, because its pipes have no latency. Only in
/// a black hole it arrives later, which makes this check less strict.
fn is_acknowledged(record: &Record, call: &Call) -> bool {
    let arrived = !record.unanswered.iter().any(|(member, during)| {
        let here = member.as_ref().is_none_or(|member| *member == call.member);
        let deadline = call.at + record.terms.attempt;
        here && during.contains(&call.at)
            && during.contains(&deadline)
            && record.frozen(call.at, deadline).is_zero()
    });
    match call.rpc {
        // "Lease exists", the answer to a repeated request, acknowledges it too.
        Rpc::LeaseGrant => call.applied,
        Rpc::LeaseKeepAlive | Rpc::LeaseTimeToLive => call.applied && arrived,
        _ => false,
    }
}
