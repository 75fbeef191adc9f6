//! Checks the registered servers: connection, HTTP/2, health service.

use super::addresses::is_docker_bridge;
use super::keys::{Found, instances};
use super::report::{MOST, Report, Verdict};
use crate::dial::Dialer;
use crate::health::{Health, ask_health};
use crate::wire::Wire;
use futures_util::StreamExt as _;
use tonic_etcd::HEALTH_NAME;
use tonic_etcd::format::Address;

/// The results for one server.
struct Look {
    key: String,
    address: Address,
    wire: Wire,
    /// The health of the server, and of its registration.
    health: Option<[Health; 2]>,
}

/// How many servers are checked at once.
const AT_ONCE: usize = 64;

pub(crate) async fn check(found: Vec<Found>, dialer: &Dialer, report: &mut Report) {
    let looks = found.into_iter().map(|it| look(it, dialer));
    let looks = futures_util::stream::iter(looks).buffered(AT_ONCE);
    let looks: Vec<_> = looks.collect().await;
    let all = looks.len();
    let (up, down): (Vec<_>, Vec<_>) = looks.iter().partition(|it| it.wire == Wire::Http2);
    for look in down.iter().filter(|it| it.wire != Wire::Tls).take(MOST) {
        let text = format!("{}: {} {}", look.key, look.address, look.wire.text());
        report.add(Verdict::Problem, "connect", text, look.next_step());
    }
    let secure = down.iter().filter(|it| it.wire == Wire::Tls).count();
    if secure > 0 {
        let text = format!("{} of {all} want TLS; they are not checked further", secure);
        let next = "give --server-ca-file, to ask them with TLS as clients must; --format kratos can say so \
                    (grpcs://)";
        report.add(Verdict::Warning, "connect", text, next);
    }
    if !up.is_empty() {
        let text = format!("{} of {all} answer in HTTP/2", up.len());
        report.ok("connect", text);
    }
    health(&up, report);
}

fn health(up: &[&Look], report: &mut Report) {
    let mut serving = 0;
    for look in up {
        let Some([server, registration]) = &look.health else {
            continue;
        };
        if let Some((check, text, next)) = fault(look, server, registration) {
            report.add(Verdict::Problem, check, text, next);
        } else if [server, registration].contains(&&Health::Serving) {
            serving += 1;
        }
    }
    if serving > 0 {
        let say = if serving == 1 { "says" } else { "say" };
        report.ok("health", format!("{} {say} SERVING", instances(serving)));
    }
}

/// What is wrong with the health of a server and of its registration: the check, a text, and what to do.
fn fault(
    look: &Look,
    server: &Health,
    registration: &Health,
) -> Option<(&'static str, String, &'static str)> {
    let subject = format!("{}: {}", look.key, look.address);
    Some(match (server, registration) {
        // With TLS 1.3 a server refuses our certificate after the handshake, and its alert may be lost.
        (Health::Broken(reason), _) | (_, Health::Broken(reason)) => (
            "connect",
            format!("{subject} ends the connection: {reason}"),
            "look at its log; with TLS it may want a client certificate: check --server-cert-file",
        ),
        (Health::Failed(reason), _) | (_, Health::Failed(reason)) => (
            "health",
            format!("{subject}: the health service fails: {reason}"),
            "the server is overloaded or hangs: look at its log",
        ),
        (Health::NotServing, _) => (
            "health",
            format!("{subject} says NOT_SERVING"),
            "clients that ask for health leave it out: look at its log",
        ),
        (_, Health::NotServing) => (
            "health",
            format!("{subject} says NOT_SERVING for {HEALTH_NAME}: it does not hold its key"),
            "it is paused, drains, yields to another or cannot reach etcd: look at its log",
        ),
        _ => return None,
    })
}

async fn look(found: Found, dialer: &Dialer) -> Look {
    let Found { key, address, .. } = found;
    let wire = dialer.probe(&address).await;
    let health = match wire {
        Wire::Http2 => Some(ask_health(&address, dialer).await),
        _ => None,
    };
    Look {
        key,
        address,
        wire,
        health,
    }
}

// === impl Look ===

impl Look {
    fn next_step(&self) -> &'static str {
        match &self.wire {
            Wire::Unreachable(_) if is_docker_bridge(&self.address) => {
                "this is an address of docker's bridge on that machine: advertise another"
            }
            Wire::Unreachable(_) => {
                "check that the server listens there, and a firewall; a key without a server goes \
                 with its lease"
            }
            Wire::Unresolved(_) => "check the advertised host name from here",
            Wire::Silent => "that process hangs or is stopped: look at its state and log",
            Wire::TlsFailed(_) => {
                "check its certificate, --server-ca-file, --server-tls-name and --server-cert-file"
            }
            Wire::Plaintext => {
                "clients that dial with TLS cannot call it: give it a certificate, or leave \
                 --server-ca-file out"
            }
            Wire::Http1 => "that port is another server's, or not the one for gRPC",
            _ => "look at the server's log",
        }
    }
}
