//! A server that ends each of its connections gracefully: after so many requests, as nginx (`keepalive_requests`) and
//! Envoy do, or after so long.

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

/// When a connection ends; the first one counts.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    pub after_requests: usize,
    pub after: Duration,
}

/// No connection ends by its age.
pub fn after_requests(n: usize) -> Ends {
    Ends {
        after_requests: n,
        after: Duration::from_secs(24 * 60 * 60),
    }
}

/// No connection ends by its requests.
pub fn after(age: Duration) -> Ends {
    Ends {
        after_requests: usize::MAX,
        after: age,
    }
}

/// Serves one connection to its end.
pub async fn serve<S>(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S,
    ends: Ends,
) where
    S: Service<http::Request<Incoming>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send,
{
    let reached = Arc::new(Notify::new());
    let (requests, notify) = (AtomicUsize::new(0), reached.clone());
    let service = service_fn(move |request| {
        if requests.fetch_add(1, Relaxed) + 1 == ends.after_requests {
            notify.notify_one();
        }
        service.clone().oneshot(request)
    });
    let server = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(io), service);
    let mut server = pin!(server);
    let ended = tokio::select! {
        ended = &mut server => Some(ended),
        () = reached.notified() => None,
        () = tokio::time::sleep(ends.after) => None,
    };
    if ended.is_none() {
        server.as_mut().graceful_shutdown();
        let _lost = server.await;
    }
}
