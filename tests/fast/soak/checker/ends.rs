//! I10 and I12: a stop ends, and no task or connection is left.

use super::super::record::Record;
use super::{I10, I12, Violation, found};
use std::time::Duration;

/// A health acknowledgement may take 50 ms; timers are a millisecond coarse.
const SLACK: Duration = Duration::from_millis(60);

pub fn check(record: &Record, list: &mut Vec<Violation>) {
    for (number, entry) in record.entries.iter().enumerate() {
        let Some(left) = entry.left else { continue };
        let ended = entry.ended().map_or(record.end, |(at, _)| at);
        let took = ended.saturating_duration_since(left);
        if took > record.terms.revoke_timeout + SLACK + record.frozen(left, ended) {
            let what = format!("entry {number} took {took:?} to end: {:?}", entry.ended());
            list.push(found(I10, left + took, what));
        }
    }
    let rest = &record.rest;
    if rest.tasks.1 > rest.tasks.0 || rest.connections.1 > rest.connections.0 {
        list.push(found(
            I12,
            record.end,
            format!("before and after: {rest:?}"),
        ));
    }
}
