//! A key that passes from one registration of a registrar to the next.

use crate::setup::{KEY, SEC, Setup, announce, announced_by, greeter, status};
use crate::support::registered_within;
use tonic_etcd::{Instance, Registration, RegistrationStatus};

type End = fn(Registration);

/// How the first registration gives its key up.
const ENDS: [(&str, End); 3] = [
    ("drop", drop),
    ("deregister", |it| it.deregister()),
    ("deregister_now", |it| it.deregister_now()),
];

#[tokio::test(start_paused = true)]
async fn a_key_given_up_and_registered_again_in_one_breath_is_written() {
    for (how, end) in ENDS {
        for is_written in [false, true] {
            let setup = Setup::new();
            let registrar = setup.builder().build().unwrap();
            let first = announced_by(&registrar, greeter());
            if is_written {
                registered_within(SEC, &first).await;
            } else {
                // Its write may be under way.
                tokio::task::yield_now().await;
            }
            end(first);
            let second = announced_by(&registrar, greeter().with_value("second"));
            registered_within(SEC, &second).await;
            setup.key_holds("second", SEC).await;
            tokio::time::sleep(SEC * 10).await;
            assert_eq!(setup.fake.keys()[KEY].value, "second", "{how}");
            assert!(
                matches!(second.status(), RegistrationStatus::Registered(_)),
                "{how}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_registered_again_and_announced_later_is_written() {
    for (_, end) in ENDS {
        let setup = Setup::new();
        let registrar = setup.builder().build().unwrap();
        let first = announced_by(&registrar, greeter());
        registered_within(SEC, &first).await;
        end(first);
        let second = registrar.register(greeter().with_value("second")).unwrap();
        tokio::task::yield_now().await;
        announce(&second);
        registered_within(SEC, &second).await;
        setup.key_holds("second", SEC).await;
    }
}

#[tokio::test(start_paused = true)]
async fn any_number_of_rounds_of_register_and_deregister_wait_for_nothing() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    for _ in 0..60 {
        let registration = announced_by(&registrar, greeter());
        registered_within(SEC / 10, &registration).await;
        registration.deregister();
        registration.ended().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_lease_because_many_were_lost_says_so() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let registration = announced_by(&registrar, greeter());
    let is_waiting = |it: &RegistrationStatus| {
        it.to_string()
            .contains("again and again: waiting for the next lease")
    };
    for _ in 0..40 {
        let is_settled = |it: &RegistrationStatus| it.is_registered() || is_waiting(it);
        let now = status(&registration, is_settled).await;
        let Some(registered) = now.registered() else {
            break;
        };
        setup.fake.revoke(registered.lease);
        status(&registration, |it| !it.is_registered()).await;
    }
    assert!(
        is_waiting(&registration.status()),
        "{:?}",
        registration.status()
    );
    // One that is new while the others wait says so too.
    let other = announced_by(&registrar, Instance::new("other"));
    status(&other, is_waiting).await;
    registered_within(SEC * 6, &registration).await;
    registered_within(SEC, &other).await;
}
