//! A child process that cannot outlive its owner, and that takes signals.
//!
//! The owner may end in any way: by returning, by a panic, by SIGKILL. The usual `PR_SET_PDEATHSIG` needs `unsafe`, which
//! this crate forbids, works on Linux only, and fires when the spawning *thread* ends. Instead a small shell stands
//! between the two:
//!
//! ```text
//! owner ==pipe==> guard (sh) --signals--> child
//! ```
//!
//! The guard reads signal names from the pipe and sends them to the child. When the pipe ends without the word KILL, the owner
//! has ended: the guard kills the child, which also works on a stopped one, and removes the directory that the owner would have
//! removed. Every descriptor of the pipe is close-on-exec, so no other process holds it open.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

/// `$1` = the directory to remove with the child, `$2` = log file, the rest = the command. Prints the child's pid, then repeats
/// every signal once it is delivered.
///
/// Background commands of a script ignore the terminal's interrupt, so Ctrl-C does not end the guard.
const GUARD: &str = r#"
dir=$1; log=$2; last=; shift 2
exec 3<&0
"$@" </dev/null >>"$log" 2>&1 3<&- &
child=$!
(
    while read -r signal <&3; do last=$signal; kill -"$signal" $child; echo "$signal"; done
    if [ "$last" != KILL ]; then
        trap '' TERM
        kill -KILL $child
        while kill -0 $child; do sleep 0.02; done
        rm -rf "$dir"
    fi
) 2>/dev/null &
guard=$!
exec 3<&-
echo $child
wait $child
code=$?
kill $guard
exit $code
"#;

/// A running child under guard. Killed on drop.
#[derive(Debug)]
pub struct Guarded {
    pid: u32,
    shell: Mutex<Child>,
    /// `None` only while it is being dropped.
    talk: Mutex<Option<Talk>>,
}

/// The two pipes to and from the guard.
#[derive(Debug)]
struct Talk {
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Guarded {
    /// Starts `program` with its output appended to `log`. `dir` is removed if the owner cannot do it any more.
    pub fn spawn(program: &Path, args: &[String], log: &Path, dir: &Path) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .args([dir, log])
            .arg(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .env_clear()
            .envs(environment())
            .spawn()
            .unwrap_or_else(|e| panic!("could not start `sh`: {e}"));
        let to = shell.stdin.take().expect("a piped stdin");
        let from = BufReader::new(shell.stdout.take().expect("a piped stdout"));
        let mut talk = Talk { to, from };
        let pid = talk.listen().parse().expect("the pid of the child");
        Self {
            pid,
            shell: Mutex::new(shell),
            talk: Mutex::new(Some(talk)),
        }
    }

    /// The child itself, not the guard.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal by its short name (`STOP`, `CONT`, `TERM`); delivered when this returns.
    pub fn signal(&self, name: &str) {
        let mut talk = lock(&self.talk);
        let talk = talk.as_mut().expect("the guard is there until the drop");
        assert!(talk.say(name), "the child is gone: no {name}");
        let repeated = talk.listen();
        // The guard ends with the child, and a KILL may end both before it was repeated.
        let delivered = repeated == name || (name == "KILL" && repeated.is_empty());
        assert!(delivered, "the guard repeats {name}, not {repeated:?}");
    }

    /// Whether the child has ended by itself.
    pub fn has_exited(&self) -> bool {
        matches!(lock(&self.shell).try_wait(), Ok(Some(_)) | Err(_))
    }

    /// The exit code of a child that has ended by itself.
    pub fn exit_code(&self) -> Option<i32> {
        lock(&self.shell)
            .try_wait()
            .ok()
            .flatten()
            .and_then(|status| status.code())
    }

    /// SIGKILL, and waits until the child is gone. Polls, so that a runtime with one thread goes on meanwhile.
    pub async fn kill(self) {
        self.dismiss();
        while !self.has_exited() {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Has the child killed; the guard ends too.
    fn dismiss(&self) {
        if let Some(mut talk) = lock(&self.talk).take() {
            // If the child has ended by itself, so has the guard, and the write fails.
            let _told = talk.say("KILL");
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.dismiss();
        // The shell ends as soon as it has reaped the child, which SIGKILL has ended: a matter of milliseconds.
        let _ended = lock(&self.shell).wait();
    }
}

impl Talk {
    fn say(&mut self, word: &str) -> bool {
        writeln!(self.to, "{word}").is_ok()
    }

    fn listen(&mut self) -> String {
        let mut line = String::new();
        match self.from.read_line(&mut line) {
            Ok(_) => line.trim().to_owned(),
            Err(e) => panic!("the guard does not answer: {e}"),
        }
    }
}

/// Our environment without `ETCD_*`, which etcd would read as its own flags; with etcd's variable for unsupported platforms.
fn environment() -> Vec<(OsString, OsString)> {
    let foreign = |name: &OsString| name.to_string_lossy().starts_with("ETCD_");
    let mut variables: Vec<_> = env::vars_os().filter(|(name, _)| !foreign(name)).collect();
    if cfg!(target_arch = "aarch64") {
        variables.push(("ETCD_UNSUPPORTED_ARCH".into(), "arm64".into()));
    }
    variables
}

/// A panic elsewhere must not keep us from cleaning up.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
