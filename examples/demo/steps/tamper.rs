//! Somebody else changes the key: it is put right at once.

use crate::stage::{Stage, TIMEOUT, request};
use crate::support::observer::{Event, Kind};
use crate::timeline::{Fail, Timeline, time};

const INTRUDER: &[u8] = b"somebody else was here";

pub(super) async fn delete(stage: &mut Stage, timeline: &mut Timeline) -> Result<(), Fail> {
    let mark = stage.observer.mark();
    request("a deletion", stage.other.delete(stage.key.as_str(), None)).await?;
    let put = back(stage, timeline, mark, "the DELETE", |event| {
        event.kind == Kind::Delete
    })
    .await?;
    same_lease(stage, timeline, put.lease).await
}

pub(super) async fn overwrite(stage: &mut Stage, timeline: &mut Timeline) -> Result<(), Fail> {
    let mark = stage.observer.mark();
    request(
        "an overwrite",
        stage.other.put(stage.key.as_str(), INTRUDER, None),
    )
    .await?;
    let put = back(stage, timeline, mark, "their PUT", |event| {
        event.value == INTRUDER
    })
    .await?;
    same_lease(stage, timeline, put.lease).await
}

pub(super) async fn revoke(stage: &mut Stage, timeline: &mut Timeline) -> Result<(), Fail> {
    let (mark, old) = (stage.observer.mark(), stage.lease);
    request("a revocation", stage.other.lease_client().revoke(old)).await?;
    let put = back(stage, timeline, mark, "the DELETE", |event| {
        event.kind == Kind::Delete
    })
    .await?;
    let leases = stage.leases().await?;
    let new = put.lease;
    Fail::unless(
        leases == [new] && new != old,
        "one lease, a new one",
        || format!("{leases:x?}"),
    )?;
    timeline.held(&format!(
        "under a new lease, {new:016x}, and there is no other"
    ));
    settled(stage).await
}

/// Waits for the event that was caused, and for the PUT that repairs it.
async fn back(
    stage: &Stage,
    timeline: &mut Timeline,
    mark: usize,
    cause: &str,
    is_cause: impl Fn(&Event) -> bool,
) -> Result<Event, Fail> {
    let expected = format!("{cause}, then a PUT of our value under a lease");
    let (caused, put) = stage
        .see(&expected, mark, |events| {
            let caused = events.iter().position(&is_cause)?;
            let ours = |e: &&Event| e.kind == Kind::Put && e.value == stage.value && e.lease != 0;
            let put = events[caused..].iter().find(ours)?;
            Some((events[caused].at, put.clone()))
        })
        .await?;
    timeline.held(&format!("back {} after {cause}", time(put.at - caused)));
    Ok(put)
}

async fn same_lease(stage: &mut Stage, timeline: &mut Timeline, lease: i64) -> Result<(), Fail> {
    let expected = format!("the same lease, {:016x}", stage.lease);
    Fail::unless(lease == stage.lease, expected, || format!("{lease:016x}"))?;
    timeline.held("under the same lease");
    settled(stage).await
}

async fn settled(stage: &Stage) -> Result<(), Fail> {
    match &stage.health {
        Some(health) => health.serving(TIMEOUT).await,
        None => Ok(()),
    }
}
