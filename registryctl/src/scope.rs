//! [`Scope`]: the keys to read, and the formats that decode them.

use crate::failure::{Failure, usage};
use crate::formats::FormatName;
use std::sync::Arc;
use tonic_etcd::Instance;
use tonic_etcd::format::{self, Format, Plain};

/// The keys to read.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What to show")]
pub(crate) struct ScopeArgs {
    /// Format to read; may be repeated
    #[arg(
        long,
        env = "REGISTRYCTL_FORMAT",
        default_value = "plain",
        global = true
    )]
    #[arg(value_delimiter = ',', value_name = "FORMAT")]
    format: Vec<FormatName>,
    /// Prefix of the keys of the plain format
    #[arg(
        long,
        env = "REGISTRYCTL_PREFIX",
        default_value = "/services",
        global = true
    )]
    prefix: String,
    /// Only the services of these names; etcd-naming and go-zero need them, because their keys
    /// begin with the name
    #[arg(long, env = "REGISTRYCTL_NAME", value_delimiter = ',', global = true)]
    name: Vec<String>,
}

/// The keys to read, checked.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    /// Of the plain format, without slashes at its end.
    pub(crate) prefix: String,
    /// The prefixes to list. Each ends with a slash: otherwise `greeter` would also list `greeter2`.
    pub(crate) scans: Vec<String>,
    readers: Vec<Reader>,
}

/// What readers of a key see.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Read {
    /// They read the plain format.
    pub(crate) is_plain: bool,
    pub(crate) service: String,
    /// The instance, or why they skip the key.
    pub(crate) instance: Result<Instance, String>,
}

/// One format, below one prefix.
#[derive(Debug, Clone)]
struct Reader {
    format: Arc<dyn Format>,
    below: String,
    /// The service, if the prefix has only one.
    service: Option<String>,
}

// === impl ScopeArgs ===

impl ScopeArgs {
    pub(crate) fn check(&self) -> Result<Scope, Failure> {
        self.scope(&self.name)
    }

    /// The scope of one service.
    pub(crate) fn of_service(&self, service: &str) -> Result<Scope, Failure> {
        if !self.name.is_empty() {
            return usage("--name does not go with a service that is given by itself");
        }
        self.scope(&[service.to_owned()])
    }

    /// The scope of the services with these names, or of all.
    fn scope(&self, names: &[String]) -> Result<Scope, Failure> {
        let prefix = self.prefix.trim_end_matches('/');
        if prefix.is_empty() {
            return usage("--prefix is empty: name what the keys begin with, such as /services");
        }
        if let Some(name) = names.iter().find(|it| it.is_empty() || it.contains('/')) {
            return usage(format!(
                "{name:?}: a name is one part of a key, not empty, no slash"
            ));
        }
        let mut readers = vec![];
        for format in &self.format {
            let format = format.format(&Plain::new().prefix(prefix));
            let settings = format.check_settings();
            settings.map_err(|error| Failure::Usage(error.to_string()))?;
            match names {
                [] => readers.push(Reader::of_all(format)?),
                names => readers.extend(names.iter().map(|it| Reader::of_service(&format, it))),
            }
        }
        let mut scans: Vec<_> = readers.iter().map(|it| it.below.clone()).collect();
        scans.sort();
        // Keys below another scan would be shown twice.
        scans.dedup_by(|scan, above| scan.starts_with(&**above));
        Ok(Scope {
            prefix: prefix.to_owned(),
            scans,
            readers,
        })
    }
}

// === impl Scope ===

impl Scope {
    /// As the first format that can decode the key, else as the first one that looks at it.
    pub(crate) fn read(&self, key: &str, value: &[u8]) -> Option<Read> {
        let mut unread = None;
        for reader in &self.readers {
            let below = key.strip_prefix(&reader.below).unwrap_or_default();
            for service in reader.services(below) {
                let name = reader.format.name();
                let decoded = format::decode(&*reader.format, &service, key, value);
                let read = Read {
                    is_plain: name == "plain",
                    service,
                    instance: decoded.map_err(|error| format!("read as {name}: {error}")),
                };
                if read.instance.is_ok() {
                    return Some(read);
                }
                unread.get_or_insert(read);
            }
        }
        unread
    }
}

// === impl Reader ===

impl Reader {
    fn of_service(format: &Arc<dyn Format>, service: &str) -> Self {
        Self {
            format: format.clone(),
            below: format.key_prefix(service),
            service: Some(service.to_owned()),
        }
    }

    fn of_all(format: Arc<dyn Format>) -> Result<Self, Failure> {
        let prefix = format.key_prefix("x");
        match prefix.strip_suffix("x/") {
            None | Some("") => usage(format!(
                "--format {} needs --name: its keys begin with the name of the service",
                format.name()
            )),
            Some(below) => Ok(Self {
                below: below.to_owned(),
                format,
                service: None,
            }),
        }
    }

    /// The services that a key could belong to.
    fn services(&self, below: &str) -> Vec<String> {
        if let (Some(service), false) = (&self.service, below.is_empty()) {
            return vec![service.clone()];
        }
        let mut segments: Vec<_> = below.split('/').collect();
        let first = segments[0].to_owned();
        segments.pop();
        // In the DNS a name has several labels, and the key has them in reverse.
        segments.reverse();
        match segments.len() {
            0 => vec![],
            1 => vec![first],
            _ => vec![first, segments.join(".")],
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn scope(formats: &[FormatName], names: &[&str]) -> Result<Scope, Failure> {
        let args = ScopeArgs {
            format: formats.to_vec(),
            prefix: "/services/".to_owned(),
            name: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        args.check()
    }

    pub(crate) fn of_greeter() -> Scope {
        let args = ScopeArgs {
            format: vec![FormatName::Plain],
            prefix: "/services".to_owned(),
            name: vec![],
        };
        args.of_service("greeter").unwrap()
    }

    #[test]
    fn each_format_has_its_place() {
        use FormatName::{CoreDns, EtcdNaming, GoMicro, GoZero, Kitex, Kratos, Plain};
        let all = [Plain, EtcdNaming, Kratos, Kitex, GoZero, GoMicro, CoreDns];
        let scans = scope(&all, &["greeter"]).unwrap().scans;
        let expected = [
            "/micro/registry/greeter/",
            "/microservices/greeter/",
            "/services/greeter/",
            "/skydns/local/skydns/greeter/",
            "greeter/",
            "kitex/registry-etcd/greeter/",
        ];
        assert_eq!(scans, expected);
        let scans = scope(&[Plain, CoreDns, Kratos], &[]).unwrap().scans;
        let expected = ["/microservices/", "/services/", "/skydns/local/skydns/"];
        assert_eq!(scans, expected);
        for format in [EtcdNaming, GoZero] {
            let error = scope(&[Plain, format], &[]).unwrap_err().to_string();
            assert!(error.contains("needs --name"), "{error}");
        }
    }

    #[test]
    fn nothing_is_scanned_twice() {
        let args = ScopeArgs {
            format: vec![FormatName::Kratos, FormatName::Plain, FormatName::Plain],
            prefix: "/microservices".to_owned(),
            name: vec![],
        };
        assert_eq!(args.check().unwrap().scans, ["/microservices/"]);
    }

    #[test]
    fn the_format_that_can_read_a_value_does() {
        let formats = [FormatName::EtcdNaming, FormatName::GoZero];
        let scope = scope(&formats, &["greeter"]).unwrap();
        for value in [r#"{"Op":0,"Addr":"10.1.2.3:9000"}"#, "10.1.2.3:9000"] {
            let read = scope.read("greeter/x", value.as_bytes()).unwrap();
            let address = read.instance.unwrap();
            assert_eq!(address.address(), Some("10.1.2.3:9000"), "{value}");
        }
        let unread = scope.read("greeter/x", b"hello").unwrap();
        assert_eq!(unread.service, "greeter");
        assert!(unread.instance.is_err());
        assert_eq!(scope.read("/services/greeter/x", b"a:1"), None);
    }

    #[test]
    fn names_with_dots_are_found_in_the_dns() {
        let scope = scope(&[FormatName::CoreDns], &[]).unwrap();
        let value = br#"{"host":"10.1.2.3","port":9000}"#;
        for (key, name) in [
            ("/skydns/local/skydns/greeter/a1", "greeter"),
            ("/skydns/local/skydns/greeter/v1/a1", "v1.greeter"),
        ] {
            let read = scope.read(key, value).unwrap();
            assert_eq!(read.instance.unwrap().name(), name);
        }
    }
}
