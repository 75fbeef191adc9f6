//! Random faults and random changes, from a seed: without faults a reader has what etcd has, and has reported
//! every difference (I9). `DISCOVERY_SEED=7 cargo test ... discovery_soak` runs one seed again.

use crate::discovery::json;
use crate::setup::{SEC, seeds};

use crate::support::fake::{FakeEtcd, Reply, Rpc, Snapshot};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_etcd::Etcd;
use tonic_etcd::discovery::{Change, Changes, Discovery};

const PREFIX: &str = "/services/greeter/";
/// Runs of an ordinary test; each is some simulated minutes.
const RUNS: u64 = 20;
const MEMBERS: [&str; 2] = ["m0", "m1"];
/// The retention, and the time to notice a silent member and to connect to another.
const CONVERGED: Duration = Duration::from_secs(45);

/// One run.
struct Run {
    rng: Rng,
    habits: Habits,
    fake: FakeEtcd,
    discovery: Discovery,
    changes: Changes,
    /// What the changes add up to.
    told: BTreeMap<String, String>,
    /// A copy of etcd's data, to be restored.
    copy: Option<Snapshot>,
    log: Vec<String>,
}

/// The conditions of a whole run, also without faults.
#[derive(Debug)]
struct Habits {
    /// How often every connection is cut, as by a balancer or a mesh.
    cuts: Option<Duration>,
    /// The longest time until an answer, as on a slow link or with `grpc-proxy`. The attempt timeout is 1 s.
    latency: Duration,
    /// Answers as etcd does up to 3.6.
    is_old: bool,
    /// How long missing instances are kept.
    retention: Duration,
    /// Keys that nobody changes: with many, not all keys are read after a lost connection. None on a slow link: after
    /// some late answers pages have one key, and a list would take a minute.
    others: usize,
}

// === impl Habits ===

impl Habits {
    fn draw(rng: &mut Rng) -> Self {
        let is_slow = rng.u8(0..4) == 0;
        // Between two cuts there is time for a few answers, or it could never be right.
        let (latency, cuts) = match is_slow {
            true => (rng.u64(300..950), rng.u64(5000..10_000)),
            false => (rng.u64(1..40), rng.u64(500..10_000)),
        };
        Self {
            cuts: (rng.u8(0..3) == 0).then(|| Duration::from_millis(cuts)),
            latency: Duration::from_millis(latency),
            is_old: rng.u8(0..3) == 0,
            retention: match rng.u8(0..4) {
                0 => Duration::ZERO,
                _ => Duration::from_secs(30),
            },
            others: match rng.u8(0..4) {
                0 if !is_slow => 150,
                _ => 0,
            },
        }
    }

    /// How long after a change the set is right, without another fault.
    fn convergence(&self) -> Duration {
        match self.cuts.is_none() && self.latency < Duration::from_millis(300) {
            true => SEC / 2,
            // Late answers and slow connects may count as silence, after which the last one to
            // leave is kept.
            false => CONVERGED,
        }
    }
}

// === impl Run ===

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let fake = FakeEtcd::seeded(seed);
        let habits = Habits::draw(&mut rng);
        fake.latency(Duration::ZERO..habits.latency);
        if habits.is_old {
            fake.configure(|it| it.keys_only_with_lease = true);
        }
        for other in 0..habits.others {
            let key = format!("{PREFIX}other-{other}");
            fake.put(&key, &json(1000 + other, "v1"), 0);
        }
        let members = MEMBERS[..rng.usize(1..=2)]
            .iter()
            .map(|member| format!("http://{member}:2379"));
        let etcd = Etcd::new(members).connector(fake.connector());
        let builder = Discovery::builder(etcd, "greeter").retention(habits.retention);
        let discovery = builder.build().unwrap();
        let changes = discovery.changes();
        Self {
            rng,
            fake,
            discovery,
            changes,
            told: BTreeMap::new(),
            copy: None,
            log: vec![format!("{habits:?}")],
            habits,
        }
    }

    /// Time passes, with the cuts that there are all the time.
    async fn passes(&self, time: Duration) {
        let until = Instant::now() + time;
        while let Some(every) = self.habits.cuts {
            if Instant::now() + every >= until {
                break;
            }
            sleep(every).await;
            self.fake.cut_connections();
        }
        sleep_until(until).await;
    }

    fn write(&mut self) {
        let id = self.rng.usize(0..12);
        let key = format!("{PREFIX}{id}");
        match self.rng.u8(0..10) {
            0..3 => drop(self.fake.delete(&key)),
            3 => self.fake.put(&key, "not an instance", 0),
            4 => self.fake.put("/elsewhere", "x", 0),
            _ => {
                let version = self.rng.u8(..).to_string();
                self.fake.put(&key, &json(id, &version), 0);
            }
        }
    }

    fn fault(&mut self) {
        let member = MEMBERS[self.rng.usize(0..MEMBERS.len())];
        let act = self.rng.u8(0..18);
        self.log.push(format!("act {act} at {member}"));
        match act {
            0 => self.fake.down(),
            1 => self.fake.wipe(),
            2 => self.fake.hang(),
            3 => self.fake.black_hole(),
            4 => self.fake.partition(),
            5 => self.fake.cut_connections(),
            6 => self.fake.strand_connections(),
            7 => self.fake.compact(),
            8 => self.fake.elect(),
            9 => self.fake.cancel_watches("etcdserver: no leader"),
            10 => self.fake.member(member).hang(),
            11 => self.fake.member(member).down(),
            12 => self.fake.script(Rpc::Watch, Reply::Never),
            13 => self.fake.script(Rpc::Range, Reply::Reset),
            14 => self.copy = Some(self.fake.snapshot()),
            15..=16 => self.restore(),
            _ => self.fake.script(
                Rpc::Range,
                Reply::Error(Code::Unavailable, "etcdserver: request timed out"),
            ),
        }
    }

    /// Restores the copy, and writes: then etcd has fewer, as many or more revisions than before.
    fn restore(&mut self) {
        let Some(copy) = self.copy.take() else {
            return;
        };
        let before = self.fake.revision();
        self.fake.restore(&copy);
        for _ in 0..self.rng.u8(0..4) {
            self.write();
        }
        let missing = before - self.fake.revision() + self.rng.i64(-1..=1);
        for _ in 0..missing.min(self.rng.i64(0..100)) {
            self.fake.put("/elsewhere", "x", 0);
        }
        self.copy = Some(copy);
    }

    fn heal(&mut self) {
        self.fake.up();
        self.fake.resume();
        for member in MEMBERS {
            self.fake.member(member).up();
        }
        self.fake.clear();
        self.log.push("no faults".to_owned());
    }

    async fn listen(&mut self) {
        while let Ok(Some(change)) =
            tokio::time::timeout(Duration::from_millis(1), self.changes.next()).await
        {
            match change {
                Change::Insert { key, instance, .. } => {
                    let version = instance.version().unwrap_or_default().to_owned();
                    self.told.insert(key.to_string(), version);
                }
                Change::Remove { key, .. } => drop(self.told.remove(&*key)),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Without faults the set, the reported changes and etcd agree. There is no outage, except when an attempt was
    /// cut too.
    async fn check(&mut self) -> Result<(), String> {
        self.listen().await;
        let mut result = self.compare();
        for _ in 0..10 {
            if result.is_ok() || self.habits.cuts.is_none() {
                break;
            }
            self.passes(SEC).await;
            self.listen().await;
            result = self.compare();
        }
        result
    }

    fn compare(&self) -> Result<(), String> {
        let etcd: BTreeMap<_, _> = self
            .fake
            .keys()
            .into_iter()
            .filter_map(|(key, stored)| {
                let version = stored.value.split(r#""version":""#).nth(1)?;
                let is_ours = key.starts_with(PREFIX);
                is_ours.then(|| (key, version.trim_end_matches("\"}").to_owned()))
            })
            .collect();
        let snapshot = self.discovery.snapshot();
        let shown: BTreeMap<_, _> = snapshot
            .iter()
            .map(|(key, instance)| {
                let version = instance.version().unwrap_or_default();
                (key.to_owned(), version.to_owned())
            })
            .collect();
        if shown == etcd && self.told == etcd && snapshot.watch_error().is_none() {
            return Ok(());
        }
        Err(format!(
            "etcd {etcd:?}\nshown {shown:?}\ntold {:?}\ntrouble {:?}\n{}",
            self.told,
            snapshot.watch_error(),
            self.log.join("\n")
        ))
    }
}

async fn run(seed: u64) -> Result<(), String> {
    let mut run = Run::new(seed);
    for _ in 0..6 {
        for _ in 0..run.rng.usize(1..12) {
            match run.rng.u8(0..3) {
                0 => run.fault(),
                1 => run.heal(),
                _ => run.write(),
            }
            let pause = Duration::from_millis(run.rng.u64(0..3000));
            run.passes(pause).await;
            if run.rng.bool() {
                run.listen().await;
            }
        }
        run.heal();
        run.passes(CONVERGED).await;
        run.check()
            .await
            .map_err(|what| format!("seed {seed}: {what}"))?;
        // Without faults a change is there at once.
        run.write();
        run.passes(run.habits.convergence()).await;
        run.check()
            .await
            .map_err(|what| format!("seed {seed}, after a write: {what}"))?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn after_any_faults_a_reader_shows_what_etcd_has() {
    for seed in seeds("DISCOVERY", RUNS) {
        if let Err(what) = run(seed).await {
            panic!("I9: {what}");
        }
    }
}
