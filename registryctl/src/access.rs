//! The flags for etcd: endpoints, user, TLS.

use crate::failure::{Failure, usage};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;
use tonic_etcd::internal::Target;
use tonic_etcd::{Etcd, Tls};

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
    // It was called `--key` before, and scripts may use it. In `server` that is another flag.
    #[arg(long, alias = "key", env = "ETCD_KEY", value_name = "FILE", global = true, help_heading = HEADING)]
    key_file: Option<PathBuf>,
    /// Name that etcd's certificate must have, if it is not the host of the URL
    #[arg(long, env = "ETCD_SERVER_NAME", value_name = "NAME")]
    #[arg(requires = "cacert", global = true, help_heading = HEADING)]
    server_name: Option<String>,
}

// === impl Access ===

impl Access {
    /// The members, checked.
    pub(crate) fn members(&self) -> Result<Vec<Target>, Failure> {
        // Together at first: a password must not go to one of them in plaintext.
        self.member(&self.etcd)?;
        self.etcd.iter().map(|url| self.member([url])).collect()
    }

    fn member(&self, urls: impl IntoIterator<Item: AsRef<str>>) -> Result<Target, Failure> {
        let mut etcd = Etcd::new(urls);
        if let Some((user, password)) = pair("--user and --password", &self.user, &self.password)? {
            etcd = etcd.user(user, password);
        }
        let identity = pair("--cert and --key-file", &self.cert, &self.key_file)?;
        if let Some(tls) = tls(self.cacert.as_ref(), identity, self.server_name.as_ref()) {
            etcd = etcd.tls(tls);
        } else if identity.is_some() {
            return usage("--cert and --key-file need --cacert");
        }
        let member = Target::new(etcd);
        let member = member
            .map_err(|error| Failure::Usage(error.to_string().replace("Etcd::user", "--user")))?;
        match member.url().starts_with("https:") && self.cacert.is_none() {
            true => usage(format!("--etcd {}: needs --cacert", member.url())),
            false => Ok(member),
        }
    }
}

/// Trust and identity from files; `None` without trust.
pub(crate) fn tls(
    ca: Option<&PathBuf>,
    identity: Option<(&PathBuf, &PathBuf)>,
    name: Option<&String>,
) -> Option<Tls> {
    let mut tls = Tls::new().ca_file(ca?);
    if let Some((cert, key)) = identity {
        tls = tls.identity_files(cert, key);
    }
    if let Some(name) = name {
        tls = tls.domain(name);
    }
    Some(tls)
}

fn pair<'a, T>(
    names: &str,
    one: &'a Option<T>,
    other: &'a Option<T>,
) -> Result<Option<(&'a T, &'a T)>, Failure> {
    match (one, other) {
        (Some(one), Some(other)) => Ok(Some((one, other))),
        (None, None) => Ok(None),
        _ => usage(format!("{names} come together")),
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Only {
        #[command(flatten)]
        access: Access,
    }

    fn refused(args: &[&str]) -> Option<String> {
        let only = Only::parse_from([&["registryctl"], args].concat());
        only.access.members().err().map(|why| why.to_string())
    }

    #[test]
    fn an_endpoint_that_the_library_refuses_is_refused() {
        assert_eq!(refused(&["--etcd", "localhost:1,http://[::1]:2"]), None);
        let user = ["--user", "me", "--password", "canary"];
        for (args, reason) in [
            (&["--etcd", "http://a:2379/v3"][..], "has a path"),
            (&["--etcd", "http://a:2379?x=1"], "has a path"),
            (&["--etcd", "http://a"], "has no port"),
            (&["--etcd", "unix://a:1"], "http or https"),
            (&["--etcd", "https://a:1"], "needs --cacert"),
            (&["--etcd", "http://me:canary@a:1"], "--user"),
            (&["--cert", "c", "--key-file", "k"], "need --cacert"),
            (&["--cert", "c"], "come together"),
            (&["--cacert", "no/such", "--etcd", "a:1"], "no/such"),
            (&["--cacert", "no/such", "--etcd", "http://a:1"], "https://"),
        ] {
            let error = refused(args).unwrap_or_else(|| panic!("{args:?}"));
            assert!(error.contains(reason), "{args:?}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
        assert!(refused(&user).is_none());
    }
}
