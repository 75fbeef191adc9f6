//! The events that an [`Observer`](super::Observer) has seen, and the keys that follow from them.

use std::collections::BTreeMap;
use std::fmt;

use tokio::time::Instant;

/// How many events a failed wait reports.
const REPORTED: usize = 12;

/// One event.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// When it reached the observer.
    pub at: Instant,
    /// The revision that etcd gave it; after a reset it starts low again.
    pub revision: i64,
    /// What happened.
    pub kind: Kind,
    /// The key; empty for a reset.
    pub key: String,
    /// The value that was put.
    pub value: Vec<u8>,
    /// The lease the value was put under, 0 for none.
    pub lease: i64,
}

/// What happened to a key, or to all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The key was written.
    Put,
    /// The key went away.
    Delete,
    /// etcd has another history, or its history is compacted: [`Observer::keys`](super::Observer::keys) starts empty again.
    Reset,
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its value.
    pub value: Vec<u8>,
    /// Its lease, 0 for none.
    pub lease: i64,
    /// The revision of its last write.
    pub revision: i64,
}

/// The events, and the keys that follow from them.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) events: Vec<Event>,
    pub(super) keys: BTreeMap<String, Held>,
}

impl Record {
    /// A key that was there before the first event.
    pub(super) fn baseline(&mut self, key: String, held: Held) {
        self.keys.insert(key, held);
    }

    pub(super) fn put(&mut self, key: String, held: Held) {
        self.events.push(Event {
            at: Instant::now(),
            revision: held.revision,
            kind: Kind::Put,
            key: key.clone(),
            value: held.value.clone(),
            lease: held.lease,
        });
        self.keys.insert(key, held);
    }

    pub(super) fn delete(&mut self, key: String, revision: i64) {
        self.keys.remove(&key);
        self.bare(Kind::Delete, key, revision);
    }

    pub(super) fn reset(&mut self) {
        self.keys.clear();
        self.bare(Kind::Reset, String::new(), 0);
    }

    fn bare(&mut self, kind: Kind, key: String, revision: i64) {
        self.events.push(Event {
            at: Instant::now(),
            revision,
            kind,
            key,
            value: Vec::new(),
            lease: 0,
        });
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, now) = (self.events.len(), Instant::now());
        writeln!(f, "{all} events so far, the last of them:")?;
        for event in &self.events[all.saturating_sub(REPORTED)..] {
            writeln!(f, "  {:?} ago {event:?}", now - event.at)?;
        }
        write!(f, "keys now: {:?}", self.keys.keys())
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, key, revision, lease) = (self.kind, &self.key, self.revision, self.lease);
        let value = String::from_utf8_lossy(&self.value);
        write!(
            f,
            "{kind:?} {key:?} = {value:?} (revision {revision}, lease {lease:x})"
        )
    }
}
