//! Runs worlds: faults, a quiet period, faults, a quiet period, a stop.

use super::check::Checker;
use super::etcd::Etcd;
use super::world::{Beside, Entry, Faults, Link, World};
use crate::observe::status::RegistrationStatus;
use crate::registrar::lease;
use crate::registrar::on_conflict::OnConflict;
use crate::registrar::reconciler::{Event, Reconciler, Settings};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

const SEC: Duration = Duration::from_secs(1);

/// Runs one seed. Returns the number of events, or the violation.
pub(super) fn run(seed: u64, is_traced: bool) -> Result<u64, String> {
    let mut world = world(seed, is_traced);
    for _ in 0..world.rng.usize(1..6) {
        let steps = world.rng.usize(20..400);
        faults(&mut world, steps);
        quiet(&mut world);
    }
    let steps = world.rng.usize(0..60);
    faults(&mut world, steps);
    stop(&mut world);
    match world.check.violation.take() {
        None => Ok(world.events),
        Some(violation) => {
            let trace = world.trace.take().unwrap_or_default();
            let trace: Vec<String> = trace.into();
            Err(format!("{}\nseed {seed}: {violation}", trace.join("\n")))
        }
    }
}

fn world(seed: u64, is_traced: bool) -> World {
    let mut rng = fastrand::Rng::with_seed(seed);
    let settings = settings(&mut rng);
    let mut check = Checker::new(settings.ttl, settings.revoke_timeout);
    check.yields = settings.on_conflict == OnConflict::Yield;
    check.keys_name_lease = rng.u8(..) < 30;
    check.is_alone = rng.u8(..) < 60;
    // Not drawn, so that the seeds of before run as before.
    check.values_are_equal = seed % 16 == 15;
    let now = Instant::now();
    let is_large = rng.u8(..) < 3;
    let is_spread = rng.u8(..) < 50;
    let mut world = World {
        now,
        start: now,
        attempt: settings.cluster.attempt_timeout,
        reconciler: Reconciler::new(settings, fastrand::Rng::with_seed(rng.u64(..))),
        etcd: Etcd {
            min_ttl: if rng.u8(..) < 20 {
                SEC * 7
            } else {
                Duration::ZERO
            },
            ..Etcd::default()
        },
        snapshot: None,
        faults: Faults::default(),
        is_quiet: false,
        is_spread,
        link: Link::Closed,
        beside: Beside::None,
        abandoned: vec![],
        entries: BTreeMap::new(),
        next_entry: 1,
        check,
        events: 0,
        is_finished: false,
        trace: is_traced.then(VecDeque::new),
        endpoint: "http://etcd:2379".into(),
        rng,
    };
    world.register();
    if is_large {
        world.register_many(150);
    }
    world
}

fn settings(rng: &mut fastrand::Rng) -> Settings {
    let ttl = SEC * [2, 5, 5, 10, 60][rng.usize(..5)];
    let members = &["http://one:2379", "http://two:2379"][..rng.usize(1..=2)];
    Settings {
        ttl,
        cluster: crate::Etcd::new(members)
            .or_attempt_timeout(lease::default_attempt(ttl))
            .check()
            .unwrap(),
        random_id: |rng| rng.u64(..),
        revoke_timeout: [SEC, SEC, SEC / 5, SEC * 3][rng.usize(..4)],
        on_conflict: match rng.u8(..) < 80 {
            true => OnConflict::Yield,
            false => OnConflict::TakeOver,
        },
    }
}

fn faults(world: &mut World, steps: usize) {
    world.note(|| "faults".to_owned());
    world.is_quiet = false;
    for _ in 0..steps {
        if world.check.violation.is_some() {
            return;
        }
        world.step();
    }
}

/// A quiet period: etcd works, and nobody changes anything. Soon etcd has the desired state, and keeps it.
fn quiet(world: &mut World) {
    if world.check.violation.is_some() {
        return;
    }
    end_faults(world);
    let begun = world.now;
    let bound = begun + SEC * 36 + world.check.ttl;
    loop {
        match converged(world) {
            // Requests that were lost before are noticed first, and changes of others.
            Ok(()) if !world.waits_since_before(begun) && !world.has_news() => break,
            Ok(()) if world.now > bound => {
                return world
                    .check
                    .violated("I8: a request from before is waited for after 36 s");
            }
            Err(wrong) if world.now > bound => {
                let what = format!("I1: not as it should be after 36 s without a fault: {wrong}");
                return world.check.violated(what);
            }
            _ if world.check.violation.is_some() => return,
            _ => proceed(world),
        }
    }
    let until = world.now + world.check.ttl.max(world.etcd.min_ttl) * 2;
    while world.now < until && world.check.violation.is_none() {
        proceed(world);
        if let Err(wrong) = converged(world) {
            world
                .check
                .violated(format!("I1: it does not stay as it should be: {wrong}"));
        }
    }
    let ours = |lease: &&i64| world.check.granted.contains(lease);
    let alive: Vec<_> = world.etcd.leases.keys().filter(ours).copied().collect();
    let held: Vec<_> = world.reconciler.held_lease().into_iter().collect();
    if alive != held && world.check.violation.is_none() {
        world
            .check
            .violated(format!("I7: leases {alive:x?} live, we hold {held:x?}"));
    }
}

fn end_faults(world: &mut World) {
    world.note(|| "quiet".to_owned());
    world.is_quiet = true;
    world.faults = Faults::default();
    while !world.abandoned.is_empty() {
        world.apply_abandoned();
    }
    if matches!(&world.link, Link::Open(session) if session.is_blind) {
        world.cut();
    }
    // Another client's lease expires some time; revoking it saves events.
    world.etcd.revoke(1);
    if world.check.yields {
        let keys = world.etcd.keys.iter();
        let foreign = keys.filter(|(_, stored)| !world.check.granted.contains(&stored.lease));
        for key in foreign.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            world.etcd.set(&key, None);
        }
    }
}

/// Requests under way progress within milliseconds; without any, time passes until something is due.
fn proceed(world: &mut World) {
    if world.progress(false) {
        let to = world.now + Duration::from_millis(world.rng.u64(0..3));
        world.pass_to(to);
    } else {
        let due = world.next_due().unwrap_or(world.now + SEC);
        world.pass_to(due.min(world.now + SEC).max(world.now));
    }
}

/// Whether etcd has exactly what it should have, and the statuses say so.
fn converged(world: &World) -> Result<(), String> {
    let lease = world.reconciler.held_lease().unwrap_or_default();
    let mut wanted = BTreeMap::new();
    // Of several entries that want a key, the newest has it.
    let keys_of = |entry: &Entry| {
        let records = entry.records(lease, world.check.keys_name_lease);
        records.into_iter().map(|(key, _)| key)
    };
    let wanting = world.entries.iter().filter(|(_, entry)| entry.wants_keys());
    let keys = wanting.flat_map(|(id, entry)| keys_of(entry).map(move |key| (key, id)));
    let owners: BTreeMap<_, _> = keys.collect();
    for (id, entry) in &world.entries {
        if entry.is_leaving {
            return Err(format!("{id} has not left"));
        }
        let status = world.check.statuses.get(id);
        if entry.pauses > 0 {
            if !matches!(status, Some(RegistrationStatus::Paused { .. })) {
                return Err(format!("{id} is paused, and is {status:?}"));
            }
        } else if entry.is_announced {
            wanted.extend(entry.records(lease, world.check.keys_name_lease));
            let has_all = keys_of(entry).all(|key| owners.get(&key) == Some(&id));
            let is_right = match status {
                Some(RegistrationStatus::Registered(_)) => has_all,
                Some(
                    RegistrationStatus::Lost { reason, .. }
                    | RegistrationStatus::Registering {
                        reason: Some(reason),
                    },
                ) => !has_all && reason.contains("another registration here has the key"),
                _ => false,
            };
            if !is_right {
                return Err(format!("{id} is {status:?}, and has its keys: {has_all}"));
            }
        }
    }
    let ours = |lease| world.check.granted.contains(&lease);
    let there = world
        .etcd
        .keys
        .iter()
        .filter(|(_, stored)| ours(stored.lease));
    let there: BTreeMap<_, _> = there
        .map(|(k, stored)| (k.clone(), stored.value.clone()))
        .collect();
    let missing = wanted
        .iter()
        .find(|(key, value)| there.get(*key) != Some(value));
    let extra = there.iter().find(|(key, _)| !wanted.contains_key(*key));
    match (missing, extra) {
        (None, None) => Ok(()),
        (Some((key, value)), _) => Err(format!("{key} is {:?}, not {value}", there.get(key))),
        (None, Some((key, value))) => Err(format!("{key} is there, {value}")),
    }
}

fn stop(world: &mut World) {
    if world.check.violation.is_some() {
        return;
    }
    let begun = world.now;
    let event = if world.rng.bool() {
        Event::Stop
    } else {
        Event::StopNow
    };
    for entry in world.entries.values_mut() {
        entry.is_leaving = true;
    }
    world.handle(event);
    while !world.is_finished && world.check.violation.is_none() {
        match world.rng.u8(..) {
            0..120 => drop(world.progress(true)),
            120..230 => world.advance(),
            230..240 => world.apply_abandoned(),
            240..250 => world.cut(),
            _ => world.handle(Event::StopNow),
        }
        if world.now > begun + SEC * 30 {
            world.check.violated("I10: a stop does not end");
        }
    }
    if world.check.violation.is_some() {
        return;
    }
    while !world.abandoned.is_empty() {
        world.apply_abandoned();
    }
    let ttl = world.check.ttl.max(world.etcd.min_ttl);
    world.etcd.expire(world.now + ttl);
    let ours = |lease| world.check.granted.contains(&lease);
    if world.etcd.keys.values().any(|stored| ours(stored.lease)) {
        world.check.violated("I2: a key is left after the end");
    }
}

fn number(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok().filter(|value| !value.is_empty());
    set.map_or(default, |value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value}: a number"))
    })
}

/// Runs seeds from `first` on, for `events` events. A seed that fails is run again with its trace.
fn run_many(first: u64, events: u64) -> (u64, u64) {
    let (mut seed, mut done) = (first, 0);
    loop {
        done += run(seed, false).unwrap_or_else(|_| match run(seed, true) {
            Err(trace) => panic!("{trace}\nagain: make simulate EVENTS=0 SEED={seed}"),
            Ok(_) => panic!("seed {seed} fails only sometimes"),
        });
        seed += 1;
        if done >= events {
            return (seed - first, done);
        }
    }
}

#[test]
fn whatever_happens_in_whatever_order_the_invariants_hold() {
    run_many(0, 50_000);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how fast we are in real time")]
#[ignore = "takes as long as configured: make simulate"]
fn for_many_events() {
    let (first, events) = (
        number("SEED", fastrand::u64(..1 << 40)),
        number("EVENTS", 10_000_000),
    );
    let threads = match events {
        0 => 1,
        _ => std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
    };
    println!("from seed {first} on {threads} threads");
    let start = std::time::Instant::now();
    let runs = std::thread::scope(|scope| {
        let run = |thread| scope.spawn(move || run_many(first + (thread << 32), events / threads));
        let threads: Vec<_> = (0..threads).map(run).collect();
        let done = threads.into_iter().map(|thread| thread.join());
        done.fold((0, 0), |(seeds, events), done| match done {
            Ok((s, e)) => (seeds + s, events + e),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    });
    println!(
        "{} seeds, {} events in {:?}",
        runs.0,
        runs.1,
        start.elapsed()
    );
}
