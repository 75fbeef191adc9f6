//! The configuration of a server: a TOML file, overridden by the environment. Made to be copied.
//!
//! Unknown keys are refused, so that a misspelt key is not ignored. The library's builders refuse settings that
//! cannot work, with the reason.

use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic_etcd::{BuildError, Etcd, Instance, OnConflict, Registrar, RegistrarBuilder, Tls};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    #[serde(default = "default_listen")]
    pub(crate) listen: SocketAddr,
    /// `host:port`, if it is not the address that is bound.
    advertise: Option<String>,
    instance: InstanceSettings,
    /// `None`: the variables of etcdctl.
    etcd: Option<EtcdSettings>,
    #[serde(default)]
    registrar: RegistrarSettings,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceSettings {
    name: String,
    version: Option<String>,
    weight: Option<u32>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EtcdSettings {
    endpoints: Vec<String>,
    #[serde(default, deserialize_with = "duration")]
    attempt_timeout: Option<Duration>,
    user: Option<UserSettings>,
    tls: Option<TlsSettings>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserSettings {
    name: String,
    /// A file, so that this one holds no secret.
    password_file: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsSettings {
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RegistrarSettings {
    prefix: Option<String>,
    #[serde(deserialize_with = "duration")]
    ttl: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    deregistration_delay: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    drain_timeout: Option<Duration>,
    on_conflict: Option<OnConflictSetting>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OnConflictSetting {
    TakeOver,
    Yield,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Parse {
        path: PathBuf,
        source: toml::de::Error,
    },
    #[error("{name}: {reason}")]
    Environment { name: &'static str, reason: String },
    #[error("etcd.tls: cert_file and key_file go together")]
    HalfAnIdentity,
    #[error(transparent)]
    Build(#[from] BuildError),
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 9000))
}

/// A duration as people write it: `600ms`, `5s`, `1m 30s`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration = humantime::parse_duration(&text);
    duration.map(Some).map_err(serde::de::Error::custom)
}

fn read(path: &Path) -> Result<String, SettingsError> {
    std::fs::read_to_string(path).map_err(|source| SettingsError::Read {
        path: path.to_owned(),
        source,
    })
}

// === impl Settings ===

impl Settings {
    /// Loads the file, overridden by `variable`, such as `|name| std::env::var(name).ok()`.
    pub(crate) fn load(
        path: &Path,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let parsed = toml::from_str(&read(path)?);
        let mut settings: Self = parsed.map_err(|source| SettingsError::Parse {
            path: path.to_owned(),
            source,
        })?;
        if let Some(listen) = variable("LISTEN") {
            settings.listen = listen.parse().map_err(|_| SettingsError::Environment {
                name: "LISTEN",
                reason: format!("{listen:?} is not ip:port"),
            })?;
        }
        settings.advertise = variable("ADVERTISE").or(settings.advertise);
        Ok(settings)
    }

    /// The registrar, to which the application adds its shutdown token.
    pub(crate) fn registrar(&self) -> Result<RegistrarBuilder, SettingsError> {
        let etcd = match &self.etcd {
            Some(etcd) => etcd.etcd()?,
            None => Etcd::from_env()?,
        };
        Ok(self.registrar.apply(Registrar::builder(etcd)))
    }

    pub(crate) fn instance(&self) -> Instance {
        let given = &self.instance;
        let mut instance = Instance::new(&given.name);
        if let Some(version) = &given.version {
            instance = instance.with_version(version);
        }
        if let Some(weight) = given.weight {
            instance = instance.with_weight(weight);
        }
        if let Some(address) = &self.advertise {
            instance = instance.with_address(address);
        }
        for (key, value) in &given.metadata {
            instance = instance.with_metadata(key, value);
        }
        instance
    }
}

// === impl EtcdSettings ===

impl EtcdSettings {
    fn etcd(&self) -> Result<Etcd, SettingsError> {
        let mut etcd = Etcd::new(&self.endpoints);
        if let Some(limit) = self.attempt_timeout {
            etcd = etcd.attempt_timeout(limit);
        }
        if let Some(user) = &self.user {
            let password = read(&user.password_file)?;
            etcd = etcd.user(&user.name, password.trim_end_matches(['\r', '\n']));
        }
        match &self.tls {
            Some(tls) => Ok(etcd.tls(tls.tls()?)),
            None => Ok(etcd),
        }
    }
}

// === impl TlsSettings ===

impl TlsSettings {
    fn tls(&self) -> Result<Tls, SettingsError> {
        let mut tls = Tls::new();
        if let Some(ca) = &self.ca_file {
            tls = tls.ca_file(ca);
        }
        match (&self.cert_file, &self.key_file) {
            (Some(certificate), Some(key)) => Ok(tls.identity_files(certificate, key)),
            (None, None) => Ok(tls),
            _ => Err(SettingsError::HalfAnIdentity),
        }
    }
}

// === impl RegistrarSettings ===

impl RegistrarSettings {
    /// Applies the settings that are given; the others keep the library's defaults.
    fn apply(&self, mut builder: RegistrarBuilder) -> RegistrarBuilder {
        if let Some(prefix) = &self.prefix {
            builder = builder.prefix(prefix);
        }
        if let Some(ttl) = self.ttl {
            builder = builder.ttl(ttl);
        }
        if let Some(delay) = self.deregistration_delay {
            builder = builder.deregistration_delay(delay);
        }
        if let Some(limit) = self.drain_timeout {
            builder = builder.drain_timeout(limit);
        }
        match self.on_conflict {
            Some(OnConflictSetting::TakeOver) => builder.on_conflict(OnConflict::TakeOver),
            Some(OnConflictSetting::Yield) => builder.on_conflict(OnConflict::Yield),
            None => builder,
        }
    }
}
