//! Whether the other side of a connection says that it serves.

use super::node::Link;
use tokio::sync::watch;

/// Tells whether the link may be called, and again whenever that changes. Never ends.
pub(super) async fn follow(name: Option<&str>, link: &Link, tell: &watch::Sender<Option<bool>>) {
    #[cfg(feature = "health")]
    if let Some(name) = name {
        return asked::follow(name, link, tell).await;
    }
    let _ = (name, link);
    // Without a health service everything that is connected serves.
    tell.send_replace(Some(true));
    std::future::pending().await
}

#[cfg(feature = "health")]
mod asked {
    use super::super::dial::{self, Sender};
    use super::super::node::Link;
    use super::super::replay::Replay;
    use crate::backoff::Backoff;
    use http::uri::PathAndQuery;
    use http::{Request, Response};
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;
    use tokio::sync::watch;
    use tokio::time::{Instant, sleep, timeout_at};
    use tonic::body::Body;
    use tonic::{Code, Status};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;

    type News<'a> = &'a watch::Sender<Option<bool>>;

    /// The connection as a service of tonic's. A watch is no load, so it is not counted.
    #[derive(Debug, Clone)]
    struct Direct(Sender);

    /// As long as a watch is broken the last word stands; a server that cannot answer its health
    /// service for longer is not well.
    const GRACE: Duration = Duration::from_secs(5);
    const FIRST: Duration = Duration::from_millis(50);
    const CAP: Duration = Duration::from_secs(5);

    pub(super) async fn follow(name: &str, link: &Link, tell: News<'_>) {
        let origin = dial::uri(&link.node.authority, PathAndQuery::from_static("/"));
        let mut client = HealthClient::with_origin(Direct(link.sender.clone()), origin);
        let mut backoff = Backoff::new(FIRST, GRACE);
        let mut rng = fastrand::Rng::new();
        let mut last_word = Instant::now();
        loop {
            let opened = Instant::now();
            match listen(name, &mut client, &mut last_word, tell).await {
                Ok(()) => {}
                Err(status) => match status.code() {
                    // No health service: nothing more to learn, and nothing against it.
                    Code::Unimplemented => {
                        say(tell, true);
                        return std::future::pending().await;
                    }
                    Code::NotFound => say(tell, false),
                    _ => {}
                },
            }
            if last_word.elapsed() >= GRACE {
                say(tell, false);
            }
            sleep(backoff.failed_after(opened.elapsed(), CAP, &mut rng)).await;
        }
    }

    /// Passes on what one watch says, until it ends.
    async fn listen(
        name: &str,
        client: &mut HealthClient<Direct>,
        last_word: &mut Instant,
        tell: News<'_>,
    ) -> Result<(), Status> {
        let late = |_| Status::deadline_exceeded("no word from the health service");
        let until = Instant::now().max(*last_word) + GRACE;
        let service = name.to_owned();
        let opening = client.watch(HealthCheckRequest { service });
        let mut watch = timeout_at(until, opening)
            .await
            .map_err(late)??
            .into_inner();
        let mut next = timeout_at(until, watch.message()).await.map_err(late)??;
        while let Some(word) = next {
            say(tell, word.status() == ServingStatus::Serving);
            next = watch
                .message()
                .await
                .inspect_err(|_| *last_word = Instant::now())?;
        }
        *last_word = Instant::now();
        Ok(())
    }

    fn say(tell: News<'_>, serving: bool) {
        tell.send_if_modified(|told| told.replace(serving) != Some(serving));
    }

    // === impl Direct ===

    impl tower_service::Service<Request<Body>> for Direct {
        type Response = Response<Body>;
        type Error = hyper::Error;
        type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, hyper::Error>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            let request = request.map(|body| Replay::new(body).attempt());
            let sending = self.0.try_send_request(request);
            Box::pin(async move {
                let sent = sending.await.map_err(|error| error.into_error());
                sent.map(|response| response.map(Body::new))
            })
        }
    }
}
