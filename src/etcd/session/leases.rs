//! Grants, renews and revokes leases.

use super::{Peer, Session};
use crate::etcd::rpc_error::{RpcError, RpcErrorKind};
use etcd_client as client;
use std::sync::Arc;
use std::time::Duration;

/// An open stream of renewals.
pub(crate) struct KeepAliveStream {
    requests: client::LeaseKeeper,
    replies: client::LeaseKeepAliveStream,
    peer: Peer,
    /// The member that answered last; 0: not known.
    member: u64,
}

// === impl Session ===

impl Session {
    /// Grants the lease `id`. Returns the TTL that etcd chose, which may differ from the requested one.
    pub(crate) async fn grant(mut self, id: i64, ttl: Duration) -> Result<Duration, RpcError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let options = client::LeaseGrantOptions::new().with_id(id);
        let granted = self.lease.grant(seconds, Some(options)).await;
        let granted = granted.map_err(|error| self.error(&error))?;
        if granted.id() != id {
            return Err(self.broken(format!(
                "asked for lease {id:016x}, got {:016x}",
                granted.id()
            )));
        }
        time_to_live(granted.ttl(), &self.peer.endpoint)
    }

    /// Revokes the lease `id`; one that does not exist counts as revoked.
    pub(crate) async fn revoke(mut self, id: i64) -> Result<(), RpcError> {
        match self
            .lease
            .revoke(id)
            .await
            .map_err(|error| self.error(&error))
        {
            Err(error) if error.kind() == RpcErrorKind::LeaseGone => Ok(()),
            other => other.map(drop),
        }
    }

    /// How long the lease `id` lives without another renewal, in whole seconds. Zero while etcd is about to extend or
    /// to revoke it.
    ///
    /// etcd answers a granted TTL of zero if there is no such lease: `LeaseTimeToLive` in etcd's
    /// `api/v3rpc/lease.go`.
    pub(crate) async fn time_to_live(mut self, id: i64) -> Result<Duration, RpcError> {
        let reply = self.lease.time_to_live(id, None).await;
        let reply = reply.map_err(|error| self.error(&error))?;
        time_to_live(reply.granted_ttl(), &self.peer.endpoint)?;
        Ok(Duration::from_secs(reply.ttl().try_into().unwrap_or(0)))
    }

    /// Renews the lease `id` for the first time on this session, and opens the stream for more.
    ///
    /// `etcd-client` does not return the TTL of this first answer; it is the granted one.
    pub(crate) async fn renewals(mut self, id: i64) -> Result<KeepAliveStream, RpcError> {
        let opened = self.lease.keep_alive(id).await;
        let (requests, replies) = opened.map_err(|error| self.error(&error))?;
        // etcd-client continues with the lease of the first answer, whichever that is.
        if requests.id() != id {
            return Err(self.broken("answered the renewal of another lease"));
        }
        Ok(KeepAliveStream {
            requests,
            replies,
            peer: self.peer,
            member: 0,
        })
    }
}

// === impl KeepAliveStream ===

impl KeepAliveStream {
    pub(crate) fn member(&self) -> u64 {
        self.member
    }

    /// Sends one renewal and awaits its answer. Not cancel safe: after a cancelled call the next
    /// answer may belong to that renewal, so drop the stream.
    pub(crate) async fn renew(&mut self) -> Result<Duration, RpcError> {
        let (peer, endpoint) = (&self.peer, &self.peer.endpoint);
        let error = |error: client::Error| peer.error(&error);
        self.requests.keep_alive().await.map_err(error)?;
        let reply = self.replies.message().await.map_err(error)?;
        let reply = reply.ok_or_else(|| RpcError::broken(endpoint, "the renewal stream ended"))?;
        self.member = reply.header().map_or(0, client::ResponseHeader::member_id);
        match reply.id() == self.requests.id() {
            true => time_to_live(reply.ttl(), endpoint),
            false => Err(RpcError::broken(
                endpoint,
                "answered the renewal of another lease",
            )),
        }
    }
}

/// A lease that is gone has none.
fn time_to_live(seconds: i64, endpoint: &Arc<str>) -> Result<Duration, RpcError> {
    match u64::try_from(seconds) {
        Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        _ => Err(RpcError::new(
            RpcErrorKind::LeaseGone,
            endpoint,
            "lease not found",
        )),
    }
}
