//! A key that passes from one registration of a registrar to the next.

use crate::setup::{KEY, SEC, Setup, announce, announced_by, greeter};
use crate::support::registered_within;
use tonic_etcd::{Registration, Status};

/// How the first registration gives its key up.
const ENDS: [(&str, fn(Registration)); 3] = [
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
            let second = announced_by(&registrar, greeter().value("second"));
            registered_within(SEC, &second).await;
            setup.key_holds("second", SEC).await;
            tokio::time::sleep(SEC * 10).await;
            assert_eq!(setup.fake.keys()[KEY].value, "second", "{how}");
            assert!(matches!(second.status(), Status::Registered(_)), "{how}");
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
        let second = registrar.register(greeter().value("second")).unwrap();
        tokio::task::yield_now().await;
        announce(&second);
        registered_within(SEC, &second).await;
        setup.key_holds("second", SEC).await;
    }
}
