//! [`Etcd`]: the endpoints of an etcd cluster, with user, TLS and timeouts.
//!
//! The only module that calls `etcd-client`. Types of `etcd-client` do not leave it, because that crate changes its
//! interface about five times a year.
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | [`Etcd`], as the user configures it |
//! | `from_env.rs` | the same, from the variables of etcdctl |
//! | `cluster.rs` | [`Etcd`], checked |
//! | `member.rs` | one member, from its URL |
//! | `members.rs` | all members: the configured ones, and those of etcd's member list |
//! | `rotation.rs` | which member is next after a failure, and when; pure |
//! | `auth.rs` | the user, and the token that all connections share |
//! | `net/` | connects to an address or to a name |
//! | `tls.rs` | [`Tls`]: trust and identity |
//! | `session/` | one connection to one member, and the calls we make on it |
//! | `rpc_error.rs` | the kinds of errors: the one place that classifies them |
//! | `inspect.rs` | what `registryctl` asks a member |
//! | `local_addr.rs` | our addresses on the routes to etcd and to others |

mod auth;
mod cluster;
mod from_env;
#[cfg(feature = "discovery")]
pub(crate) mod inspect;
pub(crate) mod local_addr;
mod member;
mod members;
pub(crate) mod net;
mod rotation;
mod rpc_error;
mod session;
#[cfg(feature = "_tls")]
mod tls;

pub(crate) use cluster::Cluster;
pub(crate) use member::Member;
pub(crate) use members::Members;
pub(crate) use rotation::Rotation;
pub(crate) use rpc_error::{DENIED_RETRY, RpcError, RpcErrorKind, chain, with_timeout};
pub(crate) use session::{
    Applied, Event, EventKind, KeepAliveStream, KeyMeta, Op, Replaced, Session, WatchReplies,
    WatchRequests, WatchResponse,
};
#[cfg(feature = "discovery")]
pub(crate) use session::{KeyValue, Page, USER_AGENT};
#[cfg(feature = "_tls")]
pub use tls::Tls;
#[cfg(all(feature = "_tls", feature = "discovery"))]
pub use tls::secure;

use self::member::Given;
use self::members::MemberList;
use crate::error::BuildError;
use crate::etcd::net::connector::Connector;
use crate::etcd::net::resolver::Resolver;
use http::Uri;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// The etcd cluster to register in.
///
/// Its methods check nothing and connect to nothing. [`RegistrarBuilder::build`] checks the settings. The registrar
/// connects when there is something to register, and retries for as long as it takes.
///
/// One member is used at a time, chosen at random at first and kept while it answers. When an answer is late, the next one
/// is tried beside it, and what answers first is used.
///
/// `Debug` shows endpoints and the user, never a password or a private key.
///
/// ```
/// use tonic_etcd::Etcd;
///
/// let etcd = Etcd::new(["http://10.0.0.1:2379", "http://10.0.0.2:2379"])
///     .user("greeter", std::env::var("ETCD_PASSWORD").unwrap_or_default());
/// ```
///
/// [`RegistrarBuilder::build`]: crate::RegistrarBuilder::build
#[derive(Debug, Clone)]
pub struct Etcd {
    endpoints: Vec<Given>,
    user: Option<Arc<auth::User>>,
    attempt_timeout: Option<Duration>,
    connector: Option<Connector>,
    resolver: Resolver,
    synced: Option<Arc<MemberList>>,
    #[cfg(feature = "_tls")]
    tls: Option<Tls>,
}

/// The attempt timeout of most users.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(600);

// === impl Etcd ===

impl Etcd {
    /// An etcd cluster, given by the client URLs of its members: `http://host:port`, or
    /// `https://host:port` with one of the `tls-*` features. A bare `host:port` is taken as
    /// `http`, or as `https` once [`tls`](Self::tls) is given.
    #[must_use]
    pub fn new<I>(endpoints: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        Self {
            endpoints: endpoints
                .into_iter()
                .map(|endpoint| Given::new(endpoint.as_ref()))
                .collect(),
            user: None,
            attempt_timeout: None,
            connector: None,
            resolver: Resolver::default(),
            synced: None,
            #[cfg(feature = "_tls")]
            tls: None,
        }
    }

    /// Authenticates with a name and a password.
    ///
    /// This `Etcd` and all its clones share one token: give clones to every `Registrar`
    /// and `Discovery` of a process. It is requested once, and again only when etcd refuses it:
    /// when it has expired, when etcd has restarted without it, or when users or roles were changed.
    ///
    /// etcd may take a minute to authenticate. Meanwhile renewals continue on a connection
    /// that works. If no member has authentication enabled, the user has no effect, and a
    /// WARN says so.
    ///
    /// # Large fleets
    ///
    /// etcd compares passwords with bcrypt. At the default cost of 10 that takes some 0.07 s on one
    /// of its cores for each process. Most versions lose their tokens when they restart. Then
    /// every process authenticates, and has to renew its lease within one TTL. Measured on two cores
    /// that etcd shared with the servers and other processes:
    ///
    /// | processes | `--bcrypt-cost` | all registered after | etcd restarted, away for 1 s |
    /// |---|---|---|---|
    /// | 20 | 10 (default) | 3 s | none lost |
    /// | 40 | 10 (default) | 7 s | most lost for 2 s |
    /// | 200 | 4 | 4 s | none lost |
    /// | 60, with jwt | 10 (default) | 16 s | none lost, nobody authenticates |
    ///
    /// With more than ten processes for each core of etcd, use one of these instead:
    ///
    /// * **Client certificates**: start etcd with `--client-cert-auth`, and give
    ///   `Tls::identity_files` a certificate whose common name (CN) is the user. Leave `user` out.
    ///   No process ever authenticates; the roles are the same. (`etcd grpc-proxy` hides the name.)
    /// * **jwt**: start etcd with `--auth-token jwt,..`. Its tokens survive restarts of etcd. They
    ///   expire after 5 minutes by default (`ttl=`), and whenever users or roles are changed,
    ///   and then each process authenticates once more.
    /// * A cheaper hash: `--bcrypt-cost=4`, before the passwords are set. It is 64 times as cheap,
    ///   for etcd and for somebody who steals its data: use long random passwords.
    /// * A longer TTL, which leaves more time after a restart.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some(Arc::new(auth::User::new(name.into(), password.into())));
        self
    }

    /// Trust and identity for `https` endpoints. Without it, `https` trusts the roots of the
    /// features `tls-native-roots` and `tls-webpki-roots`.
    #[cfg(feature = "_tls")]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))))]
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How long an answer (to a connect, a renewal, a write) may take before it counts as late, and the next member is
    /// tried beside it. By default 0.6 s, or 12 % of a TTL below 5 s. The limit grows by itself while answers take longer.
    /// With one member only, a late answer is waited for as long as the lease allows. Late answers are used.
    ///
    /// Three attempts and a renewal interval must fit in a TTL; otherwise the registrar's
    /// [`build`](crate::RegistrarBuilder::build) returns an error.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// Opens connections in another way than plain TCP: a Unix socket, a proxy, a pipe in a test.
    ///
    /// The function gets the URI of the member and is called for each connection. TLS, if
    /// any, runs over the connection that it returns. Dropping its future must abandon the attempt.
    #[must_use]
    pub fn connector<F, C, T>(mut self, connect: F) -> Self
    where
        F: Fn(Uri) -> C + Send + Sync + 'static,
        C: Future<Output = io::Result<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.connector = Some(Connector::new(connect));
        self
    }

    /// Looks up the names of members in another way than the system's resolver (`getaddrinfo`).
    ///
    /// The function gets host and port. A name with several addresses counts as that many members: after one that does
    /// not answer, the next one is tried. TLS checks the name. The function is not called for IP addresses, nor with a
    /// [`connector`](Self::connector).
    ///
    /// One lookup of a name is under way at a time for an `Etcd` and its clones. It outlives the attempt to connect that
    /// began it, and the next attempt uses its answer. An answer is used for a second. When a lookup fails, or takes
    /// longer than a third of an attempt, the last known addresses are used. The future may be polled by several tasks,
    /// one after the other; it is dropped after a minute without an answer, which must abandon the lookup.
    #[must_use]
    pub fn resolver<F, R>(mut self, lookup: F) -> Self
    where
        F: Fn(String, u16) -> R + Send + Sync + 'static,
        R: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        self.resolver = Resolver::new(lookup);
        self
    }

    /// Reads the member list of the cluster when it connects and then every `interval` (1 s at
    /// least), and uses the client URLs in it beside the configured endpoints: for clusters whose
    /// members are replaced one by one until no configured endpoint is left. By default the
    /// configured endpoints are all there are.
    ///
    /// Some URLs are ignored: those that could not be [configured](Self::new), those with a scheme
    /// that no configured endpoint has, and those of this machine when no configured endpoint is on
    /// it. A list without a usable URL changes nothing. Clones share the list.
    #[must_use]
    pub fn sync_members(mut self, interval: Duration) -> Self {
        self.synced = Some(Arc::new(MemberList::new(interval)));
        self
    }

    #[cfg(all(test, feature = "test-util"))]
    pub(crate) fn get_resolver(&self) -> Resolver {
        self.resolver.clone()
    }

    /// Sets the attempt timeout, unless the user has.
    pub(crate) fn or_attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout.get_or_insert(timeout);
        self
    }

    /// Checks everything that can be checked without the network.
    pub(crate) fn check(self) -> Result<Cluster, BuildError> {
        if self.endpoints.is_empty() {
            return Err(BuildError::NoEndpoints);
        }
        #[cfg(feature = "_tls")]
        let wants_tls = self.tls.is_some();
        #[cfg(not(feature = "_tls"))]
        let wants_tls = false;
        if let Some(list) = &self.synced {
            list.check()?;
        }
        let configured = self
            .endpoints
            .iter()
            .map(|endpoint| Member::parse(endpoint.url(), wants_tls))
            .collect::<Result<Vec<_>, _>>()?;
        let cluster = Cluster {
            members: Members::new(configured, self.synced),
            attempt_timeout: self.attempt_timeout.unwrap_or(ATTEMPT_TIMEOUT),
            user: self.user,
            connector: self.connector,
            resolver: self.resolver,
            #[cfg(feature = "_tls")]
            tls: self.tls.unwrap_or_default(),
        };
        cluster.check()?;
        Ok(cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_ever_shown() {
        let etcd = Etcd::new(["http://127.0.0.1:2379"]).user("me", "canary");
        assert!(!format!("{etcd:?}").contains("canary"));
        assert!(!format!("{:?}", etcd.check().unwrap()).contains("canary"));
        for url in [
            "http://me:canary@127.0.0.1:2379",
            "me:canary@127.0.0.1:2379",
            "http://me:canary%40127.0.0.1:2379",
        ] {
            let etcd = || Etcd::new([url]);
            let registrar = crate::Registrar::builder(etcd());
            assert!(!format!("{:?} {registrar:?}", etcd()).contains("canary"));
            #[cfg(feature = "discovery")]
            {
                let discovery = crate::discovery::Discovery::builder(etcd(), "greeter");
                assert!(!format!("{discovery:?}").contains("canary"));
            }
            let error = registrar.build().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("canary"));
            assert!(error.to_string().contains("Etcd::user"));
        }
    }
}
