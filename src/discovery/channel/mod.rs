//! [`BalancedChannel`]: a gRPC channel that spreads its calls over the instances of a service.
//!
//! ```text
//! changes -> addresses (subset) -> one task per address: connect, ready, reconnect
//!                                                           |
//! call -> pick the better of two among those ready <- ready set
//!      -> send; sent to another one if certainly not worked on
//! ```
//!
//! # What it guarantees
//!
//! * Only endpoints with a connection that takes calls are picked. One whose connection died is out
//!   at once, and is reconnected to.
//! * A call is sent again if, and only if, no server can have worked on it: it never left, or the
//!   server said so (`GOAWAY`, `REFUSED_STREAM`). Servers that shut down gracefully fail no call.
//! * A call that may have been worked on is never repeated: it fails with `UNAVAILABLE`.
//! * No call is sent to a server that has as many streams open as it takes
//!   (`MAX_CONCURRENT_STREAMS`): it goes elsewhere, or waits for the end of one.
//! * An instance that was removed gets no further call; streams that are open on it go on.
//! * The span that is current when a call is made is told where it went, if it declares the fields `server.address`,
//!   `server.port` or `http.request.resend_count`: see [the manual](crate::manual::logs).
//! * No call waits for ever: not for an endpoint or for a stream of one
//!   ([`ready_timeout`](BalancedChannelBuilder::ready_timeout)), and not on one that has gone silent
//!   ([`http2_keep_alive_interval`](BalancedChannelBuilder::http2_keep_alive_interval)).
//!
//! # Cancel safety
//!
//! To drop the future of a call, or the body of its response, cancels the call: its stream is reset,
//! and it is not sent again. To drop the last clone of a channel closes its connections, except for
//! calls in flight.
//!
//! # Why it is not a `tonic::transport::Channel`
//!
//! A channel of tonic's hides when its connection dies: it stays ready, and is picked. It cannot
//! say either whether a request that failed was ever sent. Here hyper's HTTP/2 connections are
//! driven directly.
//!
//! # Files
//!
//! Each imports from those below it only.
//!
//! | file | |
//! |---|---|
//! | `builder.rs` | [`BalancedChannelBuilder`]: what is configured |
//! | `reconnect.rs` | the tasks: one reads the changes, one per address stays connected |
//! | `addresses.rs`, `subset.rs` | from keys to the addresses that are connected to; pure |
//! | `origin.rs` | where an instance is dialled, with TLS or without; pure |
//! | `call.rs` | one call: its time, its attempts, its response |
//! | `caller_span.rs` | what the span of the caller is told of it |
//! | `stats.rs` | [`ChannelStats`] |
//! | `pool.rs` | the subchannels and their states, shared by tasks and calls |
//! | `connectivity.rs` | [`ConnectivityState`] |
//! | `health.rs` | what the health service of an endpoint says |
//! | `subchannel.rs` | an address, its connection, its calls in flight |
//! | `dial.rs`, `settings.rs` | from an address to a connection whose peer has sent `SETTINGS` |
//! | `ready_set.rs`, `weighted_index.rs` | those that can be called, and the choice; pure |
//! | `retry.rs`, `replay_body.rs` | whether a request may be sent again, and its body |

mod addresses;
mod builder;
mod call;
mod caller_span;
mod connectivity;
mod dial;
mod health;
mod origin;
mod pool;
mod ready_set;
mod reconnect;
mod replay_body;
mod retry;
mod settings;
mod stats;
mod subchannel;
mod subset;
mod weighted_index;

pub use builder::BalancedChannelBuilder;
pub use call::AnsweredBy;
pub use connectivity::ConnectivityState;
pub use pool::EndpointState;
pub use stats::ChannelStats;

use caller_span::CallerSpan;
use http::{Request, Response};
use pool::Pool;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::body::Body;

/// A gRPC channel over the instances of a service; see the [module](self).
///
/// It is what generated clients are made of: `GreeterClient::new(channel)`. Clones are cheap and
/// share everything.
#[derive(Clone)]
pub struct BalancedChannel {
    pool: Arc<Pool>,
    _task: Arc<AbortOnDropHandle<()>>,
}

// === impl BalancedChannel ===

impl BalancedChannel {
    /// The endpoints we connect to, ordered by address, as they are now.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointState> {
        self.pool.states()
    }

    /// Endpoints, calls in flight and calls sent again, as they are now. It takes one lock and looks at
    /// each endpoint once.
    #[must_use]
    pub fn stats(&self) -> ChannelStats {
        ChannelStats::of(&self.pool)
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
        let span = CallerSpan::current();
        Box::pin(async move { call::call(&this.pool, request, span).await })
    }
}

impl fmt::Debug for BalancedChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoints, ready) = self.pool.counts();
        f.debug_struct("BalancedChannel")
            .field("service", &self.pool.name())
            .field("endpoints", &endpoints)
            .field("ready", &ready)
            .finish_non_exhaustive()
    }
}
