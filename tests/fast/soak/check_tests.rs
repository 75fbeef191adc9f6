//! Each rule finds a run that breaks it.

use super::check::{I1, I2, I3, I5, I6, I7, I8, I10, I12, MILD, QUIET};
use super::plan::Plan;
use super::world::World;
use crate::setup::SEC;
use crate::support::fake::{Call, Rpc};
use std::time::Duration;
use tokio::time::Instant;

const KEY: &str = "/services/s0-0/10.0.0.1:9000";

/// The rules that are broken in a run of one registration, which is changed at rest and after its end.
async fn broken(
    yields: bool,
    at_rest: impl FnOnce(&mut World),
    at_end: impl FnOnce(&mut World),
) -> Vec<&'static str> {
    let plan = Plan {
        seed: 0,
        members: 1,
        ttl: SEC * 5,
        min_ttl: 2,
        yields,
        template: "{prefix}/{name}/{addr}",
        latency: Duration::ZERO,
        has_users: false,
        tokens_void: None,
        cuts: None,
        late: Duration::ZERO,
        initial: vec![1],
        episodes: vec![],
    };
    let mut world = World::new(plan).await;
    world.settle().await;
    at_rest(&mut world);
    world.rest(SEC).await;
    world.finish().await;
    at_end(&mut world);
    world.check();
    world.violations.iter().map(|it| it.rule).collect()
}

fn ours(world: &World) -> i64 {
    world.fake.keys()[KEY].lease
}

/// Another client has the key.
fn theirs(world: &mut World) {
    let before = world.fake.changes().len();
    world.fake.grant(1, 600);
    world.fake.put(KEY, "theirs", 1);
    world.foreign_changes.push(before..before + 1);
}

/// A hundred connects, one after each `every`.
fn storm(world: &mut World, every: Duration) {
    let first = world.fake.calls(Rpc::Connect)[0].clone();
    let at = |n| world.start + every * n;
    let connects = (1..=100).map(|n| Call {
        at: at(n),
        ..first.clone()
    });
    world.calls.extend(connects);
}

fn silence(world: &mut World) {
    let during = world.start..world.end;
    world.unanswered.push((None, during));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_breaks_a_rule_at_rest_is_found() {
    type Case = (&'static str, bool, fn(&mut World));
    let cases: [Case; 12] = [
        (I1, false, |w| assert!(w.fake.delete(KEY))),
        (I1, false, |w| w.fake.put(KEY, "v0.1", ours(w))),
        (I1, false, theirs),
        (I1, false, |w| w.fake.revoke_all()),
        (QUIET, false, |w| assert!(w.fake.delete(KEY))),
        (I2, false, |w| w.entries[0].is_announced = false),
        (I2, false, |w| w.entries[0].left = Some(Instant::now())),
        (I3, false, |w| w.fake.put(KEY, "v0.0", 0)),
        (I5, false, |w| {
            theirs(w);
            w.fake.delete(KEY);
        }),
        (I5, true, |w| {
            let lease = ours(w);
            theirs(w);
            w.fake.put(KEY, "v0.0", lease);
        }),
        (I7, false, |w| {
            [78, 79]
                .map(|id| w.fake.grant(id, 600))
                .into_iter()
                .collect()
        }),
        (MILD, false, |w| {
            let held = w.held();
            w.fake.delete(KEY);
            w.check_mild(&held, &[]);
        }),
    ];
    for (number, (rule, yields, at_rest)) in cases.into_iter().enumerate() {
        let found = broken(yields, at_rest, |_| {}).await;
        assert!(found.contains(&rule), "{number}: {rule}: {found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_breaks_a_rule_over_time_is_found() {
    type Case = (&'static str, fn(&mut World));
    let cases: [Case; 7] = [
        (I6, |w| w.calls.retain(|call| call.at < w.start + SEC)),
        (I6, silence),
        (I8, |w| storm(w, SEC / 20)),
        (I8, |w| {
            storm(w, SEC * 3 / 20);
            silence(w);
        }),
        (I10, |w| w.entries[0].left = Some(w.start)),
        (I12, |w| w.rest[1].0 += 1),
        (I12, |w| w.rest[1].1 += 1),
    ];
    for (number, (rule, at_end)) in cases.into_iter().enumerate() {
        let found = broken(false, |_| {}, at_end).await;
        assert!(found.contains(&rule), "{number}: {rule}: {found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_found_where_all_is_well() {
    type Case = (bool, fn(&mut World), fn(&mut World));
    let cases: [Case; 5] = [
        (false, |_| {}, |_| {}),
        (true, |_| {}, |_| {}),
        // A lease that came late and was not used may expire.
        (false, |w| w.fake.grant(78, 600), |_| {}),
        (false, |_| {}, |w| storm(w, SEC * 3 / 20)),
        // A frozen process publishes nothing.
        (
            false,
            |_| {},
            |w| {
                w.calls.retain(|call| call.at < w.start + SEC);
                w.freezes.push(w.start..w.end);
            },
        ),
    ];
    for (number, (yields, at_rest, at_end)) in cases.into_iter().enumerate() {
        let found = broken(yields, at_rest, at_end).await;
        assert_eq!(found, [""; 0], "{number}");
    }
}
