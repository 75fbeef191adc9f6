//! gRPC's client-side health checking: whether the server of a connection reports that it serves.

use super::subchannel::Connection;
use tokio::sync::watch;

/// Reports whether the connection may be called, and again whenever that changes. Never ends;
/// cancel safe.
///
/// Without a service to check, every connection counts as serving.
pub(super) async fn watch_health(
    service: Option<&str>,
    connection: &Connection,
    serving: &watch::Sender<Option<bool>>,
) {
    #[cfg(feature = "health")]
    if let Some(service) = service {
        return grpc::watch_health(service, connection, serving).await;
    }
    let _ = (service, connection);
    serving.send_replace(Some(true));
    std::future::pending().await
}

#[cfg(feature = "health")]
mod grpc {
    use super::super::replay_body::ReplayBody;
    use super::super::subchannel::Connection;
    use crate::runtime::backoff::{Backoff, Bucket, Rate};
    use http::Request;
    use std::time::Duration;
    use tokio::sync::watch;
    use tokio::time::{Instant, sleep, sleep_until, timeout_at};
    use tonic::body::Body;
    use tonic::{Code, Status};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    use tower::service_fn;

    type Serving<'a> = &'a watch::Sender<Option<bool>>;

    /// How long the last answer stays valid after a watch broke. A server whose health service does not answer
    /// for longer counts as not serving.
    const STALE_LIMIT: Duration = Duration::from_secs(5);
    const FIRST: Duration = Duration::from_millis(50);
    const CAP: Duration = Duration::from_secs(5);
    /// How fast answers are read. While they are not, HTTP/2's window stops the server: one whose health changes all the time
    /// costs its clients ten changes a second.
    const ANSWERS: Rate = Rate {
        burst: 20,
        refill: Duration::from_millis(100),
    };

    pub(super) async fn watch_health(service: &str, connection: &Connection, serving: Serving<'_>) {
        let mut backoff = Backoff::new(FIRST, STALE_LIMIT);
        let mut rng = fastrand::Rng::new();
        let mut last_answer = Instant::now();
        loop {
            let opened = Instant::now();
            // For the peer the watch is a stream like any other, and it may accept none.
            if let Some(_stream) = connection.peer.try_acquire() {
                let watched = watch_once(service, connection, &mut last_answer, serving).await;
                match watched.map_err(|status| status.code()) {
                    // The server has no health service: it counts as serving.
                    Err(Code::Unimplemented) => {
                        report(serving, true);
                        return std::future::pending().await;
                    }
                    Err(Code::NotFound) => report(serving, false),
                    _ => {}
                }
            }
            if last_answer.elapsed() >= STALE_LIMIT {
                report(serving, false);
            }
            sleep(backoff.failed_after(opened.elapsed(), CAP, &mut rng)).await;
        }
    }

    /// Reports the states of one watch, until it ends.
    async fn watch_once(
        service: &str,
        connection: &Connection,
        last_answer: &mut Instant,
        serving: Serving<'_>,
    ) -> Result<(), Status> {
        // A health watch is no load, so it is not counted.
        let send = service_fn(|request: Request<Body>| {
            let request = request.map(|body| ReplayBody::new(body).attempt());
            let sending = connection.sender.clone().try_send_request(request);
            async {
                let sent = sending.await.map_err(|error| error.into_error());
                sent.map(|response| response.map(Body::new))
            }
        });
        let mut client = HealthClient::with_origin(send, connection.subchannel.origin.clone());
        let late = |_| Status::deadline_exceeded("no answer of the health service");
        let until = Instant::now().max(*last_answer) + STALE_LIMIT;
        let service = service.to_owned();
        let opening = client.watch(HealthCheckRequest { service });
        let mut answers = timeout_at(until, opening)
            .await
            .map_err(late)??
            .into_inner();
        let mut next = timeout_at(until, answers.message()).await.map_err(late)??;
        let mut read = Bucket::default();
        while let Some(answer) = next {
            while let Err(until) = read.take(ANSWERS, Instant::now()) {
                sleep_until(until).await;
            }
            report(serving, answer.status() == ServingStatus::Serving);
            next = answers
                .message()
                .await
                .inspect_err(|_| *last_answer = Instant::now())?;
        }
        *last_answer = Instant::now();
        Ok(())
    }

    fn report(serving: Serving<'_>, now: bool) {
        serving.send_if_modified(|before| before.replace(now) != Some(now));
    }
}
