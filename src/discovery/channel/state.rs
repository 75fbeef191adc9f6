//! [`EndpointState`]: what a channel knows about one endpoint, for tables and for debugging.

use std::fmt;
use std::sync::Arc;

/// One endpoint of a [`BalancedChannel`](super::BalancedChannel), as it was when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointState {
    /// Where it is dialled.
    pub address: Arc<str>,
    /// Its share of the calls, relative to the others.
    pub weight: u32,
    /// Whether it can be called.
    pub state: ConnectivityState,
    /// The calls that have not ended; a stream is one until its end.
    pub in_flight: usize,
    /// The calls that were ever sent to it.
    pub calls: u64,
}

/// Whether an endpoint can be called: the states of gRPC, by gRPC's names.
///
/// gRPC's `SHUTDOWN` is missing: an endpoint that was removed is not listed any more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectivityState {
    /// No connect was tried yet: at most 256 endpoints of a channel are connected to at a time.
    Idle,
    /// A connection is being made.
    Connecting,
    /// It gets its share of the calls.
    Ready,
    /// It cannot be reached, its connection was lost, or its health service says that it does not
    /// serve. It is tried again, after at most 5 s.
    #[non_exhaustive]
    TransientFailure {
        /// What failed last.
        reason: Arc<str>,
    },
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

// === impl ConnectivityState ===

/// `READY`, or `TRANSIENT_FAILURE: connection refused`.
impl fmt::Display for ConnectivityState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("IDLE"),
            Self::Connecting => f.write_str("CONNECTING"),
            Self::Ready => f.write_str("READY"),
            Self::TransientFailure { reason } => write!(f, "TRANSIENT_FAILURE: {reason}"),
        }
    }
}

// === impl AnsweredBy ===

impl AnsweredBy {
    /// The address of the endpoint.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.0
    }
}
