//! Differences of `etcd grpc-proxy` from etcd: late renewals, and its own watch ids.

use crate::log::Log;
use crate::setup::{KEY, LONG, MS, SEC, Setup, all_registered, announced_by, greeter};
use crate::support::eventually;
use crate::support::fake::{Reply, Rpc};
use tokio::time::{Instant, sleep, timeout};
use tonic_etcd::{Instance, RegistrationStatus};

/// Each was an outage of 0.6 s: WARN, `Suspect`, another connection.
#[tokio::test(start_paused = true)]
async fn renewals_that_are_answered_late_change_no_status_and_log_nothing() {
    for late in [
        Reply::Late(700 * MS),
        Reply::Late(SEC * 3 / 2),
        // Renewed meanwhile, by the proxy itself.
        Reply::Delay(SEC * 2),
        Reply::Delay(SEC * 5 / 2),
    ] {
        let setup = Setup::new();
        let registration = setup.registered().await;
        sleep(SEC).await;
        setup.fake.always(Rpc::LeaseKeepAlive, late.clone());
        let mut watch = registration.watch();
        let change = tokio::spawn(async move { watch.changed().await });
        let log = Log::start();
        sleep(SEC * 300).await;
        assert!(
            !change.is_finished(),
            "{late:?}: {:?}",
            registration.status()
        );
        assert_eq!(log.lines(), [""; 0], "{late:?}");
        assert_eq!((setup.puts(), setup.deletes()), (1, 0), "{late:?}");
        assert_eq!(setup.count(Rpc::Connect), 1, "{late:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_without_an_answer_is_given_up_while_the_lease_can_be_kept() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let lease = setup.fake.keys()[KEY].lease;
    sleep(SEC * 10).await;
    // One stream answers nothing, while the member works.
    setup.fake.script(Rpc::LeaseKeepAlive, Reply::Never);
    let before = setup.count(Rpc::Connect);
    let reconnected = || match setup.count(Rpc::Connect) {
        count if count > before => Ok(()),
        count => Err(format!("{count} connections")),
    };
    let asked = setup.count(Rpc::LeaseKeepAlive);
    eventually("another connection", LONG, reconnected).await;
    let after = setup.fake.calls(Rpc::LeaseKeepAlive)[asked].at.elapsed();
    assert!(after < SEC * 5 - 3 * 600 * MS, "{after:?}");
    sleep(SEC * 20).await;
    assert!(registration.status().is_registered());
    assert_eq!(setup.fake.keys()[KEY].lease, lease);
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
}

/// Each attempt to renew was given up before its answer, and the registration stayed lost forever: found by the
/// soak, with renewals answered a third of a TTL late.
#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_noticed_also_if_renewals_are_answered_late() {
    for late in [SEC, SEC * 2] {
        let setup = Setup::new();
        let registration = setup.registered().await;
        let lease = setup.fake.keys()[KEY].lease;
        setup.fake.always(Rpc::LeaseKeepAlive, Reply::Delay(late));
        // For longer than the TTL: while it may live, a write finds out that it is gone.
        setup.fake.down();
        setup.fake.wipe();
        sleep(SEC * 20).await;
        setup.fake.up();
        let is_back = || match setup.fake.keys().get(KEY) {
            Some(key) if key.lease != lease && registration.status().is_registered() => Ok(()),
            key => Err(format!("{key:?}, {}", registration.status())),
        };
        eventually("another lease", SEC * 10, is_back).await;
    }
}

/// A member that hangs while a renewal is late has to be noticed as soon as otherwise.
#[tokio::test(start_paused = true)]
async fn a_black_hole_is_noticed_in_time_also_while_a_renewal_is_late() {
    for hangs_after in (0..20).map(|n| n * 100 * MS) {
        let setup = Setup::new();
        let registration = setup.registered().await;
        setup
            .fake
            .always(Rpc::LeaseKeepAlive, Reply::Delay(SEC * 2));
        sleep(SEC * 10 + hangs_after).await;
        assert!(registration.status().is_registered());
        let before = Instant::now();
        setup.fake.black_hole();
        let mut watch = registration.watch();
        let suspect = watch.wait_for(|status| matches!(status, RegistrationStatus::Suspect { .. }));
        timeout(LONG, suspect).await.unwrap().unwrap();
        // A renewal may just have been answered: then the next one has to be sent first.
        let after = before.elapsed();
        assert!(after < 1840 * MS + 610 * MS, "{hangs_after:?}: {after:?}");
        let RegistrationStatus::Suspect { reason, .. } = registration.status() else {
            panic!("{:?}", registration.status());
        };
        assert!(reason.contains("no answer within 600ms"), "{reason}");
    }
}

/// The id of one watch here is that of another there: cancelling it left another key unwatched.
#[tokio::test(start_paused = true)]
async fn watches_under_ids_of_a_proxys_choice_are_cancelled_and_kept() {
    let setup = Setup::new();
    setup.fake.configure(|it| it.own_watch_ids = true);
    let registrar = setup.builder().build().unwrap();
    let instances = (0..5).map(|n| Instance::new(format!("greeter{n}")).with_value("v"));
    let registrations: Vec<_> = instances.map(|it| announced_by(&registrar, it)).collect();
    let key = |n: usize| format!("/services/greeter{n}/10.0.0.1:9000");
    all_registered(&registrations).await;
    sleep(SEC).await;
    // The first ones leave, one after the other; the rest is watched on.
    for (gone, registration) in registrations.iter().enumerate() {
        registration.deregister();
        registration.ended().await;
        sleep(SEC).await;
        for kept in gone + 1..5 {
            setup.fake.put(&key(kept), "theirs", 0);
            eventually("the key is ours again", SEC, || {
                let stored = setup.fake.keys().get(&key(kept)).cloned();
                match stored {
                    Some(stored) if stored.value == "v" => Ok(()),
                    other => Err(format!("{gone} gone, {kept}: {other:?}")),
                }
            })
            .await;
        }
        sleep(LONG).await;
    }
    assert_eq!(setup.count(Rpc::Connect), 1);
    // A key that comes later is watched as well.
    let late = announced_by(&registrar, greeter());
    late.registered().await.unwrap();
    sleep(SEC).await;
    setup.fake.delete(KEY);
    setup.key_back().await;
}
