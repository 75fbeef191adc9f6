//! Users for a real etcd: with `ETCD_USERS=1` in the environment, an [`Etcd`](super::Etcd) requires a password.
//!
//! The tests are `root`. The servers and callers under test are [`SERVERS`], which has only the permissions that the formats
//! need.

use std::env;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error, Permission};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

/// Name and password.
pub type Credentials = (&'static str, &'static str);

pub const ROOT: Credentials = ("root", "the-password-of-root");
pub const SERVERS: Credentials = ("servers", "the-password-of-servers");

/// Hashing passwords is made cheap: on a small machine it takes long.
pub const CHEAP: &str = "--bcrypt-cost=4";

/// What [`SERVERS`] may read and write: the formats that tests write.
const PREFIXES: [&str; 3] = ["/services/", "/microservices/", "greeter/"];
/// The timeout of one request to an etcd that may not have its users yet.
const PROBE: Duration = Duration::from_millis(200);
const TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// Whether etcds of tests shall have users.
pub fn are_wanted() -> bool {
    env::var("ETCD_USERS").is_ok_and(|value| !matches!(&*value, "" | "0"))
}

/// What a member is started with, if its cluster shall have users.
pub fn flags() -> &'static [&'static str] {
    match are_wanted() {
        true => &[CHEAP],
        false => &[],
    }
}

/// The user of servers and callers at an etcd of [`Etcd::start`](super::Etcd::start).
pub fn of_servers() -> Option<Credentials> {
    are_wanted().then_some(SERVERS)
}

/// Makes root and [`SERVERS`], and enables authentication.
pub async fn make(client: &mut Client) -> Result<(), Error> {
    let (root, password) = ROOT;
    client.role_add(root).await?;
    client.user_add(root, password, None).await?;
    client.user_grant_role(root, root).await?;
    let (servers, password) = SERVERS;
    client.role_add(servers).await?;
    for prefix in PREFIXES {
        let all = Permission::read_write(prefix).with_prefix();
        client.role_grant_permission(servers, all).await?;
    }
    client.user_add(servers, password, None).await?;
    client.user_grant_role(servers, servers).await?;
    client.auth_enable().await.map(drop)
}

/// A client for the test itself: root, where there are users.
pub async fn connect(endpoint: &str) -> Result<Client, Error> {
    if are_wanted() {
        match connect_as(endpoint, ROOT).await {
            // It was started without users on purpose, or its data is gone and they with it.
            Err(Error::GRpcStatus(status)) if status.code() == Code::FailedPrecondition => {}
            other => return other,
        }
    }
    Client::connect([endpoint], None).await
}

/// A client of that user. Tries again while there is no leader to authenticate it.
pub async fn connect_as(endpoint: &str, (name, password): Credentials) -> Result<Client, Error> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let options = ConnectOptions::new().with_user(name, password);
        match Client::connect([endpoint], Some(options)).await {
            Err(Error::GRpcStatus(status))
                if status.code() == Code::Unavailable && Instant::now() < deadline =>
            {
                sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

/// Waits until a member refuses a client without a password.
pub(super) async fn are_known(endpoint: &str) {
    loop {
        let ask = async {
            let mut client = Client::connect([endpoint], None).await?;
            client.get("probe", None).await
        };
        match timeout(PROBE, ask).await {
            Ok(Err(error)) if answers(&error) => return,
            _ => sleep(PAUSE).await,
        }
    }
}

/// Whether the error is an answer of the server, not an error of the client about an unreachable one.
pub(super) fn answers(error: &Error) -> bool {
    use Code::{InvalidArgument, PermissionDenied, Unauthenticated};
    let Error::GRpcStatus(status) = error else {
        return false;
    };
    matches!(
        status.code(),
        InvalidArgument | Unauthenticated | PermissionDenied
    )
}
