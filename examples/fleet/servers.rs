//! [`Server`]: a server process, from outside.

use crate::problem::Problem;
use std::path::{Path, PathBuf};
use std::time::Duration;
use test_support::etcd::guarded::Guarded;
use test_support::ports;
use tokio::time::{Instant, sleep};

/// One server of the fleet, through all its restarts. Killed on drop.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    starts: usize,
    /// Of this process.
    pauses: usize,
    port: u16,
    etcd: String,
    deregistration_delay: Duration,
    dir: PathBuf,
    /// `None` while it is down.
    process: Option<Guarded>,
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
    ) -> Result<Self, Problem> {
        let mut server = Self {
            name,
            starts: 0,
            pauses: 0,
            port: ports::free(),
            etcd: etcd.to_owned(),
            deregistration_delay,
            dir: dir.to_owned(),
            process: None,
        };
        server.start_again()?;
        Ok(server)
    }

    /// Starts the next process, at the same address. Does not wait.
    pub(crate) fn start_again(&mut self) -> Result<(), Problem> {
        self.starts += 1;
        self.pauses = 0;
        let args = [
            "serve",
            "--etcd",
            &self.etcd,
            "--listen",
            &self.address(),
            "--deregistration-delay",
            &format!("{}ms", self.settle.as_millis()),
        ];
        self.process = Some(run(&args, &self.log())?);
        Ok(())
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

    /// Waits until it prints that it can be found.
    pub(crate) async fn registered(&self) -> Result<(), Problem> {
        self.says("registered").await
    }

    /// Takes its keys out of etcd, and waits until that has begun.
    pub(crate) async fn pause(&mut self) -> Result<(), Problem> {
        self.pauses += 1;
        self.signal("USR1");
        self.says(&format!("pause {} begins", self.pauses)).await
    }

    /// Puts them back, and waits until they are there.
    pub(crate) async fn resume(&mut self) -> Result<(), Problem> {
        self.signal("USR2");
        self.says(&format!("pause {} is over", self.pauses)).await
    }

    async fn says(&self, what: &str) -> Result<(), Problem> {
        let process = self.process.as_ref().ok_or("it is down")?;
        said(process, &self.log(), what).await
    }

    /// SIGTERM, and waits until it has ended by itself.
    pub(crate) async fn terminate(&mut self) -> Result<(), Problem> {
        let process = self.process.take().ok_or("it is down")?;
        process.signal("TERM");
        let limit = Instant::now() + self.deregistration_delay + TIMEOUT;
        while !process.has_exited() {
            if Instant::now() > limit {
                return Err(format!("{} does not stop", self.name).into());
            }
            sleep(POLL).await;
        }
        match process.exit_code() {
            Some(0) => Ok(()),
            code => Err(format!("{} ended with {code:?}", self.name).into()),
        }
    }

    /// SIGKILL. Gives the moment before.
    pub(crate) async fn kill(&mut self) -> Instant {
        let at = Instant::now();
        if let Some(process) = self.process.take() {
            process.kill().await;
        }
        at
    }

    /// `STOP` or `CONT`. Gives the moment before.
    pub(crate) fn signal(&self, name: &str) -> Instant {
        let at = Instant::now();
        if let Some(process) = &self.process {
            process.signal(name);
        }
        at
    }

    fn log(&self) -> PathBuf {
        self.dir.join(format!("{}.{}.log", self.name, self.starts))
    }
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
    let limit = Instant::now() + TIMEOUT;
    loop {
        let output = std::fs::read_to_string(log).unwrap_or_default();
        if output.contains(what) {
            return Ok(());
        }
        if process.has_exited() || Instant::now() > limit {
            let (pid, log) = (process.pid(), log.display());
            return Err(
                format!("process {pid} has not printed {what:?}: see {log}\n{output}").into(),
            );
        }
        sleep(POLL).await;
    }
}
