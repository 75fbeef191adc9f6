//! Follows the registry: list, watch, and list again after every error.
//!
//! It lists again each time, so that it works after a restart, with another member, after a compaction, and with an etcd
//! that has lost its data, whose revisions begin again.

use crate::entry::Entry;
use crate::source::{Event, Source, Ttls};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

/// The messages of the follower.
#[derive(Debug)]
pub(crate) enum Update {
    /// All entries, at the beginning and after each error.
    Listed {
        endpoint: Arc<str>,
        entries: Vec<Entry>,
    },
    Happened(Vec<Event>),
    /// The remaining time of the requested leases.
    Left(Ttls),
    /// etcd is out of reach, with the reason.
    Outage(String),
}

/// How often etcd is probed, and leases are read.
const PULSE: Duration = Duration::from_secs(1);
/// The first wait after an error: short, because most outages are short.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Follows until the receiver is dropped. `leases`: the leases whose remaining time to read.
pub(crate) async fn follow(
    source: Source,
    updates: mpsc::Sender<Update>,
    leases: watch::Receiver<Vec<i64>>,
) {
    let mut pause = FIRST_PAUSE;
    for member in 0.. {
        let mut worked = false;
        let Err(why) = once(&source, member, &updates, &leases, &mut worked).await else {
            return;
        };
        if updates.send(Update::Outage(why)).await.is_err() {
            return;
        }
        pause = if worked {
            FIRST_PAUSE
        } else {
            (pause * 2).min(LONGEST_PAUSE)
        };
        sleep(pause).await;
    }
}

/// Uses one connection until it fails. `Ok` when the receiver is dropped.
async fn once(
    source: &Source,
    member: usize,
    updates: &mpsc::Sender<Update>,
    leases: &watch::Receiver<Vec<i64>>,
    worked: &mut bool,
) -> Result<(), String> {
    let connection = source.connect(member).await?;
    let listing = connection.list().await?;
    let mut watch = connection.watch(&listing).await?;
    *worked = true;
    let (endpoint, entries) = (connection.endpoint.clone(), listing.entries);
    if updates
        .send(Update::Listed { endpoint, entries })
        .await
        .is_err()
    {
        return Ok(());
    }
    let pulse = async {
        loop {
            let wanted = leases.borrow().clone();
            connection.alive().await?;
            if !wanted.is_empty() {
                let left = connection.ttls(wanted).await;
                if updates.send(Update::Left(left)).await.is_err() {
                    return Ok(());
                }
            }
            sleep(PULSE).await;
        }
    };
    let events = async {
        loop {
            let events = watch.next().await?;
            if updates.send(Update::Happened(events)).await.is_err() {
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = pulse => ended,
        ended = events => ended.map_err(|why: String| format!("{}: {why}", connection.endpoint)),
    }
}
