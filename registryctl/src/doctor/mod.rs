//! `registryctl doctor SERVICE`: why clients do not find it.
//!
//! The checks follow the order of a call: etcd, permission, keys, leases, addresses, connection, health. An earlier
//! finding is often the cause of a later one.

mod addresses;
mod keys;
mod members;
mod names;
mod report;
mod servers;

use crate::dial::Dialer;
use crate::failure::Failure;
use crate::formats::FormatName;
use crate::output::print;
use crate::scope::Scope;
use crate::source::{Connection, Source};
use clap::ValueEnum as _;
use report::{Report, Verdict};
use std::process::ExitCode;
use tonic_etcd::format::Plain;
use tonic_etcd::internal::CallError;

/// How many keys are read as they were before their last write.
const OVERWRITTEN: usize = 20;
/// How many other keys are read to find a similar name.
const OTHER_KEYS: i64 = 20_000;

pub(crate) async fn run(
    source: Source,
    scope: &Scope,
    service: &str,
    dialer: &Dialer,
    json: bool,
) -> Result<ExitCode, Failure> {
    let mut report = Report::new(service);
    check(&source, scope, dialer, &mut report).await;
    print(match json {
        true => vec![report.json()],
        false => report.lines(),
    })?;
    Ok(ExitCode::from(report.verdict().exit_code()))
}

async fn check(source: &Source, scope: &Scope, dialer: &Dialer, report: &mut Report) {
    let Some(connection) = members::check(source, report).await else {
        return;
    };
    let listing = match connection.list().await {
        Ok(listing) => listing,
        Err(error) => return not_listed(&error, scope, report),
    };
    let scans = scope.scans.join(", ");
    report.ok("permission", format!("{scans} can be read"));
    if listing.entries.is_empty() {
        return not_there(&connection, scope, report).await;
    }
    let found = keys::read(scope, &listing.entries, report);
    let mut former = vec![];
    let overwritten = listing.entries.iter().filter(|it| it.written > it.created);
    for entry in overwritten.take(OVERWRITTEN) {
        if let Some(lease) = connection.former_lease(entry).await {
            former.push((entry, lease));
        }
    }
    let leases = listing.entries.iter().map(|it| it.lease);
    let leases = leases.chain(former.iter().map(|(_, lease)| *lease));
    let ttls = connection.ttls(leases).await;
    keys::leases(&found, &ttls, report);
    keys::contested(&former, &ttls, report);
    keys::addresses(&found, is_local(source), report);
    servers::check(found, dialer, report).await;
}

fn not_listed(error: &CallError, scope: &Scope, report: &mut Report) {
    let (check, next) = match &error.reason {
        why if why.contains("permission denied") => (
            "permission",
            "grant it: etcdctl role grant-permission ROLE read --prefix=true PREFIX",
        ),
        why if members::is_about_user(why) => (
            "permission",
            "this etcd asks for a user: give --user and --password",
        ),
        _ => (
            "etcd",
            "no quorum, or etcd is overloaded: etcdctl endpoint status",
        ),
    };
    let scans = scope.scans.join(", ");
    let text = format!("{scans} cannot be read: {error}");
    report.add(Verdict::Problem, check, text, next);
}

/// Nothing is registered: checks for other prefixes, formats and names.
async fn not_there(connection: &Connection, scope: &Scope, report: &mut Report) {
    let service = &report.service;
    let next = elsewhere(connection, scope, service).await;
    let next = next.unwrap_or_else(|| {
        format!(
            "no server of {service} runs, or it writes to another etcd: look at its log for \
             `registered`"
        )
    });
    let scans = scope.scans.join(", ");
    let text = format!("nothing is registered under {scans}");
    report.add(Verdict::Problem, "keys", text, next);
}

async fn elsewhere(connection: &Connection, scope: &Scope, service: &str) -> Option<String> {
    for name in FormatName::value_variants() {
        let below = name.format(&Plain::new()).key_prefix(service);
        if connection
            .etcd
            .count(&below, true)
            .await
            .is_ok_and(|count| count > 0)
        {
            let name = name.to_possible_value()?.get_name().to_owned();
            return Some(format!(
                "there are keys under {below}: it writes another format, try --format {name}"
            ));
        }
    }
    // Some users may read only their own prefix.
    let below = format!("{}/", scope.prefix);
    if let Ok(keys) = connection.keys(&below, OTHER_KEYS).await {
        let names = keys.iter().filter_map(|key| {
            let (name, _) = key.strip_prefix(&below)?.split_once('/')?;
            Some(name)
        });
        let similar = names::similar(service, names);
        if !similar.is_empty() {
            return Some(format!("did you mean {}?", similar.join(" or ")));
        }
    }
    let keys = connection.keys("", OTHER_KEYS).await.ok()?;
    let inside = format!("/{service}/");
    let other = keys.iter().find_map(|key| {
        let at = key.find(&inside)?;
        Some(key[..at].to_owned())
    })?;
    Some(format!(
        "there are keys under {other}{inside}: it has another prefix, try --prefix {other}"
    ))
}

/// Whether all of etcd is on this machine, so that addresses on loopback can be right.
fn is_local(source: &Source) -> bool {
    let mut hosts = source.members.iter().map(|it| it.host_and_port().0);
    hosts.all(addresses::is_loopback)
}
