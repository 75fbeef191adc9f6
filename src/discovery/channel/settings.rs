//! Reads the peer's HTTP/2 `SETTINGS`: whether it uses HTTP/2, and how many streams it accepts.
//!
//! hyper shows neither. For hyper a connection is established once our own preface is written. But the kernel
//! accepts connections, and buffers the preface, also for a process that hangs or is about to close
//! its port: a call sent there is lost. Servers send `SETTINGS` first, so we wait for them,
//! as grpc-go does. A request above `MAX_CONCURRENT_STREAMS` would stay in hyper's queue without a
//! time limit, and could not be sent elsewhere. So it is not put there.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, oneshot};

/// A connection that parses incoming `SETTINGS` frames as they are read.
///
/// It does not return the error of a failed write. A server that shuts down gracefully sends at last which calls it
/// has not accepted (`GOAWAY`), and closes. But h2 stops at the first failed write, and does not read that
/// frame. Over TCP four of a thousand shutdowns under load had such a write, and some of them failed all
/// calls of a connection. A read also finds the end of the connection, after all that was sent.
#[derive(Debug)]
pub(super) struct SettingsIo<T> {
    io: T,
    /// `None` once it is clear that the peer does not use HTTP/2.
    frames: Option<Frames>,
    first: Option<oneshot::Sender<()>>,
    quota: Arc<StreamQuota>,
    /// A write has failed: later writes are discarded.
    write_failed: bool,
}

/// How many streams the peer accepts on one connection, and how many are open.
#[derive(Debug)]
pub(super) struct StreamQuota {
    open: AtomicUsize,
    limit: AtomicUsize,
    /// Notified when a stream has ended, or when the limit has risen.
    freed: Arc<Notify>,
}

/// A permit for one open stream.
#[derive(Debug)]
pub(super) struct StreamPermit(Arc<StreamQuota>);

/// The position in the frames from the peer.
#[derive(Debug, Default)]
struct Frames {
    header: Vec<u8>,
    /// How much of the payload is still to come.
    left: usize,
    /// The payload so far, if it is of a `SETTINGS` frame.
    settings: Option<Vec<u8>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Frame {
    Settings { max_streams: Option<u32> },
    Other,
}

const HEADER: usize = 9;
const SETTINGS: u8 = 4;
const MAX_CONCURRENT_STREAMS: u16 = 3;

// === impl SettingsIo ===

impl<T> SettingsIo<T> {
    /// The receiver resolves at the first `SETTINGS`, and fails if the peer sends something else.
    pub(super) fn new(io: T, quota: Arc<StreamQuota>) -> (Self, oneshot::Receiver<()>) {
        let (tell, first) = oneshot::channel();
        let io = Self {
            io,
            frames: Some(Frames::default()),
            first: Some(tell),
            quota,
            write_failed: false,
        };
        (io, first)
    }

    fn scan(&mut self, mut bytes: &[u8]) {
        let Some(frames) = &mut self.frames else {
            return;
        };
        while let Some(frame) = frames.next(&mut bytes) {
            let first = self.first.take();
            match (frame, first) {
                (Frame::Settings { max_streams }, first) => {
                    if let Some(limit) = max_streams {
                        self.quota.set_limit(limit);
                    }
                    let _ = first.map(|first| first.send(()));
                }
                // An answer in HTTP/1 has the `P` of `HTTP` in the place of the frame type.
                (Frame::Other, Some(_)) => {
                    self.frames = None;
                    return;
                }
                (Frame::Other, None) => {}
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> SettingsIo<T> {
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
}

impl<T: AsyncRead + Unpin> AsyncRead for SettingsIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.scan(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for SettingsIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(buf.len(), |io| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        self.write(len, |io| io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write((), |io| io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write((), |io| io.poll_shutdown(cx))
    }
}

// === impl StreamQuota ===

impl StreamQuota {
    /// No limit, until the peer sends one.
    pub(super) fn new(freed: Arc<Notify>) -> Self {
        Self {
            open: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            freed,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.open.load(Relaxed) < self.limit.load(Relaxed)
    }

    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<StreamPermit> {
        let limit = self.limit.load(Relaxed);
        let more = |open| (open < limit).then_some(open + 1);
        self.open.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(StreamPermit(self.clone()))
    }

    fn set_limit(&self, limit: u32) {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if self.limit.swap(limit, Relaxed) < limit {
            self.freed.notify_waiters();
        }
    }
}

// === impl StreamPermit ===

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        // Wake one waiter for one stream: waking all at each end would be n² work.
        if self.0.limit.load(Relaxed) != usize::MAX {
            self.0.freed.notify_one();
        }
    }
}

// === impl Frames ===

impl Frames {
    /// Consumes bytes until a frame is complete, or there are no more.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        loop {
            if self.left > 0 {
                let piece = take(bytes, self.left);
                self.left -= piece.len();
                if let Some(payload) = &mut self.settings {
                    payload.extend_from_slice(piece);
                }
                if self.left > 0 {
                    return None;
                }
                if let Some(payload) = self.settings.take() {
                    let max_streams = max_streams(&payload);
                    return Some(Frame::Settings { max_streams });
                }
            }
            self.header
                .extend_from_slice(take(bytes, HEADER - self.header.len()));
            let [a, b, c, kind, _, _, _, _, _] = *self.header else {
                return None;
            };
            self.header.clear();
            let len = u32::from_be_bytes([0, a, b, c]);
            self.left = usize::try_from(len).unwrap_or(usize::MAX);
            if kind != SETTINGS {
                return Some(Frame::Other);
            }
            if self.left == 0 {
                return Some(Frame::Settings { max_streams: None });
            }
            self.settings = Some(Vec::new());
        }
    }
}

/// Splits off at most `n` bytes.
fn take<'a>(bytes: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (piece, rest) = bytes.split_at(n.min(bytes.len()));
    *bytes = rest;
    piece
}

/// The last value counts (RFC 9113).
fn max_streams(payload: &[u8]) -> Option<u32> {
    let entries = payload.chunks_exact(6).rev();
    let mut values = entries.filter_map(|entry| match *entry {
        [a, b, c, d, e, f] if u16::from_be_bytes([a, b]) == MAX_CONCURRENT_STREAMS => {
            Some(u32::from_be_bytes([c, d, e, f]))
        }
        _ => None,
    });
    values.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, 0, 0, 0, 0, 0], payload].concat()
    }

    fn setting(id: u16, value: u32) -> Vec<u8> {
        [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
    }

    #[test]
    fn settings_are_found_however_the_bytes_are_cut() {
        let none = frame(SETTINGS, &setting(4, 7));
        let some = [setting(3, 1), setting(4, 7), setting(3, 250)].concat();
        let data = frame(0, &frame(SETTINGS, &setting(3, 9)));
        let all = [
            &none[..],
            &data,
            &frame(SETTINGS, &some),
            &frame(SETTINGS, &[]),
        ]
        .concat();
        for size in 1..=all.len() {
            let mut frames = Frames::default();
            let mut found = vec![];
            for mut piece in all.chunks(size) {
                found.extend(std::iter::from_fn(|| frames.next(&mut piece)));
            }
            let settings = |max_streams| Frame::Settings { max_streams };
            let expected = [
                settings(None),
                Frame::Other,
                settings(Some(250)),
                settings(None),
            ];
            assert_eq!(found, expected, "{size}");
        }
    }

    #[test]
    fn only_a_peer_that_begins_with_settings_speaks_http2() {
        for (bytes, speaks) in [
            (frame(SETTINGS, &[]), true),
            (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), false),
            ([frame(0, b"x"), frame(SETTINGS, &[])].concat(), false),
        ] {
            let quota = Arc::new(StreamQuota::new(Arc::default()));
            let (mut io, mut first) = SettingsIo::new((), quota);
            io.scan(&bytes);
            assert_eq!(first.try_recv().is_ok(), speaks, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn permits_are_given_up_to_the_limit_and_freed_ones_notify() {
        let freed = Arc::new(Notify::new());
        let quota = Arc::new(StreamQuota::new(freed.clone()));
        quota.set_limit(2);
        let (first, _second) = (quota.try_acquire().unwrap(), quota.try_acquire().unwrap());
        assert!(!quota.has_room() && quota.try_acquire().is_none());
        drop(first);
        freed.notified().await;
        let _third = quota.try_acquire().unwrap();
        let raised = freed.notified();
        quota.set_limit(3);
        raised.await;
        assert!(quota.has_room());
    }
}
