//! [`Side`]: the clients of one kind, the results of their calls, and their bounds.

use crate::args::{Args, Who};
use crate::client::Client;
use crate::problem::Problem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use test_support::load::{Bar, Failure, Kind, Ledger, Pace, Record};
use test_support::poll;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// The clients of one kind.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) who: Who,
    pub(crate) bars: Vec<Bar>,
    clients: Arc<Vec<Client>>,
    ledger: Arc<Ledger>,
    blind: Option<Blind>,
}

/// For how long each client had no endpoint, all in all.
#[derive(Debug)]
struct Blind {
    times: Arc<Mutex<Vec<Duration>>>,
    task: AbortHandle,
}

const POLL: Duration = Duration::from_millis(5);

// === impl Side ===

impl Side {
    pub(crate) fn new(who: Who, etcd: &str, args: &Args) -> Result<Self, Problem> {
        let clients = (0..args.clients).map(|_| Client::start(who, etcd, args));
        Ok(Self {
            who,
            bars: vec![],
            clients: Arc::new(clients.collect::<Result<_, _>>()?),
            ledger: Arc::default(),
            blind: None,
        })
    }

    /// Begins to call; the clients alternately, so that the calls of all of them are evenly spread.
    pub(crate) fn begin(&mut self, args: &Args, first: Instant, stop: &CancellationToken) {
        let clients = u32::from(args.clients);
        let second = Duration::from_secs(1);
        let every = |rate: u32| second.checked_div(rate).unwrap_or_default();
        for (client, n) in self.clients.iter().zip(0..) {
            let pace = Pace {
                first: first + every(args.rate) * n,
                unary: every(args.rate) * clients,
                streams: every(args.streams) * clients,
                deadline: args.deadline,
                stop: stop.clone(),
            };
            client.load(pace, self.ledger.clone());
        }
        self.blind = Some(Blind::watch(self.clients.clone()));
    }

    /// When something held for every client at the same time; `None`: not in time.
    pub(crate) async fn until(
        &self,
        within: Duration,
        holds: impl Fn(&Client) -> bool,
    ) -> Option<Instant> {
        let all = async || self.clients.iter().all(&holds).then(Instant::now).ok_or(());
        poll(POLL, within, all).await.ok()
    }

    /// The calls that were started and have not ended.
    pub(crate) fn open(&self) -> usize {
        self.ledger.open()
    }

    /// All calls. A call that has not ended by now counts as failed.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut records = self.ledger.records();
        let now = Instant::now();
        let endless = || Failure::from(Status::unknown("it never ended"));
        records.extend((0..self.open()).map(|_| Record {
            kind: Kind::Unary,
            begun: now,
            ended: now,
            outcome: Err(endless()),
        }));
        records
    }

    /// For how long a client had no endpoint: the one for which that was longest.
    pub(crate) fn blind(&self) -> Duration {
        let blind = self.blind.as_ref().map(Blind::longest);
        blind.unwrap_or_default()
    }
}

// === impl Blind ===

impl Blind {
    fn watch(clients: Arc<Vec<Client>>) -> Self {
        let times = Arc::new(Mutex::new(vec![Duration::ZERO; clients.len()]));
        let shared = times.clone();
        let watching = async move {
            let mut last = Instant::now();
            loop {
                sleep(POLL).await;
                let passed = last.elapsed();
                last += passed;
                let mut times = shared.lock().unwrap_or_else(PoisonError::into_inner);
                for (client, time) in clients.iter().zip(times.iter_mut()) {
                    if client.callable().is_empty() {
                        *time += passed;
                    }
                }
            }
        };
        let task = tokio::spawn(watching).abort_handle();
        Self { times, task }
    }

    fn longest(&self) -> Duration {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.iter().max().copied().unwrap_or_default()
    }
}

impl Drop for Blind {
    fn drop(&mut self) {
        self.task.abort();
    }
}
