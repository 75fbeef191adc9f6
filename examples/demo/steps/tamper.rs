//! Another client changes the key: it is repaired at once.

use crate::setup::{Setup, TIMEOUT, request};
use crate::timeline::{Fail, Timeline, time};
use test_support::observer::{Event, Kind};

const INTRUDER: &[u8] = b"somebody else was here";

pub(super) async fn delete(setup: &mut Setup, timeline: &mut Timeline) -> Result<(), Fail> {
    let mark = setup.observer.mark();
    request("a deletion", setup.other.delete(setup.key.as_str(), None)).await?;
    let put = back(setup, timeline, mark, "the DELETE", |event| {
        event.kind == Kind::Delete
    })
    .await?;
    same_lease(setup, timeline, put.lease).await
}

pub(super) async fn overwrite(setup: &mut Setup, timeline: &mut Timeline) -> Result<(), Fail> {
    let mark = setup.observer.mark();
    request(
        "an overwrite",
        setup.other.put(setup.key.as_str(), INTRUDER, None),
    )
    .await?;
    let put = back(setup, timeline, mark, "their PUT", |event| {
        event.value == INTRUDER
    })
    .await?;
    same_lease(setup, timeline, put.lease).await
}

pub(super) async fn revoke(setup: &mut Setup, timeline: &mut Timeline) -> Result<(), Fail> {
    let (mark, old) = (setup.observer.mark(), setup.lease);
    request("a revocation", setup.other.lease_client().revoke(old)).await?;
    let put = back(setup, timeline, mark, "the DELETE", |event| {
        event.kind == Kind::Delete
    })
    .await?;
    setup.only_lease(put.lease, timeline).await?;
    settled(setup).await
}

/// Waits for the event that was caused, and for the PUT that repairs it.
async fn back(
    setup: &Setup,
    timeline: &mut Timeline,
    mark: usize,
    cause: &str,
    is_cause: impl Fn(&Event) -> bool,
) -> Result<Event, Fail> {
    let expected = format!("{cause}, then a PUT of our value under a lease");
    let (caused, put) = setup
        .see(&expected, mark, |events| {
            let caused = events.iter().position(&is_cause)?;
            let ours = |e: &&Event| e.kind == Kind::Put && e.value == setup.value && e.lease != 0;
            let put = events[caused..].iter().find(ours)?;
            Some((events[caused].at, put.clone()))
        })
        .await?;
    timeline.held(&format!("back {} after {cause}", time(put.at - caused)));
    Ok(put)
}

async fn same_lease(setup: &mut Setup, timeline: &mut Timeline, lease: i64) -> Result<(), Fail> {
    let expected = format!("the same lease, {:016x}", setup.lease);
    Fail::unless(lease == setup.lease, expected, || format!("{lease:016x}"))?;
    timeline.held("under the same lease");
    settled(setup).await
}

async fn settled(setup: &Setup) -> Result<(), Fail> {
    match &setup.health {
        Some(health) => health.serving(TIMEOUT).await,
        None => Ok(()),
    }
}
