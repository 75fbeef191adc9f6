//! [`Scope`]: which keys to look at, and who can read them.

use crate::Failure;
use crate::formats::FormatName;
use std::collections::BTreeSet;
use std::sync::Arc;
use tonic_etcd::Instance;
use tonic_etcd::format::{Format, Plain};

/// Which keys.
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
    /// What every key of the plain format begins with
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

/// Which keys, checked.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    /// Of the plain format, without slashes at its end.
    pub(crate) prefix: String,
    /// What to scan. Each ends with a slash: without it `greeter` would show `greeter2`, too.
    pub(crate) scans: Vec<String>,
    /// Where to look for instances that are not plain.
    readers: Vec<Reader>,
}

/// Where one service is, checked.
#[derive(Debug, Clone)]
pub(crate) struct ServiceScope {
    pub(crate) service: String,
    /// Of the plain format, without slashes at its end.
    pub(crate) prefix: String,
    pub(crate) formats: Vec<Arc<dyn Format>>,
    pub(crate) scans: Vec<String>,
}

/// One format, below one prefix.
#[derive(Debug, Clone)]
struct Reader {
    format: Arc<dyn Format>,
    below: String,
    /// The service, if only one lies there.
    service: Option<String>,
}

// === impl ScopeArgs ===

impl ScopeArgs {
    /// For one service, whose name is given besides.
    pub(crate) fn of_service(&self, service: &str) -> Result<ServiceScope, Failure> {
        if !self.name.is_empty() {
            let why = "--name does not go with a service that is given by itself";
            return Err(Failure::Usage(why.to_owned()));
        }
        let prefix = self.checked_prefix()?;
        check_name(service)?;
        let plain = Plain::new().prefix(prefix);
        let formats: Vec<_> = self.format.iter().map(|it| it.format(&plain)).collect();
        let scans = formats.iter().map(|it| it.key_prefix(service));
        Ok(ServiceScope {
            service: service.to_owned(),
            prefix: prefix.to_owned(),
            scans: BTreeSet::from_iter(scans).into_iter().collect(),
            formats,
        })
    }

    fn checked_prefix(&self) -> Result<&str, Failure> {
        let prefix = self.prefix.trim_end_matches('/');
        if prefix.is_empty() {
            let why = "--prefix is empty: name what the keys begin with, such as /services";
            return Err(Failure::Usage(why.to_owned()));
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
        scans.extend(readers.iter().map(|reader| reader.below.clone()));
        scans.sort();
        // What lies below another scan would be shown twice.
        scans.dedup_by(|scan, above| scan.starts_with(&**above));
        Ok(Scope {
            prefix: prefix.to_owned(),
            scans,
            readers,
        })
    }

    fn readers(&self, format: &Arc<dyn Format>) -> Result<Vec<Reader>, Failure> {
        let reader = |below: String, service: Option<&String>| Reader {
            format: format.clone(),
            below,
            service: service.cloned(),
        };
        if !self.name.is_empty() {
            let names = self.name.iter();
            let readers = names.map(|name| reader(format.key_prefix(name), Some(name)));
            return Ok(readers.collect());
        }
        let root = format.key_prefix("x");
        match root.strip_suffix("x/") {
            None | Some("") => Err(Failure::Usage(format!(
                "--format {} needs --name: its keys begin with the name of the service",
                format.name()
            ))),
            Some(root) => Ok(vec![reader(root.to_owned(), None)]),
        }
    }
}

fn check_name(name: &str) -> Result<(), Failure> {
    if name.is_empty() || name.contains('/') {
        let why = format!("{name:?}: a name is one part of a key, not empty, no slash");
        return Err(Failure::Usage(why));
    }
    Ok(())
}

// === impl Scope ===

impl Scope {
    /// What the first format says that can read it, and the service it looks like otherwise.
    pub(crate) fn read(&self, key: &str, value: &[u8]) -> Option<Result<Instance, String>> {
        let mut service = None;
        for reader in &self.readers {
            let Some(below) = key.strip_prefix(&reader.below) else {
                continue;
            };
            for name in reader.services(below) {
                if let Ok(instance) = reader.format.decode(&name, key, value) {
                    return Some(Ok(instance));
                }
                service.get_or_insert(name);
            }
        }
        service.map(Err)
    }
}

// === impl Reader ===

impl Reader {
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
            assert_eq!(read.get_address(), Some("10.1.2.3:9000"), "{value}");
        }
        let unread = scope.read("greeter/x", b"hello");
        assert_eq!(unread, Some(Err("greeter".to_owned())));
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
