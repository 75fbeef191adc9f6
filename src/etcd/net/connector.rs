//! [`Connector`]: connections that the user's code opens, instead of plain TCP.

use futures_util::FutureExt as _;
use http::Uri;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Opens connections with the user's function.
#[derive(Clone)]
pub(crate) struct Connector(Arc<dyn Fn(Uri) -> Connecting + Send + Sync>);

pub(crate) type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

// === impl Connector ===

impl Connector {
    pub(crate) fn new<F, C, T>(connect: F) -> Self
    where
        F: Fn(Uri) -> C + Send + Sync + 'static,
        C: Future<Output = io::Result<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self(Arc::new(move |uri| {
            // The user's code may panic. The caller retries after an error, so a panic becomes one.
            let connecting = catch_unwind(AssertUnwindSafe(|| connect(uri)));
            Box::pin(async move {
                let panicked = |_| io::Error::other("the connector panicked");
                let connecting = AssertUnwindSafe(connecting.map_err(panicked)?);
                let io = connecting.catch_unwind().await.map_err(panicked)??;
                Ok(Box::new(io) as Box<dyn Io>)
            })
        }))
    }

    /// The same, with a limit for each attempt. `reason`: why one took that long, if that is known.
    pub(crate) fn within(
        self,
        limit: Duration,
        reason: impl Fn() -> Option<String> + Clone + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(move |uri| {
            let (connecting, reason) = (self.connect(uri), reason.clone());
            Box::pin(async move {
                let connected = tokio::time::timeout(limit, connecting).await;
                connected.unwrap_or_else(|_| {
                    let reason = reason().unwrap_or_else(|| format!("no answer within {limit:?}"));
                    Err(io::Error::new(io::ErrorKind::TimedOut, reason))
                })
            })
        }))
    }

    /// Opens a connection to `uri`. Dropping the future abandons the attempt.
    pub(crate) fn connect(&self, uri: Uri) -> Connecting {
        (self.0)(uri)
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(custom)")
    }
}
