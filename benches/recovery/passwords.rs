//! Fleets in which every process needs a password: their times depend on how long etcd takes to hash it.

use crate::many::first_puts;
use crate::table::Table;
use std::time::Duration;
use test_support::etcd::{Etcd, users};
use test_support::observer::Observer;
use test_support::server::ServerProcess;
use tokio::time::{Instant, sleep};

const SEC: Duration = Duration::from_secs(1);
/// The observer asks for a token too: one, and another after each restart.
const OURS: usize = 2;

/// A number of processes, and the cost of etcd's password hash.
struct Fleet {
    size: usize,
    cost: &'static str,
    /// How long it may take until all are there, after a common start and after a wipe.
    bound: f64,
}

pub async fn all(table: &Table) {
    let default = Fleet {
        size: 20,
        cost: "",
        bound: 5_000.0,
    };
    let cheap = Fleet {
        size: 200,
        cost: users::CHEAP,
        bound: 15_000.0,
    };
    default.run(table).await;
    cheap.run(table).await;
}

// === impl Fleet ===

impl Fleet {
    async fn run(&self, table: &Table) {
        let args = [self.cost];
        let args = if self.cost.is_empty() { &[][..] } else { &args };
        let mut etcd = Etcd::start_with_users(args).await;
        let observer = Observer::with_client(etcd.client().await, "/services/").await;
        let asked = etcd.calls("Authenticate").await;
        let start = Instant::now();
        let servers: Vec<_> = (0..self.size).map(|n| server(&etcd, n)).collect();
        let there = first_puts(&observer, 0, self.size, start).await;
        self.row(table, "registered, from a common start", &there);
        self.authentications(table, "start", etcd.calls("Authenticate").await - asked);
        self.restart(table, &mut etcd, &observer).await;
        self.wipe(table, &mut etcd).await;
        drop(servers);
    }

    /// A restart with the data: there should be no event.
    async fn restart(&self, table: &Table, etcd: &mut Etcd, observer: &Observer) {
        let mark = observer.mark();
        etcd.restart(SEC).await;
        sleep(SEC * 12).await;
        let seen = format!(
            "{} PUT, {} DELETE",
            observer.puts_since(mark).len(),
            observer.deletes_since(mark).len()
        );
        let holds = observer.events().len() == mark && observer.keys().len() == self.size;
        let what = self.what("etcd back with its data after 1 s, and 12 s on: 0 events");
        table.holds(&what, holds, &seen);
        self.authentications(table, "restart", etcd.calls("Authenticate").await);
    }

    /// Its users are gone with its data, and are made again as soon as it serves.
    async fn wipe(&self, table: &Table, etcd: &mut Etcd) {
        let serving = etcd.lose_data(SEC).await;
        // The previous observer has a token and a revision that the new etcd does not have.
        let observer = Observer::with_client(etcd.client().await, "/services/").await;
        let back = first_puts(&observer, 0, self.size, serving).await;
        self.row(table, "back after a wipe", &back);
        // Past the first renewals, which those who came without a token have refused.
        sleep(SEC * 6).await;
        let mark = observer.mark();
        sleep(SEC * 6).await;
        let seen = format!(
            "{} keys, {} events",
            observer.keys().len(),
            observer.events().len() - mark
        );
        let holds = observer.keys().len() == self.size && observer.events().len() == mark;
        let what = self.what("after a wipe all stay");
        table.holds(&what, holds, &seen);
    }

    fn row(&self, table: &Table, what: &str, times: &[f64]) {
        table.each_ms(&self.what(what), self.bound, times);
    }

    fn authentications(&self, table: &Table, when: &str, asked: usize) {
        let seen = format!("{asked} authentications");
        let holds = asked <= self.size + OURS;
        let what = self.what(&format!("at most one authentication each at a {when}"));
        table.holds(&what, holds, &seen);
    }

    fn what(&self, what: &str) -> String {
        let cost = match self.cost {
            "" => "bcrypt's default cost",
            _ => "bcrypt cost 4",
        };
        format!("{} processes with a password, {cost}: {what}", self.size)
    }
}

/// Each has its own name: on one machine only the pid would differ otherwise.
fn server(etcd: &Etcd, n: usize) -> ServerProcess {
    let (user, password) = users::SERVERS;
    let name = format!("service-{n}");
    let flags = ["--name", &name, "--user", user, "--password", password];
    ServerProcess::start(&etcd.endpoint(), &flags)
}
