//! [`User`]: a name, a password, and the token that etcd gave for them.
//!
//! Authentication is expensive: etcd compares the password with bcrypt, which by default takes
//! about 0.07 s on one of its cores, and it finishes that when nobody waits for the answer any more. So
//! an [`Etcd`](super::Etcd) and its clones share one token, over all connections and
//! members. One task at a time authenticates: before the first call, and after the token was refused. Its
//! timeout is long.

use super::members::Members;
use super::rpc_error::{RpcError, RpcErrorKind, with_timeout};
use crate::runtime::isolated::in_current_span;
use crate::runtime::lock::Lock;
use etcd_client as client;
use http::{HeaderValue, Request, Response};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::body::Body;
use tonic::transport::Channel;
use tower_service::Service;

/// See the [module](self). Shared by all clones of an [`Etcd`](super::Etcd).
pub(super) struct User {
    name: String,
    password: String,
    state: Lock<State>,
    /// Held by the task that authenticates.
    authenticating: Arc<tokio::sync::Mutex<()>>,
}

/// The token of a request.
#[derive(Clone)]
pub(super) struct Token {
    /// Counts the tokens of a user, to tell which one was refused.
    number: u64,
    /// `None`: etcd has no authentication enabled.
    value: Option<HeaderValue>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    given: u64,
    /// The endpoints that answered that authentication is not enabled.
    without_auth: BTreeSet<Arc<str>>,
    warned: bool,
    /// Failed authentications in a row, and when the next one may begin.
    failures: u32,
    not_before: Option<Instant>,
    /// The error of the last one, for the tasks that waited for it.
    failed: Option<(Instant, RpcError)>,
}

/// A channel that adds the token to each request.
#[derive(Clone)]
pub(super) struct WithToken {
    channel: Channel,
    token: HeaderValue,
}

/// How long etcd may take to authenticate. Giving up sooner only makes etcd do it again: 80 at once
/// took 16 s on two cores that others used too.
const AUTHENTICATE_TIMEOUT: Duration = Duration::from_secs(60);
/// During a long authentication the member is probed this often. Without an answer within the timeout it
/// is given up. 0.6 s were often too short while etcd compared passwords.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);
/// The pauses after an authentication that failed, but was not denied.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

// === impl User ===

impl User {
    pub(super) fn new(name: String, password: String) -> Self {
        Self {
            name,
            password,
            state: Lock::default(),
            authenticating: Arc::default(),
        }
    }

    /// The current token, unless it was refused.
    pub(super) fn token(&self) -> Option<Token> {
        self.state.lock().token.clone()
    }

    /// etcd answered that it has no authentication.
    #[cfg(feature = "discovery")]
    pub(super) fn is_ignored(&self) -> bool {
        self.token().is_some_and(|token| token.value.is_none())
    }

    /// etcd refused the token with that number. A newer token stays.
    pub(super) fn refuse(&self, number: u64) {
        let mut state = self.state.lock();
        if state.token.as_ref().is_some_and(|now| now.number == number) {
            state.token = None;
        }
    }

    /// Gets a token from the member of `client`, unless there is one already.
    ///
    /// It may take up to [`AUTHENTICATE_TIMEOUT`]. A member that does not answer at all
    /// is given up after `limit`, or after [`PROBE_TIMEOUT`] once the authentication has begun. Cancel safe: the
    /// call runs in a task of its own, because etcd does not stop either.
    pub(super) async fn authenticate(
        self: &Arc<Self>,
        client: &client::Client,
        endpoint: &Arc<str>,
        members: &Members,
        limit: Duration,
    ) -> Result<Token, RpcError> {
        let begun = Instant::now();
        let turn = self.authenticating.clone().lock_owned().await;
        if let Some(outcome) = self.state.lock().outcome_since(begun, endpoint) {
            return outcome;
        }
        let not_before = self.state.lock().not_before;
        if let Some(at) = not_before {
            sleep_until(at).await;
        }
        with_timeout(limit, endpoint, probe(client, endpoint)).await?;
        crate::runtime::logging::debug!(%endpoint, user = %self.name, "authenticating");
        let (user, client) = (self.clone(), client.clone());
        let (at, members) = (endpoint.clone(), members.clone());
        let asking = async move {
            let asked = user.ask(&client, &at).await;
            let outcome = user.state.lock().asked(asked, &at, &members);
            drop(turn);
            outcome
        };
        let asking = tokio::spawn(in_current_span(asking)).await;
        asking.unwrap_or_else(|_| Err(RpcError::broken(endpoint, "the runtime ended")))
    }

    async fn ask(
        &self,
        client: &client::Client,
        endpoint: &Arc<str>,
    ) -> Result<HeaderValue, RpcError> {
        let mut auth = client.auth_client();
        let reply = auth.authenticate(self.name.clone(), self.password.clone());
        let reply = tokio::select! {
            biased;
            reply = reply => reply.map_err(|error| RpcError::from_client(endpoint, &error))?,
            error = given_up(client, endpoint) => return Err(error),
        };
        let token = HeaderValue::from_str(reply.token());
        let mut token = token.map_err(|_| {
            RpcError::broken(endpoint, "gave a token that does not fit into a header")
        })?;
        // Neither shown by Debug nor kept in HPACK's table.
        token.set_sensitive(true);
        Ok(token)
    }
}

/// A client without a user: with one, it would authenticate here, for this connection alone.
pub(super) async fn client_on(
    channel: client::Channel,
    endpoint: &Arc<str>,
) -> Result<client::Client, RpcError> {
    // `require_leader`: a member without a leader ends our streams instead of sending nothing.
    let options = client::ConnectOptions::new().with_require_leader(true);
    client::Client::from_channel(channel, Some(options))
        .await
        .map_err(|error| RpcError::from_client(endpoint, &error))
}

/// A read without a token: a member that works answers or refuses it at once. A member that hangs
/// or has no quorum would use up the whole time of an authentication.
async fn probe(client: &client::Client, endpoint: &Arc<str>) -> Result<(), RpcError> {
    match read(client, endpoint).await {
        Err(error) if !error.is_refusal() => Err(error),
        _ => Ok(()),
    }
}

async fn read(client: &client::Client, endpoint: &Arc<str>) -> Result<(), RpcError> {
    let read = client.kv_client().get("\0", None).await;
    read.map(drop)
        .map_err(|error| RpcError::from_client(endpoint, &error))
}

/// Whether the member knows the token of `client`; `anonymous` has none.
///
/// A simple token contains an index of etcd's log. etcd checks the token only once its log has reached that index.
/// After a loss of data, or a restore from a snapshot, that can take forever: calls with the token are then not
/// answered, and calls without a token are.
async fn knows_token(
    anonymous: &client::Client,
    client: &client::Client,
    endpoint: &Arc<str>,
    attempt_timeout: Duration,
    limit: Duration,
) -> Result<bool, RpcError> {
    let begun = Instant::now();
    let mut known = std::pin::pin!(read(client, endpoint));
    let lives = with_timeout(limit, endpoint, probe(anonymous, endpoint));
    let known = tokio::select! {
        biased;
        known = &mut known => known,
        lives = lives => {
            lives?;
            // Both were sent together. A slow etcd may answer them at different times.
            let wait = (attempt_timeout * 2).max(begun.elapsed() * 3);
            let known = tokio::time::timeout(wait, known).await;
            known.unwrap_or_else(|_| Err(RpcError::unknown_token(endpoint)))
        }
    };
    match known {
        Err(error) if error.kind() == RpcErrorKind::Unauthenticated => Ok(false),
        Err(error) if !error.is_refusal() => Err(error),
        _ => Ok(true),
    }
}

/// Resolves when waiting for an authentication is useless, with the reason.
async fn given_up(client: &client::Client, endpoint: &Arc<str>) -> RpcError {
    let begun = Instant::now();
    while begun.elapsed() < AUTHENTICATE_TIMEOUT {
        sleep(PROBE_INTERVAL).await;
        if let Err(error) = with_timeout(PROBE_TIMEOUT, endpoint, probe(client, endpoint)).await {
            return error;
        }
    }
    let what = format!("did not authenticate the user within {AUTHENTICATE_TIMEOUT:?}");
    RpcError::new(RpcErrorKind::Timeout, endpoint, what)
}

// === impl State ===

impl State {
    /// The token, or the error of an authentication at that endpoint that failed after `begun`.
    fn outcome_since(
        &self,
        begun: Instant,
        endpoint: &Arc<str>,
    ) -> Option<Result<Token, RpcError>> {
        if let Some(token) = &self.token {
            return Some(Ok(token.clone()));
        }
        let (at, error) = self.failed.as_ref()?;
        (*at > begun && error.endpoint() == endpoint).then(|| Err(error.clone()))
    }

    /// Stores the result of an authentication.
    fn asked(
        &mut self,
        asked: Result<HeaderValue, RpcError>,
        endpoint: &Arc<str>,
        members: &Members,
    ) -> Result<Token, RpcError> {
        let error = match asked {
            Ok(value) => {
                self.without_auth.clear();
                return Ok(self.give(Some(value)));
            }
            Err(error) => error,
        };
        if error.is_without_auth() {
            self.without_auth.insert(endpoint.clone());
            if !members.any(|shown| !self.without_auth.contains(shown)) {
                self.without_auth.clear();
                if !std::mem::replace(&mut self.warned, true) {
                    crate::runtime::logging::warn!(
                        %endpoint,
                        "etcd has no authentication enabled: the user that it is given does nothing"
                    );
                }
                return Ok(self.give(None));
            }
        }
        self.failed = Some((Instant::now(), error.clone()));
        // After a denial the caller waits long before it tries the same member again.
        if error.kind() != RpcErrorKind::Denied {
            self.failures = self.failures.saturating_add(1);
            self.not_before = Some(Instant::now() + pause(self.failures));
        }
        Err(error)
    }

    fn give(&mut self, value: Option<HeaderValue>) -> Token {
        (self.failures, self.not_before, self.failed) = (0, None, None);
        self.given += 1;
        let number = self.given;
        self.token.insert(Token { number, value }).clone()
    }
}

/// The pause after so many failures in a row, drawn from the upper half of its range.
fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let most = (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
    most.mul_f64(0.5 + fastrand::f64() / 2.0)
}

// === impl Token ===

impl Token {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// See [`knows_token`].
    pub(super) async fn is_known(
        &self,
        anonymous: &client::Client,
        channel: &Channel,
        endpoint: &Arc<str>,
        attempt_timeout: Duration,
        limit: Duration,
    ) -> Result<bool, RpcError> {
        if self.value.is_none() {
            return Ok(true);
        }
        let client = client_on(self.channel(channel.clone()), endpoint).await?;
        knows_token(anonymous, &client, endpoint, attempt_timeout, limit).await
    }

    /// A channel for etcd-client that sends this token.
    pub(super) fn channel(&self, channel: Channel) -> client::Channel {
        match self.value.clone() {
            Some(token) => {
                let channel = WithToken { channel, token };
                client::Channel::Custom(tower::util::BoxCloneSyncService::new(channel))
            }
            None => client::Channel::Tonic(channel),
        }
    }
}

// === impl WithToken ===

impl Service<Request<Body>> for WithToken {
    type Response = Response<Body>;
    type Error = tower::BoxError;
    type Future =
        futures_util::future::ErrInto<<Channel as Service<Request<Body>>>::Future, tower::BoxError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(&mut self.channel, cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let headers = request.headers_mut();
        headers.insert("token", self.token.clone());
        futures_util::TryFutureExt::err_into(Service::call(&mut self.channel, request))
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("password", &"(secret)")
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_the_longest_and_never_overflow() {
        for (failures, most) in [(1, 100), (2, 200), (4, 800), (7, 5000), (u32::MAX, 5000)] {
            let most = Duration::from_millis(most);
            let pause = pause(failures);
            assert!(pause >= most / 2 && pause <= most, "{failures}: {pause:?}");
        }
    }

    #[test]
    fn only_the_token_that_was_refused_is_dropped() {
        let user = User::new("me".to_owned(), "secret".to_owned());
        let first = user
            .state
            .lock()
            .give(Some(HeaderValue::from_static("first")));
        let second = user
            .state
            .lock()
            .give(Some(HeaderValue::from_static("second")));
        user.refuse(first.number());
        assert_eq!(user.token().map(|now| now.number), Some(second.number));
        user.refuse(second.number());
        assert!(user.token().is_none());
    }
}
