//! Three servers are restarted one after the other, while a client that discovers them calls all the time.

use crate::server::Server;
use crate::setup::{SETTLE, Setup, TIMEOUT};
use crate::timeline::{Board, Fail, Timeline};
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use test_support::load::{self, Ledger, Pace};
use test_support::poll;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic_etcd::Etcd;
use tonic_etcd::discovery::Discovery;

/// A server of the fleet, from one start to the next stop.
struct Member {
    server: Server,
    shutdown: CancellationToken,
}

const MEMBERS: usize = 3;
/// All of them run in this process, so that a key has to have more than its id.
const KEY: &str = "{prefix}/{name}/{ip}/{port}";
const EVERY: Duration = Duration::from_millis(5);
/// Between two restarts, so that the table can be seen to change.
const STEADY: Duration = Duration::from_millis(700);
const POLL: Duration = Duration::from_millis(5);

pub(super) async fn restart(setup: &mut Setup, timeline: &mut Timeline) -> Result<(), Fail> {
    let etcd = setup.etcd.endpoint();
    let mut members: Vec<Member> = vec![];
    for _ in 0..MEMBERS {
        members.push(Member::start(&etcd)?);
    }
    let wrong = |error: tonic_etcd::BuildError| Fail::new("a channel", error.to_string());
    let greeters = Discovery::builder(Etcd::new([&etcd]), "greeter")
        .build()
        .map_err(wrong)?;
    let channel = greeters.channel().build().map_err(wrong)?;
    knows(&greeters, &members).await?;
    timeline.note("a client has found three servers, and calls them 200 times a second");

    let (ledger, stop) = (Arc::<Ledger>::default(), CancellationToken::new());
    let pace = Pace {
        first: Instant::now(),
        unary: EVERY,
        streams: Duration::ZERO,
        deadline: TIMEOUT,
        stop: stop.clone(),
    };
    load::start(channel, pace, ledger.clone());
    let _stop = stop.clone().drop_guard();
    let mut board = Board::default();
    let mut starts: Vec<Vec<String>> = members.iter().map(|it| vec![it.address()]).collect();
    watch(STEADY, &ledger, &starts, &mut board, timeline).await;
    for n in 0..MEMBERS {
        members[n].shutdown.cancel();
        {
            let mut leaving = pin!(members[n].server.ended(TIMEOUT));
            // The table goes on while the server takes its time.
            loop {
                tokio::select! {
                    ended = &mut leaving => {
                        ended?;
                        break;
                    }
                    () = watch(POLL * 10, &ledger, &starts, &mut board, timeline) => {}
                };
            }
        }
        members[n] = Member::start(&etcd)?;
        starts[n].push(members[n].address());
        watch(STEADY, &ledger, &starts, &mut board, timeline).await;
    }
    stop.cancel();
    let returned = async || match ledger.open() {
        0 => Ok(()),
        open => Err(format!("{open} have not")),
    };
    let returned = poll(POLL, TIMEOUT, returned).await;
    returned.map_err(|seen| Fail::new("calls that return", seen))?;
    timeline.board(&mut board, &rows(&ledger, &starts), true);
    check(&ledger, &starts, timeline)?;
    knows(&greeters, &members).await?;
    timeline.held("the client has the three new servers, and no other");
    Ok(())
}

fn check(ledger: &Ledger, starts: &[Vec<String>], timeline: &mut Timeline) -> Result<(), Fail> {
    let (sent, failures) = (ledger.sent(), ledger.failures());
    Fail::unless(failures.is_empty(), "no failed call", || {
        format!("{} of {sent}, such as: {}", failures.len(), failures[0])
    })?;
    timeline.held(&format!("{sent} calls, none failed"));
    let answered = ledger.answered();
    let idle: Vec<_> = starts
        .iter()
        .flatten()
        .filter(|it| !answered.contains_key(*it))
        .collect();
    Fail::unless(idle.is_empty(), "calls to all servers", || {
        format!("none to {idle:?}")
    })?;
    timeline.held("all of them got their share, before their restart and after it");
    Ok(())
}

/// Waits until exactly these servers are known.
async fn knows(greeters: &Discovery, members: &[Member]) -> Result<(), Fail> {
    let wanted: BTreeSet<_> = members.iter().map(Member::address).collect();
    let right = poll(POLL, TIMEOUT, async || {
        let snapshot = greeters.snapshot();
        let known = snapshot.iter().filter_map(|(_, it)| it.address());
        let known: BTreeSet<_> = known.map(str::to_owned).collect();
        (known == wanted).then_some(()).ok_or(known)
    });
    let right = right.await;
    right.map_err(|known| Fail::new(format!("{wanted:?}"), format!("{known:?}")))
}

/// Shows the table for a while.
async fn watch(
    time: Duration,
    ledger: &Ledger,
    starts: &[Vec<String>],
    board: &mut Board,
    timeline: &Timeline,
) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        timeline.board(board, &rows(ledger, starts), false);
        sleep(POLL * 10).await;
    }
}

/// The address of a server changes with its restart; `starts` has the addresses of each server.
fn rows(ledger: &Ledger, starts: &[Vec<String>]) -> Vec<String> {
    let (answered, failed) = (ledger.answered(), ledger.failures().len());
    let shown = |address: &String| {
        let count = answered.get(address).copied().unwrap_or_default();
        let port = address.rsplit(':').next().unwrap_or_default();
        format!(":{port} {count:>4} calls")
    };
    let servers = starts.iter().zip(1..).map(|(starts, n)| {
        let starts: Vec<_> = starts.iter().map(shown).collect();
        format!("server {n}  {}", starts.join(", then "))
    });
    let all = format!("all {:>16} calls, {failed} failed", ledger.sent());
    servers.chain([all]).collect()
}

// === impl Member ===

impl Member {
    fn start(etcd: &str) -> Result<Self, Fail> {
        let shutdown = CancellationToken::new();
        let server = Server::start(etcd, KEY, SETTLE, shutdown.clone());
        let server = server.map_err(|error| Fail::new("a server", error.to_string()))?;
        Ok(Self { server, shutdown })
    }

    fn address(&self) -> String {
        self.server.addr.to_string()
    }
}
