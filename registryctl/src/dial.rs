//! [`Dialer`]: how servers are dialled, in plaintext or with TLS.

use crate::access::tls;
use crate::failure::Failure;
use crate::wire::Wire;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Error};
use tonic_etcd::Tls;
use tonic_etcd::format::Address;
use tonic_etcd::internal::{chain, secure};

/// Set on each flag: a heading of the struct would also apply to later flags.
const HEADING: &str = "servers";

#[derive(Debug, Args)]
pub(crate) struct DialArgs {
    /// Certificates to trust, PEM: servers are dialled with TLS
    #[arg(long, env = "REGISTRYCTL_SERVER_CA_FILE", value_name = "FILE", help_heading = HEADING)]
    server_ca_file: Option<PathBuf>,
    /// Client certificate, if servers ask for one, PEM
    #[arg(long, env = "REGISTRYCTL_SERVER_CERT_FILE", value_name = "FILE", help_heading = HEADING)]
    #[arg(requires = "server_ca_file", requires = "server_key_file")]
    server_cert_file: Option<PathBuf>,
    /// Private key of that certificate, PEM
    #[arg(long, env = "REGISTRYCTL_SERVER_KEY_FILE", value_name = "FILE", help_heading = HEADING)]
    #[arg(requires = "server_cert_file")]
    server_key_file: Option<PathBuf>,
    /// Name that the certificates of servers must have, if it is not the host of their address
    #[arg(long, env = "REGISTRYCTL_SERVER_TLS_NAME", value_name = "NAME", help_heading = HEADING)]
    #[arg(requires = "server_ca_file")]
    server_tls_name: Option<String>,
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    tls: Option<Tls>,
    is_named: bool,
    /// For one connection, and for one answer.
    pub(crate) limit: Duration,
}

// === impl Dialer ===

impl Dialer {
    /// Reads the files, to refuse those that cannot work.
    pub(crate) fn new(args: &DialArgs, limit: Duration) -> Result<Self, Failure> {
        let identity = args.server_cert_file.as_ref();
        let identity = identity.zip(args.server_key_file.as_ref());
        let name = args.server_tls_name.as_ref();
        let tls = tls(args.server_ca_file.as_ref(), identity, name);
        if let Some(tls) = &tls {
            secure(tls, Endpoint::from_static("https://host")).map_err(Failure::Usage)?;
        }
        let is_named = name.is_some();
        Ok(Self {
            tls,
            is_named,
            limit,
        })
    }

    /// Connects. Not bounded.
    pub(crate) async fn dial(&self, address: &Address) -> Result<Channel, String> {
        let failed = |error: Error| chain(&error);
        let at = |scheme| Endpoint::from_shared(format!("{scheme}://{address}")).map_err(failed);
        let endpoint = match &self.tls {
            None => at("http")?,
            Some(tls) if self.is_named => secure(tls, at("https")?)?,
            Some(tls) => secure(&tls.clone().domain(address.host()), at("https")?)?,
        };
        endpoint.connect().await.map_err(failed)
    }

    /// Probes what answers at the address. With TLS the result is [`Wire::Http2`] if the handshake succeeds.
    pub(crate) async fn probe(&self, address: &Address) -> Wire {
        let limit = self.limit;
        match Wire::probe(&address.host(), address.port(), limit).await {
            Wire::Http2 if self.tls.is_some() => Wire::Plaintext,
            Wire::Tls if self.tls.is_some() => match timeout(limit, self.dial(address)).await {
                Ok(Ok(_)) => Wire::Http2,
                Ok(Err(reason)) => Wire::TlsFailed(reason),
                Err(_) => Wire::Silent,
            },
            other => other,
        }
    }
}
