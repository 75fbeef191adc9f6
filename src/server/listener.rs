//! [`Listener`]: the listeners that a registered server can use.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;
#[cfg(unix)]
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::{Connected, TcpIncoming};

/// A listener for a registered server: a [`TcpListener`] or, on Unix, a `UnixListener`. The trait is sealed.
pub trait Listener: sealed::Accept {}

/// A type that can be converted to a [`Listener`]: a listener of tokio, or of the standard library, such as an inherited one,
/// which is made non-blocking.
pub trait IntoListener: sealed::Convert {}

mod sealed {
    use super::*;

    /// The part of a listener that [`Incoming`](super::super::Incoming) needs.
    pub trait Accept: Sized + Send + 'static {
        /// One connection.
        type Io: AsyncRead + AsyncWrite + Connected + Send + Unpin + 'static;
        /// The address of either end of a connection.
        type Addr: fmt::Debug + Clone + Send + Sync + Unpin + 'static;
        /// The accepted connections. Dropping it closes the listener.
        type Accepted: Stream<Item = io::Result<Self::Io>> + Send + Unpin + 'static;

        /// The bound address.
        fn local_addr(&self) -> io::Result<Self::Addr>;
        /// The same as a TCP address, if it is one.
        fn tcp_addr(local: &Self::Addr) -> Option<SocketAddr>;
        /// The address of the peer of a connection.
        fn peer_addr(io: &Self::Io) -> io::Result<Self::Addr>;
        /// Begins to accept.
        fn accepted(self) -> Self::Accepted;
    }

    /// A listener, or a type that can be converted to one.
    pub trait Convert {
        /// The listener.
        type Listener: super::Listener;

        /// Converts it, and makes it non-blocking. Needs a runtime.
        fn convert(self) -> io::Result<Self::Listener>;
    }
}

pub(super) use sealed::{Accept, Convert};

// === impl Listener ===

impl<L: Listener> IntoListener for L {}

impl<L: Listener> Convert for L {
    type Listener = Self;

    fn convert(self) -> io::Result<Self> {
        Ok(self)
    }
}

// === impl TcpListener ===

impl Listener for TcpListener {}

impl Accept for TcpListener {
    type Io = TcpStream;
    type Addr = SocketAddr;
    type Accepted = TcpIncoming;

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }

    fn tcp_addr(local: &SocketAddr) -> Option<SocketAddr> {
        Some(*local)
    }

    fn peer_addr(io: &TcpStream) -> io::Result<SocketAddr> {
        io.peer_addr()
    }

    fn accepted(self) -> TcpIncoming {
        TcpIncoming::from(self).with_nodelay(Some(true))
    }
}

impl IntoListener for std::net::TcpListener {}

impl Convert for std::net::TcpListener {
    type Listener = TcpListener;

    fn convert(self) -> io::Result<TcpListener> {
        self.set_nonblocking(true)?;
        TcpListener::from_std(self)
    }
}

// === impl UnixListener ===

#[cfg(unix)]
impl Listener for UnixListener {}

#[cfg(unix)]
impl Accept for UnixListener {
    type Io = UnixStream;
    type Addr = std::os::unix::net::SocketAddr;
    type Accepted = UnixListenerStream;

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.local_addr().map(Into::into)
    }

    fn tcp_addr(_: &Self::Addr) -> Option<SocketAddr> {
        None
    }

    fn peer_addr(io: &UnixStream) -> io::Result<Self::Addr> {
        io.peer_addr().map(Into::into)
    }

    fn accepted(self) -> UnixListenerStream {
        UnixListenerStream::new(self)
    }
}

#[cfg(unix)]
impl IntoListener for std::os::unix::net::UnixListener {}

#[cfg(unix)]
impl Convert for std::os::unix::net::UnixListener {
    type Listener = UnixListener;

    fn convert(self) -> io::Result<UnixListener> {
        self.set_nonblocking(true)?;
        UnixListener::from_std(self)
    }
}
