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
/// exists. The services are those that the layer makes, and the [health service](Self::health_service): the server that
/// owns them keeps the registration alive. It is deregistered on request, when its listener closes, or when the last
/// of them is dropped. In the last case there is no deregistration delay and no drain timeout.
///
/// Cheap to clone; all clones are handles of the same registration.
///
/// # How it appears
///
/// The keys are written once the server is announced: its address is known, and it accepts connections there.
///
/// | the server | calls | is announced |
/// |---|---|---|
/// | tonic | [`serve_registered`](crate::ServeRegistered::serve_registered) | when tonic first polls its listener |
/// | tonic, on other listeners or with socket options | [`bind`](Self::bind) or a sibling, then [`serve_registered_with_incoming`](crate::ServeRegistered::serve_registered_with_incoming) | the same |
/// | axum, hyper, another one that takes a listener or a stream | [`bind`](Self::bind) or a sibling, and [`drain_signal`](Self::drain_signal) | when it first polls the listener |
/// | tonic on its own listener, with an explicit [address](Instance::with_address) | [`layer`](Self::layer) and [`drain_signal`](Self::drain_signal) | when tonic applies the layer, after it has bound its listener |
/// | any other | [`announce`](Self::announce) and [`drain_signal`](Self::drain_signal) | by that call |
///
/// [`bind`](Self::bind) takes an address, [`incoming`](Self::incoming) a listener that is bound already.
/// [`bind_all`](Self::bind_all) and [`incoming_all`](Self::incoming_all) take several.
///
/// # How it leaves
///
/// 1. Health says `NOT_SERVING`, then the keys are deleted.
/// 2. The server keeps serving for the deregistration delay.
/// 3. [`drain_signal`](Self::drain_signal) resolves, and requests in flight finish.
/// 4. After the drain timeout, the remaining requests are ended.
///
/// | what leaves | how | without the waits |
/// |---|---|---|
/// | this registration | [`deregister`](Self::deregister) | [`deregister_now`](Self::deregister_now) |
/// | all registrations of a registrar | [`Registrar::shutdown`](crate::Registrar::shutdown) | [`Registrar::shutdown_now`](crate::Registrar::shutdown_now) |
/// | the same, with a token of the application | [`shutdown_token`](crate::RegistrarBuilder::shutdown_token) | [`shutdown_now_token`](crate::RegistrarBuilder::shutdown_now_token) |
/// | the same, with `shutdown_on_signals` | SIGTERM or SIGINT | the second signal |
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

    /// The current status.
    #[must_use]
    pub fn status(&self) -> RegistrationStatus {
        self.lifecycle().status.get()
    }

    /// A watch of the status.
    #[must_use]
    pub fn watch(&self) -> StatusWatch {
        self.lifecycle().status.watch()
    }

    /// Waits until all keys are in etcd. A server need not wait for this.
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

    /// Waits until the registration has ended, and returns how.
    ///
    /// The server may still be draining then. Cancel safe.
    pub async fn ended(&self) -> Ended {
        ended(self.lifecycle()).await
    }

    /// Changes value, version, weight or metadata in place: the same keys, the same lease.
    ///
    /// `change` is called once for each instance, and again if there was another change meanwhile. It may use all
    /// handles, but may not update this registration. `update` returns at once. Once the values are written, the
    /// [status](RegistrationStatus::Registered) has the new revision. After an error nothing is changed.
    ///
    /// # Errors
    ///
    /// [`RegisterError::Immutable`] for a change of name, id or address, [`RegisterError::ValueTooLarge`],
    /// [`RegisterError::SameKey`] if a format would write it to the key of another registration,
    /// [`RegisterError::Nested`] within another update of this registration,
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
    /// transaction. Clients that watch send no new calls, and calls in flight finish. The lease is kept, so that one
    /// transaction puts the keys back. There may be any number of pauses, also before the server is announced. The
    /// [status](RegistrationStatus::Paused) has the reason of each. An [`update`](Self::update) is written after the
    /// pause. A pause neither delays nor prevents a shutdown, and does not keep the registration alive.
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

    /// Begins to deregister this registration. Other registrations of the registrar stay.
    ///
    /// Idempotent; returns at once. [`ended`](Self::ended) resolves at the end.
    pub fn deregister(&self) {
        self.handle.shared.leave(&self.handle.entry);
    }

    /// Begins to deregister if that has not begun, and skips all waits.
    pub fn deregister_now(&self) {
        self.lifecycle().shutdown_now().cancel();
        self.deregister();
    }

    /// Announces the server at `local`: the keys are written from now on. Idempotent.
    ///
    /// For servers that use neither the [`incoming`](Self::incoming) stream nor the [`layer`](Self::layer). Call it once
    /// the listener accepts. The caller owns the listener: after [`drain_signal`](Self::drain_signal), accept its
    /// backlog, close it, and end its connections. To count requests and to end them at the drain deadline, use the
    /// [layer](Self::layer) with [`announce(false)`](crate::RegistrationLayer::announce) or a [guard](Self::in_flight_guard)
    /// for each. If the listener fails, call [`deregister`](Self::deregister).
    ///
    /// # Errors
    ///
    /// [`RegisterError::Address`] if `local` cannot be advertised.
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
    /// Take one for every request. Once any guard exists, requests without one are not counted: a drain closes the
    /// connections of [`Incoming`](crate::server::Incoming) 1.5 s after their last traffic.
    pub fn in_flight_guard(&self) -> InFlightGuard {
        let drain = self.lifecycle().drain();
        drain.set_counted();
        InFlightGuard::new(drain.in_flight.clone())
    }

    /// The number of requests in flight: requests that went through the [`layer`](Self::layer) and whose response is not
    /// sent to its last frame, and [guards](Self::in_flight_guard).
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.lifecycle().in_flight()
    }

    /// The current statistics: status, keys, lease, renewals, connection. Sends no request, and takes only short locks.
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
