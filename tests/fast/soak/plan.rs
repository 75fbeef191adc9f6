//! [`Plan`]: the configuration and the events of one run. Pure: it depends only on the seed.

use crate::support::fake::{Mode, Reply, Rpc};
use fastrand::Rng;
use std::time::Duration;
use tonic::Code;

/// A run: a configuration, and its events.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub members: usize,
    /// As requested.
    pub ttl: Duration,
    /// etcd grants no shorter one.
    pub min_ttl: u64,
    pub yields: bool,
    pub template: &'static str,
    pub latency: Duration,
    /// etcd requires a password.
    pub has_users: bool,
    /// How often all tokens become void.
    pub tokens_void: Option<Duration>,
    /// How often a balancer ends every connection.
    pub cuts: Option<Duration>,
    /// How late renewals are answered, as by `grpc-proxy`.
    pub late: Duration,
    /// The names of each registration at the start.
    pub initial: Vec<usize>,
    pub episodes: Vec<Episode>,
}

/// Some faults, then a quiet period.
#[derive(Debug, Clone)]
pub struct Episode {
    /// The fault is one in which no key may be lost.
    pub is_mild: bool,
    /// Each after a pause.
    pub acts: Vec<(Duration, Act)>,
    /// How long the quiet period lasts, once all entries are registered.
    pub quiet: Duration,
}

/// One event of a run. A number picks one of the current items, modulo their number.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    // Faults of etcd, of the network or of the process.
    Down,
    Wipe,
    Hang,
    BlackHole,
    Partition,
    Heal,
    Strand,
    Cut,
    Elect,
    Compact,
    CancelWatches(&'static str),
    Latency(u64, u64),
    Member(usize, Mode),
    Script(Rpc, Reply),
    Freeze(Duration),
    /// A change by another client.
    Other(Other),
    /// A call of the application.
    Ours(Ours),
}

/// A change by another client.
#[derive(Debug, Clone, PartialEq)]
pub enum Other {
    Delete(usize),
    /// With a lease that lives, or with none.
    Overwrite(usize, bool),
    Revoke,
    RevokeForeign,
}

/// A call of the application.
#[derive(Debug, Clone, PartialEq)]
pub enum Ours {
    Register(usize),
    Announce(usize),
    Update(usize),
    Pause(usize),
    /// Ends one pause of a paused registration.
    Resume(usize),
    Deregister(usize),
    DeregisterNow(usize),
    Drop(usize),
    Stop,
    StopNow,
}

type Acts = Vec<(Duration, Act)>;

const TEMPLATES: [&str; 3] = [
    "{prefix}/{name}/{addr}",
    "{prefix}/{name}/{lease}",
    "{prefix}/{name}/{addr}/{lease}",
];
const MIN: Duration = Duration::from_secs(60);
const CANCELLED: [&str; 3] = [
    "etcdserver: no leader",
    "",
    "etcdserver: mvcc: watcher is closed",
];

/// A text of etcd, to which a proxy has added what it likes.
macro_rules! hostile {
    ($text:literal) => {
        concat!($text, "\x1b[2J\r\nINFO forged")
    };
}

const ERRORS: [(Code, &str); 7] = [
    (
        Code::ResourceExhausted,
        hostile!("etcdserver: mvcc: database space exceeded"),
    ),
    (
        Code::ResourceExhausted,
        hostile!("etcdserver: too many requests"),
    ),
    (Code::Unavailable, hostile!("etcdserver: no leader")),
    (Code::Unavailable, hostile!("etcdserver: request timed out")),
    (
        Code::Unauthenticated,
        hostile!("etcdserver: invalid auth token"),
    ),
    (Code::Unknown, hostile!("h2 protocol error")),
    (
        Code::PermissionDenied,
        hostile!("etcdserver: permission denied"),
    ),
];

fn one<T: Clone>(rng: &mut Rng, list: &[T]) -> T {
    list[rng.usize(..list.len())].clone()
}

fn up_to(rng: &mut Rng, most: u64) -> Duration {
    Duration::from_millis(rng.u64(0..=most))
}

// === impl Plan ===

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let rng = &mut rng;
        let ttl = Duration::from_secs(one(rng, &[2, 3, 5, 5, 5, 10, 30]));
        let has_users = rng.bool();
        let mut plan = Self {
            seed,
            members: rng.usize(1..=3),
            ttl,
            min_ttl: one(rng, &[2, 2, 2, 2, 2, 7, 40]),
            yields: rng.u8(0..4) == 0,
            template: TEMPLATES[one(rng, &[0, 0, 0, 1, 2])],
            latency: Duration::from_millis(one(rng, &[0, 1, 5, 20])),
            has_users,
            tokens_void: (has_users && rng.bool()).then(|| Duration::from_secs(rng.u64(20..=300))),
            cuts: (rng.u8(0..3) == 0).then(|| Duration::from_secs(rng.u64(8..=30))),
            late: match rng.u8(0..4) {
                0 => ttl.mul_f64(one(rng, &[0.05, 0.2, 0.33])),
                _ => Duration::ZERO,
            },
            initial: vec![],
            episodes: vec![],
        };
        let initial = match rng.u8(0..4) {
            0 => rng.usize(1..=40),
            _ => rng.usize(1..=4),
        };
        plan.initial = (0..initial).map(|_| names(rng)).collect();
        let length = MIN * rng.u32(10..=60);
        let mut planned = Duration::ZERO;
        while planned < length {
            let episode = plan.episode(rng);
            let acts: Duration = episode.acts.iter().map(|(pause, _)| *pause).sum();
            planned += acts + episode.quiet + plan.ttl * 2;
            plan.episodes.push(episode);
        }
        plan
    }

    /// As granted, which may be more than requested.
    pub fn granted_ttl(&self) -> Duration {
        self.ttl.max(Duration::from_secs(self.min_ttl))
    }

    /// The limit of one attempt.
    pub fn attempt(&self) -> Duration {
        (self.ttl * 3 / 25).min(Duration::from_millis(600))
    }

    pub fn key(&self, name: &str, addr: &str, lease: i64) -> String {
        self.template
            .replace("{prefix}", "/services")
            .replace("{name}", name)
            .replace("{addr}", addr)
            .replace("{lease}", &lease.to_string())
    }

    fn episode(&self, rng: &mut Rng) -> Episode {
        let is_mild = rng.u8(0..4) == 0;
        let acts = match rng.u8(0..15) {
            _ if is_mild => self.mild(rng),
            0 => repeated_overwrites(rng),
            1..=2 => self.outage(rng),
            3 => [self.outage(rng), self.storm(rng)].concat(),
            4..=5 => self.storm_and_stop(rng),
            _ => self.storm(rng),
        };
        Episode {
            is_mild,
            acts,
            quiet: up_to(rng, 60_000),
        }
    }

    fn storm(&self, rng: &mut Rng) -> Acts {
        let longest = one(rng, &[20, 300, 1000, 4000, 3 * self.ttl.as_millis() as u64]);
        let acts = (0..rng.usize(1..=10)).map(|_| (up_to(rng, longest), self.any(rng)));
        acts.collect()
    }

    fn storm_and_stop(&self, rng: &mut Rng) -> Acts {
        let mut acts = self.storm(rng);
        let stop = one(rng, &[Ours::Stop, Ours::Stop, Ours::Stop, Ours::StopNow]);
        acts.push((up_to(rng, 2000), Act::Ours(stop)));
        if rng.bool() {
            acts.extend(self.storm(rng));
        }
        acts
    }

    fn outage(&self, rng: &mut Rng) -> Acts {
        let fault = one(rng, &[Act::Down, Act::Hang, Act::BlackHole, Act::Partition]);
        let longest = one(rng, &[self.ttl.as_millis() as u64 * 4, 300_000]);
        vec![(Duration::ZERO, fault), (up_to(rng, longest), Act::Heal)]
    }

    /// One fault after a quiet period that must cost neither a key nor a lease.
    fn mild(&self, rng: &mut Rng) -> Acts {
        let (brief, long) = (up_to(rng, 300), up_to(rng, 60_000));
        let mut acts = match rng.u8(0..9) {
            0 => vec![(brief, Act::Strand)],
            1 => vec![(brief, Act::Cut)],
            2 => vec![(brief, Act::Elect)],
            3 => vec![(brief, Act::CancelWatches("etcdserver: no leader"))],
            4 => vec![(brief, Act::Compact)],
            5 => vec![(brief, Act::Down), (long, Act::Heal)],
            6 => vec![(brief, script(rng, true))],
            7 if self.members > 1 => {
                let fault = Act::Member(rng.usize(..), member_fault(rng));
                vec![(brief, fault), (long, Act::Heal)]
            }
            _ => vec![(brief, Act::Hang), (self.ttl / 4, Act::Heal)],
        };
        // A change of a key in the meantime tests the watches.
        if rng.u8(0..4) == 0 {
            acts.push((brief, Act::Ours(Ours::Update(rng.usize(..)))));
        }
        acts
    }

    fn any(&self, rng: &mut Rng) -> Act {
        let n = rng.usize(..);
        match rng.u8(0..44) {
            0..=1 => Act::Down,
            2 => Act::Wipe,
            3..=4 => Act::Hang,
            5..=6 => Act::BlackHole,
            7..=8 => Act::Partition,
            9..=13 => Act::Heal,
            14 => Act::Strand,
            15 => Act::Cut,
            16 => Act::Elect,
            17 => Act::Compact,
            18 => Act::CancelWatches(one(rng, &CANCELLED)),
            19 => Act::Latency(rng.u64(0..200), rng.u64(200..1500)),
            20..=22 => match rng.u8(0..5) {
                0 => Act::Member(n, Mode::Up),
                _ => Act::Member(n, member_fault(rng)),
            },
            23..=27 => script(rng, false),
            28 => Act::Freeze(up_to(rng, self.ttl.as_millis() as u64 * 2)),
            29 => Act::Other(Other::Delete(n)),
            30..=31 => Act::Other(Other::Overwrite(n, rng.bool())),
            32 => Act::Other(Other::Revoke),
            33 => Act::Other(Other::RevokeForeign),
            34 => Act::Ours(Ours::Register(names(rng))),
            35 => Act::Ours(Ours::Announce(n)),
            36..=37 => Act::Ours(Ours::Update(n)),
            38..=40 => Act::Ours(one(rng, &[Ours::Pause(n), Ours::Resume(n)])),
            41 => Act::Ours(one(rng, &[Ours::Drop(n), Ours::DeregisterNow(n)])),
            _ => Act::Ours(Ours::Deregister(n)),
        }
    }
}

/// Most have one name.
fn names(rng: &mut Rng) -> usize {
    one(rng, &[1, 1, 1, 2, 3])
}

fn member_fault(rng: &mut Rng) -> Mode {
    use Mode::{BlackHole, Down, Hung, NoReplies};
    one(rng, &[Down, Hung, BlackHole, NoReplies])
}

fn repeated_overwrites(rng: &mut Rng) -> Acts {
    let overwrite = Other::Overwrite(rng.usize(..), rng.bool());
    let act = Act::Other(one(rng, &[Other::Revoke, overwrite.clone(), overwrite]));
    let acts = (0..rng.usize(5..=60)).map(|_| (up_to(rng, 400), act.clone()));
    acts.collect()
}

/// The next request of a kind is treated in some way that a real etcd or network could bring about. A mild one is a
/// renewal, without a wrong answer about the lease.
fn script(rng: &mut Rng, is_mild: bool) -> Act {
    use Rpc::{Connect, LeaseGrant, LeaseKeepAlive, LeaseRevoke, Txn, Watch};
    let all = [
        Connect,
        LeaseGrant,
        LeaseGrant,
        LeaseKeepAlive,
        LeaseRevoke,
        Txn,
        Txn,
        Watch,
    ];
    let (rpc, errors) = match is_mild {
        false => (one(rng, &all), &ERRORS[..]),
        true => (LeaseKeepAlive, &ERRORS[..6]),
    };
    let (time, (code, text)) = (up_to(rng, 3000), one(rng, errors));
    let reply = match rng.u8(0..10) {
        0 => Reply::Delay(time),
        1 => Reply::Late(time),
        2 | 3 => Reply::DropReply,
        4 => Reply::ApplyThenReset,
        5 => Reply::Reset,
        // A watch request on a stream that stays open is not lost in reality.
        6 if rpc != Watch => Reply::Never,
        7 if !is_mild && matches!(rpc, LeaseKeepAlive | LeaseGrant) => Reply::TtlZero,
        8 if !is_mild => Reply::WrongId,
        8 | 9 if rpc == Watch => Reply::Cancel(hostile!("etcdserver: no leader")),
        _ => Reply::Error(code, text),
    };
    Act::Script(rpc, reply)
}
