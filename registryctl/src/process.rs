//! What a server reports on the members of etcd, and on its discoveries.

use crate::entry::foreign;
use crate::server::MOST;
use std::time::Duration;
use tonic_etcd::introspection::pb::{Discovery, EtcdEndpoint, EtcdEndpointState, Process};

/// The lines of the output, each with its name.
pub(crate) fn lines(process: &Process) -> Vec<(&'static str, String)> {
    let members = process.registrars.iter().flat_map(|it| &it.endpoints);
    let members = members.map(|it| ("etcd", member(it)));
    let discoveries = process.discoveries.iter().flat_map(discovery);
    members.take(MOST).chain(discoveries.take(MOST)).collect()
}

fn member(it: &EtcdEndpoint) -> String {
    let (url, last_error) = (foreign(&it.url), foreign(&it.last_error));
    let state = match it.state() {
        EtcdEndpointState::Connected => "connected",
        EtcdEndpointState::Idle => "not connected, not needed",
        EtcdEndpointState::Untried => "not tried",
        EtcdEndpointState::Failing => "failing",
        EtcdEndpointState::Refusing => "refusing",
        // A server with an older version.
        EtcdEndpointState::Unspecified if it.is_connected => "connected",
        EtcdEndpointState::Unspecified => "not connected",
    };
    let since = it.failing_for_ms.map(|ms| format!(" for {}", span(ms)));
    let error = match (it.failing_for_ms, it.last_error_age_ms) {
        (Some(_), Some(_)) => format!(": {last_error}"),
        (None, Some(age)) => format!("; {} ago: {last_error}", span(age)),
        _ => String::new(),
    };
    format!("{url} {state}{}{error}", since.unwrap_or_default())
}

fn discovery(it: &Discovery) -> Vec<(&'static str, String)> {
    let service = foreign(&it.service);
    let mut told = vec![(
        "discovery",
        format!(
            "{service}: {} instances, {} of them missing in etcd, at revision {}",
            it.instances, it.missing, it.revision
        ),
    )];
    for skipped in &it.skipped_by_reason {
        let reason = foreign(&skipped.reason);
        let example = match &*skipped.example {
            "" => String::new(),
            key => format!(", such as {}", foreign(key)),
        };
        told.push((
            "skipped",
            format!("{service}: {} keys: {reason}{example}", skipped.keys),
        ));
    }
    if !it.watch_error.is_empty() {
        told.push((
            "not watched",
            format!("{service}: {}", foreign(&it.watch_error)),
        ));
    }
    told
}

pub(crate) fn span(ms: u64) -> String {
    let duration = Duration::from_millis(ms);
    // Show milliseconds only for short times.
    let rounded = match ms >= 10_000 {
        true => Duration::from_secs(duration.as_secs()),
        false => duration,
    };
    humantime::format_duration(rounded).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_etcd::introspection::pb::Skipped;

    #[test]
    fn each_member_of_etcd_is_reported_with_its_state_and_last_error() {
        let endpoint = |state: EtcdEndpointState, failing_for_ms, age| EtcdEndpoint {
            url: "http://a:1".to_owned(),
            state: state.into(),
            failing_for_ms,
            last_error: "no".to_owned(),
            last_error_age_ms: age,
            ..EtcdEndpoint::default()
        };
        use EtcdEndpointState::{Connected, Failing, Unspecified, Untried};
        for (endpoint, expected) in [
            (endpoint(Connected, None, None), "http://a:1 connected"),
            (
                endpoint(Connected, None, Some(3000)),
                "http://a:1 connected; 3s ago: no",
            ),
            (
                endpoint(Failing, Some(61_000), Some(1)),
                "http://a:1 failing for 1m 1s: no",
            ),
            (endpoint(Untried, None, None), "http://a:1 not tried"),
            (
                endpoint(Unspecified, None, None),
                "http://a:1 not connected",
            ),
        ] {
            assert_eq!(member(&endpoint), expected);
        }
    }

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
                skipped("the value has no id", 7, "/services/greeter/x"),
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
                "greeter: 7 keys: the value has no id, such as /services/greeter/x",
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
