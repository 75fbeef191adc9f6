//! Opens a [`Session`], and gets a new token for the next one.

use super::{Login, Peer, Session};
use crate::etcd::auth::client_on;
use crate::etcd::endpoints::Endpoints;
use crate::etcd::member::Member;
use crate::etcd::members::Members;
use crate::etcd::net::connector::{Connecting, Connector, Io};
use crate::etcd::rpc_error::{RpcError, RpcErrorKind, chain, with_timeout};
use etcd_client as client;
use http::Uri;
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

pub(crate) const USER_AGENT: &str = concat!("tonic-etcd/", env!("CARGO_PKG_VERSION"));

// === impl Session ===

impl Session {
    /// Connects within `limit`, of which opening the transport (TCP) may take `attempt`: a TCP connect that is repeated
    /// costs etcd nothing, and a TLS handshake does. With a user, the session uses the user's token. If there is no
    /// token yet, it authenticates first, which has a longer limit of its own: see [`User::authenticate`].
    ///
    /// It sends no HTTP/2 pings: etcd refuses pings closer than 5 s, which is the default TTL. Renewals with a
    /// timeout are the heartbeat. Cancel safe.
    pub(crate) async fn connect(
        endpoints: &Endpoints,
        member: &Member,
        attempt: Duration,
        limit: Duration,
    ) -> Result<Self, RpcError> {
        let connecting = Self::connect_with_client(endpoints, member, attempt, limit);
        Ok(connecting.await?.0)
    }

    /// The same, with a client for other calls on the connection.
    pub(in crate::etcd) async fn connect_with_client(
        endpoints: &Endpoints,
        member: &Member,
        attempt: Duration,
        limit: Duration,
    ) -> Result<(Self, client::Client), RpcError> {
        let endpoint = member.shown();
        let opening = open(endpoints, member, attempt, limit);
        let channel = with_timeout(limit, endpoint, opening).await?;
        let client = client_on(client::Channel::Tonic(channel.clone()), endpoint).await?;
        let members = &endpoints.members;
        let Some(user) = &endpoints.user else {
            let session = Self::new(&client, endpoint, None, members, limit);
            return Ok((session, client));
        };
        let token = match user.token() {
            Some(token)
                if token
                    .is_known(&client, &channel, endpoint, attempt, limit)
                    .await? =>
            {
                token
            }
            unknown => {
                unknown.inspect(|token| user.refuse(token.number()));
                user.authenticate(&client, endpoint, members, limit).await?
            }
        };
        let login = Login {
            user: user.clone(),
            token: token.number(),
            client,
            members: members.clone(),
            limit: attempt,
        };
        let client = client_on(token.channel(channel), endpoint).await?;
        let session = Self::new(&client, endpoint, Some(login), members, limit);
        Ok((session, client))
    }

    fn new(
        client: &client::Client,
        endpoint: &Arc<str>,
        login: Option<Login>,
        members: &Members,
        limit: Duration,
    ) -> Self {
        let sync = members.sync(|| client.cluster_client(), endpoint, limit);
        Self {
            _sync: sync.map(Arc::new),
            kv: client.kv_client(),
            lease: client.lease_client(),
            watch: client.watch_client(),
            peer: Peer {
                endpoint: endpoint.clone(),
                login: login.map(Arc::new),
            },
        }
    }

    /// Reads something: a member that works answers or refuses it. Linearizable, so that a quorum has to answer.
    pub(crate) async fn probe(&self) -> Result<(), RpcError> {
        let read = self.kv.clone().get("\0", None).await;
        match read.map_err(|error| self.error(&error)) {
            Err(error) if !error.is_refusal() => Err(error),
            _ => Ok(()),
        }
    }

    /// Gets a new token after this one was refused, for another connection. Retries until there is one, or
    /// until it is denied. Cancel safe.
    pub(crate) async fn replace_token(self) -> Result<(), RpcError> {
        let endpoint = &self.peer.endpoint;
        let Some(login) = &self.peer.login else {
            return Ok(());
        };
        let Login {
            user,
            client,
            members,
            limit,
            ..
        } = &**login;
        loop {
            match user.authenticate(client, endpoint, members, *limit).await {
                Err(error) if error.kind() != RpcErrorKind::Denied => {
                    crate::runtime::logging::debug!(%error, "no other token yet");
                    tokio::time::sleep(*limit).await;
                }
                done => return done.map(drop),
            }
        }
    }
}

/// Opens the connection. The caller's limit ends it first.
async fn open(
    endpoints: &Endpoints,
    member: &Member,
    attempt: Duration,
    limit: Duration,
) -> Result<Channel, RpcError> {
    let endpoint = member.shown();
    let broken = |error: tonic::transport::Error| RpcError::broken(endpoint, chain(&error));
    let channel = Endpoint::from(member.uri().clone())
        // It bounds later reconnects of tonic itself.
        .connect_timeout(limit.saturating_mul(2))
        .user_agent(USER_AGENT)
        .map_err(broken)?;
    #[cfg(feature = "_tls")]
    let channel = match member.uses_tls() {
        true => endpoints
            .tls
            .secure(channel)
            .map_err(|what| RpcError::broken(endpoint, what))?,
        false => channel,
    };
    let connector = endpoints.connector(member, attempt);
    let channel = channel.connect_with_connector(connector).await;
    channel.map_err(|error| RpcError::new(RpcErrorKind::Unreachable, endpoint, chain(&error)))
}

// === impl Connector ===

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = futures_util::future::MapOk<Connecting, fn(Box<dyn Io>) -> Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        futures_util::TryFutureExt::map_ok(self.connect(uri), TokioIo::new)
    }
}
