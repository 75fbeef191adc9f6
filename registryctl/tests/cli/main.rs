//! The program as people run it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

use std::process::Command;

#[test]
fn a_password_in_an_endpoint_is_shown_nowhere() {
    for url in [
        "http://me:canary@127.0.0.1:1",
        "http://me:canary%40127.0.0.1:1",
    ] {
        for args in [
            &["list"][..],
            &["doctor", "greeter"],
            &["watch"],
            &["list", "--help"],
        ] {
            for by_environment in [false, true] {
                let mut command = Command::new(env!("CARGO_BIN_EXE_registryctl"));
                command.args(args);
                match by_environment {
                    true => command.env("ETCD_ENDPOINTS", url),
                    false => command.args(["--etcd", url]),
                };
                let output = command.output().unwrap();
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8(text).unwrap();
                assert!(
                    !text.is_empty() && !text.contains("canary"),
                    "{args:?}: {text}"
                );
            }
        }
    }
}
