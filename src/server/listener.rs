//! [`Listener`]: what a registered server can listen on.

use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpIncoming};

/// What a registered server can listen on: for now, a [`TcpListener`]. More may come, so that this
/// cannot be implemented elsewhere.
pub trait Listener: sealed::Accept {}

mod sealed {
    use super::*;

    /// The part of a listener that [`Incoming`](super::super::Incoming) needs.
    pub trait Accept: Send + 'static {
        /// One connection.
        type Io: AsyncRead + AsyncWrite + Connected + Send + Unpin + 'static;
        /// The connections that are accepted. Dropping it closes the listener.
        type Accepted: Stream<Item = io::Result<Self::Io>> + Send + Unpin + 'static;
    }
}

pub(super) use sealed::Accept;

impl Listener for TcpListener {}

impl Accept for TcpListener {
    type Io = TcpStream;
    type Accepted = TcpIncoming;
}
