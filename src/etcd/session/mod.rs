//! [`Session`]: one connection to one member, and the calls on it.
//!
//! | file | |
//! |---|---|
//! | `connect.rs` | opens the connection, with the token of the user |
//! | `leases.rs` | grants, renews and revokes leases |
//! | `reads.rs` | reads keys |
//! | `writes.rs` | changes keys, in one transaction |
//! | `watch.rs` | opens watches, and reads their responses |
//!
//! No call here has a time limit of its own: the caller bounds each of them, together with its
//! shutdown and the expiry of its lease.

mod connect;
mod leases;
mod reads;
mod watch;
mod writes;

#[cfg(feature = "discovery")]
pub(crate) use connect::USER_AGENT;
pub(crate) use leases::KeepAliveStream;
pub(crate) use reads::KeyMeta;
#[cfg(feature = "discovery")]
pub(super) use reads::revision_of;
#[cfg(feature = "discovery")]
pub(crate) use reads::{KeyValue, Page};
pub(crate) use watch::{Event, EventKind, WatchReplies, WatchRequests, WatchResponse};
pub(crate) use writes::{Applied, Op, Replaced};

use super::auth::User;
use super::members::Members;
use super::rpc_error::{RpcError, RpcErrorKind};
use etcd_client as client;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// One connection to one member. Cheap to clone; it closes when the last clone and the last
/// stream are dropped.
#[derive(Clone)]
pub(crate) struct Session {
    kv: client::KvClient,
    lease: client::LeaseClient,
    watch: client::WatchClient,
    peer: Peer,
    /// Reads the member list while the session is in use.
    _sync: Option<Arc<JoinSet<()>>>,
}

/// The member of a connection, and its user.
#[derive(Clone)]
struct Peer {
    endpoint: Arc<str>,
    login: Option<Arc<Login>>,
}

/// The token of a connection, and a client to get another one.
struct Login {
    user: Arc<User>,
    token: u64,
    /// A client without a token.
    client: client::Client,
    members: Members,
    limit: Duration,
}

// === impl Session ===

impl Session {
    pub(crate) fn endpoint(&self) -> &Arc<str> {
        &self.peer.endpoint
    }

    fn error(&self, error: &client::Error) -> RpcError {
        self.peer.error(error)
    }

    fn broken(&self, what: impl Into<String>) -> RpcError {
        RpcError::broken(&self.peer.endpoint, what)
    }
}

// === impl Peer ===

impl Peer {
    fn error(&self, error: &client::Error) -> RpcError {
        self.noted(RpcError::from_client(&self.endpoint, error))
    }

    fn cancelled(&self, reason: &str) -> RpcError {
        self.noted(RpcError::from_cancel(&self.endpoint, reason))
    }

    /// Discards a token that was refused, so that no other connection uses it.
    fn noted(&self, error: RpcError) -> RpcError {
        match &self.login {
            None => error.without_a_user(),
            Some(login) => {
                if error.kind() == RpcErrorKind::Unauthenticated {
                    login.user.refuse(login.token);
                }
                error
            }
        }
    }
}
