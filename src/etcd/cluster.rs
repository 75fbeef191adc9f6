//! [`Cluster`]: a checked [`Etcd`](super::Etcd).

use super::auth::User;
use super::member::Member;
use super::members::Members;
#[cfg(feature = "_tls")]
use super::tls::Tls;
use crate::error::BuildError;
use crate::etcd::net::connector::Connector;
use crate::etcd::net::resolver::Resolver;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// See the [module](self).
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) members: Members,
    /// See [`Etcd::attempt_timeout`](super::Etcd::attempt_timeout).
    pub(crate) attempt_timeout: Duration,
    pub(super) user: Option<Arc<User>>,
    pub(super) connector: Option<Connector>,
    pub(super) resolver: Resolver,
    #[cfg(feature = "_tls")]
    pub(super) tls: Tls,
}

// === impl Cluster ===

impl Cluster {
    /// Returns an error for members that do not fit one another, the user, or the TLS settings.
    pub(super) fn check(&self) -> Result<(), BuildError> {
        self.check_schemes()?;
        self.check_tls()
    }

    /// A user is given, and etcd answered that it has no authentication.
    #[cfg(feature = "discovery")]
    pub(super) fn ignores_user(&self) -> bool {
        self.user.as_ref().is_some_and(|user| user.is_ignored())
    }

    /// How many addresses `member` has, as far as they are known.
    pub(crate) fn addresses(&self, member: &Member) -> usize {
        self.resolver.known(member.host(), member.port()).max(1)
    }

    /// Whether `member` is given by a name that was not looked up yet: it may have several addresses.
    pub(crate) fn is_unknown(&self, member: &Member) -> bool {
        let is_name = member.host().parse::<IpAddr>().is_err();
        let known = || self.resolver.known(member.host(), member.port());
        self.connector.is_none() && is_name && known() == 0
    }

    /// Opens connections to `member`; each attempt takes at most the attempt timeout. If it waited for the lookup of a
    /// name then, the error says so.
    pub(super) fn connector(&self, member: &Member) -> Connector {
        let limit = self.attempt_timeout;
        let (resolver, member) = (self.resolver.clone(), member.clone());
        let (lookups, host, port) = (resolver.clone(), member.host().to_owned(), member.port());
        let connector = self.connector.clone().unwrap_or_else(|| {
            Connector::new(move |_| {
                let (resolver, member) = (resolver.clone(), member.clone());
                async move {
                    let connecting =
                        resolver.connect(member.host(), member.port(), member.turn(), limit);
                    connecting.await
                }
            })
        });
        connector.within(limit, move || lookups.unanswered(&host, port, limit))
    }

    /// Refuses a password with mixed schemes: it would be encrypted to one member, and in
    /// plaintext to another.
    fn check_schemes(&self) -> Result<(), BuildError> {
        let of = |scheme| {
            let mut members = self.members.configured.iter();
            members.find(|member| member.uri().scheme_str() == Some(scheme))
        };
        match (&self.user, of("http"), of("https")) {
            (Some(_), Some(http), Some(https)) => Err(BuildError::Endpoint {
                endpoint: http.shown().to_string(),
                reason: format!(
                    "would be sent the password unencrypted, although {} uses TLS: \
                     write https:// for all endpoints",
                    https.shown()
                ),
            }),
            _ => Ok(()),
        }
    }

    #[cfg(feature = "_tls")]
    fn check_tls(&self) -> Result<(), BuildError> {
        // Roots alone cannot encrypt, and rustls panics when it finds no provider.
        if cfg!(not(any(feature = "tls-ring", feature = "tls-aws-lc"))) {
            let remedy = "no crypto provider: enable the feature `tls-ring` or `tls-aws-lc`";
            return Err(BuildError::Tls {
                reason: remedy.to_owned(),
            });
        }
        match self.members.configured.iter().find(|m| m.uses_tls()) {
            Some(https) => {
                let endpoint = tonic::transport::Endpoint::from(https.uri().clone());
                let secured = self.tls.secure(endpoint).map(drop);
                secured.map_err(|reason| BuildError::Tls { reason })
            }
            None => Ok(()),
        }
    }

    #[cfg(not(feature = "_tls"))]
    fn check_tls(&self) -> Result<(), BuildError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "_tls")]
    use super::Tls;
    use crate::etcd::Etcd;

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
    fn https_without_a_tls_feature_names_the_feature_to_enable() {
        let error = Etcd::new(["https://127.0.0.1:2379"]).check().unwrap_err();
        assert!(error.to_string().contains("tls-ring"), "{error}");
    }
}
