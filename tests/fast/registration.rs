//! A registration appears, changes and is deregistered, without faults.

use crate::setup::{
    KEY, LONG, MS, SEC, Setup, announce, announced, announced_by, greeter, register, register_as,
    status,
};
use crate::support::eventually;
use crate::support::fake::{Call, Rpc};
use std::collections::BTreeSet;
use tokio::time::sleep;
use tonic_etcd::{Ended, Etcd, Instance, OnConflict, RegisterError, RegistrationStatus};
use tower::Layer as _;

#[tokio::test(start_paused = true)]
async fn the_lease_is_granted_early_and_one_transaction_makes_it_visible() {
    let setup = Setup::new();
    let registration = register(setup.builder());
    sleep(SEC).await;
    assert_eq!(setup.counts([Rpc::LeaseGrant, Rpc::Txn]), [1, 0]);
    let seen = status(&registration, |s| !s.is_registered()).await;
    assert_eq!(registration.status(), seen);

    announce(&registration);
    let registered = registration.registered().await.unwrap();
    assert_eq!(setup.counts([Rpc::LeaseGrant, Rpc::Txn]), [1, 1]);
    let stored = &setup.fake.keys()[KEY];
    assert_eq!((&*stored.value, stored.lease), ("v", registered.lease));
    assert_eq!(registered.revision, stored.mod_revision);
    assert_eq!(*registered.keys, [KEY.into()]);
}

#[tokio::test(start_paused = true)]
async fn every_put_carries_the_lease_and_asks_for_a_leader() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    registration
        .update(|instance| instance.with_value("w"))
        .unwrap();
    sleep(SEC).await;
    let mut puts = setup.fake.history();
    puts.retain(|call| !call.puts.is_empty());
    assert_eq!(puts.len(), 2);
    for put in puts {
        assert!(put.lease != 0 && put.require_leader, "{put:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_registration_costs_three_renewals_a_ttl_and_few_reads() {
    let setup = Setup::new();
    let _registration = setup.registered().await;
    sleep(SEC).await;
    let before = setup.fake.history().len();
    sleep(SEC * 3600).await;
    let history = setup.fake.history().split_off(before);
    let is_renewal = |call: &&Call| call.rpc == Rpc::LeaseKeepAlive;
    let renewals = history.iter().filter(is_renewal).count();
    let checks = history.len() - renewals;
    assert!((57..=61).contains(&checks), "{checks} reads in an hour");
    assert!((2120..=2200).contains(&renewals), "{renewals} in an hour");
    assert_eq!(setup.count(Rpc::Connect), 1);
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn several_names_of_a_server_come_and_go_together() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let names = ["greeter", "admin", "metrics"];
    let registration = registrar.register_all(names.map(Instance::new)).unwrap();
    announce(&registration);
    let registered = registration.registered().await.unwrap();
    assert_eq!(registered.keys.len(), 3);
    assert_eq!(setup.fake.keys().len(), 3);
    assert_eq!(setup.counts([Rpc::LeaseGrant, Rpc::Txn]), [1, 1]);
    registration.deregister();
    assert_eq!(registration.ended().await, Ended::Deregistered);
    assert_eq!(setup.fake.keys().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_update_changes_the_value_in_place_under_the_same_lease() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let before = setup.fake.keys()[KEY].clone();
    registration
        .update(|instance| instance.with_value("new"))
        .unwrap();
    let after = setup.key_holds("new", LONG).await;
    assert_eq!(after.lease, before.lease);
    assert_eq!(after.version, before.version + 1);
    let revision = |s: &RegistrationStatus| s.registered().map(|registered| registered.revision);
    status(&registration, |s| revision(s) == Some(after.mod_revision)).await;
    assert_eq!(setup.deletes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_quick_updates_end_with_the_last_one() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    for n in 1..=100 {
        registration
            .update(|instance| instance.with_value(n.to_string()))
            .unwrap();
        tokio::task::yield_now().await;
    }
    sleep(SEC).await;
    assert_eq!(setup.fake.keys()[KEY].value, "100");
}

#[tokio::test(start_paused = true)]
async fn one_of_several_leaves_alone_and_the_last_one_revokes_the_lease() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let [a, b] = ["a", "b"].map(|name| announced_by(&registrar, Instance::new(name)));
    let lease = a.registered().await.unwrap().lease;
    b.registered().await.unwrap();
    a.deregister();
    assert_eq!(a.ended().await, Ended::Deregistered);
    assert_eq!(setup.key_names(), ["/services/b/10.0.0.1:9000"]);
    assert_eq!(setup.count(Rpc::LeaseRevoke), 0);
    b.deregister();
    assert_eq!(b.ended().await, Ended::Deregistered);
    assert!(setup.fake.keys().is_empty() && setup.fake.leases().is_empty());
    assert_eq!(setup.count(Rpc::LeaseRevoke), 1);

    let again = announced_by(&registrar, Instance::new("a"));
    assert_ne!(again.registered().await.unwrap().lease, lease);
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_dropped_deregisters_at_once() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let clone = registration.clone();
    drop(registration);
    sleep(SEC).await;
    assert!(clone.status().is_registered());
    drop(clone);
    setup.keys_are(0, LONG).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_runs_on_once_the_registrar_and_its_registrations_are_gone() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    registration.deregister();
    registration.ended().await;
    drop(registration);
    eventually("the connection is closed", LONG, || {
        match setup.fake.connections_open() {
            0 => Ok(()),
            open => Err(format!("{open} open")),
        }
    })
    .await;
    let (calls, tasks) = (setup.fake.history().len(), alive_tasks());
    sleep(SEC * 600).await;
    assert_eq!(setup.fake.history().len(), calls);
    assert!(alive_tasks() <= tasks);
}

fn alive_tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn two_registrations_of_one_key_are_refused_with_the_key() {
    let setup = Setup::new();
    let registrar = setup
        .builder()
        .key_template("{prefix}/{name}/{ip}/{pid}")
        .build()
        .unwrap();
    let _first = registrar.register(greeter()).unwrap();
    let error = registrar.register(greeter()).unwrap_err();
    let is_same = matches!(&error, RegisterError::SameKey { name, .. } if name == "greeter");
    let text = error.to_string();
    assert!(is_same && text.contains("/services/greeter/?/"), "{error}");
    let elsewhere = registrar.register(greeter().with_address("10.0.0.2:1"));
    // The first may be bound there.
    assert!(matches!(elsewhere, Err(RegisterError::SameKey { .. })));

    let [a, b] = ["10.0.0.1:1", "10.0.0.2:1"].map(|at| Instance::new("other").with_address(at));
    let _both = registrar.register_all([a.clone(), b]).unwrap();
    let same = registrar.register(a).unwrap_err();
    assert!(matches!(same, RegisterError::SameKey { .. }), "{same}");
    let none = registrar.register_all([]).unwrap_err();
    assert!(matches!(none, RegisterError::NoInstance), "{none}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_for_an_instance_that_is_refused() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    for bad in [
        Instance::new("a/b"),
        Instance::new("greeter").with_address("0.0.0.0:9000"),
        Instance::new("greeter").with_value("x".repeat(2 << 20)),
    ] {
        registrar.register(bad).unwrap_err();
    }
    sleep(SEC).await;
    assert_eq!(setup.fake.history(), []);
}

#[tokio::test(start_paused = true)]
async fn loopback_is_refused_where_etcd_is_surely_on_another_machine() {
    let setup = Setup::new();
    // TEST-NET-1 (RFC 5737) is nobody's.
    let remote = || Etcd::new(["http://192.0.2.1:2379"]).connector(setup.fake.connector());
    let loopback = Instance::new("greeter").with_address("127.0.0.1:9000");
    let registrar = setup.builder_on(remote()).build().unwrap();
    let error = registrar.register(loopback.clone()).unwrap_err();
    for part in ["127.0.0.1:9000", "allow_loopback"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let bound = registrar.register(greeter()).unwrap();
    let announced = bound.announce("127.0.0.1:9000".parse().unwrap());
    announced.unwrap_err();
    let allows = setup.builder_on(remote()).allow_loopback(true);
    for builder in [allows, setup.builder()] {
        drop(register_as(builder, loopback.clone()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_announces_an_explicit_address_once_it_is_applied() {
    let setup = Setup::new();
    let registration = register_as(setup.builder(), greeter().with_address("10.0.0.1:9000"));
    let layer = registration.layer();
    sleep(SEC).await;
    assert!(setup.fake.keys().is_empty());
    let _service = layer.layer(());
    let _again = layer.layer(());
    registration.registered().await.unwrap();
    sleep(SEC).await;
    assert_eq!(setup.puts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_layer_without_an_address_announces_nothing() {
    let setup = Setup::new();
    let registration = register(setup.builder());
    let _service = registration.layer().layer(());
    sleep(SEC).await;
    assert!(setup.fake.keys().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_key_may_carry_the_lease_and_moves_with_it() {
    let setup = Setup::new();
    let registration = announced(setup.builder().key_template("{name}/{lease}"));
    let lease = registration.registered().await.unwrap().lease;
    assert_eq!(setup.key_names(), [format!("greeter/{lease}")]);
    setup.fake.revoke(lease);
    let another =
        |s: &RegistrationStatus| matches!(s, RegistrationStatus::Registered(r) if r.lease != lease);
    let registered = status(&registration, another).await;
    let lease = registered.registered().unwrap().lease;
    assert_eq!(setup.key_names(), [format!("greeter/{lease}")]);
}

#[tokio::test(start_paused = true)]
async fn a_stale_key_is_taken_over_and_the_end_of_its_lease_changes_nothing() {
    let setup = Setup::new();
    setup.fake.grant(99, 5);
    setup.fake.put(KEY, "old", 99);
    let _registration = setup.registered().await;
    assert_eq!(setup.fake.keys()[KEY].value, "v");
    sleep(SEC * 20).await;
    assert!(!setup.fake.leases().contains_key(&99));
    assert_eq!((&*setup.fake.keys()[KEY].value, setup.deletes()), ("v", 0));
}

#[tokio::test(start_paused = true)]
async fn yielding_is_shown_until_the_key_is_free() {
    let setup = Setup::new();
    setup.fake.grant(99, 30);
    setup.fake.put(KEY, "theirs", 99);
    let registration = announced(setup.builder().on_conflict(OnConflict::Yield));
    let yielding = status(&registration, |s| {
        matches!(s, RegistrationStatus::Yielding { .. })
    })
    .await;
    assert!(matches!(
        yielding,
        RegistrationStatus::Yielding { to_lease: 99, .. }
    ));
    sleep(SEC * 20).await;
    assert_eq!(setup.fake.keys()[KEY].value, "theirs");
    let freed = tokio::time::Instant::now();
    setup.fake.revoke(99);
    registration.registered().await.unwrap();
    assert!(freed.elapsed() <= 50 * MS, "{:?}", freed.elapsed());
    assert_eq!(setup.fake.keys()[KEY].value, "v");
}

#[tokio::test(start_paused = true)]
async fn every_registration_is_told_apart_by_its_key() {
    let setup = Setup::new();
    let registrar = setup
        .builder()
        .key_template("{prefix}/{name}/{id}")
        .build()
        .unwrap();
    let mut registrations = vec![];
    for _ in 0..10 {
        let registration = announced_by(&registrar, greeter());
        registration.registered().await.unwrap();
        registrations.push(registration);
    }
    let keys: BTreeSet<_> = setup.fake.keys().into_keys().collect();
    assert_eq!(keys.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_chosen_interface_is_the_one_advertised() {
    let interfaces = if_addrs::get_if_addrs().unwrap();
    for interface in &interfaces {
        let ours: Vec<_> = interfaces
            .iter()
            .filter(|i| i.name == interface.name)
            .collect();
        let v4 = ours.iter().find(|i| i.ip().is_ipv4() && !i.is_loopback());
        let setup = Setup::new();
        let built = setup.builder().advertise_interface(&interface.name).build();
        let (Ok(registrar), Some(v4)) = (&built, v4) else {
            assert!(
                !ours.iter().any(|i| i.ip().is_ipv4() && !i.is_loopback()),
                "{built:?}"
            );
            continue;
        };
        let registration = registrar.register(greeter()).unwrap();
        registration
            .announce("0.0.0.0:9000".parse().unwrap())
            .unwrap();
        registration.registered().await.unwrap();
        let key = format!("/services/greeter/{}:9000", v4.ip());
        let keys = setup.fake.keys();
        assert!(keys.contains_key(&key), "{keys:?}");
    }
}

/// Two virtual machines that were started from one snapshot have the same generators in their memory.
#[tokio::test(start_paused = true)]
async fn processes_with_the_same_generators_choose_other_ids() {
    let mut drawn = vec![];
    for _ in 0..2 {
        fastrand::seed(7);
        let instance = Instance::new("greeter").id().to_owned();
        let registration = Setup::new().registered().await;
        drawn.push((instance, registration.status().registered().unwrap().lease));
    }
    assert_ne!(drawn[0].0, drawn[1].0, "the ids of instances");
    assert_ne!(drawn[0].1, drawn[1].1, "the ids of leases");
}
