//! [`Kitex`]: the format of kitex' etcd registry.

use super::{
    DecodeError, Format, KeyContext, below, check_prefix, id_in, instance_at, json, positive,
};
use crate::address::Address;
use crate::error::{BuildError, RegisterError};
use crate::instance::Instance;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// kitex: `kitex-contrib/registry-etcd`.
///
/// Carries the address, the weight (10 when none is given) and the metadata as tags.
///
/// Clients poll every 5 s: set [`deregistration_delay`](crate::RegistrarBuilder::deregistration_delay) to 6 s.
#[derive(Debug, Clone)]
pub struct Kitex {
    prefix: String,
}

/// `instanceInfo`, in the order of its fields.
#[derive(Serialize, Deserialize)]
struct InstanceInfo {
    network: Option<String>,
    address: String,
    weight: Option<i64>,
    tags: Option<BTreeMap<String, String>>,
}

/// kitex reads a weight that is not positive as this.
const DEFAULT_WEIGHT: u32 = 10;

// === impl Kitex ===

impl Kitex {
    /// With the prefix `kitex/registry-etcd`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            prefix: "kitex/registry-etcd".to_owned(),
        }
    }

    /// The prefix, as in kitex' `WithEtcdServicePrefix`. Slashes at its end are dropped.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }
}

impl Default for Kitex {
    fn default() -> Self {
        Self::new()
    }
}

impl Format for Kitex {
    fn name(&self) -> &str {
        "kitex"
    }

    fn check_settings(&self) -> Result<(), BuildError> {
        // kitex uses its prefix as a format string of fmt.Sprintf.
        if self.prefix.contains('%') {
            let reason = "kitex cannot have a % in its prefix: leave it out";
            return Err(BuildError::format(self.name(), reason));
        }
        check_prefix("prefix", &self.prefix)?;
        Ok(())
    }

    fn key_prefix(&self, service: &str) -> String {
        below(&self.prefix, service)
    }

    fn check(&self, instance: &Instance) -> Result<(), RegisterError> {
        if instance.weight == Some(0) {
            let reason = "kitex takes a weight of 0 for 10: give at least 1";
            return Err(RegisterError::format(self.name(), reason));
        }
        Ok(())
    }

    fn key(&self, context: &KeyContext<'_>) -> String {
        self.key_prefix(context.instance().name()) + &context.addr()
    }

    fn encode(&self, instance: &Instance, address: &Address) -> String {
        json::write(&InstanceInfo {
            network: Some("tcp".to_owned()),
            address: address.to_string(),
            weight: Some(instance.weight.unwrap_or(DEFAULT_WEIGHT).into()),
            tags: Some(instance.metadata.clone()).filter(|tags| !tags.is_empty()),
        })
    }

    fn decode(&self, service: &str, key: &str, value: &[u8]) -> Result<Instance, DecodeError> {
        let found: InstanceInfo = json::object(value)?;
        let network = found.network.unwrap_or_default();
        if !matches!(&*network, "" | "tcp" | "tcp4" | "tcp6") {
            return Err(DecodeError::showing("is not dialled over TCP", &network));
        }
        let id = id_in(key, &self.key_prefix(service));
        let mut instance = instance_at(service, id, &found.address)?;
        instance.weight = positive(found.weight);
        instance.metadata = found.tags.unwrap_or_default();
        Ok(instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::{full, greeter, writes};

    const KEY: &str = "kitex/registry-etcd/greeter/10.1.2.3:9000";

    #[test]
    fn key_and_value_are_those_of_kitex_own_registry() {
        let value = r#"{"network":"tcp","address":"10.1.2.3:9000","weight":10,"tags":null}"#;
        writes(&Kitex::new(), &greeter(), "10.1.2.3:9000", [KEY, value]);
        let value = r#"{"network":"tcp","address":"[2001:db8::1]:9000","weight":20,"tags":{"zone":"eu-1"}}"#;
        let ours = Kitex::new().prefix("/ours/");
        let key = "/ours/greeter/[2001:db8::1]:9000";
        writes(&ours, &full(), "[2001:db8::1]:9000", [key, value]);
    }

    #[test]
    fn what_others_write_is_read() {
        let read = |value: &str| Kitex::new().decode("greeter", KEY, value.as_bytes());
        for (weight, expected) in [
            ("", None),
            (r#","weight":-1"#, None),
            (r#","weight":0,"tags":{},"network":"tcp4","later":1"#, None),
            (r#","weight":7,"tags":null"#, Some(7)),
            (r#","weight":99999999999"#, Some(u32::MAX)),
        ] {
            let found = read(&format!(r#"{{"address":"10.1.2.3:9000"{weight}}}"#)).unwrap();
            assert_eq!(found.weight(), expected, "{weight}");
            assert_eq!(found.id(), "10.1.2.3:9000");
        }
        for bad in [
            r#"{"network":"unix","address":"/tmp/kitex.sock"}"#,
            r#"{"network":"unix","address":"10.1.2.3:9000"}"#,
            r#"{"address":"10.1.2.3:9000","weight":"10"}"#,
            r#"{"weight":10}"#,
        ] {
            read(bad).unwrap_err();
        }
    }

    #[test]
    fn what_kitex_would_misread_is_refused() {
        assert!(Kitex::new().check(&greeter().with_weight(0)).is_err());
        assert!(Kitex::new().prefix("a%d").check_settings().is_err());
        assert!(Kitex::new().prefix("").check_settings().is_err());
    }
}
