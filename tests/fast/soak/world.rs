//! [`World`]: the fake etcd, the registrar on it, and what is noted of both.

use super::allowance::Allowance;
use super::check::Violation;
use super::plan::Plan;
use crate::support::fake::{Call, Change, FakeEtcd, Reply, Rpc};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use tonic_etcd::{Etcd, Instance, OnConflict, Pause, Registrar, Registration, RegistrationStatus};

/// A run under way, and all that can be seen of it from outside.
pub struct World {
    pub fake: Arc<FakeEtcd>,
    pub plan: Plan,
    pub start: Instant,
    pub registrar: Registrar,
    /// The number of the current registrar. Each dials members under names of its own, so that its calls can be identified.
    pub number: usize,
    pub is_stopped: bool,
    pub entries: Vec<Entry>,
    pub allowance: Allowance,
    pub is_down: bool,
    pub is_hung: bool,
    /// The changes that other clients made.
    pub foreign_changes: Vec<Range<usize>>,
    /// Leases of the registrars before.
    pub former: BTreeSet<i64>,
    /// The number of changes before each wipe, which is no change itself.
    pub wipes: Vec<usize>,
    /// While answers were dropped: at one member, or at all.
    pub unanswered: Vec<(Option<String>, Range<Instant>)>,
    /// While the process was frozen.
    pub freezes: Vec<Range<Instant>>,
    /// The acts, as text.
    pub marks: Marks,
    pub violations: Vec<Violation>,
    /// Tasks and connections before the first registrar, and after the last one.
    pub rest: [(usize, usize); 2],
    /// Every request that reached the fake, and every change, once the run has ended.
    pub calls: Vec<Call>,
    pub changes: Vec<Change>,
    pub end: Instant,
    recurring: Vec<AbortHandle>,
}

/// One registration.
pub struct Entry {
    pub registrar: usize,
    pub names: Vec<String>,
    pub addr: String,
    pub version: usize,
    /// `None` once it was dropped.
    pub handle: Option<Registration>,
    pub pauses: Vec<Pause>,
    pub is_announced: bool,
    pub left: Option<Instant>,
    /// Each status that was seen, and when it began.
    pub statuses: Arc<Mutex<Vec<(Instant, RegistrationStatus)>>>,
}

pub type Marks = Arc<Mutex<Vec<(Instant, String)>>>;

pub const REVOKE_TIMEOUT: Duration = Duration::from_secs(1);
/// The TTL of other clients' leases: they never expire.
pub const FOREVER: i64 = 1_000_000_000;
/// Other clients have leases 1 to 3, or none.
pub const FOREIGN: i64 = 3;
/// Services that a registrar may have; a few of them come back under the same key.
const SLOTS: usize = 45;
const USER: (&str, &str) = ("me", "secret");
const CUT: &str = "connections are cut";

pub fn far() -> Instant {
    Instant::now() + Duration::from_secs(1_000_000)
}

// === impl World ===

impl World {
    pub async fn new(plan: Plan) -> Self {
        let fake = Arc::new(FakeEtcd::seeded(plan.seed));
        if plan.has_users {
            fake.user(USER.0, USER.1);
        }
        fake.configure(|it| it.min_ttl = i64::try_from(plan.min_ttl).unwrap());
        // Its tasks have begun.
        sleep(Duration::from_millis(1)).await;
        let base = at_rest(&fake);
        let start = Instant::now();
        let mut world = Self {
            registrar: registrar(&fake, &plan, 0),
            fake,
            plan,
            start,
            number: 0,
            is_stopped: false,
            entries: vec![],
            allowance: Allowance::default(),
            is_down: false,
            is_hung: false,
            foreign_changes: vec![],
            former: BTreeSet::new(),
            wipes: vec![],
            unanswered: vec![],
            freezes: vec![],
            marks: Marks::default(),
            violations: vec![],
            rest: [base, base],
            calls: vec![],
            changes: vec![],
            end: start,
            recurring: vec![],
        };
        world.no_faults();
        world.recur(world.plan.cuts, CUT, FakeEtcd::cut_connections);
        world.recur(
            world.plan.tokens_void,
            "tokens are void",
            FakeEtcd::forget_tokens,
        );
        world.register_initial();
        world
    }

    /// Something that happens again and again, also in quiet periods.
    fn recur(&mut self, every: Option<Duration>, what: &'static str, act: fn(&FakeEtcd)) {
        let Some(every) = every else { return };
        let (fake, marks) = (self.fake.clone(), self.marks.clone());
        let task = tokio::spawn(async move {
            loop {
                sleep(every).await;
                let mark = (Instant::now(), what.to_owned());
                marks.lock().unwrap().push(mark);
                act(&fake);
            }
        });
        self.recurring.push(task.abort_handle());
    }

    /// Makes the registrations of the start.
    fn register_initial(&mut self) {
        for names in self.plan.initial.clone() {
            self.register(names);
        }
    }

    /// Makes another registrar, after the previous one was stopped.
    pub fn succeed(&mut self) {
        self.number += 1;
        self.is_stopped = false;
        self.former.extend(self.fake.leases().into_keys());
        self.registrar = registrar(&self.fake, &self.plan, self.number);
        self.drop_handles();
        self.mark("a new registrar");
        self.register_initial();
    }

    pub fn drop_handles(&mut self) {
        for entry in &mut self.entries {
            entry.handle = None;
            entry.pauses.clear();
        }
    }

    pub fn mark(&mut self, what: impl Into<String>) {
        let mark = (Instant::now(), what.into());
        self.marks.lock().unwrap().push(mark);
    }

    /// When a balancer last ended the connections, if that was at `at` or later.
    pub fn cut_since(&self, at: Instant) -> Option<Instant> {
        let marks = self.marks.lock().unwrap();
        let is_cut = |mark: &&(Instant, String)| mark.0 >= at && mark.1 == CUT;
        marks.iter().rev().find(is_cut).map(|(at, _)| *at)
    }

    pub fn register(&mut self, names: usize) {
        for slot in 0..SLOTS {
            let names: Vec<_> = (0..names).map(|n| format!("s{slot}-{n}")).collect();
            let addr = format!("10.0.0.{}:9000", slot + 1);
            let value = value(self.entries.len(), 0);
            let instance = |name| Instance::new(name).with_address(&addr).with_value(&value);
            let instances: Vec<_> = names.iter().map(instance).collect();
            let Ok(registration) = self.registrar.register_all(instances) else {
                continue;
            };
            self.entries.push(Entry {
                registrar: self.number,
                names,
                addr,
                version: 0,
                statuses: watch(&registration),
                handle: Some(registration),
                pauses: vec![],
                is_announced: false,
                left: None,
            });
            let entry = self.entries.len() - 1;
            if entry % 4 != 3 {
                self.announce(entry);
            }
            return;
        }
    }

    pub fn announce(&mut self, entry: usize) {
        let entry = &mut self.entries[entry];
        if let Some(handle) = &entry.handle {
            handle.announce(entry.addr.parse().unwrap()).unwrap();
            entry.is_announced = true;
        }
    }

    pub fn update(&mut self, number: usize) {
        let entry = &mut self.entries[number];
        let value = value(number, entry.version + 1);
        if let Some(handle) = &entry.handle
            && handle
                .update(|instance| instance.with_value(&value))
                .is_ok()
        {
            entry.version += 1;
        }
    }

    pub fn pause(&mut self, entry: usize) {
        let entry = &mut self.entries[entry];
        let pause = entry.handle.as_ref().map(|it| it.pause("for a while"));
        entry.pauses.extend(pause.map(Result::unwrap));
    }

    /// The entry leaves from now on.
    pub fn left(&mut self, entry: usize) {
        self.entries[entry].left.get_or_insert_with(Instant::now);
    }

    /// All entries leave.
    pub fn stop(&mut self, now: bool) {
        match now {
            true => self.registrar.shutdown_now(),
            false => self.registrar.shutdown(),
        }
        self.is_stopped = true;
        for entry in self.standing() {
            self.left(entry);
        }
    }

    /// The entries that are not leaving.
    pub fn standing(&self) -> Vec<usize> {
        let entries = self.entries.iter().enumerate();
        let standing = entries.filter(|(_, e)| e.registrar == self.number && e.left.is_none());
        standing.map(|(entry, _)| entry).collect()
    }

    /// All faults end.
    pub fn no_faults(&mut self) {
        self.fake.clear();
        if !self.plan.late.is_zero() {
            let late = Reply::Delay(self.plan.late);
            self.fake.always(Rpc::LeaseKeepAlive, late);
        }
        self.heal();
        self.fake.latency(Duration::ZERO..self.plan.latency);
    }

    /// For how much of that period the process was frozen.
    pub fn frozen(&self, from: Instant, until: Instant) -> Duration {
        let overlap = |f: &Range<Instant>| {
            let end = f.end.min(until);
            end.saturating_duration_since(f.start.max(from))
        };
        self.freezes.iter().map(overlap).sum()
    }

    /// Everything is deregistered, and nothing may be left.
    pub async fn finish(&mut self) {
        self.stop(false);
        self.quiet(Duration::from_secs(1)).await;
        self.drop_handles();
        self.recurring.drain(..).for_each(|task| task.abort());
        // Connections that were silenced for good never close by themselves.
        self.fake.cut_connections();
        sleep(Duration::from_secs(5)).await;
        self.rest[1] = at_rest(&self.fake);
        self.calls = self.fake.history();
        self.changes = self.fake.changes();
        self.end = Instant::now();
    }
}

/// The tasks and connections that there are.
fn at_rest(fake: &FakeEtcd) -> (usize, usize) {
    let tasks = Handle::current().metrics().num_alive_tasks();
    (tasks, fake.connections_open())
}

/// The member of a registrar.
pub fn member(registrar: usize, index: usize) -> String {
    format!("r{registrar}-m{index}")
}

/// The value of an entry after so many updates.
fn value(entry: usize, version: usize) -> String {
    format!("v{entry}.{version}")
}

fn registrar(fake: &FakeEtcd, plan: &Plan, number: usize) -> Registrar {
    let members = (0..plan.members).map(|m| format!("http://{}:2379", member(number, m)));
    let mut etcd = Etcd::new(members.collect::<Vec<_>>()).connector(fake.connector());
    if plan.has_users {
        etcd = etcd.user(USER.0, USER.1);
    }
    let policy = match plan.yields {
        true => OnConflict::Yield,
        false => OnConflict::TakeOver,
    };
    let builder = Registrar::builder(etcd)
        .key_template(plan.template)
        .ttl(plan.ttl)
        .on_conflict(policy)
        .deregistration_delay(Duration::from_millis(100))
        .drain_timeout(Duration::from_millis(100));
    builder.build().unwrap()
}

/// Notes each status as it comes. Holds no handle.
fn watch(registration: &Registration) -> Arc<Mutex<Vec<(Instant, RegistrationStatus)>>> {
    let mut watch = registration.watch();
    let log = Arc::new(Mutex::new(vec![(Instant::now(), watch.get())]));
    let noted = log.clone();
    tokio::spawn(async move {
        while let Some(status) = watch.changed().await {
            log.lock().unwrap().push((Instant::now(), status));
        }
    });
    noted
}

// === impl Entry ===

impl Entry {
    pub fn keys<'a>(&'a self, plan: &'a Plan, lease: i64) -> impl Iterator<Item = String> + 'a {
        let names = self.names.iter();
        names.map(move |name| plan.key(name, &self.addr, lease))
    }

    /// Whether its keys should be in etcd.
    pub fn is_wanted(&self) -> bool {
        self.is_announced && self.left.is_none() && self.pauses.is_empty()
    }

    /// The current value of the entry with this number.
    pub fn value(&self, number: usize) -> String {
        value(number, self.version)
    }

    pub fn status(&self) -> RegistrationStatus {
        self.statuses.lock().unwrap().last().unwrap().1.clone()
    }
}
