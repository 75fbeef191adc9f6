//! TLS to etcd, with certificates made here, and each mistake in them.
//!
//! Each etcd has two endpoints: a plaintext one for the tests themselves, and the one under test.

use crate::setup::{Greeter, SEC, announced};
use crate::support::certificates::{Authority, Identity, write};
use crate::support::etcd::users;
use crate::support::ports::free_addr;
use crate::support::secured::Secured;
use etcd_client::Permission;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use tokio::time::{Instant, timeout_at};
use tonic_etcd::{Etcd, Registrar, RegistrationStatus, Tls};

/// Registers through the TLS endpoint, and finds the key through the other one.
async fn registers(secured: &Secured, tls: Tls) {
    let etcd = Etcd::new([&secured.endpoint]).tls(tls);
    let greeter = Greeter::start(&secured.etcd, |_| Registrar::builder(etcd)).await;
    let found = secured.etcd.client().await.get(greeter.key(), None).await;
    assert_eq!(found.unwrap().count(), 1);
}

fn trusting(authority: &Authority) -> Tls {
    Tls::new().ca_pem(&*authority.pem)
}

/// Checks that it cannot be registered there, and that the reason in the status names the endpoint.
async fn refused(case: &str, secured: &Secured, tls: Tls) -> String {
    let endpoint = &secured.endpoint;
    refused_at(case, endpoint, Etcd::new([endpoint]).tls(tls)).await
}

async fn refused_at(case: &str, endpoint: &str, etcd: Etcd) -> String {
    let registration = announced(Registrar::builder(etcd));
    let mut reasons = BTreeSet::new();
    let mut statuses = registration.watch();
    let deadline = Instant::now() + SEC * 3;
    while let Ok(Some(status)) = timeout_at(deadline, statuses.changed()).await {
        let RegistrationStatus::Registering {
            reason: Some(reason),
            ..
        } = status
        else {
            panic!("{case}: {status:?}");
        };
        let prefix = format!("{endpoint}: ");
        assert!(reason.starts_with(&prefix), "{case}: {reason}");
        reasons.insert(reason.to_string());
    }
    let reasons = Vec::from_iter(reasons).join("; ");
    println!("{case}: {reasons}");
    reasons
}

#[tokio::test]
async fn a_service_registers_over_tls_and_mutual_tls() {
    let authority = Authority::new("ours");
    let identity = authority.sign("127.0.0.1");
    let named = authority.sign("etcd.example");
    let (plain, by_name, mutual) = tokio::join!(
        Secured::start(&identity, None),
        Secured::start(&named, None),
        Secured::start(&identity, Some(&authority)),
    );
    let client = authority.sign("greeter");
    tokio::join!(
        registers(&plain, trusting(&authority)),
        registers(&by_name, trusting(&authority).domain("etcd.example")),
        registers(
            &mutual,
            trusting(&authority).identity_pem(client.certificate, client.key)
        ),
    );
}

/// The certificate carries the name of the endpoint and none of its addresses.
#[tokio::test]
async fn a_name_that_is_looked_up_is_the_name_that_tls_checks() {
    let authority = Authority::new("ours");
    let secured = Secured::start(&authority.sign("etcd.example"), None).await;
    let addr: SocketAddr = secured.endpoint["https://".len()..].parse().unwrap();
    let dead = free_addr();
    let to = |name: &str| {
        Etcd::new([format!("https://{name}:{}", addr.port())])
            .tls(trusting(&authority))
            .resolver(move |_, _| std::future::ready(Ok(vec![dead, addr])))
    };
    let named = |_| Registrar::builder(to("etcd.example"));
    Greeter::start(&secured.etcd, named).await;
    let endpoint = format!("https://other.example:{}", addr.port());
    let whys = refused_at("another name", &endpoint, to("other.example")).await;
    assert!(whys.contains("invalid peer certificate"), "{whys}");
}

#[tokio::test]
async fn certificates_replaced_on_disk_are_used_by_the_next_connection() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let mut secured = Secured::start(&old.sign("127.0.0.1"), Some(&old)).await;
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    let replace = |authority: &Authority| {
        let Identity { certificate, key } = authority.sign("greeter");
        for (name, pem) in [
            ("ca", &authority.pem),
            ("certificate", &certificate),
            ("key", &key),
        ] {
            std::fs::rename(write(files.path(), "half-written", pem), path(name)).unwrap();
        }
    };
    replace(&old);
    let tls = Tls::new()
        .ca_file(path("ca"))
        .identity_files(path("certificate"), path("key"));
    let etcd = Etcd::new([&secured.endpoint]).tls(tls);
    let greeter = Greeter::start(&secured.etcd, |_| Registrar::builder(etcd)).await;
    let before = greeter.registration.registered().await.unwrap();
    let mut statuses = greeter.registration.watch();

    secured.etcd.kill().await;
    let suspect = statuses.changed().await;
    let is_suspect = matches!(suspect, Some(RegistrationStatus::Suspect { .. }));
    assert!(is_suspect, "{suspect:?}");
    let theirs = new.sign("127.0.0.1");
    for (name, pem) in [
        ("certificate", &theirs.certificate),
        ("key", &theirs.key),
        ("ca", &new.pem),
    ] {
        write(secured.files.path(), name, pem);
    }
    replace(&new);
    secured.etcd.start_again();
    secured.etcd.wait_serving().await;

    let after = greeter.registration.registered().await.unwrap();
    assert_eq!(before.lease, after.lease);
    assert_eq!(before.revision, after.revision);
    let mut client = secured.etcd.client().await;
    let found = client.get(greeter.key(), None).await.unwrap();
    let kept = found.kvs().first().map(etcd_client::KeyValue::mod_revision);
    // Neither deleted nor written again.
    assert_eq!(kept, Some(before.revision));
}

/// For large fleets instead of passwords.
#[tokio::test]
async fn the_name_in_a_client_certificate_is_the_user_without_authenticating() {
    let authority = Authority::new("ours");
    let mut secured = Secured::start(&authority.sign("127.0.0.1"), Some(&authority)).await;
    let mut client = secured.etcd.client().await;
    for name in ["greeter", "stranger"] {
        let unknown = "a password that nobody has";
        client.user_add(name, unknown, None).await.unwrap();
        client.role_add(name).await.unwrap();
        client.user_grant_role(name, name).await.unwrap();
    }
    let keys = Permission::read_write("/services/greeter/").with_prefix();
    client.role_grant_permission("greeter", keys).await.unwrap();
    users::make(&mut client).await.unwrap();
    let named = |name: &str| {
        let name = name.to_owned();
        let identity = authority.sign_as("whatever", |params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            let common_name = rcgen::DnType::CommonName;
            params.distinguished_name.push(common_name, name);
        });
        trusting(&authority).identity_pem(identity.certificate, identity.key)
    };
    let as_greeter = Etcd::new([&secured.endpoint]).tls(named("greeter"));

    let reason = refused("no permission", &secured, named("stranger")).await;
    assert!(reason.contains("permission denied"), "{reason}");
    let greeter = Greeter::start(&secured.etcd, |_| Registrar::builder(as_greeter)).await;
    let before = greeter.registration.registered().await.unwrap();
    assert_eq!(secured.etcd.calls("Authenticate").await, 0);

    let mut statuses = greeter.registration.watch();
    secured.etcd.kill().await;
    statuses.changed().await.unwrap();
    secured.etcd.start_again();
    secured.etcd.wait_answering().await;
    let after = greeter.registration.registered().await.unwrap();
    assert_eq!(before.lease, after.lease);
    assert_eq!(before.revision, after.revision);
    assert_eq!(secured.etcd.calls("Authenticate").await, 0);
}

#[tokio::test]
async fn what_is_wrong_with_tls_is_said_with_the_endpoint_and_the_cause() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let right = ours.sign("127.0.0.1");
    let elsewhere = ours.sign("elsewhere.example");
    let expired = ours.sign_as("127.0.0.1", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let (right, elsewhere, expired, mutual) = tokio::join!(
        Secured::start(&right, None),
        Secured::start(&elsewhere, None),
        Secured::start(&expired, None),
        Secured::start(&right, Some(&ours)),
    );
    let stranger = theirs.sign("greeter");
    let stranger = trusting(&ours).identity_pem(stranger.certificate, stranger.key);
    let plaintext = right.endpoint.replace("https:", "http:");
    let encrypted = right.etcd.endpoint().replace("http:", "https:");
    let encrypted_etcd = Etcd::new([&encrypted]).tls(trusting(&ours));
    let reasons = tokio::join!(
        refused("wrong CA", &right, trusting(&theirs)),
        refused("wrong name", &elsewhere, trusting(&ours)),
        refused("expired", &expired, trusting(&ours)),
        refused("no client certificate", &mutual, trusting(&ours)),
        refused("foreign client certificate", &mutual, stranger),
        refused_at("plaintext to TLS", &plaintext, Etcd::new([&plaintext])),
        refused_at("TLS to plaintext", &encrypted, encrypted_etcd),
    );
    let (wrong_ca, wrong_name, expired, no_identity, foreign, plaintext, encrypted) = reasons;
    assert!(wrong_ca.contains("UnknownIssuer"), "{wrong_ca}");
    assert!(
        wrong_name.contains("not valid for name \"127.0.0.1\""),
        "{wrong_name}"
    );
    assert!(wrong_name.contains("elsewhere.example"), "{wrong_name}");
    assert!(expired.contains("certificate expired"), "{expired}");
    // In these cases etcd closes the connection, with texts that differ from run to run. So check the
    // advice.
    for (reason, advice) in [
        (no_identity, "Tls::identity_pem"),
        (foreign, "Tls::identity_pem"),
        (plaintext, "write https://"),
        (encrypted, "check that it speaks TLS there"),
    ] {
        assert!(reason.contains(advice), "{advice:?} is not in {reason:?}");
    }
}
