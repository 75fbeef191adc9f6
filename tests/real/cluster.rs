//! Three members, some of which are killed, hang, restart or cannot be reached.
//!
//! The registrar has the endpoints of all three. The tests check that a fault of a member
//! changes no key and no health. `ROUNDS=20` repeats each test that often on the same
//! cluster and prints the times of every round: `make measure-cluster` runs this.

mod trial;

use crate::setup::{LONG, SEC, announced, is_lost, is_registered};
use crate::support::cluster::Cluster;
use crate::support::observer::Observer;
use crate::support::proxy::{Mode, Proxy};
use crate::support::server::ServerProcess;
use crate::support::{library_etcd, registered_within};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic_etcd::Registrar;
use trial::{Trial, Watched};

const TTL: Duration = Duration::from_secs(5);
/// Longer than a TTL: a lease without a renewal has expired by then.
const OUTLASTS_THE_TTL: Duration = Duration::from_secs(6);

/// Which member something happens to.
#[derive(Clone, Copy, Debug)]
enum Victim {
    FollowerInUse,
    LeaderInUse,
    /// The leader, while the registrar is connected to a follower.
    LeaderElsewhere,
}

/// The fault of the member.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    Stopped,
}

fn rounds() -> usize {
    let rounds = std::env::var("ROUNDS").ok();
    rounds.map_or(1, |rounds| rounds.parse().expect("ROUNDS is a number"))
}

/// Makes sure that there is such a member, and returns its index.
async fn find(cluster: &Cluster, watched: &Watched, victim: Victim) -> usize {
    let endpoints = cluster.endpoints();
    loop {
        watched.steady().await;
        let in_use = watched.in_use();
        let in_use = endpoints.iter().position(|endpoint| *endpoint == in_use);
        let in_use = in_use.expect("one of the members");
        let leader = match victim {
            Victim::LeaderInUse => in_use,
            Victim::FollowerInUse | Victim::LeaderElsewhere => (in_use + 1) % 3,
        };
        cluster.make_leader(leader).await;
        watched.steady().await;
        // A change of leaders may make it change members.
        if endpoints[in_use] == watched.in_use() {
            return match victim {
                Victim::LeaderElsewhere => leader,
                Victim::FollowerInUse | Victim::LeaderInUse => in_use,
            };
        }
    }
}

async fn nobody_notices(faults: &[(Victim, Fault)]) {
    let mut cluster = Cluster::start().await;
    let watched = Watched::start(&cluster, &cluster.endpoints()).await;
    for round in 0..rounds() {
        for (victim, fault) in faults {
            let index = find(&cluster, &watched, *victim).await;
            let survivor = cluster.members[(index + 1) % 3].endpoint();
            let trial = Trial::begin(&watched, &survivor).await;
            match fault {
                Fault::Killed => cluster.members[index].kill().await,
                Fault::Stopped => cluster.members[index].stop_signal(),
            }
            sleep(OUTLASTS_THE_TTL).await;
            let what = format!("round {round}: {victim:?} {fault:?}");
            trial.end(&what).await;
            match fault {
                Fault::Killed => cluster.members[index].start_again(),
                Fault::Stopped => cluster.members[index].cont_signal(),
            }
            cluster.members[index].wait_serving().await;
        }
    }
}

#[tokio::test]
async fn nobody_notices_that_a_follower_is_killed_or_stopped() {
    nobody_notices(&[
        (Victim::FollowerInUse, Fault::Killed),
        (Victim::FollowerInUse, Fault::Stopped),
    ])
    .await;
}

#[tokio::test]
async fn nobody_notices_that_the_leader_is_killed_or_stopped() {
    nobody_notices(&[
        (Victim::LeaderInUse, Fault::Killed),
        (Victim::LeaderInUse, Fault::Stopped),
        (Victim::LeaderElsewhere, Fault::Stopped),
    ])
    .await;
}

#[tokio::test]
async fn nobody_notices_a_rolling_restart() {
    let mut cluster = Cluster::start().await;
    let watched = Watched::start(&cluster, &cluster.endpoints()).await;
    for round in 0..rounds() {
        let trial = Trial::begin(&watched, &cluster.members[0].endpoint()).await;
        for member in &mut cluster.members {
            member.kill().await;
            member.start_again();
            member.wait_serving().await;
        }
        sleep(OUTLASTS_THE_TTL).await;
        trial.end(&format!("round {round}: rolling restart")).await;
    }
}

#[tokio::test]
async fn nobody_notices_that_one_member_is_a_black_hole() {
    let cluster = Cluster::start().await;
    let mut proxies = vec![];
    for member in &cluster.members {
        proxies.push(Proxy::to_port(member.client_port()).await);
    }
    let endpoints: Vec<_> = proxies.iter().map(Proxy::endpoint).collect();
    let watched = Watched::start(&cluster, &endpoints).await;
    for round in 0..rounds() {
        watched.steady().await;
        let in_use = endpoints.iter().position(|it| *it == watched.in_use());
        let in_use = in_use.expect("one of the proxies");
        let trial = Trial::begin(&watched, &cluster.members[in_use].endpoint()).await;
        proxies[in_use].set(Mode::BlackHole);
        sleep(OUTLASTS_THE_TTL).await;
        trial.end(&format!("round {round}: black hole")).await;
        proxies[in_use].set(Mode::Forward);
    }
}

/// etcd extends every lease when a leader is elected, so that no lease expires and
/// watchers see no event.
#[tokio::test]
async fn a_quorum_lost_for_longer_than_the_ttl_is_reported_and_keeps_the_key() {
    let mut cluster = Cluster::start().await;
    let watched = Watched::start(&cluster, &cluster.endpoints()).await;
    for round in 0..rounds() {
        watched.steady().await;
        // Alternately, the leader or a follower remains.
        let survivor = (cluster.leader().await + round) % 3;
        let observer = Observer::start(cluster.members[survivor].endpoint(), "/services/").await;
        let before = observer.wait_for_key(&watched.key, LONG).await;
        let killed = Instant::now();
        let dead = [(survivor + 1) % 3, (survivor + 2) % 3];
        for index in dead {
            cluster.members[index].kill().await;
        }
        let told = watched.status(LONG, is_lost).await - killed;
        // A leader without a quorum still renews leases until it steps down, 1 to 2 s later.
        let bounds = TTL / 2..TTL + SEC * 4;
        assert!(bounds.contains(&told), "told after {told:?}");
        watched.health(LONG, false).await;
        sleep(SEC).await;
        for index in dead {
            cluster.members[index].start_again();
        }
        let serving = cluster.members[survivor].wait_serving().await;
        let back = watched.status(SEC * 5, is_registered).await;
        watched.health(LONG, true).await;
        let back = back.saturating_duration_since(serving);
        println!("round {round}: quorum lost; told after {told:?}, held again after {back:?}");
        sleep(OUTLASTS_THE_TTL).await;
        assert_eq!(observer.events(), []);
        assert_eq!(observer.keys()[&watched.key], before);
    }
}

/// Afterwards none of the endpoints that were configured is left.
#[tokio::test]
async fn nobody_notices_that_every_member_is_replaced() {
    let mut cluster = Cluster::start().await;
    let configured = cluster.endpoints();
    let etcd = library_etcd(&configured).sync_members(SEC);
    let registration = announced(Registrar::builder(etcd));
    let registered = registered_within(LONG, &registration).await;
    let key = registered.keys[0].to_string();
    let before = key_in(&cluster, &key).await;
    let mut watch = registration.watch();
    let lost = tokio::spawn(async move { watch.wait_for(is_lost).await });
    for index in 0..3 {
        cluster.replace(index).await;
        sleep(SEC * 2).await;
    }
    sleep(OUTLASTS_THE_TTL).await;
    let left = cluster.endpoints();
    assert!(!left.iter().any(|endpoint| configured.contains(endpoint)));
    assert!(!lost.is_finished(), "{:?}", lost.await);
    assert!(registration.status().is_registered());
    assert_eq!(key_in(&cluster, &key).await, before, "lease and revisions");
}

/// Lease, revision of the first write, revision of the last one.
async fn key_in(cluster: &Cluster, key: &str) -> (i64, i64, i64) {
    let mut client = cluster.members[0].client().await;
    let found = client.get(key, None).await.unwrap();
    let kv = found.kvs().first().expect("the key is there");
    (kv.lease(), kv.create_revision(), kv.mod_revision())
}

#[tokio::test]
async fn a_server_killed_with_the_leader_is_gone_after_an_election_and_a_ttl() {
    for round in 0..rounds() {
        let mut cluster = Cluster::start().await;
        let leader = cluster.leader().await;
        let observer = &cluster.members[(leader + 1) % 3];
        let observer = Observer::start(observer.endpoint(), "/services/").await;
        let server = ServerProcess::start(&cluster.endpoints().join(","), &[]);
        let key = server.registered().await;
        observer.wait_for_key(&key, LONG).await;
        let start = Instant::now();
        server.signal("KILL");
        cluster.members[leader].kill().await;
        observer.wait_for_no_key(&key, LONG).await;
        let gone = start.elapsed();
        println!("round {round}: server and leader killed; gone after {gone:?}");
        // What was left of the TTL, an election of one to three rounds, the TTL as extended.
        let bounds = TTL - SEC * 2..TTL + SEC * 4 + TTL + SEC;
        assert!(bounds.contains(&gone), "{gone:?}");
    }
}
