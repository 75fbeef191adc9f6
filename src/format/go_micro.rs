//! [`GoMicro`]: the format of go-micro's etcd registry.

use super::{
    DecodeError, Format, KeyContext, below, check_prefix, given, id_or_rest, instance_at, json,
};
use crate::address::Address;
use crate::error::{BuildError, RegisterError};
use crate::instance::Instance;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// go-micro: `registry/etcd` of `micro/go-micro`, and of its plugins up to version 4.
///
/// Each key has a service with exactly one node. Carries id, version and metadata. The metadata is that of
/// the node, with the protocol and transport added, as in go-micro's own servers.
///
/// go-micro writes a service `a/b` under `a-b`. A name with a slash is refused here, as in every
/// format: register and find such a service as `a-b`, which go-micro's clients of `a/b` look up.
///
/// Clients watch: the default of [`deregistration_delay`](crate::RegistrarBuilder::deregistration_delay), 1 s, is enough.
#[derive(Debug, Clone)]
pub struct GoMicro {
    prefix: String,
}

/// `registry.Service`, in the order of its fields.
#[derive(Serialize)]
struct Service<'a> {
    name: &'a str,
    version: &'a str,
    metadata: (),
    endpoints: [(); 0],
    nodes: [Node; 1],
}

/// What is read of it. Only the first node counts.
#[derive(Deserialize)]
struct Found {
    version: Option<String>,
    nodes: Option<Vec<serde_json::Value>>,
}

/// `registry.Node`, in the order of its fields.
#[derive(Serialize, Deserialize)]
struct Node {
    metadata: Option<BTreeMap<String, String>>,
    id: Option<String>,
    address: String,
}

/// The metadata that go-micro's own gRPC server adds to its node.
const GRPC: [(&str, &str); 4] = [
    ("protocol", "grpc"),
    ("registry", "etcd"),
    ("server", "grpc"),
    ("transport", "grpc"),
];

// === impl GoMicro ===

impl GoMicro {
    /// With the prefix `/micro/registry`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            prefix: "/micro/registry".to_owned(),
        }
    }

    /// Another prefix, for forks: go-micro itself has no setting for it. Slashes at its end are
    /// dropped.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }
}

impl Default for GoMicro {
    fn default() -> Self {
        Self::new()
    }
}

impl Format for GoMicro {
    fn name(&self) -> &str {
        "go-micro"
    }

    fn check_settings(&self) -> Result<(), BuildError> {
        check_prefix("prefix", &self.prefix)?;
        Ok(())
    }

    fn key_prefix(&self, service: &str) -> String {
        below(&self.prefix, service)
    }

    fn check(&self, instance: &Instance) -> Result<(), RegisterError> {
        let own = GRPC
            .iter()
            .find(|(key, _)| instance.metadata.contains_key(*key));
        if let Some((key, _)) = own {
            let reason = format!(
                "the metadata `{key}` is go-micro's own, for how to talk to a server: use another"
            );
            return Err(RegisterError::format(self.name(), reason));
        }
        Ok(())
    }

    fn key(&self, context: &KeyContext<'_>) -> String {
        self.key_prefix(context.instance().name()) + context.instance().id()
    }

    fn encode(&self, instance: &Instance, address: &Address) -> String {
        let mut metadata = instance.metadata.clone();
        metadata.extend(GRPC.map(|(key, value)| (key.to_owned(), value.to_owned())));
        json::write(&Service {
            name: &instance.name,
            version: instance.version.as_deref().unwrap_or_default(),
            metadata: (),
            endpoints: [],
            nodes: [Node {
                metadata: Some(metadata),
                id: Some(instance.id.clone()),
                address: address.to_string(),
            }],
        })
    }

    /// Nodes with another protocol than gRPC are skipped, such as go-micro's default server.
    fn decode(&self, service: &str, key: &str, value: &[u8]) -> Result<Instance, DecodeError> {
        let found: Found = json::object(value)?;
        let node = found.nodes.into_iter().flatten().next();
        let node: Node = json::inner(node.ok_or(DecodeError::new("has no node"))?)?;
        let mut metadata = node.metadata.unwrap_or_default();
        if let Some(protocol) = metadata.get("protocol").filter(|it| *it != "grpc") {
            return Err(DecodeError::showing("does not speak gRPC", protocol));
        }
        let prefix = self.key_prefix(service);
        let id = id_or_rest(&node.id, key, &prefix);
        let mut instance = instance_at(service, id, &node.address)?;
        for (key, _) in GRPC {
            metadata.remove(key);
        }
        instance.version = given(found.version);
        instance.metadata = metadata;
        Ok(instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::{full, greeter, writes};

    const KEY: &str = "/micro/registry/greeter/a1";
    const VALUE: &str = r#"{"name":"greeter","version":"v1","metadata":null,"endpoints":[],"nodes":[{"metadata":{"protocol":"grpc","registry":"etcd","server":"grpc","transport":"grpc","zone":"eu-1"},"id":"a1","address":"10.1.2.3:9000"}]}"#;

    #[test]
    fn key_and_value_are_those_of_go_micros_grpc_server() {
        writes(&GoMicro::new(), &full(), "10.1.2.3:9000", [KEY, VALUE]);
    }

    #[test]
    fn what_others_write_is_read() {
        let read = |value: &str| GoMicro::new().decode("greeter", KEY, value.as_bytes());
        let value = r#"{"name":"greeter","endpoints":[{"name":"Greeter.Hello","request":null}],"nodes":[{"id":"greeter-7","address":"[::1]:9000","metadata":{"broker":"http","protocol":"grpc"}}]}"#;
        let found = read(value).unwrap();
        assert_eq!(found.id(), "greeter-7");
        assert_eq!(found.metadata().len(), 1, "the broker");
        read(r#"{"nodes":[{"address":"10.1.2.3:9000","metadata":null}]}"#).unwrap();
        for (bad, why) in [
            (r#"{"nodes":null}"#, "no node"),
            (r#"{"nodes":[["a1","10.1.2.3:9000"]]}"#, "no JSON object"),
            (r#"{"nodes":[{"id":"a1"}]}"#, "address"),
            (
                r#"{"nodes":[{"address":"a:1","metadata":{"protocol":"mucp"}}]}"#,
                "mucp",
            ),
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn metadata_that_would_hide_how_to_talk_to_it_is_refused() {
        let hidden = greeter().with_metadata("protocol", "http");
        assert!(GoMicro::new().check(&hidden).is_err());
        GoMicro::new().check(&full()).unwrap();
    }
}
