//! The steps, one after the other. A step ends at its first check that fails; the next one runs all the same.
//!
//! | file | steps |
//! |---|---|
//! | `arrive.rs` | a server starts; its health |
//! | `outage.rs` | etcd hangs; is killed and comes back, with its data and without |
//! | `tamper.rs` | another client deletes the key, overwrites it, revokes its lease |
//! | `leave.rs` | SIGTERM |
//! | `fleet.rs` | three servers are restarted under load |

mod arrive;
mod fleet;
mod leave;
mod outage;
mod tamper;

use crate::setup::{Setup, guarded};
use crate::timeline::{Fail, Timeline};

/// One step.
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

/// All steps, in order.
const STEPS: [(Step, &str); 10] = [
    (Step::Appear, "A server starts"),
    (
        Step::Health,
        "The gRPC health service shows whether it is registered",
    ),
    (
        Step::Freeze,
        "etcd hangs for three seconds: SIGSTOP, SIGCONT",
    ),
    (
        Step::Restart,
        "etcd is killed with -9 and comes back with its data",
    ),
    (
        Step::Wipe,
        "etcd is killed with -9 and comes back without its data",
    ),
    (Step::Delete, "Another client deletes the key"),
    (Step::Overwrite, "Another client overwrites the key"),
    (Step::Revoke, "Another client revokes the lease"),
    (Step::Leave, "The server is stopped: SIGTERM"),
    (
        Step::Fleet,
        "Three servers are restarted, one after the other, under load",
    ),
];

pub(crate) async fn run(setup: &mut Setup, timeline: &mut Timeline) {
    for (number, (step, title)) in STEPS.into_iter().enumerate() {
        timeline.step(number + 1, title);
        // The first one makes the steady state, and the last one has a fleet of its own.
        if !matches!(step, Step::Appear | Step::Fleet)
            && let Err(why) = guarded("a steady state", setup.steady()).await
        {
            timeline.skipped(&why);
            continue;
        }
        if let Err(fail) = guarded("a step without a panic", run_step(step, setup, timeline)).await
        {
            timeline.failed(&fail);
        }
    }
}

async fn run_step(step: Step, setup: &mut Setup, timeline: &mut Timeline) -> Result<(), Fail> {
    match step {
        Step::Appear => arrive::appear(setup, timeline).await,
        Step::Health => arrive::health(setup, timeline).await,
        Step::Freeze => outage::freeze(setup, timeline).await,
        Step::Restart => outage::restart(setup, timeline).await,
        Step::Wipe => outage::wipe(setup, timeline).await,
        Step::Delete => tamper::delete(setup, timeline).await,
        Step::Overwrite => tamper::overwrite(setup, timeline).await,
        Step::Revoke => tamper::revoke(setup, timeline).await,
        Step::Leave => leave::leave(setup, timeline).await,
        Step::Fleet => fleet::restart(setup, timeline).await,
    }
}
