//! Stops of servers: by SIGTERM, by SIGKILL, and with clients that do not close their connections.

use crate::table::Table;
use greeter::hellos;
use greeter::pb::greeter_client::GreeterClient;
use std::net::SocketAddr;
use std::time::Duration;
use test_support::etcd::Etcd;
use test_support::observer::{Event, Kind, Observer};
use test_support::server::{ServerProcess, health_client, health_request, ms};
use tokio::net::TcpStream;
use tokio::time::Instant;

const SEC: Duration = Duration::from_secs(1);

pub async fn all(table: &Table) {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    sigterm(table, &etcd, &observer).await;
    port(table, &etcd, &observer).await;
    clinging(table, &etcd).await;
    sigkill(table, &etcd, &observer).await;
}

/// A server, the key it has, and the number of events before its end.
async fn served(
    etcd: &Etcd,
    observer: &Observer,
    flags: &[&str],
) -> (ServerProcess, String, usize) {
    let (server, key) = ServerProcess::start_seen(&etcd.endpoint(), flags, observer).await;
    (server, key, observer.mark())
}

async fn deleted_at(observer: &Observer, mark: usize, key: &str) -> Instant {
    let is_it = |event: &&Event| event.kind == Kind::Delete && event.key == key;
    let deleted = |events: &[Event]| events[mark..].iter().find(is_it).map(|event| event.at);
    observer.wait_for("the DELETE", SEC * 10, deleted).await
}

async fn sigterm(table: &Table, etcd: &Etcd, observer: &Observer) {
    let (mut deletes, mut exits) = (vec![], vec![]);
    for _ in 0..20 {
        let (server, key, mark) = served(etcd, observer, &["--deregistration-delay", "0s"]).await;
        let start = Instant::now();
        server.signal("TERM");
        deletes.push(ms(start, deleted_at(observer, mark, &key).await));
        assert_eq!(server.exit(SEC * 5).await, 0, "{}", server.output());
        exits.push(ms(start, Instant::now()));
    }
    table.each_ms("SIGTERM: DELETE seen", 20.0, &deletes);
    table.each_ms("SIGTERM, delay 0 s: the process has ended", 1000.0, &exits);
}

async fn port(table: &Table, etcd: &Etcd, observer: &Observer) {
    let (server, key, mark) = served(etcd, observer, &["--deregistration-delay", "1s"]).await;
    let addr = server.listening().await;
    let (mut connected, mut refused) = (0, None);
    server.signal("TERM");
    let deleted = deleted_at(observer, mark, &key).await;
    while deleted.elapsed() < SEC * 3 && refused.is_none() {
        match TcpStream::connect(addr).await {
            Ok(_) => connected += 1,
            Err(_) => refused = Some(ms(deleted, Instant::now())),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let seen = format!("{connected} connects, the first refused after {refused:.0?} ms");
    let holds = refused.is_some_and(|at| at >= 1000.0) && connected > 100;
    let what = "between the DELETE and the end of the delay (1 s) no connect is refused";
    table.holds(what, holds, &seen);
}

/// Opens a health watch, a stream without end, and a connection that never sends a byte.
async fn cling(addr: SocketAddr) -> impl Sized {
    let url = format!("http://{addr}");
    let mut health = health_client(&url).await.unwrap();
    let watch = health.watch(health_request("")).await;
    let watch = watch.unwrap().into_inner();
    let mut greeter = GreeterClient::connect(url).await.unwrap();
    let hellos = greeter.stream_hellos(hellos(0, 50)).await;
    let mut hellos = hellos.unwrap().into_inner();
    let last = tokio::spawn(async move {
        loop {
            if let Err(status) = hellos.message().await {
                break status;
            }
        }
    });
    let silent = TcpStream::connect(addr).await.unwrap();
    (health, watch, greeter, last, silent)
}

async fn clinging(table: &Table, etcd: &Etcd) {
    let mut exits = vec![];
    for _ in 0..3 {
        let flags = ["--deregistration-delay", "0s", "--drain-timeout", "2s"];
        let server = ServerProcess::start(&etcd.endpoint(), &flags);
        server.registered().await;
        let clients = cling(server.listening().await).await;
        let start = Instant::now();
        server.signal("TERM");
        assert_eq!(server.exit(SEC * 20).await, 0);
        exits.push(ms(start, Instant::now()));
        drop(clients);
    }
    let what = "SIGTERM with a health watch, an endless stream and a silent connection: ended \
                (drain timeout 2 s)";
    table.each_ms(what, 3000.0, &exits);
}

async fn sigkill(table: &Table, etcd: &Etcd, observer: &Observer) {
    let mut gone = vec![];
    for _ in 0..3 {
        let (server, key, mark) = served(etcd, observer, &[]).await;
        let start = Instant::now();
        server.signal("KILL");
        gone.push(ms(start, deleted_at(observer, mark, &key).await));
    }
    table.each_ms("SIGKILL: key gone", 5600.0, &gone);
}
