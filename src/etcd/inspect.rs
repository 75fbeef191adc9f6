//! Reads etcd as an operator does: one member at a time, and every key as it is. `registryctl` uses it, through
//! [`internal`](crate::internal).

use super::cluster::Cluster;
use super::rpc_error::{RpcError, RpcErrorKind, with_timeout};
use super::session::{Session, WatchReplies, WatchRequests, revision_of};
use super::{Etcd, Member};
use crate::error::BuildError;
use etcd_client as client;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One member of etcd.
#[derive(Debug, Clone)]
pub struct Target {
    cluster: Cluster,
    member: Member,
}

/// A connection to one member. Each call has a time limit.
pub struct Connection {
    session: Session,
    client: client::Client,
    limit: Duration,
}

/// A watch of all keys below a prefix.
pub struct Watch {
    url: Arc<str>,
    replies: WatchReplies,
    /// The stream ends when this is dropped.
    _requests: WatchRequests,
    after: i64,
}

/// Why a call failed: one line, escaped and cut.
#[derive(Debug, Clone)]
pub struct CallError {
    /// The member.
    pub endpoint: Arc<str>,
    /// What etcd said, or why it said nothing.
    pub reason: String,
}

/// Keys in one page of a list.
const PAGE: i64 = 1000;

// === impl Target ===

impl Target {
    /// The first endpoint of `etcd`. All of them are checked.
    pub fn new(etcd: Etcd) -> Result<Self, BuildError> {
        let cluster = etcd.check()?;
        let member = cluster.members.at(0);
        Ok(Self { cluster, member })
    }

    /// The URL of the member.
    pub fn url(&self) -> &Arc<str> {
        self.member.shown()
    }

    /// Its host, without the brackets of IPv6, and its port.
    pub fn host_and_port(&self) -> (&str, u16) {
        (self.member.host(), self.member.port())
    }

    /// A user is given, and etcd answered that it has no authentication.
    pub fn ignores_user(&self) -> bool {
        self.cluster.ignores_user()
    }

    /// Connects within `limit`, which is also that of each call.
    pub async fn connect(&self, limit: Duration) -> Result<Connection, CallError> {
        let cluster = Cluster {
            attempt_timeout: limit,
            ..self.cluster.clone()
        };
        let opening = Session::connect_with_client(&cluster, &self.member, limit);
        let (session, client) = with_timeout(limit, self.member.shown(), opening).await?;
        Ok(Connection {
            session,
            client,
            limit,
        })
    }
}

// === impl Connection ===

impl Connection {
    /// The URL of the member.
    pub fn url(&self) -> &Arc<str> {
        self.session.endpoint()
    }

    /// For requests that only operators make; see [`call`](Self::call).
    pub fn client(&self) -> &client::Client {
        &self.client
    }

    /// The answer to a call of the [`client`](Self::client).
    pub async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, client::Error>>,
    ) -> Result<T, CallError> {
        let url = self.url();
        let call = async {
            call.await
                .map_err(|error| RpcError::from_client(url, &error))
        };
        Ok(with_timeout(self.limit, url, call).await?)
    }

    /// All keys below a prefix, at one revision.
    pub async fn list(&self, prefix: &str) -> Result<(Vec<client::KeyValue>, i64), CallError> {
        let (mut all, mut revision, mut size) = (vec![], 0, PAGE);
        let mut next = Some(prefix.as_bytes().to_vec());
        while let Some(from) = next {
            let page = self.session.range(prefix, from.clone(), revision, size);
            match with_timeout(self.limit, self.url(), page).await {
                Err(error) if error.kind() == RpcErrorKind::TooLarge && size > 1 => {
                    (next, size) = (Some(from), (size / 10).max(1));
                }
                page => {
                    let mut page = page?;
                    revision = revision_of(page.header());
                    let is_last = !page.more();
                    all.extend(page.take_kvs());
                    let last = all.last().filter(|_| !is_last);
                    next = last.map(|last: &client::KeyValue| [last.key(), &[0]].concat());
                }
            }
        }
        Ok((all, revision))
    }

    /// The number of keys below a prefix, or of those with exactly that name, which is cheap for etcd.
    pub async fn count(&self, prefix: &str, each: bool) -> Result<i64, CallError> {
        let counted = self.session.clone().count(prefix, each);
        Ok(with_timeout(self.limit, self.url(), counted).await?.1)
    }

    /// Watches all keys below a prefix for changes after a revision.
    pub async fn watch(&self, prefix: &str, after: i64) -> Result<Watch, CallError> {
        let opening = self.session.clone().watch_prefix(prefix, after + 1);
        let (requests, replies) = with_timeout(self.limit, self.url(), opening).await?;
        Ok(Watch {
            url: self.url().clone(),
            replies,
            _requests: requests,
            after,
        })
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(self.url()).finish()
    }
}

// === impl Watch ===

impl Watch {
    /// The next changes. Cancel safe; without a limit, because there may be none for long.
    pub async fn next(&mut self) -> Result<Vec<client::Event>, CallError> {
        let (reply, ended) = self.replies.next_as_it_is().await?;
        match ended {
            Some(error) => Err(error.into()),
            // An etcd that lost its data accepts a watch from a revision it has not reached, and sends nothing.
            None if revision_of(reply.header()) < self.after => {
                Err(RpcError::broken(&self.url, "etcd has lost its data").into())
            }
            None => Ok(reply.events().to_vec()),
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

// === impl CallError ===

impl From<RpcError> for CallError {
    fn from(error: RpcError) -> Self {
        Self {
            endpoint: error.endpoint().clone(),
            reason: error.said().to_owned(),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.endpoint, self.reason)
    }
}

impl std::error::Error for CallError {}
