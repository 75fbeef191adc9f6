//! [`BalancedChannel`]: a gRPC channel that spreads its calls over the instances of a service.
//!
//! ```text
//! changes -> follow -> members (subset) -> one task per address: connect, ready, again
//!                                                          |
//! call -> pick the better of two among those ready <- roster
//!      -> send; sent to another one if certainly not worked on
//! ```
//!
//! # What it promises
//!
//! * Only endpoints with a connection that takes calls are picked. One that died is out at once,
//!   and comes back by itself.
//! * A call is sent again if, and only if, no server can have worked on it: it never left, or the
//!   server said so (`GOAWAY`, `REFUSED_STREAM`). Servers that shut down gracefully fail no call.
//! * A call that may have been worked on is never repeated: it fails with `UNAVAILABLE`.
//! * An instance that is gone gets no further call; streams that are open on it go on.
//! * No call waits for ever: not for an endpoint
//!   ([`ready_timeout`](BalancedChannelBuilder::ready_timeout)), and not on one that has gone silent
//!   ([`http2_keep_alive_interval`](BalancedChannelBuilder::http2_keep_alive_interval)).
//!
//! # Why it is not a `tonic::transport::Channel`
//!
//! A channel of tonic's hides when its connection dies: it stays ready, and is picked. It cannot
//! say either whether a request that failed was ever sent. Here hyper's HTTP/2 connections are
//! driven directly.
//!
//! | file | |
//! |---|---|
//! | `builder.rs` | [`BalancedChannelBuilder`]: what is configured |
//! | `follow.rs` | the task that reads the changes |
//! | `members.rs`, `subset.rs` | from keys to the addresses we connect to; pure |
//! | `tend.rs` | one task per address |
//! | `dial.rs`, `heard.rs`, `health.rs` | a connection, and what the other side says of itself |
//! | `node.rs`, `pool.rs`, `state.rs` | what is known of an address; of all; and shown |
//! | `roster.rs`, `weights.rs` | those that can be called, and the choice; pure |
//! | `call.rs`, `fate.rs` | one call, and what its failure means |
//! | `replay.rs`, `body.rs`, `deadline.rs` | its request, its response, its time |

mod body;
mod builder;
mod call;
mod deadline;
mod dial;
mod fate;
mod follow;
mod health;
mod heard;
mod members;
mod node;
mod pool;
mod replay;
mod roster;
mod state;
mod subset;
mod tend;
mod weights;

pub use builder::BalancedChannelBuilder;
pub use state::{AnsweredBy, ConnectivityState, EndpointState};

use super::Change;
use follow::Tended;
use http::{Request, Response};
use pool::Pool;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio_stream::Stream;
use tonic::Status;
use tonic::body::Body;

/// A gRPC channel over the instances of a service; see the [module](self).
///
/// It is what generated clients are made of: `GreeterClient::new(balanced)`. Clones are cheap and
/// share everything. With the last one the connections go, except for what is in flight.
#[derive(Debug, Clone)]
pub struct BalancedChannel {
    pool: Arc<Pool>,
    _task: Arc<Tended>,
}

// === impl BalancedChannel ===

impl BalancedChannel {
    /// A channel over instances from another source than etcd.
    ///
    /// The source says what there is, key by key. When it ends, the last state stays.
    pub fn builder_from(
        source: impl Stream<Item = Change> + Send + 'static,
    ) -> BalancedChannelBuilder {
        BalancedChannelBuilder::new(source)
    }

    /// The endpoints we connect to, ordered by address, as they are now.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointState> {
        self.pool
            .nodes()
            .values()
            .map(|node| node.state())
            .collect()
    }

    fn new(pool: Arc<Pool>, task: Tended) -> Self {
        Self {
            pool,
            _task: Arc::new(task),
        }
    }
}

impl tower_service::Service<Request<Body>> for BalancedChannel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    /// Always ready: whether there is an endpoint is a question of each call, because only a call
    /// knows how long it may wait.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The clone keeps the connections while the call waits for one.
        let this = self.clone();
        Box::pin(async move {
            let limit = deadline::timeout(request.headers());
            let calling = call::call(&this.pool, request);
            match limit {
                None => calling.await,
                Some(limit) => tokio::time::timeout(limit, calling)
                    .await
                    .unwrap_or_else(|_| Err(deadline::exceeded(limit))),
            }
        })
    }
}
