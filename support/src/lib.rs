//! Helpers of the tests. Use the least powerful one that can show the behaviour:
//!
//! | the test needs | use | clock |
//! |---|---|---|
//! | etcd's answers, exact times, faults in the middle of something, hours | [`fake::FakeEtcd`] | paused |
//! | etcd itself: restart, data loss, SIGSTOP | [`etcd::Etcd`] | real |
//! | members that fail one by one, elections, a lost quorum | [`cluster::Cluster`] | real |
//! | a network that delays, drops, resets | [`proxy::Proxy`] in front of any of the real ones | real |
//! | etcd's own relay | [`grpc_proxy::GrpcProxy`] in front of a real one | real |
//! | calls all the time, and what must hold for them | [`load`]: calls on schedule, and their ledger | real |
//! | a registered server as a process: signals, exit codes | [`server::ServerProcess`] | real |
//! | the system's resolver, interfaces that change | [`namespace`]: network namespaces | real |
//! | the changes of keys, independently of the library | [`observer::Observer`], on all of them | both |
//!
//! Never use a real socket under a paused clock: while bytes are in the kernel no task is busy, so the clock jumps to
//! the next timer and every timeout fires. So the fake uses pipes inside the runtime.

// It panics where a test would.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    missing_debug_implementations
)]

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic_etcd::{Registered, Registration, RegistrationStatus};

pub use etcd_fake as fake;

pub mod black_hole;
pub mod certificates;
pub mod cluster;
pub mod ending;
pub mod etcd;
pub mod grpc_proxy;
pub mod load;
#[cfg(target_os = "linux")]
pub mod namespace;
pub mod observer;
pub mod ports;
pub mod proxy;
pub mod secured;
pub mod server;

/// Call this before you set a subscriber for one thread.
///
/// While there is only one subscriber, the first thread that reaches a log line decides for all threads whether the line is
/// enabled, and a thread without a subscriber disables it. A second subscriber, which ignores everything, avoids that.
pub fn allow_subscribers_by_thread() {
    static SECOND: OnceLock<tracing::Dispatch> = OnceLock::new();
    SECOND.get_or_init(|| tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new()));
}

/// Waits until it is registered.
///
/// # Panics
/// When it is not within `limit`; the message carries its status.
pub async fn registered_within(limit: Duration, registration: &Registration) -> Registered {
    let registered = timeout(limit, registration.registered()).await;
    let status = || panic!("not within {limit:?}: {:?}", registration.status());
    registered.unwrap_or_else(|_| status()).unwrap()
}

/// Waits until the status is as `wanted` says.
///
/// # Panics
/// When it is not within `limit`; the message carries the status of then.
pub async fn status_within(
    limit: Duration,
    registration: &Registration,
    wanted: impl Fn(&RegistrationStatus) -> bool,
) -> RegistrationStatus {
    let mut watch = registration.watch();
    let wait = async {
        let waited = watch.wait_for(wanted).await;
        waited.unwrap_or_else(|| panic!("ended: {}", watch.get()))
    };
    let waited = timeout(limit, wait).await;
    waited.unwrap_or_else(|_| panic!("not within {limit:?}: {:?}", registration.status()))
}

/// The library's etcd, as the user of servers where there are users.
pub fn library_etcd(endpoints: impl IntoIterator<Item: AsRef<str>>) -> tonic_etcd::Etcd {
    let etcd = tonic_etcd::Etcd::new(endpoints);
    match etcd::users::of_servers() {
        Some((name, password)) => etcd.user(name, password),
        None => etcd,
    }
}

/// Polls until `look` answers `Ok`, and returns that. `Err`: what it answered last, after `limit`.
pub async fn poll<T, E>(
    every: Duration,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let deadline = Instant::now() + limit;
    loop {
        match look().await {
            Err(_) if Instant::now() < deadline => sleep(every).await,
            done => return done,
        }
    }
}

/// [`poll`]s for tests, which know what to expect.
///
/// # Panics
/// When `look` has not answered `Ok` within `limit`; the message carries `what` and the last thing it reported instead.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let found = poll(Duration::from_millis(5), limit, async || look()).await;
    found.unwrap_or_else(|seen| panic!("{what}: not within {limit:?}; last seen: {seen}"))
}
