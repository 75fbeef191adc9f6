//! etcd hangs, or goes away and comes back: with its data nobody notices, without it everything is written anew.

use crate::health::HealthRecorder;
use crate::server::Server;
use crate::stage::{Stage, TIMEOUT, TTL, show};
use crate::support::observer::Kind;
use crate::timeline::{Fail, Timeline, time};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// How long etcd hangs: longer than any attempt, shorter than a lease.
const FREEZE: Duration = Duration::from_secs(2);
/// What is left of a lease has to suffice for one renewal after etcd is back.
const RENEWAL: Duration = Duration::from_millis(750);

/// What the observers had seen when the outage began.
struct Before {
    events: usize,
    reports: usize,
    /// The last renewal. From there on a whole TTL is left to be away in: an outage that outlasts the lease is one that
    /// health would rightly report.
    renewed: Instant,
}

pub(super) async fn freeze(stage: &mut Stage, timeline: &mut Timeline) -> Result<(), Fail> {
    let before = Before::now(stage).await?;
    stage.etcd.stop_signal();
    timeline.note("etcd hangs: connections stay open, nothing is answered");
    let served = serves_on(stage, FREEZE).await;
    sleep_until(before.renewed + FREEZE).await;
    stage.etcd.cont_signal();
    let back = stage.serving().await?;
    timeline.note(&format!(
        "etcd goes on, after {}",
        time(back - before.renewed)
    ));
    served?;
    timeline.held("a call in the meantime was answered as ever");
    without_a_trace(stage, timeline, &before, back).await
}

pub(super) async fn restart(stage: &mut Stage, timeline: &mut Timeline) -> Result<(), Fail> {
    let before = Before::now(stage).await?;
    let down = stage.args.down;
    stage.etcd.kill().await;
    timeline.note("etcd is gone");
    serves_on(stage, down).await?;
    timeline.held("a call in the meantime was answered as ever");
    sleep_until(before.renewed + down).await;
    stage.etcd.start_again();
    timeline.note("etcd is started again");
    let back = stage.serving().await?;
    let away = time(back - before.renewed);
    timeline.note(&format!("etcd answers, {away} after it was killed"));
    without_a_trace(stage, timeline, &before, back).await
}

pub(super) async fn wipe(stage: &mut Stage, timeline: &mut Timeline) -> Result<(), Fail> {
    let (events, reports) = (stage.observer.mark(), health_mark(stage));
    stage.etcd.kill().await;
    stage.etcd.wipe();
    stage.etcd.start_again();
    let back = stage.serving().await?;
    timeline.note("etcd answers again, and is empty");
    // etcd tells old news to new watches every 100 ms only: a plain read is more exact here.
    let found = stage.found().await?;

    let value = &stage.value;
    let put = stage.see(
        "a PUT of the key, after the loss of data",
        events,
        |events| {
            let reset = events.iter().position(|event| event.kind == Kind::Reset)?;
            events[reset..]
                .iter()
                .find(|e| e.kind == Kind::Put && e.value == *value)
                .cloned()
        },
    );
    let put = put.await?;
    let took = time(found.saturating_duration_since(back));
    timeline.held(&format!(
        "the key is back {took} after etcd is, with the same value"
    ));
    let (old, new) = (stage.lease, put.lease);
    let leases = stage.leases().await?;
    Fail::unless(
        leases == [new] && new != old,
        "one lease, a new one",
        || format!("{leases:x?}"),
    )?;
    timeline.held(&format!(
        "under a new lease, {new:016x}, and there is no other"
    ));

    let Some(health) = &stage.health else {
        return Ok(());
    };
    health.serving(TIMEOUT).await?;
    let gap = time(health.gap(reports));
    timeline.held(&format!(
        "health is SERVING again; it said NOT_SERVING for {gap}"
    ));
    Ok(())
}

/// What an outage leaves behind that etcd's data has survived: nothing.
async fn without_a_trace(
    stage: &mut Stage,
    timeline: &mut Timeline,
    before: &Before,
    back: Instant,
) -> Result<(), Fail> {
    stage.renewed().await?;
    timeline.held(&format!("the lease {:016x} is renewed again", stage.lease));
    stage.caught_up().await?;
    let happened = stage.happened(before.events);
    Fail::unless(happened.is_empty(), "no event for watchers", || {
        show(&happened)
    })?;
    let held = stage.held().map(|held| held.lease);
    Fail::unless(
        held == Some(stage.lease),
        "the same lease on the key",
        || format!("{held:?}"),
    )?;
    timeline.held("watchers saw nothing: no PUT, no DELETE, the same lease");

    let Some(health) = &stage.health else {
        return Ok(());
    };
    let said = health.since(before.reports);
    if said.is_empty() {
        timeline.held("health did not flap: the streams are open and said nothing");
        return Ok(());
    }
    let outlasted = back - before.renewed + RENEWAL > TTL;
    Fail::unless(outlasted, "health that does not flap", || {
        format!("{said:?}")
    })?;
    health.serving(TIMEOUT).await?;
    let gap = time(health.gap(before.reports));
    timeline.held(&format!(
        "health said NOT_SERVING for {gap}: etcd was away for longer than a lease is sure to live"
    ));
    Ok(())
}

/// A call in the middle of an outage.
async fn serves_on(stage: &Stage, outage: Duration) -> Result<(), Fail> {
    sleep(outage / 2).await;
    match &stage.server {
        Some(server) => Server::call(server.addr).await.map(drop),
        None => Ok(()),
    }
}

fn health_mark(stage: &Stage) -> usize {
    stage.health.as_ref().map_or(0, HealthRecorder::mark)
}

// === impl Before ===

impl Before {
    async fn now(stage: &mut Stage) -> Result<Self, Fail> {
        let renewed = stage.renewed().await?;
        Ok(Self {
            events: stage.observer.mark(),
            reports: health_mark(stage),
            renewed,
        })
    }
}
