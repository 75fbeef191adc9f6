//! `registryctl describe`, `pause` and `resume` on the `server` example.

use crate::LONG;
use std::process::Output;
use test_support::certificates::{Authority, write};
use test_support::etcd::{Etcd, users};
use test_support::observer::Observer;
use test_support::ports::free_addr;
use test_support::server::ServerProcess;
use test_support::{library_etcd, registered_within};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Server, ServerTlsConfig};
use tonic_etcd::format::{Kratos, Plain};
use tonic_etcd::introspection::Introspection;
use tonic_etcd::{Instance, Registrar, ServeRegistered as _};

/// What a command printed, after its exit code.
async fn registryctl(etcd: &Etcd, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_registryctl"));
    command.args(args).args(["--etcd", &etcd.endpoint()]);
    if let Some((name, password)) = users::of_servers() {
        command.args(["--user", name, "--password", password]);
    }
    command.kill_on_drop(true);
    let output: Output = timeout(LONG, command.output()).await.unwrap().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code().unwrap(), out + &err)
}

#[tokio::test]
async fn describe_shows_both_sides_and_what_they_do_not_agree_on() {
    let etcd = Etcd::start().await;
    let server = ServerProcess::start(&etcd.endpoint(), &["--introspection", "read"]);
    let (key, address) = (
        server.registered().await,
        server.listening().await.to_string(),
    );
    for instance in ["greeter", &key, &address] {
        let (code, text) = registryctl(&etcd, &["describe", instance]).await;
        assert_eq!(code, 0, "{instance}: {text}");
        for told in [
            &*key,
            "registered for ",
            " of 5 s left",
            "SERVING",
            "plain",
            &address,
        ] {
            assert!(text.contains(told), "{instance}: no {told:?} in:\n{text}");
        }
        assert!(!text.contains("! "), "{text}");
    }
    let (code, text) = registryctl(&etcd, &["describe", "greeter/none"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("is not in etcd"), "{text}");
    let (code, text) = registryctl(&etcd, &["pause", &address, "--reason", "why"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("remote control is off"), "{text}");

    // The server has no introspection service: etcd's side is shown all the same.
    let silent = ServerProcess::start(&etcd.endpoint(), &["--name", "other"]);
    silent.registered().await;
    let (code, text) = registryctl(&etcd, &["describe", "other"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("it has no introspection service"), "{text}");
    assert!(text.contains("/services/other/"), "{text}");
}

#[tokio::test]
async fn describe_shows_that_another_process_has_written_the_key() {
    let etcd = Etcd::start().await;
    let server = ServerProcess::start(
        &etcd.endpoint(),
        &["--introspection", "read", "--on-conflict", "yield"],
    );
    let (key, address) = (server.registered().await, server.listening().await);
    let value = format!(r#"{{"name":"greeter","id":"x","address":"{address}"}}"#);
    etcd.client().await.put(key, value, None).await.unwrap();
    let differs = async {
        loop {
            let (code, text) = registryctl(&etcd, &["describe", "greeter"]).await;
            if text.contains("yielding") {
                return (code, text);
            }
        }
    };
    let (code, text) = timeout(LONG, differs).await.unwrap();
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("! /services/greeter/"), "{text}");
}

/// It compared the keys of one service with those of the whole process.
#[tokio::test]
async fn a_process_with_several_services_has_no_false_differences() {
    let etcd = Etcd::start().await;
    let registrar = Registrar::builder(library_etcd([etcd.endpoint()]));
    let registrar = registrar.format(Plain::new()).format(Kratos::new());
    let registrar = registrar.build().unwrap();
    // One registration with two names, and another one at the same address.
    let both = registrar.register_all([Instance::new("greeter"), Instance::new("orders")]);
    let both = both.unwrap();
    let incoming = both.bind(free_addr()).unwrap();
    let address = incoming.local_addr();
    let billing = registrar.register(Instance::new("billing")).unwrap();
    billing.announce(address).unwrap();
    let introspection = Introspection::builder().registrar(&registrar);
    let serving = Server::builder()
        .layer(both.layer())
        .add_service(introspection.build())
        .serve_registered_with_incoming(incoming);
    let _serving = AbortOnDropHandle::new(tokio::spawn(serving));
    for registration in [&both, &billing] {
        registered_within(LONG, registration).await;
    }
    for instance in ["greeter", "orders", "billing", &address.to_string()] {
        let (code, text) = registryctl(&etcd, &["describe", instance]).await;
        assert_eq!(code, 0, "{instance}: {text}");
        assert!(!text.contains("! "), "{instance}: {text}");
    }
}

/// The pause of another operator was replaced silently: its end put back a server that was still looked at.
#[tokio::test]
async fn a_pause_of_another_operator_is_not_replaced() {
    let etcd = Etcd::start().await;
    let server = ServerProcess::start(&etcd.endpoint(), &["--introspection", "control"]);
    server.registered().await;
    let address = server.listening().await.to_string();
    for (reason, expected) in [("core dump", 0), ("core dump", 0), ("upgrade", 1)] {
        let (code, text) = registryctl(&etcd, &["pause", &address, "--reason", reason]).await;
        assert_eq!(code, expected, "{reason}: {text}");
        if code == 0 {
            continue;
        }
        for told in ["registryctl: core dump", "--pause-name"] {
            assert!(text.contains(told), "no {told:?} in: {text}");
        }
    }
    let (code, text) = registryctl(&etcd, &["describe", &address]).await;
    assert!(text.contains("registryctl: core dump"), "{code}: {text}");
    let other = ["--reason", "upgrade", "--pause-name", "mine"];
    let (code, text) = registryctl(&etcd, &[&["pause", &address][..], &other].concat()).await;
    assert_eq!(code, 0, "{text}");
}

#[tokio::test]
async fn a_server_is_paused_and_resumed_from_outside() {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let server = ServerProcess::start(&etcd.endpoint(), &["--introspection", "control"]);
    let (key, address) = (
        server.registered().await,
        server.listening().await.to_string(),
    );
    observer.wait_for_key(&key, LONG).await;
    let (code, text) = registryctl(&etcd, &["pause", "greeter", "--reason", "core dump"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains(&format!("registryctl resume {address}")),
        "{text}"
    );
    observer.wait_for_no_key(&key, LONG).await;
    let (code, text) = registryctl(&etcd, &["describe", &address]).await;
    assert_eq!(code, 1, "it is not in etcd: {text}");
    assert!(text.contains("registryctl: core dump"), "{text}");
    let (code, text) = registryctl(&etcd, &["resume", "greeter"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("Give its address"), "{text}");
    let (code, text) = registryctl(&etcd, &["resume", &address]).await;
    assert_eq!(code, 0, "{text}");
    observer.wait_for_key(&key, LONG).await;
    let (code, text) = registryctl(&etcd, &["resume", &address]).await;
    assert_eq!(code, 1, "{text}");
    server.signal("TERM");
    assert_eq!(server.exit(LONG).await, 0, "{}", server.output());
}

#[tokio::test]
async fn a_server_with_tls_is_described_paused_and_resumed() {
    let etcd = Etcd::start().await;
    let authority = Authority::new("one");
    let identity = authority.sign("127.0.0.1");
    let registrar = Registrar::builder(library_etcd([etcd.endpoint()]));
    let registrar = registrar.build().unwrap();
    let registration = registrar.register(Instance::new("greeter")).unwrap();
    let introspection = Introspection::builder().registrar(&registrar);
    let incoming = registration.bind(free_addr()).unwrap();
    let serving = Server::builder()
        .tls_config(ServerTlsConfig::new().identity(identity.for_tonic()))
        .unwrap()
        .layer(registration.layer())
        .add_service(registration.health_service())
        .add_service(introspection.remote_control(true).build())
        .serve_registered_with_incoming(incoming);
    let _serving = AbortOnDropHandle::new(tokio::spawn(serving));
    let registered = registered_within(LONG, &registration).await;
    let key = registered.keys[0].to_string();

    let files = tempfile::tempdir().unwrap();
    let ca = write(files.path(), "ca", &authority.pem);
    let ca = ca.display().to_string();
    let trusts = ["--server-ca-file", &*ca];
    let (code, text) = registryctl(&etcd, &["describe", "greeter"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("wants TLS"), "{text}");
    let describe = [&["describe", "greeter"][..], &trusts].concat();
    let (code, text) = registryctl(&etcd, &describe).await;
    assert_eq!(code, 0, "{text}");
    for told in ["registered for ", "answers in HTTP/2", "SERVING"] {
        assert!(text.contains(told), "no {told:?} in:\n{text}");
    }
    let pause = [&["pause", "greeter", "--reason", "core dump"][..], &trusts].concat();
    let (code, text) = registryctl(&etcd, &pause).await;
    assert_eq!(code, 0, "{text}");
    let address = text
        .split_whitespace()
        .skip_while(|word| *word != "resume")
        .nth(1);
    let resume = [&["resume", address.unwrap()][..], &trusts].concat();
    let (code, text) = registryctl(&etcd, &resume).await;
    assert_eq!(code, 0, "{text}");
    let back = registered_within(LONG, &registration).await;
    assert_eq!(*back.keys[0], *key);
}
