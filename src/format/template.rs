//! [`KeyTemplate`]: a template for keys, such as `{prefix}/{name}/{ip}/{pid}`.

use super::{KeyContext, check_prefix};
use crate::error::BuildError;
use std::borrow::Cow;

/// A key template, checked once and rendered for every instance and lease.
#[derive(Debug, Clone)]
pub(crate) struct KeyTemplate {
    prefix: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Prefix,
    Name,
    Ip,
    Port,
    Addr,
    Pid,
    Host,
    Id,
    Lease,
}

const FIELDS: [(&str, Field); 9] = [
    ("prefix", Field::Prefix),
    ("name", Field::Name),
    ("ip", Field::Ip),
    ("port", Field::Port),
    ("addr", Field::Addr),
    ("pid", Field::Pid),
    ("host", Field::Host),
    ("id", Field::Id),
    ("lease", Field::Lease),
];

/// The fields that are unique for a server in a fleet. A process id alone is not.
const DISTINCT: [Field; 5] = [Field::Ip, Field::Addr, Field::Host, Field::Id, Field::Lease];

// === impl KeyTemplate ===

impl KeyTemplate {
    pub(crate) const DEFAULT: &str = "{prefix}/{name}/{ip}/{pid}";
    pub(crate) const DEFAULT_PREFIX: &str = "/services";

    /// Checks a template and its prefix.
    pub(crate) fn new(template: &str, prefix: &str) -> Result<Self, BuildError> {
        let prefix = check_prefix("prefix", prefix)?;
        let refuse = |reason: &str| BuildError::Template {
            template: template.to_owned(),
            reason: reason.to_owned(),
        };
        let parts = parse(template).map_err(|reason| refuse(&reason))?;
        if !name_is_whole(&parts) {
            return Err(refuse(
                "{name} must stand alone between slashes with more behind it, \
                 as in {prefix}/{name}/{ip}/{pid}",
            ));
        }
        if !parts
            .iter()
            .any(|p| matches!(p, Part::Field(f) if DISTINCT.contains(f)))
        {
            let is_distinct = |field| DISTINCT.contains(&field);
            let is_shared = |field| !is_distinct(field) && field != Field::Prefix;
            return Err(refuse(&format!(
                "every server of a fleet would write the same key: use one of {}; {} may be the same on each machine",
                placeholders(is_distinct),
                placeholders(is_shared)
            )));
        }
        let text: String = parts.iter().map(Part::sample).collect();
        if text
            .split('/')
            .skip(1)
            .any(|s| matches!(s, "" | "." | ".."))
        {
            return Err(refuse("a part between two slashes is empty, `.` or `..`"));
        }
        Ok(Self { prefix, parts })
    }

    /// The key of an instance, with placeholders for what is not known yet.
    pub(crate) fn key(&self, context: &KeyContext<'_>) -> String {
        let mut key = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => key.push_str(text),
                Part::Field(field) => key.push_str(&self.value(*field, context)),
            }
        }
        key
    }

    fn value<'a>(&'a self, field: Field, context: &KeyContext<'a>) -> Cow<'a, str> {
        match field {
            Field::Prefix => Cow::Borrowed(&self.prefix),
            Field::Name => Cow::Borrowed(&context.instance().name),
            Field::Ip => context.ip(),
            Field::Port => context.port(),
            Field::Addr => context.addr(),
            Field::Pid => std::process::id().to_string().into(),
            Field::Host => host().into(),
            Field::Id => Cow::Borrowed(&context.instance().id),
            Field::Lease => context.lease(),
        }
    }

    /// The prefix of every key of `service`, as far as it is the same on every machine.
    pub(crate) fn key_prefix(&self, service: &str) -> String {
        let mut prefix = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => prefix.push_str(text),
                Part::Field(Field::Prefix) => prefix.push_str(&self.prefix),
                Part::Field(Field::Name) => prefix.push_str(service),
                Part::Field(_) => break,
            }
        }
        prefix.truncate(prefix.rfind('/').map_or(0, |slash| slash + 1));
        prefix
    }

    /// Whether a key could belong to `service`: it has the name in the segment of the template.
    pub(crate) fn is_of(&self, service: &str, key: &str) -> bool {
        // Only the prefix may contain a slash, so segments can be counted.
        let before = self
            .parts
            .iter()
            .take_while(|part| **part != Part::Field(Field::Name))
            .map(|part| match part {
                Part::Text(text) => text.matches('/').count(),
                Part::Field(Field::Prefix) => self.prefix.matches('/').count(),
                Part::Field(_) => 0,
            })
            .sum();
        key.split('/').nth(before) == Some(service) && key.starts_with(&self.key_prefix(service))
    }
}

impl Part {
    /// The part with a harmless text for each field, to check the shape of the key.
    fn sample(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Field(Field::Prefix) => "/p".to_owned(),
            Self::Field(_) => "x".to_owned(),
        }
    }
}

/// `{name}` must be a whole segment and not the last one: otherwise the keys of `greeter` and of
/// `greeter2` share a prefix, and a list of one has the keys of the other.
fn name_is_whole(parts: &[Part]) -> bool {
    let name = Part::Field(Field::Name);
    let Some(at) = parts.iter().position(|part| *part == name) else {
        return false;
    };
    let starts = match parts[..at].last() {
        None => true,
        Some(Part::Text(text)) => text.ends_with('/'),
        Some(Part::Field(_)) => false,
    };
    starts && matches!(parts.get(at + 1), Some(Part::Text(text)) if text.starts_with('/'))
}

/// The placeholders of the fields that are wanted, as they are written in a template.
fn placeholders(is_wanted: impl Fn(Field) -> bool) -> String {
    let fields = FIELDS.iter().filter(|(_, field)| is_wanted(*field));
    let names: Vec<_> = fields.map(|(name, _)| format!("{{{name}}}")).collect();
    names.join(" ")
}

fn host() -> String {
    let host = gethostname::gethostname();
    host.to_string_lossy().replace('/', "-")
}

fn parse(mut rest: &str) -> Result<Vec<Part>, String> {
    let mut parts = vec![];
    if rest.chars().any(char::is_control) {
        return Err("contains a control character".to_owned());
    }
    while !rest.is_empty() {
        let (text, field) = rest
            .split_once('{')
            .map_or((rest, None), |(t, f)| (t, Some(f)));
        if text.contains('}') {
            return Err("a } without its {".to_owned());
        }
        if !text.is_empty() {
            parts.push(Part::Text(text.to_owned()));
        }
        let Some(field) = field else { break };
        let (name, after) = field.split_once('}').ok_or("a { without its }")?;
        let known = FIELDS.iter().find(|(known, _)| *known == name);
        let (_, field) = known.ok_or_else(|| {
            format!(
                "there is no {{{name}}}, there are {}",
                placeholders(|_| true)
            )
        })?;
        parts.push(Part::Field(*field));
        rest = after;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instance;
    use crate::address::Address;
    use crate::format::could_be_same;
    use proptest::prelude::*;

    fn key(template: &str, instance: &Instance, address: &str) -> String {
        let address = Address::parse(address).unwrap();
        KeyTemplate::new(template, "/services")
            .unwrap()
            .key(&KeyContext::new(instance, &address, 77))
    }

    #[test]
    fn the_default_key_is_prefix_name_ip_pid() {
        let pid = std::process::id();
        let instance = Instance::new("greeter");
        assert_eq!(
            key(KeyTemplate::DEFAULT, &instance, "10.1.2.3:9000"),
            format!("/services/greeter/10.1.2.3/{pid}")
        );
    }

    #[test]
    fn every_placeholder_has_its_value() {
        let instance = Instance::new("greeter").with_id("one");
        let host = gethostname::gethostname().into_string().unwrap();
        for (template, expected) in [
            (
                "{prefix}/{name}/{addr}",
                "/services/greeter/[2001:db8::1]:9000".to_owned(),
            ),
            (
                "{prefix}/{name}/{ip}:{port}",
                "/services/greeter/[2001:db8::1]:9000".to_owned(),
            ),
            ("{name}/{lease}", "greeter/77".to_owned()),
            ("/x/{name}/{id}/y", "/x/greeter/one/y".to_owned()),
            (
                "{prefix}/{name}/{host}",
                format!("/services/greeter/{host}"),
            ),
        ] {
            assert_eq!(key(template, &instance, "[2001:db8::1]:9000"), expected);
        }
    }

    #[test]
    fn misleading_templates_are_refused_with_a_remedy() {
        for (template, reason) in [
            ("{prefix}/{name}/{nmae}", "there is no {nmae}"),
            ("{prefix}/{name}/{ip", "a { without"),
            ("{prefix}/{name}}/{ip}", "a } without"),
            ("{prefix}/{ip}", "{name} must stand alone"),
            ("{prefix}/{name}", "{name} must stand alone"),
            ("{prefix}{name}/{ip}", "{name} must stand alone"),
            ("{prefix}/{name}-{ip}", "{name} must stand alone"),
            ("{prefix}/{name}/fixed", "the same key"),
            ("{prefix}/{name}/{pid}", "the same key"),
            ("{prefix}/{name}/{pid}", "{ip} {addr} {host} {id} {lease};"),
            ("{prefix}/{name}/{pid}", "{name} {port} {pid} may be"),
            (
                "{prefix}/{name}/{x}",
                "{prefix} {name} {ip} {port} {addr} {pid} {host} {id} {lease}",
            ),
            ("{prefix}//{name}/{ip}", "between two slashes"),
            ("{prefix}/{name}/../{ip}", "between two slashes"),
            ("{prefix}/{name}/{ip}/", "between two slashes"),
            ("", "{name} must stand alone"),
        ] {
            let error = KeyTemplate::new(template, "/services")
                .unwrap_err()
                .to_string();
            assert!(error.contains(reason), "{template}: {error}");
        }
    }

    #[test]
    fn prefixes_are_checked_segment_by_segment() {
        for (given, kept) in [("/services", "/services"), ("/a/b/", "/a/b"), ("a", "a")] {
            assert_eq!(check_prefix("prefix", given).unwrap(), kept);
        }
        for bad in ["", "/", "//", "/a//b", "/a/../b", "/a\n", "/a%2fb"] {
            assert!(
                matches!(
                    check_prefix("prefix", bad),
                    Err(BuildError::Name { what: "prefix", .. })
                ),
                "{bad}"
            );
        }
    }

    #[test]
    fn parts_unknown_before_binding_may_collide_unless_the_port_differs() {
        let (a, b) = (Instance::new("greeter"), Instance::new("greeter"));
        let outline = |template: &str, instance: &Instance, number| {
            KeyTemplate::new(template, "/services")
                .unwrap()
                .key(&KeyContext::outline(instance, None, number))
        };
        let same = |template| could_be_same(&outline(template, &a, 1), &outline(template, &b, 2));
        assert!(same("{prefix}/{name}/{ip}/{pid}"));
        assert!(!same("{prefix}/{name}/{addr}"));
        assert!(!same("{prefix}/{name}/{ip}/{port}"));
        assert!(!same("{prefix}/{name}/{id}"));
    }

    fn a_name() -> impl Strategy<Value = String> {
        "[a-c./%2f ]{1,6}".prop_filter("a valid name", |name| Instance::new(name).check().is_ok())
    }

    proptest! {
        #[test]
        fn no_key_of_one_service_lies_under_the_prefix_of_another(
            a in a_name(),
            b in a_name(),
            template in prop::sample::select(vec![
                KeyTemplate::DEFAULT, "{prefix}/{name}/{addr}", "{name}/{lease}", "/x/{name}/{id}/y",
            ]),
        ) {
            prop_assume!(a != b);
            let key_a = key(template, &Instance::new(&a), "10.0.0.1:1");
            let under_b = key(template, &Instance::new(&b), "10.0.0.1:1");
            let at = under_b.find(&format!("{b}/")).unwrap() + b.len() + 1;
            prop_assert!(!key_a.starts_with(&under_b[..at]), "{key_a} under {}", &under_b[..at]);
        }
    }
}
