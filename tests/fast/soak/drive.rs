//! Drives a [`World`] through its [`Plan`]: faults, a quiet period, a look; at the end everything is deregistered.

use super::plan::{Episode, Plan};
use super::record::Record;
use super::world::{World, alive_tasks};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

const SEC: Duration = Duration::from_secs(1);

/// One run from its seed, with a runtime and a random generator of its own, so that it can be repeated.
pub fn run(plan: Plan, length: Duration) -> Record {
    // Ids and jitter of the library come from the thread's generator.
    fastrand::seed(plan.seed);
    tonic_etcd::testing::repeatable_ids();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(drive(plan, length))
}

async fn drive(plan: Plan, length: Duration) -> Record {
    let episodes = plan.episodes.clone();
    let mut world = World::new(plan).await;
    world.quiet(Duration::ZERO).await;
    for episode in &episodes {
        if world.record.start.elapsed() >= length {
            break;
        }
        world.episode(episode).await;
    }
    world.finish().await
}

// === impl World ===

impl World {
    async fn episode(&mut self, episode: &Episode) {
        if self.is_stopped() {
            self.succeed();
            self.quiet(Duration::ZERO).await;
        }
        if self.standing().is_empty() {
            self.register(1);
            self.quiet(Duration::ZERO).await;
        }
        let start = Instant::now();
        for (pause, act) in &episode.acts {
            sleep(*pause).await;
            self.perform(act).await;
        }
        let settled = self.quiet(episode.quiet).await;
        if episode.mild {
            let what = format!("{:?}", episode.acts);
            self.record.mild.push((what, start..settled));
        }
    }

    /// A period without faults, with looks at the state. Returns when the state should be right.
    async fn quiet(&mut self, quiet: Duration) -> Instant {
        self.fake.clear();
        self.plan.conditions.renewals(&self.fake);
        self.heal();
        self.fake.latency(Duration::ZERO..self.plan.latency);
        self.mark("quiet");
        let (now, terms) = (Instant::now(), self.record.terms.clone());
        let bound = self.allowance.bound(&terms);
        let mut settled = now + bound;
        sleep_until(settled).await;
        // A connection that ends before its first renewal is answered is an outage: the recovery begins again.
        if let Some(cut) = self.cut_since(now) {
            settled = cut + bound;
            sleep_until(settled).await;
        }
        self.look(now, false);
        sleep_until((now + terms.ttl + 2 * SEC).max(settled + SEC)).await;
        self.look(now, true);
        sleep(quiet).await;
        self.look(now, true);
        self.allowance.over();
        // What begins now begins after the look.
        sleep(SEC / 1000).await;
        settled
    }

    /// Everything is deregistered, and nothing may be left.
    async fn finish(mut self) -> Record {
        self.stop(false);
        self.quiet(SEC).await;
        self.handles.clear();
        self.pauses.clear();
        self.recurring.drain(..).for_each(|task| task.abort());
        // Connections that were silenced for good never close by themselves.
        self.fake.cut_connections();
        sleep(5 * SEC).await;
        self.record.rest.tasks.1 = alive_tasks();
        self.record.rest.connections.1 = self.fake.connections_open();
        self.into_record()
    }
}
