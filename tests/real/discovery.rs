//! A reader and a caller on a real etcd: it behaves as the fake does.

use crate::setup::{Greeter, LONG, SEC};
use crate::support::etcd::Etcd as EtcdProcess;
use crate::support::grpc_proxy::GrpcProxy;
use crate::support::proxy::{Mode, Proxy};
use crate::support::{eventually, library_etcd};
use greeter::pb::HelloRequest;
use greeter::pb::greeter_client::GreeterClient;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic_etcd::discovery::Discovery;

const PREFIX: &str = "/services/greeter/";

fn discovery(endpoint: &str) -> Discovery {
    let builder = Discovery::builder(library_etcd([endpoint]), "greeter");
    builder.build().unwrap()
}

/// Two of them are in one process, so that the key needs the address.
async fn greeter(etcd: &EtcdProcess) -> Greeter {
    Greeter::start(etcd, |builder| {
        builder.key_template("{prefix}/{name}/{addr}")
    })
    .await
}

/// Waits until exactly these keys are shown.
async fn shows(discovery: &Discovery, keys: &[String]) {
    let wanted: BTreeSet<_> = keys.iter().cloned().collect();
    eventually("the set is as in etcd", LONG, || {
        let snapshot = discovery.snapshot();
        let there: BTreeSet<_> = snapshot.iter().map(|(key, _)| key.to_owned()).collect();
        match there == wanted {
            true => Ok(()),
            false => Err(format!("{there:?}, {:?}", snapshot.watch_error())),
        }
    })
    .await;
}

async fn put(etcd: &EtcdProcess, key: &str, port: usize) {
    let value = format!("127.0.0.1:{port}");
    etcd.client().await.put(key, value, None).await.unwrap();
}

/// Calls all the time until its token is cancelled; returns the failed calls.
fn calling(discovery: &Discovery) -> (CancellationToken, JoinHandle<Vec<String>>) {
    let mut client = GreeterClient::new(discovery.channel().build().unwrap());
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let calls = tokio::spawn(async move {
        let mut failed = vec![];
        while !stopped.is_cancelled() {
            if let Err(status) = client.say_hello(HelloRequest::default()).await {
                failed.push(status.to_string());
            }
        }
        failed
    });
    (stop, calls)
}

#[tokio::test]
async fn servers_are_found_and_called_and_leave_without_a_failed_call() {
    let etcd = EtcdProcess::start().await;
    let discovery = discovery(&etcd.endpoint());
    let (first, second) = (greeter(&etcd).await, greeter(&etcd).await);
    let (one, two) = (first.key(), second.key());
    shows(&discovery, &[one, two.clone()]).await;
    let (stop, calls) = calling(&discovery);
    sleep(SEC / 2).await;
    first.shutdown.cancel();
    first.ended().await;
    shows(&discovery, &[two]).await;
    let third = greeter(&etcd).await;
    second.shutdown.cancel();
    second.ended().await;
    shows(&discovery, &[third.key()]).await;
    stop.cancel();
    assert_eq!(calls.await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn an_etcd_that_lost_its_data_is_listed_again_though_its_watch_is_silent() {
    let mut etcd = EtcdProcess::start().await;
    // So high that the etcd without data does not reach it soon: a watch would get no events.
    for n in 0..200 {
        put(&etcd, "/elsewhere", n).await;
    }
    let discovery = discovery(&etcd.endpoint());
    let greeter = greeter(&etcd).await;
    let key = greeter.key();
    shows(&discovery, std::slice::from_ref(&key)).await;
    let (stop, calls) = calling(&discovery);
    etcd.lose_data(SEC).await;
    let new = format!("{PREFIX}new");
    put(&etcd, &new, 1).await;
    shows(&discovery, &[key.clone(), new.clone()]).await;
    etcd.client().await.delete(&*new, None).await.unwrap();
    shows(&discovery, &[key]).await;
    stop.cancel();
    assert_eq!(calls.await.unwrap(), [""; 0]);
}

/// The reader showed what the other history had, for good: both have the same first key.
#[tokio::test]
async fn an_etcd_restored_from_an_older_copy_is_shown_as_it_is() {
    let mut etcd = EtcdProcess::start().await;
    let all: Vec<String> = ["a", "b", "c", "d", "e"]
        .map(|id| format!("{PREFIX}{id}"))
        .into();
    for (n, key) in all.iter().enumerate() {
        put(&etcd, key, n + 1).await;
    }
    etcd.kill().await;
    etcd.copy();
    let proxy = Proxy::to_port(etcd.client_port()).await;
    for (removed, elsewhere) in [("c", 0), ("d", 3)] {
        etcd.start_again();
        etcd.wait_serving().await;
        let discovery = discovery(&proxy.endpoint());
        shows(&discovery, &all).await;
        let delete = async |etcd: &EtcdProcess, id: &str| {
            let key = format!("{PREFIX}{id}");
            etcd.client().await.delete(key, None).await.unwrap();
            let mut left = all.clone();
            left.retain(|key| !key.ends_with(id));
            left
        };
        let left = delete(&etcd, removed).await;
        shows(&discovery, &left).await;
        // It must not see the copy as it was.
        proxy.set(Mode::Refuse);
        proxy.reset();
        etcd.kill().await;
        etcd.put_back();
        etcd.start_again();
        etcd.wait_serving().await;
        let left = delete(&etcd, "b").await;
        for n in 0..elsewhere {
            put(&etcd, "/elsewhere", n).await;
        }
        proxy.set(Mode::Forward);
        shows(&discovery, &left).await;
        etcd.kill().await;
        etcd.put_back();
    }
}

#[tokio::test]
async fn what_happened_while_it_was_cut_off_is_seen_also_if_it_was_compacted() {
    let etcd = EtcdProcess::start().await;
    let proxy = Proxy::to_port(etcd.client_port()).await;
    let key = |n: usize| format!("{PREFIX}{n}");
    for n in 1..=4 {
        put(&etcd, &key(n), n).await;
    }
    let discovery = discovery(&proxy.endpoint());
    shows(&discovery, &[key(1), key(2), key(3), key(4)]).await;
    for compacted in [false, true] {
        proxy.set(Mode::Refuse);
        proxy.reset();
        let mut client = etcd.client().await;
        client.delete(key(1), None).await.unwrap();
        put(&etcd, &key(5), 5).await;
        if compacted {
            let found = client.get(key(5), None).await.unwrap();
            let revision = found.header().unwrap().revision();
            client.compact(revision, None).await.unwrap();
        }
        proxy.set(Mode::Forward);
        shows(&discovery, &[key(2), key(3), key(4), key(5)]).await;
        client.delete(key(5), None).await.unwrap();
        put(&etcd, &key(1), 1).await;
        shows(&discovery, &[key(1), key(2), key(3), key(4)]).await;
    }
}

#[tokio::test]
async fn a_connection_that_went_silent_is_noticed_and_replaced() {
    let etcd = EtcdProcess::start().await;
    let proxy = Proxy::to_port(etcd.client_port()).await;
    let members = [proxy.endpoint(), etcd.endpoint()];
    let discovery = Discovery::builder(library_etcd(members), "greeter");
    let discovery = discovery.build().unwrap();
    discovery.ready().await;
    proxy.set(Mode::BlackHole);
    let key = format!("{PREFIX}1");
    put(&etcd, &key, 1).await;
    shows(&discovery, &[key]).await;
}

/// For so long no reader may see an outage.
async fn no_outage(discovery: &Discovery, time: Duration) {
    let mut watch = discovery.watch();
    let outage = watch.wait_for(|now| now.watch_error().is_some());
    if let Ok(snapshot) = tokio::time::timeout(time, outage).await {
        panic!("{:?}", snapshot.watch_error());
    }
}

/// etcd 3.5 and later answer no progress requests here.
#[tokio::test]
async fn on_a_quiet_etcd_the_watch_stays_open() {
    let etcd = EtcdProcess::start().await;
    let proxy = Proxy::to_port(etcd.client_port()).await;
    let found = format!("{PREFIX}1");
    put(&etcd, &found, 1).await;
    let discovery = discovery(&proxy.endpoint());
    shows(&discovery, std::slice::from_ref(&found)).await;
    no_outage(&discovery, SEC * 30).await;
    assert_eq!(proxy.accepted(), 1, "connections");
    assert_eq!(etcd.calls("Watch").await, 1, "watches");
    etcd.client().await.delete(found, None).await.unwrap();
    shows(&discovery, &[]).await;
}

#[tokio::test]
async fn through_a_relay_that_ends_connections_who_leaves_is_gone_at_once() {
    let etcd = EtcdProcess::start().await;
    let proxy = Proxy::to_port(etcd.client_port()).await;
    let key = |n: usize| format!("{PREFIX}{n}");
    for n in 0..6 {
        put(&etcd, &key(n), n + 1).await;
    }
    let discovery = discovery(&proxy.endpoint());
    let all: Vec<_> = (0..6).map(key).collect();
    shows(&discovery, &all).await;
    let mut client = etcd.client().await;
    for n in 0..6 {
        sleep(SEC * 2).await;
        proxy.reset();
        // Before and after it is connected again.
        sleep(SEC / 100 * n).await;
        client.delete(key(n as usize), None).await.unwrap();
        let deleted = Instant::now();
        shows(&discovery, &all[n as usize + 1..]).await;
        assert!(deleted.elapsed() < SEC * 3, "{:?}", deleted.elapsed());
    }
    assert!(proxy.accepted() >= 7, "{} connections", proxy.accepted());
}

#[tokio::test]
async fn through_grpc_proxy_the_watch_stays_open_and_shows_what_happens() {
    // The role of a user must have the keys as etcd stores them: with the namespace.
    for namespace in [None, Some("/services/elsewhere")] {
        let etcd = EtcdProcess::start().await;
        let flag = namespace.map(|namespace| format!("--namespace={namespace}"));
        let flags: Vec<_> = flag.iter().map(String::as_str).collect();
        let relay = GrpcProxy::start(&etcd, &flags).await;
        let proxy = Proxy::start(
            relay
                .endpoint()
                .trim_start_matches("http://")
                .parse()
                .unwrap(),
        );
        let proxy = proxy.await;
        let stored = |n: usize| format!("{}{PREFIX}{n}", namespace.unwrap_or_default());
        let key = |n: usize| format!("{PREFIX}{n}");
        put(&etcd, &stored(1), 1).await;
        let (one, two) = (discovery(&proxy.endpoint()), discovery(&proxy.endpoint()));
        for discovery in [&one, &two] {
            shows(discovery, &[key(1)]).await;
        }
        tokio::join!(no_outage(&one, SEC * 8), no_outage(&two, SEC * 8));
        assert_eq!(proxy.accepted(), 2, "connections");
        put(&etcd, &stored(2), 2).await;
        let mut client = etcd.client().await;
        client.delete(stored(1), None).await.unwrap();
        for discovery in [&one, &two] {
            shows(discovery, &[key(2)]).await;
        }
        // A cut: changes meanwhile are seen.
        proxy.set(Mode::Refuse);
        put(&etcd, &stored(3), 3).await;
        client.delete(stored(2), None).await.unwrap();
        proxy.set(Mode::Forward);
        for discovery in [&one, &two] {
            shows(discovery, &[key(3)]).await;
        }
    }
}
