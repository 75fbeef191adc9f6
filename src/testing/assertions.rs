//! Assertions on a registration, as seen in etcd and by a client.

#![allow(clippy::panic, reason = "an assertion that fails ends the test")]

use super::FakeEtcd;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tokio::time::timeout;

/// How often the port is tried, if nothing changes in etcd.
const LOOK: Duration = Duration::from_millis(20);
/// A port of this machine answers at once, or is closed.
const CONNECT: Duration = Duration::from_secs(1);

// === impl FakeEtcd ===

/// Assertions. Each waits for a change of etcd, on tokio's clock, so that tests need no sleep before it. Cancel safe.
impl FakeEtcd {
    /// Waits until there is a key below `prefix`, and returns it.
    ///
    /// # Panics
    ///
    /// If there is none `within` that time; the message has the current keys.
    pub async fn assert_registered(&self, prefix: &str, within: Duration) -> String {
        let found = self.until(within, || self.below(prefix)).await;
        found.unwrap_or_else(|| {
            let keys = self.keys();
            panic!("no key below {prefix} within {within:?}; there are {keys:?}")
        })
    }

    /// Waits until there is no key below `prefix`.
    ///
    /// # Panics
    ///
    /// If there still is a key after that time.
    pub async fn assert_gone(&self, prefix: &str, within: Duration) {
        self.gone(prefix, within, |_| {}).await;
    }

    /// Waits until there is no key below `prefix`, and checks that the server at `address` accepts connections until
    /// then, and once after that: so no client that watches etcd finds the port closed. It connects every 20 ms.
    ///
    /// It needs a [`deregistration_delay`](crate::RegistrarBuilder::deregistration_delay) above zero, which is
    /// the default: without it, the port may close before this has connected.
    ///
    /// # Panics
    ///
    /// If the port is closed first, or if there still is a key after that time.
    pub async fn assert_gone_before_close(
        &self,
        prefix: &str,
        address: SocketAddr,
        within: Duration,
    ) {
        let connect = |key: Option<&str>| {
            // Not tokio's connect: while that is pending, a paused clock would advance.
            if let Err(error) = TcpStream::connect_timeout(&address, CONNECT) {
                let when = key.unwrap_or("when its keys were gone");
                panic!("{address} is closed, and there is {when}: {error}");
            }
        };
        self.gone(prefix, within, connect).await;
    }

    /// Waits until there is no key below `prefix`. Calls `check` with each key found, and once without one.
    async fn gone(&self, prefix: &str, within: Duration, check: impl Fn(Option<&str>)) {
        let gone = self.until(within, || {
            let key = self.below(prefix);
            check(key.as_deref());
            key.is_none().then_some(())
        });
        if gone.await.is_none() {
            let key = self.below(prefix);
            panic!("after {within:?} there still is {key:?}")
        }
    }

    fn below(&self, prefix: &str) -> Option<String> {
        self.keys().into_keys().find(|key| key.starts_with(prefix))
    }

    /// Calls `look` after each change of etcd, and every [`LOOK`].
    async fn until<T>(&self, within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let looks = async {
            loop {
                // It looks at once, so each round is one more look.
                if let Ok(found) = timeout(LOOK, self.server().until(&mut look)).await {
                    return found;
                }
            }
        };
        timeout(within, looks).await.ok()
    }
}
