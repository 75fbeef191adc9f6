//! Connections without sockets: a pipe inside the process that can be cut, and blocked in each direction.
//!
//! A client's connector gets one end of a [`tokio::io::duplex`], the server the other one, wrapped in a [`Pipe`]. A
//! [`Link`] controls the pipe. So a fault affects every connection at once, also in the middle of a frame. It is
//! below HTTP/2, so that it affects pings and window updates, too.

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
pub(crate) struct Link {
    /// Counted from 1.
    pub(crate) id: u64,
    /// The host that the client dialled.
    pub(crate) member: String,
    flow: Mutex<Flow>,
}

/// How a member treats its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It serves.
    #[default]
    Up,
    /// The process is gone: connections are cut, new ones are refused.
    Down,
    /// The process is frozen: connects succeed and requests arrive. They are handled once it continues.
    Hung,
    /// The network drops everything, both ways: connects are not answered either.
    BlackHole,
    /// The network drops the answers: requests are applied, and no reply arrives.
    NoReplies,
}

/// A slow link, each way: `bytes` at once, then none for `pause`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace(pub(crate) usize, pub(crate) Duration);

/// The server's end of a connection.
#[derive(Debug)]
pub(crate) struct Pipe {
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
    mode: Mode,
    pace: Option<Pace>,
    /// Silent for good, whatever happens to the other connections.
    stranded: bool,
    cut: bool,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// A new connection: the client's end, and the server's.
pub(crate) fn connect(
    id: u64,
    member: &str,
    mode: Mode,
    pace: Option<Pace>,
) -> (DuplexStream, Pipe) {
    let (client, io) = tokio::io::duplex(BUFFER);
    let link = Arc::new(Link {
        id,
        member: member.to_owned(),
        flow: Mutex::new(Flow {
            mode,
            pace,
            ..Flow::default()
        }),
    });
    let pipe = Pipe {
        io,
        link,
        reading: Pauses::default(),
        writing: Pauses::default(),
        held: Vec::new(),
    };
    (client, pipe)
}

impl Mode {
    /// Whether nothing that the client sends is read.
    fn is_deaf(self) -> bool {
        self == Self::BlackHole
    }

    /// Whether nothing is sent to the client.
    fn is_mute(self) -> bool {
        matches!(self, Self::Hung | Self::BlackHole | Self::NoReplies)
    }
}

impl Link {
    /// Its member is in another mode.
    pub(crate) fn set(&self, mode: Mode) {
        match mode {
            Mode::Down => self.cut(),
            _ => self.change(|flow| flow.mode = mode),
        }
    }

    /// From now on bytes go that fast.
    pub(crate) fn slow_down(&self, pace: Option<Pace>) {
        self.change(|flow| flow.pace = pace);
    }

    /// Blocks both directions for good, without closing the connection.
    pub(crate) fn strand(&self) {
        self.change(|flow| flow.stranded = true);
    }

    /// The connection is gone; what was under way on it is lost.
    pub(crate) fn cut(&self) {
        self.change(|flow| flow.cut = true);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.flow().cut
    }

    /// Whether the server still has it open.
    pub(crate) fn is_open(&self) -> bool {
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
    fn poll(&self, cx: &mut Context<'_>, side: Side) -> io::Result<(Mode, Option<Pace>)> {
        let mut flow = self.flow();
        // Also when bytes may flow: then the caller waits for the pipe, and a cut must end that wait.
        let waker = match side {
            Side::Reading => &mut flow.reader,
            Side::Writing => &mut flow.writer,
        };
        *waker = Some(cx.waker().clone());
        match *flow {
            Flow { cut: true, .. } => Err(io::ErrorKind::ConnectionReset.into()),
            Flow { stranded: true, .. } => Ok((Mode::BlackHole, None)),
            Flow { mode, pace, .. } => Ok((mode, pace)),
        }
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipe {
    pub(crate) fn link(&self) -> Arc<Link> {
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
        let (mode, pace) = this.link.poll(cx, Side::Reading)?;
        if !mode.is_mute() {
            // An idle server writes nothing by itself, but it always reads: this is where it notices the end of a silence.
            let _sent = this.release(cx, pace)?;
        }
        if mode.is_deaf() {
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
        let (mode, pace) = this.link.poll(cx, Side::Writing)?;
        if mode.is_mute() {
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
        let (mode, pace) = this.link.poll(cx, Side::Writing)?;
        if mode.is_mute() {
            return Poll::Ready(Ok(()));
        }
        ready!(this.release(cx, pace))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A silent network does not carry the end of a connection either.
        match this.link.poll(cx, Side::Writing)?.0.is_mute() {
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
