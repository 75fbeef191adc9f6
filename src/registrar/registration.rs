//! [`Registration`]: the handle.

use crate::drain::in_flight::InFlightGuard;
use crate::error::{AddressError, RegisterError, Stopped};
use crate::instance::Instance;
use crate::observe::stats::RegistrationStats;
use crate::observe::status::{Ended, Registered, RegistrationStatus, StatusWatch};
use crate::registrar::lifecycle::Lifecycle;
use crate::registrar::{Entry, Pause, PauseError, Registry, stats};
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

/// A registration: one server, under one or more service names.
///
/// It exists while a handle, a [layer](Self::layer), a service or a [listener](Self::incoming) of it
/// exists. Services are those that the layer makes, and the [health service](Self::health_service): the server that
/// owns them keeps the registration alive. It is deregistered on request, when its listener closes, or when the last
/// of them is dropped. In the last case there is no deregistration delay and no drain timeout.
///
/// Cheap to clone; all clones are handles of the same registration.
///
/// # How it appears
///
/// Once its address is known *and* its server accepts connections there. There are four ways:
///
/// * [`serve_registered`](crate::ServeRegistered::serve_registered), which does everything;
/// * [`incoming`](Self::incoming) and [`drain_signal`](Self::drain_signal), with a call of
///   `serve_with_incoming_shutdown`;
/// * [`layer`](Self::layer) alone, if the instance has an explicit
///   [address](Instance::with_address): tonic applies layers after it has bound its listener;
/// * [`announce`](Self::announce), for servers that are not tonic's.
///
/// # How it leaves
///
/// When the registrar's shutdown token is cancelled, or [`deregister`](Self::deregister) is
/// called:
///
/// 1. Health says `NOT_SERVING`, then the keys are deleted.
/// 2. The server keeps serving for the deregistration delay.
/// 3. [`drain_signal`](Self::drain_signal) resolves, and requests in flight finish.
/// 4. After the drain timeout, the requests that are left are ended.
#[derive(Clone)]
#[must_use = "when the last handle, layer, service and listener are dropped, this deregisters at once"]
pub struct Registration {
    handle: Arc<Handle>,
}

struct Handle {
    entry: Arc<Entry>,
    shared: Arc<Registry>,
}

// === impl Registration ===

impl Registration {
    pub(crate) fn new(entry: Arc<Entry>, shared: Arc<Registry>) -> Self {
        Self {
            handle: Arc::new(Handle { entry, shared }),
        }
    }

    /// The status now.
    #[must_use]
    pub fn status(&self) -> RegistrationStatus {
        self.lifecycle().status.get()
    }

    /// A watch of the status.
    #[must_use]
    pub fn watch(&self) -> StatusWatch {
        self.lifecycle().status.watch()
    }

    /// Waits until every key is in etcd. Serving does not require this.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the registration ends first.
    pub async fn registered(&self) -> Result<Registered, Stopped> {
        let mut watch = self.watch();
        match watch
            .wait_for(|s| matches!(s, RegistrationStatus::Registered(_)))
            .await
        {
            Some(RegistrationStatus::Registered(registered)) => Ok(registered),
            _ => Err(Stopped),
        }
    }

    /// Waits until the registration has ended, and says how.
    ///
    /// The server may still be draining then. Cancel safe.
    pub async fn ended(&self) -> Ended {
        ended(self.lifecycle()).await
    }

    /// Changes value, version, weight or metadata in place: the same keys, the same lease.
    ///
    /// `change` is called once for each instance, and again if there was another change meanwhile. It may use all
    /// handles, but not change this registration. Returns at once; the write follows, and then the
    /// [status](RegistrationStatus::Registered) has the new revision. After an error nothing is
    /// changed.
    ///
    /// # Errors
    ///
    /// [`RegisterError::Immutable`] for a change of name, id or address, [`RegisterError::ValueTooLarge`],
    /// [`RegisterError::SameKey`] if a format makes the key of another registration of it,
    /// [`RegisterError::Nested`] inside of another update of this registration,
    /// [`RegisterError::Stopped`] once deregistration has begun.
    pub fn update(
        &self,
        mut change: impl FnMut(Instance) -> Instance,
    ) -> Result<(), RegisterError> {
        self.handle.shared.update(&self.handle.entry, &mut change)
    }

    /// Withholds the keys until the pause is dropped. The server keeps serving.
    ///
    /// Returns at once. Health says `NOT_SERVING` on `etcd.registration`, then the keys are deleted in one
    /// transaction. Clients that watch send no new calls, and calls in flight
    /// finish. The lease is kept, so that one transaction puts the keys back. There may be any number of
    /// pauses, also before the server appears. The [status](RegistrationStatus::Paused) has the reason of
    /// each. Changes by [`update`](Self::update) are written after the pause. A pause
    /// neither delays nor prevents a shutdown, and does not keep the registration alive.
    ///
    /// ```no_run
    /// # async fn warm_cache() {}
    /// # async fn f(registration: tonic_etcd::Registration) -> Result<(), tonic_etcd::PauseError> {
    /// let pause = registration.pause("warming cache")?;
    /// warm_cache().await;
    /// drop(pause); // the keys are back after one transaction
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`PauseError::Reason`] for a reason that is empty, longer than 256 bytes, or not one line of text;
    /// [`PauseError::Stopped`] once deregistration has begun.
    pub fn pause(&self, reason: impl AsRef<str>) -> Result<Pause, PauseError> {
        let Handle { entry, shared } = &*self.handle;
        Pause::new(shared, entry, reason.as_ref())
    }

    /// [`pause`](Self::pause) for a task, which does not keep the registration alive.
    #[cfg(feature = "health")]
    pub(crate) fn pauser(&self) -> impl Fn(&str) -> Result<Pause, PauseError> + Send + use<> {
        let Handle { entry, shared } = &*self.handle;
        let (entry, shared) = (entry.clone(), shared.clone());
        move |reason| Pause::new(&shared, &entry, reason)
    }

    /// Begins to deregister this registration; the registrar's others stay.
    ///
    /// Idempotent; returns at once. [`ended`](Self::ended) resolves when it has ended.
    pub fn deregister(&self) {
        self.handle.shared.leave(&self.handle.entry);
    }

    /// Begins to deregister if that has not begun, and skips all its waits.
    pub fn deregister_now(&self) {
        self.lifecycle().shutdown_now().cancel();
        self.deregister();
    }

    /// Announces the server at `local`, for servers that use neither the
    /// [`incoming`](Self::incoming) stream nor the [`layer`](Self::layer). Idempotent.
    ///
    /// Call it once the listener accepts: the keys are written from then on. The listener belongs to the
    /// caller. After [`drain_signal`](Self::drain_signal) the caller has to accept its backlog, close it,
    /// and end its connections. To count requests and to end them at the drain
    /// deadline, use the [layer](Self::layer) with [`announce(false)`](crate::RegistrationLayer::announce) or
    /// a [guard](Self::in_flight_guard) for each. If the listener fails, call [`deregister`](Self::deregister).
    ///
    /// # Errors
    ///
    /// [`RegisterError::Address`] if that address cannot be advertised.
    pub fn announce(&self, local: SocketAddr) -> Result<(), RegisterError> {
        let Handle { entry, shared } = &*self.handle;
        shared.announce(entry, Some(local))
    }

    /// Resolves when the server should stop accepting: the shutdown signal for tonic.
    pub fn drain_signal(&self) -> impl Future<Output = ()> + Send + 'static {
        let drain = self.lifecycle().drain().clone();
        async move { drain.signal().await }
    }

    /// Counts a request that does not go through the [`layer`](Self::layer), until the guard is dropped.
    ///
    /// The drain waits for it until the drain deadline, when [`cancelled`](InFlightGuard::cancelled) resolves.
    /// Take one for every request. After the first guard, the drain takes a request without a guard for no request:
    /// it closes the connections of [`Incoming`](crate::server::Incoming) 1.5 s after their last traffic.
    pub fn in_flight_guard(&self) -> InFlightGuard {
        let drain = self.lifecycle().drain();
        drain.set_counted();
        InFlightGuard::new(drain.in_flight.clone())
    }

    /// How many requests are in flight: those that went through the [`layer`](Self::layer) and
    /// whose response is not sent to its last frame, and those of a [guard](Self::in_flight_guard).
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.lifecycle().in_flight()
    }

    /// Its statistics now: status, keys, lease, renewals, connection. Sends nothing, and
    /// takes only short locks.
    #[must_use]
    pub fn stats(&self) -> RegistrationStats {
        let Handle { entry, shared } = &*self.handle;
        stats(shared, entry)
    }

    pub(crate) fn lifecycle(&self) -> &Arc<Lifecycle> {
        &self.handle.entry.lifecycle
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.handle.entry
    }

    /// Announces the server at the address of its first TCP listener. Without one its instances have explicit addresses.
    pub(crate) fn announce_served(&self) -> Result<(), RegisterError> {
        let Handle { entry, shared } = &*self.handle;
        shared.announce(entry, entry.listener())
    }

    /// Adds a listener, with its address if it is a TCP listener. `name` describes another one.
    ///
    /// It is an error if deregistration has begun, or if neither the first listener nor the instances have an address
    /// that others can dial.
    pub(crate) fn add_listener(
        &self,
        tcp: Option<SocketAddr>,
        name: impl FnOnce() -> String,
    ) -> Result<(), RegisterError> {
        let Handle { entry, shared } = &*self.handle;
        let first = entry.listener().or(tcp);
        match first {
            Some(tcp) => drop(shared.check_bound(entry, tcp)?),
            None if entry.draft().is_explicit() => {}
            None => {
                let reason = "only this machine can dial a Unix socket: give the instance the address \
                              of what leads there";
                let address = name();
                return Err(AddressError { address, reason }.into());
            }
        }
        if entry.is_leaving() || entry.lifecycle.is_leaving() || shared.is_stopping() {
            return Err(Stopped.into());
        }
        entry.set_listener(first);
        Ok(())
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("names", &self.handle.entry.names())
            .field("status", &format_args!("{}", self.status()))
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // After the end the server may still be draining. Its listener, which may have been the last
        // owner of this handle, is dropped when the drain begins, and must not skip the waits.
        let (_, status) = self.entry.lifecycle.status.published();
        if !status.is_final() {
            self.entry.lifecycle.shutdown_now().cancel();
        }
        self.shared.leave(&self.entry);
    }
}

pub(crate) async fn ended(lifecycle: &Lifecycle) -> Ended {
    match lifecycle
        .status
        .watch()
        .wait_for(RegistrationStatus::is_final)
        .await
    {
        Some(RegistrationStatus::Ended(ended)) => ended,
        _ => Ended::Deregistered,
    }
}
