//! What happens to the fleet, and what must hold then.

use crate::args::{Args, Scenario, Who};
use crate::client::Client;
use crate::host::PREFIX;
use crate::problem::Problem;
use crate::setup::Setup;
use crate::table::Table;
use crate::workdir::Workdir;
use etcd_client::GetOptions;
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::time::Duration;
use test_support::load::{Bar, time};
use test_support::poll;
use tokio::time::{Instant, sleep};
use tonic_etcd::InstanceJson;

/// Runs one scenario on a setup of its own, and prints the results.
pub(crate) async fn perform(
    scenario: Scenario,
    args: &Args,
    workdir: &Workdir,
    table: &mut Table,
) -> Result<(), Problem> {
    let dir = workdir.path().join(scenario.name());
    let mut setup = Setup::raise(scenario, args, dir).await?;
    sleep(args.warm_up).await;
    match scenario {
        Scenario::Rolling => rolling(&mut setup).await?,
        Scenario::Paused => paused(&mut setup).await?,
        Scenario::Kill => kill(&mut setup).await?,
        Scenario::EtcdDown => etcd_down(&mut setup).await?,
        Scenario::EtcdWiped => etcd_wiped(&mut setup).await?,
        Scenario::Hang => hang(&mut setup).await?,
        Scenario::Spread => {}
    }
    setup.finish(table).await
}

/// How long the keys of a server that crashed stay, and a little more.
const EXPIRY: Duration = Duration::from_secs(7);
const PAUSE: Duration = Duration::from_millis(500);
/// How long etcd is away when it loses its data; its start takes another second or two.
const AWAY: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(20);
/// How long to wait until a server is forgotten.
const MEMORY: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(2);

async fn rolling(setup: &mut Setup) -> Result<(), Problem> {
    expect(setup, &Bar::NoFailure);
    for round in 1..=setup.args.rounds {
        // By turns as machines do it, with the address staying the same, and as pods do.
        let moves = round % 2 == 0;
        for n in 0..setup.servers.len() {
            restart(setup, n, moves).await?;
        }
    }
    Ok(())
}

async fn paused(setup: &mut Setup) -> Result<(), Problem> {
    expect(setup, &Bar::NoFailure);
    let mut client = setup.etcd.client().await;
    for _ in 0..setup.args.rounds {
        for n in 0..setup.servers.len() {
            let name = setup.servers[n].name().to_owned();
            setup.note(format!("{name} is paused"));
            setup.servers[n].pause(&mut client).await?;
            sleep(PAUSE).await;
            setup.servers[n].resume().await;
            setup.note(format!("{name} is back"));
        }
    }
    Ok(())
}

async fn kill(setup: &mut Setup) -> Result<(), Problem> {
    let address = setup.servers[0].address();
    let killed = setup.servers[0].signal("KILL");
    setup.note(format!("SIGKILL of the server at {address}"));
    for side in &mut setup.sides {
        // tonic's errors do not say where a call was.
        let address = (side.who == Who::Balanced).then(|| address.clone());
        side.bars.push(Bar::OnlyInFlight { killed, address });
    }
    sleep(EXPIRY).await;
    setup.servers[0].start_again();
    setup.servers[0].registered().await;
    setup.note("it is started again");
    setup.all_callable().await
}

async fn etcd_down(setup: &mut Setup) -> Result<(), Problem> {
    expect(setup, &Bar::NoFailure);
    let outage = setup.args.outage;
    setup.etcd.kill().await;
    setup.note("etcd is killed");
    setup.etcd.restart(outage).await;
    setup.note("etcd answers again, with its data");
    // Until the servers' leases would have expired without renewals.
    sleep(EXPIRY).await;
    Ok(())
}

/// One server moves while etcd is down, so that the old set is wrong.
async fn etcd_wiped(setup: &mut Setup) -> Result<(), Problem> {
    expect(setup, &Bar::NoFailure);
    setup.etcd.kill().await;
    setup.etcd.wipe();
    setup.note("etcd is killed, and its data deleted");
    setup.servers[0].terminate().await?;
    setup.servers[0].move_away();
    setup.servers[0].start_again();
    setup.note("one server has moved meanwhile");
    sleep(AWAY).await;
    setup.etcd.start_again();
    let real = setup.addresses();
    let keys = keys_are_back(setup.etcd.endpoint(), &real);
    let callable = setup.sides.iter().map(|side| {
        let right = |client: &Client| client.callable() == real;
        side.until(TIMEOUT, right)
    });
    let callable = join_all(callable);
    let (keys, callable) = tokio::join!(keys, callable);
    let keys = keys?;
    setup.note("etcd has the keys of all servers again");
    for (side, right) in setup.sides.iter_mut().zip(callable) {
        let took = right.map(|right| right.saturating_duration_since(keys));
        side.bars.push(Bar::Converges { took });
    }
    forgotten(setup, keys).await;
    Ok(())
}

async fn hang(setup: &mut Setup) -> Result<(), Problem> {
    let (hang, args) = (setup.args.hang, &setup.args);
    let limit = args.keep_alive + args.keep_alive_timeout + Duration::from_secs(1);
    let stopped = setup.servers[0].signal("STOP");
    let address = setup.servers[0].address();
    setup.note(format!("SIGSTOP of the server at {address}"));
    expect(setup, &Bar::GoesElsewhere { stopped, limit });
    sleep(hang).await;
    setup.servers[0].signal("CONT");
    setup.note("SIGCONT");
    setup.all_callable().await
}

/// For the clients of all kinds.
fn expect(setup: &mut Setup, bar: &Bar) {
    for side in &mut setup.sides {
        side.bars.push(bar.clone());
    }
}

async fn restart(setup: &mut Setup, n: usize, moves: bool) -> Result<(), Problem> {
    let name = setup.servers[n].name().to_owned();
    setup.note(format!("SIGTERM to {name}"));
    setup.servers[n].terminate().await?;
    setup.note(format!("{name} has ended"));
    if moves {
        setup.servers[n].move_away();
    }
    setup.servers[n].start_again();
    setup.servers[n].registered().await;
    Ok(())
}

/// When etcd had the keys of all these servers.
async fn keys_are_back(etcd: String, addresses: &BTreeSet<String>) -> Result<Instant, Problem> {
    let mut client = etcd_client::Client::connect([etcd], None).await?;
    let back = poll(POLL, TIMEOUT, async || {
        let options = GetOptions::new().with_prefix();
        let listed = client.get(PREFIX, Some(options)).await?;
        let mut found = BTreeSet::new();
        for kv in listed.kvs() {
            let instance: InstanceJson = serde_json::from_slice(kv.value())?;
            found.insert(instance.address);
        }
        match found == *addresses {
            true => Ok(Instant::now()),
            false => Err(Problem::from(format!("the servers' keys: {found:?}"))),
        }
    });
    back.await
}

/// Checks that the server that has gone is forgotten. After an outage it may stay in the set for the whole
/// retention, but gets no calls.
async fn forgotten(setup: &mut Setup, keys: Instant) {
    let real = setup.addresses();
    let notes = setup.sides.iter().map(async |side| {
        let right = |client: &Client| client.found() == real;
        match side.until(MEMORY, right).await {
            None => format!("{:?}: a server that has gone is still in the set", side.who),
            Some(when) => {
                let took = time(when.saturating_duration_since(keys));
                format!(
                    "{:?}: no server that has gone is in the set, {took} later",
                    side.who
                )
            }
        }
    });
    for note in join_all(notes).await {
        setup.note(note);
    }
}
