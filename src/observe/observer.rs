//! [`Observer`]: callbacks of the application for each event.

use crate::observe::status::RegistrationStatus;
use crate::runtime::isolated::isolated;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "discovery")]
use crate::observe::connectivity::ConnectivityState;

/// Callbacks for the events of a registrar, a discovery or a balanced channel. By default every method does nothing.
///
/// [`RegistrarBuilder::observer`](crate::RegistrarBuilder::observer) takes one, and so does the builder of a
/// discovery. The feature `metrics` has one that records metrics: `MetricsObserver`.
///
/// The methods are called by the crate's tasks, without a lock: they may use all handles. They must not block, because
/// renewals wait for them, also with a dedicated thread. An observer with slow work sends it to a task of its own. A panic is
/// caught; only the panic hook prints it. There is no callback for single requests, except for those that are sent again.
///
/// ```
/// use tonic_etcd::observer::{Observer, StatusEvent};
///
/// #[derive(Debug)]
/// struct Page;
///
/// impl Observer for Page {
///     fn on_status(&self, event: &StatusEvent<'_>) {
///         if let tonic_etcd::RegistrationStatus::Lost { reason, .. } = event.to {
///             eprintln!("{:?}: {reason}", event.services);
///         }
///     }
/// }
/// # let etcd = tonic_etcd::Etcd::new(["http://127.0.0.1:2379"]);
/// let builder = tonic_etcd::Registrar::builder(etcd).observer(Page);
/// ```
#[allow(unused_variables)]
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// A registration has another status.
    fn on_status(&self, event: &StatusEvent<'_>) {}

    /// A renewal of the lease was acknowledged, failed, or has no answer in time. In the last case this is called again when
    /// the answer comes.
    fn on_renewal(&self, event: &RenewalEvent<'_>) {}

    /// An attempt to connect to etcd ended.
    fn on_connection(&self, event: &ConnectionEvent<'_>) {}

    /// A transaction was applied, or failed. Called once for each reason to write. Not called for a transaction that was
    /// under way when its connection ended.
    fn on_write(&self, event: &WriteEvent<'_>) {}

    /// The number of instances of a discovery changed.
    fn on_instances(&self, event: &InstancesEvent<'_>) {}

    /// An endpoint of a balanced channel was added, has another state, or was removed.
    #[cfg(feature = "discovery")]
    #[cfg_attr(docsrs, doc(cfg(feature = "discovery")))]
    fn on_endpoint(&self, event: &EndpointEvent<'_>) {}

    /// A call is sent again, to another endpoint: no server has processed it.
    fn on_resend(&self, event: &ResendEvent<'_>) {}
}

/// See [`Observer::on_status`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct StatusEvent<'a> {
    /// The names of the service, one for each instance.
    pub services: &'a [String],
    /// The previous status; `None`: the registration is new.
    pub from: Option<&'a RegistrationStatus>,
    /// The new status. It may be of the same kind as `from`, with another reason or revision.
    pub to: &'a RegistrationStatus,
}

/// See [`Observer::on_renewal`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RenewalEvent<'a> {
    /// The time from sending it to its answer or failure.
    pub took: Duration,
    /// Why it failed, if it did.
    pub error: Option<&'a str>,
}

/// See [`Observer::on_connection`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ConnectionEvent<'a> {
    /// The member of etcd, without user and password.
    pub endpoint: &'a str,
    /// How long the attempt took, authentication included.
    pub took: Duration,
    /// Why it failed, if it did.
    pub error: Option<&'a str>,
}

/// See [`Observer::on_write`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct WriteEvent<'a> {
    /// The number of keys of the transaction that are written for this reason.
    pub keys: usize,
    /// The reason.
    pub reason: WriteReason,
    /// Why the transaction failed, if it did. Then it is repeated.
    pub error: Option<&'a str>,
}

/// Why a key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum WriteReason {
    /// It was not in etcd before.
    #[default]
    New,
    /// [`Registration::update`](crate::Registration::update) changed the value, or the address of the machine changed.
    Updated,
    /// Its lease is gone.
    LeaseLost,
    /// The last pause is over.
    Resumed,
    /// Another client wrote it.
    Overwritten,
    /// Another client deleted it.
    Deleted,
    /// After a lost connection, etcd does not have the value that was written.
    Differs,
    /// It is deleted: for a pause, or because its registration ends while others stay.
    Withdrawn,
}

/// See [`Observer::on_instances`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct InstancesEvent<'a> {
    /// The name of the service.
    pub service: &'a str,
    /// The previous numbers. The first change, from 0 to 0, comes when the discovery is built.
    pub from: InstanceCounts,
    /// The new numbers; all are 0 when the discovery was dropped.
    pub to: InstanceCounts,
}

/// The numbers of instances of a discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct InstanceCounts {
    /// Instances in the set, including missing ones.
    pub found: usize,
    /// Instances that etcd does not have any more, and that are kept for a while.
    pub missing: usize,
    /// Keys that are skipped, because the value cannot be decoded or there are too many.
    pub skipped: usize,
}

/// See [`Observer::on_endpoint`].
#[cfg(feature = "discovery")]
#[cfg_attr(docsrs, doc(cfg(feature = "discovery")))]
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct EndpointEvent<'a> {
    /// The channel's name of the service.
    pub service: &'a str,
    /// Where the endpoint is dialled.
    pub address: &'a str,
    /// The previous state; `None`: it was added.
    pub from: Option<&'a ConnectivityState>,
    /// The new state; `None`: it was removed, or the channel was dropped.
    pub to: Option<&'a ConnectivityState>,
}

/// See [`Observer::on_resend`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ResendEvent<'a> {
    /// The channel's name of the service.
    pub service: &'a str,
    /// The number of endpoints that were tried before.
    pub tried: usize,
    /// Why the last of them did not process it.
    pub reason: &'a str,
}

/// The observers of one registrar, discovery or channel.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observers(Vec<Arc<dyn Observer>>);

// === impl Observer ===

impl<T: Observer + ?Sized> Observer for Arc<T> {
    fn on_status(&self, event: &StatusEvent<'_>) {
        (**self).on_status(event);
    }

    fn on_renewal(&self, event: &RenewalEvent<'_>) {
        (**self).on_renewal(event);
    }

    fn on_connection(&self, event: &ConnectionEvent<'_>) {
        (**self).on_connection(event);
    }

    fn on_write(&self, event: &WriteEvent<'_>) {
        (**self).on_write(event);
    }

    fn on_instances(&self, event: &InstancesEvent<'_>) {
        (**self).on_instances(event);
    }

    #[cfg(feature = "discovery")]
    fn on_endpoint(&self, event: &EndpointEvent<'_>) {
        (**self).on_endpoint(event);
    }

    fn on_resend(&self, event: &ResendEvent<'_>) {
        (**self).on_resend(event);
    }
}

// === impl Observers ===

impl Observers {
    pub(crate) fn add(&mut self, observer: impl Observer) {
        self.0.push(Arc::new(observer));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls each of them. Never panics. No lock may be held.
    pub(crate) fn notify(&self, call: impl Fn(&dyn Observer)) {
        for observer in &self.0 {
            isolated(|| call(&**observer));
        }
    }

    /// An attempt to connect to `endpoint` ended.
    pub(crate) fn connected<T, E: fmt::Display>(
        &self,
        endpoint: &str,
        took: Duration,
        result: &Result<T, E>,
    ) {
        if self.is_empty() {
            return;
        }
        let error = result.as_ref().err().map(E::to_string);
        let connection = ConnectionEvent {
            endpoint,
            took,
            error: error.as_deref(),
        };
        self.notify(|observer| observer.on_connection(&connection));
    }
}
