//! [`Fault`]: what an error from etcd means for us, decided here and nowhere else.
//!
//! The texts are etcd's own (`api/v3rpc/rpctypes/error.go`): some of its errors share a code, and
//! `etcd-client` hands one over as text only.

use crate::backoff::Backoff;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Status};

/// An attempt that failed: at which member, why, and what follows from it.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    meaning: Meaning,
    endpoint: Arc<str>,
    what: String,
    /// Nothing has ever worked there: look at the configuration first.
    at_first: bool,
}

/// What follows from a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// etcd does not know our lease: take a new one.
    LeaseGone,
    /// A lease with this id exists: our own grant, whose reply was lost.
    LeaseExists,
    /// The token is not valid any more: authenticate again, once.
    Unauthenticated,
    /// Refused on purpose; trying soon again would change nothing. Slow retries.
    Denied,
    /// etcd has no history that goes back, or on, to there: read anew what there is.
    Compacted,
    /// The answer is larger than we take: ask for less.
    TooLarge,
    /// This request was turned down, the connection is fine: repeat it after a while.
    Busy,
    /// The connection or the member is not usable: try the next one.
    Broken,
    /// No connection was made: as broken, but cheap to try again soon.
    Unreachable,
    /// No answer within the limit of an attempt: as broken, and enough time was spent.
    Late,
}

// === impl Fault ===

impl Fault {
    pub(crate) fn new(meaning: Meaning, endpoint: &Arc<str>, what: impl Into<String>) -> Self {
        let mut what = what.into();
        // rustls adds the time of the attempt: the same trouble would read as another each time.
        if let Some(at) = what.find(EXPIRED) {
            what.truncate(at + EXPIRED.len());
        }
        Self {
            meaning,
            endpoint: endpoint.clone(),
            what,
            at_first: false,
        }
    }

    /// Nothing has ever worked so far.
    pub(crate) fn at_first(mut self) -> Self {
        self.at_first = true;
        self
    }

    pub(crate) fn broken(endpoint: &Arc<str>, what: impl Into<String>) -> Self {
        Self::new(Meaning::Broken, endpoint, what)
    }

    pub(crate) fn late(endpoint: &Arc<str>, limit: Duration) -> Self {
        Self::new(
            Meaning::Late,
            endpoint,
            format!("no answer within {limit:?}"),
        )
    }

    pub(crate) fn meaning(&self) -> Meaning {
        self.meaning
    }

    /// How long to wait before the next connection, after one that had worked for `worked`: at
    /// most `brisk` when there was none, and `limit` when it broke.
    pub(crate) fn pause(
        &self,
        retry: &mut Backoff,
        worked: Duration,
        (brisk, limit): (Duration, Duration),
        rng: &mut fastrand::Rng,
    ) -> Duration {
        match self.meaning {
            Meaning::Late => Duration::ZERO,
            Meaning::Denied => SLOW.mul_f64(0.75 + rng.f64() / 4.0),
            Meaning::Unreachable => retry.failed_after(worked, brisk, rng),
            _ => retry.failed_after(worked, limit, rng),
        }
    }

    pub(crate) fn from_client(endpoint: &Arc<str>, error: &etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => Self::from_status(endpoint, status),
            etcd_client::Error::TransportError(error) => Self::broken(endpoint, chain(error)),
            etcd_client::Error::LeaseKeepAliveError(text) if text.contains("not found") => {
                Self::new(Meaning::LeaseGone, endpoint, text.clone())
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
        Self::new(meaning(status.code(), text), endpoint, what)
    }

    /// What to look at first.
    fn advice(&self) -> Option<&'static str> {
        let says = |text: &&str| self.what.contains(*text);
        let hung_up = HUNG_UP.iter().any(says);
        let https = self.endpoint.starts_with("https:");
        match self.meaning {
            Meaning::Denied => Some("check the user, its password and its role"),
            _ if says(&"invalid peer certificate") => {
                Some("check its certificate, and what Tls::ca_pem and Tls::domain say")
            }
            _ if says(&"received fatal alert") => {
                Some("check Tls::identity_pem: it may want another client certificate")
            }
            Meaning::Unreachable if https && hung_up => Some("check that it speaks TLS there"),
            Meaning::Unreachable => Some("check that etcd runs there"),
            Meaning::Broken if self.at_first && hung_up && https => {
                Some("check Tls::identity_pem: it may want a client certificate")
            }
            Meaning::Broken if self.at_first && hung_up => {
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
        let meaning = match meaning(Code::Unknown, reason) {
            Meaning::Busy => Meaning::Broken,
            other => other,
        };
        Self::new(meaning, endpoint, what)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.endpoint, self.what)?;
        match self.advice() {
            Some(advice) => write!(f, " ({advice})"),
            None => Ok(()),
        }
    }
}

/// Between attempts that were refused on purpose: somebody has to change something first.
pub(crate) const SLOW: Duration = Duration::from_secs(30);

const EXPIRED: &str = "certificate expired";
/// How it reads when the other side hangs up on our first words.
const HUNG_UP: [&str; 4] = [
    "broken pipe",
    "connection closed",
    "handshake eof",
    "reset by peer",
];

fn meaning(code: Code, text: &str) -> Meaning {
    if text.contains("lease not found") {
        return Meaning::LeaseGone;
    }
    if text.contains("lease already exists") {
        return Meaning::LeaseExists;
    }
    // jwt tokens outlive a change of the auth store and are then refused with InvalidArgument.
    if text.contains("invalid auth token") || text.contains("revision of auth store is old") {
        return Meaning::Unauthenticated;
    }
    if text.contains("required revision") {
        return Meaning::Compacted;
    }
    if text.contains("message length too large") {
        return Meaning::TooLarge;
    }
    if text.contains("permission denied") {
        return Meaning::Denied;
    }
    match code {
        Code::Unauthenticated => Meaning::Unauthenticated,
        Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition => {
            Meaning::Denied
        }
        Code::ResourceExhausted => Meaning::Busy,
        _ => Meaning::Broken,
    }
}

/// An error and its causes in one line, without saying the same thing twice.
///
/// tonic shows only "transport error"; the refused connection stands three causes deeper.
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
    text
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
                Meaning::LeaseGone,
            ),
            (
                Code::FailedPrecondition,
                "etcdserver: lease already exists",
                Meaning::LeaseExists,
            ),
            (
                Code::Unauthenticated,
                "etcdserver: invalid auth token",
                Meaning::Unauthenticated,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: revision of auth store is old",
                Meaning::Unauthenticated,
            ),
            (
                Code::PermissionDenied,
                "etcdserver: permission denied",
                Meaning::Denied,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                Meaning::Denied,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: user name is empty",
                Meaning::Denied,
            ),
            (
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled",
                Meaning::Denied,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                Meaning::Busy,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: too many requests",
                Meaning::Busy,
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                Meaning::Compacted,
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
                Meaning::Compacted,
            ),
            (Code::Unavailable, "etcdserver: no leader", Meaning::Broken),
            (
                Code::Unavailable,
                "etcdserver: request timed out",
                Meaning::Broken,
            ),
            (Code::Unknown, "h2 protocol error", Meaning::Broken),
        ] {
            let fault = Fault::from_status(&"http://e:1".into(), &Status::new(code, text));
            assert_eq!(fault.meaning(), expected, "{text}");
            assert!(fault.to_string().starts_with("http://e:1: "), "{fault}");
            assert!(fault.to_string().contains(text), "{fault}");
        }
    }

    #[test]
    fn advice_goes_with_what_is_seen() {
        for (endpoint, meaning, what, at_first, advice) in [
            (
                "https://e:1",
                Meaning::Unreachable,
                "invalid peer certificate: X",
                true,
                "ca_pem",
            ),
            (
                "https://e:1",
                Meaning::Unreachable,
                "tls handshake eof",
                true,
                "speaks TLS",
            ),
            (
                "https://e:1",
                Meaning::Broken,
                "received fatal alert: X",
                false,
                "identity_pem",
            ),
            (
                "https://e:1",
                Meaning::Broken,
                "broken pipe",
                true,
                "identity_pem",
            ),
            (
                "http://e:1",
                Meaning::Broken,
                "broken pipe",
                true,
                "write https://",
            ),
            (
                "http://e:1",
                Meaning::Unreachable,
                "refused",
                true,
                "etcd runs there",
            ),
            ("http://e:1", Meaning::Denied, "no", true, "its password"),
        ] {
            let fault = Fault::new(meaning, &endpoint.into(), what);
            let fault = if at_first { fault.at_first() } else { fault };
            assert!(fault.to_string().contains(advice), "{fault}");
        }
        let later = Fault::broken(&"http://e:1".into(), "broken pipe");
        assert_eq!(later.to_string(), "http://e:1: broken pipe", "it did work");
        let expired = "certificate expired: verification time 17 (UNIX)";
        let expired = Fault::broken(&"https://e:1".into(), expired).to_string();
        assert!(!expired.contains("17"), "{expired}");
    }

    #[test]
    fn the_cause_is_shown_and_not_only_that_there_was_one() {
        let refused = std::io::Error::other("connection refused");
        let mut status = Status::unavailable("tcp connect error");
        status.set_source(Arc::new(refused));
        let fault = Fault::from_status(&"http://e:1".into(), &status);
        assert_eq!(fault.to_string(), "http://e:1: connection refused");
    }
}
