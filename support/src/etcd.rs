//! A real etcd process, for tests in real time and for demonstrations.
//!
//! ```text
//! let mut etcd = Etcd::start().await;       // private data, free ports, loopback only
//! etcd.kill().await;                        // SIGKILL, and it is gone when this returns
//! etcd.start_again();                       // same ports, same data
//! let back = etcd.wait_serving().await;     // the moment it first answered a linearizable read
//! ```
//!
//! * The binary is `$ETCD`, else `etcd` on the `PATH`. Without one the test fails; it is never skipped.
//! * **No process stays after its owner has ended**, however the owner ends: see [`Guarded`], which also sends the signals.
//! * With `ETCD_USERS=1` the etcds of [`Etcd::start`] have [`users`], which are made again after a wipe.
//! * [`Etcd::pid`] is etcd itself, not a wrapper: STOP, CONT and KILL go to the server.
//!
//! See also [`cluster`](crate::cluster) with three of these, and [`fake`](crate::fake) for the paused clock.

pub mod guarded;
mod plan;
pub mod users;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{Client, Error};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use guarded::Guarded;
pub use plan::{Plan, program};

/// A start that takes longer than this has failed.
const TIMEOUT: Duration = Duration::from_secs(30);
/// One probe of [`Etcd::wait_serving`]: a hung etcd must not hang the prober.
const PROBE: Duration = Duration::from_millis(50);
/// The pause between two probes: how exactly "first answered" is known.
const PROBE_PAUSE: Duration = Duration::from_millis(2);
/// Another process may take a port between our choice and etcd's bind: choose again.
const START_ATTEMPTS: usize = 5;

/// One etcd server with its own data directory and ports. Killed, and its data removed, on drop.
#[derive(Debug)]
pub struct Etcd {
    plan: Plan,
    /// `None` while it is down.
    process: Option<Guarded>,
    /// It requires authentication.
    has_users: bool,
    /// Its users must be made once it serves: it is new, or its data was wiped.
    lacks_users: AtomicBool,
}

impl Etcd {
    /// Starts a single etcd, with users if they are [wanted](users::are_wanted), and waits until it serves.
    ///
    /// # Panics
    /// When there is no etcd binary, or it does not come up; the message carries the end of its log.
    pub async fn start() -> Self {
        match users::are_wanted() {
            true => Self::start_with_users(&[users::CHEAP]).await,
            false => Self::start_with(&[]).await,
        }
    }

    /// [`Etcd::start`] with users, whether or not they are wanted, and with more command line arguments.
    pub async fn start_with_users(extra_args: &[&str]) -> Self {
        Self::started(true, || Plan::new("solo").alone().with_args(extra_args)).await
    }

    /// [`Etcd::start`] without users, and with more command line arguments, for example `--unsafe-no-fsync`.
    pub async fn start_with(extra_args: &[&str]) -> Self {
        Self::start_as(|| Plan::new("solo").alone().with_args(extra_args)).await
    }

    /// [`Etcd::start_with`] for a plan of its own, which is made again for each attempt.
    pub async fn start_as(plan: impl Fn() -> Plan) -> Self {
        Self::started(false, plan).await
    }

    async fn started(has_users: bool, plan: impl Fn() -> Plan) -> Self {
        let mut last = String::new();
        for _ in 0..START_ATTEMPTS {
            let mut etcd = Self::planned(plan(), has_users);
            etcd.start_again();
            match etcd.serving().await {
                Ok(_) => return etcd,
                Err(why) => last = why,
            }
        }
        panic!("etcd did not start in {START_ATTEMPTS} attempts, the last one: {last}")
    }

    /// An etcd that is planned but not running yet. With users, it makes them when it [serves](Self::serving).
    pub fn planned(plan: Plan, has_users: bool) -> Self {
        Self {
            plan,
            process: None,
            has_users,
            lacks_users: AtomicBool::new(has_users),
        }
    }

    /// A member that joins others and gets their users. It is not running yet.
    pub fn joining(plan: Plan, has_users: bool) -> Self {
        let member = Self::planned(plan, has_users);
        member.lacks_users.store(false, Ordering::Relaxed);
        member
    }

    /// What clients dial, `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        self.plan.client_url()
    }

    /// The port that clients dial.
    pub fn client_port(&self) -> u16 {
        self.plan.client_port()
    }

    /// This member as written in `--initial-cluster`.
    pub fn membership(&self) -> String {
        self.plan.membership()
    }

    /// The process id of etcd itself.
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// Whether the process was started and has not been killed by us.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// SIGKILL; when this returns the process is gone and its ports are free.
    pub async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill().await;
        }
    }

    /// Starts it after a [`kill`](Self::kill): same ports, same data. Does not wait; see [`wait_serving`](Self::wait_serving).
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "etcd is running already");
        self.process = Some(self.plan.spawn());
    }

    /// SIGKILL, and a start with its data after so long. Returns when it first [served](Self::wait_serving).
    pub async fn restart(&mut self, away: Duration) -> Instant {
        self.kill().await;
        sleep(away).await;
        self.start_again();
        self.wait_serving().await
    }

    /// SIGKILL, and a start without its data after so long. Returns when it first [served](Self::wait_serving).
    pub async fn lose_data(&mut self, away: Duration) -> Instant {
        self.kill().await;
        self.wipe();
        self.restart(away).await
    }

    /// Removes all data: the next start is a new, empty etcd on the same ports.
    pub fn wipe(&self) {
        assert!(self.process.is_none(), "wipe an etcd that is down");
        self.plan.wipe();
        self.lacks_users.store(self.has_users, Ordering::Relaxed);
    }

    /// Copies its data, for [`put_back`](Self::put_back).
    pub fn copy(&self) {
        assert!(
            self.process.is_none(),
            "copy the data of an etcd that is down"
        );
        self.plan.copy();
    }

    /// Replaces its data by the copy: the next start is an etcd that was restored.
    pub fn put_back(&self) {
        assert!(self.process.is_none(), "restore an etcd that is down");
        self.plan.put_back();
    }

    /// Freezes the process (SIGSTOP): connections stay open, nothing is answered.
    pub fn stop_signal(&self) {
        self.running().signal("STOP");
    }

    /// Lets a frozen process go on (SIGCONT).
    pub fn cont_signal(&self) {
        self.running().signal("CONT");
    }

    /// Waits until it answers a linearizable read, also with a request for authentication, and returns when that answer came.
    /// If it is to have users and has none yet, it has them when this returns.
    ///
    /// # Panics
    /// When it exits, or has not answered after half a minute; the message carries the end of its log.
    pub async fn wait_serving(&self) -> Instant {
        self.serving().await.unwrap_or_else(|why| panic!("{why}"))
    }

    /// Waits until it answers at all, also with a refusal: for an etcd that requires authentication.
    ///
    /// # Panics
    /// Like [`wait_serving`](Self::wait_serving).
    pub async fn wait_answering(&self) -> Instant {
        self.until(users::answers)
            .await
            .unwrap_or_else(|why| panic!("{why}"))
    }

    /// A client of its own, for the test itself.
    pub async fn client(&self) -> Client {
        let client = match self.has_users && !self.lacks_users.load(Ordering::Relaxed) {
            true => users::connect_as(&self.endpoint(), users::ROOT).await,
            false => Client::connect([self.endpoint()], None).await,
        };
        client.unwrap_or_else(|e| panic!("no client for {}: {e}", self.endpoint()))
    }

    /// How many calls of a gRPC method it has received since its start, by its own metrics.
    pub async fn calls(&self, method: &str) -> usize {
        self.counted("grpc_server_started_total", method).await
    }

    /// How many messages of that method it has received since its start, by its own count.
    pub async fn messages(&self, method: &str) -> usize {
        self.counted("grpc_server_msg_received_total", method).await
    }

    async fn counted(&self, metric: &str, method: &str) -> usize {
        let page = self.metrics().await;
        let page = page.unwrap_or_else(|e| panic!("no metrics: {e}"));
        let label = format!("{metric}{{grpc_method=\"{method}\"");
        let line = page.lines().find(|line| line.starts_with(&label));
        let count = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        count.unwrap_or_else(|| panic!("etcd does not count {metric} of {method}"))
    }

    /// The sums of a metric by the values of one of its labels.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn counters(&self, metric: &str, label: &str) -> BTreeMap<String, usize> {
        let page = self.metrics().await;
        let page = page.unwrap_or_else(|e| panic!("no metrics: {e}"));
        let mut sums = BTreeMap::new();
        for line in page.lines().filter(|line| line.starts_with(metric)) {
            let value = line
                .split_once(&format!("{label}=\""))
                .zip(line.rsplit_once(' '));
            let Some(((_, name), (_, count))) = value else {
                continue;
            };
            let name = name.split('"').next().unwrap_or_default();
            *sums.entry(name.to_owned()).or_default() += count.parse().unwrap_or(0);
        }
        sums
    }

    async fn metrics(&self) -> io::Result<String> {
        let mut page = String::new();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.client_port())).await?;
        let request = b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
        stream.write_all(request).await?;
        stream.read_to_string(&mut page).await?;
        Ok(page)
    }

    /// Everything that etcd has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.plan.log_path()).unwrap_or_default()
    }

    /// The last lines that etcd has logged.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let from = log.lines().count().saturating_sub(25);
        log.lines().skip(from).collect::<Vec<_>>().join("\n")
    }

    /// [`wait_serving`](Self::wait_serving) that reports instead of panicking.
    pub async fn serving(&self) -> Result<Instant, String> {
        // etcd checks the password after it has read the applied index of its cluster.
        let since = self
            .until(|error| self.has_users && users::answers(error))
            .await?;
        if self.lacks_users.load(Ordering::Relaxed) {
            let made = users::make(&mut self.client().await).await;
            made.map_err(|error| self.report(&format!("takes no users: {error}")))?;
            self.knows_its_users().await;
        }
        Ok(since)
    }

    /// Waits until it requires authentication, after it got the users from its cluster.
    pub async fn knows_its_users(&self) {
        users::are_known(&self.endpoint()).await;
        self.lacks_users.store(false, Ordering::Relaxed);
    }

    async fn until(&self, good_enough: impl Fn(&Error) -> bool) -> Result<Instant, String> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match timeout(PROBE, probe(self.endpoint())).await {
                Ok(Ok(())) => return Ok(Instant::now()),
                Ok(Err(error)) if good_enough(&error) => return Ok(Instant::now()),
                _ if self.running().has_exited() => return Err(self.report("exited")),
                _ if Instant::now() > deadline => return Err(self.report("does not answer")),
                _ => sleep(PROBE_PAUSE).await,
            }
        }
    }

    fn report(&self, what: &str) -> String {
        let (name, endpoint) = (self.plan.name(), self.endpoint());
        let log = self.log_tail();
        format!("etcd {name} at {endpoint} {what}; the end of its log:\n{log}")
    }

    fn running(&self) -> &Guarded {
        self.process.as_ref().expect("etcd is down")
    }
}

/// Major, minor and patch of the etcd that a client is connected to. An alpha says so after a dash.
pub async fn version(client: &mut Client) -> [u32; 3] {
    let status = client.status().await.expect("a status");
    let mut parts = status.version().split(['.', '-']);
    [(); 3].map(|()| {
        let part = parts.next().and_then(|part| part.parse().ok());
        part.unwrap_or_else(|| panic!("a version {:?}", status.version()))
    })
}

/// Whether a version is as new as these patches of 3.4, 3.5 and 3.6.
pub fn is_since([major, minor, patch]: [u32; 3], patches: [u32; 3]) -> bool {
    let since = match (major, minor) {
        (3, ..=3) => u32::MAX,
        (3, 4) => patches[0],
        (3, 5) => patches[1],
        (3, 6) => patches[2],
        _ => 0,
    };
    patch >= since
}

/// A linearizable read through a connection of its own.
async fn probe(endpoint: String) -> Result<(), Error> {
    let mut client = Client::connect([endpoint], None).await?;
    client.get("probe", None).await.map(drop)
}
