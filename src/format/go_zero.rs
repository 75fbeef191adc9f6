//! [`GoZero`]: the format of go-zero's discov.

use super::{DecodeError, Format, KeyContext, below, id_in, instance_at, json};
use crate::address::Address;
use crate::error::BuildError;
use crate::instance::Instance;

/// go-zero: `core/discov` of `zeromicro/go-zero`. A client has the service name as the `Key` of
/// its `Etcd` section.
///
/// Carries only the address: the value is `host:port`. go-zero reads the
/// values as a set, and each client dials 32 of them at random. It dials every value below
/// the name, so no other format may write there, such as [`EtcdNaming`](super::EtcdNaming) without a prefix.
///
/// The key ends with the instance's id. go-zero's own keys end with the lease, but all
/// instances of one registrar share a lease.
///
/// Clients watch: the default of [`deregistration_delay`](crate::RegistrarBuilder::deregistration_delay), 1 s, is enough.
#[derive(Debug, Clone, Default)]
pub struct GoZero {
    prefix: String,
}

// === impl GoZero ===

impl GoZero {
    /// Without a prefix: the service name is the `Key` of go-zero's configuration.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The part before the service name in that `Key`. Slashes at the end are dropped.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }
}

impl Format for GoZero {
    fn name(&self) -> &str {
        "go-zero"
    }

    fn check_settings(&self) -> Result<(), BuildError> {
        super::check_optional_prefix(&self.prefix)
    }

    fn key_prefix(&self, service: &str) -> String {
        below(&self.prefix, service)
    }

    fn key(&self, context: &KeyContext<'_>) -> String {
        self.key_prefix(context.instance().name()) + context.instance().id()
    }

    fn encode(&self, _: &Instance, address: &Address) -> String {
        address.to_string()
    }

    fn decode(&self, service: &str, key: &str, value: &[u8]) -> Result<Instance, DecodeError> {
        let id = id_in(key, &self.key_prefix(service));
        instance_at(service, id, json::text(value)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::{full, writes};

    #[test]
    fn the_value_is_the_bare_address() {
        let (v4, v6) = ("10.1.2.3:9000", "[2001:db8::1]:9000");
        writes(&GoZero::new(), &full(), v4, ["greeter/a1", v4]);
        let below = GoZero::new().prefix("rpc/");
        writes(&below, &full(), v6, ["rpc/greeter/a1", v6]);
    }

    #[test]
    fn the_suffix_go_zero_writes_is_the_id() {
        let key = "greeter/7587862094276733188";
        let found = GoZero::new()
            .decode("greeter", key, b"10.1.2.3:9000")
            .unwrap();
        assert_eq!(found.id(), "7587862094276733188");
        for bad in ["10.1.2.3", " 10.1.2.3:9000", "http://10.1.2.3:9000"] {
            let error = GoZero::new().decode("greeter", key, bad.as_bytes());
            error.unwrap_err();
        }
    }
}
