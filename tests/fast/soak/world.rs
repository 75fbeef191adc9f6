//! [`World`]: the fake etcd, the registrar on it, and the record of both.

use super::allowance::Allowance;
use super::conditions::{CUT, Marks};
use super::plan::Plan;
use super::record::{Entry, Look, Record, Rest, Terms};
use super::registrar::{Log, build, watch};
use crate::support::fake::FakeEtcd;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use tonic_etcd::{Instance, Pause, Registration};

/// A run under way.
pub struct World {
    pub fake: Arc<FakeEtcd>,
    pub plan: Plan,
    pub record: Record,
    pub registrar: tonic_etcd::Registrar,
    /// One for each entry of the record; `None` once it was dropped.
    pub handles: Vec<Option<Registration>>,
    /// Those of each entry.
    pub pauses: Vec<Vec<Pause>>,
    logs: Vec<Log>,
    pub allowance: Allowance,
    pub is_down: bool,
    pub is_hung: bool,
    pub recurring: Vec<AbortHandle>,
    marks: Marks,
}

/// The TTL of other clients' leases: they never expire.
pub const FOREVER: i64 = 1_000_000_000;
/// Services that a registrar may have; a few of them come back under the same key.
const SLOTS: usize = 45;

pub fn far() -> Instant {
    Instant::now() + Duration::from_secs(1_000_000)
}

pub fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

// === impl World ===

impl World {
    pub async fn new(plan: Plan) -> Self {
        let fake = Arc::new(FakeEtcd::seeded(plan.seed));
        plan.conditions.begin(&fake);
        fake.configure(|it| it.min_ttl = i64::try_from(plan.min_ttl).unwrap());
        fake.latency(Duration::ZERO..plan.latency);
        // Its tasks have begun.
        sleep(Duration::from_millis(1)).await;
        let terms = Terms {
            ttl: plan.ttl.max(Duration::from_secs(plan.min_ttl)),
            attempt: (plan.ttl * 3 / 25).min(Duration::from_millis(600)),
            revoke_timeout: Duration::from_secs(1),
            yields: plan.yields,
            has_users: plan.conditions.has_users,
            template: plan.template.to_owned(),
        };
        let rest = Rest {
            tasks: (alive_tasks(), 0),
            connections: (fake.connections_open(), 0),
        };
        let record = Record::begun(plan.seed, Instant::now(), terms, rest);
        let (registrar, noted) = build(&fake, &plan, 0);
        let marks = Marks::default();
        let recurring = plan.conditions.recurring(&fake, &marks);
        let mut world = Self {
            fake,
            allowance: Allowance::default(),
            record,
            registrar,
            handles: vec![],
            pauses: vec![],
            logs: vec![],
            is_down: false,
            is_hung: false,
            recurring,
            marks,
            plan,
        };
        world.record.registrars.push(noted);
        world.mark(format!("{:?}", world.plan.conditions));
        world.register_initial();
        world
    }

    /// Makes the registrations of the start.
    fn register_initial(&mut self) {
        for names in self.plan.initial.clone() {
            self.register(names);
        }
    }

    /// Makes another registrar, after the previous one was stopped.
    pub fn succeed(&mut self) {
        let number = self.record.registrars.len();
        let (registrar, noted) = build(&self.fake, &self.plan, number);
        self.registrar = registrar;
        self.handles.iter_mut().for_each(|handle| *handle = None);
        self.pauses.iter_mut().for_each(Vec::clear);
        self.record.registrars.push(noted);
        self.mark("a new registrar");
        self.register_initial();
    }

    pub fn current(&self) -> usize {
        self.record.registrars.len() - 1
    }

    pub fn is_stopped(&self) -> bool {
        self.record.registrars[self.current()].stopped.is_some()
    }

    pub fn mark(&mut self, what: impl Into<String>) {
        self.record.marks.push((Instant::now(), what.into()));
    }

    /// When the conditions of the run last cut the connections, if that was at `at` or later.
    pub fn cut_since(&self, at: Instant) -> Option<Instant> {
        let marks = self.marks.lock().unwrap();
        let is_cut = |mark: &&(Instant, String)| mark.0 >= at && mark.1 == CUT;
        marks.iter().rev().find(is_cut).map(|(at, _)| *at)
    }

    pub fn register(&mut self, names: usize) {
        let entry = self.record.entries.len();
        let value = format!("v{entry}.0");
        for slot in 0..SLOTS {
            let names: Vec<_> = (0..names).map(|n| format!("s{slot}-{n}")).collect();
            let addr = format!("10.0.0.{}:9000", slot + 1);
            let instance = |name| Instance::new(name).with_address(&addr).with_value(&value);
            let instances = names.iter().map(instance);
            let Ok(registration) = self.registrar.register_all(instances.collect::<Vec<_>>())
            else {
                continue;
            };
            let log = Log::default();
            watch(&registration, log.clone());
            self.logs.push(log);
            self.record.entries.push(Entry {
                registrar: self.current(),
                names,
                addr,
                values: vec![(Instant::now(), value)],
                announced: None,
                paused: vec![],
                left: None,
                statuses: vec![],
            });
            self.handles.push(Some(registration));
            self.pauses.push(vec![]);
            if entry % 4 != 3 {
                self.announce(entry);
            }
            return;
        }
    }

    pub fn announce(&mut self, entry: usize) {
        let Some(handle) = &self.handles[entry] else {
            return;
        };
        let seen = &mut self.record.entries[entry];
        handle.announce(seen.addr.parse().unwrap()).unwrap();
        seen.announced.get_or_insert_with(Instant::now);
    }

    pub fn update(&mut self, entry: usize) {
        let Some(handle) = &self.handles[entry] else {
            return;
        };
        let values = &mut self.record.entries[entry].values;
        let value = format!("v{entry}.{}", values.len());
        if handle
            .update(|instance| instance.with_value(&value))
            .is_ok()
        {
            values.push((Instant::now(), value));
        }
    }

    pub fn pause(&mut self, entry: usize) {
        let Some(handle) = &self.handles[entry] else {
            return;
        };
        let pause = handle.pause("for a while").unwrap();
        if self.pauses[entry].is_empty() {
            let during = Instant::now()..far();
            self.record.entries[entry].paused.push(during);
        }
        self.pauses[entry].push(pause);
    }

    /// One pause of it ends.
    pub fn resume(&mut self, entry: usize) {
        drop(self.pauses[entry].pop());
        let during = self.record.entries[entry].paused.last_mut();
        if let (true, Some(during)) = (self.pauses[entry].is_empty(), during) {
            during.end = during.end.min(Instant::now());
        }
    }

    /// The entry leaves from now on.
    pub fn left(&mut self, entry: usize) {
        let left = &mut self.record.entries[entry].left;
        left.get_or_insert_with(Instant::now);
    }

    /// All entries leave.
    pub fn stop(&mut self, now: bool) {
        match now {
            true => self.registrar.shutdown_now(),
            false => self.registrar.shutdown(),
        }
        let current = self.current();
        let stopped = &mut self.record.registrars[current].stopped;
        stopped.get_or_insert_with(Instant::now);
        for entry in self.standing() {
            self.left(entry);
        }
    }

    /// The entries that are not leaving.
    pub fn standing(&self) -> Vec<usize> {
        let entries = self.record.entries.iter().enumerate();
        let standing = entries.filter(|(_, e)| e.registrar == self.current() && e.left.is_none());
        standing.map(|(entry, _)| entry).collect()
    }

    pub fn look(&mut self, quiet: Instant, aged: bool) {
        let look = Look {
            at: Instant::now(),
            quiet,
            aged,
            keys: self.fake.keys(),
            leases: self.fake.leases(),
        };
        self.record.looks.push(look);
    }

    /// Finishes the record.
    pub fn into_record(mut self) -> Record {
        self.record.end = Instant::now();
        self.record.marks.append(&mut self.marks.lock().unwrap());
        self.record.calls = self.fake.history();
        self.record.changes = self.fake.changes();
        for (entry, log) in self.record.entries.iter_mut().zip(&self.logs) {
            entry.statuses = log.lock().unwrap().clone();
        }
        self.record
    }
}
