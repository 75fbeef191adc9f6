//! `etcd grpc-proxy`, the relay that comes with etcd, in front of an etcd of the tests.
//!
//! It differs from etcd: it merges watches and renewals, answers a renewal up to
//! a third of the TTL late, and answers no progress requests.

use super::etcd::guarded::Guarded;
use super::etcd::{Etcd, program, users};
use super::{poll, ports};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;

/// A running relay. Killed on drop.
#[derive(Debug)]
pub struct GrpcProxy {
    port: u16,
    process: Guarded,
    dir: TempDir,
}

const TIMEOUT: Duration = Duration::from_secs(20);

impl GrpcProxy {
    /// Starts one, with further flags such as `--namespace=/x`, and waits until it answers.
    ///
    /// # Panics
    /// When it does not; the message carries what it has logged.
    pub async fn start(etcd: &Etcd, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = ports::free();
        let mut args = vec![
            "grpc-proxy".to_owned(),
            "start".to_owned(),
            format!("--endpoints={}", etcd.endpoint()),
            format!("--listen-addr=127.0.0.1:{port}"),
            // That of 3.5 dials itself there, and ends after 5 s if nobody answers.
            format!("--advertise-client-url=127.0.0.1:{port}"),
            format!("--data-dir={}", dir.path().join("data").display()),
        ];
        args.extend(flags.iter().map(ToString::to_string));
        let log = dir.path().join("log");
        let process = Guarded::spawn(&program(), &args, &log, dir.path());
        let proxy = Self { port, process, dir };
        let answers = poll(Duration::from_millis(20), TIMEOUT, async || match timeout(
            Duration::from_millis(500),
            proxy.answers(),
        )
        .await
        {
            Ok(true) => Ok(()),
            _ if proxy.process.has_exited() => panic!("grpc-proxy has ended: {}", proxy.log()),
            _ => Err(proxy.log()),
        });
        let silent = |log| panic!("grpc-proxy does not answer: {log}");
        answers.await.unwrap_or_else(silent);
        proxy
    }

    /// What clients dial.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn answers(&self) -> bool {
        match users::connect(&self.endpoint()).await {
            Ok(mut client) => client.get("probe", None).await.is_ok(),
            Err(_) => false,
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}
