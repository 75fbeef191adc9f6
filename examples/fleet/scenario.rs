//! What happens to the fleet, and what must hold then.

use crate::Problem;
use crate::args::{Args, Scenario, Who};
use crate::bar::Bar;
use crate::client::Client;
use crate::serve::PREFIX;
use crate::stage::Stage;
use crate::table::{Table, time};
use crate::workdir::Workdir;
use etcd_client::GetOptions;
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic_etcd::InstanceJson;

/// Plays one scenario on a stage of its own, and prints what came of it.
pub(crate) async fn play(
    scenario: Scenario,
    args: &Args,
    workdir: &Workdir,
    table: &mut Table,
) -> Result<(), Problem> {
    let dir = workdir.path().join(scenario.name());
    let mut stage = Stage::raise(scenario, args, dir).await?;
    sleep(args.warm_up).await;
    match scenario {
        Scenario::Rolling => rolling(&mut stage).await?,
        Scenario::Kill => kill(&mut stage).await?,
        Scenario::EtcdDown => etcd_down(&mut stage).await?,
        Scenario::EtcdWiped => etcd_wiped(&mut stage).await?,
        Scenario::Hang => hang(&mut stage).await?,
        Scenario::Spread => {}
    }
    stage.finish(table).await
}

/// How long the keys of a server that crashed stay, and a little more.
const EXPIRY: Duration = Duration::from_secs(7);
/// How long etcd is away when it loses its data; its start takes another second or two.
const AWAY: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(20);
/// So long it is waited to be seen that a server is forgotten.
const MEMORY: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(2);

async fn rolling(stage: &mut Stage) -> Result<(), Problem> {
    expect(stage, &Bar::NoFailure);
    for round in 1..=stage.args.rounds {
        // By turns as machines do it, with the address staying the same, and as pods do.
        let moves = round % 2 == 0;
        for n in 0..stage.servers.len() {
            restart(stage, n, moves).await?;
        }
    }
    Ok(())
}

async fn kill(stage: &mut Stage) -> Result<(), Problem> {
    let address = stage.servers[0].address();
    let killed = stage.servers[0].kill().await;
    stage.note(format!("SIGKILL of the server at {address}"));
    for side in &mut stage.sides {
        // tonic's errors do not say where a call was.
        let address = (side.who == Who::Balanced).then(|| address.clone());
        side.bars.push(Bar::OnlyInFlight { killed, address });
    }
    sleep(EXPIRY).await;
    stage.servers[0].start_again()?;
    stage.servers[0].registered().await?;
    stage.note("it is started again");
    stage.all_callable().await
}

async fn etcd_down(stage: &mut Stage) -> Result<(), Problem> {
    expect(stage, &Bar::NoFailure);
    let outage = stage.args.outage;
    stage.etcd.kill().await;
    stage.note("etcd is killed");
    sleep(outage).await;
    stage.etcd.start_again();
    stage.etcd.serving().await?;
    stage.note("etcd answers again, with its data");
    // Until the servers' leases would have run out, had they not been kept.
    sleep(EXPIRY).await;
    Ok(())
}

/// One server moves while nobody can be told, so that the set of before is wrong.
async fn etcd_wiped(stage: &mut Stage) -> Result<(), Problem> {
    expect(stage, &Bar::NoFailure);
    stage.etcd.kill().await;
    stage.etcd.wipe();
    stage.note("etcd is killed, and its data deleted");
    stage.servers[0].terminate().await?;
    stage.servers[0].move_away();
    stage.servers[0].start_again()?;
    stage.note("one server has moved meanwhile");
    sleep(AWAY).await;
    stage.etcd.start_again();
    let real = stage.addresses();
    let keys = keys_are_back(stage.etcd.endpoint(), &real);
    let callable = stage.sides.iter().map(|side| {
        let right = |client: &Client| client.callable() == real;
        side.until(TIMEOUT, right)
    });
    let callable = join_all(callable);
    let (keys, callable) = tokio::join!(keys, callable);
    let keys = keys?;
    stage.note("etcd has the keys of all servers again");
    for (side, right) in stage.sides.iter_mut().zip(callable) {
        let took = right.map(|right| right.saturating_duration_since(keys));
        side.bars.push(Bar::Converges { took });
    }
    forgotten(stage, keys).await;
    Ok(())
}

async fn hang(stage: &mut Stage) -> Result<(), Problem> {
    let (hang, args) = (stage.args.hang, &stage.args);
    let limit = args.keep_alive + args.keep_alive_timeout + Duration::from_secs(1);
    let stopped = stage.servers[0].signal("STOP");
    let address = stage.servers[0].address();
    stage.note(format!("SIGSTOP of the server at {address}"));
    expect(stage, &Bar::GoesElsewhere { stopped, limit });
    sleep(hang).await;
    stage.servers[0].signal("CONT");
    stage.note("SIGCONT");
    stage.all_callable().await
}

/// For the clients of all kinds.
fn expect(stage: &mut Stage, bar: &Bar) {
    for side in &mut stage.sides {
        side.bars.push(bar.clone());
    }
}

async fn restart(stage: &mut Stage, n: usize, moves: bool) -> Result<(), Problem> {
    let name = stage.servers[n].name().to_owned();
    stage.note(format!("SIGTERM to {name}"));
    stage.servers[n].terminate().await?;
    stage.note(format!("{name} has ended"));
    if moves {
        stage.servers[n].move_away();
    }
    stage.servers[n].start_again()?;
    stage.servers[n].registered().await
}

/// When etcd had the keys of all these servers.
async fn keys_are_back(etcd: String, addresses: &BTreeSet<String>) -> Result<Instant, Problem> {
    let mut client = etcd_client::Client::connect([etcd], None).await?;
    let limit = Instant::now() + TIMEOUT;
    while Instant::now() < limit {
        let listed = client
            .get(PREFIX, Some(GetOptions::new().with_prefix()))
            .await;
        let listed = listed
            .map(|listed| listed.kvs().to_vec())
            .unwrap_or_default();
        let read = listed
            .iter()
            .filter_map(|kv| serde_json::from_slice(kv.value()).ok());
        let found: BTreeSet<_> = read
            .map(|instance: InstanceJson| instance.address)
            .collect();
        if found == *addresses {
            return Ok(Instant::now());
        }
        sleep(POLL).await;
    }
    Err("the servers' keys do not come back".into())
}

/// Whether the server is forgotten that has gone. A set that shrank in an outage is not believed at
/// once: it may be remembered for all of the grace, while nothing is called there.
async fn forgotten(stage: &mut Stage, keys: Instant) {
    let real = stage.addresses();
    let notes = stage.sides.iter().map(async |side| {
        let right = |client: &Client| client.found() == real;
        match side.until(MEMORY, right).await {
            None => format!("{:?}: one that has gone is still remembered", side.who),
            Some(when) => {
                let took = time(when.saturating_duration_since(keys));
                format!(
                    "{:?}: none that has gone is remembered, {took} later",
                    side.who
                )
            }
        }
    });
    for note in join_all(notes).await {
        stage.note(note);
    }
}
