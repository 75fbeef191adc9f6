//! `registryctl describe INSTANCE`: compares what etcd has with what the server reports.

use crate::dial::Dialer;
use crate::entry::{Entry, cut, escape, foreign};
use crate::failure::Failure;
use crate::health::ask_health;
use crate::output::print;
use crate::process;
use crate::process::span;
use crate::scope::Scope;
use crate::server::{MOST, Server};
use crate::source::{Connection, Source, Ttl, Ttls};
use crate::target::Target;
use crate::wire::Wire;
use std::process::ExitCode;
use tonic_etcd::HEALTH_NAME;
use tonic_etcd::introspection::pb::{Process, Registration, ShutdownPhase};

/// The lines of the output.
#[derive(Debug, Default)]
struct Lines(Vec<[String; 3]>);

/// The width of the first two columns; the last one has the rest.
const WIDTHS: [usize; 2] = [12, 44];
/// How many characters of a value are shown; `list --json` has all.
const MAX_VALUE: usize = 1000;

pub(crate) async fn run(
    source: &Source,
    scope: &Scope,
    instance: &str,
    dialer: &Dialer,
) -> Result<ExitCode, Failure> {
    let (connection, listing) = source.first_answer().await?;
    let target = Target::find(instance, listing.entries, scope)?;
    let leases = target.entries.iter().map(|it| it.lease);
    let ttls = connection.ttls(leases).await;
    let own = own(&target, dialer).await;
    let registrations = own.as_ref().map_or(&[][..], |(found, _)| found);
    let mut lines = Lines::default();
    lines.push("", "ETCD", "SERVER");
    lines.keys(&target, &ttls, registrations);
    for own in registrations {
        lines.own(own);
    }
    match &own {
        Ok((_, process)) => {
            for (name, text) in process::lines(process) {
                lines.push(name, "", text);
            }
        }
        Err(reason) => lines.push("introspection", "", reason),
    }
    lines.reach(&target, dialer).await;
    let differences = differences(&target.entries, registrations, &connection).await;
    let lines = lines.0.iter().map(|[what, etcd, server]| {
        let [first, second] = WIDTHS;
        let line = format!("{what:<first$}  {etcd:<second$}  {server}");
        line.trim_end().to_owned()
    });
    print(lines.chain(differences.iter().map(|it| format!("! {it}"))))?;
    Ok(match differences.is_empty() && !target.entries.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// What the server reports on these registrations and on its process, or why it reports nothing.
async fn own(target: &Target, dialer: &Dialer) -> Result<(Vec<Registration>, Process), String> {
    let asked = async {
        let address = target.dialled()?;
        let server = Server::connect(address, dialer).await?;
        let address = address.to_string();
        let is_wanted = |it: &Registration| {
            let has_key = |key: &String| target.entries.iter().any(|entry| entry.key() == *key);
            let has_address = it.instances.iter().any(|it| it.address == address);
            it.keys.iter().any(has_key) || has_address || target.service.is_empty()
        };
        server.registrations(&target.service, is_wanted).await
    };
    match asked.await {
        Ok((found, _)) if found.is_empty() => Err("it has no such registration".to_owned()),
        Ok(own) => Ok(own),
        Err(failure) => Err(failure.to_string()),
    }
}

/// The differences between the two sides.
async fn differences(
    entries: &[Entry],
    registrations: &[Registration],
    connection: &Connection,
) -> Vec<String> {
    let (mut found, mut entries) = (vec![], entries.to_vec());
    let held = registrations.iter().filter(|it| it.lease != 0);
    for key in held.flat_map(|it| &it.keys).take(MOST) {
        if entries.iter().any(|entry| entry.key() == *key) {
            continue;
        }
        // It is of another service or in another format than was listed.
        match connection.entry(key).await {
            Ok(Some(entry)) => entries.push(entry),
            Ok(None) => found.push(format!(
                "the server says that it holds {}, and it was not found in etcd",
                foreign(key)
            )),
            // Perhaps we may not read it.
            Err(_) => {}
        }
    }
    let are_all_told = |it: &Registration| it.keys.len() == it.keys_total as usize;
    if registrations.is_empty() || !registrations.iter().all(are_all_told) {
        return found;
    }
    for entry in &entries {
        let key = foreign(&entry.key);
        match holder(registrations, entry) {
            None => found.push(format!(
                "{key} is in etcd, and the server does not say that it holds it"
            )),
            Some(own) if own.lease != entry.lease => found.push(format!(
                "{key} has another lease in etcd: another process wrote it"
            )),
            Some(_) => {}
        }
    }
    found
}

/// The registration that holds a key.
fn holder<'a>(registrations: &'a [Registration], entry: &Entry) -> Option<&'a Registration> {
    let mut held = registrations.iter().filter(|it| it.lease != 0);
    held.find(|own| own.keys.contains(&entry.key()))
}

// === impl Lines ===

impl Lines {
    fn push(&mut self, what: &str, etcd: impl Into<String>, server: impl Into<String>) {
        self.0.push([what.to_owned(), etcd.into(), server.into()]);
    }

    fn keys(&mut self, target: &Target, ttls: &Ttls, registrations: &[Registration]) {
        if target.entries.is_empty() {
            self.push("key", "none has this address", "");
        }
        for entry in &target.entries {
            self.entry(entry, ttls, holder(registrations, entry));
        }
    }

    fn entry(&mut self, entry: &Entry, ttls: &Ttls, own: Option<&Registration>) {
        let both = |here: String| match own {
            Some(_) => (here.clone(), here),
            None => (here, String::new()),
        };
        let (etcd, server) = both(foreign(&entry.key));
        self.push("key", etcd, server);
        let left = match ttls.get(&entry.lease) {
            Some(Ttl::Left { seconds, granted }) => format!(", {seconds} s of {granted} s left"),
            Some(Ttl::Gone) => ", ended".to_owned(),
            None => String::new(),
        };
        let lease = own.map_or_else(String::new, |own| format!("{:016x}", own.lease));
        self.push("lease", format!("{:016x}{left}", entry.lease), lease);
        let Entry {
            created, written, ..
        } = entry;
        let revision = own.map_or_else(String::new, |own| own.revision.to_string());
        self.push(
            "revision",
            format!("{written}, created at {created}"),
            revision,
        );
        self.push("value", cut(&escape(&entry.value), MAX_VALUE), "");
    }

    fn own(&mut self, own: &Registration) {
        let since = format!(" for {}", span(own.state_age_ms));
        let reason = match &*own.reason {
            "" => String::new(),
            reason => format!(": {}", foreign(reason)),
        };
        let state = words(own.state().as_str_name(), "REGISTRATION_STATE_");
        self.push("state", "", format!("{state}{since}{reason}"));
        for pause in own.pauses.iter().take(MOST) {
            self.push("pause", "", foreign(pause));
        }
        if own.shutdown() != ShutdownPhase::Unspecified {
            let ends = own.shutdown_ends_in_ms.map(span);
            let ends = ends.map_or_else(String::new, |ends| format!(", ends within {ends}"));
            let phase = words(own.shutdown().as_str_name(), "SHUTDOWN_PHASE_");
            self.push("shutdown", "", format!("{phase}{ends}"));
        }
        self.push("in flight", "", own.in_flight.to_string());
        self.push("formats", "", foreign(own.formats.join(", ")));
    }

    async fn reach(&mut self, target: &Target, dialer: &Dialer) {
        let Ok(address) = target.dialled() else {
            return self.push("address", "none that can be dialled", "");
        };
        let etcd = match target.entries.is_empty() {
            true => String::new(),
            false => address.to_string(),
        };
        let wire = dialer.probe(address).await;
        self.push("address", etcd, format!("{address} {}", wire.text()));
        if wire == Wire::Http2 {
            let [server, registration] = ask_health(address, dialer).await;
            self.push(
                "health",
                "",
                format!("{server}; {HEALTH_NAME}: {registration}"),
            );
        }
    }
}

/// What a value of an enum is called, without the name of the enum.
fn words(name: &str, of: &str) -> String {
    name.trim_start_matches(of).to_lowercase().replace('_', " ")
}
