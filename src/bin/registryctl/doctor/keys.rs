//! Whether the keys of the service can be used: read, held by a lease, each with its own address. Pure.

use super::addresses::Implausible;
use super::report::{MOST, Report};
use crate::entry::Entry;
use crate::source::{Ttl, Ttls};
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic_etcd::Instance;
use tonic_etcd::format::{Address, Format};

/// An instance that a client would dial.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) key: String,
    pub(crate) address: Address,
    lease: i64,
}

/// What of these keys some format can read. Tells the others.
pub(crate) fn read(
    service: &str,
    formats: &[Arc<dyn Format>],
    entries: &[Entry],
    report: &mut Report,
) -> Vec<Found> {
    let mut found = vec![];
    let mut unread = vec![];
    for entry in entries {
        match decode(service, formats, entry) {
            Ok(it) => found.push(it),
            Err(reason) => unread.push(format!("{}: {reason}", entry.key())),
        }
    }
    let next = "give the right --format; if it is that: mend what writes the key, or delete it";
    each(unread, |text| match found.is_empty() {
        true => report.problem("keys", text, next),
        false => report.warning("keys", text, next),
    });
    if !found.is_empty() {
        report.ok("keys", format!("{} can be read", instances(found.len())));
    }
    found
}

fn decode(service: &str, formats: &[Arc<dyn Format>], entry: &Entry) -> Result<Found, String> {
    let key = entry.key();
    let mut reason = None;
    for format in formats {
        let below = format.key_prefix(service);
        if !key.starts_with(&below) {
            continue;
        }
        match format.decode(service, &key, &entry.value) {
            Ok(instance) => match address(&instance) {
                Ok(address) => {
                    return Ok(Found {
                        key,
                        address,
                        lease: entry.lease,
                    });
                }
                Err(why) => reason = Some(format!("read as {}: {why}", format.name())),
            },
            Err(error) => {
                reason.get_or_insert(format!("read as {}: {error}", format.name()));
            }
        }
    }
    Err(reason.unwrap_or_else(|| "belongs to no format asked for".to_owned()))
}

fn address(instance: &Instance) -> Result<Address, String> {
    let text = instance.get_address().ok_or("it has no address")?;
    text.parse().map_err(|error| format!("{text}: {error}"))
}

/// Whether each key goes when its server does.
pub(crate) fn leases(found: &[Found], ttls: &Ttls, report: &mut Report) {
    let without: Vec<_> = found.iter().filter(|it| it.lease == 0).collect();
    let texts = without.iter().map(|it| {
        let (key, address) = (&it.key, &it.address);
        format!("{key}: has no lease: it stays when {address} is gone, and holds the key for ever")
    });
    let next = "if nobody serves there: etcdctl del KEY";
    each(texts.collect(), |text| report.warning("leases", text, next));
    let mut ending = vec![];
    let mut held = 0;
    for it in found.iter().filter(|it| it.lease != 0) {
        match ttls.get(&it.lease) {
            // A server renews three times a TTL: at least two thirds are left, rounded down.
            Some(&Ttl::Left { seconds, granted }) if seconds * 3 <= granted => {
                ending.push(format!(
                    "{}: {seconds} s of {granted} s are left: nobody renews lease {:016x}",
                    it.key, it.lease
                ));
            }
            Some(Ttl::Gone) => ending.push(format!(
                "{}: lease {:016x} has ended: the key goes",
                it.key, it.lease
            )),
            Some(_) => held += 1,
            // etcd did not say, or we may not ask.
            None => {}
        }
    }
    let next = "that server is hung, cut off from etcd, or gone: look at its log";
    each(ending, |text| report.warning("leases", text, next));
    if held > 0 {
        let text = format!("{} held by a lease that is renewed", instances(held));
        report.ok("leases", text);
    }
}

/// Whether others can dial the addresses, as far as they tell it.
pub(crate) fn addresses(found: &[Found], etcd_is_local: bool, report: &mut Report) {
    let mut by_address: BTreeMap<String, Vec<&Found>> = BTreeMap::new();
    let mut implausible = vec![];
    for it in found {
        let same = by_address.entry(it.address.to_string()).or_default();
        same.push(it);
        if let Some(what) = Implausible::check(&it.address, etcd_is_local) {
            let text = format!("{}: {} {}", it.key, it.address, what.text());
            implausible.push(text);
        }
    }
    let next = "have the server advertise another: Instance::address or advertise_interface";
    let bad = !implausible.is_empty();
    each(implausible, |text| report.warning("addresses", text, next));
    let twice: Vec<_> = by_address
        .into_iter()
        .filter(|(_, keys)| different_leases(keys))
        .map(|(address, keys)| {
            let keys: Vec<_> = keys.iter().map(|it| &*it.key).collect();
            format!("{address} is registered by several: {}", keys.join(", "))
        })
        .collect();
    let next = "clients call it more often than the others; one of the keys is left over";
    if !bad && twice.is_empty() && !found.is_empty() {
        report.ok("addresses", "each is its own, and can be meant for others");
    }
    each(twice, |text| report.warning("addresses", text, next));
}

/// One server writes several formats under one lease.
fn different_leases(keys: &[&Found]) -> bool {
    keys.iter().any(|it| it.lease != keys[0].lease) || keys.len() > 1 && keys[0].lease == 0
}

/// The first few, and how many more there are.
fn each(texts: Vec<String>, mut tell: impl FnMut(String)) {
    let more = texts.len().saturating_sub(MOST);
    let last = texts.len().min(MOST).saturating_sub(1);
    for (index, text) in texts.into_iter().take(MOST).enumerate() {
        tell(match more > 0 && index == last {
            true => format!("{text} (and {more} more)"),
            false => text,
        });
    }
}

pub(crate) fn instances(count: usize) -> String {
    match count {
        1 => "1 instance".to_owned(),
        count => format!("{count} instances"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;
    use tonic_etcd::format::Plain;

    fn entry(key: &str, value: &str, lease: i64) -> Entry {
        Entry {
            key: key.into(),
            value: value.into(),
            lease,
            created: 1,
            written: 1,
        }
    }

    fn report(entries: &[Entry], ttls: &Ttls) -> Report {
        let mut report = Report::new("greeter");
        let formats: [Arc<dyn Format>; 1] = [Arc::new(Plain::new())];
        let found = read("greeter", &formats, entries, &mut report);
        leases(&found, ttls, &mut report);
        addresses(&found, false, &mut report);
        report
    }

    fn left(seconds: i64) -> Ttl {
        Ttl::Left {
            seconds,
            granted: 5,
        }
    }

    #[test]
    fn what_is_right_gives_no_finding() {
        let entries = [
            entry("/services/greeter/a/1", "10.1.2.3:1", 7),
            entry("/services/greeter/b/1", "10.1.2.4:1", 8),
        ];
        let report = report(&entries, &[(7, left(5)), (8, left(3))].into());
        assert_eq!(report.verdict(), Verdict::Ok, "{report:?}");
    }

    #[test]
    fn each_fault_of_keys_is_told() {
        let good = entry("/services/greeter/a/1", "10.1.2.3:1", 7);
        let other = |value: &str, lease| entry("/services/greeter/b/1", value, lease);
        for (entries, expected, told) in [
            (vec![other("{\"a\":", 7)], Verdict::Problem, "read as plain"),
            (
                vec![good.clone(), other("?", 7)],
                Verdict::Warning,
                "read as plain",
            ),
            (vec![other("10.1.2.4:1", 0)], Verdict::Warning, "no lease"),
            (
                vec![other("10.1.2.4:1", 9)],
                Verdict::Warning,
                "nobody renews",
            ),
            (
                vec![other("127.0.0.1:1", 7)],
                Verdict::Warning,
                "another machine",
            ),
            (
                vec![good.clone(), other("10.1.2.3:1", 8)],
                Verdict::Warning,
                "several",
            ),
        ] {
            let report = report(&entries, &[(7, left(4)), (8, left(4)), (9, left(1))].into());
            let cause = report.first_cause().unwrap();
            assert_eq!(cause.verdict, expected, "{report:?}");
            assert!(cause.text.contains(told), "{told}: {report:?}");
        }
    }

    #[test]
    fn many_findings_of_one_kind_are_counted() {
        let key = |n| entry(&format!("/services/greeter/{n}/1"), "?", 7);
        let entries: Vec<_> = (0..50).map(key).collect();
        let lines = report(&entries, &Ttls::new()).lines();
        assert!(lines.len() < 15, "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("(and 45 more)")));
    }
}
