//! [`Observer`]: what happens, told to the application as it happens.

use crate::isolated::isolated;
use crate::status::Status;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "discovery")]
use crate::discovery::channel::ConnectivityState;

/// Is told what a registrar, a discovery or a balanced channel does. Every method does nothing by default.
///
/// [`RegistrarBuilder::observer`](crate::RegistrarBuilder::observer) takes one, and so does the builder of a
/// discovery. The feature `metrics` has one that counts: `MetricsObserver`.
///
/// The methods are called by the tasks that do the work, outside of every lock. They must not block: a renewal
/// waits for them. A panic in one is contained, and says nothing more than what the panic hook prints. Nothing
/// is told of single requests, except of those that are sent again: the layer does not know of observers.
///
/// ```
/// use tonic_etcd::observer::{Observer, Transition};
///
/// #[derive(Debug)]
/// struct Page;
///
/// impl Observer for Page {
///     fn on_transition(&self, transition: &Transition<'_>) {
///         if let tonic_etcd::Status::Lost { reason, .. } = transition.to {
///             eprintln!("{:?}: {reason}", transition.services);
///         }
///     }
/// }
/// # let etcd = tonic_etcd::Etcd::new(["http://127.0.0.1:2379"]);
/// let builder = tonic_etcd::Registrar::builder(etcd).observer(Page);
/// ```
#[allow(unused_variables)]
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// A registration has another status.
    fn on_transition(&self, transition: &Transition<'_>) {}

    /// A renewal of the lease was acknowledged, or failed.
    fn on_renewal(&self, renewal: &Renewal<'_>) {}

    /// An attempt to connect to etcd ended.
    fn on_connection(&self, connection: &Connection<'_>) {}

    /// A transaction was applied, or failed. Called once for each reason there was to write, as far as that is
    /// known. One that was under way when its connection ended is not told of.
    fn on_write(&self, write: &Write<'_>) {}

    /// Discovery knows another number of instances.
    fn on_instances(&self, change: &InstancesChange<'_>) {}

    /// An endpoint of a balanced channel was added, has another state, or was removed.
    #[cfg(feature = "discovery")]
    #[cfg_attr(docsrs, doc(cfg(feature = "discovery")))]
    fn on_endpoint(&self, transition: &EndpointTransition<'_>) {}

    /// A call is sent again, to another endpoint: certainly no server has worked on it.
    fn on_resend(&self, resend: &Resend<'_>) {}
}

/// See [`Observer::on_transition`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Transition<'a> {
    /// The names of the service, one for each instance.
    pub services: &'a [String],
    /// The status of before; `None`: the registration is new.
    pub from: Option<&'a Status>,
    /// The status of now. It may be of the same kind as `from`, with another reason or revision.
    pub to: &'a Status,
}

/// See [`Observer::on_renewal`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Renewal<'a> {
    /// From when it was sent to when its answer, or its failure, was there.
    pub took: Duration,
    /// Why it failed, if it did.
    pub error: Option<&'a str>,
}

/// See [`Observer::on_connection`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Connection<'a> {
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
pub struct Write<'a> {
    /// How many keys of the transaction were to be written for this reason.
    pub keys: usize,
    /// Why they were.
    pub reason: WriteReason,
    /// Why the transaction failed, if it did. It is repeated.
    pub error: Option<&'a str>,
}

/// Why a key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum WriteReason {
    /// It was not in etcd before.
    #[default]
    New,
    /// [`Registration::update`](crate::Registration::update) changed its value.
    Updated,
    /// The lease that it was under is gone.
    LeaseLost,
    /// The last pause is over.
    Resumed,
    /// Another client wrote it.
    Overwritten,
    /// Another client deleted it.
    Deleted,
    /// After a connection was lost, etcd did not have what was written before.
    Differs,
    /// It is deleted: for a pause, or because its registration leaves while others stay.
    Withdrawn,
}

/// See [`Observer::on_instances`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct InstancesChange<'a> {
    /// The name of the service.
    pub service: &'a str,
    /// The numbers of before. The first change, from 0 to 0, is told when the discovery is built.
    pub from: Instances,
    /// The numbers of now; all are 0 when the discovery was dropped.
    pub to: Instances,
}

/// Numbers of instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Instances {
    /// Those that are shown, those that are missing in etcd included.
    pub found: usize,
    /// Keys that etcd does not have, and that are kept for the time being.
    pub missing: usize,
    /// Keys that are passed over: their values do not read, or there are too many.
    pub skipped: usize,
}

/// See [`Observer::on_endpoint`].
#[cfg(feature = "discovery")]
#[cfg_attr(docsrs, doc(cfg(feature = "discovery")))]
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct EndpointTransition<'a> {
    /// What the channel calls the service.
    pub service: &'a str,
    /// Where the endpoint is dialled.
    pub address: &'a str,
    /// The state of before; `None`: it was added.
    pub from: Option<&'a ConnectivityState>,
    /// The state of now; `None`: it was removed, or the channel was dropped.
    pub to: Option<&'a ConnectivityState>,
}

/// See [`Observer::on_resend`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Resend<'a> {
    /// What the channel calls the service.
    pub service: &'a str,
    /// How many endpoints were tried before.
    pub tried: usize,
    /// Why the last of them did not work on it.
    pub reason: &'a str,
}

/// The observers of one registrar, discovery or channel. Without any it costs a look at a length.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observers(Vec<Arc<dyn Observer>>);

// === impl Observer ===

impl<T: Observer + ?Sized> Observer for Arc<T> {
    fn on_transition(&self, transition: &Transition<'_>) {
        (**self).on_transition(transition);
    }

    fn on_renewal(&self, renewal: &Renewal<'_>) {
        (**self).on_renewal(renewal);
    }

    fn on_connection(&self, connection: &Connection<'_>) {
        (**self).on_connection(connection);
    }

    fn on_write(&self, write: &Write<'_>) {
        (**self).on_write(write);
    }

    fn on_instances(&self, change: &InstancesChange<'_>) {
        (**self).on_instances(change);
    }

    #[cfg(feature = "discovery")]
    fn on_endpoint(&self, transition: &EndpointTransition<'_>) {
        (**self).on_endpoint(transition);
    }

    fn on_resend(&self, resend: &Resend<'_>) {
        (**self).on_resend(resend);
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

    /// Tells each of them. Never panics. No lock may be held.
    pub(crate) fn tell(&self, tell: impl Fn(&dyn Observer)) {
        for observer in &self.0 {
            isolated(|| tell(&**observer));
        }
    }

    /// An attempt to connect to `endpoint` came to this.
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
        let connection = Connection {
            endpoint,
            took,
            error: error.as_deref(),
        };
        self.tell(|observer| observer.on_connection(&connection));
    }
}
