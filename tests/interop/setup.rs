//! What the tests share.

use crate::kind::Kind;
use etcd_client::GetOptions;
use std::time::Duration;
use test_support::etcd::Etcd;
use tokio::time::{Instant, sleep};

/// The timeout of all waits, long enough also for a busy machine.
pub const LONG: Duration = Duration::from_secs(20);

/// An etcd with a high revision.
///
/// Watches begin at its current revision, and resume there. A new etcd counts from 1. If it passed
/// that revision at once, the test would not see that such a watch gets no events.
pub async fn etcd_with_history() -> Etcd {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    for n in 0..100 {
        let put = client.put("elsewhere", n.to_string(), None).await;
        put.expect("etcd takes a put");
    }
    etcd
}

/// What is registered in etcd, read from etcd.
pub async fn registered(etcd: &Etcd, kind: Kind) -> Vec<(String, String)> {
    let options = GetOptions::new().with_prefix();
    let found = etcd.client().await.get(kind.prefix(), Some(options)).await;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let found = found.expect("etcd answers");
    let kvs = found.kvs().iter();
    kvs.map(|kv| (text(kv.key()), text(kv.value()))).collect()
}

/// Waits until so many are registered; gives the moment it was seen.
pub async fn until_registered(etcd: &Etcd, kind: Kind, count: usize) -> Instant {
    let deadline = Instant::now() + LONG;
    loop {
        let found = registered(etcd, kind).await;
        let now = Instant::now();
        if found.len() == count {
            return now;
        }
        assert!(now < deadline, "{count} registered; last seen: {found:?}");
        sleep(Duration::from_millis(5)).await;
    }
}
