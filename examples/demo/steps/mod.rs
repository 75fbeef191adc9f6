//! The play, act by act. An act ends at its first check that does not hold; the next one is tried all the same.
//!
//! | file | acts |
//! |---|---|
//! | `arrive.rs` | a server comes up; what it says about its health |
//! | `outage.rs` | etcd hangs; goes away and comes back, with its data and without |
//! | `tamper.rs` | somebody deletes the key, overwrites it, revokes its lease |
//! | `leave.rs` | SIGTERM |
//! | `fleet.rs` | three servers are restarted under load |

mod arrive;
mod fleet;
mod leave;
mod outage;
mod tamper;

use crate::stage::{Stage, guarded};
use crate::timeline::{Fail, Timeline};

/// One act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Appear,
    Health,
    Freeze,
    Restart,
    Wipe,
    Delete,
    Overwrite,
    Revoke,
    Leave,
    Fleet,
}

/// All acts, in order.
const STEPS: [(Step, &str); 10] = [
    (Step::Appear, "A server comes up"),
    (
        Step::Health,
        "It knows whether it can be found, and says so over gRPC",
    ),
    (Step::Freeze, "etcd hangs for two seconds: SIGSTOP, SIGCONT"),
    (
        Step::Restart,
        "etcd is killed with -9 and comes back with its data",
    ),
    (
        Step::Wipe,
        "etcd is killed with -9 and comes back without its data",
    ),
    (Step::Delete, "Somebody deletes the key"),
    (Step::Overwrite, "Somebody overwrites the key"),
    (Step::Revoke, "Somebody revokes the lease"),
    (Step::Leave, "The server is told to stop: SIGTERM"),
    (
        Step::Fleet,
        "Three servers are restarted, one after the other, under load",
    ),
];

pub(crate) async fn play(stage: &mut Stage, timeline: &mut Timeline) {
    for (number, (step, title)) in STEPS.into_iter().enumerate() {
        timeline.step(number + 1, title);
        // The first one makes the steady state, and the last one has a fleet of its own.
        if !matches!(step, Step::Appear | Step::Fleet)
            && let Err(why) = guarded("a steady state", stage.steady()).await
        {
            timeline.skipped(&why);
            continue;
        }
        if let Err(fail) = guarded("a step without a panic", act(step, stage, timeline)).await {
            timeline.failed(&fail);
        }
    }
}

async fn act(step: Step, stage: &mut Stage, timeline: &mut Timeline) -> Result<(), Fail> {
    match step {
        Step::Appear => arrive::appear(stage, timeline).await,
        Step::Health => arrive::health(stage, timeline).await,
        Step::Freeze => outage::freeze(stage, timeline).await,
        Step::Restart => outage::restart(stage, timeline).await,
        Step::Wipe => outage::wipe(stage, timeline).await,
        Step::Delete => tamper::delete(stage, timeline).await,
        Step::Overwrite => tamper::overwrite(stage, timeline).await,
        Step::Revoke => tamper::revoke(stage, timeline).await,
        Step::Leave => leave::leave(stage, timeline).await,
        Step::Fleet => fleet::restart(stage, timeline).await,
    }
}
