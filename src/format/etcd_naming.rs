//! [`EtcdNaming`]: the format of etcd's own resolver for grpc-go.

use super::{DecodeError, Format, KeyContext, below, id_in, instance_at, json};
use crate::address::Address;
use crate::error::BuildError;
use crate::instance::Instance;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// etcd's naming for grpc-go: `go.etcd.io/etcd/client/v3/naming`.
///
/// A client dials `etcd:///greeter`. The resolver removes one slash from the target, so that with
/// the prefix `services` it dials `etcd:///services/greeter`, and with `/services` it dials
/// `etcd:////services/greeter`.
///
/// Carries only the address. `Metadata` stays `null`: resolvers before etcd 3.7 pass it
/// to grpc-go, which compares it with `==`, and that panics on a JSON object.
///
/// Clients watch: the default of [`deregistration_delay`](crate::RegistrarBuilder::deregistration_delay), 1 s, is enough.
#[derive(Debug, Clone, Default)]
pub struct EtcdNaming {
    prefix: String,
}

/// `internal.Update` of `client/v3/naming/endpoints`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Update {
    /// It has no meaning on an existing key.
    #[serde(skip_deserializing)]
    op: u8,
    addr: String,
    metadata: Option<serde_json::Value>,
}

const ADD: u8 = 0;

// === impl EtcdNaming ===

impl EtcdNaming {
    /// Without a prefix: the target is the service name.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The part before the service name in the target. Slashes at the end are dropped.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }
}

impl Format for EtcdNaming {
    fn name(&self) -> &str {
        "etcd-naming"
    }

    fn check_settings(&self) -> Result<(), BuildError> {
        super::check_optional_prefix(&self.prefix)
    }

    fn key_prefix(&self, service: &str) -> String {
        below(&self.prefix, service)
    }

    fn key(&self, context: &KeyContext<'_>) -> String {
        self.key_prefix(context.instance().name()) + &context.addr()
    }

    fn encode(&self, _: &Instance, address: &Address) -> String {
        json::write(&Update {
            op: ADD,
            addr: address.to_string(),
            metadata: None,
        })
    }

    /// Strings in an object of metadata are read, because other clients write them; other metadata
    /// is ignored.
    fn decode(&self, service: &str, key: &str, value: &[u8]) -> Result<Instance, DecodeError> {
        let found: Update = json::object(value)?;
        let mut instance =
            instance_at(service, id_in(key, &self.key_prefix(service)), &found.addr)?;
        instance.metadata = strings(found.metadata);
        Ok(instance)
    }
}

fn strings(metadata: Option<serde_json::Value>) -> BTreeMap<String, String> {
    let Some(serde_json::Value::Object(fields)) = metadata else {
        return BTreeMap::new();
    };
    let text = |(key, value)| match value {
        serde_json::Value::String(text) => Some((key, text)),
        _ => None,
    };
    fields.into_iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::{greeter, writes, written};

    const KEY: &str = "greeter/10.1.2.3:9000";
    const VALUE: &str = r#"{"Op":0,"Addr":"10.1.2.3:9000","Metadata":null}"#;

    #[test]
    fn key_and_value_are_those_of_the_endpoint_manager() {
        let format = EtcdNaming::new();
        writes(&format, &greeter(), "10.1.2.3:9000", [KEY, VALUE]);
        for (prefix, key) in [
            ("services", "services/greeter/[2001:db8::1]:9000"),
            ("/services/", "/services/greeter/[2001:db8::1]:9000"),
        ] {
            let format = EtcdNaming::new().prefix(prefix);
            let (written, _) = written(&format, &greeter(), "[2001:db8::1]:9000");
            assert_eq!(written, key, "{prefix}");
        }
    }

    #[test]
    fn what_others_write_is_read() {
        let read = |value: &str| EtcdNaming::new().decode("greeter", KEY, value.as_bytes());
        let found = read(VALUE).unwrap();
        assert_eq!(found.id(), "10.1.2.3:9000");
        let rich = r#"{"Addr":"10.1.2.3:9000","Op":1,"Metadata":{"zone":"eu","n":1},"Later":[]}"#;
        assert_eq!(
            read(rich).unwrap(),
            found.clone().with_metadata("zone", "eu"),
            "as old clients wrote it"
        );
        for other in [
            r#"{"Addr":"10.1.2.3:9000"}"#,
            r#"{"Addr":"10.1.2.3:9000","Metadata":"x"}"#,
        ] {
            assert_eq!(read(other).unwrap(), found, "{other}");
        }
        for bad in [
            r#"{"Op":0}"#,
            r#"{"Addr":null}"#,
            r#"{"Addr":["10.1.2.3:9000"]}"#,
        ] {
            read(bad).unwrap_err();
        }
    }
}
