//! Checks etcd: each member, its version and alarms, and the cluster.

use super::report::{Report, Verdict};
use crate::call_error::{CallError, ErrorKind};
use crate::source::{Connection, Source, Status};
use crate::wire::{PROBE_TIMEOUT, Wire};
use futures_util::future::join_all;
use tokio::time::Instant;

const CHECK: &str = "etcd";

/// One member that answered.
struct Answer {
    connection: Connection,
    status: Status,
    milliseconds: u128,
}

/// Why one did not.
struct Silence {
    shown: String,
    error: CallError,
    wire: Option<Wire>,
}

/// Calls every member at once. Returns a connection to one that answers, if there is one.
pub(crate) async fn check(source: &mut Source, report: &mut Report) -> Option<Connection> {
    let (answers, silences) = ask_all(source, report).await;
    for answer in &answers {
        describe(answer, report);
    }
    let is_voter = |answer: &&Answer| !answer.status.is_learner;
    let led = |it: &Answer| it.status.has_leader && !it.status.is_learner;
    let led = answers.iter().position(led);
    let kinds = silences.iter().map(|it| it.error.kind);
    let without_leader = kinds.filter(|kind| *kind == ErrorKind::NoLeader);
    let up = answers.iter().filter(is_voter).count() + without_leader.count();
    if led.is_none() && up > 0 {
        let all = source.len();
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
        add_learner(&learner.connection.endpoint, verdict, report);
    }
    for silence in &silences {
        if silence.error.kind == ErrorKind::Learner {
            add_learner(&silence.shown, verdict, report);
            continue;
        }
        let text = format!("{}: {}", silence.shown, silence.text());
        report.add(verdict, CHECK, text, silence.next_step());
    }
    let led = answers.into_iter().nth(led?)?;
    Some(led.connection)
}

/// As the user that is given; without one, if etcd has no users.
async fn ask_all(source: &mut Source, report: &mut Report) -> (Vec<Answer>, Vec<Silence>) {
    loop {
        let looks = join_all((0..source.len()).map(|member| look(source, member))).await;
        let (mut answers, mut silences) = (vec![], vec![]);
        for look in looks {
            match look {
                Ok(answer) => answers.push(answer),
                Err(silence) => silences.push(silence),
            }
        }
        let mut kinds = silences.iter().map(|it: &Silence| it.error.kind);
        if !kinds.any(|kind| kind == ErrorKind::NoUsers) || !source.drop_user() {
            return (answers, silences);
        }
        report.add(
            Verdict::Warning,
            "user",
            "a user is given, but authentication is not enabled in this etcd",
            "leave out --user, or enable it: etcdctl auth enable",
        );
    }
}

async fn look(source: &Source, member: usize) -> Result<Answer, Silence> {
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
            let member = source.member(member);
            let (host, port) = member.host_and_port();
            let limit = source.limit().min(PROBE_TIMEOUT);
            let wire = match error.kind {
                ErrorKind::Transport => Some(Wire::probe(host, port, limit).await),
                _ => None,
            };
            Err(Silence {
                shown: member.shown.to_string(),
                error,
                wire,
            })
        }
    }
}

/// A learner has the data, but answers reads and writes only once it is promoted.
fn add_learner(endpoint: &str, verdict: Verdict, report: &mut Report) {
    let text = format!("{endpoint}: is a learner, which refuses reads and writes of clients");
    let next = "leave it out of the endpoints until it votes: etcdctl member promote ID";
    report.add(verdict, CHECK, text, next);
}

fn describe(answer: &Answer, report: &mut Report) {
    let (status, endpoint) = (&answer.status, &answer.connection.endpoint);
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
    fn text(&self) -> String {
        match &self.wire {
            Some(Wire::Http2) if self.is_secure() => "answers without TLS".to_owned(),
            Some(Wire::Http2) | None => self.error.reason.clone(),
            Some(Wire::Tls) if self.is_secure() => self.error.reason.clone(),
            Some(wire) => wire.text(),
        }
    }

    fn is_secure(&self) -> bool {
        self.shown.starts_with("https")
    }

    fn next_step(&self) -> &'static str {
        match self.wire {
            _ if self.error.kind == ErrorKind::User => {
                "give --user and --password, or check them: etcdctl user get USER"
            }
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
