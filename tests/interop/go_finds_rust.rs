//! Clients in Go find our server, call it, and see it leave.

use crate::calls::{Caller as _, Calls, SOME};
use crate::go::GoClient;
use crate::kind::Kind;
use crate::rust::RustServer;
use crate::setup::until_registered;
use std::time::Duration;
use test_support::etcd::Etcd;
use tokio::net::TcpStream;
use tokio::time::sleep;

for_each_kind!(
    a_server_that_leaves_costs_no_call_while_another_is_there,
    calls_fail_only_after_the_last_server_has_left,
);

async fn a_server_that_leaves_costs_no_call_while_another_is_there(kind: Kind) {
    let etcd = Etcd::start().await;
    let one = RustServer::start(kind, &etcd, &[]).await;
    let two = RustServer::start(kind, &etcd, &[]).await;
    let client = GoClient::start(kind, &etcd);
    client.until_answered_by(&one.who).await;
    client.until_answered_by(&two.who).await;
    let mark = client.mark();
    one.process.signal("TERM");
    one.ended().await;
    let after = client.further(SOME * 2).await;
    let calls = client.since(mark);
    calls.assert_none_failed("one of two leaves");
    assert_eq!(after.answers(&two.who), after.0.len(), "{after}");
    println!(
        "{kind:?}: one of two of our servers left: {}",
        calls.counts()
    );
}

async fn calls_fail_only_after_the_last_server_has_left(kind: Kind) {
    let etcd = Etcd::start().await;
    // It keeps serving, so that a call can fail only because the client has seen that it leaves.
    let server = RustServer::start(kind, &etcd, &["--deregistration-delay", "60s"]).await;
    let addr = server.process.listening().await;
    let client = GoClient::start(kind, &etcd);
    client.until_answered_by(&server.who).await;
    let before = client.further(SOME).await;
    before.assert_none_failed("it has not left");
    let mark = client.mark();
    server.process.signal("TERM");
    let failed = |calls: &Calls| !calls.failures().is_empty();
    let calls = client.until("a call fails", mark, failed).await;
    until_registered(&etcd, kind, 0).await;
    TcpStream::connect(addr).await.unwrap();
    // kratos watches the health service as well, which changes before etcd does. It keeps the address,
    // because it refuses an empty list.
    let why = match kind {
        Kind::Etcd => "no children to pick from",
        Kind::Kratos => "NOT_SERVING",
        Kind::GoZero => "zero addresses",
    };
    assert!(
        calls.failures().iter().all(|said| said.contains(why)),
        "{calls}"
    );

    // Within 200 ms it would count as the same signal.
    sleep(Duration::from_millis(300)).await;
    server.process.signal("TERM"); // without any wait
    server.ended().await;
    let mark = client.mark();
    if kind == Kind::Kratos {
        let dials = |calls: &Calls| {
            calls
                .failures()
                .iter()
                .any(|why| why.contains(&*addr.to_string()))
        };
        client
            .until("it dials the address of before", mark, dials)
            .await;
    }
    client.further(SOME).await;
    let after = client.since(mark);
    assert_eq!(after.failures().len(), after.0.len(), "{after}");
    let next = RustServer::start(kind, &etcd, &[]).await;
    client.until_answered_by(&next.who).await;
    client.further(SOME).await.assert_none_failed("it is found");
    println!("{kind:?}: the last of our servers left: {calls}");
}
