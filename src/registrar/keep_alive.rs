//! [`KeepAlive`]: the stream of renewals, with at most one renewal under way.
//!
//! `etcd grpc-proxy` answers a renewal when it renews the lease itself, up to `TTL / 3` + 0.5 s late. Before, each answer
//! after 0.6 s counted as an outage, 30 of them a minute. So when a renewal is late, we read the remaining time of
//! the lease. If that is answered, the connection works, and the reconciler keeps waiting. If the answer is that there
//! is no such lease, or that the token is void, the renewal has failed with that. Without an answer nothing
//! happens here: the reconciler knows when the renewal was sent.

use super::ask::{Call, ask};
use super::reconciler::{Event, Renewed};
use crate::etcd::{KeepAliveStream, RpcError, RpcErrorKind, Session};
use crate::runtime::clock;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// See the [module](self).
pub(super) enum KeepAlive {
    Closed,
    Idle(Box<KeepAliveStream>),
    Renewing(Box<Renewal>),
}

pub(super) struct Renewal {
    lease: i64,
    sent: Instant,
    answer: Call<Result<Answered, RpcError>>,
    look: Look,
}

/// The stream on which it was answered. The TTL is `None` if it is the one that was granted.
type Answered = (Box<KeepAliveStream>, Option<Duration>);

/// Reads the remaining time of a lease now and then, while its renewal waits for an answer.
struct Look {
    session: Session,
    lease: i64,
    late: Duration,
    /// When the read was sent, and how long the lease lives from then on.
    next: Call<Result<(Instant, Option<Duration>), RpcError>>,
}

// === impl KeepAlive ===

impl KeepAlive {
    pub(super) fn renew(
        &mut self,
        session: &Session,
        lease: i64,
        late: Duration,
        again: Option<Duration>,
    ) {
        let last = std::mem::replace(self, Self::Closed);
        let opener = session.clone();
        let renew = move || -> Call<Result<Answered, RpcError>> {
            let opened = opener.clone().renewals(lease);
            Box::pin(async move { Ok((Box::new(opened.await?), None)) })
        };
        let first: Call<Result<Answered, RpcError>> = match last {
            Self::Idle(mut stream) => Box::pin(async move {
                let ttl = stream.renew().await?;
                Ok((stream, Some(ttl)))
            }),
            _ => renew(),
        };
        *self = Self::Renewing(Box::new(Renewal {
            lease,
            sent: clock::now(),
            answer: Box::pin(ask(first, again, RpcErrorKind::LeaseGone, renew)),
            look: Look::new(session.clone(), lease, late),
        }));
    }

    /// A stream on which a renewal was answered.
    pub(super) fn idle(stream: KeepAliveStream) -> Self {
        Self::Idle(Box::new(stream))
    }

    /// The result of the renewal under way. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        let Self::Renewing(renewal) = self else {
            return std::future::pending().await;
        };
        let Renewal {
            lease,
            sent,
            answer,
            look,
        } = &mut **renewal;
        let (lease, sent) = (*lease, *sent);
        let result = tokio::select! {
            biased;
            result = answer => result,
            seen = &mut look.next => match seen {
                Ok((seen_at, remaining)) => {
                    look.again();
                    return Event::RenewalLate { seen_at, remaining };
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
        Event::Renewed(Renewed {
            lease,
            sent,
            member,
            result,
        })
    }
}

// === impl Look ===

impl Look {
    fn new(session: Session, lease: i64, late: Duration) -> Self {
        let next = Box::pin(look(session.clone(), lease, late));
        Self {
            session,
            lease,
            late,
            next,
        }
    }

    /// The connection has just worked: the next read may take longer.
    fn again(&mut self) {
        self.next = Box::pin(look(self.session.clone(), self.lease, self.late * 2));
    }
}

/// Waits, then reads how long `lease` lives.
async fn look(
    session: Session,
    lease: i64,
    wait: Duration,
) -> Result<(Instant, Option<Duration>), RpcError> {
    sleep(wait).await;
    let seen_at = clock::now();
    match session.time_to_live(lease).await {
        Ok(remaining) => Ok((seen_at, Some(remaining))),
        Err(error) => match error.kind() {
            RpcErrorKind::Busy => Ok((seen_at, None)),
            RpcErrorKind::LeaseGone | RpcErrorKind::Unauthenticated => Err(error),
            // The renewal ends with the connection, or is answered after all.
            _ => std::future::pending().await,
        },
    }
}
