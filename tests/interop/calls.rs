//! [`Caller`]: a client that calls all the time, and the results of its calls.

use crate::setup::LONG;
use std::fmt;
use test_support::eventually;

/// The result of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// With this greeting, which ends with the name of the server.
    Answered(String),
    Failed(String),
}

/// The calls of a period, in order.
#[derive(Debug, Clone)]
pub struct Calls(pub Vec<Call>);

/// A client in the background that calls every 20 ms. Answers have the name of the server.
pub trait Caller {
    /// How many calls there were: what [`since`](Self::since) counts from.
    fn mark(&self) -> usize;

    fn since(&self, mark: usize) -> Calls;

    /// The last error, for the message of a wait that times out.
    fn last_error(&self) -> String;

    /// Waits until the calls since `mark` are `enough`, and gives them.
    ///
    /// # Panics
    /// When they are not in time; the message carries the last of them.
    async fn until(&self, what: &str, mark: usize, enough: impl Fn(&Calls) -> bool) -> Calls {
        eventually(what, LONG, || {
            let calls = self.since(mark);
            match enough(&calls) {
                true => Ok(calls),
                false => Err(format!("{calls}; {}", self.last_error())),
            }
        })
        .await
    }

    /// Waits until `who` answers, from now on.
    async fn until_answered_by(&self, who: &str) -> Calls {
        let what = format!("an answer by {who:?}");
        self.until(&what, self.mark(), |calls| calls.answers(who) > 0)
            .await
    }

    /// Waits for so many more calls, whatever comes of them.
    async fn further(&self, count: usize) -> Calls {
        let what = format!("{count} further calls");
        self.until(&what, self.mark(), |calls| calls.0.len() >= count)
            .await
    }
}

/// Enough calls to show that the client keeps calling; they take 0.5 s.
pub const SOME: usize = 25;

// === impl Calls ===

impl Calls {
    /// How many were answered by `who`.
    pub fn answers(&self, who: &str) -> usize {
        let by = |call: &&Call| matches!(call, Call::Answered(greeting) if greeting.ends_with(who));
        self.0.iter().filter(by).count()
    }

    /// What the calls that failed said.
    pub fn failures(&self) -> Vec<&str> {
        let why = self.0.iter().filter_map(|call| match call {
            Call::Failed(why) => Some(&**why),
            Call::Answered(_) => None,
        });
        why.collect()
    }

    /// How many there were, for the record.
    pub fn counts(&self) -> String {
        format!("{} calls, {} failed", self.0.len(), self.failures().len())
    }

    /// All of them were answered.
    pub fn assert_none_failed(&self, when: &str) {
        assert_eq!(self.failures(), [""; 0], "{when}: {self}");
    }
}

impl fmt::Display for Calls {
    /// How many, and the last of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = &self.0[self.0.len().saturating_sub(3)..];
        write!(f, "{}, the last {last:?}", self.counts())
    }
}
