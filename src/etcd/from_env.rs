//! [`Etcd::from_env`]: the configuration of etcdctl, from the same variables.

use super::Etcd;
#[cfg(feature = "_tls")]
use super::tls::Tls;
use crate::error::BuildError;
use std::ffi::OsString;

/// Where variables are looked up: the environment, or a table in a test.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<OsString>);

/// The TLS settings in the variables.
#[cfg_attr(not(feature = "_tls"), allow(dead_code))]
struct TlsSettings {
    ca: Option<String>,
    /// Certificate and key.
    identity: Option<(String, String)>,
}

const DEFAULT_ENDPOINT: &str = "127.0.0.1:2379";

// === impl Etcd ===

impl Etcd {
    /// An etcd cluster as the environment describes it to `etcdctl`, by the same variables and with
    /// the same defaults ([etcdctl's page]). Setters that are called afterwards add to it.
    ///
    /// | variable | |
    /// |---|---|
    /// | `ETCDCTL_ENDPOINTS` | comma-separated; `127.0.0.1:2379` by default |
    /// | `ETCDCTL_USER` | `name`, or `name:password` |
    /// | `ETCDCTL_PASSWORD` | then `ETCDCTL_USER` is the whole name |
    /// | `ETCDCTL_USER_FILE`, `ETCDCTL_PASSWORD_FILE` | files that hold these, for secrets; the line break at their end is left out |
    /// | `ETCDCTL_CACERT` | a file in PEM: the authorities to trust |
    /// | `ETCDCTL_CERT`, `ETCDCTL_KEY` | files in PEM: the client certificate and its key |
    /// | `ETCDCTL_INSECURE_TRANSPORT` | `false`: TLS also without the files above |
    ///
    /// The last three need one of the `tls-*` features. An empty variable counts as not set.
    ///
    /// Secrets are read once, here. The files of certificates are read for each connection.
    ///
    /// ```
    /// use tonic_etcd::{BuildError, Etcd, Registrar};
    ///
    /// fn registrar() -> Result<Registrar, BuildError> {
    ///     Registrar::builder(Etcd::from_env()?).build()
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`BuildError::Environment`] with the name of the variable: for a value that is not UTF-8, a
    /// file that cannot be read, a value that is given twice, a user without a password or the
    /// reverse, and a certificate without its key. Also for settings that are not supported, because ignoring
    /// them would connect in another way than `etcdctl` does:
    /// `ETCDCTL_INSECURE_SKIP_TLS_VERIFY=true`, `ETCDCTL_DISCOVERY_SRV`, and TLS without the feature.
    /// [`build`](crate::RegistrarBuilder::build) checks the rest, such as the endpoints.
    ///
    /// [etcdctl's page]: https://github.com/etcd-io/etcd/blob/main/etcdctl/README.md
    pub fn from_env() -> Result<Self, BuildError> {
        Self::from_variables(&Variables(&|name| std::env::var_os(name)))
    }

    fn from_variables(variables: &Variables<'_>) -> Result<Self, BuildError> {
        let srv = "ETCDCTL_DISCOVERY_SRV";
        if variables.get(srv)?.is_some() {
            let reason = "is not supported: name the endpoints in ETCDCTL_ENDPOINTS";
            return Err(refuse(srv, reason));
        }
        let endpoints = variables.get("ETCDCTL_ENDPOINTS")?;
        let endpoints = endpoints.as_deref().unwrap_or(DEFAULT_ENDPOINT);
        let etcd = Self::new(endpoints.split(',').map(str::trim));
        let etcd = match user(variables)? {
            Some((name, password)) => etcd.user(name, password),
            None => etcd,
        };
        match tls_settings(variables)? {
            Some((asked_by, settings)) => with_tls(etcd, asked_by, settings),
            None => Ok(etcd),
        }
    }
}

/// Name and password.
fn user(variables: &Variables<'_>) -> Result<Option<(String, String)>, BuildError> {
    let user = variables.secret("ETCDCTL_USER", "ETCDCTL_USER_FILE")?;
    let password = variables.secret("ETCDCTL_PASSWORD", "ETCDCTL_PASSWORD_FILE")?;
    match (user, password) {
        (None, None) => Ok(None),
        (Some(name), Some(password)) => Ok(Some((name, password))),
        (Some(user), None) => match user.split_once(':') {
            Some((name, password)) => Ok(Some((name.to_owned(), password.to_owned()))),
            None => Err(refuse(
                "ETCDCTL_USER",
                "has no password: set ETCDCTL_PASSWORD or ETCDCTL_PASSWORD_FILE, or write name:password",
            )),
        },
        (None, Some(_)) => Err(refuse(
            "ETCDCTL_PASSWORD",
            "has no user: set ETCDCTL_USER, too",
        )),
    }
}

/// The settings, and a variable that enables TLS; `None`: no variable does.
fn tls_settings(
    variables: &Variables<'_>,
) -> Result<Option<(&'static str, TlsSettings)>, BuildError> {
    let skip = "ETCDCTL_INSECURE_SKIP_TLS_VERIFY";
    if variables.flag(skip)? == Some(true) {
        return Err(refuse(
            skip,
            "is not supported: whoever is on the way could read the password and change every \
             address. Trust the authority of etcd's certificates with ETCDCTL_CACERT",
        ));
    }
    let ca = variables.get("ETCDCTL_CACERT")?;
    let identity = match (
        variables.get("ETCDCTL_CERT")?,
        variables.get("ETCDCTL_KEY")?,
    ) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return Err(refuse("ETCDCTL_CERT", "has no key: set ETCDCTL_KEY, too")),
        (None, Some(_)) => {
            let reason = "has no certificate: set ETCDCTL_CERT, too";
            return Err(refuse("ETCDCTL_KEY", reason));
        }
    };
    let transport = "ETCDCTL_INSECURE_TRANSPORT";
    let is_secure = variables.flag(transport)? == Some(false);
    let asked_by = match (&ca, &identity) {
        (Some(_), _) => "ETCDCTL_CACERT",
        (None, Some(_)) => "ETCDCTL_CERT",
        (None, None) if is_secure => transport,
        (None, None) => return Ok(None),
    };
    Ok(Some((asked_by, TlsSettings { ca, identity })))
}

#[cfg(feature = "_tls")]
#[allow(clippy::unnecessary_wraps)]
fn with_tls(etcd: Etcd, _: &'static str, settings: TlsSettings) -> Result<Etcd, BuildError> {
    let mut tls = Tls::new();
    if let Some(ca) = settings.ca {
        tls = tls.ca_file(ca);
    }
    if let Some((certificate, key)) = settings.identity {
        tls = tls.identity_files(certificate, key);
    }
    Ok(etcd.tls(tls))
}

#[cfg(not(feature = "_tls"))]
fn with_tls(_: Etcd, asked_by: &'static str, _: TlsSettings) -> Result<Etcd, BuildError> {
    let reason = "needs TLS: enable the feature `tls-ring` or `tls-aws-lc`";
    Err(refuse(asked_by, reason))
}

fn refuse(name: &'static str, reason: impl Into<String>) -> BuildError {
    let reason = reason.into();
    BuildError::Environment { name, reason }
}

// === impl Variables ===

impl Variables<'_> {
    /// The value; an empty one counts as none, as with etcdctl.
    fn get(&self, name: &'static str) -> Result<Option<String>, BuildError> {
        let Some(value) = (self.0)(name).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let value = value.into_string();
        value.map(Some).map_err(|_| refuse(name, "is not UTF-8"))
    }

    /// The value, or the content of the file that the other variable names. Errors show neither.
    fn secret(&self, name: &'static str, file: &'static str) -> Result<Option<String>, BuildError> {
        let Some(path) = self.get(file)? else {
            return self.get(name);
        };
        if self.get(name)?.is_some() {
            return Err(refuse(file, format!("and {name} are both set: set one")));
        }
        let unreadable = |error| refuse(file, format!("{path}: {error}"));
        let text = std::fs::read_to_string(&path).map_err(unreadable)?;
        let secret = text.strip_suffix('\n').unwrap_or(&text);
        let secret = secret.strip_suffix('\r').unwrap_or(secret);
        match secret {
            "" => Err(refuse(file, format!("{path}: is empty"))),
            secret => Ok(Some(secret.to_owned())),
        }
    }

    /// Whether the value is true, in the words that Go takes.
    fn flag(&self, name: &'static str) -> Result<Option<bool>, BuildError> {
        let Some(value) = self.get(name)? else {
            return Ok(None);
        };
        match &*value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
            _ => Err(refuse(name, "is neither true nor false")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::member::Given;
    use std::collections::BTreeMap;

    fn read(set: &[(&str, &str)]) -> Result<Etcd, BuildError> {
        let set: BTreeMap<_, _> = set.iter().copied().collect();
        Etcd::from_variables(&Variables(&|name| set.get(name).map(OsString::from)))
    }

    /// A file that ends with the process.
    fn file(text: &str) -> (tempfile::NamedTempFile, String) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        (file, path)
    }

    #[test]
    fn endpoints_are_those_of_etcdctl() {
        for (given, expected) in [
            (None, &["127.0.0.1:2379"][..]),
            (Some(""), &["127.0.0.1:2379"]),
            (Some("http://a:1"), &["http://a:1"]),
            (Some("a:1, b:2"), &["a:1", "b:2"]),
        ] {
            let set: Vec<_> = given
                .map(|it| ("ETCDCTL_ENDPOINTS", it))
                .into_iter()
                .collect();
            let etcd = read(&set).unwrap();
            let endpoints: Vec<_> = etcd.endpoints.iter().map(Given::url).collect();
            assert_eq!(endpoints, expected);
            etcd.check().unwrap();
        }
    }

    #[test]
    fn name_and_password_come_from_one_variable_or_two_or_files() {
        let (_name_file, name_path) = file("me:secret\n");
        let (_file, path) = file("secret\r\n");
        let (_blank, blank) = file(" secret\n\n");
        let (user, password) = ("ETCDCTL_USER", "ETCDCTL_PASSWORD");
        let (user_file, password_file) = ("ETCDCTL_USER_FILE", "ETCDCTL_PASSWORD_FILE");
        for (set, expected) in [
            (&[][..], None),
            (&[(user, ""), (password, "")], None),
            (&[(user, "me:secret")], Some(("me", "secret"))),
            (&[(user, "me:se:cret")], Some(("me", "se:cret"))),
            (
                &[(user, "me"), (password, "secret")],
                Some(("me", "secret")),
            ),
            (
                &[(user, "me:x"), (password, "secret")],
                Some(("me:x", "secret")),
            ),
            (
                &[(user, "me"), (password_file, &*path)],
                Some(("me", "secret")),
            ),
            (
                &[(user, "me"), (password_file, &*blank)],
                Some(("me", " secret\n")),
            ),
            (&[(user_file, &*name_path)], Some(("me", "secret"))),
        ] {
            let set: BTreeMap<_, _> = set.iter().copied().collect();
            let lookup = |name: &str| set.get(name).map(OsString::from);
            let found = super::user(&Variables(&lookup)).unwrap();
            let found = found
                .as_ref()
                .map(|(name, password)| (&**name, &**password));
            assert_eq!(found, expected, "{set:?}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_the_name_of_its_variable() {
        let (_file, path) = file("canary\n");
        let (_empty, empty) = file("\n");
        for (set, name, reason) in [
            (
                &[("ETCDCTL_USER", "me")][..],
                "ETCDCTL_USER",
                "has no password",
            ),
            (
                &[("ETCDCTL_PASSWORD", "canary")],
                "ETCDCTL_PASSWORD",
                "ETCDCTL_USER",
            ),
            (
                &[
                    ("ETCDCTL_USER", "me"),
                    ("ETCDCTL_PASSWORD", "canary"),
                    ("ETCDCTL_PASSWORD_FILE", &*path),
                ],
                "ETCDCTL_PASSWORD_FILE",
                "both set",
            ),
            (
                &[
                    ("ETCDCTL_USER", "me"),
                    ("ETCDCTL_PASSWORD_FILE", "/nowhere/canary-free"),
                ],
                "ETCDCTL_PASSWORD_FILE",
                "No such file",
            ),
            (
                &[("ETCDCTL_USER", "me"), ("ETCDCTL_PASSWORD_FILE", &*empty)],
                "ETCDCTL_PASSWORD_FILE",
                "is empty",
            ),
            (&[("ETCDCTL_CERT", "c.pem")], "ETCDCTL_CERT", "ETCDCTL_KEY"),
            (&[("ETCDCTL_KEY", "k.pem")], "ETCDCTL_KEY", "ETCDCTL_CERT"),
            (
                &[("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "true")],
                "ETCDCTL_INSECURE_SKIP_TLS_VERIFY",
                "ETCDCTL_CACERT",
            ),
            (
                &[("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "yes")],
                "ETCDCTL_INSECURE_SKIP_TLS_VERIFY",
                "neither true nor false",
            ),
            (
                &[("ETCDCTL_DISCOVERY_SRV", "example.com")],
                "ETCDCTL_DISCOVERY_SRV",
                "ETCDCTL_ENDPOINTS",
            ),
        ] {
            let error = read(set).unwrap_err();
            let text = format!("{error} {error:?}");
            let BuildError::Environment { name: named, .. } = error else {
                panic!("{text}");
            };
            assert_eq!(named, name, "{text}");
            assert!(
                text.starts_with(&format!("{name}: ")) && text.contains(reason),
                "{text}"
            );
            assert!(
                !text.contains("\"canary") && !text.contains(" canary"),
                "{text}"
            );
        }
        read(&[("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "false")]).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_utf_8_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;
        let lookup = |name: &str| (name == "ETCDCTL_USER").then(|| OsString::from_vec(vec![0xff]));
        let error = Etcd::from_variables(&Variables(&lookup)).unwrap_err();
        assert_eq!(error.to_string(), "ETCDCTL_USER: is not UTF-8");
    }

    #[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
    #[test]
    fn each_tls_variable_makes_bare_endpoints_https() {
        for (set, is_https) in [
            (&[][..], false),
            (&[("ETCDCTL_INSECURE_TRANSPORT", "true")], false),
            (&[("ETCDCTL_INSECURE_TRANSPORT", "false")], true),
            (&[("ETCDCTL_CACERT", "ca.pem")], true),
            (&[("ETCDCTL_CERT", "c.pem"), ("ETCDCTL_KEY", "k.pem")], true),
        ] {
            let checked = read(set).unwrap().check();
            let text = format!("{checked:?}");
            // The files are read by `build`, and these do not exist.
            let files = set.iter().any(|(_, value)| value.ends_with(".pem"));
            assert_eq!(checked.is_err(), files, "{text}");
            match files {
                true => assert!(text.contains(".pem"), "{text}"),
                false => assert_eq!(text.contains("https://127.0.0.1:2379"), is_https, "{text}"),
            }
        }
    }

    #[cfg(not(feature = "_tls"))]
    #[test]
    fn tls_without_the_feature_names_it() {
        for set in [
            &[("ETCDCTL_CACERT", "ca.pem")][..],
            &[("ETCDCTL_INSECURE_TRANSPORT", "false")],
        ] {
            let error = read(set).unwrap_err().to_string();
            assert!(
                error.starts_with(set[0].0) && error.contains("tls-ring"),
                "{error}"
            );
        }
    }

    #[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
    #[test]
    fn files_without_a_certificate_are_refused_by_their_names() {
        let (_empty, empty) = file("");
        for set in [
            &[("ETCDCTL_CACERT", &*empty)][..],
            &[("ETCDCTL_CERT", &*empty), ("ETCDCTL_KEY", &*empty)],
        ] {
            let error = read(set).unwrap().check().unwrap_err();
            assert!(matches!(error, BuildError::Tls { .. }), "{error}");
            assert!(error.to_string().contains(&empty), "{error}");
        }
    }
}
