//! [`Wire`]: the bytes of one HTTP/2 connection, under hyper. It reads what hyper does not show, and sends the pings.
//!
//! For hyper a connection is established once our own preface is written. But the kernel
//! accepts connections, and buffers the preface, also for a process that hangs or is about to close
//! its port: a call sent there is lost. Servers send `SETTINGS` first, so we wait for them,
//! as grpc-go does. A request above `MAX_CONCURRENT_STREAMS` would stay in hyper's queue without a
//! time limit, and could not be sent elsewhere. So it is not put there. And hyper notices a `GOAWAY` at the next call, and
//! pings a silent peer forever at one interval.

use super::frames::{Frame, Frames, HEADER, Received};
use super::keep_alive::{Due, KeepAlive};
use super::peer::Peer;
use bytes::Bytes;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

/// A connection that follows the frames in both directions.
///
/// It does not return the error of a failed write. A server that shuts down gracefully sends at last which calls it
/// has not accepted (`GOAWAY`), and closes. But h2 stops at the first failed write, and does not read that
/// frame. Over TCP four of a thousand shutdowns under load had such a write, and some of them failed all
/// calls of a connection. A read also finds the end of the connection, after all that was sent.
#[derive(Debug)]
pub(super) struct Wire<T> {
    io: T,
    received: Received,
    /// What was read and is to be passed on.
    read: Bytes,
    sent: Frames,
    first: Option<oneshot::Sender<()>>,
    peer: Arc<Peer>,
    keep_alive: KeepAlive,
    timer: Pin<Box<Sleep>>,
    /// The part of a ping that is still to be written.
    ping: &'static [u8],
    /// A write has failed: later writes are discarded.
    write_failed: bool,
}

/// The only pings on a connection are ours, so that every answer to a ping is for us.
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0tonicetc";

// === impl Wire ===

impl<T> Wire<T> {
    /// The receiver resolves at the first `SETTINGS`, and fails if the peer sends something else.
    pub(super) fn new(
        io: T,
        peer: Arc<Peer>,
        keep_alive: KeepAlive,
    ) -> (Self, oneshot::Receiver<()>) {
        let (tell, first) = oneshot::channel();
        let wire = Self {
            io,
            received: Received::default(),
            read: Bytes::new(),
            sent: Frames::of_client(),
            first: Some(tell),
            peer,
            keep_alive,
            timer: Box::pin(sleep_until(Instant::now())),
            ping: &[],
            write_failed: false,
        };
        (wire, first)
    }

    /// Follows what was read. Moves what hyper gets to the front, and returns its length.
    fn scan(&mut self, bytes: &mut [u8]) -> usize {
        self.received
            .read(bytes, |frame| match (frame, self.first.take()) {
                (Frame::Settings { max_streams }, first) => {
                    if let Some(limit) = max_streams {
                        self.peer.set_limit(limit);
                    }
                    let _ = first.map(|first| first.send(()));
                }
                // It does not speak HTTP/2, and the dial ends. HTTP/1 has the `P` of `HTTP` in the place of the frame type.
                (_, Some(_)) => {}
                (Frame::GoAway(go_away), None) => self.peer.on_go_away(go_away),
                (Frame::Headers | Frame::Data, None) => self.keep_alive.on_answer(),
                (Frame::Pong | Frame::Other, None) => {}
            })
    }

    /// Follows what was written.
    fn scan_sent(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.sent.next(&mut bytes) {
            if frame == Frame::Headers {
                self.keep_alive.on_call();
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> Wire<T> {
    /// Writes; returns `lost` once a write has failed.
    fn write<R>(
        &mut self,
        lost: R,
        write: impl FnOnce(Pin<&mut T>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        if self.write_failed {
            return Poll::Ready(Ok(lost));
        }
        let wrote = write(Pin::new(&mut self.io));
        let Poll::Ready(Err(error)) = &wrote else {
            return wrote;
        };
        match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset => {
                self.write_failed = true;
                Poll::Ready(Ok(lost))
            }
            _ => wrote,
        }
    }

    /// Writes what is left of a ping, between two frames of h2.
    fn poll_write_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ping.is_empty() || !self.sent.is_between() {
            return Poll::Ready(Ok(()));
        }
        while !self.ping.is_empty() {
            let ping = self.ping;
            let wrote = self.write(ping.len(), |io| io.poll_write(cx, ping));
            let wrote = ready!(wrote)?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.ping = ping.get(wrote..).unwrap_or_default();
        }
        self.write((), |io| io.poll_flush(cx))
    }

    /// Pings when it is time. Ends with an error when the peer is dead.
    fn poll_keep_alive(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        // Without calls there are no pings: servers of grpc-go close the connection of a client that pings an idle
        // connection. A broken idle connection is noticed by its first call, because pings begin with a call.
        while self.peer.streams() > 0 {
            let (Some(due), false) = (self.keep_alive.due(), self.write_failed) else {
                return Poll::Pending;
            };
            let (Due::Ping(at) | Due::Dead(at)) = due;
            let now = Instant::now();
            if now < at {
                // Usually the timer runs already, to an earlier time: nearly each read would set it again.
                if at < self.timer.deadline() || self.timer.is_elapsed() {
                    self.timer.as_mut().reset(at);
                }
                ready!(self.timer.as_mut().poll(cx));
                continue;
            }
            match due {
                Due::Ping(_) => {
                    self.ping = PING;
                    self.keep_alive.on_ping(now);
                    self.peer.set_pinged();
                    if let Poll::Ready(Err(error)) = self.poll_write_ping(cx) {
                        return Poll::Ready(error);
                    }
                }
                Due::Dead(_) => {
                    let text = "no answer to a keep-alive ping";
                    return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, text));
                }
            }
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire<T> {
    fn poll_read_io(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Pending => self.poll_keep_alive(cx).map(Err),
            read => {
                self.keep_alive.on_received(Instant::now());
                read
            }
        }
    }

    /// Reads more of a header that was cut.
    fn poll_read_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; HEADER];
        let mut header = ReadBuf::new(&mut bytes);
        header.put_slice(self.received.header());
        let begun = header.filled().len();
        ready!(self.poll_read_io(cx, &mut header))?;
        let header = header.filled_mut();
        let left = match header.len() > begun {
            true => self.scan(header),
            // The connection has ended there.
            false => begun + self.scan(&mut []),
        };
        self.read = Bytes::copy_from_slice(header.get(..left).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.read.is_empty() {
                let len = this.read.len().min(buf.remaining());
                buf.put_slice(&this.read.split_to(len));
                return Poll::Ready(Ok(()));
            }
            if !this.received.header().is_empty() {
                ready!(this.poll_read_header(cx))?;
                continue;
            }
            let before = buf.filled().len();
            ready!(this.poll_read_io(cx, buf))?;
            let new = buf.filled_mut().get_mut(before..).unwrap_or_default();
            let is_end = new.is_empty();
            let left = this.scan(new);
            buf.set_filled(before + left);
            // Nothing would mean that the connection has ended.
            if left > 0 || is_end {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_write_ping(cx))?;
        let wrote = ready!(self.write(buf.len(), |io| io.poll_write(cx, buf)))?;
        self.scan_sent(buf.get(..wrote).unwrap_or_default());
        Poll::Ready(Ok(wrote))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_write_ping(cx))?;
        let len = bufs.iter().map(|buf| buf.len()).sum();
        let wrote = ready!(self.write(len, |io| io.poll_write_vectored(cx, bufs)))?;
        let mut left = wrote;
        for buf in bufs {
            let part = left.min(buf.len());
            self.scan_sent(buf.get(..part).unwrap_or_default());
            left -= part;
        }
        Poll::Ready(Ok(wrote))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A ping that had to wait for the end of a frame.
        ready!(self.poll_write_ping(cx))?;
        self.write((), |io| io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write((), |io| io.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const DATA: &[u8] = &[0, 0, 1, 0, 0, 0, 0, 0, 1, b'x'];

    fn wire<T>(io: T) -> (Wire<T>, oneshot::Receiver<()>, Arc<Peer>) {
        let peer = Arc::new(Peer::new(Arc::default()));
        let second = Duration::from_secs(1);
        let keep_alive = KeepAlive::new(second * 10, second * 3, Instant::now());
        let (wire, first) = Wire::new(io, peer.clone(), keep_alive);
        (wire, first, peer)
    }

    #[tokio::test]
    async fn only_a_peer_that_begins_with_settings_speaks_http2() {
        for (bytes, speaks) in [
            (SETTINGS.to_vec(), true),
            (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), false),
            ([DATA, SETTINGS].concat(), false),
        ] {
            let (mut wire, mut first, _) = wire(());
            wire.scan(&mut bytes.clone());
            assert_eq!(first.try_recv().is_ok(), speaks, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn answers_to_pings_are_taken_out_however_they_arrive() {
        let mut pong = PING.to_vec();
        pong[4] = 1;
        let all = [SETTINGS, &pong, DATA, &pong, &pong, DATA, &pong, &DATA[..5]].concat();
        let expected = [SETTINGS, DATA, DATA, &DATA[..5]].concat();
        for (size, room) in (1..all.len()).flat_map(|size| [(size, 1), (size, 7), (size, 1024)]) {
            let (near, mut far) = tokio::io::duplex(size);
            let (mut wire, ..) = wire(near);
            let bytes = all.clone();
            tokio::spawn(async move { far.write_all(&bytes).await });
            let mut read = vec![];
            let mut buf = vec![0; room];
            loop {
                let len = wire.read(&mut buf).await.unwrap();
                match buf.get(..len) {
                    Some([]) | None => break,
                    Some(new) => read.extend_from_slice(new),
                }
            }
            assert_eq!(read, expected, "{size} {room}");
        }
    }

    /// A wire with a call in flight, and its peer, which has read the preface.
    async fn with_a_call() -> (Wire<DuplexStream>, DuplexStream, Arc<Peer>) {
        let (near, mut far) = tokio::io::duplex(1024);
        let (mut wire, _first, peer) = wire(near);
        std::mem::forget(peer.try_acquire());
        wire.write_all(&[b'P'; 24]).await.unwrap();
        far.read_exact(&mut [0; 24]).await.unwrap();
        (wire, far, peer)
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_waits_for_the_end_of_a_frame() {
        let (mut wire, mut far, _) = with_a_call().await;
        wire.write_all(&DATA[..5]).await.unwrap();
        let mut read = [0; 1];
        let soon = Duration::from_secs(11);
        let nothing = tokio::time::timeout(soon, wire.read(&mut read)).await;
        assert!(nothing.is_err());
        wire.write_all(&DATA[5..]).await.unwrap();
        wire.flush().await.unwrap();
        let mut sent = vec![0; DATA.len() + PING.len()];
        far.read_exact(&mut sent).await.unwrap();
        assert_eq!(sent, [DATA, PING].concat());
        let dead = wire.read(&mut read).await.unwrap_err();
        assert_eq!(dead.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_connection_is_still_read_after_a_ping_that_failed() {
        let (mut wire, mut far, _) = with_a_call().await;
        far.write_all(&[SETTINGS, DATA].concat()).await.unwrap();
        drop(far);
        let mut read = vec![];
        wire.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, [SETTINGS, DATA].concat());
    }
}
