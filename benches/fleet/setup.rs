//! [`Setup`]: etcd, servers, clients and their load, for one scenario.

use crate::args::{Args, Scenario, Who};
use crate::client::Client;
use crate::problem::Problem;
use crate::servers::Server;
use crate::side::Side;
use crate::table::Table;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;
use test_support::etcd::Etcd;
use test_support::load::{Record, Summary, Verdict};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Everything that a scenario acts on. All of it ends with this.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) args: Args,
    pub(crate) etcd: Etcd,
    pub(crate) servers: Vec<Server>,
    pub(crate) sides: Vec<Side>,
    scenario: Scenario,
    dir: PathBuf,
    began: Instant,
    events: Vec<(Instant, String)>,
    stop: CancellationToken,
}

const TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);
/// How many failures are shown; the rest is in a file.
const SHOWN: usize = 5;

// === impl Setup ===

impl Setup {
    /// Starts everything, and the load once every client can call every server.
    pub(crate) async fn raise(
        scenario: Scenario,
        args: &Args,
        dir: PathBuf,
    ) -> Result<Self, Problem> {
        std::fs::create_dir_all(&dir)?;
        let etcd = Etcd::start().await;
        let servers = (1..=args.servers).map(|n| {
            Server::start(
                format!("server-{n}"),
                &etcd.endpoint(),
                args.deregistration_delay,
                &dir,
            )
        });
        let servers: Vec<_> = servers.collect();
        for server in &servers {
            server.registered().await;
        }
        let kinds = match args.client {
            Who::Both => vec![Who::Balanced, Who::Naive],
            who => vec![who],
        };
        let sides = kinds
            .into_iter()
            .map(|who| Side::new(who, &etcd.endpoint(), args));
        let mut setup = Self {
            args: args.clone(),
            sides: sides.collect::<Result<_, _>>()?,
            etcd,
            servers,
            scenario,
            dir,
            began: Instant::now(),
            events: vec![],
            stop: CancellationToken::new(),
        };
        setup.all_callable().await?;
        setup.began = Instant::now();
        for side in &mut setup.sides {
            side.begin(args, setup.began, &setup.stop);
        }
        setup.note(format!("{} begins", scenario.name()));
        Ok(setup)
    }

    /// Prints an event, and records it to explain later failures.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        let (now, text) = (Instant::now(), text.into());
        eprintln!("{:>9.3} s  {text}", (now - self.began).as_secs_f64());
        self.events.push((now, text));
    }

    /// The addresses of the running servers.
    pub(crate) fn addresses(&self) -> BTreeSet<String> {
        self.servers.iter().map(Server::address).collect()
    }

    /// Waits until every client can call exactly the servers that run.
    pub(crate) async fn all_callable(&self) -> Result<(), Problem> {
        let addresses = self.addresses();
        for side in &self.sides {
            let right = |client: &Client| client.callable() == addresses;
            let right = side.until(TIMEOUT, right).await;
            right.ok_or_else(|| format!("a client ({:?}) does not find the servers", side.who))?;
        }
        Ok(())
    }

    /// Ends the load, and prints the results.
    pub(crate) async fn finish(mut self, table: &mut Table) -> Result<(), Problem> {
        sleep(self.args.cool_down).await;
        self.stop.cancel();
        let limit = Instant::now() + self.args.deadline + Duration::from_secs(3);
        while self.sides.iter().any(|side| side.open() > 0) && Instant::now() < limit {
            sleep(POLL).await;
        }
        self.note("ends");
        for side in &self.sides {
            let records = side.records();
            let summary = Summary::of(&records, self.began);
            let verdicts: Vec<Verdict> =
                side.bars.iter().map(|bar| bar.verdict(&records)).collect();
            let held = verdicts.iter().all(|verdict| verdict.held);
            table.row(self.scenario, side.who, &summary, side.blind(), &verdicts);
            self.tell(side, &records, !held)?;
        }
        Ok(())
    }

    /// Writes each failure to a file, and shows some of them if they are too many.
    fn tell(&self, side: &Side, records: &[Record], show: bool) -> Result<(), Problem> {
        let mut lines = String::new();
        for record in records.iter().filter(|record| record.is_bad()) {
            let since = |at: Instant| (at - self.began).as_secs_f64();
            let before = self.events.iter().rfind(|(at, _)| *at <= record.ended);
            let (at, event) = before.map_or((self.began, ""), |(at, event)| (*at, event));
            let why = record
                .failure()
                .map_or("late".to_owned(), |why| why.to_string());
            writeln!(
                lines,
                "{:.3} s to {:.3} s ({:.3} s after {event:?}) {:?} {why}",
                since(record.begun),
                since(record.ended),
                (record.ended - at).as_secs_f64(),
                record.kind,
            )?;
        }
        if show && side.who == Who::Balanced {
            lines
                .lines()
                .take(SHOWN)
                .for_each(|line| eprintln!("    {line}"));
        }
        let file = format!("{}.{:?}.bad", self.scenario.name(), side.who);
        Ok(std::fs::write(self.dir.join(file), lines)?)
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.stop.cancel();
        // Ignored if the directory is removed already.
        let _ = std::fs::write(self.dir.join("etcd.log"), self.etcd.log());
    }
}
