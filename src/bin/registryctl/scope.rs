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
    /// The readers of instances; one for the plain format only with a single service.
    readers: Vec<Reader>,
}

/// Why no format can read a value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unread {
    /// The service that the key seems to belong to.
    pub(crate) service: String,
    pub(crate) reason: String,
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
    /// The scope of one service.
    pub(crate) fn of_service(&self, service: &str) -> Result<Scope, Failure> {
        if !self.name.is_empty() {
            return usage("--name does not go with a service that is given by itself");
        }
        let prefix = self.checked_prefix()?;
        check_name(service)?;
        let plain = Plain::new().prefix(prefix);
        let readers = self.format.iter().map(|it| {
            let format = it.format(&plain);
            Reader::of_service(&format, service)
        });
        Ok(Scope::new(prefix, vec![], readers.collect()))
    }

    fn checked_prefix(&self) -> Result<&str, Failure> {
        let prefix = self.prefix.trim_end_matches('/');
        if prefix.is_empty() {
            return usage("--prefix is empty: name what the keys begin with, such as /services");
        }
        Ok(prefix)
    }

    pub(crate) fn check(&self) -> Result<Scope, Failure> {
        let prefix = self.checked_prefix()?;
        self.name.iter().try_for_each(|name| check_name(name))?;
        let mut readers = vec![];
        let mut scans = vec![];
        for format in &self.format {
            if *format == FormatName::Plain {
                let names = self.name.iter();
                scans.extend(names.map(|name| format!("{prefix}/{name}/")));
                if self.name.is_empty() {
                    scans.push(format!("{prefix}/"));
                }
            } else {
                readers.extend(self.readers(&format.format(&Plain::new()))?);
            }
        }
        Ok(Scope::new(prefix, scans, readers))
    }

    fn readers(&self, format: &Arc<dyn Format>) -> Result<Vec<Reader>, Failure> {
        if !self.name.is_empty() {
            let names = self.name.iter();
            let readers = names.map(|name| Reader::of_service(format, name));
            return Ok(readers.collect());
        }
        let root = format.key_prefix("x");
        match root.strip_suffix("x/") {
            None | Some("") => usage(format!(
                "--format {} needs --name: its keys begin with the name of the service",
                format.name()
            )),
            Some(root) => Ok(vec![Reader {
                format: format.clone(),
                below: root.to_owned(),
                service: None,
            }]),
        }
    }
}

fn check_name(name: &str) -> Result<(), Failure> {
    if name.is_empty() || name.contains('/') {
        return usage(format!(
            "{name:?}: a name is one part of a key, not empty, no slash"
        ));
    }
    Ok(())
}

// === impl Scope ===

impl Scope {
    fn new(prefix: &str, mut scans: Vec<String>, readers: Vec<Reader>) -> Self {
        scans.extend(readers.iter().map(|reader| reader.below.clone()));
        scans.sort();
        // Keys below another scan would be shown twice.
        scans.dedup_by(|scan, above| scan.starts_with(&**above));
        Self {
            prefix: prefix.to_owned(),
            scans,
            readers,
        }
    }

    /// The result of the first format that can decode it, or the error of the first format.
    pub(crate) fn read(&self, key: &str, value: &[u8]) -> Option<Result<Instance, Unread>> {
        let mut unread = None;
        for reader in &self.readers {
            let Some(below) = key.strip_prefix(&reader.below) else {
                continue;
            };
            for service in reader.services(below) {
                let reason = match format::decode(&*reader.format, &service, key, value) {
                    Ok(instance) => return Some(Ok(instance)),
                    Err(error) => format!("read as {}: {error}", reader.format.name()),
                };
                unread.get_or_insert(Unread { service, reason });
            }
        }
        unread.map(Err)
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

    /// The services that a key could belong to.
    fn services(&self, below: &str) -> Vec<String> {
        if let Some(service) = &self.service {
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
            let read = scope.read("greeter/x", value.as_bytes()).unwrap().unwrap();
            assert_eq!(read.address(), Some("10.1.2.3:9000"), "{value}");
        }
        let unread = scope.read("greeter/x", b"hello").unwrap().unwrap_err();
        assert_eq!(unread.service, "greeter");
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
            let read = scope.read(key, value).unwrap().unwrap();
            assert_eq!(read.name(), name);
        }
    }
}
