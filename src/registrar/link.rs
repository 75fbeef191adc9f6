//! [`Link`]: the connection to etcd, and [`Beside`]: another one, which is opened while the first does not answer.

use super::ask::{Call, ask};
use super::reconciler::{Answer, Event, Granted, Question, Renewed};
use super::streams::Streams;
use crate::etcd::{RpcError, RpcErrorKind, Session};
use crate::runtime::clock;

/// The connection in use.
pub(super) enum Link {
    Closed,
    Connecting(Call<Result<Session, RpcError>>),
    Open(Box<Streams>),
}

/// Another connection, beside one that does not answer.
pub(super) enum Beside {
    None,
    Connecting(Call<Result<(Streams, Answer), RpcError>>),
    Ready(Box<Streams>),
}

// === impl Link ===

impl Link {
    /// The next event on it. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        match self {
            Self::Closed => std::future::pending().await,
            Self::Open(streams) => streams.next().await,
            Self::Connecting(call) => {
                let result = call.await;
                *self = Self::Closed;
                Event::Connected(result.map(|session| {
                    *self = Self::Open(Box::new(Streams::new(session)));
                }))
            }
        }
    }
}

// === impl Beside ===

impl Beside {
    /// The result of the attempt. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        let Self::Connecting(call) = self else {
            return std::future::pending().await;
        };
        let result = call.await;
        *self = Self::None;
        Event::ConnectedBeside(result.map(|(streams, answer)| {
            *self = Self::Ready(Box::new(streams));
            answer
        }))
    }
}

/// Sends the request that a connection has to answer before it is used.
pub(super) async fn prove(
    session: Session,
    question: Question,
) -> Result<(Streams, Answer), RpcError> {
    let sent = clock::now();
    match question {
        Question::Grant { lease, ttl, again } => {
            let grant = || -> Call<_> { Box::pin(session.clone().grant(lease, ttl)) };
            let result = ask(grant(), again, RpcErrorKind::LeaseExists, grant).await;
            let result = unless_failed(result, RpcErrorKind::LeaseExists)?;
            let granted = Granted {
                lease,
                sent,
                result,
            };
            Ok((Streams::new(session), Answer::Granted(granted)))
        }
        Question::Renew { lease, again } => {
            let renew = || -> Call<_> { Box::pin(session.clone().renewals(lease)) };
            let renewed = |result| {
                Answer::Renewed(Renewed {
                    lease,
                    sent,
                    member: 0,
                    result,
                })
            };
            let result = ask(renew(), again, RpcErrorKind::LeaseGone, renew).await;
            match unless_failed(result, RpcErrorKind::LeaseGone)? {
                Ok(stream) => Ok((Streams::with_keep_alive(session, stream), renewed(Ok(None)))),
                Err(gone) => Ok((Streams::new(session), renewed(Err(gone)))),
            }
        }
        Question::Read => {
            session.probe().await?;
            Ok((Streams::new(session), Answer::Read))
        }
    }
}

/// An error of this kind is an answer, and any other a failure.
fn unless_failed<T>(
    result: Result<T, RpcError>,
    answer: RpcErrorKind,
) -> Result<Result<T, RpcError>, RpcError> {
    match result {
        Err(error) if error.kind() != answer => Err(error),
        answered => Ok(answered),
    }
}
