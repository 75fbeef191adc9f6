//! A registration on a fake etcd by the name of a member, with a DNS that is slow (tests only).

use super::Registrar;
use crate::etcd::Etcd;
use crate::instance::Instance;
use crate::observe::status::RegistrationStatus;
use crate::testing::FakeEtcd;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const MS: Duration = Duration::from_millis(1);

/// The etcd at a name that DNS answers after `delay`, and the number of lookups.
fn named(fake: &FakeEtcd, delay: Duration) -> (Etcd, Arc<AtomicUsize>) {
    let lookups = Arc::new(AtomicUsize::new(0));
    let count = lookups.clone();
    let etcd = Etcd::new(["http://etcd.example:2379"]).resolver(move |_, port| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            sleep(delay).await;
            Ok(vec![SocketAddr::from(([10, 0, 0, 1], port))])
        }
    });
    (fake.at_resolved(etcd), lookups)
}

/// Each attempt began a lookup of its own and dropped its answer.
#[tokio::test(start_paused = true)]
async fn registered_within_a_second_of_the_first_answer_of_dns() {
    for delay in [100 * MS, 700 * MS, 3000 * MS, 10_000 * MS] {
        let fake = FakeEtcd::new();
        let (etcd, lookups) = named(&fake, delay);
        let registration = Registrar::builder(etcd).build().unwrap();
        let registration = registration.register(Instance::new("greeter")).unwrap();
        registration
            .announce("10.0.0.1:9000".parse().unwrap())
            .unwrap();
        let begun = Instant::now();
        if delay > 700 * MS {
            sleep(700 * MS).await;
            let status = registration.status();
            let RegistrationStatus::Registering { reason: Some(why) } = &status else {
                panic!("{status:?}");
            };
            let waits = "looking up etcd.example: no answer within 600ms";
            assert_eq!(**why, format!("http://etcd.example:2379: {waits}"));
        }
        registration.registered().await.unwrap();
        let after = begun.elapsed() - delay;
        assert!(after < Duration::from_secs(1), "{delay:?}: {after:?}");
        assert_eq!(lookups.load(Ordering::Relaxed), 1);
    }
}
