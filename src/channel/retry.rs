//! [`RetrySafety`]: whether a failed call may be sent again; decided here and nowhere else.

use super::frames::GoAway;
use crate::etcd::chain;
use std::error::Error as StdError;
use tonic::Status;

/// Whether a failed call may be sent to another endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetrySafety {
    /// The server has certainly not processed it.
    StreamRefused,
    /// The same, and the connection accepts no further call.
    ConnectionDraining,
    /// The server may have processed it: it is never sent again.
    MaybeProcessed,
}

/// Classifies an error of hyper for a call whose request did not come back unsent.
///
/// A body that was not read proves nothing: hyper up to 1.9 sends the headers before it reads the body, and a server may begin
/// with the headers. Only the server's own word counts.
pub(super) fn classify(error: &hyper::Error) -> RetrySafety {
    match h2_error(error) {
        // h2 returns this error only for streams above the last one that the server has
        // accepted (RFC 9113, 6.8), and for streams that could not be opened any more.
        Some(error) if error.is_go_away() && error.is_remote() => RetrySafety::ConnectionDraining,
        Some(error)
            if error.is_reset()
                && error.is_remote()
                && error.reason() == Some(h2::Reason::REFUSED_STREAM) =>
        {
            RetrySafety::StreamRefused
        }
        _ => RetrySafety::MaybeProcessed,
    }
}

/// The status of a call, or of a body, that failed finally, on a connection that its peer ended with this complaint.
pub(super) fn status(address: &str, error: hyper::Error, complaint: Option<&GoAway>) -> Status {
    let reset = h2_error(&error).is_some_and(h2::Error::is_reset);
    // A reset concerns this one stream, and tonic maps its codes to those of gRPC. All
    // other errors concern the connection, for which gRPC's code is `UNAVAILABLE`.
    if reset && !error.is_timeout() {
        return Status::from_error(Box::new(error));
    }
    Status::unavailable(format!("{address}: {}", lost(&error, complaint)))
}

/// Why a connection was lost. The peer's complaint comes first: what follows it is only the end of the connection.
pub(super) fn lost(error: &hyper::Error, complaint: Option<&GoAway>) -> String {
    match complaint {
        Some(complaint) => format!("connection lost: {complaint}: {}", chain(error)),
        None => format!("connection lost: {}", chain(error)),
    }
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    causes.filter_map(|error| error.downcast_ref()).next()
}
