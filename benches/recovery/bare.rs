//! A registrant as a careful user writes it with etcd-client: one connection, a grant, a put, and renewals every third of
//! the TTL. It watches nothing. After an error it waits for a second; after the loss of its lease it registers again.

use etcd_client::{Client, Error, PutOptions};
use std::time::Duration;
use tokio::time::sleep;

const PAUSE: Duration = Duration::from_secs(1);

/// Holds the key of the `n`th registrant until it is dropped. With `spread`, its renewals are at a time of its own.
pub async fn hold(endpoint: String, n: usize, ttl: Duration, spread: bool) {
    let client = Client::connect([endpoint], None).await;
    let mut client = client.expect("an endpoint");
    let mut lease = None;
    loop {
        let held = match lease {
            Some(id) => renew(&mut client, id, ttl, spread).await,
            None => register(&mut client, n, ttl).await.map(|id| {
                lease = Some(id);
            }),
        };
        let Err(error) = held else {
            continue;
        };
        if error.to_string().contains("lease not found") {
            lease = None;
        }
        sleep(PAUSE).await;
    }
}

async fn register(client: &mut Client, n: usize, ttl: Duration) -> Result<i64, Error> {
    let lease = client.lease_grant(ttl.as_secs() as i64, None).await?.id();
    let options = PutOptions::new().with_lease(lease);
    let (key, value) = (
        format!("/services/bare-{n}"),
        r#"{"addr":"127.0.0.1:9000"}"#,
    );
    client.put(key, value, Some(options)).await?;
    Ok(lease)
}

/// Renews the lease until that fails.
async fn renew(client: &mut Client, lease: i64, ttl: Duration, spread: bool) -> Result<(), Error> {
    let (mut requests, mut replies) = client.lease_keep_alive(lease).await?;
    if spread {
        sleep((ttl / 3).mul_f64(fastrand::f64())).await;
    }
    loop {
        sleep(ttl / 3).await;
        requests.keep_alive().await?;
        let reply = replies.message().await?;
        if reply.is_none_or(|reply| reply.ttl() <= 0) {
            return Err(Error::LeaseKeepAliveError("lease not found".to_owned()));
        }
    }
}
