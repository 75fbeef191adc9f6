//! Three real etcd processes that form one cluster.
//!
//! Each member has the whole API of [`Etcd`]: kill, stop and restart them one by one. What a client should dial is in
//! [`Cluster::endpoints`], in the order of [`Cluster::members`].

use std::time::Duration;

use etcd_client::{Client, Error, MemberAddOptions, ResponseHeader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::etcd::{Etcd, Plan, users};
use super::poll;

/// Picking six ports can lose a race against another process.
const START_ATTEMPTS: usize = 5;
/// The timeout of one request for the leader.
const PROBE: Duration = Duration::from_millis(200);
/// An election takes one to two seconds; on a busy machine there may be several.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A cluster of three. All are killed on drop.
#[derive(Debug)]
pub struct Cluster {
    /// The members; [`Cluster::leader`] returns which one leads.
    pub members: Vec<Etcd>,
}

impl Cluster {
    /// Starts three members, with users if they are wanted, and waits until each of them serves.
    ///
    /// # Panics
    /// When they do not come up; the message carries the end of a log.
    pub async fn start() -> Self {
        let mut last = String::new();
        for _ in 0..START_ATTEMPTS {
            let mut cluster = Self::planned();
            for member in &mut cluster.members {
                member.start_again();
            }
            match cluster.serving().await {
                Ok(()) => return cluster,
                Err(why) => last = why,
            }
        }
        panic!("the cluster did not start in {START_ATTEMPTS} attempts, the last one: {last}")
    }

    /// What clients dial, one per member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Etcd::endpoint).collect()
    }

    /// Waits until the running members agree on a leader, and returns its index in [`Cluster::members`].
    ///
    /// # Panics
    /// When there is none after half a minute.
    pub async fn leader(&self) -> usize {
        let elected = poll(Duration::from_millis(10), TIMEOUT, async || {
            for (index, member) in self.members.iter().enumerate() {
                if member.is_up() && matches!(timeout(PROBE, leads(member)).await, Ok(Ok(true))) {
                    return Ok(index);
                }
            }
            Err(self.members[0].log_tail())
        });
        let none = |log| panic!("no leader for {TIMEOUT:?}; a member says:\n{log}");
        elected.await.unwrap_or_else(none)
    }

    /// A member that does not lead.
    pub async fn follower(&self) -> usize {
        (self.leader().await + 1) % self.members.len()
    }

    /// Moves the leadership to a member, and waits until it is the leader.
    ///
    /// # Panics
    /// When it has not after half a minute.
    pub async fn make_leader(&self, index: usize) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let leader = self.leader().await;
            if leader == index {
                return;
            }
            let is_late = Instant::now() >= deadline;
            assert!(!is_late, "member {index} does not become the leader");
            // Refused during an election; then it is tried again.
            let _asked = timeout(PROBE, self.move_leader(leader, index)).await;
        }
    }

    /// Replaces a member by a new one with other ports and no data, as one replaces machines: the new
    /// one joins, then the old one is removed and ends.
    ///
    /// # Panics
    /// When etcd does not let it join within half a minute.
    pub async fn replace(&mut self, index: usize) {
        let others = self.members.len();
        let mut client = self.members[(index + 1) % others].client().await;
        let old = self.members[index].client().await.status().await;
        let old = old.expect("the old member answers");
        let old = old.header().map_or(0, ResponseHeader::member_id);
        let name = format!("instead-of-{}", self.members[index].client_port());
        let member = self.join(&name, &mut client, MemberAddOptions::new()).await;
        member.wait_serving().await;
        let removed = client.member_remove(old).await;
        removed.expect("the old member is removed");
        self.members[index].kill().await;
        self.members[index] = member;
    }

    /// Adds a learner, and waits until it runs: it gets the data and does not vote.
    ///
    /// # Panics
    /// When etcd does not let it join within half a minute.
    pub async fn add_learner(&mut self) {
        let mut client = self.members[0].client().await;
        let options = MemberAddOptions::new().with_is_learner();
        let learner = self.join("learner", &mut client, options).await;
        let address = ("127.0.0.1", learner.client_port());
        let connects = poll(Duration::from_millis(50), TIMEOUT, async || {
            TcpStream::connect(address).await
        });
        connects.await.expect("the learner listens");
        self.members.push(learner);
    }

    /// Adds a member through `client`, and starts it.
    async fn join(&self, name: &str, client: &mut Client, options: MemberAddOptions) -> Etcd {
        let plan = Plan::new(name);
        // A cluster takes a new member when all others have been connected for five seconds.
        let added = poll(Duration::from_millis(200), TIMEOUT, async || {
            let options = Some(options.clone());
            client.member_add([plan.peer_url()], options).await
        });
        added.await.expect("the cluster takes the member");
        for member in &self.members {
            member_knows(member, &plan.peer_url()).await;
        }
        let mut all: Vec<_> = self.members.iter().map(Etcd::membership).collect();
        all.push(plan.membership());
        let plan = plan
            .in_cluster(&all.join(","))
            .with_args(&["--initial-cluster-state=existing"])
            .with_args(users::flags());
        let mut member = Etcd::joining(plan, users::are_wanted());
        member.start_again();
        member
    }

    async fn move_leader(&self, from: usize, to: usize) -> Result<(), Error> {
        let next = self.members[to].client().await.status().await?;
        let next = next.header().map_or(0, ResponseHeader::member_id);
        let mut leader = self.members[from].client().await;
        leader.move_leader(next).await.map(drop)
    }

    fn planned() -> Self {
        let plans = ["one", "two", "three"].map(Plan::new);
        let all = plans.each_ref().map(Plan::membership).join(",");
        let members = plans.map(|plan| {
            let plan = plan.in_cluster(&all).with_args(users::flags());
            Etcd::planned(plan, users::are_wanted())
        });
        Self {
            members: members.into(),
        }
    }

    async fn serving(&self) -> Result<(), String> {
        let (first, others) = self.members.split_first().expect("three members");
        first.serving().await?;
        for member in others {
            // The users are replicated from the first one.
            if users::are_wanted() {
                member.knows_its_users().await;
            }
            member.serving().await?;
        }
        Ok(())
    }
}

/// Waits until this member has another one in its list. A new member asks one of them when it joins, and ends if it is
/// not in that one's list yet.
async fn member_knows(member: &Etcd, peer_url: &str) {
    let knows = poll(Duration::from_millis(10), TIMEOUT, async || {
        let list = member.client().await.member_list().await;
        let mut urls = list.iter().flat_map(|list| list.members());
        match urls.any(|other| other.peer_urls().iter().any(|url| url == peer_url)) {
            true => Ok(()),
            false => Err(format!("{peer_url} is in no list: {list:?}")),
        }
    });
    knows.await.unwrap_or_else(|seen| panic!("{seen}"));
}

/// Whether this member reports that it is the leader.
async fn leads(member: &Etcd) -> Result<bool, Error> {
    let status = member.client().await.status().await?;
    let own = status.header().map(ResponseHeader::member_id);
    Ok(own == Some(status.leader()) && status.leader() != 0)
}
