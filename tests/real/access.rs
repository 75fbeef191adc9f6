//! An etcd with authentication: users, tokens that expire, and roles with few permissions.

use crate::setup::{Greeter, LONG, SEC, announced_by, is_registered};
use crate::support::etcd::{Etcd as EtcdProcess, is_since, users, version};
use crate::support::proxy::Proxy;
use crate::support::server::ServerProcess;
use crate::support::{eventually, registered_within, status_within};
use etcd_client::{
    Client, ConnectOptions, GetOptions, Permission, PutOptions, RoleRevokePermissionOptions, Txn,
    TxnOp,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic_etcd::{Ended, Etcd, Registrar, Registration, RegistrationStatus};

const ROOT: &str = "the password of root";
/// A password that must not appear in any output.
const CANARY: &str = "canary-that-sings-nowhere";
/// A registrar whose request was denied waits for 22 to 30 s.
const SLOW: Duration = Duration::from_secs(30);

/// The state of a key in etcd: it differs after a write or a deletion.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    created: i64,
    modified: i64,
    lease: i64,
}

/// An etcd with users. Hashing passwords is made cheap: on a small machine it takes long.
async fn guarded(args: &[&str]) -> EtcdProcess {
    let args: Vec<_> = ["--bcrypt-cost=4"].iter().chain(args).copied().collect();
    guarded_as_is(&args).await
}

/// An etcd with users, and the default cost of passwords.
async fn guarded_as_is(args: &[&str]) -> EtcdProcess {
    let etcd = EtcdProcess::start_with(args).await;
    let mut client = etcd.client().await;
    client.role_add("root").await.unwrap();
    client.user_add("root", ROOT, None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    allow(&mut client, "greeter").await;
    client.auth_enable().await.unwrap();
    etcd
}

/// Tokens that live for two seconds, signed with a secret in `dir`.
fn jwt(dir: &Path) -> String {
    let secret = dir.join("secret");
    std::fs::write(&secret, "something that only etcd knows").unwrap();
    let secret = secret.display();
    format!("--auth-token=jwt,sign-method=HS256,ttl=2s,priv-key={secret}")
}

/// A user of that name with a role of that name, for `/services/{name}/` and nothing else.
async fn allow(client: &mut Client, name: &str) {
    client.role_add(name).await.unwrap();
    client
        .role_grant_permission(name, everything_of(name))
        .await
        .unwrap();
    client.user_add(name, CANARY, None).await.unwrap();
    client.user_grant_role(name, name).await.unwrap();
}

fn everything_of(name: &str) -> Permission {
    Permission::read_write(format!("/services/{name}/")).with_prefix()
}

/// Root, with a token of its own that is as old as this call.
async fn root(etcd: &EtcdProcess) -> Client {
    let options = ConnectOptions::new().with_user("root", ROOT);
    Client::connect([etcd.endpoint()], Some(options))
        .await
        .unwrap()
}

async fn seen(etcd: &EtcdProcess, key: &str) -> Option<Seen> {
    let found = root(etcd).await.get(key, None).await.unwrap();
    found.kvs().first().map(|kv| Seen {
        created: kv.create_revision(),
        modified: kv.mod_revision(),
        lease: kv.lease(),
    })
}

/// Whether this etcd requires a token and the permission in renewals too (CVE-2026-33413).
async fn checks_renewals(etcd: &EtcdProcess) -> bool {
    is_since(version(&mut root(etcd).await).await, [42, 28, 9])
}

/// Whether this etcd also checks the operations in a transaction.
async fn checks_nested(etcd: &EtcdProcess) -> bool {
    is_since(version(&mut root(etcd).await).await, [42, 28, 11])
}

/// How often anybody but root has authenticated: `root` does so once for each call.
struct Authentications<'a>(&'a EtcdProcess, usize);

impl<'a> Authentications<'a> {
    async fn from_now_on(etcd: &'a EtcdProcess) -> Self {
        Self(etcd, etcd.calls("Authenticate").await)
    }

    async fn so_far(&self, by_root: usize) -> usize {
        self.0.calls("Authenticate").await - self.1 - by_root
    }
}

fn greeter_at(endpoint: &str) -> Etcd {
    Etcd::new([endpoint]).user("greeter", CANARY)
}

fn registrar(etcd: &EtcdProcess) -> Registrar {
    let builder = Registrar::builder(greeter_at(&etcd.endpoint()));
    builder.build().unwrap()
}

async fn start(etcd: &EtcdProcess) -> Greeter {
    let endpoint = etcd.endpoint();
    // What `start` would be is nobody in particular.
    Greeter::start(etcd, |_| Registrar::builder(greeter_at(&endpoint))).await
}

/// Has it written once more, and waits until it is.
async fn update(registration: &Registration, version: &str) {
    let before = revision(registration);
    registration
        .update(|instance| instance.with_version(version))
        .unwrap();
    let written = |s: &RegistrationStatus| matches!(s, RegistrationStatus::Registered(now) if now.revision > before);
    status_within(LONG, registration, written).await;
}

fn revision(registration: &Registration) -> i64 {
    let status = registration.status();
    status.registered().expect("held").revision
}

/// Waits until a status with an error contains `what`.
async fn told(registration: &Registration, limit: Duration, what: &str) -> String {
    eventually(&format!("{what:?} is said"), limit, || {
        match registration.status() {
            RegistrationStatus::Registering {
                reason: Some(reason),
                ..
            }
            | RegistrationStatus::Suspect { reason, .. }
            | RegistrationStatus::Lost { reason, .. }
                if reason.contains(what) =>
            {
                Ok(reason.to_string())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

#[tokio::test]
async fn an_expired_or_lost_token_costs_one_authentication_and_no_key() {
    // Newer versions log only at debug level that a token was deleted.
    let mut etcd = guarded(&["--auth-token-ttl=1", "--log-level=debug"]).await;
    let checked = checks_renewals(&etcd).await;
    let greeter = start(&etcd).await;
    let (key, registration) = (greeter.key(), greeter.registration.clone());
    let before = seen(&etcd, &key).await.unwrap();

    // Where renewals do not need a token, it grows old. Where they do, each that finds it expired
    // brings another, and the update may find a good one.
    let expired = |log: String| log.matches("deleted a simple token").count();
    let so_far = expired(etcd.log());
    let some_expired = || match expired(etcd.log()) {
        now if now > so_far => Ok(()),
        now => Err(format!("{now} expired tokens")),
    };
    eventually("root's younger token expires", LONG, some_expired).await;
    let count = Authentications::from_now_on(&etcd).await;
    update(&registration, "after").await;
    let asked = count.so_far(0).await;
    assert!(
        asked == 1 || (checked && asked <= 2),
        "{asked} for the update"
    );
    let updated = seen(&etcd, &key).await.unwrap();
    assert_eq!(updated.created, before.created);
    assert_eq!(updated.lease, before.lease);

    // A restarted etcd has no tokens. Its counters start at zero.
    etcd.kill().await;
    etcd.start_again();
    etcd.wait_answering().await;
    status_within(LONG, &registration, is_registered).await;
    sleep(SEC * 6).await;
    let asked = etcd.calls("Authenticate").await;
    // Etcd may find the token of before in its log. Where renewals ask for a token, every one of
    // them finds that its second is over.
    let most = if checked { 1 + 5 } else { 1 };
    assert!(asked <= most, "{asked} since it started");
    assert_eq!(seen(&etcd, &key).await.unwrap(), updated, "and it stays");
}

/// At bcrypt's default cost, about 0.07 s of a core for each. Forty take too long for a machine of two
/// cores; `Etcd::user` says what a fleet of that size should use instead.
#[tokio::test]
async fn each_process_authenticates_once_and_a_restart_of_etcd_makes_no_gap() {
    const PROCESSES: usize = 8;
    let mut etcd = guarded_as_is(&[]).await;
    let flags = ["--user", "greeter", "--password", CANARY];
    let servers: Vec<_> = (0..PROCESSES)
        .map(|_| ServerProcess::start(&etcd.endpoint(), &flags))
        .collect();
    let mut keys = vec![];
    for server in &servers {
        keys.push(server.registered().await);
    }
    assert_eq!(etcd.calls("Authenticate").await, PROCESSES);
    let before = revisions(&etcd).await;
    assert_eq!(before.len(), PROCESSES, "{keys:?}");

    etcd.kill().await;
    sleep(SEC).await;
    etcd.start_again();
    etcd.wait_answering().await;
    // A server that has not renewed its lease by then has lost it.
    sleep(SEC * 7).await;
    let asked = etcd.calls("Authenticate").await;
    assert!(asked <= PROCESSES, "{asked} since it started");
    assert_eq!(revisions(&etcd).await, before, "neither put nor deleted");
}

/// The keys of greeters, and when each was last written.
async fn revisions(etcd: &EtcdProcess) -> BTreeMap<String, i64> {
    let options = GetOptions::new().with_prefix();
    let mut root = root(etcd).await;
    let found = root.get("/services/greeter/", Some(options)).await.unwrap();
    let kvs = found.kvs().iter();
    kvs.map(|kv| (kv.key_str().unwrap().to_owned(), kv.mod_revision()))
        .collect()
}

#[tokio::test]
async fn an_expired_or_outdated_jwt_costs_one_authentication_and_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = guarded(&[&jwt(dir.path())]).await;
    let checked = checks_renewals(&etcd).await;
    let greeter = start(&etcd).await;
    let count = Authentications::from_now_on(&etcd).await;
    let (key, registration) = (greeter.key(), greeter.registration.clone());
    let before = seen(&etcd, &key).await.unwrap();

    // An expired jwt is noticed only when it is used: by the update, or a renewal before it.
    sleep(SEC * 4).await;
    update(&registration, "after").await;
    let asked = count.so_far(1).await;
    assert!(
        asked == 1 || (checked && asked <= 2),
        "{asked} for one that has expired"
    );

    let mut client = root(&etcd).await;
    client.role_add("something else").await.unwrap();
    let count = Authentications::from_now_on(&etcd).await;
    update(&registration, "later").await;
    let asked = count.so_far(0).await;
    assert!(
        asked <= 1 && (checked || asked == 1),
        "{asked} for one of an older auth store"
    );

    // The deletion by another client is repaired although the token has expired again.
    sleep(SEC * 3).await;
    root(&etcd).await.delete(&*key, None).await.unwrap();
    eventually("it knows", LONG, || match registration.status() {
        RegistrationStatus::Registered(now) if now.since.elapsed() < SEC * 3 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let healed = seen(&etcd, &key).await.unwrap();
    assert_eq!(healed.lease, before.lease);
    assert!(healed.created > before.created);
}

/// A password that was changed, a user that was deleted, a permission that was taken away, and a
/// server that never knew the password: all at once, because each waits for half a minute.
#[tokio::test]
async fn a_denied_registrar_reports_it_retries_slowly_and_recovers() {
    let etcd = guarded(&[]).await;
    let checked = checks_renewals(&etcd).await;
    let mut client = root(&etcd).await;
    let proxy = Proxy::to_port(etcd.client_port()).await;
    let mut refused = vec![];
    for name in ["rotated", "deleted", "forbidden"] {
        allow(&mut client, name).await;
        let etcd = Etcd::new([proxy.endpoint()]).user(name, CANARY);
        let registrar = Registrar::builder(etcd).build().unwrap();
        refused.push((announced_by(&registrar, name), registrar));
    }
    for (registration, _) in &refused {
        registered_within(LONG, registration).await;
    }
    let forbidden = refused[2].0.status().registered().expect("held").keys[0].clone();
    let before = seen(&etcd, &forbidden).await;
    let stranger = ["--user", "greeter", "--password", "not the password"];
    let stranger = ServerProcess::start(&etcd.endpoint(), &stranger);
    let count = Authentications::from_now_on(&etcd).await;

    client
        .user_change_password("rotated", "another")
        .await
        .unwrap();
    client.user_delete("deleted").await.unwrap();
    let prefix = RoleRevokePermissionOptions::new().with_prefix();
    let revoked = client.role_revoke_permission("forbidden", "/services/forbidden/", Some(prefix));
    revoked.await.unwrap();
    // They have made all their requests; a new connection shows their permissions.
    proxy.reset();
    let reasons = [
        "invalid user ID or password",
        "invalid user ID or password",
        "permission denied",
    ];
    for ((registration, _), reason) in refused.iter().zip(reasons) {
        let reason = told(registration, LONG, reason).await;
        assert!(reason.contains(&proxy.endpoint()), "{reason}");
        assert!(!reason.contains(CANARY), "{reason}");
    }
    let begun = Instant::now();
    sleep(SEC * 10).await;
    let asked = count.so_far(0).await;
    // Whether a user without permission for the key may still renew its lease depends on the version.
    let kept = before.filter(|_| !checked);
    assert_eq!(seen(&etcd, &forbidden).await, kept);
    println!("refused with {asked} authentications");
    assert!((3..=6).contains(&asked), "{asked} authentications");

    client
        .user_change_password("rotated", CANARY)
        .await
        .unwrap();
    client.user_add("deleted", CANARY, None).await.unwrap();
    client.user_grant_role("deleted", "deleted").await.unwrap();
    let allowed = client.role_grant_permission("forbidden", everything_of("forbidden"));
    allowed.await.unwrap();
    for (registration, _) in &refused {
        registered_within(SLOW + SEC * 5, registration).await;
    }
    // One of them was root's own.
    let asked = count.so_far(1).await;
    println!(
        "back after {:?} with {asked} authentications",
        begun.elapsed()
    );
    // The second one of the unknown user may still follow.
    assert!((5..=10).contains(&asked), "{asked} authentications");
    let said = stranger.output();
    assert!(said.contains("invalid user ID or password"), "{said}");
    assert!(said.lines().count() < 6, "{said}");
}

#[tokio::test]
async fn a_role_for_its_own_prefix_is_all_that_a_service_needs() {
    let etcd = guarded(&[]).await;
    let registrar = registrar(&etcd);
    let registration = announced_by(&registrar, "greeter");
    let registered = registered_within(LONG, &registration).await;
    let key = &*registered.keys[0];
    update(&registration, "2").await;
    heals(&etcd, key).await;
    registration.deregister();
    let ended = timeout(LONG, registration.ended()).await.unwrap();
    assert_eq!(ended, Ended::Deregistered);
    assert_eq!(seen(&etcd, key).await, None);
}

#[tokio::test]
async fn a_service_outside_of_the_role_is_refused_and_the_one_inside_stays() {
    let etcd = guarded(&[]).await;
    let registrar = registrar(&etcd);
    let inside = announced_by(&registrar, "greeter");
    let registered = registered_within(LONG, &inside).await;
    let before = seen(&etcd, &registered.keys[0]).await;
    let outside = announced_by(&registrar, "other");
    let reason = told(&outside, LONG, "permission denied").await;
    assert!(reason.contains(&etcd.endpoint()), "{reason}");
    sleep(SEC * 6).await;
    told(&outside, LONG, "permission denied").await;
    // And it stays.
    assert_eq!(
        inside.status(),
        RegistrationStatus::Registered(registered.clone())
    );
    assert_eq!(seen(&etcd, &registered.keys[0]).await, before);
    inside.deregister();
    let ended = timeout(LONG, inside.ended()).await.unwrap();
    assert_eq!(ended, Ended::Deregistered);
}

#[tokio::test]
async fn a_service_inside_the_role_is_repaired_beside_one_outside() {
    let etcd = guarded(&[]).await;
    let registrar = registrar(&etcd);
    let inside = announced_by(&registrar, "greeter");
    let registered = registered_within(LONG, &inside).await;
    let outside = announced_by(&registrar, "other");
    told(&outside, LONG, "permission denied").await;
    heals(&etcd, &registered.keys[0]).await;
}

#[tokio::test]
async fn a_service_inside_the_role_is_registered_beside_one_outside() {
    let etcd = guarded(&[]).await;
    let registrar = registrar(&etcd);
    let outside = announced_by(&registrar, "other");
    let inside = announced_by(&registrar, "greeter");
    registered_within(SEC * 5, &inside).await;
    told(&outside, LONG, "permission denied").await;
}

/// Deletes the key, and waits until it is back under its lease.
async fn heals(etcd: &EtcdProcess, key: &str) {
    let before = seen(etcd, key).await.unwrap();
    root(etcd).await.delete(key, None).await.unwrap();
    let deadline = Instant::now() + SEC * 5;
    loop {
        match seen(etcd, key).await {
            Some(now) if now.created > before.created => {
                assert_eq!(now.lease, before.lease);
                return;
            }
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    }
}

/// etcd does not refuse such a token, but waits until its log reaches the index in the token.
#[tokio::test]
async fn a_token_from_before_a_data_loss_is_replaced_before_the_lease_ends() {
    let mut etcd = EtcdProcess::start_with_users(&[users::CHEAP]).await;
    let mut client = etcd.client().await;
    for n in 0..300 {
        client.put("elsewhere", n.to_string(), None).await.unwrap();
    }
    let (name, password) = users::SERVERS;
    let library = Etcd::new([etcd.endpoint()]).user(name, password);
    let greeter = Greeter::start(&etcd, |_| Registrar::builder(library)).await;
    let key = greeter.key();
    etcd.lose_data(Duration::ZERO).await;
    let anew = status_within(LONG, &greeter.registration, is_registered).await;
    let lease = anew.registered().unwrap().lease;
    sleep(SEC * 8).await;
    match greeter.registration.status() {
        RegistrationStatus::Registered(now) => assert_eq!(now.lease, lease, "and it stays"),
        other => panic!("{other:?}"),
    }
    let found = etcd.client().await.get(&*key, None).await.unwrap();
    let found = found.kvs().first().map(etcd_client::KeyValue::lease);
    assert_eq!(found, Some(lease));
}

#[tokio::test]
async fn neither_password_nor_token_is_ever_logged() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = guarded(&[&jwt(dir.path())]).await;
    let canary = |user| {
        [
            "--user",
            user,
            "--password",
            CANARY,
            "--deregistration-delay",
            "0s",
        ]
    };
    let trace =
        |user| ServerProcess::start_with_env(&etcd.endpoint(), &canary(user), &["RUST_LOG=trace"]);
    let (known, unknown) = (trace("greeter"), trace("nobody"));
    known.registered().await;
    eventually("the refusal is logged", LONG, || {
        let said = unknown.output();
        said.contains("invalid user ID or password")
            .then_some(())
            .ok_or(said)
    })
    .await;
    for server in [&known, &unknown] {
        server.signal("TERM");
        server.exit(LONG).await;
        let said = server.output();
        assert!(said.contains("TRACE"), "{said}");
        assert!(!said.contains(CANARY), "the password is logged: {said}");
        // Every jwt begins with this.
        assert!(!said.contains("eyJ"), "the token is logged: {said}");
    }
}

/// A put with `prev_kv` in a transaction; a single one was refused in each version.
#[tokio::test]
async fn a_role_that_may_only_write_may_not_read_what_it_replaces() {
    let etcd = guarded(&[]).await;
    let mut client = root(&etcd).await;
    let write = Permission::write("/services/greeter/").with_prefix();
    let read = RoleRevokePermissionOptions::new().with_prefix();
    let revoked = client.role_revoke_permission("greeter", "/services/greeter/", Some(read));
    revoked.await.unwrap();
    client
        .role_grant_permission("greeter", write)
        .await
        .unwrap();
    let options = ConnectOptions::new().with_user("greeter", CANARY);
    let mut writer = Client::connect([etcd.endpoint()], Some(options))
        .await
        .unwrap();
    let key = "/services/greeter/1";
    let put = |options| TxnOp::put(key, "v", options);
    writer.txn(Txn::new().and_then([put(None)])).await.unwrap();
    let asks = Some(PutOptions::new().with_prev_key());
    let asked = writer.txn(Txn::new().and_then([put(asks)])).await;
    match checks_nested(&etcd).await {
        true => assert!(asked.unwrap_err().to_string().contains("permission denied")),
        false => assert!(asked.is_ok(), "{asked:?}"),
    }
}

/// The behaviour of `deny_reads` of the fake, through a restart with data.
#[tokio::test]
async fn a_role_that_may_only_write_keeps_its_keys_in_a_restart() {
    let mut etcd = guarded(&[]).await;
    let mut client = root(&etcd).await;
    client.role_add("writer").await.unwrap();
    let write = Permission::write("/services/writer/").with_prefix();
    client.role_grant_permission("writer", write).await.unwrap();
    client.user_add("writer", CANARY, None).await.unwrap();
    client.user_grant_role("writer", "writer").await.unwrap();
    let builder = Registrar::builder(Etcd::new([etcd.endpoint()]).user("writer", CANARY));
    let registrar = builder
        .key_template("{prefix}/{name}/{addr}")
        .build()
        .unwrap();
    let registrations = [(); 2].map(|()| announced_by(&registrar, "writer"));
    let (mut keys, mut before) = (vec![], vec![]);
    for registration in &registrations {
        let key = registered_within(LONG, registration).await.keys[0].to_string();
        before.push(seen(&etcd, &key).await.unwrap());
        keys.push(key);
    }
    let lost = registrations.each_ref().map(|registration| {
        let mut watch = registration.watch();
        tokio::spawn(async move {
            let lost =
                |status: &RegistrationStatus| matches!(status, RegistrationStatus::Lost { .. });
            watch.wait_for(lost).await.is_some()
        })
    });
    etcd.kill().await;
    let suspect =
        |status: &RegistrationStatus| matches!(status, RegistrationStatus::Suspect { .. });
    status_within(LONG, &registrations[0], suspect).await;
    etcd.start_again();
    etcd.wait_answering().await;
    for (key, before) in keys.iter().zip(&before) {
        let deadline = Instant::now() + LONG;
        let now = loop {
            match seen(&etcd, key).await {
                Some(now) if now != *before => break now,
                other => assert!(Instant::now() < deadline, "{other:?}"),
            }
            sleep(Duration::from_millis(50)).await;
        };
        let expected = (before.created, before.lease);
        assert_eq!((now.created, now.lease), expected, "written again in place");
    }
    registrations[0].deregister();
    let ended = timeout(LONG, registrations[0].ended()).await.unwrap();
    let is_left = matches!(ended, Ended::LeftToExpire { .. });
    assert_eq!(is_left, checks_nested(&etcd).await, "{ended:?}");
    registrar.shutdown();
    let ended = timeout(LONG, registrations[1].ended()).await.unwrap();
    assert_eq!(ended, Ended::Deregistered);
    for (key, lost) in keys.iter().zip(lost) {
        assert_eq!(seen(&etcd, key).await, None, "it goes with the lease");
        assert!(!timeout(LONG, lost).await.unwrap().unwrap(), "it was lost");
    }
}
