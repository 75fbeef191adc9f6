//! `registryctl list`: the servers that are registered now.

use crate::entry::{Entry, escape_json};
use crate::failure::Failure;
use crate::output::print;
use crate::scope::Scope;
use crate::screen;
use crate::source::{Source, Ttl, Ttls};
use crate::table::table;
use serde::Serialize;
use std::io::{IsTerminal, stdout};

/// One line of `--json`.
#[derive(Debug, Serialize)]
struct Line<'a> {
    key: String,
    name: String,
    address: Option<String>,
    /// Hexadecimal, as everywhere in etcd's tools; numbers this large are not safe in JSON.
    lease: Option<String>,
    /// Seconds; `null` if there is no lease, or etcd did not answer.
    ttl_left: Option<i64>,
    ttl_granted: Option<i64>,
    /// The whole value, if it is text.
    value: Option<&'a str>,
    /// The whole value, if it is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
    create_revision: i64,
    mod_revision: i64,
    /// Why readers skip the key; `null` if they do not.
    skipped: Option<String>,
}

pub(crate) async fn run(source: &Source, scope: &Scope, json: bool) -> Result<(), Failure> {
    let (connection, listing) = source.first_answer().await?;
    let leases = listing.entries.iter().map(|it| it.lease);
    let ttls = connection.ttls(leases).await;
    if listing.entries.is_empty() {
        eprintln!("nothing is registered under {}", scope.scans.join(", "));
    }
    let width = stdout().is_terminal().then(|| screen::size().0);
    let rows = listing.entries.iter();
    let rows = rows.map(|entry| (entry, entry.written.to_string()));
    print(match json {
        true => json_lines(&listing.entries, scope, &ttls),
        false => table("REVISION", rows, scope, &ttls).lines(width),
    })?;
    Ok(())
}

fn json_lines(entries: &[Entry], scope: &Scope, ttls: &Ttls) -> Vec<String> {
    let line = |entry| {
        let line = serde_json::to_string(&Line::of(entry, scope, ttls));
        escape_json(&line.unwrap_or_default())
    };
    entries.iter().map(line).collect()
}

// === impl Line ===

impl<'a> Line<'a> {
    fn of(entry: &'a Entry, scope: &Scope, ttls: &Ttls) -> Self {
        let decoded = entry.decoded(scope);
        let (ttl_left, ttl_granted) = match ttls.get(&entry.lease) {
            Some(&Ttl::Left { seconds, granted }) => (Some(seconds), Some(granted)),
            _ => (None, None),
        };
        let value = std::str::from_utf8(&entry.value).ok();
        let hex = || {
            entry
                .value
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        };
        Self {
            key: entry.key(),
            name: decoded.name,
            address: decoded.address,
            lease: (entry.lease != 0).then(|| format!("{:016x}", entry.lease)),
            ttl_left,
            ttl_granted,
            value,
            value_hex: value.is_none().then(hex),
            create_revision: entry.created,
            mod_revision: entry.written,
            skipped: decoded.skipped,
        }
    }
}
