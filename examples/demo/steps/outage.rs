//! etcd hangs, or is killed and comes back: with its data nobody notices, without it the key is written again.

use crate::health::HealthRecorder;
use crate::server::Server;
use crate::setup::{Setup, TIMEOUT, TTL, show};
use crate::timeline::{Fail, Timeline, time};
use std::time::Duration;
use test_support::observer::Kind;
use tokio::time::{Instant, sleep, sleep_until};

/// How long etcd hangs: long enough for a renewal to time out, and less than a TTL.
const FREEZE: Duration = Duration::from_secs(3);
/// The time that must be left of the lease for one renewal after etcd is back.
const RENEWAL: Duration = Duration::from_millis(750);

/// What the observers had seen when the outage began.
struct Before {
    events: usize,
    reports: usize,
    /// The last renewal. The outage must end within one TTL after it, because health reports a longer one.
    renewed: Instant,
}

pub(super) async fn freeze(setup: &mut Setup, timeline: &mut Timeline) -> Result<(), Fail> {
    let before = Before::now(setup).await?;
    setup.etcd.stop_signal();
    timeline.note("etcd hangs: connections stay open, nothing is answered");
    let served = serves_on(setup, FREEZE).await;
    sleep_until(before.renewed + FREEZE).await;
    setup.etcd.cont_signal();
    let back = setup.serving().await?;
    timeline.note(&format!(
        "etcd continues, after {}",
        time(back - before.renewed)
    ));
    served?;
    timeline.held("a call in the meantime was answered as ever");
    without_a_trace(setup, timeline, &before, back).await
}

pub(super) async fn restart(setup: &mut Setup, timeline: &mut Timeline) -> Result<(), Fail> {
    let before = Before::now(setup).await?;
    let down = setup.down;
    setup.etcd.kill().await;
    timeline.note("etcd is gone");
    serves_on(setup, down).await?;
    timeline.held("a call in the meantime was answered as ever");
    sleep_until(before.renewed + down).await;
    setup.etcd.start_again();
    timeline.note("etcd is started again");
    let back = setup.serving().await?;
    let away = time(back - before.renewed);
    timeline.note(&format!("etcd answers, {away} after it was killed"));
    without_a_trace(setup, timeline, &before, back).await
}

pub(super) async fn wipe(setup: &mut Setup, timeline: &mut Timeline) -> Result<(), Fail> {
    let (events, reports) = (setup.observer.mark(), health_mark(setup));
    setup.etcd.kill().await;
    setup.etcd.wipe();
    setup.etcd.start_again();
    let back = setup.serving().await?;
    timeline.note("etcd answers again, and is empty");
    // etcd sends history to new watches only every 100 ms, so a plain read is more exact here.
    let found = setup.found().await?;

    let value = &setup.value;
    let put = setup.see(
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
    setup.only_lease(put.lease, timeline).await?;

    let Some(health) = &setup.health else {
        return Ok(());
    };
    health.serving(TIMEOUT).await?;
    let gap = time(health.gap(reports));
    timeline.held(&format!(
        "health is SERVING again; it said NOT_SERVING for {gap}"
    ));
    Ok(())
}

/// Checks that an outage in which etcd kept its data caused no event.
async fn without_a_trace(
    setup: &mut Setup,
    timeline: &mut Timeline,
    before: &Before,
    back: Instant,
) -> Result<(), Fail> {
    setup.renewed().await?;
    timeline.held(&format!("the lease {:016x} is renewed again", setup.lease));
    setup.caught_up().await?;
    let happened = setup.happened(before.events);
    Fail::unless(happened.is_empty(), "no event for watchers", || {
        show(&happened)
    })?;
    let held = setup.held().map(|held| held.lease);
    Fail::unless(
        held == Some(setup.lease),
        "the same lease on the key",
        || format!("{held:?}"),
    )?;
    timeline.held("watchers saw nothing: no PUT, no DELETE, the same lease");

    let Some(health) = &setup.health else {
        return Ok(());
    };
    let said = health.since(before.reports);
    if said.is_empty() {
        timeline.held("health did not flap: the streams are open and had no message");
        return Ok(());
    }
    let outlasted = back - before.renewed + RENEWAL > TTL;
    Fail::unless(outlasted, "health that does not flap", || {
        format!("{said:?}")
    })?;
    health.serving(TIMEOUT).await?;
    let gap = time(health.gap(before.reports));
    timeline.held(&format!(
        "health said NOT_SERVING for {gap}: etcd was down for longer than the lease certainly lives"
    ));
    Ok(())
}

/// A call in the middle of an outage.
async fn serves_on(setup: &Setup, outage: Duration) -> Result<(), Fail> {
    sleep(outage / 2).await;
    match &setup.server {
        Some(server) => Server::call(server.addr).await.map(drop),
        None => Ok(()),
    }
}

fn health_mark(setup: &Setup) -> usize {
    setup.health.as_ref().map_or(0, HealthRecorder::mark)
}

// === impl Before ===

impl Before {
    async fn now(setup: &mut Setup) -> Result<Self, Fail> {
        let renewed = setup.renewed().await?;
        Ok(Self {
            events: setup.observer.mark(),
            reports: health_mark(setup),
            renewed,
        })
    }
}
