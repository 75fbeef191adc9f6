//! A fleet of registrars on an etcd that can do only so much, in virtual time.
//!
//! Each trial gives etcd the capacity for a share of the renewals of the fleet, lets something happen that costs much at once,
//! and adds capacity after 30 s: twice what the fleet needs at rest. The invariants are I18 in DESIGN.md.
//!
//! `make soak FLEET=5000 SEED=7` runs all trials with so many registrars.

use crate::setup::{SEC, is_registered, number};
use crate::support::fake::{Call, Capacity, FakeEtcd, Rpc};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic_etcd::{Etcd, Instance, Registrar, Registration};

const TTL: Duration = Duration::from_secs(5);
const ONE: &[&str] = &["http://m0:2379"];
const THREE: &[&str] = &["http://m0:2379", "http://m1:2379", "http://m2:2379"];
/// What a new connection costs etcd, in requests.
const CONNECT: f64 = 5.0;
/// Connect, grant, put and the first renewal: what a client cannot do without.
const BARE_WORK: f64 = CONNECT + 3.0;
/// For how long the capacity is as the trial says.
const OVERLOAD: Duration = Duration::from_secs(30);
/// The capacity after that, as a multiple of what the fleet needs at rest.
const AMPLE: f64 = 2.0;
/// For how long the rate at rest is measured.
const REST: Duration = Duration::from_secs(10);

/// What happens to etcd.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Start,
    Wipe,
    Restart,
    MemberLost,
}

const EVENTS: [Event; 4] = [Event::Start, Event::Wipe, Event::Restart, Event::MemberLost];
const FACTORS: [f64; 3] = [0.5, 1.0, 2.0];

#[derive(Clone, Copy, Debug)]
struct Trial {
    seed: u64,
    size: usize,
    event: Event,
    /// The capacity, as a multiple of what the fleet needs at rest.
    factor: f64,
}

struct Fleet {
    trial: Trial,
    fake: FakeEtcd,
    held: Vec<(Registrar, Registration)>,
}

/// What was seen of a trial. Work is counted for each registrant.
#[derive(Debug)]
struct Seen {
    /// From the event until the fleet was registered, after the overload.
    took: Duration,
    connects: f64,
    renewals: f64,
    /// Other requests.
    requests: f64,
    /// From the end of the overload until all were registered. `None`: they were not, in twice the time allowed.
    recovery: Option<Duration>,
    /// How long that may have taken.
    allowed: Duration,
    /// Live leases that their registrars gave up.
    given_up: usize,
    /// At rest afterwards, a second.
    rest: f64,
    /// Requests at rest that were not renewals.
    restless: usize,
    /// All requests, by kind and member.
    #[allow(dead_code, reason = "it is printed")]
    calls: BTreeMap<(Rpc, String), usize>,
}

impl Trial {
    /// A run with a runtime and a random generator of its own, so that it can be repeated.
    fn run(self) -> Result<Seen, String> {
        fastrand::seed(self.seed);
        #[cfg(feature = "test-util")]
        tonic_etcd::testing::repeatable_ids();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().unwrap();
        let seen = runtime.block_on(self.seen());
        let wrong = self.violations(&seen);
        match wrong.is_empty() {
            true => Ok(seen),
            false => Err(format!("{self:?}: {}\n  {seen:?}", wrong.join(", "))),
        }
    }

    async fn seen(self) -> Seen {
        let mut fleet = Fleet {
            trial: self,
            fake: FakeEtcd::seeded(self.seed),
            held: vec![],
        };
        fleet.fake.latency(Duration::ZERO..Duration::from_millis(2));
        if self.event != Event::Start {
            let begun = Instant::now();
            fleet.start();
            fleet.registered_within(begun, SEC * 60).await;
            sleep(REST).await;
        }
        let (begun, before) = (Instant::now(), fleet.fake.history().len());
        let mut leases = fleet.leases();
        let changes = fleet.fake.changes().len();
        fleet.capacity(self.factor);
        match self.event {
            Event::Start => fleet.start(),
            Event::Wipe => {
                leases.clear();
                fleet.fake.wipe();
            }
            Event::Restart => fleet.fake.restart(),
            Event::MemberLost => fleet.fake.member("m0").hang(),
        }
        // With enough capacity it is no overload: the fleet recovers from the event itself.
        if self.factor < AMPLE {
            sleep(OVERLOAD).await;
            fleet.capacity(AMPLE);
        }
        let allowed = fleet.allowed();
        let recovery = fleet.registered_within(begun, allowed * 2).await;
        let took = begun.elapsed();
        let calls = fleet.fake.history().split_off(before);
        let given_up = fleet.given_up(leases, changes, &calls);
        sleep(TTL).await;
        let (begun, before) = (Instant::now(), fleet.fake.history().len());
        sleep(REST).await;
        let at_rest = fleet.fake.history().split_off(before);
        let each = |n: usize| n as f64 / self.size as f64;
        let count = |rpc| calls.iter().filter(|call| call.rpc == rpc).count();
        let (connects, renewals) = (count(Rpc::Connect), count(Rpc::LeaseKeepAlive));
        let mut kinds = BTreeMap::new();
        for call in &calls {
            *kinds.entry((call.rpc, call.member.clone())).or_default() += 1;
        }
        Seen {
            calls: kinds,
            took,
            connects: each(connects),
            renewals: each(renewals),
            requests: each(calls.len() - connects - renewals),
            recovery,
            allowed,
            given_up,
            rest: at_rest.len() as f64 / begun.elapsed().as_secs_f64(),
            restless: at_rest
                .iter()
                .filter(|c| c.rpc != Rpc::LeaseKeepAlive)
                .count(),
        }
    }

    fn members(self) -> &'static [&'static str] {
        match self.event {
            Event::MemberLost => THREE,
            _ => ONE,
        }
    }

    /// The renewals a second of the whole fleet at rest.
    fn rest(self) -> f64 {
        self.size as f64 * 3.0 / TTL.as_secs_f64()
    }

    fn violations(self, seen: &Seen) -> Vec<String> {
        // Renewals are up to a tenth early.
        let due = seen.took.as_secs_f64() * 3.0 / TTL.as_secs_f64() * 1.1;
        let rest = self.rest() * 0.85..=self.rest() * 1.15;
        let rules = [
            (seen.connects > 3.0, "more than 3 connects each".to_owned()),
            (
                seen.requests + seen.renewals > 4.0 + due,
                format!("more requests than 4 and {due:.1} renewals each"),
            ),
            (
                seen.recovery.is_none_or(|took| took > seen.allowed),
                format!("not all registered within {:.1?}", seen.allowed),
            ),
            (seen.given_up > 0, "live leases were given up".to_owned()),
            (
                !rest.contains(&seen.rest) || seen.restless > self.size / 20,
                format!("at rest not {:.0} renewals a second", self.rest()),
            ),
        ];
        let broken = rules.into_iter().filter(|(is_broken, _)| *is_broken);
        broken.map(|(_, rule)| rule).collect()
    }
}

impl Fleet {
    fn start(&mut self) {
        for n in 0..self.trial.size {
            let etcd = Etcd::new(self.trial.members()).connector(self.fake.connector());
            let registrar = Registrar::builder(etcd)
                .ttl(TTL)
                .key_template("{prefix}/{name}/{addr}");
            let registrar = registrar.build().unwrap();
            let instance = Instance::new(format!("s{n}")).with_address("10.0.0.1:9000");
            let registration = registrar.register(instance).unwrap();
            registration.announce(([10, 0, 0, 1], 9000).into()).unwrap();
            self.held.push((registrar, registration));
        }
    }

    /// Each member has an equal share of it.
    fn capacity(&self, factor: f64) {
        self.fake.capacity(Some(Capacity {
            rate: self.trial.rest() * factor / self.trial.members().len() as f64,
            connect: CONNECT,
            longest_queue: f64::INFINITY,
        }));
    }

    /// Twice the time that etcd needs for the bare work, a TTL until a lease is lost, and one for those that wait then.
    fn allowed(&self) -> Duration {
        let all = self.trial.members().len() as f64;
        let lost = match self.trial.event {
            Event::MemberLost => 1.0,
            _ => 0.0,
        };
        let rate = self.trial.rest() * AMPLE * (all - lost) / all;
        // Where a member may be dead, each may try another one beside it.
        let beside = if all > 1.0 { CONNECT + 1.0 } else { 0.0 };
        let work = (BARE_WORK + beside) * self.trial.size as f64;
        TTL * 2 + Duration::from_secs_f64(2.0 * work / rate)
    }

    async fn registered_within(&self, since: Instant, limit: Duration) -> Option<Duration> {
        let start = Instant::now();
        while !self.is_registered(since) {
            if start.elapsed() > limit {
                return None;
            }
            sleep(Duration::from_millis(50)).await;
        }
        Some(start.elapsed())
    }

    /// Whether each has its key, and has renewed its lease more than a second after `since`: an election extends leases by
    /// a second.
    fn is_registered(&self, since: Instant) -> bool {
        let (mut held, leases) = (self.held.iter(), self.fake.leases());
        held.all(|(_, it)| is_registered(&it.status()))
            && self.fake.keys().len() == self.trial.size
            && leases.values().all(|expiry| *expiry > since + TTL + SEC)
    }

    fn leases(&self) -> BTreeMap<String, i64> {
        let keys = self.fake.keys().into_iter();
        keys.map(|(key, stored)| (key, stored.lease)).collect()
    }

    /// How many leases were revoked, or replaced before they had expired.
    fn given_up(&self, mut leases: BTreeMap<String, i64>, from: usize, calls: &[Call]) -> usize {
        let is_revoke = |call: &&Call| call.rpc == Rpc::LeaseRevoke && call.applied;
        let revoked = calls.iter().filter(is_revoke).count();
        let mut replaced = 0;
        for change in self.fake.changes().split_off(from) {
            let last = match change.put {
                Some((_, lease)) => {
                    let last = leases.insert(change.key, lease);
                    last.filter(|last| *last != lease)
                }
                None => {
                    leases.remove(&change.key);
                    None
                }
            };
            replaced += usize::from(last.is_some());
        }
        revoked + replaced
    }
}

fn trials(seed: u64, size: usize, event: Event) -> impl Iterator<Item = Trial> {
    FACTORS.into_iter().map(move |factor| Trial {
        seed,
        size,
        event,
        factor,
    })
}

#[track_caller]
fn check(event: Event) {
    let failed = trials(7, 100, event).filter_map(|trial| trial.run().err());
    let failed: Vec<_> = failed.collect();
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

#[test]
fn a_fleet_that_starts_at_once_costs_etcd_what_it_must() {
    check(Event::Start);
}

#[test]
fn a_fleet_whose_etcd_was_wiped_costs_it_what_it_must() {
    check(Event::Wipe);
}

#[test]
fn a_fleet_whose_etcd_was_restarted_costs_it_what_it_must() {
    check(Event::Restart);
}

#[test]
fn a_fleet_that_lost_a_member_costs_the_others_what_it_must() {
    check(Event::MemberLost);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how fast we are in real time")]
#[ignore = "takes as long as configured: make soak"]
fn for_a_large_fleet() {
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..1 << 40));
    let size = number("FLEET").unwrap_or(200) as usize;
    let mut failed = 0;
    for trial in EVENTS
        .into_iter()
        .flat_map(|event| trials(seed, size, event))
    {
        let start = std::time::Instant::now();
        match trial.run() {
            Ok(seen) => println!("{trial:?}: {seen:?}"),
            Err(report) => {
                println!("{report}");
                failed += 1;
            }
        }
        println!("  {:.1?}", start.elapsed());
    }
    assert_eq!(failed, 0, "trials failed: see above");
}
