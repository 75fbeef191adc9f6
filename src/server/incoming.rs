//! [`Incoming`]: the listener of a registered server.

use super::Connection;
use super::listener::{Accept, Listener};
use crate::drain::Drain;
use crate::error::RegisterError;
use crate::logging;
use crate::registration::Registration;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::TcpIncoming;

/// The connections of a registered server, for `serve_with_incoming_shutdown`.
///
/// Its first poll announces the instance: that is when tonic accepts. When the drain begins it
/// takes in what the kernel has accepted already, closes the port and ends. Dropping it
/// deregisters.
///
/// tonic ignores `Server::tcp_nodelay` and `Server::tcp_keepalive` for every stream it is given,
/// so they are set here, with tonic's defaults.
pub struct Incoming<L: Listener = TcpListener> {
    /// `None` once the port is closed.
    accepted: Option<<L as Accept>::Accepted>,
    local: SocketAddr,
    is_announced: bool,
    drain_begun: Pin<Box<WaitForCancellationFutureOwned>>,
    drain: Arc<Drain>,
    registration: Registration,
}

/// Binds `addr` as tonic does.
fn listen(addr: SocketAddr) -> Result<TcpListener, RegisterError> {
    let bound = std::net::TcpListener::bind(addr).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    bound.map_err(|source| RegisterError::Listen { addr, source })
}

/// The nearest that Linux takes as a time of TCP keepalive; else each connection would be without.
fn settable(wait: Duration) -> Duration {
    wait.clamp(Duration::from_secs(1), Duration::from_secs(32_767))
}

// === impl Registration ===

impl Registration {
    /// A stream of the listener's connections, for `serve_with_incoming_shutdown`.
    ///
    /// The instance appears when the stream is first polled: that is when tonic accepts. It is
    /// deregistered when the stream is dropped.
    ///
    /// # Errors
    ///
    /// [`RegisterError::Address`] if the listener's address cannot be advertised, [`RegisterError::Listen`] if it
    /// cannot be asked, [`RegisterError::Stopped`] once deregistration has begun.
    pub fn incoming(&self, listener: TcpListener) -> Result<Incoming, RegisterError> {
        let local = listener
            .local_addr()
            .map_err(|source| RegisterError::Listen {
                addr: SocketAddr::from(([0, 0, 0, 0], 0)),
                source,
            })?;
        self.check_listener(local)?;
        let accepted = TcpIncoming::from(listener).with_nodelay(Some(true));
        Ok(Incoming::new(accepted, local, self.clone()))
    }

    /// Binds `addr` and gives the [`incoming`](Self::incoming) stream of it.
    ///
    /// # Errors
    ///
    /// [`RegisterError::Listen`] if that is not possible, and those of [`incoming`](Self::incoming).
    pub fn bind(&self, addr: SocketAddr) -> Result<Incoming, RegisterError> {
        self.incoming(listen(addr)?)
    }
}

// === impl Incoming ===

impl<L: Listener> Incoming<L> {
    fn new(
        accepted: <L as Accept>::Accepted,
        local: SocketAddr,
        registration: Registration,
    ) -> Self {
        let drain = registration.lifecycle().drain().clone();
        drain.set_listener();
        Self {
            accepted: Some(accepted),
            local,
            is_announced: false,
            drain_begun: Box::pin(drain.begun.clone().cancelled_owned()),
            drain,
            registration,
        }
    }

    pub(super) fn registration(&self) -> &Registration {
        &self.registration
    }

    fn announce(&mut self) {
        if !std::mem::replace(&mut self.is_announced, true)
            && let Err(error) = self.registration.announce(self.local)
        {
            logging::error!(%error, "cannot announce this server");
        }
    }

    fn close(&mut self) {
        self.accepted = None;
        self.drain.listener_closed.cancel();
    }
}

impl Incoming {
    /// The address that is bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether accepted connections send small packets at once (`TCP_NODELAY`). Default: yes.
    #[must_use]
    pub fn with_nodelay(self, nodelay: bool) -> Self {
        self.map(|listener| listener.with_nodelay(Some(nodelay)))
    }

    /// After how long an idle connection is probed (`TCP_KEEPIDLE`). Default: never. Taken as 1 s to
    /// 32,767 s, which is what Linux takes.
    #[must_use]
    pub fn with_keepalive(self, idle: Option<Duration>) -> Self {
        self.map(|listener| listener.with_keepalive(idle.map(settable)))
    }

    /// How long to wait between two probes (`TCP_KEEPINTVL`). Default: the system's. Taken as 1 s to
    /// 32,767 s.
    #[must_use]
    pub fn with_keepalive_interval(self, interval: Option<Duration>) -> Self {
        self.map(|listener| listener.with_keepalive_interval(interval.map(settable)))
    }

    /// After how many unanswered probes a connection is dead (`TCP_KEEPCNT`). Default: the
    /// system's.
    #[must_use]
    pub fn with_keepalive_retries(self, retries: Option<u32>) -> Self {
        self.map(|listener| listener.with_keepalive_retries(retries))
    }

    fn map(mut self, change: impl FnOnce(TcpIncoming) -> TcpIncoming) -> Self {
        self.accepted = self.accepted.take().map(change);
        self
    }
}

impl<L: Listener> Stream for Incoming<L> {
    type Item = io::Result<Connection<L::Io>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.announce();
        let Some(accepted) = &mut this.accepted else {
            return Poll::Ready(None);
        };
        // Whoever the kernel has let in already is served, also while draining: closing the port
        // on them would reset a connection that to its client stands.
        if let Poll::Ready(Some(accepted)) = Pin::new(accepted).poll_next(cx) {
            let drain = this.drain.clone();
            return Poll::Ready(Some(accepted.map(|io| Connection::new(io, drain))));
        }
        if !this.drain.is_begun() && this.drain_begun.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        this.close();
        Poll::Ready(None)
    }
}

impl<L: Listener> Drop for Incoming<L> {
    fn drop(&mut self) {
        self.close();
        self.registration.deregister();
    }
}

impl<L: Listener> fmt::Debug for Incoming<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("local_addr", &self.local)
            .finish_non_exhaustive()
    }
}
