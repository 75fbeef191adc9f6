//! [`Member`]: one member of the cluster, from the URL that names it.

use crate::address::is_dns_name;
use crate::error::BuildError;
use http::Uri;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// The URL of a member as the user gave it. It may have a password, which [`Member::parse`] refuses later.
#[derive(Clone)]
pub(super) struct Given(String);

/// One member of the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    uri: Uri,
    shown: Arc<str>,
    /// The index of the address of its name to try first, modulo their number.
    turn: usize,
}

// === impl Given ===

impl Given {
    pub(super) fn new(url: &str) -> Self {
        Self(url.trim().to_owned())
    }

    pub(super) fn url(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(without_credentials(&self.0), f)
    }
}

/// A URL with user information must not appear in an error message, a log or `Debug`.
fn without_credentials(url: &str) -> &str {
    match url.contains('@') || url.contains("%40") {
        true => "(not shown)",
        false => url,
    }
}

// === impl Member ===

impl Member {
    /// Checks everything that can be checked without the network.
    pub(super) fn parse(given: &str, wants_tls: bool) -> Result<Self, BuildError> {
        let shown = without_credentials(given);
        let refuse = |reason: &str| {
            Err(BuildError::Endpoint {
                endpoint: shown.to_owned(),
                reason: reason.to_owned(),
            })
        };
        if shown != given {
            return refuse("credentials do not belong in the URL: use Etcd::user");
        }
        let full = match given.split_once("://") {
            Some(_) => given.to_owned(),
            None if wants_tls => format!("https://{given}"),
            None => format!("http://{given}"),
        };
        let Ok(uri) = full.parse::<Uri>() else {
            return refuse("is not a URL: write it like http://127.0.0.1:2379");
        };
        if let Err(reason) = check(&uri, wants_tls) {
            return refuse(reason);
        }
        let shown = full.trim_end_matches('/').into();
        Ok(Self {
            uri,
            shown,
            turn: 0,
        })
    }

    /// The same member, in another round of attempts.
    pub(super) fn in_round(self, turn: usize) -> Self {
        Self { turn, ..self }
    }

    pub(super) fn turn(&self) -> usize {
        self.turn
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    #[cfg(feature = "_tls")]
    pub(super) fn uses_tls(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// The member as logs and errors show it.
    pub(crate) fn shown(&self) -> &Arc<str> {
        &self.shown
    }

    pub(crate) fn host(&self) -> &str {
        host(&self.uri)
    }

    pub(crate) fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or_default()
    }
}

/// The host, without the brackets of an IPv6 address.
fn host(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_matches(['[', ']'])
}

/// Whether the scheme is supported, and the rest is only a host and a port.
fn check(uri: &Uri, wants_tls: bool) -> Result<(), &'static str> {
    match uri.scheme_str() {
        Some("http") if wants_tls => {
            return Err("is plaintext although TLS is configured: write https://");
        }
        Some("https") if cfg!(not(feature = "_tls")) => {
            return Err("needs TLS: enable the feature `tls-ring` or `tls-aws-lc`");
        }
        Some("http" | "https") => {}
        _ => return Err("the scheme must be http or https"),
    }
    let host = host(uri);
    if host.parse::<IpAddr>().is_err() && !is_dns_name(host) {
        return Err("the host is neither an IP address nor a DNS name");
    }
    if uri.path_and_query().is_some_and(|rest| rest != "/") {
        return Err("has a path: only scheme, host and port belong here");
    }
    match uri.port_u16() {
        None => Err("has no port from 1 to 65535: etcd's is 2379 by default"),
        Some(0) => Err("port 0 cannot be dialled: etcd's is 2379 by default"),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::error::BuildError;
    use crate::etcd::Etcd;

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
            Err(BuildError::NoEndpoints)
        ));
    }

    #[test]
    fn a_bare_host_and_port_is_plaintext() {
        let members = Etcd::new(["localhost:2379", "http://[::1]:2379/"])
            .check()
            .unwrap()
            .members;
        assert_eq!(&**members.at(0).shown(), "http://localhost:2379");
        assert_eq!(&**members.at(1).shown(), "http://[::1]:2379");
        assert_eq!(members.at(2).host(), "localhost");
        assert_eq!(members.at(3).host(), "::1");
        assert!(!members.have_names());
    }
}
