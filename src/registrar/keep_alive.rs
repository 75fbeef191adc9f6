//! [`KeepAlive`]: the stream of renewals, with at most one renewal under way.
//!
//! A renewal has the limit of an attempt, unless the lease is seen to live meanwhile: `etcd grpc-proxy`
//! answers when it renews the lease itself, up to `TTL / 3` and half a second late. Each answer that
//! came after 0.6 s was an outage, 30 of them a minute. So a renewal without an answer after a third of
//! an attempt makes us ask how long the lease lives. If that is answered within the rest of it, the
//! connection works, and the reconciler decides whether to wait on. If not, the renewal failed, no
//! later than without this.

use super::reconciler::Event;
use crate::clock;
use crate::etcd::{KeepAliveStream, RpcError, Session, with_timeout};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// A call under way.
pub(super) type Call<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// See the [module](self).
pub(super) enum KeepAlive {
    Closed,
    Idle(Box<KeepAliveStream>),
    Renewing(Box<Renewal>),
}

pub(super) struct Renewal {
    sent: Instant,
    answer: Call<Result<Renewed, RpcError>>,
    look: Look,
}

/// The TTL is `None` if it is the one that was granted.
type Renewed = (Box<KeepAliveStream>, Option<Duration>);

/// Looks at a lease now and then, while its renewal waits for an answer.
struct Look {
    session: Session,
    lease: i64,
    limit: Duration,
    /// When it was sent, and how long the lease lives from then on.
    next: Call<Result<(Instant, Duration), RpcError>>,
}

// === impl KeepAlive ===

impl KeepAlive {
    pub(super) fn renew(&mut self, session: &Session, lease: i64, limit: Duration) {
        let last = std::mem::replace(self, Self::Closed);
        let (sent, opener) = (clock::now(), session.clone());
        *self = Self::Renewing(Box::new(Renewal {
            sent,
            answer: Box::pin(async move {
                let Self::Idle(mut stream) = last else {
                    return Ok((Box::new(opener.renewals(lease).await?), None));
                };
                let ttl = stream.renew().await?;
                Ok((stream, Some(ttl)))
            }),
            look: Look::new(session.clone(), lease, limit),
        }));
    }

    /// What comes of the renewal under way. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        let Self::Renewing(renewal) = self else {
            return std::future::pending().await;
        };
        let Renewal { sent, answer, look } = &mut **renewal;
        let sent = *sent;
        let result = tokio::select! {
            biased;
            result = answer => result,
            seen = &mut look.next => match seen {
                Ok((seen_at, remaining)) => {
                    look.again();
                    let error = RpcError::timeout(look.session.endpoint(), look.limit);
                    return Event::RenewalLate { seen_at, remaining, error };
                }
                Err(error) => Err(error),
            },
        };
        *self = Self::Closed;
        let result = result.map(|(stream, ttl)| {
            *self = Self::Idle(stream);
            ttl
        });
        Event::Renewed { sent, result }
    }
}

// === impl Look ===

impl Look {
    fn new(session: Session, lease: i64, limit: Duration) -> Self {
        let next = Box::pin(look(session.clone(), lease, limit, limit - limit / 3));
        Self {
            session,
            lease,
            limit,
            next,
        }
    }

    /// The connection has worked a moment ago: this one has the limit of an attempt for itself.
    fn again(&mut self) {
        let (session, limit) = (self.session.clone(), self.limit);
        self.next = Box::pin(look(session, self.lease, limit, limit));
    }
}

/// Pauses, and asks how long `lease` lives. Takes `limit` or longer: nothing is decided before a
/// renewal has had that long.
async fn look(
    session: Session,
    lease: i64,
    limit: Duration,
    answer_limit: Duration,
) -> Result<(Instant, Duration), RpcError> {
    let end = Instant::now() + limit;
    sleep(limit / 3).await;
    let (seen_at, endpoint) = (clock::now(), session.endpoint().clone());
    let remaining = with_timeout(answer_limit, &endpoint, session.time_to_live(lease)).await;
    sleep_until(end).await;
    match remaining {
        Ok(remaining) => Ok((seen_at, remaining)),
        Err(_) => Err(RpcError::timeout(&endpoint, limit)),
    }
}
