//! The flags for etcd that examples share: endpoints, user, TLS.

// Each example includes this module and uses its own part of it.
#![allow(dead_code)]

use clap::Args;
use std::path::PathBuf;
use std::time::Duration;
use tonic_etcd::Etcd;

/// Set on each flag: a heading of the struct would also apply to later flags.
pub(crate) const HEADING: &str = "etcd";

#[derive(Debug, Args)]
pub(crate) struct Access {
    /// Client URLs of etcd, separated by commas
    #[arg(
        long,
        env = "ETCD_ENDPOINTS",
        hide_env_values = true,
        default_value = "http://127.0.0.1:2379"
    )]
    #[arg(value_delimiter = ',', value_name = "URL", global = true, help_heading = HEADING)]
    etcd: Vec<String>,
    /// User of etcd, if it asks for one
    #[arg(long, env = "ETCD_USER", hide_env_values = true, global = true, help_heading = HEADING)]
    user: Option<String>,
    /// Password of that user; better given by the environment
    #[arg(long, env = "ETCD_PASSWORD", hide_env_values = true, global = true, help_heading = HEADING)]
    password: Option<String>,
    /// Certificates to trust with https, PEM
    #[arg(long, env = "ETCD_CACERT", value_name = "FILE", global = true, help_heading = HEADING)]
    cacert: Option<PathBuf>,
    /// Client certificate, if etcd asks for one, PEM
    #[arg(long, env = "ETCD_CERT", value_name = "FILE", global = true, help_heading = HEADING)]
    cert: Option<PathBuf>,
    /// Private key of that certificate, PEM
    #[arg(long, env = "ETCD_KEY", value_name = "FILE", global = true, help_heading = HEADING)]
    key_file: Option<PathBuf>,
    /// Name that etcd's certificate must have, if it is not the host of the URL
    #[arg(long, env = "ETCD_SERVER_NAME", value_name = "NAME")]
    #[arg(requires = "cacert", global = true, help_heading = HEADING)]
    server_name: Option<String>,
}

// === impl Access ===

impl Access {
    /// User and password.
    fn credentials(&self) -> Result<Option<(&str, &str)>, String> {
        pair("--user and --password", &self.user, &self.password)
            .map(|given| given.map(|(user, password)| (&**user, &**password)))
    }

    /// Certificate and private key.
    fn identity(&self) -> Result<Option<(&PathBuf, &PathBuf)>, String> {
        let identity = pair("--cert and --key-file", &self.cert, &self.key_file)?;
        match (&identity, &self.cacert) {
            (Some(_), None) => Err("--cert and --key-file need --cacert".to_owned()),
            _ => Ok(identity),
        }
    }

    /// The library's `Etcd`; without `attempt_timeout`, with its own default.
    pub(crate) fn etcd(&self, attempt_timeout: Option<Duration>) -> Result<Etcd, String> {
        let mut etcd = Etcd::new(&self.etcd);
        if let Some((user, password)) = self.credentials()? {
            etcd = etcd.user(user, password);
        }
        if let Some(limit) = attempt_timeout {
            etcd = etcd.attempt_timeout(limit);
        }
        let identity = self.identity()?;
        match &self.cacert {
            Some(cacert) => {
                let identity_files = identity.into_iter().flat_map(|(cert, key)| [cert, key]);
                for file in std::iter::once(cacert).chain(identity_files) {
                    std::fs::metadata(file)
                        .map_err(|error| format!("{}: {error}", file.display()))?;
                }
                self.secure(etcd, cacert, identity)
            }
            None => Ok(etcd),
        }
    }

    #[cfg(feature = "_tls")]
    fn secure(
        &self,
        etcd: Etcd,
        cacert: &PathBuf,
        identity: Option<(&PathBuf, &PathBuf)>,
    ) -> Result<Etcd, String> {
        let mut tls = tonic_etcd::Tls::new().ca_file(cacert);
        if let Some((cert, key)) = identity {
            tls = tls.identity_files(cert, key);
        }
        if let Some(name) = &self.server_name {
            tls = tls.domain(name);
        }
        Ok(etcd.tls(tls))
    }

    #[cfg(not(feature = "_tls"))]
    fn secure(
        &self,
        _: Etcd,
        _: &PathBuf,
        _: Option<(&PathBuf, &PathBuf)>,
    ) -> Result<Etcd, String> {
        Err("--cacert: this program was built without TLS: build it with --features tls".to_owned())
    }
}

fn pair<'a, T>(
    names: &str,
    one: &'a Option<T>,
    other: &'a Option<T>,
) -> Result<Option<(&'a T, &'a T)>, String> {
    match (one, other) {
        (Some(one), Some(other)) => Ok(Some((one, other))),
        (None, None) => Ok(None),
        _ => Err(format!("{names} come together")),
    }
}

/// Parses a time on the command line. Refuses a time too long to be added to the current time.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match time > LONGEST {
        true => Err("is longer than a year".to_owned()),
        false => Ok(time),
    }
}

const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
