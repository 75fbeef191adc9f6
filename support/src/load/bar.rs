//! [`Bar`]: what must hold for calls; pure.

use super::Record;
use std::time::Duration;
use tokio::time::Instant;

/// What must hold for the calls of one kind of client.
#[derive(Debug, Clone)]
pub enum Bar {
    /// No call fails.
    NoFailure,
    /// Only calls that were in flight at an address when its server was killed fail, and at once.
    OnlyInFlight {
        killed: Instant,
        /// The address that errors have to name; `None`: this client's errors name none.
        address: Option<String>,
    },
    /// The last bad call began before the limit.
    GoesElsewhere { stopped: Instant, limit: Duration },
    /// The time until all clients could call exactly the servers that exist.
    Converges { took: Option<Duration> },
}

/// Whether it held, and what was measured.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    pub held: bool,
    pub seen: String,
}

/// How long after a kill the last failure may be seen.
const KILL: Duration = Duration::from_millis(100);
const CONVERGENCE: Duration = Duration::from_secs(1);

// === impl Bar ===

impl Bar {
    pub fn verdict(&self, records: &[Record]) -> Verdict {
        let failed = || records.iter().filter(|record| record.outcome.is_err());
        match self {
            Self::NoFailure => {
                let failed = failed().count();
                Verdict::new(failed == 0, format!("{failed} failed"))
            }
            Self::OnlyInFlight { killed, address } => {
                let last = since(*killed, failed().map(|record| record.ended));
                let seen = format!("last failure {} after the kill", time(last));
                let elsewhere = address.as_deref().map_or(0, |address| {
                    let texts = failed().filter_map(Record::failure);
                    texts
                        .filter(|failure| !failure.text.contains(address))
                        .count()
                });
                match elsewhere {
                    0 => Verdict::new(last <= KILL, seen),
                    n => Verdict::new(false, format!("{seen}, {n} elsewhere")),
                }
            }
            Self::GoesElsewhere { stopped, limit } => {
                let bad = records.iter().filter(|record| record.is_bad());
                let last = since(*stopped, bad.map(|record| record.begun));
                let seen = format!("last bad call {} after the stop", time(last));
                Verdict::new(last <= *limit, seen)
            }
            Self::Converges { took } => match took {
                Some(took) => Verdict::new(
                    *took <= CONVERGENCE,
                    format!("right {} after the keys", time(*took)),
                ),
                None => Verdict::new(false, "did not find the current set of servers".to_owned()),
            },
        }
    }
}

/// How long after an event the last of these was; zero, if none was.
fn since(event: Instant, all: impl Iterator<Item = Instant>) -> Duration {
    let last = all.max().unwrap_or(event);
    last.saturating_duration_since(event)
}

// === impl Verdict ===

impl Verdict {
    fn new(held: bool, seen: String) -> Self {
        Self { held, seen }
    }
}

/// A duration as people read it.
pub fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        0.0 => "0".to_owned(),
        seconds if seconds < 0.01 => format!("{:.1} ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{seconds:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Failure, Kind};
    use tonic::Status;

    const MS: Duration = Duration::from_millis(1);

    fn record(begun: Instant, took: Duration, failed: Option<&str>) -> Record {
        Record {
            kind: Kind::Unary,
            begun,
            ended: begun + took,
            outcome: match failed {
                Some(text) => Err(Failure::from(Status::unavailable(text))),
                None => Ok(String::new()),
            },
        }
    }

    #[test]
    fn after_a_kill_only_what_was_there_may_fail_and_only_at_once() {
        let killed = Instant::now();
        let address = Some("127.0.0.1:20001".to_owned());
        let bar = Bar::OnlyInFlight { killed, address };
        let holds = |begun, took, text| bar.verdict(&[record(begun, took, Some(text))]).held;
        assert!(holds(killed, MS * 100, "127.0.0.1:20001: connection lost"));
        assert!(!holds(killed, MS * 101, "127.0.0.1:20001: connection lost"));
        assert!(!holds(killed, MS * 100, "127.0.0.1:20002: connection lost"));
        assert!(bar.verdict(&[record(killed + MS * 500, MS, None)]).held);
    }

    #[test]
    fn calls_go_elsewhere_once_no_later_call_is_late() {
        let stopped = Instant::now();
        let limit = MS * 1000;
        let bar = Bar::GoesElsewhere { stopped, limit };
        let holds = |begun, took| bar.verdict(&[record(begun, took, None)]).held;
        assert!(holds(stopped + MS * 1000, MS * 1001));
        assert!(!holds(stopped + MS * 1001, MS * 1001));
        assert!(holds(stopped + MS * 1001, MS * 1000));
    }
}
