//! Random faults and random changes, from a seed: in calm a reader shows what etcd has, and has told
//! of every difference. `DISCOVERY_SEED=7 cargo test ... discovery_soak` runs one seed again.

use crate::setup::SEC;
use crate::support::fake::{FakeEtcd, Reply, Rpc};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::sleep;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_etcd::Etcd;
use tonic_etcd::discovery::{Change, Changes, Discovery};

const PREFIX: &str = "/services/greeter/";
/// Runs of an ordinary test; each is some simulated minutes.
const RUNS: u64 = 30;
const MEMBERS: [&str; 2] = ["m0", "m1"];
/// The grace, and what it takes to find a silent member and to settle on another.
const CALM: Duration = Duration::from_secs(45);

/// One run.
struct Run {
    rng: Rng,
    fake: FakeEtcd,
    discovery: Discovery,
    changes: Changes,
    /// What the changes add up to.
    told: BTreeMap<String, String>,
    log: Vec<String>,
}

// === impl Run ===

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let fake = FakeEtcd::seeded(seed);
        fake.latency(Duration::ZERO..Duration::from_millis(rng.u64(1..40)));
        let members = MEMBERS[..rng.usize(1..=2)]
            .iter()
            .map(|member| format!("http://{member}:2379"));
        let etcd = Etcd::new(members).connector(fake.connector());
        let discovery = Discovery::builder(etcd, "greeter").build().unwrap();
        let changes = discovery.changes();
        Self {
            rng,
            fake,
            discovery,
            changes,
            told: BTreeMap::new(),
            log: vec![],
        }
    }

    fn write(&mut self) {
        let id = self.rng.usize(0..12);
        let key = format!("{PREFIX}{id}");
        match self.rng.u8(0..10) {
            0..3 => drop(self.fake.delete(&key)),
            3 => self.fake.put(&key, "not an instance", 0),
            4 => self.fake.put("/elsewhere", "x", 0),
            _ => {
                let version = self.rng.u8(..);
                let value = format!(
                    r#"{{"name":"greeter","id":"{id}","address":"10.0.0.1:{}","version":"{version}"}}"#,
                    1000 + id
                );
                self.fake.put(&key, &value, 0);
            }
        }
    }

    fn trouble(&mut self) {
        let member = MEMBERS[self.rng.usize(0..MEMBERS.len())];
        let act = self.rng.u8(0..15);
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
            _ => self.fake.script(
                Rpc::Range,
                Reply::Error(Code::Unavailable, "etcdserver: request timed out"),
            ),
        }
    }

    fn heal(&mut self) {
        self.fake.up();
        self.fake.resume();
        for member in MEMBERS {
            self.fake.member(member).up();
        }
        self.fake.clear();
        self.log.push("calm".to_owned());
    }

    async fn listen(&mut self) {
        while let Ok(Some(change)) =
            tokio::time::timeout(Duration::from_millis(1), self.changes.next()).await
        {
            match change {
                Change::Insert { key, instance, .. } => {
                    let version = instance.get_version().unwrap_or_default().to_owned();
                    self.told.insert(key.to_string(), version);
                }
                Change::Remove { key, .. } => drop(self.told.remove(&*key)),
                other => panic!("{other:?}"),
            }
        }
    }

    /// In calm: the set, what was told, and etcd agree.
    async fn check(&mut self) -> Result<(), String> {
        self.listen().await;
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
                let version = instance.get_version().unwrap_or_default();
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
                0 => run.trouble(),
                1 => run.heal(),
                _ => run.write(),
            }
            sleep(Duration::from_millis(run.rng.u64(0..3000))).await;
            if run.rng.bool() {
                run.listen().await;
            }
        }
        run.heal();
        sleep(CALM).await;
        run.check()
            .await
            .map_err(|what| format!("seed {seed}: {what}"))?;
        // In calm a change is there at once.
        run.write();
        sleep(SEC / 2).await;
        run.check()
            .await
            .map_err(|what| format!("seed {seed}, after a write: {what}"))?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_a_reader_shows_in_calm_what_etcd_has() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match (number("DISCOVERY_SEED"), number("DISCOVERY_RUNS")) {
        (Some(seed), runs) => seed..seed + runs.unwrap_or(1),
        (None, runs) => 0..runs.unwrap_or(RUNS),
    };
    for seed in seeds {
        if let Err(what) = run(seed).await {
            panic!("{what}");
        }
    }
}
