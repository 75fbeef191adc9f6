//! [`CoreDns`]: the records from which CoreDNS answers DNS queries.

use super::{DecodeError, Format, KeyContext, check_segment, id_in, instance_at, json, positive};
use crate::address::{Address, is_dns_name};
use crate::error::{BuildError, RegisterError};
use crate::instance::Instance;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// CoreDNS' `etcd` plugin, and SkyDNS: for clients that use DNS, and not etcd.
///
/// `greeter.skydns.local` has the A, AAAA and SRV records of all instances; the port is in the SRV
/// records only. Names and ids must be valid in DNS. Keys are in lower case, because
/// CoreDNS looks them up in lower case. A value that is not JSON fails every query that reads it.
///
/// The address must be an IP address: `register` refuses a host name. For a host name CoreDNS makes a CNAME record of
/// the service's own name. Two instances would be two CNAME records, or a CNAME beside an A record, which DNS forbids
/// (RFC 1034, 3.6.2).
///
/// Carries the address, and the weight (100 when none is given).
///
/// Clients cache an answer for the [`ttl`](Self::ttl), 5 s: set
/// [`deregistration_delay`](crate::RegistrarBuilder::deregistration_delay) to the TTL + 1 s, 6 s with the default TTL.
#[derive(Debug, Clone)]
pub struct CoreDns {
    path: String,
    domain: String,
    priority: u16,
    ttl: u32,
}

/// `msg.Service`, as far as we fill it, in the order of its fields.
#[derive(Serialize, Deserialize)]
struct Service {
    host: Option<String>,
    port: Option<i64>,
    #[serde(skip_deserializing)]
    priority: u16,
    weight: Option<i64>,
    #[serde(skip_deserializing)]
    ttl: u32,
}

/// CoreDNS reads a weight of 0 as this.
const DEFAULT_WEIGHT: u32 = 100;

// === impl CoreDns ===

impl CoreDns {
    /// In the zone `skydns.local`, under the path `skydns`, with priority 10 and a TTL of 5 s.
    #[must_use]
    pub fn new() -> Self {
        Self {
            path: "skydns".to_owned(),
            domain: "skydns.local".to_owned(),
            priority: 10,
            ttl: 5,
        }
    }

    /// The domain that the services are in, one of the zones of the plugin or below it.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = domain.into();
        self
    }

    /// The plugin's `path`: one segment of a key, because CoreDNS makes the names of SRV targets from
    /// the segments after the first.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// The priority of the SRV records: clients try lower ones first.
    #[must_use]
    pub fn priority(mut self, priority: u16) -> Self {
        self.priority = priority;
        self
    }

    /// How long resolvers may keep an answer, in seconds.
    #[must_use]
    pub fn ttl(mut self, seconds: u32) -> Self {
        self.ttl = seconds;
        self
    }
}

impl Default for CoreDns {
    fn default() -> Self {
        Self::new()
    }
}

impl Format for CoreDns {
    fn name(&self) -> &str {
        "coredns"
    }

    fn check_settings(&self) -> Result<(), BuildError> {
        let path = self.path.trim_matches('/');
        check_segment(path).map_err(|reason| BuildError::name("path", path, reason))?;
        if !is_dns_name(&self.domain) {
            let reason = format!("the domain {:?} is not a DNS name", self.domain);
            return Err(BuildError::format(self.name(), reason));
        }
        if self.priority == 0 || self.ttl == 0 {
            let reason = "CoreDNS takes a priority of 0 for 10, and a TTL of 0 for 300: give at \
                          least 1";
            return Err(BuildError::format(self.name(), reason));
        }
        Ok(())
    }

    fn key_prefix(&self, service: &str) -> String {
        let mut prefix = format!("/{}/", self.path.trim_matches('/'));
        for name in [self.domain.trim_end_matches('.'), service] {
            for label in name.rsplit('.') {
                prefix.push_str(&label.to_lowercase());
                prefix.push('/');
            }
        }
        prefix
    }

    fn check(&self, instance: &Instance) -> Result<(), RegisterError> {
        let Instance { name, id, .. } = instance;
        // CoreDNS treats these labels as wildcards.
        let wild = |label: &str| label.eq_ignore_ascii_case("any");
        let whole = format!("{id}.{name}.{}", self.domain);
        if !is_dns_name(&whole) || name.ends_with('.') || name.split('.').any(wild) {
            let reason =
                format!("{whole:?} cannot be a name in the DNS: choose another name or id");
            return Err(RegisterError::format(self.name(), reason));
        }
        if id.contains('.') || id.chars().any(|c| c.is_ascii_uppercase()) {
            let reason = format!("the id {id:?} must be one label in lower case");
            return Err(RegisterError::format(self.name(), reason));
        }
        let address = instance.address.as_deref().map(Address::parse);
        if let Some(host) = address.transpose()?.map(|address| address.host())
            && host.parse::<IpAddr>().is_err()
        {
            let reason = format!(
                "the address {host:?} is a name, of which CoreDNS makes a CNAME record beside those \
                 of the other instances, which the DNS forbids: give an IP address"
            );
            return Err(RegisterError::format(self.name(), reason));
        }
        if instance.weight == Some(0) {
            let reason = "CoreDNS takes a weight of 0 for 100: give at least 1";
            return Err(RegisterError::format(self.name(), reason));
        }
        Ok(())
    }

    fn key(&self, context: &KeyContext<'_>) -> String {
        self.key_prefix(context.instance().name()) + context.instance().id()
    }

    fn encode(&self, instance: &Instance, address: &Address) -> String {
        json::write(&Service {
            host: Some(address.host()),
            port: Some(address.port().into()),
            priority: self.priority,
            weight: Some(instance.weight.unwrap_or(DEFAULT_WEIGHT).into()),
            ttl: self.ttl,
        })
    }

    /// Records without a port (for A and AAAA queries only) are skipped, and so are records of
    /// names below this one.
    fn decode(&self, service: &str, key: &str, value: &[u8]) -> Result<Instance, DecodeError> {
        let id = id_in(key, &self.key_prefix(service));
        if id.contains('/') {
            return Err(DecodeError::new("is of a name below this one"));
        }
        let found: Service = json::object(value)?;
        let (host, port) = (
            found.host.unwrap_or_default(),
            found.port.unwrap_or_default(),
        );
        let address = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let mut instance = instance_at(service, id, &address)?;
        instance.weight = positive(found.weight);
        Ok(instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::{full, greeter, writes};

    const KEY: &str = "/skydns/local/skydns/greeter/a1";

    #[test]
    fn the_domain_is_reversed_and_the_host_has_no_brackets() {
        let value = r#"{"host":"10.1.2.3","port":9000,"priority":10,"weight":100,"ttl":5}"#;
        writes(&CoreDns::new(), &greeter(), "10.1.2.3:9000", [KEY, value]);
        let format = CoreDns::new()
            .domain("Example.org.")
            .path("/dns/")
            .priority(1)
            .ttl(30);
        let value = r#"{"host":"2001:db8::1","port":9000,"priority":1,"weight":20,"ttl":30}"#;
        let service = Instance {
            name: "greeter.v1.Greeter".to_owned(),
            ..full()
        };
        let key = "/dns/org/example/greeter/v1/greeter/a1";
        writes(&format, &service, "[2001:db8::1]:9000", [key, value]);
    }

    #[test]
    fn what_others_write_is_read() {
        let read = |key: &str, value: &str| CoreDns::new().decode("greeter", key, value.as_bytes());
        let found = read(KEY, r#"{"host":"::1","port":9000,"text":"x","group":"g"}"#).unwrap();
        assert_eq!(found.address(), Some("[::1]:9000"));
        assert_eq!((found.id(), found.weight()), ("a1", None));
        read(KEY, r#"{"host":"node.example.org","port":1,"weight":1}"#).unwrap();
        for bad in [
            r#"{"host":"10.1.2.3"}"#,
            r#"{"text":"only"}"#,
            r#"{"host":"10.1.2.3","port":-1}"#,
            r#"{"host":"10.1.2.3","port":"9000"}"#,
        ] {
            read(KEY, bad).unwrap_err();
        }
        let below = "/skydns/local/skydns/greeter/v1/a1";
        read(below, r#"{"host":"10.1.2.3","port":1}"#).unwrap_err();
    }

    #[test]
    fn names_that_are_invalid_in_dns_are_refused() {
        let check = |instance: Instance| CoreDns::new().check(&instance);
        check(full()).unwrap();
        check(Instance::new("greeter.v1.Greeter")).unwrap();
        for bad in [
            "grüße",
            "a b",
            "-a",
            "a..b",
            "a.",
            "any",
            "a.any.b",
            "*",
            &"a".repeat(64),
        ] {
            assert!(check(Instance::new(bad)).is_err(), "{bad}");
        }
        for bad in ["a.b", "A", "ü", "x-"] {
            assert!(check(greeter().with_id(bad)).is_err(), "{bad}");
        }
        assert!(check(greeter().with_weight(0)).is_err());
        for good in ["10.1.2.3:9000", "[2001:db8::1]:9000"] {
            check(greeter().with_address(good)).unwrap();
        }
        for name in ["node.example.org:9000", "localhost:9000"] {
            let error = check(greeter().with_address(name)).unwrap_err();
            assert!(matches!(error, RegisterError::Format { .. }), "{error:?}");
            assert!(error.to_string().contains("CNAME"), "{error}");
        }
        for bad in [
            CoreDns::new().domain(""),
            CoreDns::new().domain("a b"),
            CoreDns::new().path("a/b"),
            CoreDns::new().ttl(0),
            CoreDns::new().priority(0),
        ] {
            assert!(bad.check_settings().is_err(), "{bad:?}");
        }
    }
}
