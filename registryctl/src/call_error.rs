//! [`CallError`]: why a call to etcd failed.

use crate::entry::foreign;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tonic::Code;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[error("{endpoint}: {reason}")]
pub(crate) struct CallError {
    endpoint: Arc<str>,
    pub(crate) reason: String,
    pub(crate) kind: ErrorKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// No connection, or it broke, or no answer in time.
    Transport,
    /// The user has no permission.
    Denied,
    /// No user was given, or its password is wrong.
    User,
    /// A user was given, and this etcd has no authentication.
    NoUsers,
    /// This member has no leader: the cluster has no quorum.
    NoLeader,
    /// This member is a learner: it answers almost nothing.
    Learner,
    /// Another answer of etcd.
    Other,
}

/// The error of a call, without its member.
pub(crate) type Failed = (ErrorKind, String);

// === impl CallError ===

impl From<CallError> for String {
    fn from(error: CallError) -> Self {
        error.to_string()
    }
}

/// Runs one call with a timeout; its error names the member.
pub(crate) async fn bounded<T>(
    limit: Duration,
    endpoint: &Arc<str>,
    call: impl Future<Output = Result<T, Failed>>,
) -> Result<T, CallError> {
    let done = timeout(limit, call)
        .await
        .unwrap_or_else(|_| Err((ErrorKind::Transport, no_answer(limit))));
    done.map_err(|(kind, reason)| CallError {
        endpoint: endpoint.clone(),
        reason,
        kind,
    })
}

/// An error of etcd-client in few words; it has no sources.
pub(crate) fn failed(error: etcd_client::Error) -> Failed {
    let status = match &error {
        etcd_client::Error::GRpcStatus(status) => status,
        etcd_client::Error::TransportError(error) => return (ErrorKind::Transport, chain(error)),
        other => return (ErrorKind::Other, foreign(other.to_string())),
    };
    if let Some(source) = status.source() {
        return (ErrorKind::Transport, chain(source));
    }
    let text = status.message();
    let says = |part: &str| text.contains(part);
    let kind = match status.code() {
        Code::PermissionDenied => ErrorKind::Denied,
        Code::Unauthenticated => ErrorKind::User,
        _ if says("no leader") => ErrorKind::NoLeader,
        _ if says("not supported for learner") => ErrorKind::Learner,
        _ if says("authentication is not enabled") => ErrorKind::NoUsers,
        _ if says("authentication failed") || says("user name is empty") => ErrorKind::User,
        _ => ErrorKind::Other,
    };
    (kind, foreign(text))
}

/// An error and its causes, without repetitions, escaped and cut: a cause may be the word of a peer.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    foreign(text)
}

pub(crate) fn no_answer(limit: Duration) -> String {
    format!("no answer within {}", humantime::format_duration(limit))
}
