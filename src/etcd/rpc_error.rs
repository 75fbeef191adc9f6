//! [`RpcError`]: an error from etcd, and its kind. Errors are classified here and nowhere else.
//!
//! The texts are etcd's own (`api/v3rpc/rpctypes/error.go`): some of its errors share a code, and
//! `etcd-client` returns one as text only. They are escaped and cut here, after that: a proxy may write anything.

use crate::runtime::escaped::foreign;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Status};

/// An attempt that failed: the member, the reason, and the kind of error.
#[derive(Debug, Clone)]
pub(crate) struct RpcError {
    kind: RpcErrorKind,
    endpoint: Arc<str>,
    what: String,
    /// No connection has worked yet: the text advises to check the configuration.
    at_first: bool,
}

/// The kinds of errors, by how the caller reacts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RpcErrorKind {
    /// etcd does not know our lease: take a new one.
    LeaseGone,
    /// A lease with this id exists: our own grant, whose reply was lost.
    LeaseExists,
    /// The token is not valid any more: authenticate again, once.
    Unauthenticated,
    /// Denied: an operator has to change something first. Retry slowly.
    Denied,
    /// etcd does not have the history from that revision on: list again.
    Compacted,
    /// The request has more bytes than etcd accepts, or the answer more than we accept: request
    /// less.
    TooLarge,
    /// The transaction has more operations than etcd accepts.
    TooManyOps,
    /// This request was rejected, the connection works: repeat it later.
    ResourceExhausted,
    /// etcd did not process this request in time, and may still do so; the connection works: repeat it later. A member
    /// that lags behind its own log answers renewals so after 1 s (`waitAppliedIndex` in etcd's `v3_server.go`).
    Busy,
    /// The connection or the member is not usable: try the next one.
    Broken,
    /// No connection was made: as `Broken`, but retry sooner, because an attempt is cheap.
    Unreachable,
    /// No answer within the attempt timeout: as `Broken`, but retry without a wait.
    Timeout,
}

// === impl RpcError ===

impl RpcError {
    pub(crate) fn new(kind: RpcErrorKind, endpoint: &Arc<str>, what: impl Into<String>) -> Self {
        let mut what = what.into();
        // rustls adds the current time: without this the same error would have another text each time.
        if let Some(at) = what.find(EXPIRED) {
            what.truncate(at + EXPIRED.len());
        }
        Self {
            kind,
            endpoint: endpoint.clone(),
            what: foreign(&what),
            at_first: false,
        }
    }

    /// No connection has worked yet.
    pub(crate) fn at_first(mut self) -> Self {
        self.at_first = true;
        self
    }

    pub(crate) fn broken(endpoint: &Arc<str>, what: impl Into<String>) -> Self {
        Self::new(RpcErrorKind::Broken, endpoint, what)
    }

    pub(crate) fn timeout(endpoint: &Arc<str>, limit: Duration) -> Self {
        Self::new(
            RpcErrorKind::Timeout,
            endpoint,
            format!("no answer within {limit:?}"),
        )
    }

    pub(crate) fn kind(&self) -> RpcErrorKind {
        self.kind
    }

    pub(crate) fn endpoint(&self) -> &Arc<str> {
        &self.endpoint
    }

    /// Calls with the token are not answered, and those without one are.
    pub(super) fn unknown_token(endpoint: &Arc<str>) -> Self {
        let what = "gives no answer to the token of another history";
        Self::new(RpcErrorKind::Unauthenticated, endpoint, what)
    }

    /// Without a user there is no token to replace, so the request is denied.
    pub(super) fn without_a_user(mut self) -> Self {
        if self.kind == RpcErrorKind::Unauthenticated {
            self.kind = RpcErrorKind::Denied;
        }
        self
    }

    /// etcd has no space left.
    pub(crate) fn is_full(&self) -> bool {
        self.what.contains("database space exceeded")
    }

    /// The connection works, and the request should be repeated later.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(
            self.kind,
            RpcErrorKind::ResourceExhausted | RpcErrorKind::Busy
        )
    }

    /// The member works, and has denied the request.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(
            self.kind,
            RpcErrorKind::Denied | RpcErrorKind::Unauthenticated
        )
    }

    /// Its authentication is not enabled.
    pub(super) fn is_without_auth(&self) -> bool {
        self.what.contains(NO_AUTH)
    }

    pub(crate) fn from_client(endpoint: &Arc<str>, error: &etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => Self::from_status(endpoint, status),
            etcd_client::Error::TransportError(error) => Self::broken(endpoint, chain(error)),
            etcd_client::Error::LeaseKeepAliveError(text) if text.contains("not found") => {
                Self::new(RpcErrorKind::LeaseGone, endpoint, text.clone())
            }
            other => Self::broken(endpoint, other.to_string()),
        }
    }

    pub(crate) fn from_status(endpoint: &Arc<str>, status: &Status) -> Self {
        let text = status.message();
        let what = match status.source() {
            Some(source) => chain(source),
            None if text.is_empty() => format!("{:?}", status.code()),
            None => text.to_owned(),
        };
        Self::new(classify(status.code(), text), endpoint, what)
    }

    /// The request was accepted, and its answer is larger than we accept.
    pub(crate) fn is_about_the_answer(&self) -> bool {
        self.what.contains("decoded message length too large")
    }

    /// What etcd said, or why it said nothing.
    #[cfg(feature = "discovery")]
    pub(super) fn said(&self) -> &str {
        &self.what
    }

    /// The text without the endpoint.
    pub(crate) fn reason(&self) -> String {
        match self.advice() {
            Some(advice) => format!("{} ({advice})", self.what),
            None => self.what.clone(),
        }
    }

    /// What to check first.
    fn advice(&self) -> Option<&'static str> {
        let says = |text: &&str| self.what.contains(*text);
        let hung_up = HUNG_UP.iter().any(says);
        let https = self.endpoint.starts_with("https:");
        if let Some(advice) = crate::runtime::exhausted::advice(&self.what) {
            return Some(advice);
        }
        match self.kind {
            RpcErrorKind::Denied | RpcErrorKind::TooLarge | RpcErrorKind::TooManyOps => REFUSALS
                .iter()
                .find(|(text, _)| self.what.contains(text))
                .map(|(_, advice)| *advice),
            RpcErrorKind::LeaseGone => Some(LEASE_GONE),
            RpcErrorKind::Unauthenticated => None,
            _ if says(&"invalid peer certificate") => {
                Some("check its certificate, and what Tls::ca_pem and Tls::domain say")
            }
            _ if says(&"received fatal alert") => {
                Some("check Tls::identity_pem: it may want another client certificate")
            }
            RpcErrorKind::Unreachable if says(&"no answer within") => None,
            RpcErrorKind::Unreachable if says(&"cannot look up") => Some("check the name, and DNS"),
            RpcErrorKind::Unreachable if https && hung_up => Some("check that it speaks TLS there"),
            RpcErrorKind::Unreachable => Some("check that etcd runs there"),
            RpcErrorKind::Broken if self.at_first && hung_up && https => {
                Some("check Tls::identity_pem: it may want a client certificate")
            }
            RpcErrorKind::Broken if self.at_first && hung_up => {
                Some("check whether it speaks TLS there: then write https://")
            }
            _ => None,
        }
    }

    /// A watch that etcd cancelled, with its reason as text.
    pub(crate) fn from_cancel(endpoint: &Arc<str>, reason: &str) -> Self {
        let what = if reason.is_empty() {
            "watch cancelled"
        } else {
            reason
        };
        let kind = match classify(Code::Unknown, reason) {
            RpcErrorKind::ResourceExhausted | RpcErrorKind::Busy => RpcErrorKind::Broken,
            other => other,
        };
        Self::new(kind, endpoint, what)
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.endpoint, self.reason())
    }
}

/// The wait after a denial: an operator has to change something first.
pub(crate) const DENIED_RETRY: Duration = Duration::from_secs(30);

const NO_AUTH: &str = "authentication is not enabled";
/// etcd's texts of denials, and what to check.
const REFUSALS: [(&str, &str); 8] = [
    ("permission denied", "check the role of the user"),
    (
        "user name is empty",
        "it has users: give it one with Etcd::user",
    ),
    ("user ID or password", "check the user and its password"),
    (NO_AUTH, "other members have users, or may have"),
    (
        "request is too large",
        "write less, or raise etcd's --max-request-bytes",
    ),
    (
        "larger than max",
        "write less, or raise etcd's --max-request-bytes",
    ),
    ("too many operations", "raise etcd's --max-txn-ops"),
    ("invalid user", "check the user, its password and its role"),
];
const LEASE_GONE: &str = "it expired or was revoked, or etcd has lost its data";
const EXPIRED: &str = "certificate expired";
/// Errors when the peer closes the connection during the handshake.
const HUNG_UP: [&str; 4] = [
    "broken pipe",
    "connection closed",
    "handshake eof",
    "reset by peer",
];

/// Texts that are more exact than their code.
const MEANINGS: [(&str, RpcErrorKind); 12] = [
    ("lease not found", RpcErrorKind::LeaseGone),
    ("lease already exists", RpcErrorKind::LeaseExists),
    ("invalid auth token", RpcErrorKind::Unauthenticated),
    // jwt tokens stay valid when users or roles change, and etcd then refuses them with InvalidArgument.
    (
        "revision of auth store is old",
        RpcErrorKind::Unauthenticated,
    ),
    // An etcd that had no authentication before may have it now.
    ("user name is empty", RpcErrorKind::Unauthenticated),
    ("required revision", RpcErrorKind::Compacted),
    // etcd's own text; that of grpc-go in etcd or `grpc-proxy`; tonic's, for an answer that is too large.
    ("request is too large", RpcErrorKind::TooLarge),
    ("larger than max", RpcErrorKind::TooLarge),
    ("message length too large", RpcErrorKind::TooLarge),
    ("too many operations", RpcErrorKind::TooManyOps),
    ("permission denied", RpcErrorKind::Denied),
    ("waiting for the applied index", RpcErrorKind::Busy),
];

fn classify(code: Code, text: &str) -> RpcErrorKind {
    if let Some((_, kind)) = MEANINGS.iter().find(|(said, _)| text.contains(said)) {
        return *kind;
    }
    match code {
        Code::Unauthenticated => RpcErrorKind::Unauthenticated,
        Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition => {
            RpcErrorKind::Denied
        }
        Code::ResourceExhausted => RpcErrorKind::ResourceExhausted,
        _ => RpcErrorKind::Broken,
    }
}

/// The answer to a call, or a [`RpcErrorKind::Timeout`] after `limit`.
///
/// Cancel safe if the call is.
pub(crate) async fn with_timeout<T>(
    limit: Duration,
    endpoint: &Arc<str>,
    call: impl Future<Output = Result<T, RpcError>>,
) -> Result<T, RpcError> {
    let answer = tokio::time::timeout(limit, call).await;
    answer.unwrap_or_else(|_| Err(RpcError::timeout(endpoint, limit)))
}

/// An error and its causes in one line, without repetition; escaped and cut, because a cause may be the word of a peer:
/// GOAWAY carries a text, and so do certificates.
///
/// tonic shows only "transport error"; "connection refused" is three causes deeper.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    if let (Some(inner), "transport error") = (cause, &*text) {
        (text, cause) = (inner.to_string(), inner.source());
    }
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    foreign(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_etcd_has_one_meaning() {
        for (code, text, expected) in [
            (
                Code::NotFound,
                "etcdserver: requested lease not found",
                RpcErrorKind::LeaseGone,
            ),
            (
                Code::Unavailable,
                "etcdserver: request timed out, waiting for the applied index took too long",
                RpcErrorKind::Busy,
            ),
            (
                Code::FailedPrecondition,
                "etcdserver: lease already exists",
                RpcErrorKind::LeaseExists,
            ),
            (
                Code::Unauthenticated,
                "etcdserver: invalid auth token",
                RpcErrorKind::Unauthenticated,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: revision of auth store is old",
                RpcErrorKind::Unauthenticated,
            ),
            (
                Code::PermissionDenied,
                "etcdserver: permission denied",
                RpcErrorKind::Denied,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                RpcErrorKind::Denied,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: user name is empty",
                RpcErrorKind::Unauthenticated,
            ),
            (
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled",
                RpcErrorKind::Denied,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                RpcErrorKind::ResourceExhausted,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: too many requests",
                RpcErrorKind::ResourceExhausted,
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                RpcErrorKind::Compacted,
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
                RpcErrorKind::Compacted,
            ),
            (
                Code::Unavailable,
                "etcdserver: no leader",
                RpcErrorKind::Broken,
            ),
            (
                Code::Unavailable,
                "etcdserver: request timed out",
                RpcErrorKind::Broken,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: request is too large",
                RpcErrorKind::TooLarge,
            ),
            (
                Code::ResourceExhausted,
                "grpc: received message larger than max (2098176 vs. 2097152)",
                RpcErrorKind::TooLarge,
            ),
            (
                Code::ResourceExhausted,
                "trying to send message larger than max (2098176 vs. 2097152)",
                RpcErrorKind::TooLarge,
            ),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes",
                RpcErrorKind::TooLarge,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: too many operations in txn request",
                RpcErrorKind::TooManyOps,
            ),
            (Code::Unknown, "h2 protocol error", RpcErrorKind::Broken),
        ] {
            let error = RpcError::from_status(&"http://e:1".into(), &Status::new(code, text));
            assert_eq!(error.kind(), expected, "{text}");
            assert!(error.to_string().starts_with("http://e:1: "), "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn each_error_has_its_advice() {
        for (endpoint, kind, what, at_first, advice) in [
            (
                "http://e:1",
                RpcErrorKind::Unreachable,
                "tcp connect error: Too many open files (os error 24)",
                false,
                "ulimit -n",
            ),
            (
                "https://e:1",
                RpcErrorKind::Unreachable,
                "invalid peer certificate: X",
                true,
                "ca_pem",
            ),
            (
                "https://e:1",
                RpcErrorKind::Unreachable,
                "tls handshake eof",
                true,
                "speaks TLS",
            ),
            (
                "https://e:1",
                RpcErrorKind::Broken,
                "received fatal alert: X",
                false,
                "identity_pem",
            ),
            (
                "https://e:1",
                RpcErrorKind::Broken,
                "broken pipe",
                true,
                "identity_pem",
            ),
            (
                "http://e:1",
                RpcErrorKind::Broken,
                "broken pipe",
                true,
                "write https://",
            ),
            (
                "http://e:1",
                RpcErrorKind::Unreachable,
                "refused",
                true,
                "etcd runs there",
            ),
            (
                "http://e:1",
                RpcErrorKind::Denied,
                "authentication failed, invalid user ID or password",
                true,
                "its password",
            ),
            (
                "http://e:1",
                RpcErrorKind::Denied,
                "permission denied",
                false,
                "the role",
            ),
            (
                "http://e:1",
                RpcErrorKind::Denied,
                "user name is empty",
                true,
                "Etcd::user",
            ),
            (
                "http://e:1",
                RpcErrorKind::TooLarge,
                "request is too large",
                false,
                "(write less",
            ),
            (
                "http://e:1",
                RpcErrorKind::TooManyOps,
                "too many operations in txn request",
                false,
                "--max-txn-ops",
            ),
        ] {
            let error = RpcError::new(kind, &endpoint.into(), what);
            let error = if at_first { error.at_first() } else { error };
            assert!(error.to_string().contains(advice), "{error}");
        }
        let later = RpcError::broken(&"http://e:1".into(), "broken pipe");
        assert_eq!(later.to_string(), "http://e:1: broken pipe", "it did work");
        let expired = "certificate expired: verification time 17 (UNIX)";
        let expired = RpcError::broken(&"https://e:1".into(), expired).to_string();
        assert!(!expired.contains("17"), "{expired}");
    }

    #[test]
    fn the_cause_is_shown_and_not_only_that_there_was_one() {
        let refused = std::io::Error::other("connection refused");
        let mut status = Status::unavailable("tcp connect error");
        status.set_source(Arc::new(refused));
        let error = RpcError::from_status(&"http://e:1".into(), &status);
        assert_eq!(error.to_string(), "http://e:1: connection refused");
    }
}
