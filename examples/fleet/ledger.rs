//! [`Ledger`]: the result of every call; [`Summary`]: the same in figures.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Status};

/// How long a stream takes by itself: so many messages, so far apart, the first one at once.
const STREAM: Duration = Duration::from_millis(100 * (MESSAGES as u64 - 1));
pub(crate) const MESSAGES: u32 = 11;

/// All calls of the clients of one kind.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    started: AtomicUsize,
    records: Mutex<Vec<Record>>,
}

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    /// When it was scheduled: the wait of its task for a thread is part of its latency.
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    pub(crate) failure: Option<Failure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Unary,
    /// Takes about one second; a stream that is cut has failed.
    Stream,
}

/// The error that the caller got.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) text: String,
}

/// A ledger in figures.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) calls: usize,
    pub(crate) streams: usize,
    /// Of all calls.
    pub(crate) failed: usize,
    pub(crate) codes: BTreeMap<String, usize>,
    /// Of unary calls that were answered: half of them, 99 of 100, all took at most this.
    pub(crate) latency: [Duration; 3],
    /// The longest time without a successful call, while calls were due.
    pub(crate) silence: Duration,
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn started(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, kind: Kind, begun: Instant, outcome: Result<(), Status>) {
        let record = Record {
            kind,
            begun,
            ended: Instant::now(),
            failure: outcome.err().map(Failure::from),
        };
        self.lock().push(record);
    }

    /// The calls that were started and have not ended.
    pub(crate) fn open(&self) -> usize {
        let ended = self.lock().len();
        self.started.load(Ordering::Relaxed).saturating_sub(ended)
    }

    /// In the order in which they were begun.
    pub(crate) fn records(&self) -> Vec<Record> {
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
    pub(crate) fn latency(&self) -> Duration {
        self.ended.saturating_duration_since(self.begun)
    }

    /// It failed, or took a second longer than it should.
    pub(crate) fn is_bad(&self) -> bool {
        let own = match self.kind {
            Kind::Unary => Duration::ZERO,
            Kind::Stream => STREAM,
        };
        self.failure.is_some() || self.latency() > own + Duration::from_secs(1)
    }
}

// === impl Failure ===

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
    pub(crate) fn of(records: &[Record], began: Instant) -> Self {
        let mut codes = BTreeMap::new();
        for failure in records.iter().filter_map(|record| record.failure.as_ref()) {
            *codes.entry(format!("{:?}", failure.code)).or_default() += 1;
        }
        let answered = || records.iter().filter(|record| record.failure.is_none());
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
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> Duration {
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
            failure: failed.then(|| Failure::from(Status::unavailable("away"))),
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
