//! [`ConnectivityState`]: whether an endpoint can be called.

use std::fmt;
use std::sync::Arc;

/// Whether an endpoint can be called: the states of gRPC, by gRPC's names.
///
/// gRPC's `SHUTDOWN` is missing: an endpoint that was removed is not listed any more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectivityState {
    /// No connect was tried yet: a channel makes at most 256 connects at a time, beside those that replace a connection.
    Idle,
    /// A connection is being made.
    Connecting,
    /// It gets its share of the calls.
    Ready,
    /// It cannot be reached, its connection was lost, or its health service says that it does not
    /// serve. The next attempt is after at most 5 s, or 30 s if it was never connected and another endpoint is; with
    /// very many such endpoints later, because a channel makes 32 attempts a second that fail.
    #[non_exhaustive]
    TransientFailure {
        /// The last error.
        reason: Arc<str>,
    },
}

// === impl ConnectivityState ===

impl ConnectivityState {
    /// Whether it is [`Ready`](Self::Ready).
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self == Self::Ready
    }
}

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
