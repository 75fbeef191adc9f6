//! A readiness probe withholds the keys of a server.

use crate::setup::{
    KEY, MS, SEC, Setup, all_registered, announced_by, greeter, is_paused, pause_reasons, status,
};
use crate::support::fake::Rpc;
use crate::support::registered_within;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic_etcd::{BuildError, Ended, Instance, Readiness, Registration, RegistrationStatus};

/// The result of the next run of the probe.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Ok,
    Fail,
    Hang,
    Panic,
}

/// A probe with a configurable result, which counts its runs.
#[derive(Clone)]
struct Probe {
    outcome: Arc<Mutex<Outcome>>,
    asked: Arc<AtomicUsize>,
}

impl Probe {
    fn new(outcome: Outcome) -> Self {
        Self {
            outcome: Arc::new(Mutex::new(outcome)),
            asked: Arc::default(),
        }
    }

    fn set(&self, outcome: Outcome) {
        *self.outcome.lock().unwrap() = outcome;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// A readiness with this probe every 2 s.
    fn readiness(&self) -> Readiness {
        let probe = self.clone();
        Readiness::every(2 * SEC, move || {
            probe.asked.fetch_add(1, Ordering::SeqCst);
            let outcome = *probe.outcome.lock().unwrap();
            async move {
                match outcome {
                    Outcome::Ok => Ok(()),
                    Outcome::Fail => Err("the db\nis down"),
                    Outcome::Hang => pending().await,
                    Outcome::Panic => panic!("a bug in the probe"),
                }
            }
        })
    }
}

fn announced(setup: &Setup, readiness: Readiness) -> Registration {
    crate::setup::announced(setup.builder().ready_when(readiness))
}

#[tokio::test(start_paused = true)]
async fn a_server_is_never_announced_before_its_probe_has_succeeded() {
    for (outcome, reason) in [
        (Outcome::Fail, "not ready: the db\\nis down"),
        (
            Outcome::Hang,
            "not ready: the readiness probe did not answer within 2s",
        ),
        (Outcome::Panic, "not ready: the readiness probe panicked"),
    ] {
        let (setup, probe) = (Setup::new(), Probe::new(outcome));
        let registration = announced(&setup, probe.readiness());
        status(&registration, is_paused).await;
        sleep(SEC * 3600).await;
        assert_eq!(pause_reasons(&registration), reason);
        assert_eq!(setup.counts([Rpc::LeaseGrant, Rpc::Txn]), [1, 0]);
        assert!((1790..=1802).contains(&probe.asked()), "{}", probe.asked());

        probe.set(Outcome::Ok);
        registered_within(SEC * 4, &registration).await;
        assert_eq!((setup.puts(), setup.deletes()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn before_the_first_answer_the_reason_is_that_the_probe_has_none() {
    let (setup, probe) = (Setup::new(), Probe::new(Outcome::Hang));
    let registration = announced(&setup, probe.readiness());
    sleep(SEC).await;
    let expected = "paused: not ready: the readiness probe has not answered";
    assert_eq!(registration.status().to_string(), expected);
}

#[tokio::test(start_paused = true)]
async fn three_failures_in_a_row_withhold_the_key_and_one_success_returns_it() {
    for outcome in [Outcome::Fail, Outcome::Hang, Outcome::Panic] {
        let (setup, probe) = (Setup::new(), Probe::new(Outcome::Ok));
        let registration = announced(&setup, probe.readiness());
        let lease = registration.registered().await.unwrap().lease;
        sleep(SEC).await;
        // The probe runs at 2 s, 4 s and 6 s; one that hangs fails 2 s later.
        probe.set(outcome);
        let late = if outcome == Outcome::Hang { 2 } else { 0 };
        let start = Instant::now();
        status(&registration, is_paused).await;
        let took = start.elapsed();
        let due = SEC * (5 + late);
        assert!(took.abs_diff(due) <= 50 * MS, "{outcome:?}: {took:?}");
        setup.keys_are(0, SEC).await;
        probe.set(Outcome::Ok);
        let again = registered_within(SEC * 4 + 50 * MS, &registration).await;
        assert_eq!(again.lease, lease);
        assert_eq!((setup.puts(), setup.deletes()), (2, 1), "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_flaps_changes_nothing() {
    let (setup, probe) = (Setup::new(), Probe::new(Outcome::Ok));
    let registration = announced(&setup, probe.readiness().success_threshold(2));
    registration.registered().await.unwrap();
    for round in 0..60 {
        // Two failures, a success.
        probe.set(if round % 3 == 2 {
            Outcome::Ok
        } else {
            Outcome::Fail
        });
        sleep(SEC * 2).await;
        assert!(registration.status().is_registered(), "{round}");
    }
    probe.set(Outcome::Fail);
    status(&registration, is_paused).await;
    for round in 0..60 {
        probe.set(if round % 2 == 0 {
            Outcome::Ok
        } else {
            Outcome::Fail
        });
        sleep(SEC * 2).await;
        assert!(is_paused(&registration.status()), "{round}");
    }
    assert_eq!((setup.puts(), setup.deletes()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_pause_and_a_probe_withhold_the_key_together() {
    let (setup, probe) = (Setup::new(), Probe::new(Outcome::Fail));
    let registration = announced(&setup, probe.readiness());
    let pause = registration.pause("warming cache").unwrap();
    sleep(SEC * 3).await;
    let expected = "warming cache|not ready: the db\\nis down";
    assert_eq!(pause_reasons(&registration), expected);
    probe.set(Outcome::Ok);
    sleep(SEC * 3).await;
    assert_eq!(pause_reasons(&registration), "warming cache");
    drop(pause);
    registration.registered().await.unwrap();
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_probe_ends_with_the_last_registration_and_begins_with_the_next() {
    let (setup, probe) = (Setup::new(), Probe::new(Outcome::Ok));
    let registrar = setup
        .builder()
        .ready_when(probe.readiness())
        .build()
        .unwrap();
    sleep(SEC * 10).await;
    assert_eq!(probe.asked(), 0, "nothing is registered");
    let names = ["a", "b"].map(|name| announced_by(&registrar, Instance::new(name)));
    all_registered(&names).await;
    sleep(SEC * 20).await;
    let asked = probe.asked();
    assert!((10..=12).contains(&asked), "one probe for both: {asked}");
    let [first, second] = names;
    first.deregister();
    first.ended().await;
    sleep(SEC * 20).await;
    assert!(probe.asked() >= asked + 9, "{}", probe.asked());
    second.deregister();
    second.ended().await;
    let asked = probe.asked();
    sleep(SEC * 60).await;
    assert_eq!(probe.asked(), asked, "nothing is registered");

    probe.set(Outcome::Fail);
    let third = announced_by(&registrar, greeter());
    sleep(SEC * 10).await;
    assert!(is_paused(&third.status()), "{}", third.status());
    assert!(setup.fake.keys().is_empty() && probe.asked() > asked);
    probe.set(Outcome::Ok);
    third.registered().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_delays_no_stop_and_is_dropped_with_it() {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (setup, dropped) = (Setup::new(), Arc::<AtomicUsize>::default());
    let of_probe = dropped.clone();
    let readiness = Readiness::every(SEC, move || {
        let guard = Dropped(of_probe.clone());
        async move {
            let _guard = guard;
            pending::<Result<(), String>>().await
        }
    });
    let registration = announced(&setup, readiness.timeout(SEC * 3600));
    sleep(SEC * 10).await;
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    let start = Instant::now();
    setup.shutdown.cancel();
    assert_eq!(registration.ended().await, Ended::Deregistered);
    registration.drain_signal().await;
    assert!(start.elapsed() <= SEC + 100 * MS, "{:?}", start.elapsed());
    sleep(MS).await;
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert_eq!((setup.puts(), setup.fake.leases().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_cannot_work_is_refused_before_anything_happens() {
    let setup = Setup::new();
    let probe = Probe::new(Outcome::Ok);
    let zero = Readiness::every(Duration::ZERO, || async { Ok::<_, String>(()) });
    for bad in [
        zero,
        probe.readiness().timeout(Duration::ZERO),
        probe.readiness().failure_threshold(0),
        probe.readiness().success_threshold(0),
    ] {
        let built = setup.builder().ready_when(bad).build();
        assert!(matches!(
            built,
            Err(BuildError::Setting {
                name: "ready_when",
                ..
            })
        ));
    }
    sleep(SEC * 10).await;
    assert_eq!((probe.asked(), setup.fake.history().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_the_probe_says_is_there_while_etcd_is_down() {
    let (setup, probe) = (Setup::new(), Probe::new(Outcome::Ok));
    let registration = announced(&setup, probe.readiness());
    registration.registered().await.unwrap();
    setup.fake.down();
    sleep(SEC * 20).await;
    probe.set(Outcome::Fail);
    status(&registration, is_paused).await;
    setup.fake.up();
    sleep(SEC * 10).await;
    assert!(!setup.fake.keys().contains_key(KEY));
    probe.set(Outcome::Ok);
    status(&registration, RegistrationStatus::is_registered).await;
    assert!(setup.fake.keys().contains_key(KEY));
}
