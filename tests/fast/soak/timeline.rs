//! The events around a violation: acts, requests, changes and statuses in one timeline.

use super::world::World;
use crate::support::fake::Rpc;
use tokio::time::Instant;
use tonic_etcd::RegistrationStatus;

const BEFORE: usize = 40;
const AFTER: usize = 4;
const WIDTH: usize = 220;

pub fn around(world: &World, at: Instant) -> String {
    let mut events = world.marks.lock().unwrap().clone();
    for call in &world.calls {
        let applied = if call.applied { "" } else { " (not applied)" };
        let keys = match call.rpc {
            Rpc::Watch => format!("{:?} from {}", call.reads, call.revision),
            _ => format!("puts {:?} lease {}", call.puts, call.lease),
        };
        let (rpc, member, connection) = (call.rpc, &call.member, call.connection);
        let what = format!("  {rpc:?} {member}#{connection} {keys}{applied}");
        events.push((call.at, what));
    }
    for change in &world.changes {
        let what = format!("    {} = {:?} @{}", change.key, change.put, change.revision);
        events.push((change.at, what));
    }
    for (number, entry) in world.entries.iter().enumerate() {
        for (at, status) in &*entry.statuses.lock().unwrap() {
            let shown = match status {
                RegistrationStatus::Registered(it) => format!("Registered under {}", it.lease),
                other => format!("{other:?}"),
            };
            events.push((*at, format!("      entry {number}: {shown}")));
        }
    }
    events.sort_by_key(|(at, _)| *at);
    // Of many renewals in a row only the last one is shown.
    let is_renewal = |what: &str| what.starts_with("  LeaseKeepAlive") && !what.ends_with(')');
    let repeats = events
        .windows(2)
        .map(|w| is_renewal(&w[0].1) && is_renewal(&w[1].1));
    let mut repeats = Vec::from_iter(repeats).into_iter();
    events.retain(|_| !repeats.next().unwrap_or(false));
    let here = events.partition_point(|(when, _)| *when <= at);
    let shown = &events[here.saturating_sub(BEFORE)..(here + AFTER).min(events.len())];
    let lines = shown.iter().map(|(when, what)| {
        let when = when.saturating_duration_since(world.start).as_secs_f64();
        let what: String = what.chars().take(WIDTH).collect();
        format!("  {when:>10.3} {what}\n")
    });
    lines.collect()
}
