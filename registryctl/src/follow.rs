//! Follows the registry: list, watch, and list again after every error.
//!
//! It lists again each time, so that it works after a restart, with another member, after a compaction, and with an etcd
//! that has lost its data, whose revisions begin again.

use crate::entry::Entry;
use crate::source::{Event, Source, Ttls};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tonic_etcd::internal::{CallError, Target};

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

/// Follows until it is dropped. `leases`: the leases whose remaining time to read.
pub(crate) async fn follow(
    source: Source,
    updates: mpsc::Sender<Update>,
    leases: watch::Receiver<Vec<i64>>,
) {
    let mut pause = FIRST_PAUSE;
    for member in source.members.iter().cycle() {
        let mut worked = false;
        let Err(why) = once(&source, member, &updates, &leases, &mut worked).await;
        let _ = updates.send(Update::Outage(why.to_string())).await;
        pause = match worked {
            true => FIRST_PAUSE,
            false => (pause * 2).min(LONGEST_PAUSE),
        };
        sleep(pause).await;
    }
}

/// Uses one connection until it fails.
async fn once(
    source: &Source,
    member: &Target,
    updates: &mpsc::Sender<Update>,
    leases: &watch::Receiver<Vec<i64>>,
    worked: &mut bool,
) -> Result<Infallible, CallError> {
    let connection = source.connect(member).await?;
    let listing = connection.list().await?;
    let mut watches = connection.watch(&listing).await?;
    *worked = true;
    // Who receives them drops us when it ends.
    let tell = async |update| drop(updates.send(update).await);
    let (endpoint, entries) = (connection.etcd.url().clone(), listing.entries);
    tell(Update::Listed { endpoint, entries }).await;
    let pulse = async {
        loop {
            let wanted = leases.borrow().clone();
            connection.alive().await?;
            if !wanted.is_empty() {
                tell(Update::Left(connection.ttls(wanted).await)).await;
            }
            sleep(PULSE).await;
        }
    };
    let events = async {
        loop {
            tell(Update::Happened(watches.next().await?)).await;
        }
    };
    tokio::select! {
        ended = pulse => ended,
        ended = events => ended,
    }
}
