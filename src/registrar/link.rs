//! [`Link`]: the connection to etcd, and [`Beside`]: another one, which is opened while the first does not answer.

use super::keep_alive::Call;
use super::reconciler::Event;
use super::streams::Streams;
use crate::etcd::{RpcError, Session};

/// The connection in use.
pub(super) enum Link {
    Closed,
    Connecting(Call<Result<Session, RpcError>>),
    Open(Box<Streams>),
}

/// Another connection, beside one that does not answer.
pub(super) enum Beside {
    None,
    Connecting(Call<Result<Session, RpcError>>),
    Ready(Session),
}

// === impl Link ===

impl Link {
    /// The next event on it. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        match self {
            Self::Closed => std::future::pending().await,
            Self::Open(streams) => streams.next().await,
            Self::Connecting(call) => {
                let result = call.await;
                *self = Self::Closed;
                Event::Connected(result.map(|session| {
                    *self = Self::Open(Box::new(Streams::new(session)));
                }))
            }
        }
    }
}

// === impl Beside ===

impl Beside {
    /// The result of the attempt. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        let Self::Connecting(call) = self else {
            return std::future::pending().await;
        };
        let result = call.await;
        *self = Self::None;
        Event::ConnectedBeside(result.map(|session| *self = Self::Ready(session)))
    }
}
