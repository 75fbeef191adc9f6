//! [`Dialer`]: opens an HTTP/2 connection to an address.

use super::keep_alive::{KeepAlive, PingInterval};
use super::peer::Peer;
use super::replay_body::AttemptBody;
use super::wire::Wire;
use crate::etcd::chain;
use crate::etcd::net::connector::{Connector, Io};
use crate::etcd::net::resolver::Resolver;
use crate::runtime::exhausted;
use http::Uri;
use http::uri::Scheme;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// How connections are made.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    pub(super) connect_timeout: Duration,
    /// Shared by all connections of the channel.
    pub(super) ping_interval: Arc<PingInterval>,
    pub(super) keep_alive_timeout: Duration,
    pub(super) connector: Option<Connector>,
    pub(super) resolver: Resolver,
    /// Notified when any full connection accepts a call again.
    pub(super) stream_freed: Arc<Notify>,
}

/// A connection whose peer has sent its `SETTINGS`.
pub(super) struct Dialled {
    pub(super) sender: Sender,
    pub(super) dispatch: Dispatch,
    pub(super) peer: Arc<Peer>,
    /// The interval of its pings.
    pub(super) ping_interval: Duration,
}

pub(super) type Sender = http2::SendRequest<AttemptBody>;
/// Ends when no call can be sent on the connection any more; see [`super::reconnect`]. A task of its own: each call wakes it.
pub(super) type Dispatch = AbortOnDropHandle<hyper::Result<()>>;
/// The wire has a box, because hyper spawns a task for each call that is as large as its connection.
type Connection = http2::Connection<TokioIo<Box<Wire<Box<dyn Io>>>>, AttemptBody, TokioExecutor>;

/// hyper's own defaults have this size but may change. HTTP/2's 64 KiB would limit a stream to
/// 6 MB/s at a round trip of 10 ms. The connection has four times as much, so that a stream that
/// nobody reads does not block the others.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;
/// The range of what kernels accept for TCP keepalive.
const TCP_KEEPALIVE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(2 * 60 * 60);

// === impl Dialer ===

impl Default for Dialer {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            ping_interval: Arc::new(PingInterval::new(Duration::from_secs(10))),
            keep_alive_timeout: Duration::from_secs(3),
            connector: None,
            resolver: Resolver::of_instances(),
            stream_freed: Arc::default(),
        }
    }
}

impl Dialer {
    /// Connects within the time limit. The error is a text for people.
    ///
    /// Of a name with several addresses the one numbered `turn` is tried first, and the others soon
    /// after it, so that one address that drops packets does not use up the limit.
    pub(super) async fn dial(&self, origin: &Uri, turn: usize) -> Result<Dialled, String> {
        let limit = self.connect_timeout;
        let dialling = async {
            let opened = self.open(origin, turn).await;
            let io = opened.map_err(|error| exhausted::with_advice(chain(&error)))?;
            let peer = Arc::new(Peer::new(self.stream_freed.clone()));
            let ping_interval = self.ping_interval.get();
            let timeout = self.keep_alive_timeout;
            let keep_alive = KeepAlive::new(ping_interval, timeout, Instant::now());
            let (wire, settings) = Wire::new(io, peer.clone(), keep_alive);
            let (sender, connection) = handshake(wire).await.map_err(|e| chain(&e))?;
            match settings.await {
                Ok(()) => Ok(Dialled {
                    sender,
                    dispatch: AbortOnDropHandle::new(tokio::spawn(connection)),
                    peer,
                    ping_interval,
                }),
                Err(_) => Err("it closed the connection, or does not speak HTTP/2".to_owned()),
            }
        };
        let dialled = tokio::time::timeout(limit, dialling).await;
        dialled.unwrap_or_else(|_| {
            let (host, port) = (origin.host().unwrap_or_default(), origin.port_u16());
            let lookup = self
                .resolver
                .unanswered(host, port.unwrap_or_default(), limit);
            Err(lookup.unwrap_or_else(|| format!("no answer to a connect within {limit:?}")))
        })
    }

    async fn open(&self, origin: &Uri, turn: usize) -> io::Result<Box<dyn Io>> {
        if let Some(connector) = &self.connector {
            return connector.connect(origin.clone()).await;
        }
        if origin.scheme() == Some(&Scheme::HTTPS) {
            let reason = "it speaks TLS: give the channel a connector that does";
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        }
        let no_port = || io::Error::new(io::ErrorKind::InvalidInput, "it has no port");
        let port = origin.port_u16().ok_or_else(no_port)?;
        let limit = self.connect_timeout;
        let host = origin.host().unwrap_or_default();
        let connecting = self.resolver.connect(host, port, turn, limit);
        let stream = connecting.await?;
        self.keep_alive(&stream);
        Ok(Box::new(stream))
    }

    /// TCP's own keepalive. In a long silence pings are rare, but a host that is gone is noticed, and the entry of a NAT
    /// does not expire.
    fn keep_alive(&self, stream: &TcpStream) {
        let (interval, timeout) = (self.ping_interval.get(), self.keep_alive_timeout);
        let (shortest, longest) = (*TCP_KEEPALIVE.start(), *TCP_KEEPALIVE.end());
        if interval <= longest {
            let keep_alive = TcpKeepalive::new().with_time(interval.max(shortest));
            let keep_alive = keep_alive.with_interval(timeout.clamp(shortest, longest));
            // Without it the pings are left.
            let _unsupported = SockRef::from(stream).set_tcp_keepalive(&keep_alive);
        }
    }
}

async fn handshake(wire: Wire<Box<dyn Io>>) -> hyper::Result<(Sender, Connection)> {
    http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TokioIo::new(Box::new(wire)))
        .await
}

// === impl Dialled ===

impl Dialled {
    /// Whether calls can be sent on it.
    pub(super) fn is_open(&self) -> bool {
        !self.dispatch.is_finished() && !self.peer.is_draining()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_support::black_hole::BlackHole;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_name_is_reached_although_one_of_its_addresses_is_a_black_hole() {
        let hole = BlackHole::open().await;
        // The black hole is the first address of the resolver.
        let mut port = hole.addr().port();
        let listener = loop {
            port += 1;
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
                break listener;
            }
        };
        let addrs = vec![hole.addr(), listener.local_addr().unwrap()];
        let dialer = Dialer {
            connect_timeout: Duration::from_secs(5),
            resolver: Resolver::new(move |_, _| std::future::ready(Ok(addrs.clone()))),
            ..Dialer::default()
        };
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream
                    .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
                    .await
                    .unwrap();
                tokio::spawn(
                    async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await },
                );
            }
        });
        let name = Uri::from_static("http://greeter:9000");
        for turn in 0..2 {
            let dialled = dialer.dial(&name, turn).await;
            assert!(dialled.is_ok(), "{turn}: {:?}", dialled.err());
        }
        serving.abort();
    }
}
