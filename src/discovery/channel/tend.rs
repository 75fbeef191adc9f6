//! One task for each address: connect, let it be called, and again when that has ended.
//!
//! ```text
//! connect -> ready (while healthy) -> why did that end?
//!    Unreached   backoff
//!    Lost        backoff; at once if it had worked for a while
//!    Spent       the same; the calls in flight end where they are
//! ```
//!
//! What hyper (1.12) tells of an end, and when:
//!
//! * The [`Dispatch`] future takes calls from the queue and opens their streams. It ends when the
//!   connection has ended, and, after a `GOAWAY`, when it looks at the connection next: that is at
//!   the first call after it, which comes back unsent, together with all that wait behind it.
//!   With no stream open the connection ends with the `GOAWAY`, and so does the future.
//! * The connection itself is in a task of hyper's, and goes on until its last stream has ended.
//!   To drop the dispatch future cuts nothing; what is still in its queue comes back unsent.
//! * A call above the last stream of a `GOAWAY` ends with that `GOAWAY` as its error.

use super::dial::{Dispatch, Sender};
use super::health;
use super::node::{Link, Node};
use super::pool::Pool;
use super::state::ConnectivityState;
use crate::backoff::Backoff;
use crate::etcd::chain;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Why a round ended.
#[derive(Debug)]
enum End {
    /// There was no connection.
    Unreached(String),
    /// The connection ended by itself, or with this error.
    Lost(Option<hyper::Error>),
    /// It takes no more calls; those in flight go on.
    Spent,
}

/// A link that can be picked, until this is dropped.
struct Seat<'a> {
    pool: &'a Pool,
    link: &'a Arc<Link>,
}

const FIRST: Duration = Duration::from_millis(50);
const CAP: Duration = Duration::from_secs(5);
/// A connection that worked for as long is replaced at once.
const CALM: Duration = Duration::from_secs(1);
/// Beyond this, pings find nothing that TCP does not find.
const RAREST_PING: Duration = Duration::from_secs(2 * 60 * 60);

/// Stays connected to the node until it is dropped, at whatever point.
pub(super) async fn tend(pool: Arc<Pool>, node: Arc<Node>) {
    let mut backoff = Backoff::new(FIRST, CALM);
    let mut rng = fastrand::Rng::new();
    let mut ping = pool.dialer.keep_alive_interval;
    loop {
        let (lasted, end) = round(&pool, &node, ping).await;
        if end.is_too_many_pings() {
            // What gRPC asks of clients (its proposal A8). A server may tell so only of streams on
            // which nothing else comes, and only after a while.
            ping = (ping * 2).min(RAREST_PING);
        }
        let reason = end.text().into();
        pool.turn(&node, ConnectivityState::TransientFailure { reason });
        sleep(backoff.failed_after(lasted, CAP, &mut rng)).await;
    }
}

/// From one connect to the end of the connection, and how long that worked.
async fn round(pool: &Pool, node: &Arc<Node>, ping: Duration) -> (Duration, End) {
    // Closed never: the pool keeps it open.
    let permit = pool.dialling.acquire().await.ok();
    pool.turn(node, ConnectivityState::Connecting);
    let dialled = pool.dialer.dial(&node.authority, ping).await;
    drop(permit);
    let since = Instant::now();
    let end = match dialled {
        Ok((sender, dispatch)) => hold(pool, node, sender, dispatch).await,
        Err(why) => return (Duration::ZERO, End::Unreached(why)),
    };
    (since.elapsed(), end)
}

/// Lets the connection be called until it takes no more calls.
async fn hold(pool: &Pool, node: &Arc<Node>, sender: Sender, dispatch: Dispatch) -> End {
    let link = Arc::new(Link::new(node.clone(), sender));
    let mut dispatch = pin!(dispatch);
    let (tell, mut told) = watch::channel(None);
    let mut health = pin!(health::follow(pool.health(), &link, &tell));
    let mut seat = None;
    loop {
        // The end first: nobody may be seated on a connection that is gone.
        tokio::select! {
            biased;
            end = &mut dispatch => return End::Lost(end.err()),
            () = link.spent() => return End::Spent,
            () = &mut health => {}
            _ = told.changed() => {
                let serving = *told.borrow_and_update() == Some(true);
                if !serving {
                    seat = None;
                } else if seat.is_none() {
                    seat = Some(Seat::take(pool, &link));
                }
                pool.turn(node, if serving { ConnectivityState::Ready } else { not_serving() });
            }
            () = node.reweighed.notified() => {
                if seat.is_some() {
                    pool.roster.reweigh(&link);
                }
            }
        }
    }
}

fn not_serving() -> ConnectivityState {
    let reason = "its health service says that it does not serve".into();
    ConnectivityState::TransientFailure { reason }
}

// === impl End ===

impl End {
    fn text(&self) -> String {
        match self {
            Self::Unreached(why) => why.clone(),
            Self::Lost(Some(error)) => format!("connection lost: {}", chain(error)),
            Self::Lost(None) => "the connection ended".to_owned(),
            Self::Spent => "it takes no more calls on this connection".to_owned(),
        }
    }

    fn is_too_many_pings(&self) -> bool {
        let Self::Lost(Some(error)) = self else {
            return false;
        };
        super::fate::h2_error(error).is_some_and(|error| {
            error.is_go_away()
                && error.is_remote()
                && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
        })
    }
}

// === impl Seat ===

impl<'a> Seat<'a> {
    fn take(pool: &'a Pool, link: &'a Arc<Link>) -> Self {
        pool.seat(link);
        Self { pool, link }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.pool.unseat(self.link);
    }
}
