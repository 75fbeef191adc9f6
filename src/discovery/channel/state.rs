//! [`EndpointState`]: what a channel knows about one endpoint, for tables and for debugging.

use std::sync::Arc;

/// One endpoint of a [`Balanced`](super::Balanced), as it was when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointState {
    /// Where it is dialled.
    pub address: Arc<str>,
    /// Its share of the calls, relative to the others.
    pub weight: u32,
    /// Whether it can be called.
    pub condition: Condition,
    /// The calls that have not ended; a stream is one until its end.
    pub in_flight: usize,
    /// The calls that were ever sent to it.
    pub calls: u64,
}

/// Who answered a call, in the extensions of its response.
///
/// ```no_run
/// # use tonic_etcd::discovery::channel::AnsweredBy;
/// # fn f(response: tonic::Response<()>) {
/// let who = response.extensions().get::<AnsweredBy>().map(AnsweredBy::address);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnsweredBy(pub(super) Arc<str>);

/// Whether an endpoint can be called.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// The first connection, or the next one, is being made.
    Connecting,
    /// It gets its share of the calls.
    Ready,
    /// It is connected, and its health service says that it does not serve.
    Unhealthy,
    /// It cannot be reached, or the connection was lost. It is tried again by and by.
    #[non_exhaustive]
    Down {
        /// What went wrong last.
        why: Arc<str>,
    },
}

// === impl AnsweredBy ===

impl AnsweredBy {
    /// The address of the endpoint.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.0
    }
}
