//! [`Dialer`]: opens an HTTP/2 connection to an address.

use super::replay_body::AttemptBody;
use super::settings::{SettingsIo, StreamQuota};
use crate::connector::{Connector, Io};
use crate::etcd::chain;
use crate::resolver::Resolver;
use http::Uri;
use http::uri::Scheme;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How connections are made.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    pub(super) connect_timeout: Duration,
    pub(super) keep_alive_interval: Duration,
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
    pub(super) quota: Arc<StreamQuota>,
}

pub(super) type Sender = http2::SendRequest<AttemptBody>;
/// Ends when no call can be sent on the connection any more; see [`super::reconnect`].
pub(super) type Dispatch =
    http2::Connection<TokioIo<SettingsIo<Box<dyn Io>>>, AttemptBody, TokioExecutor>;

/// hyper's own defaults have this size but may change. HTTP/2's 64 KiB would limit a stream to
/// 6 MB/s at a round trip of 10 ms. The connection has four times as much, so that a stream that
/// nobody reads does not block the others.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;
/// Practically for ever. hyper adds durations to the clock, and panics on overflow.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

// === impl Dialer ===

impl Default for Dialer {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            keep_alive_interval: Duration::from_secs(10),
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
    pub(super) async fn dial(
        &self,
        origin: &Uri,
        turn: usize,
        keep_alive_interval: Duration,
    ) -> Result<Dialled, String> {
        let limit = self.connect_timeout;
        let dialling = async {
            let io = self.open(origin, turn).await.map_err(|e| chain(&e))?;
            let quota = Arc::new(StreamQuota::new(self.stream_freed.clone()));
            let (io, settings) = SettingsIo::new(io, quota.clone());
            let handshake = self.handshake(io, keep_alive_interval).await;
            let (sender, dispatch) = handshake.map_err(|e| chain(&e))?;
            match settings.await {
                Ok(()) => Ok(Dialled {
                    sender,
                    dispatch,
                    quota,
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
        Ok(Box::new(connecting.await?))
    }

    /// No pings while there are no streams: servers of grpc-go close the connection of a client that pings an idle
    /// connection more often than every five minutes. A broken idle connection is noticed by
    /// its first call, because pings begin with a call.
    async fn handshake(
        &self,
        io: SettingsIo<Box<dyn Io>>,
        keep_alive_interval: Duration,
    ) -> hyper::Result<(Sender, Dispatch)> {
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(keep_alive_interval.min(FOR_EVER))
            .keep_alive_timeout(self.keep_alive_timeout.min(FOR_EVER))
            .keep_alive_while_idle(false)
            .handshake(TokioIo::new(io))
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::black_hole::BlackHole;
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
            let dialled = dialer.dial(&name, turn, dialer.keep_alive_interval).await;
            assert!(dialled.is_ok(), "{turn}: {:?}", dialled.err());
        }
        serving.abort();
    }
}
