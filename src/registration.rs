//! [`Registration`]: the handle of what is registered.

use crate::life::Life;
use crate::registrar::{Entry, Shared};
use crate::server::{Incoming, RegistrationLayer};
use crate::status::{Registered, Status, StatusWatch};
use crate::{Error, Instance};
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::TcpListener;

/// A registration: one server, under one or more service names.
///
/// Cheap to clone; all clones are the same registration. When the last one is dropped it is
/// deregistered at once, without any wait, as well as that is possible without awaiting it. An
/// [`Incoming`] stream holds one.
///
/// # How it appears
///
/// Once its address is known *and* connections are accepted there. Four ways lead to it:
///
/// * [`serve_registered`](crate::ServeRegistered::serve_registered), which does everything;
/// * [`incoming`](Self::incoming) and [`drain_signal`](Self::drain_signal), for those who call
///   `serve_with_incoming_shutdown` themselves;
/// * [`layer`](Self::layer) alone, if the instance has an explicit
///   [address](Instance::address): tonic applies layers after it has bound its listener;
/// * [`announce`](Self::announce), for servers that are not tonic's.
///
/// # How it leaves
///
/// When the registrar's shutdown token is cancelled, or [`deregister`](Self::deregister) is
/// called: health says `NOT_SERVING`, the keys go, the server serves on for the deregistration delay,
/// [`drain_signal`](Self::drain_signal) resolves, requests in flight finish, and what is left after the
/// drain timeout is cut.
#[derive(Debug, Clone)]
#[must_use = "dropping the last handle deregisters at once"]
pub struct Registration {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    entry: Arc<Entry>,
    shared: Arc<Shared>,
}

/// How a registration ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Closed {
    /// The keys are gone, by our own hand.
    Deregistered,
    /// etcd could not be told; the keys go when their lease runs out.
    #[non_exhaustive]
    LeftToExpire {
        /// At most how long they may remain, once etcd works.
        ttl: std::time::Duration,
        /// Why etcd could not be told.
        reason: Arc<str>,
    },
}

// === impl Closed ===

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deregistered => f.write_str("deregistered"),
            Self::LeftToExpire { ttl, reason } => {
                write!(f, "left to expire within {ttl:?}: {reason}")
            }
        }
    }
}

// === impl Registration ===

impl Registration {
    pub(crate) fn new(entry: Arc<Entry>, shared: Arc<Shared>) -> Self {
        Self {
            handle: Arc::new(Handle { entry, shared }),
        }
    }

    /// The status now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.life().status()
    }

    /// A watch of the status.
    #[must_use]
    pub fn watch(&self) -> StatusWatch {
        self.life().watch()
    }

    /// Waits until every key is in etcd. For those who want to; serving does not need it.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`] if the registration ends first.
    pub async fn registered(&self) -> Result<Registered, Error> {
        let mut watch = self.watch();
        match watch.wait_for(|s| matches!(s, Status::Registered(_))).await {
            Some(Status::Registered(registered)) => Ok(registered),
            _ => Err(Error::Stopped),
        }
    }

    /// Waits until the registration has ended, and says how.
    ///
    /// The server may still be draining then. Cancel safe.
    pub async fn closed(&self) -> Closed {
        closed(self.life()).await
    }

    /// Changes value, version, weight or metadata in place: the same keys, the same lease.
    ///
    /// `change` is called once for each instance. Returns at once; etcd follows, and the
    /// [status](Status::Registered) shows the new revision when it has. If anything is refused,
    /// nothing changes.
    ///
    /// # Errors
    ///
    /// [`Error::Immutable`] for a change of name, id or address, [`Error::ValueTooLarge`],
    /// [`Error::Stopped`] once the way out has begun.
    pub fn update(&self, mut change: impl FnMut(Instance) -> Instance) -> Result<(), Error> {
        self.handle.shared.update(&self.handle.entry, &mut change)
    }

    /// Begins to deregister this registration; the registrar's others stay.
    ///
    /// Idempotent; returns at once. [`closed`](Self::closed) tells when it is out.
    pub fn deregister(&self) {
        self.handle.shared.leave(&self.handle.entry);
    }

    /// Begins to deregister if that has not begun, and skips every wait on the way out.
    pub fn deregister_now(&self) {
        self.life().hurry.cancel();
        self.deregister();
    }

    /// The layer for the server: counts requests in flight, ends them at the drain deadline, and
    /// announces instances with an explicit address when it is applied.
    #[must_use]
    pub fn layer(&self) -> RegistrationLayer {
        RegistrationLayer::new(self.handle.entry.clone(), self.handle.shared.clone())
    }

    /// A stream of the listener's connections, for `serve_with_incoming_shutdown`.
    ///
    /// The instance appears when the stream is first polled: that is when tonic accepts. It is
    /// deregistered when the stream is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if the listener's address cannot be advertised, [`Error::Listen`] if it
    /// cannot be asked, [`Error::Stopped`] once the way out has begun.
    pub fn incoming(&self, listener: TcpListener) -> Result<Incoming, Error> {
        let Handle { entry, shared } = &*self.handle;
        Incoming::new(listener, entry.clone(), shared.clone(), self.clone())
    }

    /// Binds `addr` and gives the [`incoming`](Self::incoming) stream of it.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] if that is not possible, and those of [`incoming`](Self::incoming).
    pub fn bind(&self, addr: SocketAddr) -> Result<Incoming, Error> {
        self.incoming(crate::server::listen(addr)?)
    }

    /// Says that connections are accepted at `local`, for servers that take neither the
    /// [`incoming`](Self::incoming) stream nor the [`layer`](Self::layer). Idempotent.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if that address cannot be advertised.
    pub fn announce(&self, local: SocketAddr) -> Result<(), Error> {
        self.handle.shared.arm(&self.handle.entry, Some(local))
    }

    /// Resolves when the server should stop accepting: the shutdown signal for tonic.
    pub fn drain_signal(&self) -> impl Future<Output = ()> + Send + 'static {
        drain_signal(self.life().clone())
    }

    /// How many requests are in flight: those that went through the [`layer`](Self::layer) and
    /// whose response is not sent to its last frame.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.life().in_flight()
    }

    pub(crate) fn life(&self) -> &Arc<Life> {
        &self.handle.entry.life
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Once it has ended, the server may still be draining, and is left to it: its listener,
        // which may have been the last to hold this, goes when the drain begins.
        if !self.entry.life.status().is_final() {
            self.entry.life.hurry.cancel();
        }
        self.shared.leave(&self.entry);
    }
}

pub(crate) async fn closed(life: &Life) -> Closed {
    match life.watch().wait_for(Status::is_final).await {
        Some(Status::LeftToExpire { ttl, reason }) => Closed::LeftToExpire { ttl, reason },
        _ => Closed::Deregistered,
    }
}

/// Resolves when the server should stop accepting, and the listener's backlog has been taken in.
pub(crate) async fn drain_signal(life: Arc<Life>) {
    let serving = life.serving();
    serving.drain.cancelled().await;
    if life.listening.load(Ordering::Acquire) {
        tokio::select! {
            () = serving.swept.cancelled() => {}
            () = serving.sever.cancelled() => {}
        }
    }
}
