//! [`Program`]: the Go half as a process, and its output.

use crate::kind::{Kind, SERVICE};
use crate::setup::LONG;
use serde::Deserialize;
use std::fs::{self, File};
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tempfile::TempDir;
use test_support::etcd::Etcd;
use test_support::etcd::guarded::Guarded;
use test_support::eventually;

/// `interop COMMAND ..`. Killed on drop.
#[derive(Debug)]
pub struct Program {
    process: Guarded,
    said: Mutex<Said>,
    dir: TempDir,
}

/// The events on its standard output so far.
#[derive(Debug)]
struct Said {
    file: File,
    unfinished: String,
    events: Vec<Event>,
}

/// A line of its standard output.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    Serving {
        addr: SocketAddr,
    },
    Stopped,
    Call {
        #[serde(default)]
        message: String,
        #[serde(default)]
        code: String,
        #[serde(default)]
        error: String,
    },
}

/// Standard error goes to a file of its own (`$1`): standard output has events and nothing else.
const APART: &str = r#"errors=$1; shift; exec "$@" 2>"$errors""#;

// === impl Program ===

impl Program {
    pub fn start(command: &str, kind: Kind, etcd: &Etcd, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (binary, etcd) = (binary().display().to_string(), etcd.endpoint());
        let (errors, events) = (dir.path().join("errors"), dir.path().join("events"));
        let errors = errors.display().to_string();
        let mut args = vec!["-c", APART, "apart", &errors, &binary, command];
        args.extend(["--kind", kind.name(), "--etcd", &etcd, "--service", SERVICE]);
        args.extend(flags);
        let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
        File::create(&events).expect("a file for its events");
        let process = Guarded::spawn(Path::new("sh"), &args, &events, dir.path());
        let said = Said {
            file: File::open(&events).expect("the file of its events"),
            unfinished: String::new(),
            events: Vec::new(),
        };
        Self {
            process,
            said: Mutex::new(said),
            dir,
        }
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// The exit code, once it has ended.
    pub fn exit_code(&self) -> Option<i32> {
        self.process.exit_code()
    }

    /// Calls `look` with its events so far.
    pub fn said<T>(&self, look: impl FnOnce(&[Event]) -> T) -> T {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.read();
        look(&said.events)
    }

    pub async fn until_said<T>(&self, what: &str, look: impl Fn(&Event) -> Option<T>) -> T {
        eventually(what, LONG, || {
            let found = self.said(|events| events.iter().find_map(&look));
            found.ok_or_else(|| self.errors())
        })
        .await
    }

    /// The end of its standard error, and whether it is still there.
    pub fn errors(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("errors")).unwrap_or_default();
        let tail = log.lines().count().saturating_sub(10);
        let tail: Vec<_> = log.lines().skip(tail).collect();
        let state = match self.process.has_exited() {
            true => "ended",
            false => "running",
        };
        format!("it is {state}; its errors end with:\n{}", tail.join("\n"))
    }
}

impl Said {
    fn read(&mut self) {
        let read = self.file.read_to_string(&mut self.unfinished);
        read.expect("its events are text");
        while let Some(end) = self.unfinished.find('\n') {
            let line: String = self.unfinished.drain(..=end).collect();
            let event = serde_json::from_str(&line);
            self.events
                .push(event.unwrap_or_else(|e| panic!("{line:?}: {e}")));
        }
    }
}

/// The binary that `make interop` has built. Without it the test fails.
fn binary() -> PathBuf {
    let remedy = "run `make interop`, which builds it (it needs Go) and sets INTEROP to it";
    let Some(path) = std::env::var_os("INTEROP").map(PathBuf::from) else {
        panic!("INTEROP is not set, and these tests need the Go half: {remedy}")
    };
    // Relative to the package, where cargo runs tests.
    let Ok(path) = path.canonicalize() else {
        panic!(
            "INTEROP={}: there is no such file: {remedy}",
            path.display()
        )
    };
    path
}
