//! The deployments under `examples/deploy/` use only flags, variables and metrics that exist.

use crate::source;
use std::collections::BTreeSet;

const FILES: [&str; 4] = [
    "Dockerfile",
    "compose.yaml",
    "greeter.service",
    "kubernetes.yaml",
];

fn read(path: &str) -> String {
    source::read(format!("examples/{path}"))
}

/// The variables of the examples that stand in a text.
fn variables(text: &str) -> BTreeSet<&str> {
    let words = text.split(|char: char| !(char.is_ascii_uppercase() || char == '_'));
    let ours = ["ETCD_", "GREETER_", "CALLER_"];
    let is_ours = |word: &&str| ours.iter().any(|prefix| word.starts_with(prefix));
    words.filter(is_ours).collect()
}

#[test]
fn each_variable_of_a_deployment_is_read_by_an_example() {
    let sources = ["server.rs", "caller.rs", "access/mod.rs"]
        .map(read)
        .concat();
    let known = variables(&sources);
    let mut named = 0;
    for file in FILES {
        let text = read(&format!("deploy/{file}"));
        for variable in variables(&text) {
            assert!(known.contains(variable), "{file}: {variable}");
            named += 1;
        }
    }
    assert!(named >= 9, "only {named} variables are named");
}

#[test]
fn each_deployment_allows_for_the_waits_of_a_stop() {
    // revoke_timeout, and the defaults of --deregistration-delay and --drain-timeout.
    let server = read("server.rs");
    for default in ["default_value = \"1s\"", "default_value = \"30s\""] {
        assert!(server.contains(default), "{default}");
    }
    let needed = 1 + 1 + 30;
    for (file, setting) in [
        ("kubernetes.yaml", "terminationGracePeriodSeconds:"),
        ("compose.yaml", "stop_grace_period:"),
        ("greeter.service", "TimeoutStopSec="),
    ] {
        let text = read(&format!("deploy/{file}"));
        let (_, after) = text.split_once(setting).expect(setting);
        let digits: String = after
            .trim_start()
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        let seconds: u32 = digits.parse().expect(setting);
        assert!(seconds > needed, "{file}: {seconds} s");
    }
}
