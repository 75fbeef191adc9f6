//! How one etcd member is started: its name, ports, data and command line. The same at every start.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::super::ports;
use super::guarded::Guarded;

/// One member's start. Its data is removed on drop.
#[derive(Debug)]
pub struct Plan {
    name: String,
    client_port: u16,
    peer_port: u16,
    /// `name=peer-url,...` of all members.
    initial_cluster: String,
    /// Client URLs besides the plaintext one, which stays for the tests themselves.
    further_urls: Vec<String>,
    extra_args: Vec<String>,
    dir: TempDir,
}

impl Plan {
    /// A member of that name with fresh ports and an empty data directory. Its cluster is still to be named.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            client_port: ports::free(),
            peer_port: ports::free(),
            initial_cluster: String::new(),
            further_urls: Vec::new(),
            extra_args: Vec::new(),
            dir: tempfile::Builder::new()
                .prefix("etcd-for-tests-")
                .tempdir()
                .expect("a temporary directory"),
        }
    }

    /// This member as written in `--initial-cluster`.
    pub fn membership(&self) -> String {
        format!("{}={}", self.name, self.peer_url())
    }

    /// Names all the members of the cluster this one belongs to.
    #[must_use]
    pub fn in_cluster(mut self, initial_cluster: &str) -> Self {
        self.initial_cluster = initial_cluster.to_owned();
        self
    }

    /// The only member of its cluster.
    #[must_use]
    pub fn alone(self) -> Self {
        let itself = self.membership();
        self.in_cluster(&itself)
    }

    /// More command line arguments.
    #[must_use]
    pub fn with_args(mut self, args: &[&str]) -> Self {
        self.extra_args.extend(args.iter().map(ToString::to_string));
        self
    }

    /// Serves clients at this URL as well, for example `https://127.0.0.1:port`.
    #[must_use]
    pub fn also_at(mut self, url: &str) -> Self {
        self.further_urls.push(url.to_owned());
        self
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn client_port(&self) -> u16 {
        self.client_port
    }

    pub(super) fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.dir.path().join("etcd.log")
    }

    /// Starts it.
    pub(super) fn spawn(&self) -> Guarded {
        Guarded::spawn(&program(), &self.args(), &self.log_path(), self.dir.path())
    }

    /// Removes its data.
    pub(super) fn wipe(&self) {
        let data = self.data_dir();
        if data.exists() {
            fs::remove_dir_all(&data)
                .unwrap_or_else(|e| panic!("could not remove {}: {e}", data.display()));
        }
    }

    /// Copies its data, in place of an earlier copy.
    pub(super) fn copy(&self) {
        replace(&self.data_dir(), &self.copy_dir());
    }

    /// Replaces its data by the copy, which stays.
    pub(super) fn put_back(&self) {
        replace(&self.copy_dir(), &self.data_dir());
    }

    fn args(&self) -> Vec<String> {
        let client_url = self.client_url();
        let mut client_urls = vec![client_url.clone()];
        client_urls.extend(self.further_urls.iter().cloned());
        let peer_url = self.peer_url();
        let flags = [
            ("name", self.name.clone()),
            ("data-dir", self.data_dir().display().to_string()),
            ("listen-client-urls", client_urls.join(",")),
            ("advertise-client-urls", client_url),
            ("listen-peer-urls", peer_url.clone()),
            ("initial-advertise-peer-urls", peer_url),
            ("initial-cluster", self.initial_cluster.clone()),
            ("logger", "zap".to_owned()),
            ("log-outputs", "stderr".to_owned()),
        ];
        let flags = flags.map(|(name, value)| format!("--{name}={value}"));
        flags
            .into_iter()
            .chain(self.extra_args.iter().cloned())
            .collect()
    }

    /// What the other members dial.
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn copy_dir(&self) -> PathBuf {
        self.dir.path().join("copy")
    }
}

/// Makes `to` a copy of the directory `from`.
fn replace(from: &Path, to: &Path) {
    let copied = || {
        if to.exists() {
            fs::remove_dir_all(to)?;
        }
        copy_all(from, to)
    };
    copied()
        .unwrap_or_else(|e| panic!("could not copy {} to {}: {e}", from.display(), to.display()));
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_all(&entry.path(), &target)?,
            false => fs::copy(entry.path(), target).map(|_| ())?,
        }
    }
    Ok(())
}

/// `$ETCD`, else the `etcd` on the `PATH`.
///
/// # Panics
/// When there is none.
pub fn program() -> PathBuf {
    let wanted = env::var_os("ETCD").map_or_else(|| PathBuf::from("etcd"), PathBuf::from);
    let found = if wanted.components().count() > 1 {
        wanted.is_file().then(|| wanted.clone())
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .map(|dir| dir.join(&wanted))
            .find(|file| file.is_file())
    };
    found.unwrap_or_else(|| missing(&wanted))
}

fn missing(wanted: &Path) -> ! {
    panic!(
        "\n\n  There is no etcd at `{}`, and this test needs a real one.\n  \
         Install it (Debian, Ubuntu: `apt install etcd-server`; macOS: `brew install etcd`; or a release from\n  \
         https://github.com/etcd-io/etcd/releases), or point $ETCD to the binary. `make test` runs what needs it.\n\n",
        wanted.display()
    )
}
