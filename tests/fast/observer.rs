//! The calls of observers, the stats, and the log lines in the same events.

use crate::log::Log;
use crate::setup::{
    KEY, LONG, SEC, Setup, announce, announced, is_lost, is_paused, is_registered, register, status,
};
use crate::support::eventually;
use crate::support::fake::{Reply, Rpc};
use std::sync::{Arc, Mutex};
use tokio::time::sleep;
use tonic_etcd::observer::{ConnectionEvent, Observer, RenewalEvent, StatusEvent, WriteEvent};
use tonic_etcd::{RegistrationStatus, Timestamp};
use tower::{Layer as _, Service as _, service_fn};

/// Records each call in a short form.
#[derive(Debug, Default)]
struct Notes {
    transitions: Mutex<Vec<String>>,
    writes: Mutex<Vec<String>>,
    renewals: Mutex<Vec<bool>>,
    connections: Mutex<Vec<String>>,
}

/// The kind of a status, as it is printed, without the reason.
fn kind(status: &RegistrationStatus) -> String {
    let text = status.to_string();
    text.split(':').next().unwrap().to_owned()
}

impl Observer for Notes {
    fn on_status(&self, transition: &StatusEvent<'_>) {
        assert_eq!(transition.services, ["greeter"]);
        let from = transition.from.map(kind);
        let line = format!("{} -> {}", from.unwrap_or_default(), kind(transition.to));
        self.transitions.lock().unwrap().push(line);
    }

    fn on_renewal(&self, renewal: &RenewalEvent<'_>) {
        assert!(renewal.took <= SEC, "{renewal:?}");
        self.renewals.lock().unwrap().push(renewal.error.is_none());
    }

    fn on_connection(&self, connection: &ConnectionEvent<'_>) {
        let result = if connection.error.is_some() {
            "failed"
        } else {
            "ok"
        };
        let line = format!("{} {result}", connection.endpoint);
        self.connections.lock().unwrap().push(line);
    }

    fn on_write(&self, write: &WriteEvent<'_>) {
        let result = if write.error.is_some() { " failed" } else { "" };
        let line = format!("{} {:?}{result}", write.keys, write.reason);
        self.writes.lock().unwrap().push(line);
    }
}

/// Panics in each call.
#[derive(Debug)]
struct Panics;

impl Observer for Panics {
    fn on_status(&self, _: &StatusEvent<'_>) {
        panic!("transition");
    }

    fn on_renewal(&self, _: &RenewalEvent<'_>) {
        panic!("renewal");
    }

    fn on_connection(&self, _: &ConnectionEvent<'_>) {
        panic!("connection");
    }

    fn on_write(&self, _: &WriteEvent<'_>) {
        panic!("write");
    }
}

#[tokio::test(start_paused = true)]
async fn observers_are_called_with_each_transition_in_order() {
    let (setup, notes) = (Setup::new(), Arc::new(Notes::default()));
    let registration = setup
        .registered_with(setup.builder().observer(notes.clone()))
        .await;
    sleep(SEC).await;
    setup.fake.wipe();
    status(&registration, is_lost).await;
    status(&registration, is_registered).await;
    let pause = registration.pause("warming cache").unwrap();
    status(&registration, is_paused).await;
    drop(pause);
    status(&registration, is_registered).await;
    registration.deregister();
    registration.ended().await;
    let transitions = notes.transitions.lock().unwrap().clone();
    let mut kinds: Vec<_> = transitions.iter().map(String::as_str).collect();
    // The same kind with another reason or revision.
    kinds.retain(|line| line.split_once(" -> ").is_some_and(|(from, to)| from != to));
    assert_eq!(
        kinds,
        [
            " -> registering",
            "registering -> registered",
            "registered -> registration lost",
            "registration lost -> registered",
            "registered -> paused",
            "paused -> registering",
            "registering -> registered",
            "registered -> deregistering",
            "deregistering -> deregistered",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn each_write_comes_with_the_reason_for_it() {
    let (setup, notes) = (Setup::new(), Arc::new(Notes::default()));
    let registration = setup
        .registered_with(setup.builder().observer(notes.clone()))
        .await;
    let back = async || {
        sleep(SEC).await;
        status(&registration, is_registered).await;
        std::mem::take(&mut *notes.writes.lock().unwrap())
    };
    assert_eq!(back().await, ["1 New"]);
    setup.fake.delete(KEY);
    assert_eq!(back().await, ["1 Deleted"]);
    setup.fake.put(KEY, "theirs", 0);
    assert_eq!(back().await, ["1 Overwritten"]);
    registration
        .update(|instance| instance.with_value("w"))
        .unwrap();
    assert_eq!(back().await, ["1 Updated"]);
    setup.fake.revoke_all();
    // etcd deletes the key first, and the lease is found to be gone at the write.
    assert_eq!(back().await, ["1 Deleted failed", "1 LeaseLost"]);
    let pause = registration.pause("warming cache").unwrap();
    sleep(SEC).await;
    drop(pause);
    assert_eq!(back().await, ["1 Withdrawn", "1 Resumed"]);
    setup.fake.script(Rpc::Txn, Reply::DropReply);
    setup.fake.delete(KEY);
    // The answer is waited for, for as long as nothing else can be tried, and then the connection is given up.
    sleep(SEC * 10).await;
    assert_eq!(back().await, ["1 Differs"]);
}

#[tokio::test(start_paused = true)]
async fn observers_get_renewals_and_connections_with_their_errors() {
    let (setup, notes) = (Setup::new(), Arc::new(Notes::default()));
    let registration = setup
        .registered_with(setup.builder().observer(notes.clone()))
        .await;
    sleep(SEC * 20).await;
    let renewals = notes.renewals.lock().unwrap().clone();
    assert!((10..20).contains(&renewals.len()), "{renewals:?}");
    assert!(renewals.iter().all(|ok| *ok));
    setup.fake.hang();
    sleep(SEC * 3).await;
    assert!(notes.renewals.lock().unwrap().contains(&false));
    setup.fake.down();
    sleep(SEC).await;
    setup.fake.up();
    setup.fake.resume();
    status(&registration, is_registered).await;
    let connections = notes.connections.lock().unwrap().clone();
    assert_eq!(connections.first().unwrap(), "http://etcd:2379 ok");
    assert_eq!(connections.last().unwrap(), "http://etcd:2379 ok");
    let failed = "http://etcd:2379 failed".to_owned();
    assert!(connections.contains(&failed), "{connections:?}");
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_changes_nothing_for_the_registration() {
    let (setup, notes) = (Setup::new(), Arc::new(Notes::default()));
    let registration = announced(setup.builder().observer(Panics).observer(notes.clone()));
    status(&registration, is_registered).await;
    let lease = setup.key_back().await;
    sleep(SEC * 60).await;
    assert_eq!(setup.key_back().await, lease);
    registration.deregister();
    registration.ended().await;
    let transitions = notes.transitions.lock().unwrap().clone();
    // The next observer is told all the same.
    let last = transitions.last().unwrap();
    assert_eq!(last, "deregistering -> deregistered");
}

#[tokio::test(start_paused = true)]
async fn stats_show_lease_renewals_connection_keys_and_pauses() {
    let setup = Setup::new();
    let registration = register(setup.builder());
    let made = Timestamp::now();
    let before = registration.stats();
    assert_eq!((before.since, before.keys.len()), (made, 0));
    assert_eq!((before.etcd.lease, before.revision), (None, None));
    announce(&registration);
    status(&registration, is_registered).await;
    sleep(SEC * 3).await;

    let stats = registration.stats();
    let held = setup.fake.keys()[KEY].lease;
    assert_eq!(stats.services, ["greeter"]);
    assert_eq!(stats.formats, ["plain"]);
    assert_eq!(*stats.keys, [KEY.into()]);
    assert_eq!(stats.etcd.lease, Some(held));
    assert_eq!(stats.etcd.endpoint.as_deref(), Some("http://etcd:2379"));
    assert_eq!(stats.etcd.last_error, None);
    assert!(stats.revision.is_some_and(|revision| revision > 0));
    let (sent, due) = (
        stats.etcd.renewal_sent.unwrap(),
        stats.etcd.renewal_due.unwrap(),
    );
    assert_eq!(stats.etcd.renewal_acknowledged, Some(sent));
    let now = Timestamp::now();
    assert!(sent <= now && now <= due, "{stats:?}");

    setup.fake.down();
    status(&registration, is_lost).await;
    let lost = registration.stats();
    assert_eq!(*lost.keys, [KEY.into()], "those that were there last");
    assert_eq!((lost.revision, lost.etcd.endpoint), (None, None));
    let (_, error) = lost.etcd.last_error.unwrap();
    assert!(error.contains("etcd:2379"), "{error}");
    setup.fake.up();
    status(&registration, is_registered).await;
    let _pause = registration.pause("warming cache").unwrap();
    sleep(SEC).await;
    let paused = registration.stats();
    assert_eq!(paused.pauses, ["warming cache".into()]);
    assert!(
        matches!(paused.status, RegistrationStatus::Paused { since, .. } if since == paused.since)
    );
}

#[tokio::test(start_paused = true)]
async fn a_takeover_is_logged_once_per_rival_and_minute() {
    let (setup, log) = (Setup::new(), Log::start());
    let registration = setup.registered().await;
    let ours = setup.key_back().await;
    setup.fake.grant(0x1234, 600);
    let value = format!("theirs\n{}", "x".repeat(1000));
    let overwrite = async || {
        setup.fake.put(KEY, &value, 0x1234);
        eventually("taken back", LONG, || match setup.fake.keys().get(KEY) {
            Some(stored) if stored.lease == ours => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    };
    let lines = || {
        let mut lines = log.lines();
        lines.retain(|line| line.contains("took the key over"));
        lines
    };
    overwrite().await;
    overwrite().await;
    let first = lines();
    assert_eq!(first.len(), 1, "{first:?}");
    for part in [
        "WARN",
        "service=greeter",
        &format!("key={KEY}"),
        &format!("lease={ours:016x}"),
        "rival=0000000000001234",
        "value=theirs\\nxxx",
        "taking it back",
    ] {
        assert!(first[0].contains(part), "{part}: {}", first[0]);
    }
    assert!(first[0].len() < 600, "{}", first[0]);
    sleep(SEC * 61).await;
    overwrite().await;
    assert_eq!(lines().len(), 2);
    drop(registration);
}

#[tokio::test(start_paused = true)]
async fn an_outage_has_at_most_one_debug_line_a_second() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    sleep(SEC).await;
    let log = Log::of("tonic_etcd=debug");
    setup.fake.down();
    sleep(SEC * 60).await;
    let lines = log.lines();
    let debug = lines.iter().filter(|line| line.contains("DEBUG")).count();
    assert!((30..=61).contains(&debug), "{debug} lines: {lines:#?}");
    assert!(lines.len() - debug <= 3, "{lines:#?}");
    for line in &lines {
        assert!(line.contains("service=greeter"), "{line}");
    }
    drop(registration);
}

#[tokio::test(start_paused = true)]
async fn a_drain_logs_the_requests_it_waits_for_and_those_it_ends() {
    for (answers_after, end) in [
        (
            SEC * 3,
            "INFO tonic_etcd::registrar::report: drained service=greeter",
        ),
        (
            SEC * 60,
            "WARN tonic_etcd::registrar::report: drain_timeout is over",
        ),
    ] {
        let (setup, log) = (Setup::new(), Log::start());
        let registration = setup.registered().await;
        let mut service =
            registration
                .layer()
                .layer(service_fn(move |_: http::Request<()>| async move {
                    sleep(answers_after).await;
                    Ok::<_, std::convert::Infallible>(http::Response::new(
                        tonic::body::Body::empty(),
                    ))
                }));
        let requests = [(); 2].map(|()| {
            let answer = service.call(http::Request::new(()));
            // A response is in flight until its body was read or dropped.
            tokio::spawn(async move { drop(answer.await) })
        });
        sleep(SEC / 2).await;
        registration.deregister();
        registration.ended().await;
        sleep(SEC * 40).await;
        let mut lines = log.lines();
        lines.retain(|line| line.contains("drain"));
        assert_eq!(lines.len(), 2, "{lines:#?}");
        for line in &lines {
            assert!(line.contains(&format!("key={KEY}")), "{line}");
        }
        assert!(lines[0].contains("INFO"), "{lines:#?}");
        assert!(lines[0].contains("draining"), "{lines:#?}");
        assert!(lines[0].ends_with("in_flight=2"), "{lines:#?}");
        assert!(lines[1].contains(end), "{lines:#?}");
        let left = if answers_after > SEC * 30 { 2 } else { 0 };
        let left = format!("in_flight={left}");
        assert!(lines[1].ends_with(&left), "{lines:#?}");
        drop(requests);
    }
}
