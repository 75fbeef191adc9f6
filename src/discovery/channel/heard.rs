//! [`Heard`]: notices the first word of the other side, and misses none of its last ones.
//!
//! To hyper an HTTP/2 connection is made once our own preface is written. The kernel accepts
//! connections, and takes that in, for a process that is stuck or just about to close its port: a
//! call sent there is lost. Servers speak first of all (their `SETTINGS`), so we wait for it, as
//! grpc-go does.
//!
//! A server that shuts down gracefully says at last which calls it has not taken (`GOAWAY`), and
//! closes. Calls that were on their way to it meet a closed connection then, and h2 gives up on
//! the first write that fails, with that word unread: over TCP four of a thousand shutdowns under
//! load had such a write, and some lost all calls of a connection by it. So the failure of a write
//! is not passed on. It means that the other side is gone, and reading finds that out too: after
//! all that was said.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// A connection that tells when the other side has spoken HTTP/2.
#[derive(Debug)]
pub(super) struct Heard<T> {
    io: T,
    tell: Option<oneshot::Sender<()>>,
    /// Whatever is written now is lost.
    gone: bool,
}

/// Where the header of an HTTP/2 frame has its type, and the type of `SETTINGS`. An answer in
/// HTTP/1 has the `P` of `HTTP` there.
const TYPE_AT: usize = 3;
const SETTINGS: u8 = 4;

// === impl Heard ===

impl<T> Heard<T> {
    pub(super) fn new(io: T) -> (Self, oneshot::Receiver<()>) {
        let (tell, told) = oneshot::channel();
        let tell = Some(tell);
        let gone = false;
        (Self { io, tell, gone }, told)
    }

    /// The outcome of writing something, if `gone` stands in for it once the other side is gone.
    fn unless_gone<R>(&mut self, wrote: Poll<io::Result<R>>, gone: R) -> Poll<io::Result<R>> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        match wrote {
            Poll::Ready(Err(error))
                if matches!(
                    error.kind(),
                    BrokenPipe | ConnectionAborted | ConnectionReset
                ) =>
            {
                self.gone = true;
                Poll::Ready(Ok(gone))
            }
            wrote => wrote,
        }
    }

    fn heard(&mut self, first: &[u8]) {
        if first.is_empty() {
            return;
        }
        let tell = self.tell.take();
        // Less than that in one piece comes from nobody; if it does, it is given the benefit.
        if first.get(TYPE_AT).is_none_or(|kind| *kind == SETTINGS) {
            let _ = tell.map(|tell| tell.send(()));
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Heard<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if self.tell.is_some() {
            self.heard(buf.filled().get(before..).unwrap_or_default());
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Heard<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.gone {
            return Poll::Ready(Ok(buf.len()));
        }
        let wrote = Pin::new(&mut self.io).poll_write(cx, buf);
        self.unless_gone(wrote, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if self.gone {
            return Poll::Ready(Ok(len));
        }
        let wrote = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.unless_gone(wrote, len)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gone {
            return Poll::Ready(Ok(()));
        }
        let done = Pin::new(&mut self.io).poll_flush(cx);
        self.unless_gone(done, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gone {
            return Poll::Ready(Ok(()));
        }
        let done = Pin::new(&mut self.io).poll_shutdown(cx);
        self.unless_gone(done, ())
    }
}
