//! The error of the `server` example for a configuration that cannot work: it names the setting and the remedy,
//! with exit code 2.

use crate::setup::{LONG, SEC};
use crate::support::ports::free_addr;
use crate::support::server::ServerProcess;
use tokio::time::sleep;

const ETCD: &str = "http://127.0.0.1:1";
const HTTPS: &str = "https://127.0.0.1:1";
const NO_CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

#[tokio::test]
async fn a_configuration_that_cannot_work_ends_with_2_and_names_the_culprit() {
    let taken = tokio::net::TcpListener::bind(free_addr()).await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (etcd, flags, said) in [
        (
            "ftp://127.0.0.1:2379",
            &[][..],
            &["ftp://127.0.0.1:2379", "http or https"][..],
        ),
        ("", &[], &["http://127.0.0.1:2379"]),
        (ETCD, &["--ttl", "0s"], &["0ns", "2 s to 9000000000 s"]),
        (ETCD, &["--ttl", "2500ms"], &["2.5s", "whole seconds"]),
        (ETCD, &["--name", "a/b"], &["a/b", "slash"]),
        (ETCD, &["--prefix", ""], &["prefix", "empty"]),
        (ETCD, &["--key", "{name}/{nope}"], &["{nope}", "{pid}"]),
        (ETCD, &["--advertise", "0.0.0.0:9"], &["0.0.0.0:9", "dial"]),
        (ETCD, &["--listen", &taken], &[&taken, "another process"]),
        (ETCD, &["--listen", "nonsense"], &["nonsense", "--listen"]),
        (ETCD, &["--attempt-timeout", "0s"], &["0ns"]),
        (ETCD, &["--attempt-timeout", "4s"], &["4s", "TTL"]),
        (ETCD, &["--attempt-timeout", "9y"], &["9y", "a year"]),
        (ETCD, &["--on-conflict", "fight"], &["fight", "take-over"]),
        (ETCD, &["--user", "u"], &["--user", "--password"]),
        (ETCD, &["--cert", "c.pem"], &["--cert", "--key-file"]),
        (
            ETCD,
            &["--cert", "c.pem", "--key-file", "k.pem"],
            &["--cacert"],
        ),
        (ETCD, &["--server-name", "etcd"], &["--cacert"]),
        (HTTPS, &["--cacert", "no-such.pem"], &["no-such.pem"]),
        (ETCD, &["--cacert", NO_CERTIFICATE], &[ETCD, "https"]),
    ] {
        let server = ServerProcess::start(etcd, flags);
        let code = server.exit(LONG).await;
        let output = server.output();
        assert_eq!(code, 2, "{etcd} {flags:?}: {output}");
        for said in said {
            assert!(
                output.contains(said),
                "{etcd} {flags:?}: {said:?} is not in {output}"
            );
        }
    }
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_named_and_the_server_serves_meanwhile() {
    let server = ServerProcess::start("http://no-such-host.invalid:2379", &[]);
    server.listening().await;
    sleep(SEC * 2).await;
    let output = server.output();
    let endpoint = "http://no-such-host.invalid:2379: ";
    assert!(output.contains(endpoint), "{output}");
    let lines = output.matches("out of reach").count();
    assert_eq!(lines, 1, "one line for one state: {output}");
    server.signal("TERM");
    assert_eq!(server.exit(LONG).await, 0, "{}", server.output());
}
