//! [`Kratos`]: the format of kratos' etcd registry.

use super::{
    DecodeError, Format, KeyContext, below, check_prefix, given, id_or_rest, instance_at, json,
};
use crate::address::Address;
use crate::error::{BuildError, RegisterError};
use crate::instance::Instance;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// kratos: `contrib/registry/etcd` of `go-kratos/kratos`. A client dials `discovery:///greeter`.
///
/// kratos fails a whole list because of one value that is not JSON. It lists by the name without a slash
/// at the end, so a value of `greeter2` can break the clients of `greeter`, too. It skips a valid value with
/// another name. The weight is a text in the metadata, because kratos has no field for it.
///
/// Clients watch: the default of [`deregistration_delay`](crate::RegistrarBuilder::deregistration_delay), 1 s, is enough.
#[derive(Debug, Clone)]
pub struct Kratos {
    namespace: String,
    secure: bool,
    mixed: bool,
}

/// `registry.ServiceInstance`, in the order of its fields.
#[derive(Serialize, Deserialize)]
struct ServiceInstance {
    id: Option<String>,
    name: String,
    version: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    endpoints: Option<Vec<String>>,
}

const WEIGHT: &str = "weight";
const PLAIN: &str = "grpc";
const SECURE: &str = "grpcs";

// === impl Kratos ===

impl Kratos {
    /// In the namespace `/microservices`, without TLS.
    #[must_use]
    pub fn new() -> Self {
        Self {
            namespace: "/microservices".to_owned(),
            secure: false,
            mixed: false,
        }
    }

    /// The namespace, as in kratos' `etcd.Namespace`. Slashes at its end are dropped.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Servers use TLS: their endpoints are `grpcs://`, also for instances that are not
    /// [secure](Instance::with_secure) themselves. As in kratos, a client with TLS finds only `grpcs://` endpoints,
    /// and a client without TLS only `grpc://`.
    #[must_use]
    pub fn secure(mut self, secure: bool) -> Self {
        self.secure = secure;
        self
    }

    /// Reads servers with TLS and servers without: [`Instance::is_secure`] says which. Of a server with both
    /// endpoints it reads the one with TLS.
    ///
    /// For a fleet that migrates to TLS. A balanced channel gives its connector `https://` or
    /// `http://` accordingly.
    #[must_use]
    pub fn mixed(mut self) -> Self {
        self.mixed = true;
        self
    }

    /// The schemes to read; the first one that a server has counts.
    fn schemes(&self) -> &'static [&'static str] {
        match (self.mixed, self.secure) {
            (true, _) => &[SECURE, PLAIN],
            (false, true) => &[SECURE],
            (false, false) => &[PLAIN],
        }
    }
}

impl Default for Kratos {
    fn default() -> Self {
        Self::new()
    }
}

impl Format for Kratos {
    fn name(&self) -> &str {
        "kratos"
    }

    fn check_settings(&self) -> Result<(), BuildError> {
        check_prefix("namespace", &self.namespace)?;
        Ok(())
    }

    fn key_prefix(&self, service: &str) -> String {
        below(&self.namespace, service)
    }

    fn check(&self, instance: &Instance) -> Result<(), RegisterError> {
        if instance.metadata.contains_key(WEIGHT) {
            let reason = "the metadata `weight` is where kratos looks for the weight: give it as \
                          Instance::with_weight";
            return Err(RegisterError::format(self.name(), reason));
        }
        Ok(())
    }

    fn key(&self, context: &KeyContext<'_>) -> String {
        self.key_prefix(context.instance().name()) + context.instance().id()
    }

    fn encode(&self, instance: &Instance, address: &Address) -> String {
        let mut metadata = instance.metadata.clone();
        if let Some(weight) = instance.weight {
            metadata.insert(WEIGHT.to_owned(), weight.to_string());
        }
        let scheme = match self.secure || instance.secure {
            true => SECURE,
            false => PLAIN,
        };
        json::write(&ServiceInstance {
            id: Some(instance.id.clone()),
            name: instance.name.clone(),
            version: Some(instance.version.clone().unwrap_or_default()),
            metadata: Some(metadata),
            endpoints: Some(vec![format!("{scheme}://{address}")]),
        })
    }

    /// The first endpoint of a scheme counts, as in kratos.
    fn decode(&self, service: &str, key: &str, value: &[u8]) -> Result<Instance, DecodeError> {
        let found: ServiceInstance = json::object(value)?;
        if found.name != service {
            return Err(DecodeError::showing("is of another service", &found.name));
        }
        let endpoints = found.endpoints.unwrap_or_default();
        let host_of = |wanted: &str| {
            endpoints.iter().find_map(|endpoint| {
                let (scheme, rest) = endpoint.split_once("://")?;
                let host = rest.split(['/', '?', '#']).next()?;
                scheme.eq_ignore_ascii_case(wanted).then_some(host)
            })
        };
        let schemes = self.schemes();
        let dialled = schemes
            .iter()
            .find_map(|scheme| Some((*scheme, host_of(scheme)?)));
        let (scheme, host) = dialled.ok_or_else(|| {
            DecodeError::new(format!("has no {}:// endpoint", schemes.join(":// or ")))
        })?;
        let prefix = self.key_prefix(service);
        let id = id_or_rest(&found.id, key, &prefix);
        let mut instance = instance_at(service, id, host)?.with_secure(scheme == SECURE);
        // A weight that is not a number stays in the metadata: kratos ignores it.
        let mut metadata = found.metadata.unwrap_or_default();
        let weight = metadata.get(WEIGHT);
        if let Some(weight) = weight.and_then(|text| text.parse().ok()) {
            instance.weight = Some(weight);
            metadata.remove(WEIGHT);
        }
        instance.version = given(found.version);
        instance.metadata = metadata;
        Ok(instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::{full, greeter, writes, written};

    const KEY: &str = "/microservices/greeter/a1";

    fn read(format: &Kratos, value: &str) -> Result<Instance, DecodeError> {
        format.decode("greeter", KEY, value.as_bytes())
    }

    #[test]
    fn key_and_value_are_those_of_kratos_own_registrar() {
        let value = r#"{"id":"a1","name":"greeter","version":"v1","metadata":{"weight":"20","zone":"eu-1"},"endpoints":["grpc://10.1.2.3:9000"]}"#;
        writes(&Kratos::new(), &full(), "10.1.2.3:9000", [KEY, value]);
        let value = r#"{"id":"a1","name":"greeter","version":"","metadata":{},"endpoints":["grpcs://[2001:db8::1]:9000"]}"#;
        let format = Kratos::new().namespace("/ours/").secure(true);
        let key = "/ours/greeter/a1";
        writes(&format, &greeter(), "[2001:db8::1]:9000", [key, value]);
    }

    #[test]
    fn the_endpoint_of_the_right_scheme_is_read() {
        let formats = [
            Kratos::new(),
            Kratos::new().secure(true),
            Kratos::new().mixed(),
        ];
        let plain = |address| Some((address, false));
        let secure = |address| Some((address, true));
        let both = r#""grpc://a:1","grpcs://a:2""#;
        let path = r#""http://a:3","grpcs://a:2","grpc://a:1/?isSecure=false""#;
        // The endpoints, and the address that each format reads.
        for (endpoints, reads) in [
            (r#""grpc://a:1""#, [plain("a:1"), None, plain("a:1")]),
            (r#""GRPCS://a:2""#, [None, secure("a:2"), secure("a:2")]),
            (both, [plain("a:1"), secure("a:2"), secure("a:2")]),
            (path, [plain("a:1"), secure("a:2"), secure("a:2")]),
            (r#""http://a:3""#, [None; 3]),
        ] {
            let value = format!(r#"{{"name":"greeter","endpoints":[{endpoints}]}}"#);
            for (format, expected) in formats.iter().zip(reads) {
                let found = read(format, &value).ok();
                let found = found.as_ref().inspect(|it| assert_eq!(it.id(), "a1"));
                let found = found.map(|it| (it.address().unwrap(), it.is_secure()));
                assert_eq!(found, expected, "{format:?}: {endpoints}");
            }
        }
        let error = read(&Kratos::new().mixed(), r#"{"name":"greeter"}"#).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("no grpcs:// or grpc:// endpoint"),
            "{error}"
        );
    }

    #[test]
    fn an_instance_that_speaks_tls_is_written_and_read_as_such() {
        let (_, value) = written(
            &Kratos::new(),
            &greeter().with_secure(true),
            "10.1.2.3:9000",
        );
        assert!(value.contains(r#"["grpcs://10.1.2.3:9000"]"#), "{value}");
        let again = read(&Kratos::new().mixed(), &value).unwrap();
        assert_eq!(
            again,
            greeter().with_address("10.1.2.3:9000").with_secure(true)
        );
    }

    #[test]
    fn what_kratos_would_not_dial_is_not_read() {
        for (value, why) in [
            (
                r#"{"name":"greeter2","endpoints":["grpc://a:1"]}"#,
                "greeter2",
            ),
            (r#"{"name":"greeter","endpoints":null}"#, "no grpc://"),
            (
                r#"{"name":"greeter","endpoints":["http://a:1"]}"#,
                "no grpc://",
            ),
            (r#"{"name":"greeter","endpoints":["grpc://a"]}"#, "no port"),
            (
                r#"{"name":"greeter","endpoints":["grpc://u@a:1"]}"#,
                "neither",
            ),
            (r#"{"endpoints":["grpc://a:1"]}"#, "name"),
            (
                r#"{"name":"greeter","endpoints":"grpc://a:1"}"#,
                "invalid type",
            ),
        ] {
            let error = read(&Kratos::new(), value).unwrap_err().to_string();
            assert!(error.contains(why), "{value}: {error}");
        }
    }

    #[test]
    fn a_weight_that_is_no_number_is_only_metadata() {
        let value =
            r#"{"name":"greeter","metadata":{"weight":"heavy"},"endpoints":["grpc://a:1"]}"#;
        let read = read(&Kratos::new(), value).unwrap();
        assert_eq!(
            (read.weight(), &*read.metadata()["weight"]),
            (None, "heavy")
        );
        let twice = greeter().with_weight(1).with_metadata("weight", "2");
        assert!(Kratos::new().check(&twice).is_err());
    }
}
