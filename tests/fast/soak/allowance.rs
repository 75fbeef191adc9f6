//! [`Allowance`]: how long after the last fault the registrations may still be wrong, and why.
//!
//! Each part of it is a fault of etcd, or a wait that the library promises. No part of it only makes a
//! test pass.

use super::plan::{Act, Other, Plan};
use crate::support::fake::{Reply, Rpc};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

/// The allowance of the current faults, in addition to [`bound`](Self::bound).
#[derive(Debug, Default)]
pub struct Allowance {
    extra: Duration,
    rewrites: Leak,
    grants: Leak,
}

/// The inverse of the library's token bucket: the number of recent events.
#[derive(Debug, Default)]
struct Leak {
    level: f64,
    since: Option<Instant>,
}

const SEC: Duration = Duration::from_secs(1);
/// Bursts of 24 are promised; some of it may have gone to repairs that we do not count.
const BURST: f64 = 16.0;

// === impl Allowance ===

impl Allowance {
    pub fn add(&mut self, act: &Act, plan: &Plan) {
        let now = Instant::now();
        let (ttl, attempt) = (plan.granted_ttl(), plan.attempt());
        // A member that goes silent while it authenticates us is probed after 2 s, and
        // given up after 4 s more, because etcd may take long to compare passwords.
        let authenticating = SEC * if plan.has_users { 6 } else { 0 };
        // An answer that is lost on a connection that works is waited for, as long as nothing else can be tried.
        let patient = ttl.min(SEC * 5) * 2 + attempt;
        // Calls with a token of another history are not answered: see `knows_token`.
        let token = attempt * if plan.has_users { 2 } else { 0 };
        let extra = match act {
            // A silent connection is noticed by the next renewal, which is then late.
            // After other attempts that were not answered it waits longer.
            Act::Strand => patient * 3 + authenticating,
            Act::Wipe => token,
            Act::Hang | Act::BlackHole | Act::Partition | Act::Member(..) => authenticating,
            // So is the end of a lease without keys, because all keys are yielded.
            Act::Other(Other::Revoke) if plan.yields => ttl.mul_f64(0.37) + attempt,
            // Requests under way arrive that much later, also those that timed out.
            Act::Latency(_, most) => Duration::from_millis(*most),
            Act::Script(_, Reply::Delay(time) | Reply::Late(time)) => *time,
            // While the member answers reads of the lease, the renewal is awaited for as long as the lease can be kept.
            Act::Script(Rpc::LeaseKeepAlive, Reply::Never | Reply::DropReply) => ttl.max(patient),
            Act::Script(_, Reply::Never | Reply::DropReply) => patient,
            // Retried after 22 s to 30 s on purpose.
            Act::Script(_, Reply::Error(Code::PermissionDenied, _)) => SEC * 30,
            // A wrong answer about a lease that lives: its keys belong to another lease until it has expired.
            Act::Script(_, Reply::TtlZero) if plan.yields => ttl + SEC * 2,
            _ => Duration::ZERO,
        };
        self.extra = self.extra.max(extra);
        match act {
            Act::Other(Other::Delete(_) | Other::Overwrite(..)) => {
                self.rewrites.pour(now, 10 * SEC)
            }
            // Faults in which a lease may be lost.
            Act::Other(Other::Revoke)
            | Act::Wipe
            | Act::Freeze(_)
            | Act::Hang
            | Act::BlackHole
            | Act::Partition
            | Act::Script(_, Reply::TtlZero) => self.grants.pour(now, 5 * SEC),
            _ => {}
        }
    }

    /// The time from the end of the last fault until all entries are registered.
    pub fn bound(&mut self, plan: &Plan) -> Duration {
        let now = Instant::now();
        let mut bound = SEC + plan.attempt() + self.extra;
        // More rewrites than the burst are made slowly on purpose.
        if self.rewrites.level(now, 10 * SEC) > BURST {
            bound += 11 * SEC;
        }
        if self.grants.level(now, 5 * SEC) > BURST {
            bound += 6 * SEC;
        }
        bound
    }

    /// All entries were registered: resets the allowance.
    pub fn over(&mut self) {
        self.extra = Duration::ZERO;
    }
}

// === impl Leak ===

impl Leak {
    fn level(&mut self, now: Instant, every: Duration) -> f64 {
        if let Some(since) = self.since.replace(now) {
            let gone = (now - since).as_secs_f64() / every.as_secs_f64();
            self.level = (self.level - gone).max(0.0);
        }
        self.level
    }

    fn pour(&mut self, now: Instant, every: Duration) {
        self.level(now, every);
        self.level += 1.0;
    }
}
