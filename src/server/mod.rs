//! The server's side: a layer and a listener, which announce the server, count its requests, and end them at the drain
//! deadline.
//!
//! | file | |
//! |---|---|
//! | `layer.rs`, `service.rs`, `future.rs`, `body.rs` | the tower middleware |
//! | `incoming.rs`, `listener.rs` | the listener: its first poll announces the server |
//! | `accept.rs` | accepts connections, and pauses after a failure, such as without a file descriptor |
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

/// Whether a request is gRPC, whose response has a status in its trailers. The trailers of grpc-web are a part of the
/// body for HTTP.
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
