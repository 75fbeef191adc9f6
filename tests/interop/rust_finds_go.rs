//! Our client finds servers in Go, calls them, and sees them leave.

use crate::calls::{Caller as _, Calls, SOME};
use crate::go::GoServer;
use crate::kind::Kind;
use crate::rust::RustClient;
use test_support::etcd::Etcd;

for_each_kind!(
    a_server_is_found_leaves_at_sigterm_and_is_found_again,
    a_server_that_leaves_costs_no_call_while_another_is_there,
);

async fn a_server_is_found_leaves_at_sigterm_and_is_found_again(kind: Kind) {
    let etcd = Etcd::start().await;
    let client = RustClient::start(kind, &etcd);
    let server = GoServer::start(kind, &etcd, "one").await;
    let addr = server.addr;
    client.until_answered_by("one").await;
    client
        .until_found("its address", vec![addr.to_string()])
        .await;
    let mark = client.mark();
    server.stop().await;
    client.until_found("nobody", vec![]).await;
    let failed = |calls: &Calls| !calls.failures().is_empty();
    let calls = client.until("a call fails", mark, failed).await;
    // Because no server is registered, and not because of a call to a server that is leaving.
    let about_that = |why: &&str| why.contains("none registered");
    assert!(calls.failures().iter().all(about_that), "{calls}");
    println!("{kind:?}: a server in Go left: {}", calls.counts());

    let _again = GoServer::start_at(addr, kind, &etcd, "again").await;
    client.until_answered_by("again").await;
    client
        .until_found("its address again", vec![addr.to_string()])
        .await;
    client.further(SOME).await.assert_none_failed("it is back");
}

async fn a_server_that_leaves_costs_no_call_while_another_is_there(kind: Kind) {
    let etcd = Etcd::start().await;
    let one = GoServer::start(kind, &etcd, "one").await;
    let two = GoServer::start(kind, &etcd, "two").await;
    let client = RustClient::start(kind, &etcd);
    client.until_answered_by("one").await;
    client.until_answered_by("two").await;
    let mark = client.mark();
    one.stop().await;
    client
        .until_found("the one that stays", vec![two.addr.to_string()])
        .await;
    let after = client.further(SOME * 2).await;
    let calls = client.since(mark);
    calls.assert_none_failed("one of two leaves");
    assert_eq!(after.answers("two"), after.0.len(), "{after}");
    println!(
        "{kind:?}: one of two servers in Go left: {}",
        calls.counts()
    );
}
