//! A listener for `axum::serve`.

use super::listener::Accept;
use super::{Connection, Incoming, Listener};
use std::future::pending;
use std::io;
use tokio_stream::StreamExt as _;

/// Accepts as axum's own listeners do. Once the drain has begun, it accepts the backlog, closes the port, and stays
/// pending: [`drain_signal`](crate::Registration::drain_signal) ends `axum::serve`.
///
/// ```no_run
/// # async fn f(registration: tonic_etcd::Registration) -> Result<(), Box<dyn std::error::Error>> {
/// use axum::Router;
/// use axum::routing::get;
///
/// let app = Router::new()
///     .route("/", get(async || "hello"))
///     .layer(registration.layer().announce(false)); // axum applies it before anything listens
/// axum::serve(registration.bind("0.0.0.0:9000".parse()?)?, app)
///     .with_graceful_shutdown(registration.drain_signal())
///     .await?;
/// # Ok(())
/// # }
/// ```
///
/// axum gives handlers the peer's address (`ConnectInfo<SocketAddr>`) only for its own listeners and for listeners that
/// `tap_io` returns. So call `tap_io` with a function that does nothing:
///
/// ```no_run
/// # async fn f(registration: tonic_etcd::Registration) -> Result<(), Box<dyn std::error::Error>> {
/// use axum::Router;
/// use axum::extract::ConnectInfo;
/// use axum::routing::get;
/// use axum::serve::ListenerExt as _;
/// use std::net::SocketAddr;
///
/// let app = Router::new()
///     .route("/", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()))
///     .layer(registration.layer().announce(false))
///     .into_make_service_with_connect_info::<SocketAddr>();
/// axum::serve(registration.bind("0.0.0.0:9000".parse()?)?.tap_io(|_| ()), app)
///     .with_graceful_shutdown(registration.drain_signal())
///     .await?;
/// # Ok(())
/// # }
/// ```
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
impl<L: Listener> ::axum::serve::Listener for Incoming<L> {
    type Io = Connection<<L as Accept>::Io>;
    type Addr = <L as Accept>::Addr;

    /// Cancel safe: a connection that was accepted is returned, or is still in the backlog.
    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.next().await {
                Some(Ok(io)) => {
                    // An error: the peer has closed the connection already.
                    if let Ok(addr) = L::peer_addr(io.get_ref()) {
                        return (io, addr);
                    }
                }
                // It has its own pauses.
                Some(Err(_)) => {}
                None => pending::<()>().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.first_addr().clone())
    }
}
