//! [`KeepAlive`]: the stream of renewals, with at most one renewal under way.
//!
//! A renewal must be answered within the attempt timeout, unless a read shows that the lease lives. The reason is
//! `etcd grpc-proxy`: it answers when it renews the lease itself, up to `TTL / 3` + 0.5 s late. Before, each answer
//! after 0.6 s counted as an outage, 30 of them a minute. So when a renewal has no answer after a third of
//! the attempt timeout, we read the remaining time of the lease. If that is answered within the rest of the timeout, the
//! connection works, and the reconciler decides whether to keep waiting. If not, the renewal has failed, no
//! later than it would without the read. If the answer is that there is no such lease, or that the
//! token is void, the renewal has failed with that.

use super::reconciler::Event;
use crate::clock;
use crate::etcd::{KeepAliveStream, RpcError, RpcErrorKind, Session, with_timeout};
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

/// Reads the remaining time of a lease now and then, while its renewal waits for an answer.
struct Look {
    session: Session,
    lease: i64,
    limit: Duration,
    /// When the read was sent, and how long the lease lives from then on.
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

    /// The result of the renewal under way. Cancel safe.
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
        let member = result.as_ref().map_or(0, |(stream, _)| stream.member());
        let result = result.map(|(stream, ttl)| {
            *self = Self::Idle(stream);
            ttl
        });
        Event::Renewed {
            sent,
            member,
            result,
        }
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

    /// The connection has just worked: the next read has a whole attempt timeout.
    fn again(&mut self) {
        let (session, limit) = (self.session.clone(), self.limit);
        self.next = Box::pin(look(session, self.lease, limit, limit));
    }
}

/// Waits, then reads how long `lease` lives. Takes `limit` or longer, because nothing may be decided before a
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
        Err(error) => match error.kind() {
            RpcErrorKind::LeaseGone | RpcErrorKind::Unauthenticated => Err(error),
            _ => Err(RpcError::timeout(&endpoint, limit)),
        },
    }
}
