//! The server's side: the layer and the listener for tonic, which announce, count, drain and end.
//!
//! | file | |
//! |---|---|
//! | `layer.rs`, `service.rs`, `future.rs`, `body.rs` | the tower middleware |
//! | `incoming.rs`, `listener.rs` | the listener: its first poll shows that the server accepts |
//! | `accept.rs` | accepts, and pauses when that fails, such as without a file descriptor |
//! | `connection.rs` | one connection, which the drain can end |
//! | `axum.rs` | the same listener for `axum::serve` |
//! | `serve.rs` | [`ServeRegistered`](crate::ServeRegistered): all steps in the right order |
//!
//! None of it uses etcd: it uses a [`Registration`](crate::Registration) and the
//! signals of its drain.

mod accept;
#[cfg(feature = "axum")]
mod axum;
mod body;
mod connection;
mod future;
mod incoming;
pub(crate) mod layer;
mod listener;
pub(crate) mod serve;
mod service;

pub use crate::drain::in_flight::InFlightGuard;
pub use body::ResponseBody;
pub use connection::Connection;
pub use future::ResponseFuture;
pub use incoming::Incoming;
pub use listener::{IntoListener, Listener};
pub use service::RegistrationService;

/// Whether a request is gRPC, whose answer has a status in its trailers. grpc-web is not: for
/// HTTP its trailers are part of the body.
#[inline]
fn is_grpc(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE);
    let rest = kind.and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    matches!(rest, Some([] | [b'+' | b';', ..]))
}

/// The status of a request that did not finish before the drain deadline. Clients may retry on another server.
pub(crate) fn shutting_down() -> tonic::Status {
    tonic::Status::unavailable("the server is shutting down")
}
