//! The server's side: what tonic is given so that it appears, counts, drains and ends.
//!
//! | file | |
//! |---|---|
//! | `layer.rs`, `service.rs`, `future.rs`, `body.rs` | the tower middleware |
//! | `incoming.rs` | the listener: when it is polled, tonic accepts |
//! | `connection.rs` | one connection, which can be told to end |
//! | `serve.rs` | [`ServeRegistered`]: all of it in the right order |
//!
//! None of it talks to etcd or knows of it. It sees the signals of a registration's life.

mod body;
mod connection;
mod future;
mod incoming;
mod layer;
mod serve;
mod service;

pub use body::ResponseBody;
pub use connection::Connection;
pub use future::ResponseFuture;
pub use incoming::Incoming;
pub(crate) use incoming::listen;
pub use layer::RegistrationLayer;
pub use serve::{ServeError, ServeRegistered};
pub use service::RegistrationService;

/// What a request is told that did not finish before the drain deadline. Retryable elsewhere.
pub(crate) fn shutting_down() -> tonic::Status {
    tonic::Status::unavailable("the server is shutting down")
}
