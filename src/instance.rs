//! [`Instance`]: one server under one service name.

use crate::address::Address;
use crate::error::RegisterError;
use crate::runtime::random;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tonic::server::NamedService;

/// One server under one service name, to be written to etcd.
///
/// Only the name is required. The setters check nothing: [`Registrar::register`](crate::Registrar::register) checks
/// everything, before it sends a request. A value has at most [64 KiB](crate::format::MAX_VALUE), because readers skip larger
/// ones.
///
/// ```
/// use tonic_etcd::Instance;
///
/// let instance = Instance::new("greeter")
///     .with_version("v1.4.2")
///     .with_weight(20)
///     .with_metadata("zone", "eu-1");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) address: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) weight: Option<u32>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) value: Option<String>,
    pub(crate) secure: bool,
}

/// The JSON value that is written when no [`Instance::with_value`] is given.
///
/// | field | type | |
/// |---|---|---|
/// | `name` | string | the service name |
/// | `id` | string | unique for each instance |
/// | `address` | string | `ip:port`, `[ipv6]:port` or `dns.name:port` |
/// | `version` | string | left out when not given |
/// | `weight` | number | left out when not given |
/// | `metadata` | object of strings | left out when empty |
/// | `secure` | boolean | left out when `false` |
///
/// Readers should ignore unknown fields: later versions may add some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InstanceJson {
    /// The service name.
    pub name: String,
    /// Identifies this instance.
    pub id: String,
    /// Where to dial it: `ip:port`, `[ipv6]:port` or `dns.name:port`.
    pub address: String,
    /// The version of the software.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The share of the load that it should get, relative to the other instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Anything else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Whether it is dialled with TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secure: bool,
}

const MAX_SEGMENT: usize = 255;

// === impl Instance ===

impl Instance {
    /// An instance of the service `name`.
    ///
    /// The name becomes one segment of the key. It has 1 to 255 bytes, is neither `.` nor `..`, and has no `/`, no encoded
    /// slash and no control character.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            id: format!("{:016x}", random::id(|| fastrand::u64(..))),
            address: None,
            version: None,
            weight: None,
            metadata: BTreeMap::new(),
            value: None,
            secure: false,
        }
    }

    /// An instance of a generated service, under its full name, such as `greeter.v1.Greeter`.
    ///
    /// The name does not depend on the implementation of the service: `GreeterServer<()>` is enough.
    ///
    /// ```
    /// # type GreeterServer<T> = tonic_health::pb::health_server::HealthServer<T>;
    /// use tonic_etcd::Instance;
    ///
    /// let instance = Instance::of::<GreeterServer<()>>();
    /// # assert_eq!(instance.name(), "grpc.health.v1.Health");
    /// ```
    #[must_use]
    pub fn of<S: NamedService>() -> Self {
        Self::new(S::NAME)
    }

    /// The address to advertise, `host:port`, if it is not the bound one: behind a NAT, or with the
    /// [layer](crate::Registration::layer) alone.
    #[must_use]
    pub fn with_address(mut self, address: impl ToString) -> Self {
        self.address = Some(address.to_string());
        self
    }

    /// An id that no other instance has. By default a random one, new with each `Instance`.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// The version of the software, for readers that route by it.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// The share of the load that this instance should get, relative to the others.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = Some(weight);
        self
    }

    /// Adds one pair of metadata. It replaces a pair with the same key.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Whether it is dialled with TLS. Default: no.
    ///
    /// Two formats have a field for it: [plain](crate::format::Plain) as JSON, and
    /// [kratos](crate::format::Kratos).
    #[must_use]
    pub fn with_secure(mut self, secure: bool) -> Self {
        self.secure = secure;
        self
    }

    /// The value to write, byte for byte, instead of the instance as [JSON](InstanceJson).
    ///
    /// Only the [plain](crate::format::Plain) format writes it. Other formats write what their readers parse.
    #[must_use]
    pub fn with_value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// The service name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id, which no other instance has.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where to dial it. An instance that was read from etcd always has an address, which can be dialled.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// The version of the software.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The share of the load that this instance should get, relative to the others.
    #[must_use]
    pub fn weight(&self) -> Option<u32> {
        self.weight
    }

    /// The metadata.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Whether it is dialled with TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Checks that formats can write it. Returns the explicit address.
    pub(crate) fn check(&self) -> Result<Option<Address>, RegisterError> {
        for (what, value) in [("name", &self.name), ("id", &self.id)] {
            check_segment(value).map_err(|reason| RegisterError::name(what, value, reason))?;
        }
        Ok(self.address.as_deref().map(Address::parse).transpose()?)
    }

    /// Refuses an update that would move the instance to another key or address.
    pub(crate) fn check_update(&self, next: &Self) -> Result<(), RegisterError> {
        let field = if self.name != next.name {
            "name"
        } else if self.id != next.id {
            "id"
        } else if self.address != next.address {
            "address"
        } else {
            return Ok(());
        };
        Err(RegisterError::Immutable { field })
    }

    /// The value to write for an instance that is dialled at `address`.
    pub(crate) fn value_at(&self, address: &Address) -> String {
        if let Some(value) = &self.value {
            return value.clone();
        }
        let json = InstanceJson {
            name: self.name.clone(),
            id: self.id.clone(),
            address: address.to_string(),
            version: self.version.clone(),
            weight: self.weight,
            metadata: self.metadata.clone(),
            secure: self.secure,
        };
        // Cannot fail: strings, a number, a map of strings and a boolean.
        serde_json::to_string(&json).unwrap_or_default()
    }
}

/// Checks that a text is one readable segment of a key. The error is the reason.
///
/// With `/` or its encoded form one service could write below the prefix of another. Tools that treat keys as paths
/// remove `.` and `..`. Control characters break terminals.
pub(crate) fn check_segment(value: &str) -> Result<(), &'static str> {
    Err(if value.is_empty() {
        "is empty: give it at least one character"
    } else if value == "." || value == ".." {
        "would be removed by tools that read keys as paths: choose another"
    } else if value.contains('/') {
        "contains a slash, which separates the parts of a key: leave it out"
    } else if value.to_ascii_lowercase().contains("%2f") {
        "contains an encoded slash, which some readers decode: leave it out"
    } else if value.chars().any(char::is_control) {
        "contains a control character: leave it out"
    } else if value.len() > MAX_SEGMENT {
        "is longer than 255 bytes: shorten it"
    } else {
        return Ok(());
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_value_is_what_the_documentation_says() {
        let address = Address::parse("10.1.2.3:9000").unwrap();
        let plain = Instance::new("greeter").with_id("a");
        assert_eq!(
            plain.value_at(&address),
            r#"{"name":"greeter","id":"a","address":"10.1.2.3:9000"}"#
        );
        let full = plain
            .with_version("v1")
            .with_weight(10)
            .with_metadata("zone", "eu-1");
        let json = full.value_at(&address);
        assert_eq!(
            json,
            r#"{"name":"greeter","id":"a","address":"10.1.2.3:9000","version":"v1","weight":10,"metadata":{"zone":"eu-1"}}"#
        );
        let read: InstanceJson = serde_json::from_str(&json).unwrap();
        assert_eq!((read.weight, read.secure), (Some(10), false));
        let secure = Instance::new("greeter").with_id("a").with_secure(true);
        assert_eq!(
            secure.value_at(&address),
            r#"{"name":"greeter","id":"a","address":"10.1.2.3:9000","secure":true}"#
        );
    }

    #[test]
    fn unknown_fields_are_ignored_on_reading() {
        let read: InstanceJson =
            serde_json::from_str(r#"{"name":"a","id":"b","address":"c:1","later":[1]}"#).unwrap();
        assert_eq!(read.name, "a");
    }

    #[test]
    fn a_given_value_is_written_byte_for_byte() {
        let address = Address::parse("10.1.2.3:9000").unwrap();
        let given = " {\"half\": json";
        assert_eq!(
            Instance::new("greeter")
                .with_value(given)
                .value_at(&address),
            given
        );
    }

    #[test]
    fn names_that_would_break_a_key_are_refused_and_named() {
        let long = "x".repeat(256);
        for bad in [
            "", ".", "..", "a/b", "/", "a\0b", "a\nb", "\u{85}", "a%2fb", "a%2Fb", &long,
        ] {
            for (what, instance) in [
                ("name", Instance::new(bad)),
                ("id", Instance::new("greeter").with_id(bad)),
            ] {
                let error = instance.check().unwrap_err();
                assert!(
                    matches!(error, RegisterError::Name { what: w, .. } if w == what),
                    "{error:?}"
                );
                assert!(error.to_string().len() < 250, "{error}");
            }
        }
        for good in [
            "a",
            "...",
            "greeter.v1.Greeter",
            "grüße",
            "a b",
            &"x".repeat(255),
        ] {
            Instance::new(good).check().unwrap();
        }
    }

    #[test]
    fn an_update_may_change_the_value_but_not_the_key() {
        let now = Instance::new("greeter").with_id("a");
        now.check_update(
            &now.clone()
                .with_weight(3)
                .with_metadata("k", "v")
                .with_value("x"),
        )
        .unwrap();
        for (field, next) in [
            (
                "name",
                Instance {
                    name: "other".into(),
                    ..now.clone()
                },
            ),
            ("id", now.clone().with_id("b")),
            ("address", now.clone().with_address("10.0.0.1:1")),
        ] {
            let error = now.check_update(&next).unwrap_err();
            assert!(
                matches!(error, RegisterError::Immutable { field: f } if f == field),
                "{error:?}"
            );
        }
    }
}
