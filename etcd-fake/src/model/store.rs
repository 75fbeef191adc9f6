//! Keys with revisions and a history: etcd's MVCC, without a disk. Pure: no clock, no tasks.
//!
//! All writes of one request have one revision: [`Store::write`] opens a [`Write`], and dropping it ends the revision. The
//! store keeps the whole history, so that reads and watches from past revisions need no second data structure. Compaction only
//! raises the revision below which they are refused.

use super::settings::Settings;
use crate::errors;
use etcd_client::EventType;
use etcd_client::proto::{PbEvent, PbKeyValue};
use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use tonic::Status;

/// All keys, now and in the past.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    revision: i64,
    /// Reads below this revision are refused.
    compacted: i64,
    live: Keys,
    commits: Vec<Commit>,
    pub(crate) settings: Settings,
}

/// What one request has changed.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) revision: i64,
    pub(crate) events: Vec<PbEvent>,
}

/// A revision that is being written.
pub(crate) struct Write<'a> {
    store: &'a mut Store,
    revision: i64,
    events: Vec<PbEvent>,
}

/// A range of keys in etcd's notation.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    from: Vec<u8>,
    to: Bound<Vec<u8>>,
}

pub(crate) type Keys = BTreeMap<Vec<u8>, PbKeyValue>;

impl Store {
    /// An empty etcd is at revision 1.
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            revision: 1,
            compacted: -1,
            live: Keys::new(),
            commits: Vec::new(),
            settings,
        }
    }

    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    pub(crate) fn compacted(&self) -> i64 {
        self.compacted
    }

    pub(crate) fn live(&self) -> &Keys {
        &self.live
    }

    /// The commits at `revision` and later.
    pub(crate) fn since(&self, revision: i64) -> &[Commit] {
        let first = self.commits.partition_point(|c| c.revision < revision);
        &self.commits[first..]
    }

    /// Whether a read at this revision (0 = now) is possible.
    pub(crate) fn readable(&self, revision: i64) -> Result<(), Status> {
        if revision > self.revision {
            Err(errors::future_revision())
        } else if revision > 0 && revision < self.compacted {
            Err(errors::compacted())
        } else {
            Ok(())
        }
    }

    /// The keys as they were at a [`readable`](Self::readable) revision in the past.
    pub(crate) fn at(&self, revision: i64) -> Keys {
        let mut keys = Keys::new();
        for commit in self.commits.iter().take_while(|c| c.revision <= revision) {
            for kv in commit.events.iter().filter_map(|e| e.kv.as_ref()) {
                match kv.version {
                    0 => keys.remove(&kv.key),
                    _ => keys.insert(kv.key.clone(), kv.clone()),
                };
            }
        }
        keys
    }

    /// Refuses reads below `revision` from now on.
    pub(crate) fn compact(&mut self, revision: i64) -> Result<(), Status> {
        if revision <= self.compacted {
            return Err(errors::compacted());
        }
        if revision > self.revision {
            return Err(errors::future_revision());
        }
        self.compacted = revision;
        Ok(())
    }

    /// Opens the next revision.
    pub(crate) fn write(&mut self) -> Write<'_> {
        let revision = self.revision + 1;
        Write {
            store: self,
            revision,
            events: Vec::new(),
        }
    }
}

impl Write<'_> {
    /// Reads within a transaction see what it has written so far.
    pub(crate) fn store(&self) -> &Store {
        self.store
    }

    /// The revision of the store as this request sees it: the next one as soon as it has written something.
    pub(crate) fn revision(&self) -> i64 {
        match self.events.is_empty() {
            true => self.store.revision,
            false => self.revision,
        }
    }

    /// Writes a key and returns what it held before.
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>, lease: i64) -> Option<PbKeyValue> {
        let previous = self.store.live.get(&key).cloned();
        let kv = PbKeyValue {
            create_revision: previous
                .as_ref()
                .map_or(self.revision, |p| p.create_revision),
            mod_revision: self.revision,
            version: previous.as_ref().map_or(1, |p| p.version + 1),
            key: key.clone(),
            value,
            lease,
        };
        self.store.live.insert(key, kv.clone());
        self.push(EventType::Put, kv);
        previous
    }

    /// Deletes the keys of the range and returns them.
    pub(crate) fn delete(&mut self, span: &Span) -> Vec<PbKeyValue> {
        let doomed: Vec<_> = span.select(&self.store.live).cloned().collect();
        for kv in &doomed {
            self.store.live.remove(&kv.key);
            let tombstone = PbKeyValue {
                key: kv.key.clone(),
                mod_revision: self.revision,
                ..PbKeyValue::default()
            };
            self.push(EventType::Delete, tombstone);
        }
        doomed
    }

    fn push(&mut self, kind: EventType, kv: PbKeyValue) {
        self.events.push(PbEvent {
            r#type: kind.into(),
            kv: Some(kv),
            prev_kv: None,
        });
    }
}

/// A request that wrote nothing takes no revision.
impl Drop for Write<'_> {
    fn drop(&mut self) {
        let events = std::mem::take(&mut self.events);
        if !events.is_empty() {
            self.store.revision = self.revision;
            self.store.commits.push(Commit {
                revision: self.revision,
                events,
            });
        }
    }
}

impl Span {
    /// `key` and `range_end` as they stand in a request.
    pub(crate) fn new(key: &[u8], range_end: &[u8]) -> Self {
        let to = match range_end {
            [] => Bound::Included(key.to_vec()),
            [0] => Bound::Unbounded,
            end => Bound::Excluded(end.to_vec()),
        };
        let from = key.to_vec();
        Self { from, to }
    }

    pub(crate) fn contains(&self, key: &Vec<u8>) -> bool {
        RangeBounds::<Vec<u8>>::contains(&self.bounds(), key)
    }

    /// Whether the range cannot contain any key.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.to, Bound::Excluded(end) if *end <= self.from)
    }

    /// The keys of `keys` in this range, in order.
    pub(crate) fn select<'k>(&self, keys: &'k Keys) -> impl Iterator<Item = &'k PbKeyValue> {
        let inside = (!self.is_empty()).then(|| keys.range::<Vec<u8>, _>(self.bounds()));
        inside.into_iter().flatten().map(|(_, kv)| kv)
    }

    fn bounds(&self) -> (Bound<&Vec<u8>>, Bound<&Vec<u8>>) {
        (Bound::Included(&self.from), self.to.as_ref())
    }
}
