//! [`Record`]: everything that can be seen of one run from outside. The checker reads nothing else.

use crate::support::fake::{Call, Change, Stored};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;
use tonic_etcd::RegistrationStatus;

/// One run, as it was seen.
#[derive(Debug, Clone)]
pub struct Record {
    pub seed: u64,
    pub start: Instant,
    pub end: Instant,
    pub terms: Terms,
    pub registrars: Vec<Registrar>,
    pub entries: Vec<Entry>,
    /// Every request that reached the fake.
    pub calls: Vec<Call>,
    /// Every PUT and DELETE, of all clients.
    pub changes: Vec<Change>,
    /// The changes that other clients made.
    pub foreign_changes: Vec<Range<usize>>,
    /// The positions among the changes at which the store was wiped, which is no change itself.
    pub wipes: Vec<(usize, Instant)>,
    /// While answers were dropped: at one member, or at all.
    pub unanswered: Vec<(Option<String>, Range<Instant>)>,
    /// While the process was frozen.
    pub freezes: Vec<Range<Instant>>,
    pub looks: Vec<Look>,
    /// Periods in which no key may be missing: one mild fault, then a quiet period.
    pub mild: Vec<(String, Range<Instant>)>,
    /// The acts, as text.
    pub marks: Vec<(Instant, String)>,
    pub rest: Rest,
}

/// The timings and the policy of the run.
#[derive(Debug, Clone)]
pub struct Terms {
    /// As granted, which may be more than requested.
    pub ttl: Duration,
    pub attempt: Duration,
    pub revoke_timeout: Duration,
    pub yields: bool,
    /// etcd requires a password.
    pub has_users: bool,
    /// `{name}`, `{addr}` and `{lease}` are filled in.
    pub template: String,
}

/// One registrar. It dials members under names of its own, so that its calls can be identified.
#[derive(Debug, Clone)]
pub struct Registrar {
    pub host_prefix: String,
    pub stopped: Option<Instant>,
}

/// One registration.
#[derive(Debug, Clone)]
pub struct Entry {
    pub registrar: usize,
    pub names: Vec<String>,
    pub addr: String,
    /// The value wanted from then on.
    pub values: Vec<(Instant, String)>,
    pub announced: Option<Instant>,
    /// While there was a pause.
    pub paused: Vec<Range<Instant>>,
    pub left: Option<Instant>,
    /// Each status that was seen, and when it began.
    pub statuses: Vec<(Instant, RegistrationStatus)>,
}

/// What etcd had at one quiet moment.
#[derive(Debug, Clone)]
pub struct Look {
    pub at: Instant,
    /// When the last fault ended.
    pub quiet: Instant,
    /// Every abandoned lease should have expired.
    pub aged: bool,
    pub keys: BTreeMap<String, Stored>,
    pub leases: BTreeMap<i64, Instant>,
}

/// Tasks and connections before the first registrar and after the last one.
#[derive(Debug, Clone, Default)]
pub struct Rest {
    pub tasks: (usize, usize),
    pub connections: (usize, usize),
}

// === impl Record ===

impl Record {
    /// An empty record.
    pub fn begun(seed: u64, start: Instant, terms: Terms, rest: Rest) -> Self {
        Self {
            seed,
            start,
            end: start,
            terms,
            registrars: vec![],
            entries: vec![],
            calls: vec![],
            changes: vec![],
            foreign_changes: vec![],
            wipes: vec![],
            unanswered: vec![],
            freezes: vec![],
            looks: vec![],
            mild: vec![],
            marks: vec![],
            rest,
        }
    }

    pub fn ours(&self, registrar: usize) -> impl Iterator<Item = &Call> {
        let host_prefix = &self.registrars[registrar].host_prefix;
        self.calls
            .iter()
            .filter(move |call| call.member.starts_with(host_prefix.as_str()))
    }

    /// Whether that change was made by another client.
    pub fn is_foreign(&self, change: usize) -> bool {
        self.foreign_changes
            .iter()
            .any(|range| range.contains(&change))
    }

    /// For how much of that period the process was frozen.
    pub fn frozen(&self, from: Instant, until: Instant) -> Duration {
        let overlap = |f: &Range<Instant>| {
            f.end
                .min(until)
                .saturating_duration_since(f.start.max(from))
        };
        self.freezes.iter().map(overlap).sum()
    }
}

// === impl Terms ===

impl Terms {
    pub fn key(&self, name: &str, addr: &str, lease: i64) -> String {
        self.template
            .replace("{prefix}", "/services")
            .replace("{name}", name)
            .replace("{addr}", addr)
            .replace("{lease}", &lease.to_string())
    }
}

// === impl Registrar ===

impl Registrar {
    pub fn member(&self, index: usize) -> String {
        format!("{}{index}", self.host_prefix)
    }
}

// === impl Entry ===

impl Entry {
    pub fn keys(&self, terms: &Terms, lease: i64) -> Vec<String> {
        self.names
            .iter()
            .map(|name| terms.key(name, &self.addr, lease))
            .collect()
    }

    /// The value that should be there at `at`, if any should.
    pub fn wanted(&self, at: Instant) -> Option<&str> {
        let on = self.announced.is_some_and(|since| since <= at);
        let off = self.left.is_some_and(|left| left <= at) || self.paused_since(at).is_some();
        let value = self.values.iter().rev().find(|(since, _)| *since <= at);
        value
            .filter(|_| on && !off)
            .map(|(_, value)| value.as_str())
    }

    /// Since when it is paused, if it is at `at`.
    pub fn paused_since(&self, at: Instant) -> Option<Instant> {
        let during = self.paused.iter().find(|during| during.contains(&at));
        during.map(|during| during.start)
    }

    pub fn status(&self, at: Instant) -> Option<&RegistrationStatus> {
        self.statuses
            .iter()
            .rev()
            .find(|(since, _)| *since <= at)
            .map(|(_, status)| status)
    }

    pub fn ended(&self) -> Option<(Instant, &RegistrationStatus)> {
        let (at, status) = self.statuses.last()?;
        status.is_final().then_some((*at, status))
    }
}
