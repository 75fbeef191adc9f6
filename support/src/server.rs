//! The `server` example as a process, which gets signals.

use super::etcd::guarded::Guarded;
use super::etcd::users;
use super::eventually;
use super::observer::Observer;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// A running server. Killed on drop.
#[derive(Debug)]
pub struct ServerProcess {
    process: Guarded,
    log: PathBuf,
    /// Where the log is, unless it is to be kept.
    _dir: Option<TempDir>,
}

/// The reading end of a pipe.
#[derive(Debug)]
pub struct Reader {
    _end: File,
    _dir: TempDir,
}

const TIMEOUT: Duration = Duration::from_secs(20);

impl ServerProcess {
    /// Starts the server for `etcd` with further flags. Does not wait.
    pub fn start(etcd: &str, flags: &[&str]) -> Self {
        Self::start_with_env(etcd, flags, &[])
    }

    /// [`start`](Self::start), and waits until an observer has seen its key. Returns that, too.
    pub async fn start_seen(etcd: &str, flags: &[&str], observer: &Observer) -> (Self, String) {
        let server = Self::start(etcd, flags);
        let key = server.registered().await;
        observer.wait_for_key(&key, TIMEOUT).await;
        (server, key)
    }

    /// [`start`](Self::start) with variables (`NAME=value`) added to its environment.
    pub fn start_with_env(etcd: &str, flags: &[&str], variables: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = dir.path().join("log");
        let process = spawn(etcd, flags, variables, &log, dir.path());
        let _dir = Some(dir);
        Self { process, log, _dir }
    }

    /// [`start`](Self::start) with a log that stays. `dir` is removed if this process is killed.
    pub fn start_with_log(etcd: &str, flags: &[&str], log: PathBuf, dir: &Path) -> Self {
        let process = spawn(etcd, flags, &[], &log, dir);
        let _dir = None;
        Self { process, log, _dir }
    }

    /// [`start`](Self::start) with a redirection as the shell writes it, in which `"$0"` is a pipe that has a reader until
    /// what is given besides is dropped.
    pub fn start_with_reader(etcd: &str, redirection: &str, flags: &[&str]) -> (Self, Reader) {
        Self::start_with_pipe(etcd, redirection, flags, &[], 0)
    }

    /// The same with a reader that does not read, and a pipe that is full already: who writes to it hangs.
    pub fn start_with_full_pipe(
        etcd: &str,
        redirection: &str,
        variables: &[&str],
    ) -> (Self, Reader) {
        // The capacity of a pipe on Linux.
        Self::start_with_pipe(
            etcd,
            redirection,
            &["--deregistration-delay", "0s"],
            variables,
            65536,
        )
    }

    fn start_with_pipe(
        etcd: &str,
        redirection: &str,
        flags: &[&str],
        variables: &[&str],
        filled: usize,
    ) -> (Self, Reader) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pipe = dir.path().join("pipe");
        let made = Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("`mkfifo` runs").success(), "no pipe {pipe:?}");
        // To write, too: else this would wait for the server.
        let open = File::options().read(true).write(true).open(&pipe);
        let mut end = open.unwrap_or_else(|e| panic!("{pipe:?}: {e}"));
        end.write_all(&vec![b'x'; filled]).expect("room for it");
        let script = format!("exec \"$@\" {redirection}");
        let pipe = pipe.display().to_string();
        let variables = [variables, &["sh", "-c", &script, &pipe]].concat();
        let server = Self::start_with_env(etcd, flags, &variables);
        (
            server,
            Reader {
                _end: end,
                _dir: dir,
            },
        )
    }

    /// Waits until it prints where it listens.
    pub async fn listening(&self) -> SocketAddr {
        let addr = self.said("listening ").await;
        addr.parse().unwrap_or_else(|e| panic!("{addr:?}: {e}"))
    }

    /// The URL of that.
    pub async fn url(&self) -> String {
        format!("http://{}", self.listening().await)
    }

    /// Waits until it prints the key that it is registered under.
    pub async fn registered(&self) -> String {
        self.said("registered ").await
    }

    /// Waits until it has printed so many times that a key of it is registered.
    pub async fn registered_times(&self, times: usize) -> String {
        self.said_times("registered ", times).await
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends `TERM`, `STOP`, `CONT`, `KILL`...
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// The exit code once it has ended by itself; after a signal 128 and its number.
    pub fn exit_code(&self) -> Option<i32> {
        self.process.exit_code()
    }

    /// Waits until it has ended by itself; returns the exit code.
    pub async fn exit(&self, limit: Duration) -> i32 {
        eventually("the server ends by itself", limit, || {
            self.process.exit_code().ok_or_else(|| self.output())
        })
        .await
    }

    /// Everything it has printed.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn said(&self, what: &str) -> String {
        self.said_times(what, 1).await
    }

    async fn said_times(&self, what: &str, times: usize) -> String {
        eventually(&format!("the server says {what:?}"), TIMEOUT, || {
            let output = self.output();
            let mut lines = output.lines().filter_map(|line| line.strip_prefix(what));
            match (lines.nth(times - 1), self.process.has_exited()) {
                (Some(rest), _) => Ok(rest.to_owned()),
                (None, false) => Err(output.clone()),
                (None, true) => panic!("the server has ended: {output}"),
            }
        })
        .await
    }
}

/// Starts a server. `env` becomes the server: the same process, so that signals hit the server.
fn spawn(etcd: &str, flags: &[&str], variables: &[&str], log: &Path, dir: &Path) -> Guarded {
    let server = example("server").display().to_string();
    let mut args: Vec<_> = variables.iter().map(ToString::to_string).collect();
    args.extend([server, "--etcd".to_owned(), etcd.to_owned()]);
    args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    if let (Some((name, password)), false) = (users::of_servers(), flags.contains(&"--user")) {
        args.extend(["--user", name, "--password", password].map(str::to_owned));
    }
    if !flags.contains(&"--listen") {
        args.extend(["--listen".to_owned(), super::ports::free_addr().to_string()]);
    }
    Guarded::spawn(Path::new("env"), &args, log, dir)
}

/// An example of this build, as `cargo test` and `cargo build --examples` leave it.
///
/// `cargo test --test real` alone does not build examples: one that is older than its source
/// would test old code, so it is refused.
pub fn example(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("the path of this program");
    let profile = exe.ancestors().find(|dir| dir.join("examples").is_dir());
    let path = profile
        .map(|dir| dir.join("examples").join(name))
        .filter(|path| path.is_file());
    let remedy = "run `cargo build --examples` with the same flags, or `make test`";
    let Some(path) = path else {
        panic!("no example {name:?} beside {exe:?}: {remedy}")
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let root = root.expect("the root of the workspace");
    let source = newest(&root.join("src")).max(newest(&root.join(format!("examples/{name}.rs"))));
    assert!(
        newest(&path) >= source,
        "{path:?} is older than its source: {remedy}"
    );
    path
}

/// When a file, or the newest file below a directory, was modified.
fn newest(path: &Path) -> SystemTime {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let below = entries.map(|entry| newest(&entry.path())).max();
    let own = || std::fs::metadata(path).and_then(|metadata| metadata.modified());
    below.unwrap_or_else(|| own().unwrap_or_else(|e| panic!("{path:?}: {e}")))
}

pub fn health_request(name: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: name.to_owned(),
    }
}

/// A client of a server's health service.
pub async fn health_client(url: &str) -> Result<HealthClient<Channel>, tonic::transport::Error> {
    let channel = Endpoint::from_shared(url.to_owned())?.connect().await?;
    Ok(HealthClient::new(channel))
}

/// Milliseconds between two instants, for people.
pub fn ms(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e3
}
