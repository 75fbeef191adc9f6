//! A network namespace of a test's own: its interfaces, its DNS server, its port 53.
//!
//! [`enter`] runs the test again, in a child process with namespaces for users, networks and mounts. It needs `unshare`
//! (util-linux) and `ip` (iproute2), and a kernel that lets this user make namespaces. Where that cannot be, the test fails: a
//! skipped test looks like a pass. `NO_NAMESPACES=1` says that it is known, and then a line on stderr says so.

use super::etcd::guarded::Guarded;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Set in the child.
const INSIDE: &str = "TONIC_ETCD_INSIDE_NAMESPACE";
/// The tests that need a namespace are not run.
const WITHOUT: &str = "NO_NAMESPACES";

/// `$1`: a directory with `resolv.conf` and `nsswitch.conf`. The rest: the command.
const PREPARE: &str = r#"
set -e
ip link set lo up
mount --bind "$1/resolv.conf" "$(readlink -f /etc/resolv.conf)"
mount --bind "$1/nsswitch.conf" "$(readlink -f /etc/nsswitch.conf)"
shift
exec "$@"
"#;

/// Whether this process is in a namespace of its own, where the test runs. If not, runs the `test` there, in a child that
/// ends with this process, and returns false once it has passed.
///
/// # Panics
/// When the test fails there, or when no namespace can be made.
pub async fn enter(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if let Err(why) = in_namespace(&["true"]).await {
        let hint = "install util-linux and iproute2, and allow user namespaces";
        assert!(
            std::env::var_os(WITHOUT).is_some(),
            "{test} needs a network namespace, and none can be made: {why}; {hint}, or set {WITHOUT}=1 to go without"
        );
        // Not by a macro: the harness shows what those print only for tests that fail.
        let line = format!("NOT TESTED: {test}: no network namespace can be made: {why}\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return false;
    }
    let this = std::env::current_exe().unwrap();
    let this = this.to_str().unwrap();
    let ran = in_namespace(&[this, "--exact", test, "--nocapture"]).await;
    let text = ran.unwrap_or_else(|why| panic!("in the namespace: {why}"));
    assert!(text.contains("1 passed"), "there is no such test: {text}");
    false
}

/// Runs a command in a new namespace. Returns its output, or why it failed.
async fn in_namespace(command: &[&str]) -> Result<String, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    std::fs::write(dir.path().join("nsswitch.conf"), "hosts: dns\n").unwrap();
    let (log, files) = (dir.path().join("log"), dir.path().to_str().unwrap());
    let inside = format!("{INSIDE}=1");
    let namespaces = ["--user", "--map-root-user", "--net", "--mount"];
    let prepare = ["--fork", "--kill-child", "env", &inside];
    let prepare = [&prepare[..], &["sh", "-c", PREPARE, "namespace", files]].concat();
    let args = [&namespaces[..], &prepare, command].concat();
    let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
    let child = Guarded::spawn(Path::new("unshare"), &args, &log, dir.path());
    while !child.has_exited() {
        sleep(Duration::from_millis(10)).await;
    }
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    match child.exit_code() {
        Some(0) => Ok(text),
        code => Err(format!("exit code {code:?}: {}", text.trim())),
    }
}

/// Runs `ip` in this namespace.
pub fn ip(args: &str) {
    let ran = Command::new("ip").args(args.split(' ')).output().unwrap();
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "ip {args}: {errors}");
}

/// A DNS server on port 53 of this namespace. Every name is `127.0.0.1`.
#[derive(Clone, Default)]
pub struct Dns(Arc<Mutex<DnsState>>);

#[derive(Default)]
struct DnsState {
    /// It answers after so long; `None`: never.
    delay: Option<Duration>,
    queries: usize,
    first_answer: Option<Instant>,
}

// === impl Dns ===

impl Dns {
    /// Must be called in a runtime. It ends with the process.
    pub fn start(delay: Option<Duration>) -> Self {
        let dns = Self::default();
        dns.set(delay);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = Arc::new(tokio::net::UdpSocket::from_std(socket).unwrap());
        let server = dns.clone();
        tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut query).await {
                server.query(&socket, &query[..len], from);
            }
        });
        dns
    }

    pub fn set(&self, delay: Option<Duration>) {
        self.0.lock().unwrap().delay = delay;
    }

    /// How many queries came.
    pub fn queries(&self) -> usize {
        self.0.lock().unwrap().queries
    }

    pub fn first_answer(&self) -> Option<Instant> {
        self.0.lock().unwrap().first_answer
    }

    fn query(&self, socket: &Arc<tokio::net::UdpSocket>, query: &[u8], from: SocketAddr) {
        let mut state = self.0.lock().unwrap();
        state.queries += 1;
        let (Some(delay), Some(answer)) = (state.delay, answer(query)) else {
            return;
        };
        let (socket, dns) = (socket.clone(), self.clone());
        tokio::spawn(async move {
            sleep(delay).await;
            let _ = socket.send_to(&answer, from).await;
            let mut state = dns.0.lock().unwrap();
            state.first_answer.get_or_insert_with(Instant::now);
        });
    }
}

/// The answer to a query: 127.0.0.1 for an A record, none of the others.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let name = query.get(12..)?;
    let end = 12 + name.iter().position(|byte| *byte == 0)? + 1;
    let question = query.get(12..end + 4)?;
    let is_a = query[end..end + 2] == [0, 1];
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend(question);
    if is_a {
        // The name of the question; A, IN, kept for no time, 4 bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}
