//! Checks etcd: each member, its version and alarms, and the cluster.

use super::report::{Report, Verdict};
use crate::source::{Connection, Source, Status};
use crate::wire::{PROBE_TIMEOUT, Wire};
use futures_util::future::join_all;
use tokio::time::Instant;
use tonic_etcd::internal::{CallError, Target};

const CHECK: &str = "etcd";

/// One member that answered.
struct Answer {
    connection: Connection,
    status: Status,
    milliseconds: u128,
}

/// Why a member did not answer.
struct Silence {
    error: CallError,
    /// Unless etcd itself said why.
    wire: Option<Wire>,
}

/// What etcd says without a quorum, and of a learner.
const NO_LEADER: &str = "no leader";
const LEARNER: &str = "not supported for learner";

/// Calls every member at once. Returns a connection to one that answers, if there is one.
pub(crate) async fn check(source: &Source, report: &mut Report) -> Option<Connection> {
    let looks = join_all(source.members.iter().map(|member| look(source, member))).await;
    let (mut answers, mut silences) = (vec![], vec![]);
    for look in looks {
        match look {
            Ok(answer) => answers.push(answer),
            Err(silence) => silences.push(silence),
        }
    }
    if source.members.iter().any(Target::ignores_user) {
        report.add(
            Verdict::Warning,
            "user",
            "a user is given, but authentication is not enabled in this etcd",
            "leave out --user, or enable it: etcdctl auth enable",
        );
    }
    for answer in &answers {
        describe(answer, report);
    }
    let is_voter = |answer: &&Answer| !answer.status.is_learner;
    let led = |it: &Answer| it.status.has_leader && !it.status.is_learner;
    let led = answers.iter().position(led);
    let without_leader = silences.iter().filter(|it| it.says(NO_LEADER));
    let up = answers.iter().filter(is_voter).count() + without_leader.count();
    if led.is_none() && up > 0 {
        let all = source.members.len();
        report.add(
            Verdict::Problem,
            CHECK,
            format!("no leader: {up} of the {all} given members answer, and they are no quorum"),
            "bring members back until more than half of them run: etcdctl endpoint status",
        );
    }
    let verdict = match led {
        None => Verdict::Problem,
        Some(_) => Verdict::Warning,
    };
    for learner in answers.iter().filter(|it| it.status.is_learner) {
        add_learner(learner.connection.etcd.url(), verdict, report);
    }
    for silence in &silences {
        let url = &silence.error.endpoint;
        if silence.says(LEARNER) {
            add_learner(url, verdict, report);
            continue;
        }
        let text = format!("{url}: {}", silence.text());
        report.add(verdict, CHECK, text, silence.next_step());
    }
    let led = answers.into_iter().nth(led?)?;
    Some(led.connection)
}

async fn look(source: &Source, member: &Target) -> Result<Answer, Silence> {
    let began = Instant::now();
    let asked = async {
        let connection = source.connect(member).await?;
        let status = connection.status().await?;
        Ok::<_, CallError>((connection, status))
    };
    match asked.await {
        Ok((connection, status)) => Ok(Answer {
            connection,
            status,
            milliseconds: began.elapsed().as_millis(),
        }),
        Err(error) => {
            let mut silence = Silence { error, wire: None };
            if !is_about_user(&silence.error.reason)
                && ![NO_LEADER, LEARNER].iter().any(|text| silence.says(text))
            {
                let (host, port) = member.host_and_port();
                let limit = source.limit.min(PROBE_TIMEOUT);
                silence.wire = Some(Wire::probe(host, port, limit).await);
            }
            Err(silence)
        }
    }
}

/// Whether etcd says that no user is given, or that its password is wrong.
pub(super) fn is_about_user(reason: &str) -> bool {
    [
        "user name is empty",
        "authentication failed",
        "invalid auth token",
    ]
    .iter()
    .any(|text| reason.contains(text))
}

/// A learner has the data, but answers reads and writes only once it is promoted.
fn add_learner(endpoint: &str, verdict: Verdict, report: &mut Report) {
    let text = format!("{endpoint}: is a learner, which refuses reads and writes of clients");
    let next = "leave it out of the endpoints until it votes: etcdctl member promote ID";
    report.add(verdict, CHECK, text, next);
}

fn describe(answer: &Answer, report: &mut Report) {
    let (status, endpoint) = (&answer.status, answer.connection.etcd.url());
    let role = match (status.is_learner, status.is_leader) {
        (true, _) => ", a learner",
        (_, true) => ", the leader",
        _ => "",
    };
    let text = format!(
        "{endpoint}: etcd {}{role}, {} ms",
        status.version, answer.milliseconds
    );
    report.ok(CHECK, text);
    for alarm in &status.alarms {
        let text = format!("{endpoint}: alarm {alarm}: etcd refuses to write new keys");
        let next = match alarm.as_str() {
            "NOSPACE" => "compact and defragment, then: etcdctl alarm disarm",
            _ => "see etcd's page on data corruption, then: etcdctl alarm disarm",
        };
        report.add(Verdict::Problem, CHECK, text, next);
    }
}

// === impl Silence ===

impl Silence {
    fn says(&self, text: &str) -> bool {
        self.error.reason.contains(text)
    }

    fn text(&self) -> String {
        match &self.wire {
            Some(Wire::Http2) if self.is_secure() => "answers without TLS".to_owned(),
            Some(Wire::Http2) | None => self.error.reason.clone(),
            Some(Wire::Tls) if self.is_secure() => self.error.reason.clone(),
            Some(wire) => wire.text(),
        }
    }

    fn is_secure(&self) -> bool {
        self.error.endpoint.starts_with("https")
    }

    fn next_step(&self) -> &'static str {
        match self.wire {
            _ if is_about_user(&self.error.reason) => {
                "give --user and --password, or check them: etcdctl user get USER"
            }
            Some(Wire::Http2) if !self.is_secure() => "look at the log of that member",
            None => "look at the log of that member",
            Some(Wire::Tls) if !self.is_secure() => "give https:// and --cacert",
            Some(Wire::Tls) => "check --cacert, --cert and --server-name against its certificate",
            Some(_) if self.is_secure() => "that port does not speak TLS: try http://",
            Some(Wire::Unresolved(_)) => "check the name in --etcd",
            Some(Wire::Silent) => "that process hangs, or is no etcd: look at its state and log",
            Some(Wire::Http1 | Wire::Other) => "this port is not etcd's client port, 2379",
            _ => "check --etcd, and that etcd runs there: etcdctl endpoint health",
        }
    }
}
