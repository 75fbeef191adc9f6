//! The set of instances that a reader sees in each fault of etcd.

use crate::log::Log;
use crate::setup::{MS, SEC};
use crate::support::eventually;
use crate::support::fake::{FakeEtcd, Reply, Rpc};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt as _;
use tonic_etcd::Etcd;
use tonic_etcd::discovery::{Change, Changes, Discovery};
use tonic_etcd::format::Kratos;

pub const PREFIX: &str = "/services/greeter/";

pub fn etcd(fake: &FakeEtcd, members: &[&str]) -> Etcd {
    let members = members.iter().map(|member| format!("http://{member}:2379"));
    Etcd::new(members).connector(fake.connector())
}

pub fn discovery(fake: &FakeEtcd) -> Discovery {
    let builder = Discovery::builder(etcd(fake, &["etcd"]), "greeter");
    builder.build().unwrap()
}

pub fn json(id: usize, version: &str) -> String {
    format!(
        r#"{{"name":"greeter","id":"{id}","address":"10.0.0.1:{}","version":"{version}"}}"#,
        1000 + id
    )
}

pub fn key(id: usize) -> String {
    format!("{PREFIX}{id:05}")
}

pub fn put(fake: &FakeEtcd, ids: impl IntoIterator<Item = usize>) {
    for id in ids {
        fake.put(&key(id), &json(id, "v1"), 0);
    }
}

/// The ids in the set.
pub fn shown(discovery: &Discovery) -> Vec<usize> {
    let snapshot = discovery.snapshot();
    let ids = snapshot.iter().map(|(_, i)| i.id().parse().unwrap());
    ids.collect()
}

/// A reader that has seen these instances.
pub async fn reading(ids: std::ops::Range<usize>) -> (FakeEtcd, Discovery, Changes) {
    let fake = FakeEtcd::new();
    put(&fake, ids);
    let discovery = discovery(&fake);
    let mut changes = discovery.changes();
    discovery.ready().await;
    news(&mut changes).await;
    (fake, discovery, changes)
}

pub async fn shows(discovery: &Discovery, ids: impl IntoIterator<Item = usize>, within: Duration) {
    let wanted: Vec<_> = ids.into_iter().collect();
    eventually("the set is as in etcd", within, || match shown(discovery) {
        there if there == wanted => Ok(()),
        there => Err(format!(
            "{there:?}, {:?}",
            discovery.snapshot().watch_error()
        )),
    })
    .await;
}

/// The changes since the last call: `+key` and `-key`.
pub async fn news(changes: &mut Changes) -> Vec<String> {
    let mut news = vec![];
    while let Ok(Some(change)) = tokio::time::timeout(10 * MS, changes.next()).await {
        news.push(match change {
            Change::Insert { key, .. } => format!("+{}", key.trim_start_matches(PREFIX)),
            Change::Remove { key, .. } => format!("-{}", key.trim_start_matches(PREFIX)),
            other => panic!("{other:?}"),
        });
    }
    news
}

#[tokio::test(start_paused = true)]
async fn instances_appear_change_and_leave_as_they_do_in_etcd() {
    let fake = FakeEtcd::new();
    put(&fake, 0..2);
    fake.put("/services/greeter2/x", &json(9, "v1"), 0);
    let discovery = discovery(&fake);
    let mut changes = discovery.changes();
    assert!(!discovery.snapshot().is_ready());
    assert_eq!(discovery.ready().await.len(), 2);
    put(&fake, [2]);
    shows(&discovery, 0..3, SEC).await;
    fake.put(&key(0), &json(0, "v2"), 0);
    fake.delete(&key(1));
    shows(&discovery, [0, 2], SEC).await;
    let snapshot = discovery.snapshot();
    assert_eq!(snapshot.get(&key(0)).unwrap().version(), Some("v2"));
    let news = news(&mut changes).await;
    let wanted = ["+00000", "+00002"];
    assert_eq!(news, wanted, "the last of each, and not who came and went");
}

/// Real instances have leases, which etcd 3.7 leaves out of a range with `keys_only`.
#[tokio::test(start_paused = true)]
async fn after_a_cut_the_watch_resumes_at_its_revision_and_lists_nothing() {
    for old in [false, true] {
        let fake = FakeEtcd::new();
        if old {
            fake.configure(|it| it.keys_only_with_lease = true);
        }
        fake.grant(7, 3600);
        let put = |id| fake.put(&key(id), &json(id, "v1"), 7);
        (0..4).for_each(put);
        let discovery = discovery(&fake);
        let mut changes = discovery.changes();
        discovery.ready().await;
        for round in 0..5 {
            fake.cut_connections();
            put(10 + round);
            fake.delete(&key(round));
            sleep(SEC).await;
        }
        shows(&discovery, 10..15, SEC).await;
        assert!(news(&mut changes).await.len() <= 14);
        // One list, and one read of the keys as they were for each cut, with which it checks the history.
        let reads = fake.calls(Rpc::Range);
        let (lists, checks): (Vec<_>, Vec<_>) = reads.iter().partition(|call| call.revision == 0);
        assert_eq!((lists.len(), checks.len()), (1, 5), "{old}: {reads:?}");
        assert_eq!(fake.count(Rpc::Watch), 6);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_compacted_meanwhile_is_listed_and_only_differences_are_told() {
    let (fake, discovery, mut changes) = reading(0..4).await;
    fake.down();
    put(&fake, [7]);
    fake.delete(&key(0));
    fake.compact();
    fake.up();
    shows(&discovery, [1, 2, 3, 7], SEC).await;
    assert_eq!(news(&mut changes).await, ["+00007", "-00000"]);
    // A watch that is cancelled for it, too.
    fake.script(
        Rpc::Watch,
        Reply::Cancel("mvcc: required revision has been compacted"),
    );
    fake.cut_connections();
    sleep(SEC).await;
    put(&fake, [8]);
    shows(&discovery, [1, 2, 3, 7, 8], SEC).await;
}

#[tokio::test(start_paused = true)]
async fn while_etcd_is_away_the_last_set_stays_and_the_error_is_shown() {
    let (fake, discovery, _changes) = reading(0..3).await;
    let mut watch = discovery.watch();
    assert_eq!(watch.get().watch_error(), None);
    fake.down();
    watch.wait_for(|now| now.watch_error().is_some()).await;
    sleep(SEC * 3600).await;
    assert_eq!(shown(&discovery), [0, 1, 2]);
    fake.up();
    let back = Instant::now();
    watch.wait_for(|now| now.watch_error().is_none()).await;
    assert!(back.elapsed() <= 600 * MS, "{:?}", back.elapsed());
    let per_second = fake.count(Rpc::Connect) as f64 / 3600.0;
    assert!((1.5..=4.5).contains(&per_second), "{per_second}");
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_lost_its_data_removes_no_instance_while_servers_return() {
    let (fake, discovery, mut changes) = reading(0..4).await;
    fake.wipe();
    sleep(SEC).await;
    let snapshot = discovery.snapshot();
    assert_eq!((snapshot.len(), snapshot.missing()), (4, 4));
    put(&fake, [0]);
    shows(&discovery, 0..4, SEC).await;
    sleep(SEC * 20).await;
    assert_eq!(shown(&discovery), [0, 1, 2, 3], "fewer than half are back");
    put(&fake, [1, 9]);
    shows(&discovery, [0, 1, 2, 3, 9], SEC).await;
    sleep(SEC / 2).await;
    put(&fake, [2]);
    sleep(SEC * 9 / 10).await;
    assert_eq!(shown(&discovery), [0, 1, 2, 3, 9]);
    // Those who came back never left.
    assert_eq!(news(&mut changes).await, ["+00009"]);
    shows(&discovery, [0, 1, 2, 9], SEC / 5).await;
    assert_eq!(news(&mut changes).await, ["-00003"]);
}

#[tokio::test(start_paused = true)]
async fn a_data_loss_is_noticed_though_etcd_has_passed_our_revision_since() {
    let (fake, discovery, _changes) = reading(0..4).await;
    fake.down();
    fake.wipe();
    fake.grant(77, 1000);
    for id in [5, 6, 7, 1, 2] {
        fake.put(&key(id), &json(id, "v2"), 77);
    }
    for other in 0..100 {
        fake.put(&format!("/other/{other}"), "x", 0);
    }
    fake.up();
    shows(&discovery, [1, 2, 5, 6, 7], SEC).await;
    put(&fake, [8]);
    shows(&discovery, [1, 2, 5, 6, 7, 8], SEC).await;
}

#[tokio::test(start_paused = true)]
async fn the_same_keys_and_revisions_under_other_leases_are_another_history() {
    let fake = FakeEtcd::new();
    fake.grant(1, 100_000);
    fake.grant(2, 100_000);
    fake.put(&key(0), &json(0, "v1"), 1);
    fake.put(&key(1), &json(1, "v1"), 1);
    let discovery = discovery(&fake);
    discovery.ready().await;
    fake.down();
    fake.wipe();
    fake.grant(2, 100_000);
    fake.put(&key(0), &json(0, "v2"), 2);
    fake.put(&key(2), &json(2, "v1"), 2);
    fake.up();
    shows(&discovery, [0, 2], SEC).await;
    let snapshot = discovery.snapshot();
    assert_eq!(snapshot.get(&key(0)).unwrap().version(), Some("v2"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_member_is_left_for_another_one_within_seconds() {
    for fault in 0..3 {
        let fake = FakeEtcd::new();
        put(&fake, 0..3);
        let etcd = etcd(&fake, &["one", "two"]);
        let discovery = Discovery::builder(etcd, "greeter").build().unwrap();
        discovery.ready().await;
        sleep(SEC * 60).await;
        let at = fake.history().last().unwrap().member.clone();
        match fault {
            0 => fake.member(&at).hang(),
            1 => fake.member(&at).black_hole(),
            _ => fake.strand_connections(),
        }
        put(&fake, [3]);
        shows(&discovery, 0..4, SEC * 6).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_stays_open_and_costs_one_small_read_a_second() {
    let fake = FakeEtcd::new();
    let discovery = discovery(&fake);
    discovery.ready().await;
    sleep(SEC * 3600).await;
    let (connects, watches) = (fake.count(Rpc::Connect), fake.count(Rpc::Watch));
    assert_eq!((connects, watches, fake.count(Rpc::Range)), (1, 1, 1));
    let counts = fake.count(Rpc::Count);
    assert!((3300..3900).contains(&counts), "{counts}");
    put(&fake, [1]);
    shows(&discovery, [1], SEC).await;
}

#[tokio::test(start_paused = true)]
async fn answers_just_within_the_limit_keep_the_watch_open() {
    let (fake, discovery, _changes) = reading(0..3).await;
    fake.latency(940 * MS..950 * MS);
    sleep(SEC * 60).await;
    assert_eq!((fake.count(Rpc::Watch), fake.count(Rpc::Connect)), (1, 1));
    assert_eq!(discovery.snapshot().watch_error(), None);
    fake.latency(1010 * MS..1020 * MS);
    sleep(SEC * 60).await;
    let error = discovery.snapshot().watch_error().map(str::to_owned);
    assert!(error.unwrap().contains("no answer within 1s"));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_misses_changes_is_replaced_although_reads_work() {
    let (fake, discovery, _changes) = reading(0..3).await;
    for round in 0..3 {
        // As behind a proxy that balances requests: the stream's member hangs, and others answer.
        sleep(SEC * 3).await;
        fake.mute_watches();
        put(&fake, [3 + round]);
        shows(&discovery, round..4 + round, SEC * 4).await;
        sleep(SEC * 3).await;
        fake.mute_watches();
        fake.delete(&key(round));
        shows(&discovery, round + 1..4 + round, SEC * 4).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_fleet_is_read_in_pages_at_one_revision_up_to_the_limit() {
    let fake = FakeEtcd::new();
    put(&fake, 0..2500);
    let builder = || Discovery::builder(etcd(&fake, &["etcd"]), "greeter");
    let all = builder().build().unwrap();
    assert_eq!(all.ready().await.len(), 2500);
    let mut pages = fake.history();
    pages.retain(|call| call.rpc == Rpc::Range);
    assert_eq!(pages.len(), 3);
    let revision = all.snapshot().revision();
    assert!(pages[1..].iter().all(|page| page.revision == revision));
    let some = builder().max_instances(1500).build().unwrap();
    let snapshot = some.ready().await;
    assert_eq!((snapshot.len(), snapshot.skipped()), (1500, 1000));
}

#[tokio::test(start_paused = true)]
async fn all_readers_share_one_watch_which_ends_with_the_last_of_them() {
    let fake = FakeEtcd::new();
    put(&fake, 0..2);
    let discovery = discovery(&fake);
    let mut streams: Vec<_> = (0..20).map(|_| discovery.clone().changes()).collect();
    let watch = discovery.watch();
    discovery.ready().await;
    for stream in &mut streams {
        assert_eq!(news(stream).await.len(), 2);
    }
    assert_eq!((fake.count(Rpc::Watch), fake.count(Rpc::Connect)), (1, 1));
    drop((discovery, watch));
    streams.truncate(1);
    put(&fake, [2]);
    assert_eq!(news(&mut streams[0]).await, ["+00002"]);
    drop(streams);
    sleep(SEC).await;
    assert_eq!(fake.connections_open(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_discovery_that_may_not_read_reports_it_and_retries_slowly() {
    let fake = FakeEtcd::new();
    for _ in 0..100 {
        fake.script(Rpc::Range, Reply::DENIED);
    }
    let discovery = discovery(&fake);
    sleep(SEC * 300).await;
    let error = discovery.snapshot().watch_error().unwrap().to_owned();
    assert!(error.contains("permission denied"), "{error}");
    let ranges = fake.count(Rpc::Range);
    assert!((10..=15).contains(&ranges), "{ranges}");
    fake.clear();
    assert!(discovery.ready().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn bad_input_is_refused_before_any_request() {
    let fake = FakeEtcd::new();
    for target in ["", "a/b", "etcd:///", "etcd://host/greeter", "..", "a%2fb"] {
        let built = Discovery::builder(etcd(&fake, &["etcd"]), target).build();
        assert!(built.is_err(), "{target}");
    }
    let none = Etcd::new([""; 0]);
    assert!(Discovery::builder(none, "greeter").build().is_err());
    let named = Discovery::builder(etcd(&fake, &["etcd"]), "etcd:///greeter").build();
    assert_eq!(named.unwrap().service(), "greeter");
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_was_stopped_and_ends_every_lease_removes_no_instance() {
    let (fake, discovery, _changes) = reading(0..4).await;
    fake.hang();
    sleep(SEC * 9).await;
    fake.resume();
    for id in 0..4 {
        fake.delete(&key(id));
    }
    sleep(SEC).await;
    assert!(shown(&discovery).len() >= 2, "{:?}", shown(&discovery));
    put(&fake, 0..4);
    shows(&discovery, 0..4, SEC).await;
    assert_eq!(discovery.snapshot().missing(), 0);
    // And some seconds later a deletion takes effect at once.
    sleep(SEC * 6).await;
    for id in 0..4 {
        fake.delete(&key(id));
    }
    shows(&discovery, [], SEC).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_leaves_soon_after_a_cut_is_removed_at_once() {
    // Any balancer with a connection age; the shortest and the longest, and a slow connect.
    for (every, connect) in [(SEC, MS), (SEC * 8, MS), (SEC * 8, 500 * MS)] {
        let (fake, discovery, mut changes) = reading(0..20).await;
        for id in 0..20 {
            fake.script(Rpc::Connect, Reply::Delay(connect));
            fake.cut_connections();
            sleep(every / 2).await;
            fake.delete(&key(id));
            sleep(connect + 1100 * MS).await;
            assert_eq!(news(&mut changes).await, [format!("-{id:05}")], "{every:?}");
            sleep(every / 2).await;
        }
        assert!(shown(&discovery).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn routine_ends_of_connections_are_no_outage() {
    let (fake, discovery, _changes) = reading(0..3).await;
    let log = Log::start();
    let mut watch = discovery.watch();
    let outage = tokio::spawn(async move {
        watch.wait_for(|now| now.watch_error().is_some()).await;
    });
    for _ in 0..20 {
        sleep(SEC * 8).await;
        fake.cut_connections();
        sleep(SEC).await;
        fake.cancel_watches("etcdserver: no leader");
    }
    assert!(!outage.is_finished());
    assert_eq!(log.lines(), [""; 0]);
    // But when the next attempt fails too, there is a line, and one when it works again.
    fake.down();
    outage.await.unwrap();
    fake.up();
    sleep(SEC).await;
    let lines = log.lines();
    let [warn, info] = &*lines else {
        panic!("{lines:?}")
    };
    assert!(warn.contains("WARN") && warn.contains("etcd cannot be watched"));
    assert!(info.contains("INFO") && info.contains("watching etcd again"));
}

#[tokio::test(start_paused = true)]
async fn missing_keys_are_removed_at_their_deadline_whatever_is_cut() {
    let (fake, discovery, _changes) = reading(0..4).await;
    fake.wipe();
    let wiped = Instant::now();
    while wiped.elapsed() < SEC * 29 {
        fake.cut_connections();
        sleep(SEC * 3).await;
        fake.compact();
        assert_eq!(shown(&discovery), [0, 1, 2, 3], "{:?}", wiped.elapsed());
    }
    shows(&discovery, [], SEC * 3).await;
}

#[tokio::test(start_paused = true)]
async fn while_etcd_is_unreachable_no_instance_is_removed() {
    let (fake, discovery, _changes) = reading(0..4).await;
    fake.wipe();
    sleep(SEC * 10).await;
    fake.down();
    sleep(SEC * 3600).await;
    fake.up();
    sleep(SEC * 15).await;
    assert_eq!(shown(&discovery), [0, 1, 2, 3]);
    shows(&discovery, [], SEC * 10).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_on_a_slow_link_is_requested_again_in_smaller_pages() {
    let fake = FakeEtcd::new();
    put(&fake, 0..1500);
    // 3.2 kB a second; a key with its value is some 120 bytes, and an attempt is 1 s.
    fake.trickle(64, 20 * MS);
    let discovery = discovery(&fake);
    let ready = tokio::time::timeout(SEC * 90, discovery.ready()).await;
    assert_eq!(ready.expect("a list").len(), 1500);
    fake.down();
    fake.put(&key(7), &json(7, "v2"), 0);
    fake.compact();
    fake.up();
    eventually("it is listed again", SEC * 90, || {
        let version = discovery.snapshot().get(&key(7)).unwrap().version() == Some("v2");
        version.then_some(()).ok_or("not yet".to_owned())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn on_a_slow_link_what_was_missed_is_read_in_pages() {
    let (fake, discovery, _changes) = reading(0..4).await;
    fake.trickle(64, 20 * MS);
    fake.down();
    put(&fake, 4..1000);
    fake.up();
    shows(&discovery, 0..1000, SEC * 90).await;
    let error = || discovery.snapshot().watch_error().map(str::to_owned);
    eventually("it is watched", SEC * 2, || error().map_or(Ok(()), Err)).await;
    put(&fake, [1000]);
    shows(&discovery, 0..1001, SEC).await;
}

#[tokio::test(start_paused = true)]
async fn of_two_members_that_refuse_differently_the_other_is_used() {
    let fake = FakeEtcd::new();
    put(&fake, 0..3);
    fake.member("one").always(Rpc::Range, Reply::DENIED);
    for _ in 0..8 {
        let etcd = etcd(&fake, &["one", "two"]);
        let discovery = Discovery::builder(etcd, "greeter").build().unwrap();
        let ready = tokio::time::timeout(SEC, discovery.ready()).await;
        assert_eq!(ready.expect("the other member").len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn no_length_of_time_makes_it_panic() {
    let times = [
        Duration::ZERO,
        MS,
        SEC * 3600,
        Duration::from_secs(u64::MAX),
        Duration::MAX,
    ];
    let retentions = times.map(|retention| (retention, SEC));
    let attempts = times.map(|attempt| (SEC * 30, attempt));
    for (retention, attempt) in retentions.into_iter().chain(attempts) {
        let fake = FakeEtcd::new();
        put(&fake, 0..4);
        let etcd = etcd(&fake, &["etcd"]).attempt_timeout(attempt);
        let builder = Discovery::builder(etcd, "greeter").retention(retention);
        let Ok(discovery) = builder.build() else {
            assert!(attempt.is_zero());
            continue;
        };
        discovery.ready().await;
        fake.down();
        sleep(SEC * 60).await;
        fake.wipe();
        fake.up();
        sleep(SEC * 60).await;
        put(&fake, [7]);
        let there = match retention > SEC * 60 {
            true => vec![0, 1, 2, 3, 7],
            false => vec![7],
        };
        shows(&discovery, there, SEC * 10).await;
        let error = discovery.snapshot().watch_error().map(str::to_owned);
        assert_eq!(error, None, "{retention:?} {attempt:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_list_says_what_is_watched_and_later_ones_do_not() {
    let log = Log::start();
    let (fake, discovery, _changes) = reading(0..3).await;
    let revision = discovery.snapshot().revision();
    let expected =
        format!(r#"watching service=greeter prefix={PREFIX} revision={revision} found=3"#);
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0];
    assert!(line.contains("INFO") && line.contains(&expected), "{line}");
    fake.wipe();
    sleep(SEC * 5).await;
    let text = log.text();
    assert_eq!(text.matches(" watching service").count(), 1, "{text}");
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_there_is_at_most_one_line_a_second_also_at_debug() {
    let fake = FakeEtcd::new();
    let log = Log::of("tonic_etcd=debug");
    let etcd = etcd(&fake, &["one", "two", "three"]);
    let discovery = Discovery::builder(etcd, "greeter").build().unwrap();
    discovery.ready().await;
    let before = log.lines().len();
    fake.down();
    sleep(SEC * 60).await;
    // Connections that end as soon as they are made.
    fake.up();
    for _ in 0..600 {
        fake.cut_connections();
        sleep(MS * 100).await;
    }
    let lines = log.lines().split_off(before);
    assert!((20..=124).contains(&lines.len()), "{lines:#?}");
    for line in &lines {
        assert!(line.contains("service=greeter"), "{line}");
        assert!(line.contains(&format!("prefix={PREFIX}")), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_call_without_an_endpoint_has_the_last_etcd_error() {
    use crate::channel::net::Client;
    use greeter::pb::HelloRequest;

    let fake = FakeEtcd::new();
    fake.down();
    let discovery = discovery(&fake);
    let mut client = Client::new(discovery.channel().build().unwrap());
    let mut message = async || {
        let called = client.say_hello(HelloRequest::default()).await;
        called.unwrap_err().message().to_owned()
    };
    let said = message().await;
    let expected = r#"no endpoint of "greeter": etcd has not answered yet: http://etcd:2379: "#;
    assert!(said.starts_with(expected), "{said}");
    fake.up();
    discovery.ready().await;
    let revision = fake.revision();
    let none = format!("none registered under {PREFIX} at revision {revision}");
    let expected = format!(r#"no endpoint of "greeter": {none}"#);
    assert_eq!(message().await, expected);
    fake.down();
    sleep(SEC * 10).await;
    let expected = expected + "; etcd cannot be watched: http://etcd";
    let said = message().await;
    assert!(said.starts_with(&expected), "{said}");
}

#[tokio::test(start_paused = true)]
async fn of_a_mixed_fleet_each_server_is_dialled_as_it_says() {
    use crate::channel::net::{Client, Net, ready, ready_at};
    use greeter::pb::HelloRequest;
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    let (fake, net) = (FakeEtcd::new(), Net::default());
    let etcd = Etcd::new(["http://etcd:2379"]).connector(fake.connector());
    let discovery = Discovery::builder(etcd, "greeter").format(Kratos::new().mixed());
    let discovery = discovery.build().unwrap();
    let dialled = Arc::<Mutex<BTreeSet<String>>>::default();
    let (of_net, seen) = (net.clone(), dialled.clone());
    let connect = move |uri: http::Uri| {
        seen.lock().unwrap().insert(uri.to_string());
        let connected = of_net.connect(uri.authority().unwrap().as_str());
        async { connected }
    };
    let balanced = discovery.channel().connector(connect).build().unwrap();
    let plain = discovery.channel().build().unwrap();
    for (id, port, endpoints) in [
        ("a", 1, r#""grpc://a:1""#),
        ("b", 2, r#""grpcs://b:2""#),
        ("c", 4, r#""grpc://c:3","grpcs://c:4""#),
    ] {
        net.serve(&format!("{id}:{port}"));
        let value = format!(r#"{{"name":"greeter","endpoints":[{endpoints}]}}"#);
        fake.put(&format!("/microservices/greeter/{id}"), &value, 0);
    }
    ready(&balanced, 3).await;
    let uris = ["http://a:1/", "https://b:2/", "https://c:4/"].map(str::to_owned);
    assert_eq!(*dialled.lock().unwrap(), uris.into());
    let mut client = Client::new(balanced.clone());
    let mut greeted = BTreeSet::new();
    for _ in 0..50 {
        let reply = client.say_hello(HelloRequest::default()).await.unwrap();
        greeted.insert(reply.into_inner().message);
    }
    assert_eq!(greeted.len(), 3, "{greeted:?}");
    // What its endpoint says of TLS changes, and its address does not.
    let value = r#"{"name":"greeter","endpoints":["grpcs://a:1"]}"#;
    fake.put("/microservices/greeter/a", value, 0);
    ready_at(&balanced, "https://a:1").await;
    ready(&balanced, 3).await;
    assert!(dialled.lock().unwrap().contains("https://a:1/"));
    // Without a connector there is no TLS.
    let refused = Client::new(plain).say_hello(HelloRequest::default()).await;
    let reason = "https://a:1: it speaks TLS: give the channel a connector that does";
    let message = refused.unwrap_err().message().to_owned();
    assert!(message.contains(reason), "{message}");
}
