//! [`BalancedChannel`]: a gRPC channel that balances its calls over the instances of a service.
//!
//! ```text
//! changes -> addresses (subset) -> one task per address: connect, ready, reconnect
//!                                                           |
//! call -> pick the better of two among those ready <- ready set
//!      -> send; send to another one if certainly not processed
//! ```
//!
//! # What it guarantees
//!
//! * Only endpoints with a connection that accepts calls are picked. An endpoint whose connection was lost is removed
//!   from the choice at once, and reconnected.
//! * A call is sent again if, and only if, no server can have processed it: it was not sent, or the
//!   server reported that (`GOAWAY`, `REFUSED_STREAM`). Servers that shut down gracefully fail no call.
//! * A call that may have been processed is never repeated: it fails with `UNAVAILABLE`.
//! * No call is sent to a server whose limit of open streams is reached
//!   (`MAX_CONCURRENT_STREAMS`): it goes to another server, or waits for the end of a stream.
//! * An instance that was removed gets no further call; streams that are open on it continue.
//! * A call records fields on the span that is current when it is made: see [the manual](crate::manual::logs).
//! * No call waits forever: neither for an endpoint or a stream
//!   ([`ready_timeout`](BalancedChannelBuilder::ready_timeout)), nor on an endpoint that does not answer
//!   ([`http2_keep_alive_interval`](BalancedChannelBuilder::http2_keep_alive_interval)).
//!
//! # Cancel safety
//!
//! Dropping the future of a call, or the body of its response, cancels the call: its stream is reset,
//! and it is not sent again. Dropping the last clone of a channel closes its connections, once the calls in
//! flight have ended.
//!
//! # Why it is not a `tonic::transport::Channel`
//!
//! A channel of tonic does not report that its connection was lost: it stays ready, and is picked. It also does not
//! report whether a failed request was sent. Here hyper's HTTP/2 connections are
//! used directly.
//!
//! # Files
//!
//! Each file imports only from files below it.
//!
//! | file | |
//! |---|---|
//! | `builder.rs` | [`BalancedChannelBuilder`]: the settings |
//! | `reconnect.rs` | the tasks: one reads the changes and decides, one for each dial and its connection |
//! | `replacement.rs` | the connection that replaces one whose end is near |
//! | `dial_policy.rs` | which address is dialled next, and when; pure |
//! | `addresses.rs`, `subset.rs` | from keys to the addresses that are connected to; pure |
//! | `origin.rs` | where an instance is dialled, with TLS or without; pure |
//! | `call.rs` | one call: its time, its attempts, its response |
//! | `caller_span.rs` | fields of the call on the span of the caller |
//! | `stats.rs` | [`ChannelStats`] |
//! | `pool.rs` | the subchannels and their states, shared by tasks and calls |
//! | `endpoints.rs` | their states, and the state of the channel; pure |
//! | `lines.rs` | bounds the log lines |
//! | `health.rs` | whether an endpoint serves, by its health service |
//! | `subchannel.rs` | an address, its connection, its calls in flight |
//! | `dial.rs` | opens a connection to an address, and waits for the peer's `SETTINGS` |
//! | `wire.rs` | the bytes of a connection: what hyper does not show, and the pings |
//! | `peer.rs`, `frames.rs`, `keep_alive.rs` | what the peer says, the frames in the bytes, and when to ping; the last two are pure |
//! | `ready_set.rs`, `weighted_index.rs` | the connections that can be called, and the choice; pure |
//! | `retry.rs`, `replay_body.rs` | whether a request may be sent again, and its body |

mod addresses;
mod builder;
mod call;
mod caller_span;
mod dial;
mod dial_policy;
mod endpoints;
mod frames;
mod health;
mod keep_alive;
mod lines;
mod origin;
mod peer;
mod pool;
mod ready_set;
mod reconnect;
mod replacement;
mod replay_body;
mod retry;
mod stats;
mod subchannel;
mod subset;
mod weighted_index;
mod wire;

pub use crate::observe::connectivity::ConnectivityState;
pub use builder::BalancedChannelBuilder;
pub use call::AnsweredBy;
pub use pool::EndpointStats;
pub use stats::ChannelStats;

#[cfg(any(test, fuzzing))]
pub(crate) use frames::check_frames;

use call::Call;
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
/// Give it to a generated client: `GreeterClient::new(channel)`. Clones are cheap and
/// share everything.
#[derive(Clone)]
pub struct BalancedChannel {
    pool: Arc<Pool>,
    _task: Arc<AbortOnDropHandle<()>>,
}

// === impl BalancedChannel ===

impl BalancedChannel {
    /// The endpoints that the channel connects to, ordered by address, and their current states.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointStats> {
        self.pool.states()
    }

    /// The current numbers of endpoints, calls in flight and calls sent again. It takes one lock and reads
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

    /// Always ready: each call waits for an endpoint itself, because each call has its own
    /// deadline.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = Call::new(request);
        // The clone keeps the connections while the call waits for one.
        let this = self.clone();
        let span = CallerSpan::current();
        Box::pin(async move { call.run(&this.pool, span).await })
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
