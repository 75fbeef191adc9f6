//! etcd loses its data while servers and clients run. Its revisions begin again at 1. A watch that
//! resumes at an old revision gets no events until the new etcd reaches it.

use crate::calls::{Caller as _, SOME};
use crate::go::{GoClient, GoServer};
use crate::kind::Kind;
use crate::rust::{RustClient, RustServer};
use crate::setup::{etcd_with_history, until_registered};
use std::time::Duration;
use tokio::time::Instant;

for_each_kind!(
    our_server_is_registered_again_and_clients_in_go_call_on,
    our_client_finds_who_registers_afterwards_although_some_in_go_do_not,
);

async fn our_server_is_registered_again_and_clients_in_go_call_on(kind: Kind) {
    let mut etcd = etcd_with_history().await;
    let server = RustServer::start(kind, &etcd, &[]).await;
    let client = GoClient::start(kind, &etcd);
    client.until_answered_by(&server.who).await;
    let mark = client.mark();
    let serving = etcd.lose_data(Duration::ZERO).await;
    let back = until_registered(&etcd, kind, 1).await - serving;
    assert!(back < Duration::from_secs(5), "{back:?}");
    if kind == Kind::GoZero {
        // It lists again at once, and may be quicker than our server.
        client.until_answered_by(&server.who).await;
    }
    let after = client.further(SOME * 4).await;
    after.assert_none_failed("the key is back");
    let calls = client.since(mark);
    if kind != Kind::GoZero {
        calls.assert_none_failed("etcd lost its data");
    }
    let start = Instant::now();
    let fresh = GoClient::start(kind, &etcd);
    fresh.until_answered_by(&server.who).await;
    let found = start.elapsed();
    // At once: its first call was made while it was being built, and may have failed for that.
    let early = |why: &&str| why.contains("not dialled");
    let first = fresh.since(0);
    assert!(first.failures().iter().all(early), "{first}");
    println!(
        "{kind:?}: our key was back {back:.0?} after etcd was; the client in Go: {}; a new one was \
         answered {found:.0?} after its start",
        calls.counts()
    );
}

async fn our_client_finds_who_registers_afterwards_although_some_in_go_do_not(kind: Kind) {
    let mut etcd = etcd_with_history().await;
    let one = GoServer::start(kind, &etcd, "one").await;
    let (ours, theirs) = (RustClient::start(kind, &etcd), GoClient::start(kind, &etcd));
    ours.until_answered_by("one").await;
    theirs.until_answered_by("one").await;
    let mark = ours.mark();
    let serving = etcd.lose_data(Duration::ZERO).await;
    let two = GoServer::start(kind, &etcd, "two").await;
    let start = Instant::now();
    ours.until_answered_by("two").await;
    let found = start.elapsed();
    let back = until_registered(&etcd, kind, 2).await - serving;
    let both = vec![one.addr.to_string(), two.addr.to_string()];
    ours.until_found("both", both).await;
    ours.further(SOME).await;
    let calls = ours.since(mark);
    calls.assert_none_failed("etcd lost its data");
    if kind == Kind::GoZero {
        theirs.until_answered_by("two").await;
    } else {
        // Their watch gets no events, as this test assumes; ours works all the same.
        let deaf = theirs.further(SOME * 2).await;
        assert_eq!(deaf.answers("one"), deaf.0.len(), "{deaf}");
    }
    println!(
        "{kind:?}: the server in Go was back {back:.0?} after etcd was; our client was answered by a \
         new one {found:.0?} after it served: {}",
        calls.counts()
    );
}
