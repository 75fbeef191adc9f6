//! etcd has another history than the reader has seen: it was restored from an older copy of its data, and written to.

use crate::discovery::{discovery, json, key, news, put, reading, shows};
use crate::setup::{MS, SEC};
use crate::support::fake::{FakeEtcd, Rpc};
use tokio::time::{Instant, sleep};

fn delete(fake: &FakeEtcd, ids: &[usize]) {
    for id in ids {
        fake.delete(&key(*id));
    }
}

/// Both histories have the same first key. The reader took that for the same history, and showed `a b d e` for good while
/// etcd had `a c d e`.
#[tokio::test(start_paused = true)]
async fn an_older_copy_that_was_written_to_shows_what_etcd_has() {
    for (gone_before, gone_after, elsewhere) in [
        (vec![2], vec![1], 0),
        (vec![2], vec![1], 1),
        (vec![2, 3], vec![1], 0),
        (vec![2], vec![1, 3], 5),
        (vec![], vec![1], 0),
        (vec![2], vec![], 1),
        (vec![2, 3, 4], vec![], 0),
        (vec![0, 1, 2, 3, 4], vec![], 5),
    ] {
        let (fake, discovery, mut changes) = reading(0..5).await;
        let copy = fake.snapshot();
        delete(&fake, &gone_before);
        sleep(SEC).await;
        news(&mut changes).await;
        fake.restore(&copy);
        delete(&fake, &gone_after);
        for _ in 0..elsewhere {
            fake.put("/elsewhere", "x", 0);
        }
        let left = (0..5).filter(|id| !gone_after.contains(id));
        shows(&discovery, left, SEC).await;
        put(&fake, [7]);
        let left = (0..5).filter(|id| !gone_after.contains(id));
        shows(&discovery, left.chain([7]), SEC).await;
    }
}

/// The same key was written at the same revision, without a lease, with another value.
#[tokio::test(start_paused = true)]
async fn another_value_at_the_same_revision_is_noticed() {
    let (fake, discovery, _changes) = reading(0..3).await;
    let copy = fake.snapshot();
    fake.put(&key(1), &json(1, "v2"), 0);
    sleep(SEC).await;
    fake.restore(&copy);
    fake.put(&key(1), &json(1, "v3"), 0);
    sleep(SEC).await;
    let snapshot = discovery.snapshot();
    assert_eq!(snapshot.get(&key(1)).unwrap().version(), Some("v3"));
}

/// Many keys are not read as a whole after each cut. What a few of them do not tell is found by a list within 20 s.
#[tokio::test(start_paused = true)]
async fn of_many_keys_another_history_is_found_at_once_or_by_a_late_list() {
    for (is_newest_the_same, within) in [(false, SEC), (true, SEC * 20)] {
        let (fake, discovery, _changes) = reading(0..200).await;
        let copy = fake.snapshot();
        let differ = |gone: usize| {
            fake.delete(&key(gone));
            let version = if is_newest_the_same { "v2" } else { "v3" };
            fake.put(&key(100 + gone), &json(100 + gone, version), 0);
            if is_newest_the_same {
                fake.put(&key(0), &json(0, "v2"), 0);
            }
        };
        differ(1);
        sleep(SEC).await;
        fake.restore(&copy);
        differ(2);
        shows(&discovery, (0..200).filter(|id| *id != 2), within).await;
        put(&fake, [300]);
        shows(&discovery, (0..200).filter(|id| *id != 2).chain([300]), SEC).await;
        // Nothing is listed once it is certain.
        sleep(SEC * 30).await;
        let lists = fake.count(Rpc::Range);
        sleep(SEC * 600).await;
        assert_eq!(fake.count(Rpc::Range), lists);
    }
}

/// Each page was requested at the revision of the first one, which was compacted before the last one came. On a slow link
/// even a single page is compacted before the watch arrives.
#[tokio::test(start_paused = true)]
async fn a_list_ends_although_etcd_compacts_all_the_time() {
    for (keys, latency) in [(3000, 60), (100, 10), (100, 300), (3000, 300)] {
        let fake = FakeEtcd::new();
        put(&fake, 0..keys);
        fake.latency(latency * MS..(latency + 10) * MS);
        let discovery = discovery(&fake);
        let began = Instant::now();
        let mut next = keys;
        while !discovery.snapshot().is_ready() || began.elapsed() < SEC * 8 {
            assert!(began.elapsed() < SEC * 12, "{:?}", discovery.snapshot());
            sleep(50 * MS).await;
            put(&fake, [next]);
            fake.delete(&key(next - keys));
            next += 1;
            sleep(50 * MS).await;
            fake.put("/elsewhere", "x", 0);
            fake.compact();
        }
        shows(&discovery, next - keys..next, SEC).await;
        let watches = fake.count(Rpc::Watch);
        assert!(watches <= 3, "{keys} keys, {latency} ms: {watches} watches");
    }
}
