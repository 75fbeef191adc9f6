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
    let roots = read(ca)?;
    // rustls takes it for no authority at all, and then trusts nobody.
    if !String::from_utf8_lossy(&roots).contains("-----BEGIN CERTIFICATE-----") {
        let reason = format!("{}: has no certificate in PEM", ca.display());
        return Err(Failure::Usage(reason));
    }
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots));
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
