//! [`Connection`]: a TCP connection that the drain can end.
//!
//! A drain of tonic waits forever for two kinds of connections. Here they end:
//!
//! * a connection whose client never sent a byte (a load balancer's probe, an unused connection of a pool: hyper #4170)
//!   ends when the drain begins;
//! * a connection whose client does not answer the ping that comes with GOAWAY ends after the drain deadline, or earlier
//!   when nothing is in flight.

use crate::drain::Drain;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// A connection of [`Incoming`](super::Incoming).
///
/// Handlers get `remote_addr()`, and with TLS `peer_certs()`, as with tonic alone.
#[derive(Debug)]
pub struct Connection<IO = TcpStream> {
    io: IO,
    drain: Arc<Drain>,
    /// The number of bytes of the preface that were read. Its whole length once anything else was read.
    preface: usize,
    signal: Signal,
}

/// The signal that the connection waits for. The waker is registered once and not on every read.
#[derive(Debug)]
struct Signal {
    token: CancellationToken,
    wait: Pin<Box<WaitForCancellationFutureOwned>>,
    waker: Option<Waker>,
}

/// The preface of HTTP/2 (RFC 9113, 3.4). A client that sent less has sent no request yet, and hyper cannot end its
/// connection gracefully. A request of HTTP/1 may be shorter, so the bytes are compared, and not only counted. With TLS
/// the bytes never match the preface: a connection without a request after the handshake ends like one that is idle.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// === impl Connection ===

impl<IO> Connection<IO> {
    pub(super) fn new(io: IO, drain: Arc<Drain>) -> Self {
        let signal = Signal::new(drain.begun.clone());
        Self {
            io,
            drain,
            preface: 0,
            signal,
        }
    }

    /// The connection that it wraps.
    #[must_use]
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// Whether the client has sent more than a part of the preface.
    fn has_begun(&self) -> bool {
        self.preface == PREFACE.len()
    }

    fn on_read(&mut self, bytes: &[u8]) {
        if self.has_begun() {
            return;
        }
        let rest = &PREFACE[self.preface..];
        self.preface = match rest.starts_with(bytes) {
            true => self.preface + bytes.len(),
            false => PREFACE.len(),
        };
    }

    /// Resolves when a read should return the end of the stream.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.signal.poll(cx).is_pending() {
            return Poll::Pending;
        }
        if !self.drain.is_aborted() && self.has_begun() {
            self.signal = Signal::new(self.drain.aborted.clone());
            return self.signal.poll(cx);
        }
        Poll::Ready(())
    }

    /// An aborted connection returns an error, also while the peer keeps sending. The read side wakes the task.
    fn check(&self) -> io::Result<()> {
        match self.drain.is_aborted() {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.drain.on_traffic();
        }
        written
    }
}

impl Connection {
    /// The address of the peer, if the operating system still knows it.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.io.peer_addr().ok()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Connection<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, buf) {
            self.on_read(&buf.filled()[before..]);
            self.drain.on_traffic();
            return Poll::Ready(read);
        }
        // No bytes and no error: for the reader this is the end of the stream.
        self.poll_end(cx).map(Ok)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Connection<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<IO: Connected> Connected for Connection<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

// === impl Signal ===

impl Signal {
    fn new(token: CancellationToken) -> Self {
        Self {
            wait: Box::pin(token.clone().cancelled_owned()),
            token,
            waker: None,
        }
    }

    /// Compares the waker with the last one, and takes the lock of the token only if they differ.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.token.is_cancelled() {
            return Poll::Ready(());
        }
        if self
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        self.wait.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::{Duration, timeout};

    #[tokio::test(start_paused = true)]
    async fn only_a_client_that_asked_for_nothing_is_ended_when_the_drain_begins() {
        for (sent, ends) in [
            ("", true),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r", true),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            // The first may become the preface; the second cannot.
            ("P", true),
            ("PUT", false),
            (
                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
                false,
            ),
        ] {
            let drain = Arc::new(Drain::default());
            let (mut client, io) = duplex(100);
            let mut connection = Connection::new(io, drain.clone());
            // In two pieces, as they may come.
            for piece in [&sent[..sent.len() / 2], &sent[sent.len() / 2..]] {
                client.write_all(piece.as_bytes()).await.unwrap();
                let mut read = vec![0; piece.len()];
                connection.read_exact(&mut read).await.unwrap();
            }
            drain.begin();
            let next = timeout(Duration::from_secs(1), connection.read_u8()).await;
            assert_eq!(next.is_ok(), ends, "{sent:?}: {next:?}");
            drain.run_now();
            assert!(connection.read_u8().await.is_err());
        }
    }
}
