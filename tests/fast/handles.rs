//! The `Debug` output of handles in a log line.

use crate::setup::{SEC, Setup, announce, greeter};
use std::fmt::Debug;
use tokio::time::sleep;
use tonic_etcd::Instance;

/// One line, however much there is behind the handle.
fn assert_shown(handle: &impl Debug, expected: &str) {
    assert_eq!(format!("{handle:?}"), expected);
}

#[tokio::test(start_paused = true)]
async fn a_registrar_and_its_handles_show_themselves_in_one_line() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let registration = registrar.register(greeter()).unwrap();
    let others = (1..=100).map(|n| {
        let other = Instance::new("other").with_id(n.to_string());
        registrar.register(other.with_address(format!("10.0.0.2:{n}")))
    });
    let _others: Vec<_> = others.map(Result::unwrap).collect();
    assert_shown(
        &registration,
        r#"Registration { names: ["greeter"], status: registering, .. }"#,
    );
    announce(&registration);
    registration.registered().await.unwrap();
    assert_shown(
        &registration,
        r#"Registration { names: ["greeter"], status: registered, .. }"#,
    );
    assert_shown(&registration.watch(), "StatusWatch(registered)");
    assert_shown(
        &registrar,
        "Registrar { registrations: 101, is_stopping: false, .. }",
    );
}

#[cfg(feature = "discovery")]
#[tokio::test(start_paused = true)]
async fn a_discovery_and_its_handles_show_themselves_in_one_line() {
    let setup = Setup::new();
    crate::discovery::put(&setup.fake, 1..=100);
    let discovery = crate::discovery::discovery(&setup.fake);
    let channel = discovery.channel().build().unwrap();
    assert_shown(
        &channel,
        r#"BalancedChannel { service: "greeter", endpoints: 0, ready: 0, .. }"#,
    );
    let revision = discovery.ready().await.revision();
    let shown =
        format!(r#"Discovery {{ service: "greeter", instances: 100, revision: {revision}, .. }}"#);
    assert_shown(&discovery, &shown);
    let shown = format!("SnapshotWatch {{ instances: 100, revision: {revision}, .. }}");
    assert_shown(&discovery.watch(), &shown);
    assert_shown(&discovery.changes(), "Changes { unread: 100, .. }");
    sleep(SEC).await;
}
