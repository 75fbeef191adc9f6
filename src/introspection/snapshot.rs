//! The message of a registration: its current state, bounded.

use super::pb;
use super::sources::Position;
use crate::address::Address;
use crate::drain::{Drain, DrainTimeouts};
use crate::observe::stats::RegistrationStats;
use crate::observe::status::{Ended, RegistrationStatus};
use crate::observe::timestamp::Timestamp;
use crate::registrar::{Entry, Registry, stats};
use crate::runtime::escaped::Escaped;
use std::time::Duration;

/// The most instances, keys and reasons of one registration in a message.
const MOST: usize = 64;
/// The longest text of an error or a reason, in bytes.
const TEXT_BYTES: usize = 512;
/// The longest key, in bytes. A key has a prefix, and segments of at most 255 bytes.
const KEY_BYTES: usize = 1024;

/// The message of a registration now.
pub(super) fn registration(
    position: Position,
    registry: &Registry,
    entry: &Entry,
) -> pb::Registration {
    let stats = stats(registry, entry);
    let registered = stats.status.registered();
    let mut instances = entry.map_instances(|instance, address| pb::Instance {
        service: key(instance.name()),
        id: key(instance.id()),
        address: address.map_or_else(String::new, Address::to_string),
    });
    let instances_total = count(instances.len());
    instances.truncate(MOST);
    let phase = phase(&stats.status, entry.lifecycle.server());
    let revoke = registry.config.revoke_timeout;
    let ends = ends(phase, stats.since, revoke, registry.config.drain);
    pb::Registration {
        id: position.to_string(),
        instances,
        instances_total,
        keys: stats.keys.iter().take(MOST).map(|it| key(it)).collect(),
        keys_total: count(stats.keys.len()),
        lease: registered.map_or(0, |registered| registered.lease),
        revision: stats.revision.unwrap_or(0),
        state: state(&stats.status).into(),
        reason: reason(&stats.status),
        state_age_ms: age_ms(stats.since),
        pauses: pauses(&stats),
        in_flight: stats.in_flight as u64,
        shutdown: phase.into(),
        shutdown_ends_in_ms: ends.map(left_ms),
        formats: stats.formats,
    }
}

/// The phase of a server's shutdown.
pub(super) fn phase(status: &RegistrationStatus, server: Option<&Drain>) -> pb::ShutdownPhase {
    match status {
        _ if server.is_some_and(Drain::is_begun) => pb::ShutdownPhase::Draining,
        RegistrationStatus::Deregistering => pb::ShutdownPhase::Deregistering,
        status if status.is_final() => pb::ShutdownPhase::Delay,
        _ => pb::ShutdownPhase::Unspecified,
    }
}

/// The latest end of a phase; `since` is when its status began.
fn ends(
    phase: pb::ShutdownPhase,
    since: Timestamp,
    revoke: Duration,
    drain: DrainTimeouts,
) -> Option<Timestamp> {
    let limit = match phase {
        pb::ShutdownPhase::Unspecified => return None,
        pb::ShutdownPhase::Deregistering => revoke,
        pb::ShutdownPhase::Delay => drain.deregistration_delay,
        pb::ShutdownPhase::Draining => drain.deregistration_delay.saturating_add(drain.drain),
    };
    since.checked_add(limit)
}

fn state(status: &RegistrationStatus) -> pb::RegistrationState {
    match status {
        RegistrationStatus::Registering { .. } => pb::RegistrationState::Registering,
        RegistrationStatus::Registered(_) => pb::RegistrationState::Registered,
        RegistrationStatus::Suspect { .. } => pb::RegistrationState::Suspect,
        RegistrationStatus::Lost { .. } => pb::RegistrationState::Lost,
        RegistrationStatus::Yielding { .. } => pb::RegistrationState::Yielding,
        RegistrationStatus::Paused { .. } => pb::RegistrationState::Paused,
        RegistrationStatus::Deregistering => pb::RegistrationState::Deregistering,
        RegistrationStatus::Ended(Ended::Deregistered) => pb::RegistrationState::Deregistered,
        RegistrationStatus::Ended(Ended::LeftToExpire { .. }) => {
            pb::RegistrationState::LeftToExpire
        }
    }
}

fn reason(status: &RegistrationStatus) -> String {
    match status {
        RegistrationStatus::Registering { reason } => {
            reason.as_deref().map_or_else(String::new, text)
        }
        RegistrationStatus::Suspect { reason, .. } | RegistrationStatus::Lost { reason, .. } => {
            text(reason)
        }
        RegistrationStatus::Yielding { to_lease } => format!("lease {to_lease:016x} holds the key"),
        RegistrationStatus::Ended(Ended::LeftToExpire { ttl, reason }) => {
            format!("within {ttl:?}: {}", text(reason))
        }
        RegistrationStatus::Registered(_)
        | RegistrationStatus::Paused { .. }
        | RegistrationStatus::Deregistering
        | RegistrationStatus::Ended(Ended::Deregistered) => String::new(),
    }
}

/// The reasons of the pauses, with that of the readiness probe.
fn pauses(stats: &RegistrationStats) -> Vec<String> {
    let reasons = match &stats.status {
        RegistrationStatus::Paused { reasons, .. } => &reasons[..],
        _ => &stats.pauses[..],
    };
    reasons.iter().take(MOST).map(|it| text(it)).collect()
}

pub(super) fn text(text: &str) -> String {
    Escaped::at_most(text, TEXT_BYTES).to_string()
}

pub(super) fn key(key: &str) -> String {
    Escaped::at_most(key, KEY_BYTES).to_string()
}

pub(super) fn age_ms(at: Timestamp) -> u64 {
    ms(at.elapsed())
}

pub(super) fn left_ms(until: Timestamp) -> u64 {
    ms(until.remaining())
}

pub(super) fn ms(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

fn count(len: usize) -> u32 {
    len.try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn each_phase_of_a_shutdown_ends_after_its_own_limit() {
        let drain = DrainTimeouts {
            deregistration_delay: 2 * SEC,
            drain: 30 * SEC,
        };
        let since = Timestamp::now();
        let end = |phase| ends(phase, since, SEC, drain).map(|end| end.remaining());
        assert_eq!(end(pb::ShutdownPhase::Unspecified), None);
        assert_eq!(end(pb::ShutdownPhase::Deregistering), Some(SEC));
        assert_eq!(end(pb::ShutdownPhase::Delay), Some(2 * SEC));
        assert_eq!(end(pb::ShutdownPhase::Draining), Some(32 * SEC));
        let unbounded = DrainTimeouts {
            deregistration_delay: SEC,
            drain: Duration::MAX,
        };
        let phase = pb::ShutdownPhase::Draining;
        assert_eq!(ends(phase, since, SEC, unbounded), None);
    }

    #[test]
    fn texts_are_one_line_and_bounded() {
        assert_eq!(text("a\nb\x1b"), r"a\nb\u{1b}");
        assert!(text(&"x".repeat(1_000_000)).len() <= TEXT_BYTES);
        assert!(key(&"x".repeat(1_000_000)).len() <= KEY_BYTES);
    }
}
