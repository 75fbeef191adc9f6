//! A registration on a fake etcd, while the system is suspended (tests only).

use super::Registrar;
use crate::instance::Instance;
use crate::runtime::clock;
use crate::testing::FakeEtcd;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

/// The renewal was sent before the suspend, for a lease that has expired since, and its answer comes first. A renewal is
/// sent 1.5 to 1.84 s after the last one, so that one is under way at three or more of the offsets.
#[tokio::test(start_paused = true)]
async fn the_answer_to_a_renewal_sent_before_a_suspend_confirms_nothing() {
    let delay = 100 * MS;
    for offset in 0..40 {
        let etcd = FakeEtcd::new();
        let registrar = Registrar::builder(etcd.etcd()).build().unwrap();
        let registration = registrar.register(Instance::new("greeter")).unwrap();
        registration
            .announce("10.0.0.1:9000".parse().unwrap())
            .unwrap();
        registration.registered().await.unwrap();
        etcd.delay(delay);
        sleep(SEC + offset * 25 * MS).await;
        clock::tests::suspend(SEC * 7);
        let woke = Instant::now();
        let status = registration.status();
        assert!(!status.is_registered(), "{offset}: {status:?}");
        while !registration.status().is_registered() {
            assert!(
                woke.elapsed() < SEC * 3,
                "{offset}: {:?}",
                registration.status()
            );
            sleep(MS).await;
        }
        let after = woke.elapsed();
        assert!(
            after >= delay,
            "{offset}: {after:?}, with an answer from before"
        );
        sleep(SEC * 10).await;
        assert!(registration.status().is_registered());
    }
}
