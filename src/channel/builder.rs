//! [`BalancedChannelBuilder`]: the settings of a channel, checked by `build`.

use super::BalancedChannel;
use super::addresses::Addresses;
use super::keep_alive::PingInterval;
use super::pool::Pool;
use super::reconnect::{self, Source};
use super::subset::Subset;
use crate::change::Change;
use crate::error::BuildError;
use crate::etcd::net::connector::Connector;
use crate::observe::observer::{Observer, Observers};
use crate::runtime::random;
use http::Uri;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_stream::Stream;
use tokio_util::task::AbortOnDropHandle;

/// Builds a [`BalancedChannel`].
#[must_use]
pub struct BalancedChannelBuilder {
    source: Source,
    /// What the channel will have, as it is configured so far.
    pool: Pool,
    subset: Option<usize>,
    subset_id: Option<String>,
}

const SHORTEST_PING: Duration = Duration::from_millis(100);

// === impl BalancedChannel ===

impl BalancedChannel {
    /// A channel over instances from another source than etcd.
    ///
    /// When the source ends, the last state stays.
    pub fn builder(source: impl Stream<Item = Change> + Send + 'static) -> BalancedChannelBuilder {
        BalancedChannelBuilder::new(source)
    }
}

// === impl BalancedChannelBuilder ===

impl BalancedChannelBuilder {
    pub(crate) fn new(changes: impl Stream<Item = Change> + Send + 'static) -> Self {
        Self {
            source: Box::pin(changes),
            pool: Pool::default(),
            subset: None,
            subset_id: None,
        }
    }

    /// Sets the reason in errors while the source has no instances.
    pub(crate) fn why_none(mut self, why: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.pool.why_none = Some(Box::new(why));
        self
    }

    pub(crate) fn observers(mut self, observers: Observers) -> Self {
        self.pool.observers = observers;
        self
    }

    /// Adds an observer of the endpoints' states, and of calls that are sent again. May be called several times. The
    /// observers of a [`Discovery`](crate::discovery::Discovery) observe its channels already.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.pool.observers.add(observer);
        self
    }

    /// The name of the service in errors and logs. Default: the name of the first instance.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.pool.name = OnceLock::from(name.into());
        self
    }

    /// How long a call waits while no endpoint accepts it. Default: 2 s.
    /// [`Duration::ZERO`]: the call fails at once; [`Duration::MAX`]: it waits until its own
    /// deadline. The deadline of a call always bounds the wait.
    ///
    /// An endpoint accepts no call while it is not connected, and while its limit of open streams is reached
    /// (`MAX_CONCURRENT_STREAMS`; 200 by default in tonic's servers).
    pub fn ready_timeout(mut self, limit: Duration) -> Self {
        self.pool.ready_timeout = limit;
        self
    }

    /// How long one connect may take, with the HTTP/2 handshake. Default: 1 s.
    /// [`Duration::MAX`]: until the operating system gives up.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.pool.dialer.connect_timeout = limit;
        self
    }

    /// A connection with calls in flight is pinged when nothing was received on it for `interval`. Default:
    /// 10 s. Without an answer the connection is closed after the
    /// [`keep_alive_timeout`](Self::keep_alive_timeout).
    ///
    /// While the server answers pings and sends nothing else, it is pinged twice, once more when another call begins, and
    /// then every five minutes: servers of grpc-go refuse more. TCP's own keepalive continues at the interval, on
    /// connections that the channel opens itself. When a server answers that the pings are too many all the same
    /// (`too_many_pings`), the interval is doubled for the whole channel. [`Duration::MAX`]: no pings.
    pub fn http2_keep_alive_interval(mut self, interval: Duration) -> Self {
        self.pool.dialer.ping_interval = Arc::new(PingInterval::new(interval));
        self
    }

    /// How long to wait for the answer to a ping before its connection is closed. Default: 3 s.
    /// The calls on it then fail with `UNAVAILABLE`, and later calls go to other endpoints.
    pub fn keep_alive_timeout(mut self, timeout: Duration) -> Self {
        self.pool.dialer.keep_alive_timeout = timeout;
        self
    }

    /// Connects to at most `limit` addresses, chosen by rendezvous hashing: each client has a
    /// subset of its own, and a change of the fleet changes at most one address in it. Default:
    /// all addresses.
    ///
    /// With ten or more the load of many clients is spread evenly enough; with fewer some servers get much
    /// more load than others.
    pub fn subset(mut self, limit: usize) -> Self {
        self.subset = Some(limit);
        self
    }

    /// The id of this client for the choice of the [subset](Self::subset). Default: a random id for each
    /// channel. With an id that stays the same after a restart, such as the name of a pod of a `StatefulSet`, the
    /// client gets the same servers again.
    pub fn subset_id(mut self, id: impl Into<String>) -> Self {
        self.subset_id = Some(id.into());
        self
    }

    /// Opens connections in another way than plain TCP: TLS, a proxy, a pipe in a test.
    ///
    /// The function gets `http://` and the address, or `https://` if the instance is
    /// [dialled with TLS](crate::Instance::is_secure), and is called for each connection. Without a
    /// connector an instance with TLS gets no calls, and errors say why.
    /// Dropping its future must abandon the attempt.
    pub fn connector<F, C, T>(mut self, connect: F) -> Self
    where
        F: Fn(Uri) -> C + Send + Sync + 'static,
        C: Future<Output = io::Result<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.pool.dialer.connector = Some(Connector::new(connect));
        self
    }

    /// Calls only endpoints whose own gRPC health service says that they serve `service`
    /// (`""`: the whole server). Health is watched on the connection that the calls use.
    ///
    /// An endpoint without a health service counts as serving.
    #[cfg(feature = "health")]
    #[cfg_attr(docsrs, doc(cfg(feature = "health")))]
    pub fn health_check(mut self, service: impl Into<String>) -> Self {
        self.pool.health_service = Some(service.into());
        self
    }

    /// Checks everything and starts to connect, in the background, as tasks of the current runtime. Once that has
    /// ended, calls fail at once.
    ///
    /// # Errors
    ///
    /// [`BuildError::Setting`] for a setting that cannot work, or [`BuildError::NoRuntime`].
    pub fn build(self) -> Result<BalancedChannel, BuildError> {
        self.check()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let pool = Arc::new(self.pool);
        let id = self.subset_id;
        let id = id.unwrap_or_else(|| format!("{:016x}", random::id(|| fastrand::u64(..))));
        let addresses = Addresses::new(Subset::new(self.subset, &id));
        // Made here and not in the task, because a runtime may end before it has polled the task once.
        let ended = pool.ended.clone().drop_guard();
        let run = reconnect::run(pool.clone(), self.source, addresses);
        let task = runtime.spawn(async move {
            let _ended = ended;
            run.await;
        });
        let _task = Arc::new(AbortOnDropHandle::new(task));
        Ok(BalancedChannel { pool, _task })
    }

    fn check(&self) -> Result<(), BuildError> {
        let dialer = &self.pool.dialer;
        let settings = [
            (
                dialer.connect_timeout.is_zero(),
                "connect_timeout",
                "0 lets no connect succeed: give it 1 s",
            ),
            (
                dialer.ping_interval.get() < SHORTEST_PING,
                "http2_keep_alive_interval",
                "servers refuse such pings: give it 1 s or more",
            ),
            (
                dialer.keep_alive_timeout.is_zero(),
                "keep_alive_timeout",
                "a timeout of 0 ends every connection: give it 3 s",
            ),
            (
                self.subset == Some(0),
                "subset",
                "0 connects to nothing: leave it out to connect to all",
            ),
        ];
        match settings.into_iter().find(|(is_bad, ..)| *is_bad) {
            None => Ok(()),
            Some((_, name, reason)) => Err(BuildError::Setting {
                name,
                reason: reason.to_owned(),
            }),
        }
    }
}

impl fmt::Debug for BalancedChannelBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalancedChannelBuilder")
            .field("name", &self.pool.name())
            .field("ready_timeout", &self.pool.ready_timeout)
            .field("dialer", &self.pool.dialer)
            .field("subset", &self.subset)
            .finish_non_exhaustive()
    }
}
