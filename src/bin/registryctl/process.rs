//! What a server says of its discoveries.

use crate::entry::escape;
use tonic_etcd::introspection::pb::{Discovery, Process};

/// What is told, with the name of each line.
pub(crate) fn lines(process: &Process) -> Vec<(&'static str, String)> {
    process.discoveries.iter().flat_map(discovery).collect()
}

fn discovery(it: &Discovery) -> Vec<(&'static str, String)> {
    let service = escape(it.service.as_bytes());
    let mut told = vec![(
        "discovery",
        format!(
            "{service}: {} instances, {} of them missing in etcd, at revision {}",
            it.instances, it.missing, it.revision
        ),
    )];
    for skipped in &it.skipped_by_reason {
        let reason = escape(skipped.reason.as_bytes());
        let example = match &*skipped.example {
            "" => String::new(),
            key => format!(", such as {}", escape(key.as_bytes())),
        };
        told.push((
            "skipped",
            format!("{service}: {} keys: {reason}{example}", skipped.keys),
        ));
    }
    if !it.watch_error.is_empty() {
        let error = escape(it.watch_error.as_bytes());
        told.push(("not watched", format!("{service}: {error}")));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_etcd::introspection::pb::Skipped;

    #[test]
    fn each_reason_to_skip_keys_is_a_line_of_the_discovery() {
        let skipped = |reason: &str, keys, example: &str| Skipped {
            reason: reason.to_owned(),
            keys,
            example: example.to_owned(),
        };
        let discovery = Discovery {
            service: "greeter".to_owned(),
            instances: 3,
            skipped: 9,
            revision: 57,
            skipped_by_reason: vec![
                skipped("the value has no id", 7, "/services/greeter/\x1b[2J"),
                skipped("there are too many", 2, ""),
            ],
            watch_error: "http://a:1: refused".to_owned(),
            ..Discovery::default()
        };
        let process = Process {
            discoveries: vec![discovery],
            ..Process::default()
        };
        let expected = [
            (
                "discovery",
                "greeter: 3 instances, 0 of them missing in etcd, at revision 57",
            ),
            (
                "skipped",
                r"greeter: 7 keys: the value has no id, such as /services/greeter/\u{1b}[2J",
            ),
            ("skipped", "greeter: 2 keys: there are too many"),
            ("not watched", "greeter: http://a:1: refused"),
        ];
        assert_eq!(
            lines(&process),
            expected.map(|(name, text)| (name, text.to_owned()))
        );
    }
}
