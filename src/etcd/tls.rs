//! [`Tls`]: trusted roots and client certificate, for `https` endpoints.

use super::rpc_error;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, Error, RootCertStore};
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
        let trust = self.trust()?;
        let Some((certificate, key)) = &self.identity else {
            let secured = endpoint.tls_config(trust);
            return secured.map_err(|error| rpc_error::chain(&error));
        };
        let identity = identity(certificate, key)?;
        let secured = endpoint
            .clone()
            .tls_config(trust.clone().identity(identity));
        secured.map_err(|error| match endpoint.tls_config(trust) {
            Ok(_) => format!(
                "{}{}the client certificate and its key cannot be used: {}",
                certificate.file(),
                key.file(),
                rpc_error::chain(&error)
            ),
            Err(error) => rpc_error::chain(&error),
        })
    }

    fn trust(&self) -> Result<ClientTlsConfig, String> {
        let mut config = ClientTlsConfig::new().with_enabled_roots();
        if let Some(pem) = &self.ca {
            let ca = pem.read()?;
            let roots = certificates(&ca).map_err(|why| pem.named("the CA", &why))?;
            if roots.is_empty() {
                return Err(pem.named("the CA", "has no certificate that rustls can use"));
            }
            config = config.ca_certificate(Certificate::from_pem(ca));
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

fn identity(certificate: &Pem, key: &Pem) -> Result<Identity, String> {
    let (chain, secret) = (certificate.read()?, key.read()?);
    certificates(&chain).map_err(|why| certificate.named("the client certificate", &why))?;
    check_key(&secret).map_err(|why| key.named("the client key", &why))?;
    Ok(Identity::from_pem(chain, secret))
}

impl Pem {
    /// Blocking: it reads a few kilobytes once per connection, which is not worth a thread.
    fn read(&self) -> Result<Vec<u8>, String> {
        let mut pem = match self {
            Self::Given(pem) => pem.clone(),
            Self::File(path) => {
                std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?
            }
        };
        // tonic overlooks the first section behind it.
        if pem.starts_with(BYTE_ORDER_MARK) {
            pem.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(pem)
    }

    /// The error of this PEM, by the name of its file if it has one.
    fn named(&self, what: &str, why: &str) -> String {
        format!("{}{what} {why}", self.file())
    }

    fn file(&self) -> String {
        match self {
            Self::Given(_) => String::new(),
            Self::File(path) => format!("{}: ", path.display()),
        }
    }
}

/// Some editors begin a file with it.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Checks the certificates of a PEM, and returns those that rustls can use as roots. tonic and rustls ignore what they do
/// not know: with roots that trust nobody, or lack the one that matters, each connection would fail.
fn certificates(pem: &[u8]) -> Result<RootCertStore, String> {
    let parsed: Result<Vec<_>, _> = match has(pem, "BEGIN CERTIFICATE-----") {
        true => CertificateDer::pem_slice_iter(pem).collect(),
        false => Ok(vec![]),
    };
    let parsed = parsed.map_err(damage)?;
    let mut roots = RootCertStore::empty();
    for (index, certificate) in parsed.iter().enumerate() {
        // Others are certificates, with extensions that rustls does not know.
        if let Err(Error::InvalidCertificate(CertificateError::BadEncoding)) =
            roots.add(certificate.clone())
        {
            let number = index + 1;
            return Err(format!(
                "is damaged: its certificate number {number} is not X.509"
            ));
        }
    }
    match parsed.is_empty() {
        true => Err(instead(pem, "certificate", "PRIVATE KEY", "a private key")),
        false => Ok(roots),
    }
}

/// Checks that a PEM holds a private key. Its first one is used.
fn check_key(pem: &[u8]) -> Result<(), String> {
    if has(pem, "BEGIN ENCRYPTED PRIVATE KEY-----") || has(pem, "4,ENCRYPTED") {
        return Err("is encrypted: it has to be decrypted first".to_owned());
    }
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(_) => Ok(()),
        Err(pem::Error::NoItemsFound) => {
            Err(instead(pem, "private key", "CERTIFICATE", "a certificate"))
        }
        Err(error) => Err(damage(error)),
    }
}

/// What a PEM is that does not have `wanted`. It may be `other`, whose label ends with `label`.
fn instead(pem: &[u8], wanted: &str, label: &str, other: &str) -> String {
    match pem {
        _ if pem.iter().all(u8::is_ascii_whitespace) => "is empty".to_owned(),
        _ if has(pem, &format!("{label}-----")) => format!("is {other}, and has no {wanted}"),
        // A sequence of more than 127 bytes.
        [0x30, 0x81..=0x83, ..] => "is DER: convert it to PEM with openssl".to_owned(),
        _ => format!("has no {wanted} in PEM"),
    }
}

fn has(pem: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(pem).contains(text)
}

/// An error that does not show what is in the file.
fn damage(error: pem::Error) -> String {
    let why = match error {
        pem::Error::MissingSectionEnd { .. } => "an END line is missing",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is incomplete",
        _ => "it is not base64",
    };
    format!("is cut or damaged: {why}")
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

#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BuildError;
    use crate::etcd::Etcd;
    use std::path::Path;

    const ENCRYPTED: &str =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    const OLD_ENCRYPTED: &str = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    const NOT_BASE64: &str = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
    const NOT_X509: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
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
            (&format!("\u{feff}{certificate}"), None),
            (&format!("{certificate}{OTHER}"), None),
            (
                &certificate[..certificate.len() / 2],
                Some("the CA is cut or damaged: an END line is missing"),
            ),
            (
                &format!("{certificate}{}", &certificate[..100]),
                Some("the CA is cut or damaged: an END line is missing"),
            ),
            (
                &format!("{NOT_BASE64}{certificate}"),
                Some("the CA is cut or damaged: it is not base64"),
            ),
            (
                &format!("{certificate}{NOT_X509}"),
                Some("the CA is damaged: its certificate number 2 is not X.509"),
            ),
            (
                NOT_X509,
                Some("the CA is damaged: its certificate number 1 is not X.509"),
            ),
            (
                &certificate.replace("-----BEGIN", " -----BEGIN"),
                Some("the CA has no certificate in PEM"),
            ),
            ("", Some("the CA is empty")),
            (" \n", Some("the CA is empty")),
            (
                OLD_ENCRYPTED,
                Some("the CA is a private key, and has no certificate"),
            ),
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
        let der = rcgen::generate_simple_self_signed(["etcd".to_owned()]).unwrap();
        let error = built(Tls::new().ca_pem(der.cert.der().to_vec())).unwrap_err();
        assert_eq!(error, "the CA is DER: convert it to PEM with openssl");
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
                &format!("\u{feff}{certificate}"),
                &format!("\u{feff}{key}").replace('\n', "\r\n"),
                "",
            ),
            (
                &certificate[..certificate.len() / 2],
                &key,
                "the client certificate is cut",
            ),
            (
                &format!("{certificate}{NOT_X509}"),
                &key,
                "the client certificate is damaged: its certificate number 2",
            ),
            (&certificate, &key[..key.len() / 2], "the client key is cut"),
            (
                &certificate,
                &NOT_X509.replace("CERTIFICATE", "PRIVATE KEY"),
                "the client certificate and its key cannot be used",
            ),
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
            (
                &certificate,
                &other_key,
                "the client certificate and its key cannot be used",
            ),
        ] {
            let refused = built(Tls::new().identity_pem(chain, secret));
            let of_pem = refused.err().unwrap_or_default();
            match expected {
                "" => assert_eq!(of_pem, ""),
                expected => assert!(of_pem.starts_with(expected), "{of_pem}: {expected}"),
            }
            assert!(!of_pem.contains("AAAA"), "{of_pem}");
            let files = [chain, secret].map(|pem| {
                let file = tempfile::NamedTempFile::new().unwrap();
                std::fs::write(&file, pem).unwrap();
                file
            });
            let [chain, secret] = files.each_ref().map(|file| file.path());
            let of_files = built(Tls::new().identity_files(chain, secret)).err();
            let named = |of| format!("{}: ", Path::display(of));
            let expected = match expected {
                "" => String::new(),
                of if of.starts_with("the client key") => named(secret) + &of_pem,
                of if of.contains("and its key") => named(chain) + &named(secret) + &of_pem,
                _ => named(chain) + &of_pem,
            };
            assert_eq!(of_files.unwrap_or_default(), expected);
        }
    }
}
