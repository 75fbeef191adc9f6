//! [`Plan`]: the configuration and the events of one run. Pure: it depends only on the seed.

use super::acts::{self, Act, Other, Ours, Script};
use super::conditions::Conditions;
use fastrand::Rng;
use std::time::Duration;

/// A run: a configuration, and its events.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub members: usize,
    pub ttl: Duration,
    /// etcd grants no shorter one.
    pub min_ttl: u64,
    pub yields: bool,
    pub template: &'static str,
    pub latency: Duration,
    pub conditions: Conditions,
    /// The names of each registration at the start.
    pub initial: Vec<usize>,
    pub episodes: Vec<Episode>,
}

/// Some faults, then a quiet period.
#[derive(Debug, Clone)]
pub struct Episode {
    /// The fault is one in which no key may be lost.
    pub mild: bool,
    /// Each after a pause.
    pub acts: Vec<(Duration, Act)>,
    /// How long the quiet period lasts, once all entries are registered.
    pub quiet: Duration,
}

const TEMPLATES: [&str; 3] = [
    "{prefix}/{name}/{addr}",
    "{prefix}/{name}/{lease}",
    "{prefix}/{name}/{addr}/{lease}",
];
/// Gives pauses a random sequence of their own.
const PAUSES: u64 = 0x7061_7573_6573;
const MIN: Duration = Duration::from_secs(60);

// === impl Plan ===

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut plan = Self::alone(seed);
        plan.conditions = Conditions::drawn(seed, plan.ttl);
        plan.add_pauses();
        plan
    }

    /// The same plan, without any [`Conditions`] or pauses.
    pub fn alone(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let rng = &mut rng;
        let ttl = Duration::from_secs(*acts::one(rng, &[2, 3, 5, 5, 5, 10, 30]));
        let mut plan = Self {
            seed,
            members: rng.usize(1..=3),
            ttl,
            min_ttl: *acts::one(rng, &[2, 2, 2, 2, 2, 7, 40]),
            yields: rng.u8(0..4) == 0,
            template: TEMPLATES[*acts::one(rng, &[0, 0, 0, 1, 2])],
            latency: Duration::from_millis(*acts::one(rng, &[0, 1, 5, 20])),
            conditions: Conditions::default(),
            initial: Vec::new(),
            episodes: Vec::new(),
        };
        let initial = match rng.u8(0..4) {
            0 => rng.usize(1..=40),
            _ => rng.usize(1..=4),
        };
        plan.initial = (0..initial).map(|_| acts::names(rng)).collect();
        let length = MIN * rng.u32(10..=60);
        let mut planned = Duration::ZERO;
        while planned < length {
            let episode = plan.episode(rng);
            planned += episode.length() + plan.ttl * 2;
            plan.episodes.push(episode);
        }
        plan
    }

    fn episode(&self, rng: &mut Rng) -> Episode {
        let acts = match rng.u8(0..20) {
            0..=4 => return self.mild(rng),
            5 => self.repeated_overwrites(rng),
            6..=7 => self.outage(rng),
            8 => [self.outage(rng), self.storm(rng)].concat(),
            9..=10 => self.storm_and_stop(rng),
            _ => self.storm(rng),
        };
        let quiet = Duration::from_millis(rng.u64(0..=60_000));
        Episode {
            mild: false,
            acts,
            quiet,
        }
    }

    /// Pauses and returns, before and between the faults. Drawn apart from the rest of the plan, as conditions are.
    fn add_pauses(&mut self) {
        let rng = &mut Rng::with_seed(self.seed ^ PAUSES);
        for episode in self.episodes.iter_mut().filter(|episode| !episode.mild) {
            for _ in 0..*acts::one(rng, &[0, 0, 1, 2, 4]) {
                let longest = *acts::one(rng, &[20, 300, 3000]);
                let delay = Duration::from_millis(rng.u64(0..=longest));
                let act = match rng.bool() {
                    true => Ours::Pause(rng.usize(..)),
                    false => Ours::Resume(rng.usize(..)),
                };
                let index = rng.usize(0..=episode.acts.len()) * rng.usize(0..=1);
                episode.acts.insert(index, (delay, Act::Ours(act)));
            }
        }
    }

    fn storm(&self, rng: &mut Rng) -> Vec<(Duration, Act)> {
        let longest = *acts::one(rng, &[20, 300, 1000, 4000, 3 * self.ttl.as_millis() as u64]);
        let acts = (0..rng.usize(1..=10)).map(|_| {
            let pause = Duration::from_millis(rng.u64(0..=longest));
            (pause, acts::any(rng, self))
        });
        acts.collect()
    }

    fn storm_and_stop(&self, rng: &mut Rng) -> Vec<(Duration, Act)> {
        let mut acts = self.storm(rng);
        let pause = Duration::from_millis(rng.u64(0..=2000));
        let stop = match rng.u8(0..4) {
            0 => Ours::StopNow,
            _ => Ours::Stop,
        };
        acts.push((pause, Act::Ours(stop)));
        if rng.bool() {
            acts.extend(self.storm(rng));
        }
        acts
    }

    fn repeated_overwrites(&self, rng: &mut Rng) -> Vec<(Duration, Act)> {
        let (which, leased) = (rng.usize(..), rng.bool());
        let act = match rng.u8(0..3) {
            0 => Other::Revoke,
            _ => Other::Overwrite(which, leased),
        };
        let acts = (0..rng.usize(5..=60)).map(|_| {
            let pause = Duration::from_millis(rng.u64(0..=400));
            (pause, Act::Other(act.clone()))
        });
        acts.collect()
    }

    fn outage(&self, rng: &mut Rng) -> Vec<(Duration, Act)> {
        let fault = acts::one(rng, &[Act::Down, Act::Hang, Act::BlackHole, Act::Partition]).clone();
        let away = Duration::from_millis(rng.u64(100..=self.ttl.as_millis() as u64 * 4));
        let long = Duration::from_secs(rng.u64(1..=300));
        let away = if rng.bool() { away } else { long };
        vec![(Duration::ZERO, fault), (away, Act::Heal)]
    }

    /// One fault after a quiet period that must cost neither a key nor a lease.
    fn mild(&self, rng: &mut Rng) -> Episode {
        let brief = Duration::from_millis(rng.u64(1..=300));
        let long = Duration::from_millis(rng.u64(1..=60_000));
        let member = rng.usize(..);
        let mut acts = match rng.u8(0..9) {
            0 => vec![(brief, Act::Strand)],
            1 => vec![(brief, Act::Cut)],
            2 => vec![(brief, Act::Elect)],
            3 => vec![(brief, Act::CancelWatches("etcdserver: no leader"))],
            4 => vec![(brief, Act::Compact)],
            5 => vec![(brief, Act::Down), (long, Act::Heal)],
            6 => vec![(brief, acts::script(rng, Script::Renewal))],
            7 if self.members > 1 => vec![
                (brief, Act::Member(member, acts::member_fault(rng))),
                (long, Act::Heal),
            ],
            _ => vec![(brief, Act::Hang), (self.ttl / 4, Act::Heal)],
        };
        // A change by another client in the meantime tests the watches.
        if rng.u8(0..4) == 0 {
            acts.push((brief, Act::Ours(Ours::Update(rng.usize(..)))));
        }
        Episode {
            mild: true,
            acts,
            quiet: Duration::from_millis(rng.u64(0..=30_000)),
        }
    }
}

// === impl Episode ===

impl Episode {
    pub fn length(&self) -> Duration {
        self.acts.iter().map(|(pause, _)| *pause).sum::<Duration>() + self.quiet
    }
}
