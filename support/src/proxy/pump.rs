//! One connection through a [`Proxy`](super::Proxy): two directions, each a reader and a writer with a queue between them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// The most chunks on their way: enough so that latency does not limit the throughput.
const IN_FLIGHT: usize = 1024;

/// What the network does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Forwards all bytes.
    #[default]
    Forward,
    /// Accepts, forwards nothing either way, closes nothing; existing connections too.
    BlackHole,
    /// What the client sends arrives; what comes back does not.
    DropReplies,
    /// The listener is closed, existing connections are reset.
    Refuse,
    /// Each chunk takes this long, in either direction.
    Delay(Duration),
}

/// What has gone through.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) open: AtomicUsize,
    pub(super) accepted: AtomicUsize,
    pub(super) up: AtomicU64,
    pub(super) down: AtomicU64,
}

/// What the proxy's owner wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Steering {
    pub(super) mode: Mode,
    /// Connections accepted before this number went up are reset.
    pub(super) resets: u64,
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// From the client to the server.
    Up,
    /// And back.
    Down,
}

/// One connection, until either side has closed both ways, or a reset.
pub(super) async fn connection(
    client: TcpStream,
    upstream: SocketAddr,
    mut steering: watch::Receiver<Steering>,
    counts: Arc<Counts>,
) {
    let _open = Open::count(counts.clone());
    let born = steering.borrow().resets;
    let reset = steering.clone();
    // Both are reset, not closed, when they are dropped with data under way.
    let _abrupt = (client.set_zero_linger(), client.set_nodelay(true));
    tokio::select! {
        biased;
        _ = steering.wait_for(|now| now.resets != born) => {}
        _ended = forward(client, upstream, reset, &counts) => {}
    }
}

async fn forward(
    mut client: TcpStream,
    upstream: SocketAddr,
    steering: watch::Receiver<Steering>,
    counts: &Counts,
) -> io::Result<()> {
    // In a black hole even the connect does not come through.
    passing(&mut steering.clone(), Direction::Up).await?;
    let mut server = TcpStream::connect(upstream).await?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        pump(
            from_client,
            to_server,
            steering.clone(),
            Direction::Up,
            &counts.up
        ),
        pump(
            from_server,
            to_client,
            steering.clone(),
            Direction::Down,
            &counts.down
        ),
    )?;
    Ok(())
}

/// One direction: what is read now is written when it is due and the mode allows it.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    steering: watch::Receiver<Steering>,
    direction: Direction,
    bytes: &AtomicU64,
) -> io::Result<()> {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    let mut at_reader = steering.clone();
    let read = async move {
        loop {
            let mut chunk = vec![0; 16 * 1024];
            let size = match from.read(&mut chunk).await {
                Ok(size) => size,
                Err(broken) => {
                    // A reset does not come through a black hole either.
                    passing(&mut at_reader, direction).await?;
                    return Err(broken);
                }
            };
            chunk.truncate(size);
            let due = Instant::now() + at_reader.borrow_and_update().mode.delay();
            // An empty chunk is the end of this direction.
            if sender.send((due, chunk)).await.is_err() || size == 0 {
                return Ok(());
            }
        }
    };
    let mut at_writer = steering;
    let write = async move {
        while let Some((due, chunk)) = under_way.recv().await {
            sleep_until(due).await;
            passing(&mut at_writer, direction).await?;
            if chunk.is_empty() {
                return to.shutdown().await;
            }
            bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            to.write_all(&chunk).await?;
        }
        Ok(())
    };
    tokio::try_join!(read, write)?;
    Ok(())
}

/// Waits until this direction is not held back.
async fn passing(steering: &mut watch::Receiver<Steering>, direction: Direction) -> io::Result<()> {
    let passes = |now: &Steering| !now.mode.holds(direction);
    match steering.wait_for(passes).await {
        Ok(_) => Ok(()),
        Err(_nobody_steers) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

impl Mode {
    fn holds(self, direction: Direction) -> bool {
        match self {
            Self::BlackHole | Self::Refuse => true,
            Self::DropReplies => direction == Direction::Down,
            Self::Forward | Self::Delay(_) => false,
        }
    }

    fn delay(self) -> Duration {
        match self {
            Self::Delay(delay) => delay,
            _ => Duration::ZERO,
        }
    }
}

/// Counts a connection while it is open.
struct Open(Arc<Counts>);

impl Open {
    fn count(counts: Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::Relaxed);
        Self(counts)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
