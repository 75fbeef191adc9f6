//! [`View`]: the known entries and the state of etcd, as a watch shows them. Pure: time is passed in.

use crate::entry::{Entry, cut, escape, foreign};
use crate::follow::Update;
use crate::registry::{Change, Registry, short};
use crate::scope::Scope;
use crate::source::{Event, Ttls};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::time::Instant;

/// See the [module](self).
pub(crate) struct View {
    pub(crate) scope: Scope,
    pub(crate) registry: Registry,
    pub(crate) ttls: Ttls,
    /// The member that answered last.
    endpoint: Option<Arc<str>>,
    outage: Option<Outage>,
}

/// etcd is out of reach.
struct Outage {
    since: Instant,
    /// The latest reason.
    why: String,
    /// The different reasons, up to a limit: each member has its own.
    whys: BTreeSet<String>,
}

/// A change for people: its sign, and a text.
pub(crate) type Line = (char, String);

/// The most different reasons of one outage.
const REASONS: usize = 8;

// === impl View ===

impl View {
    pub(crate) fn new(scope: Scope) -> Self {
        Self {
            scope,
            registry: Registry::default(),
            ttls: Ttls::new(),
            endpoint: None,
            outage: None,
        }
    }

    /// Applies an update. Returns what changed.
    pub(crate) fn apply(&mut self, update: Update, now: Instant) -> Vec<Line> {
        let mut lines = vec![];
        let changes = match update {
            Update::Listed { endpoint, entries } => {
                if let Some(outage) = self.outage.take() {
                    let after = short(now.saturating_duration_since(outage.since));
                    lines.push(('!', format!("etcd is back after {after}, at {endpoint}")));
                }
                self.endpoint = Some(endpoint);
                self.registry.listed(entries, now)
            }
            Update::Happened(events) => {
                let changes = events.into_iter().filter_map(|event| match event {
                    Event::Put(entry) => Some(self.registry.put(entry, now)),
                    Event::Delete(key) => self.registry.delete(&key),
                });
                changes.collect()
            }
            Update::Left(ttls) => {
                self.ttls = ttls;
                vec![]
            }
            Update::Outage(why) => {
                // The remaining times are not known any more: etcd may extend leases, or not come back.
                self.ttls.clear();
                let outage = self.outage.get_or_insert_with(|| Outage {
                    since: now,
                    why: String::new(),
                    whys: BTreeSet::new(),
                });
                outage.why = why.clone();
                if outage.whys.len() < REASONS && outage.whys.insert(why) {
                    lines.push(('!', format!("etcd unreachable: {}", outage.why)));
                }
                vec![]
            }
        };
        lines.extend(changes.iter().map(|change| self.line(change)));
        lines
    }

    fn line(&self, change: &Change) -> Line {
        let put = |entry: &Entry| {
            let shown = entry.shown(&self.scope);
            let (key, lease, value) = (foreign(&entry.key), entry.lease, cut(&shown.rest, 60));
            let (name, address) = (shown.name, shown.address);
            format!("{key} name={name} address={address} lease={lease:016x} {value}")
        };
        match change {
            Change::Was(entry) => ('=', put(entry)),
            Change::Appeared(entry) => ('+', put(entry)),
            Change::Written(entry) => ('~', put(entry)),
            Change::Gone(key) => ('-', foreign(key)),
        }
    }

    /// The line above a table that shows `rows` of the entries.
    pub(crate) fn title(&self, rows: usize) -> String {
        let scans = escape(self.scope.scans.join(", "));
        match self.registry.len() {
            1 => format!("1 key under {scans}"),
            all if all > rows => format!("{all} keys under {scans}, the first {rows} of them"),
            all => format!("{all} keys under {scans}"),
        }
    }

    /// Where it is seen; an error while etcd is out of reach.
    pub(crate) fn state(&self, now: Instant) -> Result<String, String> {
        match (&self.outage, &self.endpoint) {
            (Some(outage), _) => {
                let since = short(now.saturating_duration_since(outage.since));
                Err(format!(
                    "etcd unreachable for {since}, showing the last known: {}",
                    outage.why
                ))
            }
            (None, Some(endpoint)) => Ok(format!("seen at {endpoint}")),
            (None, None) => Ok("connecting".to_owned()),
        }
    }
}
