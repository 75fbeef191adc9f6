//! [`Ledger`]: the result of every call; [`Summary`]: the same in figures.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Status};

/// How long a stream takes without a delay: its messages at their interval, the first one at once.
const STREAM: Duration = Duration::from_millis(100 * (MESSAGES as u64 - 1));
pub(super) const MESSAGES: u32 = 11;

/// All calls of the clients of one kind.
#[derive(Debug, Default)]
pub struct Ledger {
    started: AtomicUsize,
    records: Mutex<Vec<Record>>,
}

/// One call.
#[derive(Debug, Clone)]
pub struct Record {
    pub kind: Kind,
    /// When it was scheduled: the wait of its task for a thread is part of its latency.
    pub begun: Instant,
    pub ended: Instant,
    /// The address that a unary call was answered by.
    pub outcome: Result<String, Failure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Unary,
    /// Takes about one second; a stream that is cut has failed.
    Stream,
}

/// The error that the caller got.
#[derive(Debug, Clone)]
pub struct Failure {
    pub code: Code,
    pub text: String,
}

/// A ledger in figures.
#[derive(Debug)]
pub struct Summary {
    pub calls: usize,
    pub streams: usize,
    /// Of all calls.
    pub failed: usize,
    pub codes: BTreeMap<String, usize>,
    /// Of unary calls that were answered: half of them, 99 of 100, all took at most this.
    pub latency: [Duration; 3],
    /// The longest time without a successful call, while calls were due.
    pub silence: Duration,
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn started(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self, kind: Kind, begun: Instant, outcome: Result<String, Status>) {
        let record = Record {
            kind,
            begun,
            ended: Instant::now(),
            outcome: outcome.map_err(Failure::from),
        };
        self.lock().push(record);
    }

    /// The calls that were started.
    pub fn sent(&self) -> usize {
        self.started.load(Ordering::Relaxed)
    }

    /// The calls that were started and have not ended.
    pub fn open(&self) -> usize {
        let ended = self.lock().len();
        self.sent().saturating_sub(ended)
    }

    /// How many unary calls each address answered.
    pub fn answered(&self) -> BTreeMap<String, usize> {
        let mut answered = BTreeMap::new();
        for address in self
            .lock()
            .iter()
            .filter_map(|record| record.outcome.as_ref().ok())
        {
            *answered.entry(address.clone()).or_default() += 1;
        }
        answered
    }

    pub fn failures(&self) -> Vec<Failure> {
        self.lock()
            .iter()
            .filter_map(Record::failure)
            .cloned()
            .collect()
    }

    /// In the order in which they were begun.
    pub fn records(&self) -> Vec<Record> {
        let mut records = self.lock().clone();
        records.sort_by_key(|record| record.begun);
        records
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Record ===

impl Record {
    /// The error of a call that failed.
    pub fn failure(&self) -> Option<&Failure> {
        self.outcome.as_ref().err()
    }

    fn latency(&self) -> Duration {
        self.ended.saturating_duration_since(self.begun)
    }

    /// It failed, or took a second longer than it should.
    pub fn is_bad(&self) -> bool {
        let own = match self.kind {
            Kind::Unary => Duration::ZERO,
            Kind::Stream => STREAM,
        };
        self.outcome.is_err() || self.latency() > own + Duration::from_secs(1)
    }
}

// === impl Failure ===

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.text)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self {
            code: status.code(),
            text: status.message().to_owned(),
        }
    }
}

// === impl Summary ===

impl Summary {
    /// `began`: when the first call was due.
    pub fn of(records: &[Record], began: Instant) -> Self {
        let mut codes = BTreeMap::new();
        for failure in records.iter().filter_map(Record::failure) {
            *codes.entry(format!("{:?}", failure.code)).or_default() += 1;
        }
        let answered = || records.iter().filter(|record| record.outcome.is_ok());
        let unary = answered().filter(|record| record.kind == Kind::Unary);
        let mut latencies: Vec<_> = unary.map(Record::latency).collect();
        latencies.sort_unstable();
        let mut successes: Vec<_> = answered().map(|record| record.ended).collect();
        successes.sort_unstable();
        // From the first call to the last one that was begun: then the streams end, and nothing else.
        let last = records
            .iter()
            .map(|record| record.begun)
            .max()
            .unwrap_or(began);
        successes.retain(|success| *success < last);
        successes.insert(0, began);
        successes.push(last);
        let gaps = successes.windows(2).map(|pair| pair[1] - pair[0]);
        Self {
            calls: records.len(),
            streams: records
                .iter()
                .filter(|record| record.kind == Kind::Stream)
                .count(),
            failed: codes.values().sum(),
            codes,
            latency: [0.5, 0.99, 1.0].map(|share| quantile(&latencies, share)),
            silence: gaps.max().unwrap_or_default(),
        }
    }
}

/// The quantile of sorted durations: this share of them is not above it.
pub fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    let at = rank.saturating_sub(1).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let ms = Duration::from_millis;
        let hundred: Vec<_> = (1..=100).map(ms).collect();
        assert_eq!(quantile(&hundred, 0.5), ms(50));
        assert_eq!(quantile(&hundred, 0.99), ms(99));
        assert_eq!(quantile(&hundred, 1.0), ms(100));
        assert_eq!(quantile(&hundred[..1], 0.5), ms(1));
        assert_eq!(quantile(&[], 0.5), ms(0));
    }

    #[test]
    fn silence_is_between_answers_that_came_back_well() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let record = |begun, ended, failed: bool| Record {
            kind: Kind::Unary,
            begun: at(begun),
            ended: at(ended),
            outcome: match failed {
                true => Err(Failure::from(Status::unavailable("away"))),
                false => Ok(String::new()),
            },
        };
        let records = [
            record(0, 10, false),
            record(20, 30, true),
            record(40, 90, false),
            record(100, 101, false),
        ];
        let summary = Summary::of(&records, began);
        assert_eq!(summary.silence, Duration::from_millis(80));
        assert_eq!((summary.calls, summary.failed), (4, 1));
        assert_eq!(summary.latency[2], Duration::from_millis(50));
    }
}
