//! The server's side: what tonic is given so that it appears, counts, drains and ends.
//!
//! | file | |
//! |---|---|
//! | `layer.rs`, `service.rs`, `future.rs`, `body.rs` | the tower middleware |
//! | `incoming.rs`, `listener.rs` | the listener: when it is polled, tonic accepts |
//! | `connection.rs` | one connection, which can be told to end |
//! | `axum.rs` | the same listener for `axum::serve` |
//! | `serve.rs` | [`ServeRegistered`]: all of it in the right order |
//!
//! None of it talks to etcd or knows of it. It sees a [`Registration`](crate::Registration) and the
//! signals of its drain.

#[cfg(feature = "axum")]
mod axum;
mod body;
mod connection;
mod future;
mod incoming;
mod layer;
mod listener;
mod serve;
mod service;

pub use crate::in_flight::InFlightGuard;
pub use body::ResponseBody;
pub use connection::Connection;
pub use future::ResponseFuture;
pub use incoming::Incoming;
pub use layer::RegistrationLayer;
pub use listener::{IntoListener, Listener};
pub use serve::{ServeError, ServeRegistered};
pub use service::RegistrationService;

/// Whether a request is one of gRPC, whose answer has a status in its trailers. grpc-web is not: to
/// HTTP it is a body like any other.
#[inline]
fn is_grpc(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE);
    let rest = kind.and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    matches!(rest, Some([] | [b'+' | b';', ..]))
}

/// What a request is told that did not finish before the drain deadline. Retryable elsewhere.
pub(crate) fn shutting_down() -> tonic::Status {
    tonic::Status::unavailable("the server is shutting down")
}
