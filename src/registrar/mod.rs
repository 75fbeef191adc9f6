//! [`Registrar`]: reconciles etcd with the desired state.
//!
//! The registrar holds the set of keys that *should* be in etcd. One task makes etcd agree with
//! it, under one lease, as long as there are registrations. A restart of etcd, a loss of its data, a network that is cut, a
//! lease that somebody revokes and a freeze of the process are all handled as the end of a lease or of a connection.
//!
//! | file | |
//! |---|---|
//! | `builder.rs` | [`RegistrarBuilder`]: all settings, checked in one place |
//! | `registration.rs` | [`Registration`]: the handle |
//! | `lifecycle.rs` | the state that a registration shares with its server and its health services |
//! | `changing.rs` | changes of a registration |
//! | `draining.rs` | the entries that have ended and whose servers still run |
//! | `draft.rs` | the instances of one registration, with their keys and values |
//! | `entry.rs` | one registration, and its desired keys |
//! | `ids.rs` | the identifiers of entries and keys |
//! | `local_ip.rs` | the address of this machine, while its interfaces change |
//! | `on_conflict.rs` | [`OnConflict`]: what to do about a key of another lease |
//! | `pause.rs` | [`Pause`]: the guard that withholds keys |
//! | `reach.rs` | whether others can dial an address |
//! | `readiness.rs` | [`Readiness`]: when a server is ready to be announced |
//! | `probe.rs` | the task that runs its probe, and pauses all registrations while it fails |
//! | `registry.rs` | the entries that should exist; a handle that changes them wakes the worker |
//! | `report.rs`, `shown.rs` | publishes a status: to handles, log lines and observers; several values in one field of a line |
//! | `rivals.rs` | other clients that write our keys, each reported once a minute |
//! | `reconciler/` | every decision: events in, actions out; no I/O |
//! | `key_table/` | which key needs which request; part of the reconciler's state |
//! | `lease.rs`, `patience.rs` | until when a lease certainly lives; how long answers may take; pure |
//! | `worker.rs` | performs the actions and reports their results as events |
//! | `runtime_guard.rs` | ends all entries when the runtime drops the worker |
//! | `link.rs` | the connection in use, and another one beside it |
//! | `streams.rs` | the requests and streams on one connection |
//! | `keep_alive.rs` | the keep-alive stream on that connection |
//! | `ask.rs` | repeats a request that is not answered |
//! | `signals.rs` | SIGTERM and SIGINT cancel the shutdown tokens |
//! | `simulation/` | the reconciler on a model of etcd, in random order (tests only) |
//! | `address_changes.rs`, `slow_dns.rs`, `suspended.rs` | a registration on a fake etcd (tests only) |

#[cfg(test)]
#[cfg(feature = "test-util")]
mod address_changes;
mod ask;
mod builder;
mod changing;
mod draft;
#[cfg(feature = "introspection")]
mod draining;
mod entry;
mod ids;
mod keep_alive;
mod key_table;
mod lease;
pub(crate) mod lifecycle;
mod link;
mod local_ip;
mod on_conflict;
mod patience;
mod pause;
mod probe;
mod reach;
mod readiness;
mod reconciler;
pub(crate) mod registration;
mod registry;
mod report;
mod rivals;
mod runtime_guard;
mod shown;
#[cfg(feature = "signals")]
mod signals;
#[cfg(test)]
mod simulation;
#[cfg(test)]
#[cfg(feature = "test-util")]
mod slow_dns;
mod streams;
#[cfg(test)]
#[cfg(feature = "test-util")]
mod suspended;
mod worker;

pub use builder::RegistrarBuilder;
pub(crate) use entry::Entry;
#[cfg(feature = "introspection")]
pub(crate) use ids::EntryId;
pub use on_conflict::OnConflict;
#[cfg(feature = "introspection")]
pub(crate) use pause::check_reason;
pub use pause::{Pause, PauseError};
pub use readiness::Readiness;
pub(crate) use registry::Registry;
pub(crate) use report::stats;

use crate::error::RegisterError;
use crate::instance::Instance;
use crate::registrar::registration::Registration;
use probe::ReadinessProbe;
use std::fmt;
use std::sync::Arc;
use tokio_util::sync::DropGuard;

/// Registers instances in etcd and keeps them there.
///
/// Cheap to clone; all clones are the same registrar. Its registrations share one lease, one connection and one task.
/// Dropping it does not change its registrations.
#[derive(Clone)]
pub struct Registrar {
    registry: Arc<Registry>,
    probe: Option<Arc<ReadinessProbe>>,
    /// Wakes the worker when the last clone is dropped: no more registrations will be made.
    _open: Arc<DropGuard>,
}

// === impl Registrar ===

impl Registrar {
    fn new(registry: Registry, readiness: Option<Readiness>) -> Self {
        let open = registry.abandoned.clone().drop_guard();
        Self {
            registry: Arc::new(registry),
            probe: readiness.map(|readiness| Arc::new(ReadinessProbe::new(readiness))),
            _open: Arc::new(open),
        }
    }

    /// Registers one instance. Its keys are written once the server is announced: see [`Registration`].
    ///
    /// Call it in a tokio runtime with time and I/O, such as that of `#[tokio::main]`.
    ///
    /// # Errors
    ///
    /// [`RegisterError::Name`], [`RegisterError::Address`], [`RegisterError::KeyTooLong`] and
    /// [`RegisterError::ValueTooLarge`] for an instance that cannot be written, or that readers would skip,
    /// [`RegisterError::SameKey`] if another registration would write its key, [`RegisterError::Stopped`] after a shutdown,
    /// [`RegisterError::NoRuntime`] outside of a tokio runtime, [`RegisterError::Thread`] if a dedicated thread cannot be
    /// started.
    pub fn register(&self, instance: Instance) -> Result<Registration, RegisterError> {
        self.register_all([instance])
    }

    /// Registers one server under several service names, whose keys are put and deleted together.
    ///
    /// # Errors
    ///
    /// As [`register`](Self::register), and [`RegisterError::NoInstance`] for an empty list.
    pub fn register_all(
        &self,
        instances: impl IntoIterator<Item = Instance>,
    ) -> Result<Registration, RegisterError> {
        let (entry, first) = self.registry.add(instances.into_iter().collect())?;
        report::added(&self.registry, &entry);
        self.registry.touch(entry.id);
        if first {
            let started = worker::start(self.registry.clone());
            started.inspect_err(|_| self.registry.not_started(&entry))?;
        }
        if let Some(probe) = &self.probe {
            probe.start(&self.registry);
        }
        Ok(Registration::new(entry, self.registry.clone()))
    }

    #[cfg(feature = "introspection")]
    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Begins to deregister all registrations, as the [`shutdown_token`](RegistrarBuilder::shutdown_token) does.
    ///
    /// Idempotent; returns at once. [`Registration::ended`] resolves when a registration has ended, and returns how.
    pub fn shutdown(&self) {
        self.registry.stop();
    }

    /// Begins to deregister all registrations if that has not begun, and skips all waits.
    pub fn shutdown_now(&self) {
        self.registry.shutdown_now();
    }
}

impl fmt::Debug for Registrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrar")
            .field("registrations", &self.registry.count())
            .field("is_stopping", &self.registry.is_stopping())
            .finish_non_exhaustive()
    }
}
