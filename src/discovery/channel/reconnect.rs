//! The tasks of a channel: one reads the changes, and for each address one stays connected to it.
//!
//! ```text
//! connect -> ready (while healthy) -> why did that end?
//!    ConnectFailed   backoff
//!    Lost            backoff; at once if it had worked for a while
//!    Draining        the same; the calls in flight end where they are
//! ```
//!
//! What hyper (1.12) tells of an end, and when:
//!
//! * The [`Dispatch`](super::dial::Dispatch) future takes calls from the queue and opens their
//!   streams. It ends when the connection has ended, and, after a `GOAWAY`, when it looks at the
//!   connection next: that is at the first call after it, which comes back unsent, together with all
//!   that wait behind it. With no stream open the connection ends with the `GOAWAY`, and so does the
//!   future.
//! * The connection itself is in a task of hyper's, and goes on until its last stream has ended.
//!   To drop the dispatch future cuts nothing; what is still in its queue comes back unsent.
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

/// Where the changes come from.
pub(super) type Source = Pin<Box<dyn Stream<Item = Change> + Send>>;

/// Why a connection, or the attempt at one, ended.
#[derive(Debug)]
enum Disconnect {
    ConnectFailed(String),
    /// It ended by itself, or with this error.
    Lost(Option<hyper::Error>),
    /// It takes no more calls; those in flight go on.
    Draining,
}

/// A connection that can be picked until this is dropped.
struct ReadyGuard<'a> {
    pool: &'a Pool,
    connection: &'a Arc<Connection>,
}

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A connection that worked for as long is replaced at once.
const RESET_BACKOFF_AFTER: Duration = Duration::from_secs(1);
/// Beyond this, pings find nothing that TCP does not find.
const RAREST_PING: Duration = Duration::from_secs(2 * 60 * 60);

/// Stays connected to the addresses of the source. To drop it ends all but what is in flight.
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
        // A source that always has more must not keep the calls from running.
        tokio::task::consume_budget().await;
    }
    // That the source has ended says nothing about the instances.
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

/// Stays connected to one address until it is dropped, at whatever point.
async fn reconnect(pool: Arc<Pool>, subchannel: Arc<Subchannel>) {
    let mut backoff = Backoff::new(FIRST_BACKOFF, RESET_BACKOFF_AFTER);
    let mut rng = fastrand::Rng::new();
    let mut ping = pool.dialer.keep_alive_interval;
    for turn in 0.. {
        let (lasted, disconnect) = connect_once(&pool, &subchannel, turn, ping).await;
        if disconnect.is_too_many_pings() {
            // What gRPC asks of clients (its proposal A8). A server may tell so only of streams on
            // which nothing else comes, and only after a while.
            ping = ping.saturating_mul(2).min(RAREST_PING).max(ping);
        }
        pool.set_state(&subchannel, failure(&disconnect.reason()));
        sleep(backoff.failed_after(lasted, MAX_BACKOFF, &mut rng)).await;
    }
}

/// From one connect to the end of the connection, and how long that worked.
async fn connect_once(
    pool: &Pool,
    subchannel: &Arc<Subchannel>,
    turn: usize,
    ping: Duration,
) -> (Duration, Disconnect) {
    // Closed never: the pool keeps it open.
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

/// Lets the connection be called until it takes no more calls.
async fn run_connection(pool: &Pool, subchannel: &Arc<Subchannel>, dialled: Dialled) -> Disconnect {
    let connection = Connection::new(subchannel.clone(), dialled.sender, dialled.quota);
    let connection = Arc::new(connection);
    let mut dispatch = pin!(dialled.dispatch);
    let (report, mut serving) = watch::channel(None);
    let service = pool.health_service.as_deref();
    let mut health = pin!(health::watch_health(service, &connection, &report));
    let mut ready = None;
    loop {
        // The end first: no connection may become ready that is gone.
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
            Self::Draining => "it takes no more calls on this connection".to_owned(),
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
