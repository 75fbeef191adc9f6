//! A channel whose peers end connections, refuse, drop and flap, drawn from a seed: no call fails while there is a good
//! endpoint, and dials and log lines are bounded. `CHANNEL_SEED=7 cargo test ... channel_soak` runs one seed again.

use crate::channel::connections::serve_ending;
use crate::channel::net::{Client, Net, Registry, address};
use crate::channel::raw::{GOAWAY, SETTINGS, write};
use crate::log::Log;
use crate::setup::{MS, SEC};
use crate::support::ending::{after, after_requests};
use fastrand::Rng;
use greeter::pb::HelloRequest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_etcd::channel::BalancedChannel;

/// Runs of an ordinary test.
const RUNS: u64 = 4;
/// How long one lasts.
const TIME: Duration = Duration::from_secs(15);
/// Those that serve, in one way or another; all further ones are dead.
const SERVERS: usize = 4;

/// What an address does with new connections. Those that are open keep what they had.
#[derive(Debug, Clone, Copy)]
enum Peer {
    Serves,
    EndsAfter(usize),
    EndsAt(Duration),
    Refuses,
    /// It accepts connections, and sends nothing.
    Silent,
    /// It sends its settings and a `GOAWAY`.
    EndsAtOnce,
}

/// What is counted in one run.
#[derive(Debug, Default)]
struct Counts {
    calls: usize,
    failures: Vec<String>,
    /// Dials of peers that serve, and of others.
    dials: [usize; 2],
    /// How often an address became one that does not serve.
    broken: usize,
    slowest: Duration,
}

struct Run {
    rng: Rng,
    net: Net,
    registry: Registry,
    peers: Arc<Mutex<HashMap<String, Peer>>>,
    counts: Arc<Mutex<Counts>>,
    log: Log,
    story: Vec<String>,
    dead: usize,
    /// Only the first server serves.
    is_alone: bool,
}

// === impl Peer ===

impl Peer {
    fn draw(rng: &mut Rng, kinds: std::ops::Range<u8>) -> Self {
        match rng.u8(kinds) {
            0 => Self::Serves,
            1..4 => Self::EndsAfter([1, 10, 100, 1000][rng.usize(0..4)]),
            4..6 => Self::EndsAt(MS * rng.u32(200..2000)),
            6..8 => Self::Refuses,
            8..10 => Self::Silent,
            _ => Self::EndsAtOnce,
        }
    }

    fn serves(self) -> bool {
        matches!(self, Self::Serves | Self::EndsAfter(_) | Self::EndsAt(_))
    }
}

// === impl Counts ===

impl Counts {
    fn on_call(&mut self, took: Duration, failure: Option<Status>) {
        self.calls += 1;
        self.slowest = self.slowest.max(took);
        let failure = failure.map(|status| format!("after {took:?}: {status}"));
        self.failures.extend(failure);
    }
}

// === impl Run ===

impl Run {
    fn new(seed: u64) -> (Self, BalancedChannel) {
        let net = Net::default();
        let (registry, builder) = net.balanced();
        let peers = Arc::new(Mutex::new(HashMap::<String, Peer>::new()));
        let counts = Arc::new(Mutex::new(Counts::default()));
        let (hosts, known, counted) = (net.clone(), peers.clone(), counts.clone());
        let builder = builder.connector(move |uri: http::Uri| {
            let address = uri.authority().unwrap().as_str();
            let serves = known
                .lock()
                .unwrap()
                .get(address)
                .is_some_and(|it| it.serves());
            counted.lock().unwrap().dials[usize::from(!serves)] += 1;
            let connected = hosts.connect(address);
            async { connected }
        });
        let run = Self {
            is_alone: seed.is_multiple_of(2),
            rng: Rng::with_seed(seed),
            net,
            registry,
            peers,
            counts,
            log: Log::of("tonic_etcd=debug"),
            story: vec![],
            dead: 0,
        };
        (run, builder.build().unwrap())
    }

    /// From now on connections to `address` are treated like that.
    fn set(&mut self, address: &str, peer: Peer) {
        self.peers.lock().unwrap().insert(address.to_owned(), peer);
        if !peer.serves() {
            self.counts.lock().unwrap().broken += 1;
        }
        match peer {
            Peer::Serves => serve_ending(&self.net, address, after_requests(usize::MAX)),
            Peer::EndsAfter(n) => serve_ending(&self.net, address, after_requests(n)),
            Peer::EndsAt(age) => serve_ending(&self.net, address, after(age)),
            Peer::Refuses => drop(self.net.0.lock().unwrap().remove(address)),
            Peer::Silent | Peer::EndsAtOnce => {
                let mut arriving = self.net.listen(address, CancellationToken::new());
                tokio::spawn(async move {
                    let mut silent = vec![];
                    while let Some(mut io) = arriving.recv().await {
                        match peer {
                            Peer::Silent => silent.push(io),
                            _ => {
                                write(&mut io, SETTINGS, 0, &[]).await;
                                write(&mut io, GOAWAY, 0, &[0; 8]).await;
                            }
                        }
                    }
                });
            }
        }
    }

    /// The first server always serves.
    fn change(&mut self) {
        let n = self.rng.usize(1..=SERVERS);
        match self.rng.u8(0..10) {
            0 if n > 1 => {
                self.story.push(format!("{n}: gone"));
                self.registry.gone(&address(n));
            }
            1 if self.dead < 600 => {
                let peer = [Peer::Refuses, Peer::Silent][self.rng.usize(0..2)];
                for _ in 0..self.rng.usize(1..300) {
                    self.dead += 1;
                    let address = address(1000 + self.dead);
                    self.set(&address, peer);
                    self.registry.put(&address, 100);
                }
                self.story.push(format!("{} dead: {peer:?}", self.dead));
            }
            _ => {
                self.draw(n);
            }
        }
    }

    fn draw(&mut self, n: usize) {
        let kinds = match n {
            1 => 0..6,
            _ if self.is_alone => 6..12,
            _ => 0..12,
        };
        let peer = Peer::draw(&mut self.rng, kinds);
        self.story.push(format!("{n}: {peer:?}"));
        self.set(&address(n), peer);
        self.registry.put(&address(n), 100);
    }

    fn caller(&mut self, balanced: &BalancedChannel) -> JoinHandle<()> {
        let mut client = Client::new(balanced.clone());
        let pause = MS * self.rng.u32(5..60);
        let counts = self.counts.clone();
        tokio::spawn(async move {
            loop {
                let (begun, name) = (Instant::now(), "x".to_owned());
                let answer = client.say_hello(HelloRequest { name }).await;
                counts
                    .lock()
                    .unwrap()
                    .on_call(begun.elapsed(), answer.err());
                sleep(pause).await;
            }
        })
    }

    fn check(&self, time: Duration) -> Result<(), String> {
        let counts = self.counts.lock().unwrap();
        let secs = usize::try_from(time.as_secs()).unwrap() + 1;
        let lines = self.log.lines();
        let debug = lines.iter().filter(|line| line.contains("DEBUG")).count();
        // A first dial has at most four rounds, and the budget of the channel is 32 a second.
        let [served, broken] = counts.dials;
        let longest = MS * if self.is_alone { 20 } else { 1_100 };
        let most = 5 * counts.broken + 32 * secs + 128;
        for (holds, what) in [
            (counts.failures.is_empty(), "a call failed"),
            // A connection that nobody called is replaced within a second, every other one at once.
            (counts.slowest < longest, "a call waited"),
            (broken <= most, "dials of broken peers"),
            // Each connection that is replaced at once has answered a call, or was old.
            (
                served <= counts.calls + 50 * SERVERS + 32 * secs,
                "dials of servers",
            ),
            (lines.len() - debug <= 11 + secs / 6, "lines"),
            (debug <= 101 + 10 * secs, "DEBUG lines"),
        ] {
            if !holds {
                let (first, story) = (counts.failures.first(), self.story.join("\n"));
                return Err(format!(
                    "{what}: {} calls, {} failed, first {first:?}, slowest {:?}, dials {:?} of {most}, \
                     {} lines, {debug} DEBUG\n{story}",
                    counts.calls,
                    counts.failures.len(),
                    counts.slowest,
                    counts.dials,
                    lines.len() - debug,
                ));
            }
        }
        Ok(())
    }
}

async fn run(seed: u64) -> Result<(), String> {
    let (mut run, balanced) = Run::new(seed);
    for n in 1..=SERVERS {
        run.draw(n);
    }
    let callers = run.rng.usize(2..12);
    let callers = Vec::from_iter((0..callers).map(|_| run.caller(&balanced)));
    let begun = Instant::now();
    while begun.elapsed() < TIME {
        let pause = MS * run.rng.u32(100..3000);
        sleep(pause).await;
        run.change();
    }
    callers.iter().for_each(JoinHandle::abort);
    run.check(begun.elapsed())?;
    // Nothing of the channel is left when it is dropped.
    drop((callers, balanced));
    let closed = timeout(SEC * 60, run.registry.0.closed()).await;
    closed.map_err(|_| "its task goes on".to_owned())
}

#[tokio::test(start_paused = true)]
async fn no_call_fails_while_there_is_a_good_endpoint() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match (number("CHANNEL_SEED"), number("CHANNEL_RUNS")) {
        (Some(seed), runs) => seed..seed + runs.unwrap_or(1),
        (None, runs) => 0..runs.unwrap_or(RUNS),
    };
    for seed in seeds {
        if let Err(what) = run(seed).await {
            panic!("I17: seed {seed}: {what}");
        }
    }
}
