//! [`Etcd`]: which etcd, as whom, how securely, and how patiently.
//!
//! The only module that calls `etcd-client`; its types do not leave it, because it changes its
//! interface about five times a year.
//!
//! | file | |
//! |---|---|
//! | `rpc_error.rs` | what an error means: decided once |
//! | `member_list.rs` | the members that etcd itself names |
//! | `rotation.rs` | which member is next after a failure, and when; pure |
//! | `session.rs` | one connection to one member, and the calls we make on it |
//! | `auth.rs` | the user, and the token that all connections share |
//! | `local_addr.rs` | which of our addresses packets leave from, to etcd and to others |
//! | `tls.rs` | [`Tls`]: trust and identity |

mod auth;
pub(crate) mod local_addr;
mod member_list;
mod rotation;
mod rpc_error;
mod session;
#[cfg(feature = "_tls")]
mod tls;

pub(crate) use rotation::Rotation;
pub(crate) use rpc_error::{RpcError, RpcErrorKind, SLOW, chain};
pub(crate) use session::{
    Applied, Event, EventKind, KeepAliveStream, KeyMeta, Op, Session, WatchReplies, WatchRequests,
    WatchResponse,
};
#[cfg(feature = "discovery")]
pub(crate) use session::{KeyValue, Page, USER_AGENT};
#[cfg(feature = "_tls")]
pub use tls::Tls;

use self::member_list::MemberList;
use crate::Error;
use crate::address::{LocalIp, is_dns_name, is_localhost};
use crate::connector::Connector;
use crate::resolver::Resolver;
use http::Uri;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// The etcd cluster to register in.
///
/// Nothing is checked or contacted here: [`RegistrarBuilder::build`] checks, and the registrar
/// connects when there is something to register, for as long as it takes.
///
/// One member is used at a time, chosen at random at first and kept while it answers; the next
/// one takes over when an attempt fails or misses its deadline.
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
    endpoints: Vec<String>,
    user: Option<Arc<auth::User>>,
    attempt_timeout: Option<Duration>,
    connector: Option<Connector>,
    resolver: Resolver,
    synced: Option<Arc<MemberList>>,
    #[cfg(feature = "_tls")]
    tls: Option<Tls>,
}

/// A checked [`Etcd`].
#[derive(Debug, Clone)]
pub(crate) struct Endpoints {
    configured: Vec<Member>,
    synced: Option<Arc<MemberList>>,
    user: Option<Arc<auth::User>>,
    connector: Option<Connector>,
    resolver: Resolver,
    #[cfg(feature = "_tls")]
    tls: Option<Tls>,
}

/// One member of the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    uri: Uri,
    shown: Arc<str>,
    /// Which of the addresses of its name is tried first, counted round and round.
    turn: usize,
}

/// The answer to a call, or, after `limit`, that it is late.
///
/// As cancel safe as the call is.
pub(crate) async fn with_timeout<T>(
    limit: Duration,
    endpoint: &Arc<str>,
    call: impl Future<Output = Result<T, RpcError>>,
) -> Result<T, RpcError> {
    let answer = tokio::time::timeout(limit, call).await;
    answer.unwrap_or_else(|_| Err(RpcError::timeout(endpoint, limit)))
}

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
                .map(|e| e.as_ref().to_owned())
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
    /// There is one token for this `Etcd` and all of its clones: give clones to every `Registrar`
    /// and `Discovery` of a process. It is asked for once, and again only when etcd refuses it:
    /// when it has expired, when etcd has forgotten it, or when users or roles were changed.
    ///
    /// etcd may take a minute for that; while etcd has no token to give, renewals on a connection
    /// that works go on. Where no member has authentication enabled, the user does nothing, and a
    /// WARN says so.
    ///
    /// # Large fleets
    ///
    /// etcd compares passwords with bcrypt: at its default cost of 10, that is some 0.07 s of one
    /// of its cores for each process. Most versions forget their tokens when they restart, so that
    /// every process authenticates then, and has to renew its lease within one TTL. On two cores
    /// that the servers, and much else, use too:
    ///
    /// | processes | `--bcrypt-cost` | all registered after | etcd restarted, away for 1 s |
    /// |---|---|---|---|
    /// | 20 | 10 (default) | 3 s | none lost |
    /// | 40 | 10 (default) | 7 s | most lost for 2 s |
    /// | 200 | 4 | 4 s | none lost |
    /// | 60, with jwt | 10 (default) | 16 s | none lost, nobody authenticates |
    ///
    /// Beyond ten processes for each core of etcd, use one of these instead:
    ///
    /// * **Client certificates**: start etcd with `--client-cert-auth`, and give
    ///   `Tls::identity_files` a certificate whose common name (CN) is the user. Leave `user` out.
    ///   Nothing ever authenticates; the roles are the same. (`etcd grpc-proxy` hides the name.)
    /// * **jwt**: start etcd with `--auth-token jwt,..`. Its tokens survive restarts of etcd. They
    ///   expire after 5 minutes by default (`ttl=`), and whenever users or roles are changed,
    ///   and then each process authenticates once more.
    /// * A cheaper hash: `--bcrypt-cost=4`, before the passwords are set. It is 64 times as cheap,
    ///   for etcd and for whoever steals its data: use long random passwords.
    /// * A longer TTL, which leaves more time after a restart.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some(Arc::new(auth::User::new(name.into(), password.into())));
        self
    }

    /// Trust and identity for `https` endpoints. Without it, `https` trusts the roots that the
    /// features `tls-native-roots` and `tls-webpki-roots` bring in.
    #[cfg(feature = "_tls")]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))))]
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How long one attempt (to connect, to renew, to write) may take before the next member is
    /// tried. By default 0.6 s, or 12 % of a TTL below 5 s. An etcd whose round trips take longer
    /// needs a longer limit and a longer TTL: the [status](crate::Status) says so.
    ///
    /// It must leave room for three attempts between two renewals; the registrar's
    /// [`build`](crate::RegistrarBuilder::build) says so if it does not.
    #[must_use]
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.attempt_timeout = Some(limit);
        self
    }

    /// Opens connections in another way than plain TCP: a Unix socket, a proxy, a pipe in a test.
    ///
    /// The function is given the URI of the member and is called for each connection. TLS, if
    /// any, is spoken inside of what it returns. Dropping its future must abandon the attempt.
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
    /// The function is given host and port, and is called for each connection. A name with several
    /// addresses stands for that many members: one that does not answer is left for the next one.
    /// TLS goes by the name. IP addresses are not looked up, and nothing is with a
    /// [`connector`](Self::connector). Dropping its future must abandon the lookup.
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
    /// URLs that could not be [configured](Self::new) are passed over, and so are those with a scheme
    /// that no configured endpoint has, and those of this machine when no configured endpoint is on
    /// it. A list without a usable one changes nothing. Clones share what was read.
    #[must_use]
    pub fn sync_members(mut self, interval: Duration) -> Self {
        self.synced = Some(Arc::new(MemberList::new(interval)));
        self
    }

    pub(crate) fn attempt_limit(&self) -> Option<Duration> {
        self.attempt_timeout
    }

    /// Checks everything that can be checked without the network.
    pub(crate) fn check(self) -> Result<Endpoints, Error> {
        if self.endpoints.is_empty() {
            return Err(Error::NoEndpoints);
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
            .map(|endpoint| Member::parse(endpoint.trim(), wants_tls))
            .collect::<Result<Vec<_>, _>>()?;
        let members = Endpoints {
            configured,
            synced: self.synced,
            user: self.user,
            connector: self.connector,
            resolver: self.resolver,
            #[cfg(feature = "_tls")]
            tls: self.tls,
        };
        members.check_schemes()?;
        members.check_tls()?;
        Ok(members)
    }
}

// === impl Endpoints ===

impl Endpoints {
    /// The members that etcd named last, and the configured ones, each once.
    fn all(&self) -> Vec<Member> {
        let found = self.synced.as_ref().map(|list| list.found());
        let mut all = found.map_or_else(Vec::new, |found| found.to_vec());
        for member in &self.configured {
            if !all.iter().any(|other| other.shown == member.shown) {
                all.push(member.clone());
            }
        }
        all
    }

    pub(crate) fn len(&self) -> usize {
        self.all().len()
    }

    /// The member for the attempt number `index`. Counting on goes through all members, and in the
    /// next round to another address of each.
    pub(crate) fn at(&self, index: usize) -> Member {
        let mut all = self.all();
        let count = all.len();
        Member {
            turn: index / count,
            ..all.swap_remove(index % count)
        }
    }

    /// Opens connections to `member`, within attempts of `limit`.
    fn connector(&self, member: &Member, limit: Duration) -> Connector {
        if let Some(connector) = &self.connector {
            return connector.clone();
        }
        let (resolver, member) = (self.resolver.clone(), member.clone());
        Connector::new(move |_| {
            let (resolver, member) = (resolver.clone(), member.clone());
            async move {
                let connecting = resolver.connect(member.host(), member.port(), member.turn, limit);
                connecting.await
            }
        })
    }

    /// Whether `what` is true of any member, by the name that is shown.
    fn any(&self, what: impl Fn(&Arc<str>) -> bool) -> bool {
        self.all().iter().any(|member| what(&member.shown))
    }

    /// Whether every member is surely on another machine: given by an address that is none of
    /// `ours`. A name may mean any machine, this one too.
    pub(crate) fn are_remote(&self, ours: &[LocalIp]) -> bool {
        let is_ours = |ip: IpAddr| ip.is_loopback() || ours.iter().any(|local| local.ip == ip);
        self.configured
            .iter()
            .all(|member| match member.host().parse::<IpAddr>() {
                Ok(ip) => !is_ours(ip.to_canonical()),
                Err(_) => false,
            })
    }

    /// Whether any member is given by a name other than `localhost`.
    pub(crate) fn have_names(&self) -> bool {
        let is_name = |host: &str| host.parse::<IpAddr>().is_err() && !is_localhost(host);
        self.configured.iter().any(|member| is_name(member.host()))
    }

    /// Refuses a password, and the token it gives, that would go encrypted to one member and in
    /// the clear to another.
    fn check_schemes(&self) -> Result<(), Error> {
        let of = |scheme| {
            let mut members = self.configured.iter();
            members.find(|member| member.uri.scheme_str() == Some(scheme))
        };
        match (&self.user, of("http"), of("https")) {
            (Some(_), Some(http), Some(https)) => Err(Error::Endpoint {
                endpoint: http.shown.to_string(),
                reason: format!(
                    "would be sent the password unencrypted, although {} uses TLS: \
                     write https:// for all endpoints",
                    https.shown
                ),
            }),
            _ => Ok(()),
        }
    }

    #[cfg(feature = "_tls")]
    fn check_tls(&self) -> Result<(), Error> {
        // Roots alone cannot encrypt, and rustls panics when it finds no provider.
        if cfg!(not(any(feature = "tls-ring", feature = "tls-aws-lc"))) {
            let remedy = "no crypto provider: enable the feature `tls-ring` or `tls-aws-lc`";
            return Err(Error::Tls(remedy.to_owned()));
        }
        match self
            .configured
            .iter()
            .find(|member| member.uri.scheme_str() == Some("https"))
        {
            Some(https) => {
                let endpoint = tonic::transport::Endpoint::from(https.uri.clone());
                self.secure(endpoint).map(drop).map_err(Error::Tls)
            }
            None => Ok(()),
        }
    }

    #[cfg(not(feature = "_tls"))]
    fn check_tls(&self) -> Result<(), Error> {
        Ok(())
    }
}

// === impl Member ===

impl Member {
    fn parse(given: &str, wants_tls: bool) -> Result<Self, Error> {
        // A URL with credentials in it must not reach an error message, a log or a Debug.
        if given.contains('@') {
            return Err(Error::Endpoint {
                endpoint: "(not shown)".to_owned(),
                reason: "credentials do not belong in the URL: use Etcd::user".to_owned(),
            });
        }
        let refuse = |reason: &str| {
            Err(Error::Endpoint {
                endpoint: given.to_owned(),
                reason: reason.to_owned(),
            })
        };
        let full = match given.split_once("://") {
            Some(_) => given.to_owned(),
            None if wants_tls => format!("https://{given}"),
            None => format!("http://{given}"),
        };
        let Ok(uri) = full.parse::<Uri>() else {
            return refuse("is not a URL: write it like http://127.0.0.1:2379");
        };
        match uri.scheme_str() {
            Some("http") if wants_tls => {
                return refuse("is plaintext although TLS is configured: write https://");
            }
            Some("https") if cfg!(not(feature = "_tls")) => {
                return refuse("needs TLS: enable the feature `tls-ring` or `tls-aws-lc`");
            }
            Some("http" | "https") => {}
            _ => return refuse("the scheme must be http or https"),
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        if host.parse::<IpAddr>().is_err() && !is_dns_name(host) {
            return refuse("the host is neither an IP address nor a DNS name");
        }
        if uri.path_and_query().is_some_and(|rest| rest != "/") {
            return refuse("has a path: only scheme, host and port belong here");
        }
        match uri.port_u16() {
            None => return refuse("has no port from 1 to 65535: etcd's is 2379 by default"),
            Some(0) => return refuse("port 0 cannot be dialled: etcd's is 2379 by default"),
            Some(_) => {}
        }
        let shown = full.trim_end_matches('/').into();
        Ok(Self {
            uri,
            shown,
            turn: 0,
        })
    }

    /// The member as logs and errors show it.
    pub(crate) fn shown(&self) -> &Arc<str> {
        &self.shown
    }

    pub(crate) fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_matches(['[', ']'])
    }

    pub(crate) fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_that_cannot_work_are_refused_and_named() {
        for (given, reason) in [
            ("ftp://127.0.0.1:2379", "http or https"),
            ("http//127.0.0.1:2379", "has a path"),
            ("http://127.0.0.1", "no port"),
            ("http://127.0.0.1:0", "port 0"),
            ("http://127.0.0.1:2379/v3", "has a path"),
            ("http://127.0.0.1:99999", "no port from 1 to 65535"),
            ("http://", "not a URL"),
            ("http://a b:1", "not a URL"),
            ("http://10.0.0:2379", "neither an IP address"),
            ("", "not a URL"),
        ] {
            let error = Etcd::new([given]).check().unwrap_err().to_string();
            assert!(
                error.contains(reason) && error.contains(given),
                "{given}: {error}"
            );
        }
        assert!(matches!(
            Etcd::new([""; 0]).check(),
            Err(Error::NoEndpoints)
        ));
    }

    #[test]
    fn a_bare_host_and_port_is_plaintext() {
        let members = Etcd::new(["localhost:2379", "http://[::1]:2379/"])
            .check()
            .unwrap();
        assert_eq!(&**members.at(0).shown(), "http://localhost:2379");
        assert_eq!(&**members.at(1).shown(), "http://[::1]:2379");
        assert_eq!(members.at(2).host(), "localhost");
        assert_eq!(members.at(3).host(), "::1");
        assert!(!members.have_names());
    }

    #[test]
    fn each_round_through_the_members_begins_at_another_address_of_each() {
        let members = Etcd::new(["http://a:1", "http://b:1"]).check().unwrap();
        let tried = [4, 5, 6, 7].map(|index| {
            let member = members.at(index);
            (member.host().to_owned(), member.turn)
        });
        let expected = [("a", 2), ("b", 2), ("a", 3), ("b", 3)];
        assert_eq!(tried, expected.map(|(host, turn)| (host.to_owned(), turn)));
    }

    #[test]
    fn a_member_is_remote_only_if_that_is_certain() {
        let ours = ["127.0.0.1", "10.0.0.1"].map(|ip| LocalIp {
            interface: "eth0".to_owned(),
            ip: ip.parse().unwrap(),
        });
        for (endpoint, remote) in [
            ("http://10.0.0.2:2379", true),
            ("http://10.0.0.1:2379", false),
            ("http://[::1]:2379", false),
            ("http://127.0.0.5:2379", false),
            ("http://localhost:2379", false),
            ("http://etcd:2379", false),
        ] {
            let members = Etcd::new([endpoint]).check().unwrap();
            assert_eq!(members.are_remote(&ours), remote, "{endpoint}");
            assert_eq!(members.have_names(), endpoint == "http://etcd:2379");
        }
    }

    #[test]
    fn no_secret_is_ever_shown() {
        let etcd = Etcd::new(["http://127.0.0.1:2379"]).user("me", "canary");
        assert!(!format!("{etcd:?}").contains("canary"));
        assert!(!format!("{:?}", etcd.check().unwrap()).contains("canary"));
        let error = Etcd::new(["http://me:canary@127.0.0.1:2379"])
            .check()
            .unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"));
        assert!(error.to_string().contains("Etcd::user"));
    }

    #[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
    #[test]
    fn a_password_needs_the_same_scheme_everywhere() {
        let (http, https) = ("http://127.0.0.1:1", "https://127.0.0.1:2");
        for (endpoints, user, works) in [
            (&[http, https][..], true, false),
            (&[https, http], true, false),
            (&[https, "127.0.0.1:3"], true, false),
            (&[http, https], false, true),
            (&[http, http], true, true),
            (&[https, https], true, true),
        ] {
            let mut etcd = Etcd::new(endpoints);
            if user {
                etcd = etcd.user("me", "canary");
            }
            match etcd.check() {
                Ok(_) => assert!(works, "{endpoints:?}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!works && error.contains("unencrypted"), "{error}");
                    assert!(error.starts_with("etcd endpoint \"http://127"), "{error}");
                    assert!(!error.contains("canary"), "{error}");
                }
            }
        }
    }

    #[cfg(feature = "_tls")]
    #[test]
    fn plaintext_is_never_fallen_back_to() {
        let error = Etcd::new(["http://127.0.0.1:2379"])
            .tls(Tls::new())
            .check()
            .unwrap_err();
        assert!(error.to_string().contains("write https://"), "{error}");
    }

    #[cfg(not(feature = "_tls"))]
    #[test]
    fn https_without_a_tls_feature_says_which_to_enable() {
        let error = Etcd::new(["https://127.0.0.1:2379"]).check().unwrap_err();
        assert!(error.to_string().contains("tls-ring"), "{error}");
    }
}
