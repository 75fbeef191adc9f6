//! The lines of the main scenarios are those that the manual lists, with their levels, targets and fields.

use crate::setup::{KEY, SEC, Setup, announced, is_lost, is_registered, status};
use crate::support::fake::{Reply, Rpc};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};
use tokio::time::sleep;
use tonic::Code;
use tonic_etcd::{OnConflict, Registration, RegistrationStatus};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

#[derive(Debug, Clone, Default)]
struct Line {
    level: String,
    target: String,
    message: String,
    fields: BTreeSet<String>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => drop(self.fields.insert(name.to_owned())),
        }
    }
}

/// Collects the lines of this crate.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if !metadata.target().starts_with("tonic_etcd") {
            return;
        }
        let mut line = Line {
            level: metadata.level().to_string(),
            target: metadata.target().to_owned(),
            ..Line::default()
        };
        event.record(&mut line);
        self.0.lock().unwrap().push(line);
    }
}

/// The rows of the manual.
fn contract() -> Vec<Line> {
    let manual = include_str!("../../src/manual/logs.md");
    let rows = manual.lines().filter(|line| line.contains("| `tonic_etcd"));
    let rows = rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let code = |cell: &str| {
            cell.split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect()
        };
        Line {
            level: cells[1].to_owned(),
            target: cells[2].trim_matches('`').to_owned(),
            message: cells[3].to_owned(),
            fields: code(cells[4]),
        }
    });
    rows.collect()
}

/// The messages of `lines`. Each of them is in the manual, with its level, target and fields.
fn in_the_manual(lines: &[Line]) -> BTreeSet<String> {
    let contract = contract();
    let mut seen = BTreeSet::new();
    for line in lines {
        let rows = contract.iter().filter(|row| {
            line.message.starts_with(&row.message)
                && row.level.split(", ").any(|level| level == line.level)
                && line.target.starts_with(&row.target)
        });
        // `watching` begins as `watching etcd again` does.
        let row = rows.max_by_key(|row| row.message.len());
        let row = row.unwrap_or_else(|| panic!("not in the manual: {line:?}"));
        assert_eq!(row.fields, line.fields, "{line:?}");
        seen.insert(row.message.clone());
    }
    seen
}

/// A line as tracing-subscriber prints it, without the time.
fn printed(line: &str) -> Line {
    let (level, rest) = line.trim_start().split_once(' ').unwrap();
    let (target, message) = rest.split_once(": ").unwrap();
    let fields = message.split(' ').filter_map(|word| word.split_once('='));
    Line {
        level: level.to_owned(),
        target: target.to_owned(),
        message: message.to_owned(),
        fields: fields.map(|(name, _)| name.to_owned()).collect(),
    }
}

/// One registration through losses, rivals, pauses, refusals and a stop.
async fn through_everything(setup: &Setup) -> Registration {
    setup.fake.grant(8, 600);
    setup.fake.put(KEY, "theirs", 8);
    let registration = setup.registered().await;
    sleep(SEC).await;
    setup.fake.down();
    sleep(SEC * 3).await;
    setup.fake.up();
    status(&registration, is_registered).await;
    setup.fake.down();
    status(&registration, is_lost).await;
    setup.fake.wipe();
    setup.fake.up();
    status(&registration, is_registered).await;
    sleep(SEC).await;
    setup.fake.put(KEY, "theirs", 0);
    sleep(SEC).await;
    let full = "etcdserver: mvcc: database space exceeded";
    let full = Reply::Error(Code::ResourceExhausted, full);
    setup.fake.script(Rpc::Txn, full);
    setup.fake.delete(KEY);
    sleep(SEC * 5).await;
    status(&registration, is_registered).await;
    let pause = registration.pause("warming cache").unwrap();
    sleep(SEC).await;
    drop(pause);
    status(&registration, is_registered).await;
    registration
}

async fn yields(setup: &Setup) {
    let registration = announced(setup.builder().on_conflict(OnConflict::Yield));
    status(&registration, is_registered).await;
    sleep(SEC).await;
    setup.fake.grant(7, 600);
    setup.fake.put(KEY, "theirs", 7);
    status(&registration, |s| {
        matches!(s, RegistrationStatus::Yielding { .. })
    })
    .await;
}

#[test]
fn each_line_of_the_registrar_names_service_and_key_or_their_number() {
    let mut registrar = contract();
    registrar.retain(|row| row.target == "tonic_etcd::registrar");
    for row in &registrar {
        let keys = ["key", "keys", "ops", "registrations", "address"];
        let has_key = keys.iter().any(|key| row.fields.contains(*key));
        assert!(row.fields.contains("service") && has_key, "{row:?}");
    }
}

/// Discovery and a channel, through an outage, a value that cannot be decoded, and endpoints that fail.
#[cfg(feature = "discovery")]
async fn discovers(setup: &Setup) {
    let discovery = crate::discovery::discovery(&setup.fake);
    let channel = discovery
        .channel()
        .connector(crate::channel::net::refuse)
        .build()
        .unwrap();
    discovery.ready().await;
    crate::discovery::put(&setup.fake, [1]);
    setup.fake.put("/services/greeter/2", "{", 0);
    sleep(SEC).await;
    setup.fake.down();
    sleep(SEC * 3).await;
    setup.fake.wipe();
    setup.fake.up();
    sleep(SEC * 60).await;
    assert!(channel.endpoints().is_empty());
}

#[test]
fn the_transcripts_fit_a_screen_and_show_the_lines_of_the_manual() {
    let manual = include_str!("../../src/manual/transcripts.md");
    let is_line = |line: &&str| line.contains(" tonic_etcd::");
    let without_time = |line: &str| printed(line.split_once("Z ").unwrap().1);
    let lines: Vec<_> = manual.lines().filter(is_line).map(without_time).collect();
    let seen = in_the_manual(&lines);
    for message in ["registered again", "registration confirmed", "drained"] {
        assert!(seen.contains(message), "not shown: {message}");
    }
    for block in manual.split("```").skip(1).step_by(2) {
        assert!(block.lines().count() <= 25, "{block}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_line_of_the_main_scenarios_is_in_the_manual() {
    crate::support::allow_subscribers_by_thread();
    let lines = Lines::default();
    let subscriber = tracing_subscriber::registry().with(lines.clone());
    let _default = tracing::subscriber::set_default(subscriber);

    let setup = Setup::new();
    let registration = through_everything(&setup).await;
    registration.deregister();
    registration.ended().await;
    yields(&Setup::new()).await;
    #[cfg(feature = "discovery")]
    discovers(&Setup::new()).await;
    let setup = Setup::new();
    let registration = setup.registered().await;
    setup.fake.down();
    setup.shutdown.cancel();
    registration.ended().await;

    let lines = lines.0.lock().unwrap().clone();
    let seen = in_the_manual(&lines);
    for message in [
        "registered",
        "registered again",
        "registration confirmed",
        "registration lost, trying again",
        "etcd is out of reach, the registration still holds",
        "etcd is out of reach, trying until it answers",
        "etcd answers again",
        "etcd rejected a write, repeating it later",
        "another client took the key over, taking it back",
        "another client took the key over, leaving it",
        "took the key over from another client",
        "another lease holds the key, leaving it",
        "paused, the keys are withheld",
        "deregistering",
        "deregistered",
        "could not deregister, the key expires with its lease",
        "attempt failed",
        #[cfg(feature = "discovery")]
        "watching etcd again",
        #[cfg(feature = "discovery")]
        "every endpoint fails",
        "lease granted",
    ] {
        assert!(seen.contains(message), "never logged: {message}");
    }
}
