//! [`Server`]: a server process, through its restarts.

use crate::problem::Problem;
use etcd_client::Client;
use std::path::{Path, PathBuf};
use std::time::Duration;
use test_support::etcd::guarded::Guarded;
use test_support::server::ServerProcess;
use test_support::{poll, ports};
use tokio::time::Instant;

/// One server of the fleet, the `server` example. Killed on drop.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    starts: usize,
    /// How often this process was registered.
    registered: usize,
    port: u16,
    etcd: String,
    deregistration_delay: Duration,
    dir: PathBuf,
    process: ServerProcess,
}

/// In addition to all configured waits of a server.
const TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(2);

// === impl Server ===

impl Server {
    /// Starts it, and does not wait.
    pub(crate) fn start(
        name: String,
        etcd: &str,
        deregistration_delay: Duration,
        dir: &Path,
    ) -> Self {
        let port = ports::free();
        Self {
            process: spawn(&name, 1, etcd, port, deregistration_delay, dir),
            name,
            starts: 1,
            registered: 1,
            port,
            etcd: etcd.to_owned(),
            deregistration_delay,
            dir: dir.to_owned(),
        }
    }

    /// Starts the next process, at the same address. Does not wait.
    pub(crate) fn start_again(&mut self) {
        self.starts += 1;
        self.registered = 1;
        let (name, etcd) = (&self.name, &self.etcd);
        self.process = spawn(
            name,
            self.starts,
            etcd,
            self.port,
            self.deregistration_delay,
            &self.dir,
        );
    }

    /// The next process listens elsewhere.
    pub(crate) fn move_away(&mut self) {
        self.port = ports::free();
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Waits until it can be found.
    pub(crate) async fn registered(&self) -> String {
        self.process.registered_times(self.registered).await
    }

    /// Takes its keys out of etcd, and waits until they are gone.
    pub(crate) async fn pause(&mut self, client: &mut Client) -> Result<(), Problem> {
        let key = self.registered().await;
        self.signal("USR1");
        let gone = async || match client.get(&*key, None).await?.count() {
            0 => Ok(()),
            _ => Err(Problem::from(format!("{key} is still there"))),
        };
        poll(POLL, TIMEOUT, gone).await
    }

    /// Puts them back, and waits until they are there.
    pub(crate) async fn resume(&mut self) {
        self.registered += 1;
        self.signal("USR2");
        self.registered().await;
    }

    /// SIGTERM, and waits until it has ended by itself.
    pub(crate) async fn terminate(&mut self) -> Result<(), Problem> {
        self.signal("TERM");
        match self.process.exit(self.deregistration_delay + TIMEOUT).await {
            0 => Ok(()),
            code => Err(format!("{} ended with {code}", self.name).into()),
        }
    }

    /// `STOP`, `CONT`, `KILL` and so on. Gives the moment before.
    pub(crate) fn signal(&self, name: &str) -> Instant {
        let at = Instant::now();
        self.process.signal(name);
        at
    }
}

fn spawn(
    name: &str,
    start: usize,
    etcd: &str,
    port: u16,
    deregistration_delay: Duration,
    dir: &Path,
) -> ServerProcess {
    let listen = format!("127.0.0.1:{port}");
    let delay = format!("{}ms", deregistration_delay.as_millis());
    let flags = ["--listen", &listen, "--deregistration-delay", &delay];
    let log = dir.join(format!("{name}.{start}.log"));
    // Also the directory of all scenarios is removed if this process is killed.
    let all = dir.parent().unwrap_or(dir);
    ServerProcess::start_with_log(etcd, &flags, log, all)
}

/// Runs this program in one of its other roles, with its output appended to `log`.
///
/// The shell allows it as many descriptors as there may be, and then becomes it.
pub(crate) fn run(args: &[&str], log: &Path) -> Result<Guarded, Problem> {
    const MANY_FILES: &str = "ulimit -n \"$(ulimit -H -n)\" 2>/dev/null; exec \"$0\" \"$@\"";
    let program = std::env::current_exe()?.display().to_string();
    let mut all = vec!["-c".to_owned(), MANY_FILES.to_owned(), program];
    all.extend(args.iter().map(|&arg| arg.to_owned()));
    // The directory of the scenario, and that of all scenarios, to be removed if this process is killed.
    let dir = log
        .ancestors()
        .nth(2)
        .ok_or("the log is not in the workdir")?;
    Ok(Guarded::spawn(Path::new("sh"), &all, log, dir))
}

/// Waits until there is `what` in the output of a process.
pub(crate) async fn said(process: &Guarded, log: &Path, what: &str) -> Result<(), Problem> {
    let output = || std::fs::read_to_string(log).unwrap_or_default();
    let there = async || output().contains(what).then_some(()).ok_or(());
    poll(POLL, TIMEOUT, there).await.map_err(|()| {
        let (pid, log) = (process.pid(), log.display());
        format!(
            "process {pid} has not printed {what:?}: see {log}\n{}",
            output()
        )
        .into()
    })
}
