//! [`Conditions`]: the conditions of a whole run, also without any fault.

use super::acts::one;
use crate::support::fake::{FakeEtcd, Reply, Rpc};
use fastrand::Rng;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

/// Name and password, where etcd has users.
pub const USER: (&str, &str) = ("me", "secret");

/// The mark of a cut.
pub const CUT: &str = "connections are cut";

/// See the [module](self).
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// etcd requires a password.
    pub has_users: bool,
    /// How often all tokens become void.
    pub tokens_void: Option<Duration>,
    /// How often a balancer ends every connection.
    pub cuts: Option<Duration>,
    /// How late renewals are answered, as by `grpc-proxy`.
    pub late: Duration,
}

/// What they did, and when.
pub type Marks = Arc<Mutex<Vec<(Instant, String)>>>;

// === impl Conditions ===

impl Conditions {
    /// Drawn apart from the rest of the plan, so that a seed has the same plan with and without them.
    pub fn drawn(seed: u64, ttl: Duration) -> Self {
        let mut rng = Rng::with_seed(!seed);
        let rng = &mut rng;
        let has_users = rng.bool();
        let seconds = |rng: &mut Rng, range| Duration::from_secs(rng.u64(range));
        Self {
            has_users,
            tokens_void: (has_users && rng.bool()).then(|| seconds(rng, 20..=300)),
            cuts: (rng.u8(0..3) == 0).then(|| seconds(rng, 8..=30)),
            late: match rng.u8(0..4) {
                0 => ttl.mul_f64(*one(rng, &[0.05, 0.2, 0.33])),
                _ => Duration::ZERO,
            },
        }
    }

    /// Sets the fake up.
    pub fn begin(&self, fake: &FakeEtcd) {
        if self.has_users {
            fake.user(USER.0, USER.1);
        }
    }

    /// Again, after all rules were removed.
    pub fn renewals(&self, fake: &FakeEtcd) {
        if !self.late.is_zero() {
            fake.always(Rpc::LeaseKeepAlive, Reply::Delay(self.late));
        }
    }

    /// Those that happen again and again.
    pub fn recurring(&self, fake: &Arc<FakeEtcd>, marks: &Marks) -> Vec<AbortHandle> {
        let every = |time: Duration, what: &'static str, act: fn(&FakeEtcd)| {
            let (fake, marks) = (fake.clone(), marks.clone());
            let task = tokio::spawn(async move {
                loop {
                    sleep(time).await;
                    marks
                        .lock()
                        .unwrap()
                        .push((Instant::now(), what.to_owned()));
                    act(&fake);
                }
            });
            task.abort_handle()
        };
        let cuts = self
            .cuts
            .map(|time| every(time, CUT, FakeEtcd::cut_connections));
        let tokens = self
            .tokens_void
            .map(|time| every(time, "tokens are void", FakeEtcd::forget_tokens));
        cuts.into_iter().chain(tokens).collect()
    }
}
