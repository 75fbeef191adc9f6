//! [`Incoming`]: the listener of a registered server.

use super::Connection;
use super::accept::Port;
use super::listener::{Accept, IntoListener, Listener};
use crate::drain::Drain;
use crate::error::RegisterError;
use crate::registrar::registration::Registration;
use crate::runtime::exhausted;
use crate::runtime::logging;
use socket2::{Domain, Protocol, Socket, Type};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::TcpIncoming;

/// The connections of a registered server: a stream for tonic's `serve_with_incoming_shutdown` and for servers that accept
/// by hand, and with the feature `axum` a listener for `axum::serve`.
///
/// Its first poll announces the server, because the server accepts from then on. When the drain begins, it accepts the
/// connections in the kernel's backlog, closes the port and ends. Dropping it deregisters the server. Waiting for the next
/// connection is cancel safe.
///
/// It yields no errors. When it cannot accept, such as without a free file descriptor, it tries again after a pause of 5 ms
/// to 1 s, and logs at most one WARN a minute. A drain then closes the port at once.
///
/// # Several listeners
///
/// [`bind_all`](Registration::bind_all) and [`incoming_all`](Registration::incoming_all) give the connections of several
/// listeners to one server. Several servers under one registration take one `Incoming` each: make all of them before you
/// serve the first. The server is announced when all listeners accept, at the address of the first TCP listener. It is
/// deregistered when the first listener is closed.
///
/// # Socket options
///
/// tonic ignores `Server::tcp_nodelay` and `Server::tcp_keepalive` for a stream of connections, so set them here. The
/// defaults are tonic's.
pub struct Incoming<L: Listener = TcpListener> {
    /// Empty once the port is closed.
    ports: Vec<Port<L>>,
    local: Vec<<L as Accept>::Addr>,
    /// The index of the next listener to poll, so that a busy one does not starve the others.
    next: usize,
    is_polled: bool,
    drain_begun: Pin<Box<WaitForCancellationFutureOwned>>,
    drain: Arc<Drain>,
    registration: Registration,
}

/// The length of the kernel's backlog, as in tokio and Go.
const BACKLOG: i32 = 1024;

/// Binds `addr` as tonic does.
fn listen(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    std::net::TcpListener::bind(addr)
}

/// Binds `addr` beside others. An IPv6 socket accepts only IPv6: otherwise `[::]` would also take the port of `0.0.0.0`, on
/// Linux alone.
fn listen_beside(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let SocketAddr::V6(_) = addr else {
        return listen(addr);
    };
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(true)?;
    // As in the standard library: on other systems two servers could then share a port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The nearest time that Linux accepts for TCP keepalive. With another time there would be no keepalive.
fn settable(wait: Duration) -> Duration {
    wait.clamp(Duration::from_secs(1), Duration::from_secs(32_767))
}

// === impl Registration ===

impl Registration {
    /// The connections of a listener that is bound already: tokio's, or the standard library's, such as an inherited one,
    /// which is made non-blocking.
    ///
    /// The server is announced when the stream is first polled, and deregistered when the stream is dropped. A
    /// `UnixListener` has no address that others can dial: the instance needs an
    /// [explicit one](crate::Instance::with_address).
    ///
    /// # Errors
    ///
    /// [`RegisterError::Address`] if the listener's address cannot be advertised, [`RegisterError::Listen`] if it
    /// cannot be used, [`RegisterError::NoRuntime`] outside of a tokio runtime, [`RegisterError::Stopped`] once
    /// deregistration has begun. After an error nothing is announced.
    pub fn incoming<L: IntoListener>(
        &self,
        listener: L,
    ) -> Result<Incoming<L::Listener>, RegisterError> {
        self.incoming_all([listener])
    }

    /// The [`incoming`](Self::incoming) connections of several listeners. The address of the first one is advertised.
    ///
    /// # Errors
    ///
    /// The errors of [`incoming`](Self::incoming), and [`RegisterError::NoListener`] without a listener.
    pub fn incoming_all<L: IntoListener>(
        &self,
        listeners: impl IntoIterator<Item = L>,
    ) -> Result<Incoming<L::Listener>, RegisterError> {
        Handle::try_current().map_err(|_| RegisterError::NoRuntime)?;
        let listeners = listeners.into_iter().map(|listener| {
            let listener = listener.convert()?;
            Ok((listener.local_addr()?, listener))
        });
        let listeners = listeners.collect::<io::Result<Vec<_>>>();
        let (local, listeners) = listeners
            .map_err(|source| RegisterError::Listen {
                addr: SocketAddr::from(([0, 0, 0, 0], 0)),
                source,
            })?
            .into_iter()
            .unzip();
        Incoming::new(listeners, local, self.clone())
    }

    /// Binds `addr` and returns the [`incoming`](Self::incoming) connections. `[::]` also accepts IPv4,
    /// if the system allows it (Linux, unless `bindv6only` is set).
    ///
    /// # Errors
    ///
    /// [`RegisterError::Listen`] if it cannot be bound, and the errors of [`incoming`](Self::incoming).
    pub fn bind(&self, addr: SocketAddr) -> Result<Incoming, RegisterError> {
        self.incoming(listen(addr).map_err(|source| RegisterError::Listen { addr, source })?)
    }

    /// Binds `addrs`, and returns the [`incoming`](Self::incoming) connections of all of them. The first address is
    /// advertised. IPv6 sockets accept only IPv6, so that `0.0.0.0:9000` and `[::]:9000` can be bound together on every
    /// system. Each port 0 gets a free port of its own.
    ///
    /// # Errors
    ///
    /// [`RegisterError::Listen`] if an address cannot be bound, [`RegisterError::NoListener`] without an address, and the
    /// errors of [`incoming`](Self::incoming). After an error nothing is announced, and no port stays bound.
    pub fn bind_all(
        &self,
        addrs: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Incoming, RegisterError> {
        let bind =
            |addr| listen_beside(addr).map_err(|source| RegisterError::Listen { addr, source });
        let listeners = addrs.into_iter().map(bind);
        self.incoming_all(listeners.collect::<Result<Vec<_>, _>>()?)
    }
}

// === impl Incoming ===

impl<L: Listener> Incoming<L> {
    fn new(
        listeners: Vec<L>,
        local: Vec<<L as Accept>::Addr>,
        registration: Registration,
    ) -> Result<Self, RegisterError> {
        let drain = registration.lifecycle().drain().clone();
        let first = local.first().ok_or(RegisterError::NoListener)?;
        registration.add_listener(L::tcp_addr(first), || format!("{first:?}"))?;
        drain.listeners.add();
        if let Ok(runtime) = Handle::try_current() {
            let _first = drain.runtime.set(runtime);
        }
        Ok(Self {
            ports: listeners.into_iter().map(Port::new).collect(),
            local,
            next: 0,
            is_polled: false,
            drain_begun: Box::pin(drain.begun.clone().cancelled_owned()),
            drain,
            registration,
        })
    }

    pub(super) fn registration(&self) -> &Registration {
        &self.registration
    }

    #[cfg(feature = "axum")]
    pub(super) fn first_addr(&self) -> &<L as Accept>::Addr {
        &self.local[0]
    }

    fn announce(&mut self) {
        if std::mem::replace(&mut self.is_polled, true) || !self.drain.listeners.accept() {
            return;
        }
        if let Err(error) = self.registration.announce_served() {
            logging::error!(%error, "cannot announce this server");
        }
    }

    /// The next connection. Once the drain has begun and there is none, the ports can be closed.
    fn poll_accept(&mut self, cx: &mut Context<'_>, stops: bool) -> Poll<<L as Accept>::Io> {
        for _ in 0..self.ports.len() {
            self.next = (self.next + 1) % self.ports.len();
            // Polled once more after an error, to register the waker of the pause.
            while let Poll::Ready(accepted) = self.ports[self.next].poll_accept(cx, stops) {
                match accepted {
                    Ok(io) => return Poll::Ready(io),
                    Err(error) => self.report(&error),
                }
                if stops {
                    break;
                }
            }
        }
        Poll::Pending
    }

    fn report(&self, error: &io::Error) {
        if self.drain.is_begun() || !self.drain.listeners.may_warn(Instant::now()) {
            return;
        }
        let error = error.to_string();
        let advice = exhausted::advice(&error).unwrap_or("trying again every second");
        let error = format_args!("{error} ({advice})");
        logging::warn!(%error, "cannot accept connections, serving the open ones");
    }

    fn close(&mut self) {
        if !self.ports.is_empty() {
            self.ports.clear();
            self.drain.close_listener();
        }
    }
}

impl Incoming {
    /// The bound address. The first one of several.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local[0]
    }

    /// The bound addresses, in the order in which they were given.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local
    }

    /// Whether connections send small packets at once (`TCP_NODELAY`). Default: yes.
    #[must_use]
    pub fn with_nodelay(self, nodelay: bool) -> Self {
        self.map(|listener| listener.with_nodelay(Some(nodelay)))
    }

    /// How long a connection is idle before it is probed (`TCP_KEEPIDLE`). Default: it is never probed. Limited to 1 s to
    /// 32,767 s, as on Linux.
    #[must_use]
    pub fn with_keepalive(self, idle: Option<Duration>) -> Self {
        self.map(|listener| listener.with_keepalive(idle.map(settable)))
    }

    /// The time between two probes (`TCP_KEEPINTVL`). Default: the system's. Limited to 1 s to 32,767 s.
    #[must_use]
    pub fn with_keepalive_interval(self, interval: Option<Duration>) -> Self {
        self.map(|listener| listener.with_keepalive_interval(interval.map(settable)))
    }

    /// The number of unanswered probes after which a connection is closed (`TCP_KEEPCNT`). Default: the system's.
    #[must_use]
    pub fn with_keepalive_retries(self, retries: Option<u32>) -> Self {
        self.map(|listener| listener.with_keepalive_retries(retries))
    }

    fn map(mut self, change: impl Fn(TcpIncoming) -> TcpIncoming) -> Self {
        let ports = std::mem::take(&mut self.ports);
        let ports = ports.into_iter().map(|port| port.map(&change));
        self.ports = ports.collect();
        self
    }
}

impl<L: Listener> Stream for Incoming<L> {
    type Item = io::Result<Connection<L::Io>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.announce();
        if this.ports.is_empty() {
            return Poll::Ready(None);
        }
        let stops = this.drain.is_begun() || this.drain_begun.as_mut().poll(cx).is_ready();
        // Connections in the kernel's backlog are served, also while draining: their clients have connected, and closing
        // the port would reset them.
        if let Poll::Ready(io) = this.poll_accept(cx, stops) {
            let drain = this.drain.clone();
            return Poll::Ready(Some(Ok(Connection::new(io, drain))));
        }
        if !stops {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::Etcd;
    use crate::instance::Instance;
    use crate::registrar::Registrar;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use tokio::io::DuplexStream;
    use tokio::time::timeout;
    use tokio_stream::StreamExt as _;

    const SEC: Duration = Duration::from_secs(1);

    /// A listener whose process has no file descriptor left, until `is_free`.
    #[derive(Clone, Default)]
    struct Exhausted {
        is_free: Arc<AtomicBool>,
        accepts: Arc<AtomicU32>,
    }

    impl Listener for Exhausted {}

    impl Accept for Exhausted {
        type Io = DuplexStream;
        type Addr = u16;
        type Accepted = Self;

        fn local_addr(&self) -> io::Result<u16> {
            Ok(0)
        }

        fn tcp_addr(_: &u16) -> Option<SocketAddr> {
            None
        }

        fn peer_addr(_: &DuplexStream) -> io::Result<u16> {
            Ok(0)
        }

        fn accepted(self) -> Self {
            self
        }
    }

    impl Stream for Exhausted {
        type Item = io::Result<DuplexStream>;

        fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.accepts.fetch_add(1, Ordering::Relaxed);
            Poll::Ready(Some(match self.is_free.load(Ordering::Relaxed) {
                true => Ok(tokio::io::duplex(1).0),
                false => Err(io::Error::other("Too many open files")),
            }))
        }
    }

    fn registration() -> Registration {
        let etcd = Etcd::new(["http://127.0.0.1:1"])
            .connector(|_| std::future::pending::<io::Result<DuplexStream>>());
        let registrar = Registrar::builder(etcd).build().unwrap();
        let instance = Instance::new("greeter").with_address("10.0.0.1:9000");
        registrar.register(instance).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_cannot_accept_is_asked_once_a_second() {
        let (registration, listener) = (registration(), Exhausted::default());
        let mut incoming = registration.incoming(listener.clone()).unwrap();
        // Cancelled again and again, as in a `select!`: it pauses all the same.
        for _ in 0..60_000 {
            let next = timeout(SEC / 1000, incoming.next()).await;
            assert!(next.is_err(), "{next:?}");
        }
        let accepts = listener.accepts.load(Ordering::Relaxed);
        assert!((60..80).contains(&accepts), "{accepts} in a minute");
        listener.is_free.store(true, Ordering::Relaxed);
        let next = timeout(SEC, incoming.next()).await;
        next.unwrap().unwrap().unwrap();
    }

    #[cfg(feature = "axum")]
    #[tokio::test(start_paused = true)]
    async fn axum_waits_for_a_listener_that_cannot_accept_and_is_cancel_safe() {
        let (registration, listener) = (registration(), Exhausted::default());
        let mut incoming = registration.incoming(listener.clone()).unwrap();
        for _ in 0..60_000 {
            let accept = ::axum::serve::Listener::accept(&mut incoming);
            assert!(timeout(SEC / 1000, accept).await.is_err());
        }
        let accepts = listener.accepts.load(Ordering::Relaxed);
        assert!((60..80).contains(&accepts), "{accepts} in a minute");
        listener.is_free.store(true, Ordering::Relaxed);
        let accept = ::axum::serve::Listener::accept(&mut incoming);
        timeout(SEC, accept).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_cannot_accept_is_closed_when_the_drain_begins() {
        for count in [1, 3] {
            let (registration, listener) = (registration(), Exhausted::default());
            let listeners = std::iter::repeat_n(listener, count);
            let mut incoming = registration.incoming_all(listeners).unwrap();
            assert!(timeout(SEC * 10, incoming.next()).await.is_err());
            let drain = registration.lifecycle().drain().clone();
            let start = Instant::now();
            drain.begin();
            assert!(incoming.next().await.is_none());
            assert!(drain.listener_closed.is_cancelled());
            assert_eq!(start.elapsed(), Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_can_accept_does_not_wait_for_another() {
        let (registration, listener) = (registration(), Exhausted::default());
        let good = Exhausted {
            is_free: Arc::new(AtomicBool::new(true)),
            ..Exhausted::default()
        };
        let mut incoming = registration.incoming_all([listener, good]).unwrap();
        let start = Instant::now();
        for _ in 0..100 {
            incoming.next().await.unwrap().unwrap();
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
