//! [`Resolver`]: resolves a host to its addresses, and connects to one of them by TCP.

mod lookups;
mod threads;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use lookups::{Addresses, Lookups};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Looks names up. The default is the system's resolver (`getaddrinfo`), for the names of etcd's members. Clones share
/// their lookups, and so do all that use the system's.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<Lookups>);

/// After so long without an answer the next address is tried as well: the "Connection Attempt
/// Delay" of RFC 8305.
const DELAY: Duration = Duration::from_millis(250);
/// The most addresses in an error.
const NAMED: usize = 4;

// === impl Resolver ===

impl Default for Resolver {
    fn default() -> Self {
        static SYSTEM: LazyLock<Arc<Lookups>> = LazyLock::new(|| Arc::new(Lookups::system()));
        Self(SYSTEM.clone())
    }
}

impl Resolver {
    pub(crate) fn new<F, R>(lookup: F) -> Self
    where
        F: Fn(String, u16) -> R + Send + Sync + 'static,
        R: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        Self(Arc::new(Lookups::custom(lookup)))
    }

    /// The system's resolver, for the names of instances. They may be many: etcd's members do not wait for them.
    #[cfg(feature = "discovery")]
    pub(crate) fn of_instances() -> Self {
        static SYSTEM: LazyLock<Arc<Lookups>> = LazyLock::new(|| Arc::new(Lookups::system()));
        Self(SYSTEM.clone())
    }

    /// The addresses of a host, each once, at least one, in an order that is the same for each lookup.
    /// An IP address is returned without a lookup.
    ///
    /// When the lookup fails, or takes longer than a third of `limit`, they are those of the last lookup of this
    /// name, if there was one. Dropping the future does not end the lookup: the next attempt with this name gets its answer.
    pub(crate) async fn resolve(
        &self,
        host: &str,
        port: u16,
        limit: Duration,
    ) -> io::Result<Vec<SocketAddr>> {
        Ok(self.find(host, port, limit).await?.0)
    }

    /// As [`Resolver::resolve`], and why they are those of an earlier lookup.
    async fn find(
        &self,
        host: &str,
        port: u16,
        limit: Duration,
    ) -> io::Result<(Vec<SocketAddr>, Option<Arc<str>>)> {
        if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok((vec![SocketAddr::new(ip, port)], None));
        }
        let found = self.0.find(host, port, limit / 3).await;
        let Addresses { addrs, outdated } =
            found.map_err(|failed| io::Error::new(failed.kind, &*failed.text))?;
        let mut addrs = addrs.to_vec();
        if !self.0.is_custom() {
            addrs.iter_mut().for_each(|addr| addr.set_port(port));
        }
        Ok((addrs, outdated))
    }

    /// How many addresses a name had when it was looked up last.
    pub(crate) fn known(&self, host: &str, port: u16) -> usize {
        self.0.known(host, port)
    }

    /// The reason of an attempt that ended after `limit`, if it waited for the lookup of this name.
    pub(crate) fn unanswered(&self, host: &str, port: u16, limit: Duration) -> Option<String> {
        let nor = match self.0.is_waiting(host, port) {
            (false, _) => return None,
            (true, false) => "",
            (true, true) => ", nor from its last known addresses",
        };
        Some(format!(
            "looking up {host}: no answer within {limit:?}{nor}"
        ))
    }

    /// Connects to the host at one of its addresses, the first to answer, within an attempt of
    /// `limit`.
    ///
    /// It begins with the address number `turn`, modulo their number. The next one is tried
    /// as well after the first one refused, or did not answer for a third of the limit (250 ms at most).
    /// So one address that drops packets does not use up the attempt. After an address that accepts connections
    /// and then sends nothing, the next `turn` begins with another one. Dropping the future abandons all connects.
    pub(crate) async fn connect(
        &self,
        host: &str,
        port: u16,
        turn: usize,
        limit: Duration,
    ) -> io::Result<TcpStream> {
        let (mut addrs, outdated) = self.find(host, port, limit).await?;
        let first = turn % addrs.len();
        addrs.rotate_left(first);
        let connected = first_to_answer(&addrs, DELAY.min(limit / 3)).await;
        let stream = connected.map_err(|error| match outdated {
            Some(why) => io::Error::new(
                error.kind(),
                format!("{why}; at its last known addresses: {error}"),
            ),
            None => error,
        })?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.is_custom() {
            true => "(custom)",
            false => "(system)",
        })
    }
}

async fn first_to_answer(addrs: &[SocketAddr], delay: Duration) -> io::Result<TcpStream> {
    let mut waiting = addrs.iter();
    let mut connecting = FuturesUnordered::new();
    let mut failed = vec![];
    loop {
        let next = waiting.next();
        connecting.extend(next.map(|addr| async move { (addr, TcpStream::connect(addr).await) }));
        let more = waiting.len() > 0;
        tokio::select! {
            biased;
            done = connecting.next() => match done {
                Some((_, Ok(stream))) => return Ok(stream),
                Some((addr, Err(error))) => failed.push((addr, error)),
                None => return Err(all_failed(failed)),
            },
            () = sleep(delay), if more => {}
        }
    }
}

/// One error for all addresses; for a single address its own error.
fn all_failed(mut failed: Vec<(&SocketAddr, io::Error)>) -> io::Error {
    match failed.len() {
        0 => io::ErrorKind::NotFound.into(),
        1 => failed.remove(0).1,
        count => {
            let named = failed.iter().take(NAMED);
            let named: Vec<_> = named.map(|(addr, e)| format!("{addr}: {e}")).collect();
            let mut text = named.join(", ");
            if count > NAMED {
                text = format!("{text}, and {} more", count - NAMED);
            }
            io::Error::new(failed[0].1.kind(), text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_support::black_hole::BlackHole;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    const LIMIT: Duration = Duration::from_secs(2);

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        (listener, addr)
    }

    fn fixed(addrs: impl Into<Vec<SocketAddr>>) -> Resolver {
        let addrs = addrs.into();
        Resolver::new(move |_, _| std::future::ready(Ok(addrs.clone())))
    }

    #[tokio::test]
    async fn an_ip_address_is_not_looked_up() {
        let never = Resolver::new(|host, _| async move { panic!("looked up {host}") });
        for (host, addr) in [
            ("10.0.0.1", "10.0.0.1:7"),
            ("::1", "[::1]:7"),
            ("[::1]", "[::1]:7"),
        ] {
            let addrs = never.resolve(host, 7, LIMIT).await.unwrap();
            assert_eq!(addrs, [addr.parse().unwrap()]);
        }
        let local = Resolver::default()
            .resolve("localhost", 7, LIMIT)
            .await
            .unwrap();
        assert!(
            local.iter().all(|addr| addr.ip().is_loopback()),
            "{local:?}"
        );
    }

    #[tokio::test]
    async fn a_shuffled_answer_has_a_fixed_order() {
        let [a, b] = ["10.0.0.1:1", "10.0.0.2:1"].map(|addr| addr.parse().unwrap());
        let shuffled = [vec![b, a, b], vec![a, b]];
        for addrs in shuffled {
            assert_eq!(
                fixed(addrs).resolve("etcd", 1, LIMIT).await.unwrap(),
                [a, b]
            );
        }
    }

    #[tokio::test]
    async fn a_black_hole_costs_a_third_of_the_attempt_at_most() {
        let hole = BlackHole::open().await;
        let (_listener, good) = listener().await;
        let resolver = fixed([hole.addr(), good]);
        for turn in 0..2 {
            let start = Instant::now();
            let stream = resolver.connect("etcd", 1, turn, LIMIT).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), good);
            assert!(start.elapsed() < LIMIT / 2, "{:?}", start.elapsed());
        }
    }

    #[tokio::test]
    async fn each_turn_begins_with_another_address() {
        let (_a, a) = listener().await;
        let (_b, b) = listener().await;
        let resolver = fixed([a, b]);
        let order = resolver.resolve("etcd", 1, LIMIT).await.unwrap();
        for turn in 0..4 {
            let stream = resolver.connect("etcd", 1, turn, LIMIT).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), order[turn % 2]);
        }
    }

    #[tokio::test]
    async fn when_none_answers_each_address_is_named_with_its_reason() {
        // Nothing listens on such low ports.
        let [one, other] = ["127.0.0.1:1", "127.0.0.1:2"].map(|addr| addr.parse().unwrap());
        let refused = fixed([one, other]);
        let error = refused.connect("etcd", 1, 0, LIMIT).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("{one}: ")), "{text}");
        assert!(text.contains(&format!("{other}: ")), "{text}");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = fixed([]).connect("etcd", 1, 0, LIMIT).await.unwrap_err();
        assert_eq!(error.to_string(), "etcd has no address");
    }
}
