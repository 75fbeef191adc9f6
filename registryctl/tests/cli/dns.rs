//! A DNS server that drops, in a network namespace of the test's own.

use std::time::Duration;
use test_support::etcd::Etcd;
use test_support::namespace::{self, Dns};
use tokio::process::Command;
use tokio::time::Instant;

#[tokio::test]
async fn doctor_ends_although_a_name_is_still_looked_up() {
    if !namespace::enter("dns::doctor_ends_although_a_name_is_still_looked_up").await {
        return;
    }
    let etcd = Etcd::start().await;
    let dns = Dns::start(None);
    let value = r#"{"name":"greeter","id":"a","address":"server.example:9000"}"#;
    let mut client = etcd.client().await;
    let put = client.put("/services/greeter/a", value, None);
    put.await.unwrap();
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_registryctl"));
    let doctor = doctor.args(["doctor", "--etcd", &etcd.endpoint(), "greeter"]);
    let begun = Instant::now();
    let output = doctor.kill_on_drop(true).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("no answer about the name in time"), "{text}");
    assert!(dns.queries() > 0);
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
}
