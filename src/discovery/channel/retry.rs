//! [`RetrySafety`]: whether a call that failed may be sent again; decided here and nowhere else.

use super::replay_body::Progress;
use crate::etcd::chain;
use std::error::Error as StdError;
use tonic::Status;

/// Whether a call that failed may be sent to another endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetrySafety {
    /// The server has certainly not worked on it.
    StreamRefused,
    /// The same, and it takes no further call on that connection.
    ConnectionDraining,
    /// The server may have worked on it: it is never sent again.
    MaybeProcessed,
}

/// What an error of hyper means for a call whose request did not come back.
pub(super) fn classify(error: &hyper::Error, progress: Progress) -> RetrySafety {
    match h2_error(error) {
        // h2 gives this error to those streams only that are above the last one the server says
        // it has taken (RFC 9113, 6.8), and to those that could not be opened any more.
        Some(error) if error.is_go_away() && error.is_remote() => RetrySafety::ConnectionDraining,
        Some(error)
            if error.is_reset()
                && error.is_remote()
                && error.reason() == Some(h2::Reason::REFUSED_STREAM) =>
        {
            RetrySafety::StreamRefused
        }
        // The connection was lost while the request waited in hyper for its stream. At most its
        // headers have left, with a cancellation behind them: there was no message to work on.
        _ if progress == Progress::Unread => RetrySafety::ConnectionDraining,
        _ => RetrySafety::MaybeProcessed,
    }
}

/// What the caller is told of a call, or of a body, that failed for good.
pub(super) fn status(address: &str, error: hyper::Error) -> Status {
    let reset = h2_error(&error).is_some_and(h2::Error::is_reset);
    // A reset is about this one stream, and tonic knows what each of its codes means in gRPC. All
    // the rest is about the connection, which gRPC calls unavailable.
    if reset && !error.is_timeout() {
        return Status::from_error(Box::new(error));
    }
    Status::unavailable(format!("{address}: connection lost: {}", chain(&error)))
}

/// Whether the server has ended the connection because of too many pings.
pub(super) fn is_too_many_pings(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| {
        error.is_go_away()
            && error.is_remote()
            && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
    })
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    causes.filter_map(|error| error.downcast_ref()).next()
}
