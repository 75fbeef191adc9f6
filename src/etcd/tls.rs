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
            let ca = pem.read()?;
            check(&ca, Holds::Certificate).map_err(|why| pem.named("the CA", &why))?;
            config = config.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &self.identity {
            let (chain, secret) = (certificate.read()?, key.read()?);
            check(&chain, Holds::Certificate)
                .map_err(|why| certificate.named("the client certificate", &why))?;
            check(&secret, Holds::Key).map_err(|why| key.named("the client key", &why))?;
            config = config.identity(Identity::from_pem(chain, secret));
        }
        if let Some(name) = &self.domain {
            config = config.domain_name(name.clone());
        }
        Ok(config)
    }
}

/// The endpoint with that TLS; an error is a mistake in the PEM, or in its file.
#[cfg(feature = "discovery")]
pub fn secure(tls: &Tls, endpoint: Endpoint) -> Result<Endpoint, String> {
    tls.secure(endpoint)
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

    /// The error of this PEM, by the name of its file if it has one.
    fn named(&self, what: &str, why: &str) -> String {
        match self {
            Self::Given(_) => format!("{what} {why}"),
            Self::File(path) => format!("{}: {what} {why}", path.display()),
        }
    }
}

/// What a PEM must hold.
#[derive(Clone, Copy, PartialEq)]
enum Holds {
    Certificate,
    Key,
}

/// Checks that a PEM holds what it must hold. tonic and rustls ignore what they do not know: roots without a
/// certificate trust nobody, so that each connection would fail.
fn check(pem: &[u8], must: Holds) -> Result<(), String> {
    let text = String::from_utf8_lossy(pem);
    let labels = text.lines().filter_map(|line| {
        let label = line.trim().strip_prefix("-----BEGIN ")?;
        label.strip_suffix("-----")
    });
    let labels: Vec<_> = labels.collect();
    let has = |wanted: &str| labels.iter().any(|label| label.ends_with(wanted));
    let (certificate, key) = (labels.contains(&"CERTIFICATE"), has("PRIVATE KEY"));
    let is_encrypted = labels.contains(&"ENCRYPTED PRIVATE KEY") || text.contains("4,ENCRYPTED");
    let advice = match must {
        Holds::Certificate if certificate => return Ok(()),
        Holds::Key if is_encrypted => "is encrypted: it has to be decrypted first",
        Holds::Key if key => return Ok(()),
        _ if text.trim().is_empty() => "is empty",
        Holds::Certificate if key => "is a private key, and has no certificate",
        Holds::Key if certificate => "is a certificate, and has no private key",
        Holds::Certificate => "has no certificate in PEM",
        Holds::Key => "has no private key in PEM",
    };
    Err(advice.to_owned())
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

#[cfg(test)]
#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
mod tests {
    use super::*;
    use crate::error::BuildError;
    use crate::etcd::Etcd;

    const ENCRYPTED: &str =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    const OLD_ENCRYPTED: &str = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    const OTHER: &str = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";

    /// A certificate and its key.
    fn identity() -> (String, String) {
        let key = rcgen::generate_simple_self_signed(["etcd".to_owned()]).unwrap();
        (key.cert.pem(), key.signing_key.serialize_pem())
    }

    /// What `build` says about it.
    fn built(tls: Tls) -> Result<(), String> {
        let checked = Etcd::new(["https://etcd:2379"]).tls(tls).check();
        match checked.map(drop) {
            Err(BuildError::Tls { reason }) => Err(reason),
            other => {
                other.unwrap();
                Ok(())
            }
        }
    }

    /// They were accepted, and each connection failed forever.
    #[test]
    fn a_ca_without_a_certificate_is_refused_with_the_reason() {
        let (certificate, key) = identity();
        let both = format!("{key}{certificate}");
        for (pem, expected) in [
            (&*certificate, None),
            (&both, None),
            (
                &format!("a comment\r\n{}", certificate.replace('\n', "\r\n")),
                None,
            ),
            ("", Some("the CA is empty")),
            (" \n", Some("the CA is empty")),
            (
                &key,
                Some("the CA is a private key, and has no certificate"),
            ),
            (
                ENCRYPTED,
                Some("the CA is a private key, and has no certificate"),
            ),
            (OTHER, Some("the CA has no certificate in PEM")),
            ("\u{30}\u{82}DER", Some("the CA has no certificate in PEM")),
        ] {
            let expected = expected.map_or(Ok(()), |why| Err(why.to_owned()));
            assert_eq!(built(Tls::new().ca_pem(pem)), expected, "{pem}");
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(&file, pem).unwrap();
            let shown = file.path().display().to_string();
            let expected = expected.map_err(|why| format!("{shown}: {why}"));
            assert_eq!(built(Tls::new().ca_file(file.path())), expected, "{pem}");
        }
        let error = built(Tls::new().ca_file("/no/such/file")).unwrap_err();
        assert!(error.starts_with("/no/such/file: No such file"), "{error}");
    }

    #[test]
    fn a_client_certificate_that_cannot_work_is_refused_with_the_reason() {
        let (certificate, key) = identity();
        let (_, other_key) = identity();
        let both = format!("{key}{certificate}");
        for (chain, secret, expected) in [
            (&*certificate, &*key, ""),
            (&both, &both, ""),
            (
                &key,
                &certificate,
                "the client certificate is a private key",
            ),
            ("", &key, "the client certificate is empty"),
            (&certificate, "", "the client key is empty"),
            (
                &certificate,
                &certificate,
                "the client key is a certificate",
            ),
            (&certificate, ENCRYPTED, "the client key is encrypted"),
            (&certificate, OLD_ENCRYPTED, "the client key is encrypted"),
            (&certificate, OTHER, "the client key has no private key"),
            (&certificate, &other_key, "keys"),
        ] {
            let refused = built(Tls::new().identity_pem(chain, secret));
            match expected {
                "" => refused.unwrap(),
                expected => {
                    let reason = refused.unwrap_err();
                    assert!(
                        reason.to_lowercase().contains(expected),
                        "{reason}: {expected}"
                    );
                    assert!(!reason.contains("AAAA"), "{reason}");
                }
            }
        }
    }
}
