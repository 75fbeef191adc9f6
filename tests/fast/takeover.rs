//! A key that another lease holds is taken over: the registrar logs from whom, without an extra request.

use crate::log::Log;
use crate::setup::{KEY, SEC, Setup, announce, announced_by, greeter, is_registered, status};
use crate::support::fake::Rpc;
use crate::support::registered_within;
use tokio::time::sleep;
use tonic_etcd::{Instance, Registrar, Registration};

const TAKEN: &str = "took the key over from another client";
const RIVAL: i64 = 0x77;

/// Their lines in the log.
fn lines(log: &Log) -> Vec<String> {
    let lines = log.lines().into_iter();
    lines.filter(|line| line.contains(TAKEN)).collect()
}

async fn registered(registrar: &Registrar) -> Registration {
    let registration = announced_by(registrar, greeter());
    registered_within(SEC, &registration).await;
    registration
}

#[tokio::test(start_paused = true)]
async fn a_takeover_is_logged_with_the_rival_without_another_transaction() {
    let (setup, log) = (Setup::new(), Log::start());
    setup.fake.grant(RIVAL, 600);
    setup.fake.put(KEY, "10.0.0.1:1\nover two lines", RIVAL);
    let registration = registered(&setup.builder().build().unwrap()).await;
    assert_eq!(setup.count(Rpc::Txn), 1);
    let lines = lines(&log);
    let [line] = &lines[..] else {
        panic!("{lines:?}");
    };
    let ours = registration.status().registered().unwrap().lease;
    for part in [
        " WARN ".to_owned(),
        format!("service=greeter key={KEY} lease={ours:016x} rival=0000000000000077 "),
        r"value=10.0.0.1:1\nover two lines".to_owned(),
    ] {
        assert!(line.contains(&part), "{part} in {line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_free_or_ours_is_written_without_a_word() {
    let (setup, log) = (Setup::new(), Log::start());
    let registration = registered(&setup.builder().build().unwrap()).await;
    for version in ["2", "3"] {
        registration.update(|i| i.with_version(version)).unwrap();
        sleep(SEC).await;
        setup.fake.restart();
        sleep(SEC * 5).await;
    }
    setup.fake.wipe();
    sleep(SEC * 5).await;
    assert!(is_registered(&registration.status()));
    assert_eq!(lines(&log), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_taken_in_an_outage_is_taken_back_with_a_word() {
    let (setup, log) = (Setup::new(), Log::start());
    let registration = registered(&setup.builder().build().unwrap()).await;
    setup.fake.down();
    setup.fake.put(KEY, "theirs", 0);
    sleep(SEC).await;
    let before = setup.count(Rpc::Txn);
    setup.fake.up();
    sleep(SEC).await;
    status(&registration, is_registered).await;
    assert_eq!(setup.count(Rpc::Txn), before + 2, "a read and a write");
    let lines = lines(&log);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("rival=0000000000000000 value=theirs"));
}

/// The values of other clients may be large.
#[tokio::test(start_paused = true)]
async fn more_than_16_keys_at_once_are_taken_over_without_asking() {
    for (count, said) in [(16, 1), (17, 0)] {
        let (setup, log) = (Setup::new(), Log::start());
        let name = |n| format!("many{n}");
        for n in 0..count {
            let key = format!("/services/{}/10.0.0.1:9000", name(n));
            setup.fake.put(&key, "theirs", 0);
        }
        let registrar = setup.builder().build().unwrap();
        let instances = (0..count).map(|n| Instance::new(name(n)));
        let registration = registrar.register_all(instances).unwrap();
        announce(&registration);
        registered_within(SEC, &registration).await;
        assert_eq!(setup.count(Rpc::Txn), 1);
        assert_eq!(lines(&log).len(), said, "{count} keys of one rival");
    }
}

#[tokio::test(start_paused = true)]
async fn a_role_that_may_only_write_is_denied_once_and_not_tried_again() {
    let (setup, log) = (Setup::new(), Log::start());
    setup.fake.deny_reads("");
    setup.fake.put(KEY, "theirs", 0);
    let registrar = setup.builder().build().unwrap();
    let registration = registered(&registrar).await;
    assert_eq!(setup.count(Rpc::Txn), 2);
    let other = announced_by(&registrar, Instance::new("other"));
    registered_within(SEC, &other).await;
    assert_eq!(setup.count(Rpc::Txn), 3);
    assert!(is_registered(&registration.status()));
    assert_eq!(lines(&log), Vec::<String>::new());
    assert!(!log.text().contains("rejected a write"), "{}", log.text());
}

/// tonic accepts 4 MiB: the answer is lost, but the transaction is applied.
#[tokio::test(start_paused = true)]
async fn a_replaced_value_too_large_for_an_answer_causes_one_reconnect() {
    let setup = Setup::new();
    setup.fake.put(KEY, &"x".repeat(5 << 20), 0);
    let _registration = registered(&setup.builder().build().unwrap()).await;
    // One that was replaced, one whose value is not known after the reconnect, and the read between them.
    assert_eq!(setup.count(Rpc::Txn), 3);
}
