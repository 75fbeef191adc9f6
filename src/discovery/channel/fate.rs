//! [`Fate`]: what became of a call that failed; decided once.

use super::replay::Again;
use crate::etcd::chain;
use std::error::Error as StdError;
use tonic::Status;

/// What became of a call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The server has certainly not worked on it: it may be sent to another one.
    Unprocessed {
        /// Nor will it on any other call on that connection.
        spent: bool,
    },
    /// It may have been worked on.
    Unknown,
}

/// What an error of hyper means for the call, when the request did not come back.
pub(super) fn fate(error: &hyper::Error, again: Again) -> Fate {
    match h2_error(error) {
        // h2 gives this error to those streams only that are above the last one the server says
        // it has taken (RFC 9113, 6.8), and to those that could not be opened any more.
        Some(error) if error.is_go_away() && error.is_remote() => Fate::Unprocessed { spent: true },
        Some(error)
            if error.is_reset()
                && error.is_remote()
                && error.reason() == Some(h2::Reason::REFUSED_STREAM) =>
        {
            Fate::Unprocessed { spent: false }
        }
        // The connection was lost while the call waited in hyper for a free stream. At most its
        // headers have left, with a cancellation behind them: no message was ever there to be
        // worked on.
        _ if again == Again::Untouched => Fate::Unprocessed { spent: true },
        _ => Fate::Unknown,
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

/// The error of h2 below one of hyper's.
pub(super) fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}
