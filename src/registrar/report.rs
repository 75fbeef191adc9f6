//! Publishes the status of a registration: to its handles, to the log and to observers.
//!
//! Every log line names its service and its key.

use super::draft::Moved;
use super::entry::Entry;
use super::registry::Registry;
use super::rivals::{Conflict, Rival};
use super::shown::shown;
use crate::address::Address;
use crate::drain::Drain;
use crate::observe::observer::{Observers, StatusEvent, WriteEvent, WriteReason};
use crate::observe::stats::RegistrationStats;
use crate::observe::status::{Ended, Registered, RegistrationStatus};
use crate::observe::timestamp::Timestamp;
use crate::runtime::isolated::isolated;
use crate::runtime::logging::rounded;
use std::sync::Arc;
use std::time::Duration;

/// The service and key of a log line.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) service: String,
    pub(super) key: String,
}

/// The statistics of a registration now.
pub(crate) fn stats(registry: &Registry, entry: &Entry) -> RegistrationStats {
    let (status, since) = entry.lifecycle.status.get_since();
    RegistrationStats {
        services: entry.names(),
        since,
        pauses: entry.pauses(),
        in_flight: entry.lifecycle.in_flight(),
        keys: entry.keys(),
        formats: registry.config.formats.names(),
        revision: status.registered().map(|registered| registered.revision),
        etcd: registry.stats.get(),
        status,
    }
}

/// Publishes a status. It is logged if its kind has changed.
///
/// Never panics, whatever the subscriber of the log and the observers do.
pub(super) fn publish(registry: &Registry, entry: &Entry, next: Arc<RegistrationStatus>) {
    let observers = &registry.config.observers;
    added(registry, entry);
    if let Some(registered) = next.registered() {
        entry.set_keys(&registered.keys);
    }
    let Some(last) = entry.lifecycle.publish(next.clone()) else {
        return;
    };
    // Not under a lock: the subscriber may be slow, and may read the status.
    if std::mem::discriminant(&*last) != std::mem::discriminant(&*next) {
        let log = || log(registry, &Subject::of(entry), &last, &next);
        isolated(|| entry.lifecycle.in_span(log));
    }
    if !observers.is_empty() {
        let transition = StatusEvent {
            services: &entry.names(),
            from: Some(&last),
            to: &next,
        };
        observers.notify(|observer| observer.on_status(&transition));
    }
}

/// Calls observers with the first status of the entry, unless another thread has done that. The worker finds the entry
/// afterwards, so that this status comes before any other one.
pub(super) fn added(registry: &Registry, entry: &Entry) {
    let observers = &registry.config.observers;
    if observers.is_empty() || !entry.begin_observation() {
        return;
    }
    let transition = StatusEvent {
        services: &entry.names(),
        from: None,
        to: &RegistrationStatus::Registering { reason: None },
    };
    observers.notify(|observer| observer.on_status(&transition));
}

/// Another client wrote a key of this entry, or this entry took over its key.
pub(super) fn rival(entry: &Entry, rival: &Rival) {
    let service = entry.service();
    let Rival {
        conflict,
        key,
        ours,
        lease,
        value,
    } = rival;
    let (rival, remedy) = (format!("{lease:016x}"), remedy(entry, key));
    isolated(|| {
        entry.lifecycle.in_span(|| {
            crate::runtime::logging::warn!(
                %service, %key, lease = format_args!("{ours:016x}"), %rival, %value, %remedy,
                "{}", match conflict {
                    Conflict::TakenBack => "another client took the key over, taking it back",
                    Conflict::Left => "another client took the key over, leaving it",
                    Conflict::TakenOver => "took the key over from another client",
                },
            );
        });
    });
}

/// What to change if the rival is another server. Containers that share the host's network may all have process id 1:
/// then the default key is the same for all of them.
fn remedy(entry: &Entry, key: &str) -> &'static str {
    let draft = entry.draft();
    let is_distinct = draft.addressed().any(|(instance, address)| {
        let port = address.map(|address| address.port().to_string());
        let addr = address.map(ToString::to_string);
        let parts = [Some(instance.id()), port.as_deref(), addr.as_deref()];
        key.split('/').any(|segment| parts.contains(&Some(segment)))
    });
    match is_distinct {
        true => "if it is another server: give one of the two another address or id",
        false => "if it is another server: put {addr} or {id} into the key template",
    }
}

/// The address of this machine that was advertised is gone, and another one is advertised instead.
pub(super) fn address_changed(entry: &Entry, Moved { from, to }: &Moved) {
    let Subject { service, key } = Subject::of(entry);
    isolated(|| {
        entry.lifecycle.in_span(|| {
            crate::runtime::logging::warn!(%service, %key, %from, %to, "the address of this machine changed, moving the key");
        });
    });
}

/// An address that the user gave is on no interface of this machine any more.
pub(super) fn address_is_gone(entry: &Entry, address: &Address) {
    let Subject { service, key } = Subject::of(entry);
    isolated(|| {
        entry.lifecycle.in_span(|| {
            crate::runtime::logging::warn!(%service, %key, %address, "this machine does not have the given address any more, keeping it");
        });
    });
}

/// Reports a transaction to observers.
pub(super) fn wrote(
    observers: &Observers,
    reasons: Vec<(WriteReason, usize)>,
    error: Option<&str>,
) {
    for (reason, keys) in reasons {
        let write = WriteEvent {
            keys,
            reason,
            error,
        };
        observers.notify(|observer| observer.on_write(&write));
    }
}

/// The registration has ended with this final status. A task runs the drain.
pub(super) fn ended(registry: &Registry, entry: &Entry, last: RegistrationStatus) {
    publish(registry, entry, Arc::new(last));
    let (subject, lifecycle) = (Subject::of(entry), entry.lifecycle.clone());
    let begun = lifecycle.drain().clone();
    let begin = subject.clone();
    lifecycle.drain_in_background(
        async move {
            begun.begun.cancelled().await;
            draining(&begin, &begun);
        },
        move |drain, cut| drained(&subject, drain, cut),
    );
}

fn draining(Subject { service, key }: &Subject, drain: &Drain) {
    if drain.has_server() {
        let in_flight = drain.in_flight.count();
        crate::runtime::logging::info!(%service, %key, in_flight, "draining");
    }
}

fn drained(Subject { service, key }: &Subject, drain: &Drain, cut: usize) {
    match cut {
        _ if !drain.has_server() => {}
        0 => crate::runtime::logging::info!(%service, %key, in_flight = 0, "drained"),
        _ => crate::runtime::logging::warn!(
            %service, %key, in_flight = cut,
            "drain_timeout is over, the requests in flight end with UNAVAILABLE",
        ),
    }
}

fn log(
    registry: &Registry,
    subject: &Subject,
    last: &RegistrationStatus,
    next: &RegistrationStatus,
) {
    let Subject { service, key } = subject;
    match next {
        RegistrationStatus::Registering { .. } => {}
        RegistrationStatus::Registered(new) => log_registered(subject, last, new),
        RegistrationStatus::Suspect {
            registered, reason, ..
        } => {
            let renewed = registry.stats.get().renewal_acknowledged;
            let confirmed = renewed.map_or(registered.since, |at| at.max(registered.since));
            let unconfirmed_for = rounded(confirmed.elapsed());
            let expiry = registry.lease_expiry.get().map(Timestamp::at);
            let expires_in = rounded(expiry.map_or(Duration::ZERO, |at| at.remaining()));
            crate::runtime::logging::warn!(
                %service, %key, %reason, ?unconfirmed_for, ?expires_in,
                "etcd is out of reach, the registration still holds",
            );
        }
        RegistrationStatus::Lost { reason, .. } => {
            crate::runtime::logging::warn!(%service, %key, %reason, "registration lost, trying again");
        }
        RegistrationStatus::Yielding { to_lease } => crate::runtime::logging::warn!(
            %service, %key, lease = format_args!("{to_lease:016x}"),
            "another lease holds the key, leaving it",
        ),
        RegistrationStatus::Paused { reasons, .. } => {
            crate::runtime::logging::info!(%service, %key, ?reasons, "paused, the keys are withheld");
        }
        RegistrationStatus::Deregistering => {
            crate::runtime::logging::info!(%service, %key, "deregistering")
        }
        RegistrationStatus::Ended(Ended::Deregistered) => {
            crate::runtime::logging::info!(%service, %key, "deregistered")
        }
        RegistrationStatus::Ended(Ended::LeftToExpire { ttl, reason }) => {
            crate::runtime::logging::warn!(
                %service, %key, ?ttl, %reason, "could not deregister, the key expires with its lease",
            )
        }
    }
}

fn log_registered(Subject { service, key }: &Subject, last: &RegistrationStatus, new: &Registered) {
    let (lease, revision) = (format_args!("{:016x}", new.lease), new.revision);
    let (message, since) = match last {
        RegistrationStatus::Suspect { since, .. } => ("registration confirmed", since),
        RegistrationStatus::Lost { since, .. } => ("registered again", since),
        _ => return crate::runtime::logging::info!(%service, %key, %lease, revision, "registered"),
    };
    let after = rounded(since.elapsed());
    crate::runtime::logging::info!(%service, %key, %lease, revision, ?after, "{message}");
}

// === impl Subject ===

impl Subject {
    pub(super) fn of(entry: &Entry) -> Self {
        let keys = entry.keys();
        Self {
            service: entry.service(),
            key: shown(keys.first(), keys.len()),
        }
    }
}
