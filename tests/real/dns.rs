//! The system's resolver, with a DNS server that is slow or drops, in a network namespace of the test's own.

use crate::setup::{LONG, SEC, announced};
use crate::support::etcd::Etcd as EtcdProcess;
use crate::support::namespace::{self, Dns};
use crate::support::{eventually, library_etcd, registered_within};
use tokio::time::Instant;
use tonic_etcd::Registrar;

/// Each attempt of 0.6 s began a lookup of its own and dropped its answer, so that it never registered.
#[tokio::test]
async fn a_dns_server_slower_than_an_attempt_prevents_no_registration() {
    if !namespace::enter("dns::a_dns_server_slower_than_an_attempt_prevents_no_registration").await
    {
        return;
    }
    let etcd = EtcdProcess::start().await;
    let dns = Dns::start(Some(SEC.mul_f64(0.7)));
    let endpoint = format!("http://etcd.example:{}", etcd.client_port());
    let registration = announced(Registrar::builder(library_etcd([endpoint])));
    registered_within(LONG, &registration).await;
    let answered = dns.first_answer().unwrap();
    assert!(answered.elapsed() < SEC * 3, "{:?}", answered.elapsed());
    // A and AAAA; on a busy machine glibc may ask for both again.
    assert!(dns.queries() <= 4, "{} queries", dns.queries());
}

/// 400 lookups that wait for DNS took all threads on which the runtime runs blocking code.
#[cfg(feature = "discovery")]
#[tokio::test]
async fn lookups_that_wait_for_dns_take_no_thread_of_the_application() {
    use std::time::Duration;
    use tokio::time::sleep;
    use tonic_etcd::Instance;
    use tonic_etcd::channel::BalancedChannel;
    use tonic_etcd::discovery::Change;
    if !namespace::enter("dns::lookups_that_wait_for_dns_take_no_thread_of_the_application").await {
        return;
    }
    let dns = Dns::start(None);
    let port = crate::support::ports::free();
    let instances = (0..400).map(|number| {
        let address = format!("server-{number}.example:{port}");
        let instance = Instance::new("greeter").with_address(address);
        Change::insert(number.to_string(), instance)
    });
    let instances = instances.collect::<Vec<_>>();
    let before = threads();
    let channel = BalancedChannel::builder(tokio_stream::iter(instances)).build();
    lookups_begin(&dns, 8).await;
    let start = Instant::now();
    while start.elapsed() < SEC * 3 {
        let asked = Instant::now();
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        assert!(asked.elapsed() < SEC, "{:?}", asked.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    let more = threads() - before;
    assert!(more < 12, "{more} threads");
    let channel = channel.unwrap();
    let states = format!("{:?}", channel.endpoints());
    assert!(states.contains("looking up server-"), "{states}");
}

/// The end of a runtime waits for its blocking threads: a server that had stopped ended 10 s later.
#[tokio::test]
async fn a_lookup_under_way_does_not_delay_the_end_of_a_runtime() {
    if !namespace::enter("dns::a_lookup_under_way_does_not_delay_the_end_of_a_runtime").await {
        return;
    }
    let dns = Dns::start(None);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let entered = runtime.enter();
    let registration = announced(Registrar::builder(library_etcd([
        "http://etcd.example:2379",
    ])));
    drop(entered);
    lookups_begin(&dns, 1).await;
    let begun = Instant::now();
    let ended = tokio::task::spawn_blocking(move || drop(runtime));
    ended.await.unwrap();
    assert!(begun.elapsed() < SEC * 3, "{:?}", begun.elapsed());
    drop(registration);
}

async fn lookups_begin(dns: &Dns, count: usize) {
    eventually("lookups are under way", LONG, || match dns.queries() {
        begun if begun < count => Err(format!("{begun} queries")),
        _ => Ok(()),
    })
    .await;
}

/// The number of threads of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}
