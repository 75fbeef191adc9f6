//! [`Member`]: the address and TLS settings of one member of etcd. Checked before anything is sent.

use crate::access::Access;
use crate::call_error::chain;
use crate::failure::{Failure, usage};
use crate::tls;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Uri;
use tonic::transport::{ClientTlsConfig, Endpoint};

/// One member.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) endpoint: Endpoint,
    /// The endpoint as messages show it.
    pub(crate) shown: Arc<str>,
}

// === impl Member ===

impl Member {
    pub(crate) fn all(access: &Access, limit: Duration) -> Result<Vec<Self>, Failure> {
        let tls = tls_of(access)?;
        let urls = access.etcd.iter();
        urls.map(|url| Self::new(url.trim(), limit, &tls)).collect()
    }

    /// Host and port of the URL, without the brackets of IPv6.
    pub(crate) fn host_and_port(&self) -> (&str, u16) {
        let uri = self.endpoint.uri();
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (host, uri.port_u16().unwrap_or_default())
    }

    fn new(url: &str, limit: Duration, tls: &Option<ClientTlsConfig>) -> Result<Self, Failure> {
        if url.contains('@') || url.contains("%40") {
            return usage("--etcd: credentials belong into --user and --password");
        }
        let refuse = |why: &str| Failure::Usage(format!("--etcd {url:?}: {why}"));
        let full = match (url.contains("://"), tls) {
            (true, _) => url.to_owned(),
            (false, None) => format!("http://{url}"),
            (false, Some(_)) => format!("https://{url}"),
        };
        let uri: Uri = full
            .parse()
            .map_err(|_| refuse("write it like http://127.0.0.1:2379"))?;
        let endpoint = Endpoint::from(uri.clone())
            .connect_timeout(limit)
            .tcp_nodelay(true);
        let endpoint = match (uri.scheme_str(), tls) {
            _ if uri.port_u16().is_none() => {
                return Err(refuse("has no port, etcd's is 2379 by default"));
            }
            (Some("http"), None) => Ok(endpoint),
            (Some("https"), Some(tls)) => endpoint.tls_config(tls.clone()),
            (Some("http"), Some(_)) => {
                return Err(refuse("is not https, although certificates are given"));
            }
            (Some("https"), None) => return Err(refuse("needs --cacert")),
            _ => return Err(refuse("is neither http nor https")),
        };
        let endpoint = endpoint.map_err(|error| refuse(&chain(&error)))?;
        Ok(Self {
            endpoint,
            shown: full.trim_end_matches('/').into(),
        })
    }
}

/// Trust and identity, if any is given.
fn tls_of(access: &Access) -> Result<Option<ClientTlsConfig>, Failure> {
    let identity = access.identity().map_err(Failure::Usage)?;
    let Some(cacert) = &access.cacert else {
        return Ok(None);
    };
    let identity = identity.map(|(cert, key)| (&**cert, &**key));
    tls::config(cacert, identity, access.server_name.as_deref()).map(Some)
}
