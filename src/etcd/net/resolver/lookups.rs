//! [`Lookups`]: one lookup of a name at a time, for all that wait for it.
//!
//! A lookup outlives the attempt to connect that began it: the next attempt uses its answer. If each attempt began one of its
//! own, a DNS that is slower than an attempt would never be of use, and would get a query for each attempt.

use super::threads::{Finished, Threads};
use crate::runtime::lock::Lock;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// See the [module](self).
pub(super) struct Lookups {
    source: Source,
    names: Lock<Names>,
}

/// The resolver: the system's, or the user's code.
enum Source {
    System(Arc<Threads>),
    Custom(Arc<Custom>),
}

type Custom = dyn Fn(String, u16) -> BoxFuture<'static, Found> + Send + Sync;
type Found = io::Result<Vec<SocketAddr>>;

/// The addresses of a name, or why there are none; and whether the lookup was slow.
type Answer = (Result<Arc<[SocketAddr]>, Failed>, bool);

/// The answer that a lookup has, or will have.
type Pending = Shared<BoxFuture<'static, Answer>>;

/// Why a lookup failed.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) kind: io::ErrorKind,
    pub(super) text: Arc<str>,
}

/// The addresses of a name.
pub(super) struct Addresses {
    pub(super) addrs: Arc<[SocketAddr]>,
    /// They are those of the last lookup that succeeded, for this reason.
    pub(super) outdated: Option<Arc<str>>,
}

#[derive(Default)]
struct Names {
    /// By host and port. The system's resolver answers for every port: the port is 0.
    names: HashMap<(String, u16), Name>,
    /// At this number of names, names that were not looked up for long are removed.
    tidy_at: usize,
}

struct Name {
    lookup: Option<Lookup>,
    /// What the last lookup that succeeded has found.
    known: Option<Arc<[SocketAddr]>>,
    was_slow: bool,
    wanted: Instant,
}

struct Lookup {
    answer: Pending,
    begun: Instant,
    /// When somebody got the answer first.
    answered: Option<Instant>,
}

/// For this time an answer is used again: the instances of a host, and quick retries, share it.
const FRESH: Duration = Duration::from_secs(1);
/// An answer that came after its attempts had ended is used by an attempt within this time.
const UNUSED: Duration = Duration::from_secs(30);
/// A lookup of the user's code that takes longer is given up. The system's lookups end by themselves.
const LONGEST: Duration = Duration::from_secs(60);
/// A name that was not looked up for this time is forgotten when there are many.
const FORGET: Duration = Duration::from_secs(60 * 60);
const MANY: usize = 256;

// === impl Lookups ===

impl Lookups {
    /// The system's resolver (`getaddrinfo`), on threads of our own.
    pub(super) fn system() -> Self {
        let look_up = |host: &str| Ok((host, 0).to_socket_addrs()?.collect());
        Self::new(Source::System(Threads::new(look_up)))
    }

    /// The user's resolver.
    pub(super) fn custom<F, R>(look_up: F) -> Self
    where
        F: Fn(String, u16) -> R + Send + Sync + 'static,
        R: Future<Output = Found> + Send + 'static,
    {
        let look_up = move |host, port| look_up(host, port).boxed();
        Self::new(Source::Custom(Arc::new(look_up)))
    }

    fn new(source: Source) -> Self {
        let names = Lock::default();
        Self { source, names }
    }

    pub(super) fn is_custom(&self) -> bool {
        matches!(self.source, Source::Custom(_))
    }

    /// The addresses of a host. Those of the last lookup, if this one fails, or takes longer than `patience`. Dropping the
    /// future abandons no lookup.
    pub(super) async fn find(
        &self,
        host: &str,
        port: u16,
        patience: Duration,
    ) -> Result<Addresses, Failed> {
        let (lookup, known) = self.join(host, port);
        let answer = match &known {
            None => Some(lookup.clone().await),
            Some(_) => timeout(patience, lookup.clone()).await.ok(),
        };
        if let Some(answer) = &answer {
            self.on_answer(host, port, &lookup, answer);
        }
        let why = match answer.map(|(found, _)| found) {
            Some(Ok(addrs)) => {
                return Ok(Addresses {
                    addrs,
                    outdated: None,
                });
            }
            Some(Err(failed)) => failed,
            None => Failed {
                kind: io::ErrorKind::TimedOut,
                text: format!("looking up {host}: no answer within {patience:?}").into(),
            },
        };
        let addrs = known.ok_or_else(|| why.clone())?;
        let outdated = Some(why.text);
        Ok(Addresses { addrs, outdated })
    }

    /// How many addresses this name had when it was looked up last.
    pub(super) fn known(&self, host: &str, port: u16) -> usize {
        let names = self.names.lock();
        let name = names.names.get(&self.key(host, port));
        let known = name.and_then(|name| name.known.as_ref());
        known.map_or(0, |addrs| addrs.len())
    }

    /// Whether somebody waits for a lookup of this name, and whether its addresses are known from an earlier one.
    pub(super) fn is_waiting(&self, host: &str, port: u16) -> (bool, bool) {
        let names = self.names.lock();
        let Some(name) = names.names.get(&self.key(host, port)) else {
            return (false, false);
        };
        let waits = |lookup: &Lookup| lookup.answered.is_none() && lookup.answer.peek().is_none();
        (
            name.lookup.as_ref().is_some_and(waits),
            name.known.is_some(),
        )
    }

    fn key(&self, host: &str, port: u16) -> (String, u16) {
        let port = if self.is_custom() { port } else { 0 };
        (host.to_owned(), port)
    }

    /// The lookup that is under way or has a fresh answer, or a new one.
    fn join(&self, host: &str, port: u16) -> (Pending, Option<Arc<[SocketAddr]>>) {
        let (now, key) = (Instant::now(), self.key(host, port));
        let mut names = self.names.lock();
        // The user's futures are dropped after the lock is released.
        let _forgotten = names.tidy(now);
        let name = names.names.entry(key).or_insert_with(|| Name::new(now));
        let wanted = std::mem::replace(&mut name.wanted, now);
        let known = name.known.clone();
        if let Some(lookup) = &name.lookup
            && lookup.is_usable(wanted, now, self.is_custom())
        {
            return (lookup.answer.clone(), known);
        }
        let answer = self.begin(host, port, name.was_slow);
        let lookup = Lookup {
            answer: answer.clone(),
            begun: now,
            answered: None,
        };
        let _replaced = name.lookup.replace(lookup);
        drop(names);
        (answer, known)
    }

    /// The user's code runs when the future is polled, not here.
    fn begin(&self, host: &str, port: u16, was_slow: bool) -> Pending {
        let host = host.to_owned();
        let found: BoxFuture<'static, Finished> = match &self.source {
            Source::System(threads) => {
                let finished = threads.look_up(host.clone(), was_slow);
                Box::pin(async {
                    let none = |_| (Err(io::Error::other("it was abandoned")), false);
                    finished.await.unwrap_or_else(none)
                })
            }
            Source::Custom(look_up) => {
                let (look_up, host) = (look_up.clone(), host.clone());
                let found = AssertUnwindSafe(async move { look_up(host, port).await });
                Box::pin(async {
                    let panicked = |_| Err(io::Error::other("the resolver panicked"));
                    (found.catch_unwind().await.unwrap_or_else(panicked), false)
                })
            }
        };
        let answer = found.map(move |(found, is_slow)| (checked(&host, found), is_slow));
        answer.boxed().shared()
    }

    /// Somebody got the answer. A failure is not used again.
    fn on_answer(&self, host: &str, port: u16, lookup: &Pending, (found, is_slow): &Answer) {
        let now = Instant::now();
        let mut names = self.names.lock();
        let Some(name) = names.names.get_mut(&self.key(host, port)) else {
            return;
        };
        let Some(current) = name.lookup.as_mut().filter(|it| it.answer.ptr_eq(lookup)) else {
            return;
        };
        current.answered.get_or_insert(now);
        name.was_slow = *is_slow;
        match found {
            Ok(addrs) => name.known = Some(addrs.clone()),
            Err(_) => name.lookup = None,
        }
    }
}

/// The addresses in an order that is the same for each lookup.
fn checked(host: &str, found: Found) -> Result<Arc<[SocketAddr]>, Failed> {
    let mut addrs = found.map_err(|error| Failed {
        kind: error.kind(),
        text: format!("cannot look up {host}: {error}").into(),
    })?;
    // DNS servers shuffle their answers. `turn` needs a fixed order, to reach all.
    addrs.sort_unstable();
    addrs.dedup();
    match addrs.is_empty() {
        true => Err(Failed {
            kind: io::ErrorKind::NotFound,
            text: format!("{host} has no address").into(),
        }),
        false => Ok(addrs.into()),
    }
}

// === impl Names ===

impl Names {
    /// Removes the names that were not looked up for long, and returns them.
    fn tidy(&mut self, now: Instant) -> Vec<Name> {
        if self.names.len() < self.tidy_at.max(MANY) {
            return vec![];
        }
        let is_old = |name: &mut Name| now.saturating_duration_since(name.wanted) > FORGET;
        let removed = self.names.extract_if(|_, name| is_old(name));
        let removed = removed.map(|(_, name)| name).collect();
        self.tidy_at = self.names.len() * 2;
        removed
    }
}

// === impl Name ===

impl Name {
    fn new(now: Instant) -> Self {
        Self {
            lookup: None,
            known: None,
            was_slow: false,
            wanted: now,
        }
    }
}

// === impl Lookup ===

impl Lookup {
    /// Whether its answer, or the one that it will have, can be used now. `wanted`: when it was wanted before.
    fn is_usable(&self, wanted: Instant, now: Instant, is_custom: bool) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        match self.answered {
            Some(at) => since(at) < FRESH,
            None if is_custom => since(self.begun) < LONGEST,
            // A thread looks it up, or has finished while nobody waited.
            None => since(wanted) < UNUSED || self.answer.clone().now_or_never().is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::time::sleep;

    const MS: Duration = Duration::from_millis(1);
    /// An attempt of a registrar.
    const ATTEMPT: Duration = Duration::from_millis(600);
    const PATIENCE: Duration = Duration::from_millis(200);

    /// A DNS whose next answers are set: each after a delay.
    #[derive(Clone, Default)]
    struct Dns(Arc<Mutex<(Duration, Option<u8>, usize)>>);

    impl Dns {
        /// From now on a lookup ends after `delay`, with the address `10.0.0.last`, or with an error.
        fn set(&self, delay: Duration, last: Option<u8>) {
            let mut state = self.0.lock().unwrap();
            (state.0, state.1) = (delay, last);
        }

        fn lookups(&self) -> usize {
            self.0.lock().unwrap().2
        }

        fn custom(&self) -> Lookups {
            let dns = self.clone();
            Lookups::custom(move |_, port| {
                let mut state = dns.0.lock().unwrap();
                state.2 += 1;
                let (delay, last, _) = *state;
                async move {
                    sleep(delay).await;
                    let last = last.ok_or_else(|| io::Error::other("SERVFAIL"))?;
                    Ok(vec![SocketAddr::from(([10, 0, 0, last], port))])
                }
            })
        }
    }

    /// The last byte of the address, and whether it is an earlier one; or the error.
    async fn find(lookups: &Lookups, host: &str) -> Result<(u8, bool), String> {
        let found = lookups.find(host, 1, PATIENCE).await;
        let found = found.map_err(|failed| failed.text.to_string())?;
        match found.addrs[0].ip() {
            std::net::IpAddr::V4(ip) => Ok((ip.octets()[3], found.outdated.is_some())),
            other => Err(other.to_string()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_outlives_the_attempts_and_the_next_one_uses_its_answer() {
        let dns = Dns::default();
        let lookups = dns.custom();
        for delay in [700 * MS, 3000 * MS, 10_000 * MS] {
            dns.set(delay, Some(1));
            let (begun, before) = (Instant::now(), dns.lookups());
            let host = format!("etcd-{}", delay.as_millis());
            let found = loop {
                match timeout(ATTEMPT, find(&lookups, &host)).await {
                    Ok(found) => break found,
                    Err(_) => assert_eq!(lookups.is_waiting(&host, 1), (true, false)),
                }
                sleep(25 * MS).await;
            };
            assert_eq!(found, Ok((1, false)));
            assert!(begun.elapsed() <= delay + 26 * MS, "{:?}", begun.elapsed());
            assert_eq!(dns.lookups() - before, 1);
            assert_eq!(lookups.is_waiting(&host, 1), (false, true));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_want_a_name_share_one_lookup_and_its_fresh_answer() {
        let dns = Dns::default();
        let lookups = dns.custom();
        dns.set(100 * MS, Some(1));
        let found = futures_util::future::join_all((0..9).map(|_| find(&lookups, "a"))).await;
        assert_eq!(found, vec![Ok((1, false)); 9]);
        assert_eq!(dns.lookups(), 1);
        dns.set(100 * MS, Some(2));
        sleep(FRESH - MS).await;
        assert_eq!(find(&lookups, "a").await, Ok((1, false)));
        sleep(MS).await;
        assert_eq!(find(&lookups, "a").await, Ok((2, false)));
        // Another name is another lookup.
        assert_eq!(find(&lookups, "b").await, Ok((2, false)));
        assert_eq!(dns.lookups(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_lookup_follows_a_failed_one_at_once() {
        let dns = Dns::default();
        let lookups = dns.custom();
        dns.set(MS, None);
        let error = find(&lookups, "a").await.unwrap_err();
        assert_eq!(error, "cannot look up a: SERVFAIL");
        dns.set(MS, Some(1));
        assert_eq!(find(&lookups, "a").await, Ok((1, false)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_known_addresses_are_used_while_dns_does_not_work() {
        let dns = Dns::default();
        let lookups = dns.custom();
        dns.set(MS, Some(1));
        assert_eq!(find(&lookups, "a").await, Ok((1, false)));
        sleep(FRESH).await;
        dns.set(MS, None);
        assert_eq!(find(&lookups, "a").await, Ok((1, true)));
        dns.set(700 * MS, Some(2));
        let begun = Instant::now();
        assert_eq!(find(&lookups, "a").await, Ok((1, true)));
        assert_eq!(begun.elapsed(), PATIENCE);
        assert_eq!(lookups.is_waiting("a", 1), (true, true));
        sleep(ATTEMPT).await;
        assert_eq!(find(&lookups, "a").await, Ok((2, false)));
    }

    /// The task of the attempt that began a lookup may be gone, and its runtime too.
    #[test]
    fn a_lookup_outlives_the_runtime_that_began_it() {
        let runtime = || {
            let builder = &mut tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap()
        };
        let (begin, begun) = std::sync::mpsc::channel::<()>();
        let begun = Mutex::new(begun);
        let threads = Threads::new(move |_| {
            begun.lock().unwrap().recv().unwrap();
            Ok(vec![SocketAddr::from(([10, 0, 0, 1], 0))])
        });
        let lookups = Lookups::new(Source::System(threads));
        let first = async { timeout(MS, find(&lookups, "a")).await };
        assert!(runtime().block_on(first).is_err());
        begin.send(()).unwrap();
        let found = runtime().block_on(find(&lookups, "a"));
        assert_eq!(found, Ok((1, false)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_never_ends_or_panics_is_begun_again() {
        let dns = Dns::default();
        let lookups = dns.custom();
        dns.set(LONGEST * 100, Some(1));
        let begun = Instant::now();
        assert!(timeout(ATTEMPT, find(&lookups, "a")).await.is_err());
        dns.set(MS, Some(2));
        while timeout(ATTEMPT, find(&lookups, "a")).await.is_err() {}
        let took = begun.elapsed();
        assert!(took >= LONGEST && took < LONGEST + SLACK, "{took:?}");
        let panics = Lookups::custom(|_, _| async { panic!("a bug") });
        for _ in 0..2 {
            let error = find(&panics, "a").await.unwrap_err();
            assert_eq!(error, "cannot look up a: the resolver panicked");
        }
    }
    const SLACK: Duration = Duration::from_millis(602);

    #[tokio::test(start_paused = true)]
    async fn names_that_nobody_wants_any_more_are_forgotten() {
        let dns = Dns::default();
        let lookups = dns.custom();
        dns.set(MS, Some(1));
        for round in 0..4 {
            for number in 0..MANY {
                let host = format!("{round}-{number}");
                assert!(find(&lookups, &host).await.is_ok());
            }
            sleep(FORGET).await;
        }
        let count = lookups.names.lock().names.len();
        assert!(count <= MANY * 2, "{count}");
    }
}
