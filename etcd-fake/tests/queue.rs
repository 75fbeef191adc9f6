//! A member serves a queue.

use etcd_client::{Channel, Client};
use etcd_fake::{Capacity, FakeEtcd};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn the_fake_serves_a_queue_also_for_those_who_gave_up() {
    let fake = FakeEtcd::new();
    let capacity = Capacity {
        rate: 10.0,
        connect: 5.0,
        longest_queue: 6.0,
    };
    let channel = Channel::Tonic(fake.channel("test"));
    let mut client = Client::from_channel(channel, None).await.unwrap();
    fake.capacity(Some(capacity));
    let begun = Instant::now();
    client.get("a", None).await.unwrap();
    let took = begun.elapsed();
    assert!(took >= 600 * MS && took < 700 * MS, "{took:?}");
    // Each has given up before its turn, and the last one waits for all of them.
    for _ in 0..3 {
        assert!(timeout(10 * MS, client.get("a", None)).await.is_err());
    }
    let begun = Instant::now();
    client.get("a", None).await.unwrap();
    assert!(begun.elapsed() > 300 * MS, "{:?}", begun.elapsed());
    let mut many = JoinSet::new();
    for _ in 0..10 {
        let mut client = client.clone();
        many.spawn(async move { client.get("a", None).await.is_ok() });
    }
    let served = many.join_all().await;
    assert_eq!(served.iter().filter(|served| **served).count(), 6);
}
