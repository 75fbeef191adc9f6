//! [`Tls`]: trusted roots and client certificate, for `https` endpoints.

use super::rpc_error;
use std::fmt;
use std::path::PathBuf;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// Trust and identity for `https` endpoints, in PEM.
///
/// Files are read for each new connection, so that certificates that are replaced on disk are
/// used without a restart. Replace files by renaming. A file that is half written, or a
/// certificate with the key of another, fails that attempt; the next attempt reads the files again.
///
/// `Debug` shows which settings are set, never a key.
#[derive(Clone, Default)]
pub struct Tls {
    ca: Option<Pem>,
    identity: Option<(Pem, Pem)>,
    domain: Option<String>,
}

#[derive(Clone)]
enum Pem {
    Given(Vec<u8>),
    File(PathBuf),
}

impl Tls {
    /// TLS that trusts the roots of the enabled features.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificate authorities in this PEM as well.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(Pem::Given(pem.into()));
        self
    }

    /// Trusts the certificate authorities in this PEM file as well.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(Pem::File(path.into()));
        self
    }

    /// Shows this client certificate (mutual TLS): the chain and its private key, both in PEM.
    #[must_use]
    pub fn identity_pem(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.identity = Some((Pem::Given(certificate.into()), Pem::Given(key.into())));
        self
    }

    /// Shows the client certificate in these PEM files (mutual TLS): the chain, and its private
    /// key.
    #[must_use]
    pub fn identity_files(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.identity = Some((Pem::File(certificate.into()), Pem::File(key.into())));
        self
    }

    /// The name that the members' certificates must have, when it is not the host of the endpoint.
    #[must_use]
    pub fn domain(mut self, name: impl Into<String>) -> Self {
        self.domain = Some(name.into());
        self
    }

    /// The endpoint with this TLS; an error here is a mistake in the PEM.
    pub(super) fn secure(&self, endpoint: Endpoint) -> Result<Endpoint, String> {
        let secured = endpoint.tls_config(self.config()?);
        secured.map_err(|error| rpc_error::chain(&error))
    }

    fn config(&self) -> Result<ClientTlsConfig, String> {
        let mut config = ClientTlsConfig::new().with_enabled_roots();
        if let Some(pem) = &self.ca {
            config = config.ca_certificate(Certificate::from_pem(pem.read()?));
        }
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate.read()?, key.read()?));
        }
        if let Some(name) = &self.domain {
            config = config.domain_name(name.clone());
        }
        Ok(config)
    }
}

impl Pem {
    /// Blocking: it reads a few kilobytes once per connection, which is not worth a thread.
    fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Given(pem) => Ok(pem.clone()),
            Self::File(path) => {
                std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .field("domain", &self.domain)
            .finish()
    }
}
