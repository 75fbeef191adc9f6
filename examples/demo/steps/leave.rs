//! SIGTERM: first the key is deleted, then the port is closed, then the process ends.

use crate::health::NAMES;
use crate::server::{GREETINGS, Server};
use crate::setup::{SETTLE, Setup, TIMEOUT, request, show};
use crate::timeline::{Fail, Timeline, time};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use test_support::observer::Kind;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep};
use tonic_etcd::Ended;
use tonic_health::ServingStatus;

/// Events arrive over different connections, so their order is known only this exactly.
const TOLERANCE: Duration = Duration::from_millis(20);
/// The pause between two connections.
const KNOCK: Duration = Duration::from_millis(5);

/// The results of connecting repeatedly.
struct Knocks {
    accepted: usize,
    /// When the first one was refused, and how.
    refused: Instant,
    why: String,
}

pub(super) async fn leave(setup: &mut Setup, timeline: &mut Timeline) -> Result<(), Fail> {
    let Some(addr) = setup.server.as_ref().map(|server| server.addr) else {
        return Ok(());
    };
    let mark = setup.observer.mark();
    let reports = setup.health.as_ref().map_or(0, |health| health.mark());
    let stream = Server::stream(addr).await?;
    let knocks = tokio::spawn(knock(addr));

    setup.stops.server_only.store(true, Ordering::Release);
    let sent = Instant::now();
    terminate_ourselves().await?;
    timeline.note("SIGTERM, with a request of two seconds in flight");

    let gone = setup
        .see("a DELETE of the key", mark, |events| {
            events
                .iter()
                .find(|event| event.kind == Kind::Delete)
                .cloned()
        })
        .await?;
    timeline.held(&format!(
        "the key is gone {} after the signal",
        time(gone.at - sent)
    ));
    told_before(setup, timeline, reports, gone.at)?;
    Server::call(addr).await?;
    timeline.held("a new call to the address is still answered");

    let knocks = Fail::within(TIMEOUT, "the port to close", knocks).await?;
    let open = knocks.refused.saturating_duration_since(gone.at);
    let expected = format!("the port to stay open for {SETTLE:?} after the DELETE");
    Fail::unless(open + TOLERANCE >= SETTLE, expected, || {
        format!("refused after {}: {}", time(open), knocks.why)
    })?;
    timeline.held(&format!(
        "the port closed {} after the DELETE; all {} connections until then were accepted",
        time(open),
        knocks.accepted
    ));

    let greetings = Fail::within(TIMEOUT, "the request in flight to end", stream).await?;
    let expected = format!("all {GREETINGS} messages of the request in flight");
    Fail::unless(greetings == GREETINGS, expected, || format!("{greetings}"))?;
    timeline.held(&format!(
        "the request in flight got all of its {GREETINGS} messages"
    ));
    ended(setup, timeline, mark).await
}

/// Checks that health changed before the key was deleted.
fn told_before(
    setup: &Setup,
    timeline: &mut Timeline,
    reports: usize,
    gone: Instant,
) -> Result<(), Fail> {
    let Some(health) = &setup.health else {
        return Ok(());
    };
    for name in NAMES {
        let said = health.since(reports);
        let told = said
            .iter()
            .find(|report| report.name == name && report.says == Some(ServingStatus::NotServing));
        let expected = format!("{name:?} to say NOT_SERVING before the DELETE");
        let told = told.ok_or_else(|| Fail::new(&expected, format!("{said:?}")))?;
        let late = told.at.saturating_duration_since(gone);
        Fail::unless(late <= TOLERANCE, expected, || {
            format!("{} after it", time(late))
        })?;
    }
    timeline.held("health said NOT_SERVING before that, under both names");
    Ok(())
}

async fn ended(setup: &mut Setup, timeline: &mut Timeline, mark: usize) -> Result<(), Fail> {
    let Some(server) = &mut setup.server else {
        return Ok(());
    };
    let ended = server.ended(TIMEOUT).await?;
    Fail::unless(
        ended == Ended::Deregistered,
        "a server that deregistered",
        || format!("{ended:?}"),
    )?;
    timeline.held("serving has ended with the result: deregistered");

    setup.caught_up().await?;
    let happened = setup.happened(mark);
    Fail::unless(
        happened.len() == 1,
        "one DELETE and nothing after it",
        || show(&happened),
    )?;
    let leases = setup.leases().await?;
    Fail::unless(leases.is_empty(), "no lease left behind", || {
        format!("{leases:x?}")
    })?;
    let left = request("the key", setup.other.get(setup.key.as_str(), None)).await?;
    Fail::unless(left.kvs().is_empty(), "no key left behind", || {
        format!("{left:?}")
    })?;
    timeline.held("nothing is left in etcd: no key, no lease, and nothing came after the DELETE");
    Ok(())
}

/// Connects repeatedly until a connect is refused.
async fn knock(addr: SocketAddr) -> Knocks {
    let mut accepted = 0;
    loop {
        if let Err(error) = TcpStream::connect(addr).await {
            return Knocks {
                accepted,
                refused: Instant::now(),
                why: error.to_string(),
            };
        }
        accepted += 1;
        sleep(KNOCK).await;
    }
}

/// Sends SIGTERM to this process, as an orchestrator does.
async fn terminate_ourselves() -> Result<(), Fail> {
    let pid = std::process::id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().await;
    match sent {
        Ok(status) if status.success() => Ok(()),
        other => Err(Fail::new("`kill` to send SIGTERM", format!("{other:?}"))),
    }
}
