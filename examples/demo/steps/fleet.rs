//! Three servers are restarted one after the other, while a client that discovers them calls all the time.

use crate::server::Server;
use crate::setup::{SETTLE, Setup, TIMEOUT};
use crate::timeline::{Board, Fail, Timeline};
use greeter::pb::HelloRequest;
use greeter::pb::greeter_client::GreeterClient;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic_etcd::Etcd;
use tonic_etcd::channel::BalancedChannel;
use tonic_etcd::discovery::Discovery;

/// A server of the fleet, from one start to the next stop.
struct Member {
    server: Server,
    shutdown: CancellationToken,
}

/// A client that calls on schedule, whether or not earlier calls have returned.
struct Caller {
    tally: Arc<Mutex<Tally>>,
    task: AbortHandle,
}

/// What became of its calls.
#[derive(Debug, Default)]
struct Tally {
    sent: usize,
    /// By the address that the answer names.
    answered: BTreeMap<String, usize>,
    failed: Vec<String>,
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

    let caller = Caller::start(channel);
    let mut board = Board::default();
    let mut starts: Vec<Vec<String>> = members.iter().map(|it| vec![it.address()]).collect();
    watch(STEADY, &caller, &starts, &mut board, timeline).await;
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
                    () = watch(POLL * 10, &caller, &starts, &mut board, timeline) => {}
                };
            }
        }
        members[n] = Member::start(&etcd)?;
        starts[n].push(members[n].address());
        watch(STEADY, &caller, &starts, &mut board, timeline).await;
    }
    let tally = caller.stop().await?;
    timeline.board(&mut board, &rows(&tally, &starts), true);
    check(&tally, &starts, timeline)?;
    knows(&greeters, &members).await?;
    timeline.held("the client has the three new servers, and no other");
    Ok(())
}

fn check(tally: &Tally, starts: &[Vec<String>], timeline: &mut Timeline) -> Result<(), Fail> {
    let failed = tally.failed.len();
    Fail::unless(failed == 0, "no failed call", || {
        format!("{failed} of {}, such as: {}", tally.sent, tally.failed[0])
    })?;
    let sent = tally.sent;
    timeline.held(&format!("{sent} calls, none failed"));
    let idle: Vec<_> = starts
        .iter()
        .flatten()
        .filter(|it| !tally.answered.contains_key(*it))
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
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let snapshot = greeters.snapshot();
        let known = snapshot
            .iter()
            .filter_map(|(_, it)| it.address().map(str::to_owned));
        let known: BTreeSet<_> = known.collect();
        if known == wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Fail::new(format!("{wanted:?}"), format!("{known:?}")));
        }
        sleep(POLL).await;
    }
}

/// Shows the table for a while.
async fn watch(
    time: Duration,
    caller: &Caller,
    starts: &[Vec<String>],
    board: &mut Board,
    timeline: &Timeline,
) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        timeline.board(board, &rows(&caller.tally(), starts), false);
        sleep(POLL * 10).await;
    }
}

/// The address of a server changes with its restart; `starts` has the addresses of each server.
fn rows(tally: &Tally, starts: &[Vec<String>]) -> Vec<String> {
    let shown = |address: &String| {
        let count = tally.answered.get(address).copied().unwrap_or_default();
        let port = address.rsplit(':').next().unwrap_or_default();
        format!(":{port} {count:>4} calls")
    };
    let servers = starts.iter().zip(1..).map(|(starts, n)| {
        let starts: Vec<_> = starts.iter().map(shown).collect();
        format!("server {n}  {}", starts.join(", then "))
    });
    let all = format!(
        "all {:>16} calls, {} failed",
        tally.sent,
        tally.failed.len()
    );
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

// === impl Caller ===

impl Caller {
    fn start(channel: BalancedChannel) -> Self {
        let tally = Arc::<Mutex<Tally>>::default();
        let task = tokio::spawn(call_on(GreeterClient::new(channel), tally.clone()));
        let task = task.abort_handle();
        Self { tally, task }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// Starts no more calls, and waits for those that have not returned.
    async fn stop(self) -> Result<Tally, Fail> {
        self.task.abort();
        let returned = async {
            while self.tally().open() > 0 {
                sleep(POLL).await;
            }
        };
        if timeout(TIMEOUT, returned).await.is_err() {
            let open = self.tally().open();
            return Err(Fail::new("calls that return", format!("{open} have not")));
        }
        Ok(std::mem::take(&mut *self.tally()))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn call_on(client: GreeterClient<BalancedChannel>, tally: Arc<Mutex<Tally>>) {
    let mut due = interval(EVERY);
    loop {
        due.tick().await;
        lock(&tally).sent += 1;
        let (mut client, tally) = (client.clone(), tally.clone());
        tokio::spawn(async move {
            let name = "demo".to_owned();
            let answer = client.say_hello(HelloRequest { name }).await;
            let mut tally = lock(&tally);
            match answer {
                Ok(answer) => {
                    // "Hello demo! I am 127.0.0.1:41234."
                    let message = answer.into_inner().message;
                    let from = message.trim_end_matches('.').rsplit(' ').next();
                    let from = from.unwrap_or_default().to_owned();
                    *tally.answered.entry(from).or_default() += 1;
                }
                Err(status) => tally.failed.push(status.to_string()),
            }
        });
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Tally ===

impl Tally {
    fn open(&self) -> usize {
        self.sent - self.answered.values().sum::<usize>() - self.failed.len()
    }
}
