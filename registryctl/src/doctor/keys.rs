//! Checks the keys of the service: they can be decoded, have a lease, and have different addresses. Pure.

use super::addresses::implausible;
use super::report::{Report, Verdict};
use crate::entry::Entry;
use crate::scope::Scope;
use crate::source::{Ttl, Ttls};
use std::collections::BTreeMap;
use tonic_etcd::Instance;
use tonic_etcd::format::Address;

/// An instance that a client would dial.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) key: String,
    pub(crate) address: Address,
    lease: i64,
}

/// The keys that a format can decode. Reports the others.
pub(crate) fn read(scope: &Scope, entries: &[Entry], report: &mut Report) -> Vec<Found> {
    let mut found = vec![];
    let mut unread = vec![];
    for entry in entries {
        let key = entry.key();
        let read = match scope.read(&key, &entry.value) {
            Some(read) => read.instance,
            None => Err("belongs to none of the given formats".to_owned()),
        };
        match read.and_then(|instance| address(&instance)) {
            Ok(address) => found.push(Found {
                key,
                address,
                lease: entry.lease,
            }),
            Err(reason) => unread.push(format!("{key}: {reason}")),
        }
    }
    let next = "give the right --format; if it is that: mend what writes the key, or delete it";
    let verdict = match found.is_empty() {
        true => Verdict::Problem,
        false => Verdict::Warning,
    };
    report.add_each(verdict, "keys", unread, next);
    if !found.is_empty() {
        report.ok("keys", format!("{} can be read", instances(found.len())));
    }
    found
}

fn address(instance: &Instance) -> Result<Address, String> {
    let text = instance.address().ok_or("it has no address")?;
    text.parse().map_err(|error| format!("{text}: {error}"))
}

/// Checks that each key is deleted when its server ends.
pub(crate) fn leases(found: &[Found], ttls: &Ttls, report: &mut Report) {
    let (mut without, mut ending, mut held) = (vec![], vec![], 0);
    for Found {
        key,
        address,
        lease,
    } in found
    {
        match ttls.get(lease) {
            _ if *lease == 0 => without.push(format!(
                "{key}: has no lease: it never expires, also when {address} is gone"
            )),
            // A server renews three times per TTL, so at least two thirds are left, rounded down.
            Some(Ttl::Left { seconds, granted }) if seconds * 3 <= *granted => {
                ending.push(format!(
                    "{key}: {seconds} s of {granted} s are left: nobody renews lease {lease:016x}"
                ));
            }
            Some(Ttl::Gone) => {
                ending.push(format!("{key}: lease {lease:016x} has ended: the key goes"));
            }
            Some(_) => held += 1,
            // etcd did not answer, or we have no permission.
            None => {}
        }
    }
    let next = "if nobody serves there: etcdctl del KEY";
    report.add_each(Verdict::Warning, "leases", without, next);
    let next = "that server is hung, cut off from etcd, or gone: look at its log";
    report.add_each(Verdict::Warning, "leases", ending, next);
    if held > 0 {
        let text = format!("{} held by a lease that is renewed", instances(held));
        report.ok("leases", text);
    }
}

/// Checks whether two servers write the same key: the server that had it before still renews its lease.
pub(crate) fn contested(former: &[(&Entry, i64)], ttls: &Ttls, report: &mut Report) {
    let is_alive = |lease: &i64| match ttls.get(lease) {
        Some(Ttl::Left { seconds, granted }) => seconds * 3 > *granted,
        _ => false,
    };
    let both = former.iter().filter(|(entry, lease)| {
        let others = *lease != 0 && *lease != entry.lease;
        others && is_alive(lease) && is_alive(&entry.lease)
    });
    let texts = both.map(|(entry, lease)| {
        let (key, ours) = (entry.key(), entry.lease);
        format!(
            "{key}: two servers take it from each other, with leases {lease:016x} and {ours:016x}"
        )
    });
    let next = "give each its own: {addr} or {id} in the template of the key; {ip}/{pid} is the same in containers \
                with the host's network, where each has pid 1";
    report.add_each(Verdict::Problem, "keys", texts.collect(), next);
}

/// Checks whether others can dial the addresses, as far as the addresses show it.
pub(crate) fn addresses(found: &[Found], etcd_is_local: bool, report: &mut Report) {
    let mut by_address: BTreeMap<String, Vec<&Found>> = BTreeMap::new();
    let mut bad = vec![];
    for it in found {
        let same = by_address.entry(it.address.to_string()).or_default();
        same.push(it);
        if let Some(what) = implausible(&it.address, etcd_is_local) {
            bad.push(format!("{}: {} {what}", it.key, it.address));
        }
    }
    let next = "have the server advertise another: Instance::with_address or advertise_interface";
    let is_fine = bad.is_empty();
    report.add_each(Verdict::Warning, "addresses", bad, next);
    let twice: Vec<_> = by_address
        .into_iter()
        .filter(|(_, keys)| different_leases(keys))
        .map(|(address, keys)| {
            let keys: Vec<_> = keys.iter().map(|it| &*it.key).collect();
            format!("{address} is registered by several: {}", keys.join(", "))
        })
        .collect();
    let next = "clients call it more often than the others; one of the keys is left over";
    if is_fine && twice.is_empty() && !found.is_empty() {
        report.ok(
            "addresses",
            "each key has its own, and other machines can dial it",
        );
    }
    report.add_each(Verdict::Warning, "addresses", twice, next);
}

/// Whether the keys are from different servers: one server writes several formats under one lease.
fn different_leases(keys: &[&Found]) -> bool {
    keys.iter().any(|it| it.lease != keys[0].lease) || keys.len() > 1 && keys[0].lease == 0
}

pub(crate) fn instances(count: usize) -> String {
    match count {
        1 => "1 instance".to_owned(),
        count => format!("{count} instances"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::entry;
    use crate::scope::tests::of_greeter;

    fn report(entries: &[Entry], ttls: &Ttls) -> Report {
        let mut report = Report::new("greeter");
        let found = read(&of_greeter(), entries, &mut report);
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
    fn correct_keys_give_no_finding() {
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
        let large = format!("10.1.2.4:1{}", " ".repeat(64 * 1024));
        for (entries, expected, told) in [
            (vec![other("{\"a\":", 7)], Verdict::Problem, "read as plain"),
            (
                vec![good.clone(), other("?", 7)],
                Verdict::Warning,
                "read as plain",
            ),
            // Discovery skips it.
            (
                vec![good.clone(), other(&large, 7)],
                Verdict::Warning,
                "65536 at most",
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
    fn a_key_that_two_living_servers_write_is_a_conflict() {
        let key = entry("/services/greeter/10.1.2.3/1", "10.1.2.3:1", 7);
        let ttls: Ttls = [(7, left(5)), (8, left(4)), (9, left(1))].into();
        for (former, is_conflict) in [(8, true), (7, false), (9, false), (6, false), (0, false)] {
            let mut report = Report::new("greeter");
            contested(&[(&key, former)], &ttls, &mut report);
            assert_eq!(report.first_cause().is_some(), is_conflict, "{former}");
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
