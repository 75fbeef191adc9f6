//! [`MetricsObserver`]: an [`Observer`] that records metrics on the [`metrics`](https://docs.rs/metrics) facade.
//!
//! ```no_run
//! use tonic_etcd::metrics::MetricsObserver;
//! use tonic_etcd::{Etcd, Registrar};
//!
//! # fn f() -> Result<(), tonic_etcd::BuildError> {
//! // The recorder first: PrometheusBuilder::new().install(), for example.
//! let registrar = Registrar::builder(Etcd::new(["http://127.0.0.1:2379"]))
//!     .observer(MetricsObserver::new())
//!     .build()?;
//! # Ok(())
//! # }
//! ```
//!
//! [The manual](crate::manual::metrics) lists the metrics with their units and labels.

use crate::observe::observer::{
    ConnectionEvent, InstancesEvent, Observer, RenewalEvent, StatusEvent, WriteEvent,
};
use crate::observe::status::{Ended, RegistrationStatus};
use crate::runtime::lock::Lock;
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

#[cfg(feature = "discovery")]
use crate::observe::connectivity::ConnectivityState;
#[cfg(feature = "discovery")]
use crate::observe::observer::{EndpointEvent, ResendEvent};

/// An [`Observer`] that records metrics; see the [module](self). Clones share their handles.
///
/// Install the recorder first. Each handle is made once, by the first event of its service, and a handle that is made without
/// a recorder never records anything. Labels are the name of the service, states and results, never an address.
///
/// Gauges are sums: two registrations of one service in one process both count in `tonic_etcd_registration_state`. So add a
/// `MetricsObserver` only once to a registrar or discovery.
#[derive(Clone)]
pub struct MetricsObserver(Arc<Handles>);

struct Handles {
    renewals: Results,
    renewal_duration: Histogram,
    connections: Results,
    writes: Results,
    registrations: ByService<Registrations>,
    instances: ByService<[Gauge; INSTANCES.len()]>,
    #[cfg(feature = "discovery")]
    channels: ByService<Channels>,
}

/// A counter of successes and one of failures.
struct Results {
    ok: Counter,
    error: Counter,
}

/// The handles of one service: the registrations in each state, and the changes to each state.
struct Registrations {
    states: [Gauge; STATES.len()],
    transitions: [Counter; STATES.len()],
}

/// The handles of one service's channels.
#[cfg(feature = "discovery")]
struct Channels {
    endpoints: [Gauge; ENDPOINTS.len()],
    resent: Counter,
}

/// Handles for each service, made at its first event.
struct ByService<T>(Lock<HashMap<String, Arc<T>>>);

const STATES: [&str; 8] = [
    "registering",
    "registered",
    "suspect",
    "lost",
    "yielding",
    "paused",
    "deregistering",
    "ended",
];
const INSTANCES: [&str; 3] = ["found", "missing", "skipped"];
#[cfg(feature = "discovery")]
const ENDPOINTS: [&str; 4] = ["idle", "connecting", "ready", "transient_failure"];

// === impl MetricsObserver ===

impl MetricsObserver {
    /// Describes the metrics to the current recorder.
    #[must_use]
    pub fn new() -> Self {
        describe();
        Self(Arc::new(Handles {
            renewals: Results::new("tonic_etcd_renewals_total"),
            renewal_duration: histogram!("tonic_etcd_renewal_duration_seconds"),
            connections: Results::new("tonic_etcd_connections_total"),
            writes: Results::new("tonic_etcd_writes_total"),
            registrations: ByService::default(),
            instances: ByService::default(),
            #[cfg(feature = "discovery")]
            channels: ByService::default(),
        }))
    }
}

impl Default for MetricsObserver {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MetricsObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsObserver").finish_non_exhaustive()
    }
}

impl Observer for MetricsObserver {
    fn on_status(&self, transition: &StatusEvent<'_>) {
        let (from, to) = (transition.from.map(state), state(transition.to));
        if from == Some(to) {
            return;
        }
        for service in transition.services {
            let handles = self.0.registrations.get(service, Registrations::new);
            if let Some(from) = from {
                handles.states[from].decrement(1.0);
            }
            handles.states[to].increment(1.0);
            handles.transitions[to].increment(1);
        }
    }

    fn on_renewal(&self, renewal: &RenewalEvent<'_>) {
        self.0.renewals.count(1, renewal.error);
        self.0.renewal_duration.record(renewal.took);
    }

    fn on_connection(&self, connection: &ConnectionEvent<'_>) {
        self.0.connections.count(1, connection.error);
    }

    fn on_write(&self, write: &WriteEvent<'_>) {
        self.0.writes.count(write.keys, write.error);
    }

    fn on_instances(&self, change: &InstancesEvent<'_>) {
        let (from, to) = (change.from, change.to);
        let make = |service: &str| gauges("tonic_etcd_discovery_instances", service, INSTANCES);
        let handles = self.0.instances.get(change.service, make);
        let pairs = [
            (from.found, to.found),
            (from.missing, to.missing),
            (from.skipped, to.skipped),
        ];
        for (gauge, (from, to)) in handles.iter().zip(pairs) {
            gauge.increment(to as f64 - from as f64);
        }
    }

    #[cfg(feature = "discovery")]
    fn on_endpoint(&self, transition: &EndpointEvent<'_>) {
        let handles = self.0.channels.get(transition.service, Channels::new);
        if let Some(from) = transition.from {
            handles.endpoints[connectivity(from)].decrement(1.0);
        }
        if let Some(to) = transition.to {
            handles.endpoints[connectivity(to)].increment(1.0);
        }
    }

    #[cfg(feature = "discovery")]
    fn on_resend(&self, resend: &ResendEvent<'_>) {
        let handles = self.0.channels.get(resend.service, Channels::new);
        handles.resent.increment(1);
    }
}

/// The index of a status in [`STATES`].
fn state(status: &RegistrationStatus) -> usize {
    match status {
        RegistrationStatus::Registering { .. } => 0,
        RegistrationStatus::Registered(_) => 1,
        RegistrationStatus::Suspect { .. } => 2,
        RegistrationStatus::Lost { .. } => 3,
        RegistrationStatus::Yielding { .. } => 4,
        RegistrationStatus::Paused { .. } => 5,
        RegistrationStatus::Deregistering => 6,
        RegistrationStatus::Ended(Ended::Deregistered)
        | RegistrationStatus::Ended(Ended::LeftToExpire { .. }) => 7,
    }
}

/// The index of a state in [`ENDPOINTS`].
#[cfg(feature = "discovery")]
fn connectivity(state: &ConnectivityState) -> usize {
    match state {
        ConnectivityState::Idle => 0,
        ConnectivityState::Connecting => 1,
        ConnectivityState::Ready => 2,
        ConnectivityState::TransientFailure { .. } => 3,
    }
}

/// A gauge for each state, all of them 0 at first.
fn gauges<const N: usize>(
    name: &'static str,
    service: &str,
    states: [&'static str; N],
) -> [Gauge; N] {
    states.map(|state| {
        let gauge = gauge!(name, "service" => service.to_owned(), "state" => state);
        gauge.increment(0.0);
        gauge
    })
}

fn describe() {
    describe_gauge!(
        "tonic_etcd_registration_state",
        "Registrations of the service in this state"
    );
    describe_counter!(
        "tonic_etcd_registration_transitions_total",
        "Changes to this state"
    );
    describe_counter!("tonic_etcd_renewals_total", "Renewals of a lease");
    describe_histogram!(
        "tonic_etcd_renewal_duration_seconds",
        Unit::Seconds,
        "Time from sending a renewal to its answer or failure"
    );
    describe_counter!(
        "tonic_etcd_connections_total",
        "Attempts to connect to etcd"
    );
    describe_counter!(
        "tonic_etcd_writes_total",
        "Keys written or deleted, and tries to do so"
    );
    describe_gauge!(
        "tonic_etcd_discovery_instances",
        "Instances of the service in this state"
    );
    describe_gauge!(
        "tonic_etcd_endpoints",
        "Endpoints of the service's channels in this state"
    );
    describe_counter!(
        "tonic_etcd_calls_resent_total",
        "Calls sent again, to another endpoint"
    );
}

// === impl Results ===

impl Results {
    fn new(name: &'static str) -> Self {
        let made = |result| {
            let counter = counter!(name, "result" => result);
            counter.increment(0);
            counter
        };
        Self {
            ok: made("ok"),
            error: made("error"),
        }
    }

    fn count(&self, by: usize, error: Option<&str>) {
        match error {
            None => &self.ok,
            Some(_) => &self.error,
        }
        .increment(by as u64);
    }
}

// === impl Registrations ===

impl Registrations {
    fn new(service: &str) -> Self {
        Self {
            states: gauges("tonic_etcd_registration_state", service, STATES),
            transitions: STATES.map(|state| {
                let name = "tonic_etcd_registration_transitions_total";
                counter!(name, "service" => service.to_owned(), "to" => state)
            }),
        }
    }
}

// === impl Channels ===

#[cfg(feature = "discovery")]
impl Channels {
    fn new(service: &str) -> Self {
        let resent = counter!("tonic_etcd_calls_resent_total", "service" => service.to_owned());
        // Without a series before it, `increase()` would not see the first increment.
        resent.increment(0);
        Self {
            endpoints: gauges("tonic_etcd_endpoints", service, ENDPOINTS),
            resent,
        }
    }
}

// === impl ByService ===

impl<T> ByService<T> {
    fn get(&self, service: &str, make: impl FnOnce(&str) -> T) -> Arc<T> {
        let found = self.0.lock().get(service).cloned();
        found.unwrap_or_else(|| {
            // Not under the lock: the recorder is the application's code.
            let made = Arc::new(make(service));
            let mut handles = self.0.lock();
            handles.entry(service.to_owned()).or_insert(made).clone()
        })
    }
}

impl<T> Default for ByService<T> {
    fn default() -> Self {
        Self(Lock::default())
    }
}
