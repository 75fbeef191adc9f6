//! The events around a violation: acts, requests, changes and statuses in one timeline.

use super::super::record::Record;
use crate::support::fake::Rpc;
use std::fmt::Write as _;
use tokio::time::Instant;
use tonic_etcd::RegistrationStatus;

const BEFORE: usize = 40;
const AFTER: usize = 4;

pub fn around(record: &Record, at: Instant) -> String {
    let mut events: Vec<(Instant, String)> = record.marks.clone();
    for call in &record.calls {
        let applied = if call.applied { "" } else { " (not applied)" };
        let keys = match call.rpc {
            Rpc::Watch => format!(" {:?} from {}", call.reads, call.revision),
            _ => format!(" puts {:?} lease {}", call.puts, call.lease),
        };
        events.push((
            call.at,
            format!(
                "  {:?} {}#{}{keys}{applied}",
                call.rpc, call.member, call.connection
            ),
        ));
    }
    for change in &record.changes {
        events.push((
            change.at,
            format!("    {} = {:?} @{}", change.key, change.put, change.revision),
        ));
    }
    for (number, entry) in record.entries.iter().enumerate() {
        for (at, status) in &entry.statuses {
            events.push((*at, format!("      entry {number}: {}", short(status))));
        }
    }
    events.sort_by_key(|(at, _)| *at);
    // Of many renewals in a row only the last one is shown.
    let is_renewal = |what: &str| what.starts_with("  LeaseKeepAlive") && !what.ends_with(')');
    let rows: Vec<bool> = events
        .windows(2)
        .map(|w| is_renewal(&w[0].1) && is_renewal(&w[1].1))
        .collect();
    let mut rows = rows.into_iter();
    events.retain(|_| !rows.next().unwrap_or(false));
    let here = events.partition_point(|(when, _)| *when <= at);
    let mut text = String::new();
    for (when, what) in &events[here.saturating_sub(BEFORE)..(here + AFTER).min(events.len())] {
        let when = when.saturating_duration_since(record.start).as_secs_f64();
        let _ = writeln!(text, "  {when:>10.3} {}", brief(what));
    }
    text
}

fn short(status: &RegistrationStatus) -> String {
    match status {
        RegistrationStatus::Registered(registered) => {
            format!("Registered under {}", registered.lease)
        }
        RegistrationStatus::Suspect {
            registered, reason, ..
        } => format!("Suspect under {}: {reason}", registered.lease),
        other => format!("{other:?}"),
    }
}

fn brief(text: &str) -> String {
    text.chars().take(220).collect()
}
