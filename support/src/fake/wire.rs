//! Connections without sockets: a pipe inside the runtime that can be cut, and blocked in each direction.
//!
//! A client's connector gets one end of a [`tokio::io::duplex`], the fake's server the other one, wrapped in a [`Pipe`]. A
//! [`Link`], which the fake keeps, controls the pipe. So a fault affects every connection at
//! once, also in the middle of a frame. It is below HTTP/2, so that it affects pings and window updates, too.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

/// The buffer of a pipe in each direction, in bytes, like a socket's buffers.
const BUFFER: usize = 256 * 1024;

/// Controls one connection.
#[derive(Debug)]
pub(super) struct Link {
    /// Counted from 1.
    pub(super) id: u64,
    /// The host that the client dialled.
    pub(super) member: String,
    flow: Mutex<Flow>,
}

/// The directions that are blocked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Nothing that the client sends is read.
    pub(super) deaf: bool,
    /// Nothing is sent to the client.
    pub(super) mute: bool,
}

/// A slow link, each way: `bytes` at once, then none for `pause`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace(pub(super) usize, pub(super) Duration);

/// The server's end of a connection.
#[derive(Debug)]
pub(super) struct Pipe {
    io: DuplexStream,
    link: Arc<Link>,
    reading: Pauses,
    writing: Pauses,
    /// Bytes that the server sent while mute: the client gets them when that ends.
    held: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Side {
    Reading,
    Writing,
}

/// The pauses of one direction of a slow link.
#[derive(Debug, Default)]
struct Pauses(Option<Pin<Box<Sleep>>>);

#[derive(Debug, Default)]
struct Flow {
    traffic: Traffic,
    pace: Option<Pace>,
    /// For good, whatever happens to the other connections.
    stranded: bool,
    cut: bool,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// A new connection: the client's end, and the server's.
pub(super) fn connect(
    id: u64,
    member: &str,
    traffic: Traffic,
    pace: Option<Pace>,
) -> (DuplexStream, Pipe) {
    let (client, io) = tokio::io::duplex(BUFFER);
    let link = Arc::new(Link {
        id,
        member: member.to_owned(),
        flow: Mutex::default(),
    });
    link.steer(traffic);
    link.slow_down(pace);
    let pipe = Pipe {
        io,
        link,
        reading: Pauses::default(),
        writing: Pauses::default(),
        held: Vec::new(),
    };
    (client, pipe)
}

impl Traffic {
    const SILENCE: Self = Self {
        deaf: true,
        mute: true,
    };
}

impl Link {
    /// Sets the blocked directions.
    pub(super) fn steer(&self, traffic: Traffic) {
        self.change(|flow| flow.traffic = traffic);
    }

    /// From now on bytes go that fast.
    pub(super) fn slow_down(&self, pace: Option<Pace>) {
        self.change(|flow| flow.pace = pace);
    }

    /// Blocks both directions for good, without closing the connection.
    pub(super) fn strand(&self) {
        self.change(|flow| flow.stranded = true);
    }

    /// The connection is gone; what was under way on it is lost.
    pub(super) fn cut(&self) {
        self.change(|flow| flow.cut = true);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.flow().cut
    }

    /// Whether the server still has it open.
    pub(super) fn is_open(&self) -> bool {
        let flow = self.flow();
        !flow.closed && !flow.cut
    }

    fn change(&self, how: impl FnOnce(&mut Flow)) {
        let mut flow = self.flow();
        how(&mut flow);
        let sleepers = [flow.reader.take(), flow.writer.take()];
        drop(flow);
        sleepers.into_iter().flatten().for_each(Waker::wake);
    }

    /// What may happen now; the task is woken when that changes.
    fn poll(&self, cx: &mut Context<'_>, side: Side) -> io::Result<(Traffic, Option<Pace>)> {
        let mut flow = self.flow();
        // Also when bytes may flow: then the caller waits for the pipe, and a cut must end that wait.
        let waker = match side {
            Side::Reading => &mut flow.reader,
            Side::Writing => &mut flow.writer,
        };
        *waker = Some(cx.waker().clone());
        match *flow {
            Flow { cut: true, .. } => Err(io::ErrorKind::ConnectionReset.into()),
            Flow { stranded: true, .. } => Ok((Traffic::SILENCE, None)),
            Flow { traffic, pace, .. } => Ok((traffic, pace)),
        }
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipe {
    pub(super) fn link(&self) -> Arc<Link> {
        self.link.clone()
    }

    /// Sends what was held back, as far as it goes.
    fn release(&mut self, cx: &mut Context<'_>, pace: Option<Pace>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let size = ready!(self.writing.poll_size(cx, pace)).min(self.held.len());
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &self.held[..size]))?;
            self.writing.begin(pace);
            self.held.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl Pauses {
    /// How many bytes may go, after the pause.
    fn poll_size(&mut self, cx: &mut Context<'_>, pace: Option<Pace>) -> Poll<usize> {
        let Some(Pace(size, _)) = pace else {
            return Poll::Ready(usize::MAX);
        };
        if let Some(pause) = &mut self.0 {
            ready!(pause.as_mut().poll(cx));
            self.0 = None;
        }
        Poll::Ready(size)
    }

    /// Bytes went.
    fn begin(&mut self, pace: Option<Pace>) {
        self.0 = pace.map(|Pace(_, pause)| Box::pin(sleep(pause)));
    }
}

/// tonic puts the link among the extensions of each request.
impl Connected for Pipe {
    type ConnectInfo = Arc<Link>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.link()
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (traffic, pace) = this.link.poll(cx, Side::Reading)?;
        if !traffic.mute {
            // An idle server writes nothing by itself, but it always reads: this is where it notices the end of a silence.
            let _sent = this.release(cx, pace)?;
        }
        if traffic.deaf {
            return Poll::Pending;
        }
        let size = ready!(this.reading.poll_size(cx, pace)).min(buf.remaining());
        let mut some = ReadBuf::new(buf.initialize_unfilled_to(size));
        ready!(Pin::new(&mut this.io).poll_read(cx, &mut some))?;
        let size = some.filled().len();
        buf.advance(size);
        this.reading.begin(pace);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let (traffic, pace) = this.link.poll(cx, Side::Writing)?;
        if traffic.mute {
            this.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(this.release(cx, pace))?;
        let size = ready!(this.writing.poll_size(cx, pace)).min(bytes.len());
        let sent = ready!(Pin::new(&mut this.io).poll_write(cx, &bytes[..size]))?;
        this.writing.begin(pace);
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (traffic, pace) = this.link.poll(cx, Side::Writing)?;
        if traffic.mute {
            return Poll::Ready(Ok(()));
        }
        ready!(this.release(cx, pace))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A silent network does not carry the end of a connection either.
        match this.link.poll(cx, Side::Writing)?.0.mute {
            true => Poll::Pending,
            false => Pin::new(&mut this.io).poll_shutdown(cx),
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.link.flow().closed = true;
    }
}
