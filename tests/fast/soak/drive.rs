//! Drives a [`World`] through its [`Plan`]: faults, a quiet period, looks; at the end everything is deregistered.

use super::plan::{Episode, Plan};
use super::world::World;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

const SEC: Duration = Duration::from_secs(1);

/// One run from its seed, with a runtime and a random generator of its own, so that it can be repeated.
pub fn run<T>(plan: Plan, read: impl FnOnce(World) -> T) -> T {
    // Ids and jitter of the library come from the thread's generator.
    fastrand::seed(plan.seed);
    tonic_etcd::testing::repeatable_ids();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let episodes = plan.episodes.clone();
        let mut world = World::new(plan).await;
        world.quiet(Duration::ZERO).await;
        for episode in &episodes {
            world.episode(episode).await;
        }
        world.finish().await;
        read(world)
    })
}

// === impl World ===

impl World {
    async fn episode(&mut self, episode: &Episode) {
        if self.is_stopped {
            self.succeed();
            self.quiet(Duration::ZERO).await;
        }
        if self.standing().is_empty() {
            self.register(1);
            self.quiet(Duration::ZERO).await;
        }
        let held = episode.is_mild.then(|| self.held());
        for (pause, act) in &episode.acts {
            sleep(*pause).await;
            self.perform(act).await;
        }
        self.settle().await;
        if let Some(held) = held {
            self.check_mild(&held, &episode.acts);
        }
        self.rest(episode.quiet).await;
    }

    pub async fn quiet(&mut self, quiet: Duration) {
        self.settle().await;
        self.rest(quiet).await;
    }

    /// The faults end. Waits until all should be as desired.
    pub async fn settle(&mut self) {
        self.no_faults();
        self.mark("quiet");
        let now = Instant::now();
        let bound = self.allowance.bound(&self.plan);
        sleep_until(now + bound).await;
        // A connection that ends before its first renewal is answered is an outage: the recovery begins again.
        if let Some(cut) = self.cut_since(now) {
            sleep_until(cut + bound).await;
        }
    }

    /// Time without faults, with looks at the state.
    pub async fn rest(&mut self, quiet: Duration) {
        self.look(false);
        let changes = self.fake.changes().len();
        sleep(self.plan.granted_ttl() + 2 * SEC).await;
        self.look(true);
        sleep(quiet).await;
        self.look(true);
        self.check_no_put(changes);
        self.allowance.over();
        // What begins now begins after the look.
        sleep(SEC / 1000).await;
    }
}
