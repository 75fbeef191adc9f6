//! [`Target`]: the server that a command names. Pure.

use crate::entry::{Entry, escape, foreign};
use crate::failure::Failure;
use crate::scope::Scope;
use std::collections::BTreeSet;
use tonic_etcd::format::Address;

/// One server, as far as etcd has it.
#[derive(Debug)]
pub(crate) struct Target {
    /// Empty if only its address is known, or if it has several.
    pub(crate) service: String,
    /// Where it is dialled, if its keys have an address.
    pub(crate) address: Option<Address>,
    /// Its keys: several, if it is written in several formats.
    pub(crate) entries: Vec<Entry>,
}

/// The most candidates in an error.
const MOST: usize = 5;

// === impl Target ===

impl Target {
    /// A server that is given by its address, without its keys.
    pub(crate) fn at(wanted: &str) -> Option<Self> {
        Some(Self {
            service: String::new(),
            address: Some(wanted.parse().ok()?),
            entries: vec![],
        })
    }

    /// Finds a server by a key, `service/id`, an address, or a service that has one instance.
    pub(crate) fn find(wanted: &str, all: Vec<Entry>, scope: &Scope) -> Result<Self, Failure> {
        let (mut found, mut addresses) = (vec![], BTreeSet::new());
        let mut services = BTreeSet::new();
        for entry in all {
            let decoded = entry.decoded(scope);
            let by_id = id(&entry, scope).map(|id| format!("{}/{id}", decoded.name));
            let is_wanted = entry.key() == wanted
                || decoded.name == wanted
                || decoded.address.as_deref() == Some(wanted)
                || by_id.as_deref() == Some(wanted);
            if is_wanted {
                addresses.insert(decoded.address);
                services.insert(decoded.name);
                found.push(entry);
            }
        }
        if found.is_empty() {
            return Self::at(wanted).ok_or_else(|| Failure::Other(not_found(wanted)));
        }
        if addresses.len() > 1 {
            return Err(Failure::Other(ambiguous(wanted, &found)));
        }
        let address = addresses.pop_first().flatten();
        Ok(Self {
            service: match services.len() {
                1 => services.pop_first().unwrap_or_default(),
                _ => String::new(),
            },
            address: address.and_then(|address| address.parse().ok()),
            entries: found,
        })
    }

    /// Where to dial it.
    pub(crate) fn dialled(&self) -> Result<&Address, Failure> {
        let why = "its key tells no address to dial: give the address, host:port";
        self.address
            .as_ref()
            .ok_or_else(|| Failure::Other(why.to_owned()))
    }
}

fn id(entry: &Entry, scope: &Scope) -> Option<String> {
    let read = scope.read(&entry.key(), &entry.value)?;
    Some(read.instance.ok()?.id().to_owned())
}

fn not_found(wanted: &str) -> String {
    format!(
        "{} is not in etcd: a paused server is not. Give its address, host:port, or look for it \
         with --prefix and --format",
        escape(wanted)
    )
}

fn ambiguous(wanted: &str, found: &[Entry]) -> String {
    let keys = found.iter().take(MOST).map(|entry| foreign(&entry.key));
    let more = found.len().saturating_sub(MOST);
    format!(
        "{} has {} keys of several servers: name one of them:\n  {}{}",
        escape(wanted),
        found.len(),
        keys.collect::<Vec<_>>().join("\n  "),
        match more {
            0 => String::new(),
            more => format!("\n  and {more} more"),
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::entry;
    use crate::formats::FormatName;
    use crate::scope::tests::scope;

    fn greeter(key: &str, id: &str, address: &str) -> Entry {
        let value = format!(r#"{{"name":"greeter","id":"{id}","address":"{address}"}}"#);
        entry(key, value, 1)
    }

    fn find(wanted: &str, all: &[Entry]) -> Result<Target, String> {
        let scope = scope(&[FormatName::Plain], &[]).unwrap();
        Target::find(wanted, all.to_vec(), &scope).map_err(|error| error.to_string())
    }

    #[test]
    fn a_server_is_found_by_key_id_address_and_name() {
        let all = [
            greeter("/services/greeter/a/1", "7", "10.0.0.1:9000"),
            greeter("/services/greeter/b/1", "8", "10.0.0.2:9000"),
        ];
        for wanted in ["/services/greeter/b/1", "greeter/8", "10.0.0.2:9000"] {
            let found = find(wanted, &all).unwrap();
            assert_eq!(found.entries, all[1..], "{wanted}");
            assert_eq!(found.dialled().unwrap().to_string(), "10.0.0.2:9000");
        }
        assert_eq!(find("greeter", &all[..1]).unwrap().entries, all[..1]);
        let several = find("greeter", &all).unwrap_err();
        assert!(several.contains("/services/greeter/a/1"), "{several}");
        let none = find("greeter/9", &all).unwrap_err();
        assert!(none.contains("not in etcd"), "{none}");
    }

    #[test]
    fn an_address_needs_no_key() {
        let found = find("10.0.0.3:9000", &[]).unwrap();
        assert_eq!((&*found.service, found.entries.len()), ("", 0));
        assert_eq!(found.dialled().unwrap().to_string(), "10.0.0.3:9000");
    }
}
