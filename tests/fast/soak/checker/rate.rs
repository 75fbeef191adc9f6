//! I8: bounded rates of connects and requests, and no busy task.

use super::super::record::Record;
use super::{I8, Violation, found};
use crate::support::fake::Rpc;
use std::time::Duration;
use tokio::time::Instant;

const SEC: Duration = Duration::from_secs(1);
/// Refused connections are retried after 125 ms to 250 ms; the first few follow more closely.
const CONNECTS_A_SECOND: usize = 12;
const CONNECTS_IN_TEN: usize = 86;

pub fn check(record: &Record, list: &mut Vec<Violation>) {
    for registrar in 0..record.registrars.len() {
        let connects: Vec<_> = times(record, registrar, |rpc| rpc == Rpc::Connect);
        bounded(&connects, SEC, CONNECTS_A_SECOND, "connects", list);
        bounded(&connects, SEC * 10, CONNECTS_IN_TEN, "connects", list);
        silent(record, &connects, list);
        // Each connect may bring a renewal; a grant; a read; a write. A rejected write is
        // repeated at half the attempt limit at the soonest.
        let renewals = times(record, registrar, |rpc| rpc == Rpc::LeaseKeepAlive);
        bounded(&renewals, SEC * 10, CONNECTS_IN_TEN + 40, "renewals", list);
        let grants = times(record, registrar, |rpc| rpc == Rpc::LeaseGrant);
        bounded(&grants, SEC * 10, CONNECTS_IN_TEN + 30, "grants", list);
        let writes = times(record, registrar, |rpc| rpc == Rpc::Txn);
        bounded(
            &writes,
            SEC * 10,
            2 * CONNECTS_IN_TEN + 90,
            "transactions",
            list,
        );
    }
}

fn times(record: &Record, registrar: usize, which: impl Fn(Rpc) -> bool) -> Vec<Instant> {
    record
        .ours(registrar)
        .filter(|call| which(call.rpc))
        .map(|call| call.at)
        .collect()
}

/// Never more than `most` within `window`.
fn bounded(
    times: &[Instant],
    window: Duration,
    most: usize,
    what: &str,
    list: &mut Vec<Violation>,
) {
    let storm = times
        .windows(most + 1)
        .find(|burst| burst[most] - burst[0] < window);
    if let Some(burst) = storm {
        let what = format!("more than {most} {what} within {window:?}");
        list.push(found(I8, burst[most], what));
    }
}

/// A silent etcd gets one attempt for each attempt limit.
fn silent(record: &Record, connects: &[Instant], list: &mut Vec<Violation>) {
    for (_, during) in record
        .unanswered
        .iter()
        .filter(|(member, _)| member.is_none())
    {
        let from = during.start + SEC;
        let Some(length) = during.end.min(record.end).checked_duration_since(from) else {
            continue;
        };
        let tries = connects
            .iter()
            .filter(|at| **at >= from && during.contains(at))
            .count();
        let most = length.as_secs_f64() / record.terms.attempt.as_secs_f64() + 3.0;
        if tries as f64 > most {
            let what = format!("{tries} connects in {length:?} of silence");
            list.push(found(I8, during.start, what));
        }
    }
}
