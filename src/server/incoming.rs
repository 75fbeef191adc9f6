//! [`Incoming`]: the listener of a registered server.

use super::Connection;
use crate::life::Life;
use crate::registrar::{Entry, Shared};
use crate::{Error, Registration};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
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
#[derive(Debug)]
pub struct Incoming {
    /// `None` once the port is closed.
    listener: Option<TcpIncoming>,
    local: SocketAddr,
    announced: bool,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
    entry: Arc<Entry>,
    shared: Arc<Shared>,
    /// A server that accepts is not abandoned, though nobody else may hold the handle: whoever
    /// spawns it must not have to keep the registration alive besides.
    _registration: Registration,
}

/// Binds `addr` as tonic does.
pub(crate) fn listen(addr: SocketAddr) -> Result<TcpListener, Error> {
    let bound = std::net::TcpListener::bind(addr).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    bound.map_err(|source| Error::Listen { addr, source })
}

// === impl Incoming ===

impl Incoming {
    pub(crate) fn new(
        listener: TcpListener,
        entry: Arc<Entry>,
        shared: Arc<Shared>,
        registration: Registration,
    ) -> Result<Self, Error> {
        let local = listener.local_addr().map_err(|source| Error::Listen {
            addr: SocketAddr::from(([0, 0, 0, 0], 0)),
            source,
        })?;
        shared.check_bound(&entry, local)?;
        if entry.is_leaving() || entry.life.is_leaving() || shared.is_stopping() {
            return Err(Error::Stopped);
        }
        entry.life.listening.store(true, Ordering::Release);
        Ok(Self {
            listener: Some(TcpIncoming::from(listener).with_nodelay(Some(true))),
            local,
            announced: false,
            drain: Box::pin(entry.life.serving().drain.clone().cancelled_owned()),
            entry,
            shared,
            _registration: registration,
        })
    }

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

    /// After how long an idle connection is probed (`TCP_KEEPIDLE`). Default: never.
    #[must_use]
    pub fn with_keepalive(self, idle: Option<Duration>) -> Self {
        self.map(|listener| listener.with_keepalive(idle))
    }

    /// How long to wait between two probes (`TCP_KEEPINTVL`). Default: the system's.
    #[must_use]
    pub fn with_keepalive_interval(self, interval: Option<Duration>) -> Self {
        self.map(|listener| listener.with_keepalive_interval(interval))
    }

    /// After how many unanswered probes a connection is dead (`TCP_KEEPCNT`). Default: the
    /// system's.
    #[must_use]
    pub fn with_keepalive_retries(self, retries: Option<u32>) -> Self {
        self.map(|listener| listener.with_keepalive_retries(retries))
    }

    fn map(mut self, change: impl FnOnce(TcpIncoming) -> TcpIncoming) -> Self {
        self.listener = self.listener.take().map(change);
        self
    }

    pub(crate) fn life(&self) -> &Arc<Life> {
        &self.entry.life
    }

    fn announce(&mut self) {
        if !std::mem::replace(&mut self.announced, true)
            && let Err(error) = self.shared.arm(&self.entry, Some(self.local))
        {
            tracing::error!(%error, "cannot announce this server");
        }
    }

    fn close(&mut self) {
        self.listener = None;
        self.entry.life.serving().swept.cancel();
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.announce();
        let Some(listener) = &mut this.listener else {
            return Poll::Ready(None);
        };
        // Whoever the kernel has let in already is served, also while draining: closing the port
        // on them would reset a connection that to its client stands.
        if let Poll::Ready(Some(accepted)) = Pin::new(listener).poll_next(cx) {
            let life = this.entry.life.clone();
            return Poll::Ready(Some(accepted.map(|io| Connection::new(io, life))));
        }
        if !this.entry.life.serving().drain.is_cancelled()
            && this.drain.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        this.close();
        Poll::Ready(None)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.close();
        self.shared.leave(&self.entry);
    }
}
