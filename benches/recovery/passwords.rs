//! Fleets whose every process needs a password: what hashing it costs etcd is what they all wait for.

use crate::support::etcd::{Etcd, users};
use crate::support::eventually;
use crate::support::observer::{Kind, Observer};
use crate::support::server::{ServerProcess, ms};
use crate::table::{Stat, Table};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const SEC: Duration = Duration::from_secs(1);
/// The observer asks for a token too: one, and another after each restart.
const OURS: usize = 2;

/// So many processes, at an etcd that hashes passwords at that cost.
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
        let there = self.puts(&observer, 0, start).await;
        self.row(table, "registered, from a common start", &there);
        self.authentications(table, "start", etcd.calls("Authenticate").await - asked);
        self.restart(table, &mut etcd, &observer).await;
        self.wipe(table, &mut etcd).await;
        drop(servers);
    }

    /// With its data: nobody should notice.
    async fn restart(&self, table: &Table, etcd: &mut Etcd, observer: &Observer) {
        let mark = observer.mark();
        etcd.kill().await;
        sleep(SEC).await;
        etcd.start_again();
        etcd.wait_serving().await;
        sleep(SEC * 12).await;
        let seen = format!(
            "{} PUT, {} DELETE",
            observer.puts_since(mark).len(),
            observer.deletes_since(mark).len()
        );
        let holds = observer.events().len() == mark && observer.keys().len() == self.size;
        let what = self.what("etcd back with its data after 1 s, and 12 s on: 0 events");
        table.holds(&what, if holds { Ok(seen) } else { Err(seen) });
        self.authentications(table, "restart", etcd.calls("Authenticate").await);
    }

    /// Its users are gone with its data, and are made again as soon as it serves.
    async fn wipe(&self, table: &Table, etcd: &mut Etcd) {
        etcd.kill().await;
        etcd.wipe();
        sleep(SEC).await;
        etcd.start_again();
        let serving = etcd.wait_serving().await;
        // The observer of before has a token, and a place in a history, that the new etcd does not know.
        let observer = Observer::with_client(etcd.client().await, "/services/").await;
        let back = self.puts(&observer, 0, serving).await;
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
        table.holds(&what, if holds { Ok(seen) } else { Err(seen) });
    }

    /// When the first PUT of each of them was seen since `mark`, in milliseconds after `start`.
    async fn puts(&self, observer: &Observer, mark: usize, start: Instant) -> Vec<f64> {
        eventually(&self.what("all are there"), SEC * 120, || {
            let events = observer.events();
            let puts = events[mark.min(events.len())..].iter();
            let mut puts: Vec<_> = puts.filter(|e| e.kind == Kind::Put).collect();
            puts.sort_by(|a, b| (&a.key, a.at).cmp(&(&b.key, b.at)));
            puts.dedup_by_key(|put| put.key.clone());
            match puts.len() {
                there if there >= self.size => {
                    Ok(puts.iter().map(|put| ms(start, put.at)).collect())
                }
                there => Err(format!("{there} of {}", self.size)),
            }
        })
        .await
    }

    fn row(&self, table: &Table, what: &str, times: &[f64]) {
        table.at_most(&self.what(what), "ms", self.bound, Stat::Each, times);
    }

    fn authentications(&self, table: &Table, when: &str, asked: usize) {
        let seen = format!("{asked} authentications");
        let holds = asked <= self.size + OURS;
        let what = self.what(&format!("at most one authentication each at a {when}"));
        table.holds(&what, if holds { Ok(seen) } else { Err(seen) });
    }

    fn what(&self, what: &str) -> String {
        let cost = match self.cost {
            "" => "bcrypt's default cost",
            _ => "bcrypt cost 4",
        };
        format!("{} processes with a password, {cost}: {what}", self.size)
    }
}

/// A name each: on this one machine nothing else tells them apart but the pid.
fn server(etcd: &Etcd, n: usize) -> ServerProcess {
    let (user, password) = users::SERVERS;
    let name = format!("service-{n}");
    let flags = ["--name", &name, "--user", user, "--password", password];
    ServerProcess::start(&etcd.endpoint(), &flags)
}
