//! Trust and identity from files, for etcd and for servers.

use crate::failure::Failure;
use std::fs;
use std::path::Path;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// Trusts `ca`, uses the client certificate `identity` (with its key), and expects `name` instead of the host.
pub(crate) fn config(
    ca: &Path,
    identity: Option<(&Path, &Path)>,
    name: Option<&str>,
) -> Result<ClientTlsConfig, Failure> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
    if let Some((cert, key)) = identity {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    if let Some(name) = name {
        tls = tls.domain_name(name);
    }
    Ok(tls)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::Usage(format!("{}: {error}", file.display()));
    fs::read(file).map_err(failed)
}
