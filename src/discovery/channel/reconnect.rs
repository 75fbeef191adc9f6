//! The tasks of a channel: one reads the changes, and one for each address keeps it connected.
//!
//! ```text
//! connect -> ready (while healthy) -> why did that end?
//!    ConnectFailed   backoff
//!    Lost            backoff; at once if it had worked for a while
//!    Draining        the same; the calls in flight end where they are
//! ```
//!
//! How hyper (1.12) reports the end of a connection:
//!
//! * The [`Dispatch`](super::dial::Dispatch) future takes calls from the queue and opens their
//!   streams. It ends when the connection has ended. After a `GOAWAY` it ends when it polls the
//!   connection next: at the first call, which comes back unsent, together with all
//!   calls behind it. Without an open stream the connection ends with the `GOAWAY`, and so does the
//!   future.
//! * The connection itself is a task of hyper, and continues until its last stream has ended.
//!   Dropping the dispatch future ends no stream; the calls in its queue come back unsent.
//! * A call above the last stream of a `GOAWAY` ends with that `GOAWAY` as its error.

use super::addresses::{AddressChange, Addresses};
use super::connectivity::ConnectivityState;
use super::dial::Dialled;
use super::health;
use super::origin::Origin;
use super::pool::Pool;
use super::retry::is_too_many_pings;
use super::subchannel::{Connection, Subchannel};
use crate::backoff::Backoff;
use crate::discovery::changes::Change;
use crate::escaped::Escaped;
use crate::etcd::chain;
use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::task::AbortOnDropHandle;

/// The source of the changes.
pub(super) type Source = Pin<Box<dyn Stream<Item = Change> + Send>>;

/// Why a connection, or an attempt to connect, ended.
#[derive(Debug)]
enum Disconnect {
    ConnectFailed(String),
    /// It ended by itself, or with this error.
    Lost(Option<hyper::Error>),
    /// It accepts no more calls; those in flight continue.
    Draining,
}

/// Keeps a connection in the ready set until it is dropped.
struct ReadyGuard<'a> {
    pool: &'a Pool,
    connection: &'a Arc<Connection>,
}

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A connection that worked for so long is replaced without a wait.
const RESET_BACKOFF_AFTER: Duration = Duration::from_secs(1);
/// The longest interval of pings: TCP keepalive finds broken connections as fast.
const RAREST_PING: Duration = Duration::from_secs(2 * 60 * 60);

/// Keeps the addresses of the source connected. Dropping it ends everything except calls in flight.
pub(super) async fn run(pool: Arc<Pool>, mut source: Source, mut addresses: Addresses) {
    let mut subchannels = HashMap::new();
    while let Some(change) = source.next().await {
        if let Change::Insert { instance, .. } = &change {
            pool.set_name(instance.name());
        }
        for change in addresses.apply(&change) {
            match change {
                AddressChange::Add(origin, weight) => {
                    let added = add(&pool, &origin, weight);
                    subchannels.extend(added.map(|added| (origin, added)));
                }
                AddressChange::SetWeight(origin, weight) => {
                    if let Some((subchannel, _)) = subchannels.get(&origin) {
                        subchannel.set_weight(weight);
                    }
                }
                AddressChange::Remove(origin) => {
                    if let Some((subchannel, _task)) = subchannels.remove(&origin) {
                        pool.remove(&subchannel.address);
                    }
                }
            }
        }
        // A source that is always ready must not starve other tasks.
        tokio::task::consume_budget().await;
    }
    // The source has ended: the last instances stay.
    std::future::pending::<()>().await;
}

/// The subchannel, and the task that stays connected to it.
fn add(
    pool: &Arc<Pool>,
    origin: &Origin,
    weight: u32,
) -> Option<(Arc<Subchannel>, AbortOnDropHandle<()>)> {
    let address = origin.to_string();
    let uri = match origin.uri() {
        Ok(uri) => uri,
        Err(error) => {
            let service = pool.name();
            crate::logging::warn!(%service, address = %Escaped::new(&address), %error, "not an address, left out");
            return None;
        }
    };
    let subchannel = Arc::new(Subchannel::new(address.into(), uri, weight));
    pool.insert(subchannel.clone());
    let task = tokio::spawn(reconnect(pool.clone(), subchannel.clone()));
    Some((subchannel, AbortOnDropHandle::new(task)))
}

/// Keeps one address connected until the future is dropped. Cancel safe.
async fn reconnect(pool: Arc<Pool>, subchannel: Arc<Subchannel>) {
    let mut backoff = Backoff::new(FIRST_BACKOFF, RESET_BACKOFF_AFTER);
    let mut rng = fastrand::Rng::new();
    let mut ping = pool.dialer.keep_alive_interval;
    for turn in 0.. {
        let (lasted, disconnect) = connect_once(&pool, &subchannel, turn, ping).await;
        if disconnect.is_too_many_pings() {
            // gRPC requires this of clients (proposal A8). A server may complain only about streams
            // without other frames, and only after a while.
            ping = ping.saturating_mul(2).min(RAREST_PING).max(ping);
        }
        pool.set_state(&subchannel, failure(&disconnect.reason()));
        sleep(backoff.failed_after(lasted, MAX_BACKOFF, &mut rng)).await;
    }
}

/// Connects once, and runs the connection to its end. Returns why it ended and how long it worked.
async fn connect_once(
    pool: &Pool,
    subchannel: &Arc<Subchannel>,
    turn: usize,
    ping: Duration,
) -> (Duration, Disconnect) {
    // The semaphore is never closed.
    let permit = pool.connecting.acquire().await.ok();
    pool.set_state(subchannel, ConnectivityState::Connecting);
    let dialled = pool.dialer.dial(&subchannel.origin, turn, ping).await;
    drop(permit);
    match dialled {
        Err(reason) => (Duration::ZERO, Disconnect::ConnectFailed(reason)),
        Ok(dialled) => {
            let since = Instant::now();
            let disconnect = run_connection(pool, subchannel, dialled).await;
            (since.elapsed(), disconnect)
        }
    }
}

/// Keeps the connection in the ready set until it accepts no more calls.
async fn run_connection(pool: &Pool, subchannel: &Arc<Subchannel>, dialled: Dialled) -> Disconnect {
    let connection = Connection::new(subchannel.clone(), dialled.sender, dialled.quota);
    let connection = Arc::new(connection);
    let mut dispatch = pin!(dialled.dispatch);
    let (report, mut serving) = watch::channel(None);
    let service = pool.health_service.as_deref();
    let mut health = pin!(health::watch_health(service, &connection, &report));
    let mut ready = None;
    loop {
        // The end first, so that a lost connection does not become ready.
        tokio::select! {
            biased;
            end = &mut dispatch => return Disconnect::Lost(end.err()),
            () = connection.draining() => return Disconnect::Draining,
            () = &mut health => {}
            _ = serving.changed() => {
                let state = match *serving.borrow_and_update() {
                    Some(true) => {
                        ready.get_or_insert_with(|| ReadyGuard::new(pool, &connection));
                        ConnectivityState::Ready
                    }
                    _ => {
                        ready = None;
                        failure("its health service says that it does not serve")
                    }
                };
                pool.set_state(subchannel, state);
            }
            () = subchannel.weight_changed() => pool.ready.update_weight(&connection),
        }
    }
}

fn failure(reason: &str) -> ConnectivityState {
    let reason = reason.into();
    ConnectivityState::TransientFailure { reason }
}

// === impl Disconnect ===

impl Disconnect {
    fn reason(&self) -> String {
        match self {
            Self::ConnectFailed(reason) => reason.clone(),
            Self::Lost(Some(error)) => format!("connection lost: {}", chain(error)),
            Self::Lost(None) => "the connection ended".to_owned(),
            Self::Draining => "it accepts no more calls on this connection".to_owned(),
        }
    }

    fn is_too_many_pings(&self) -> bool {
        matches!(self, Self::Lost(Some(error)) if is_too_many_pings(error))
    }
}

// === impl ReadyGuard ===

impl<'a> ReadyGuard<'a> {
    fn new(pool: &'a Pool, connection: &'a Arc<Connection>) -> Self {
        pool.ready.insert(connection.clone());
        Self { pool, connection }
    }
}

impl Drop for ReadyGuard<'_> {
    fn drop(&mut self) {
        self.pool.ready.remove(self.connection);
    }
}
