//! [`Members`]: the members of the cluster: the configured ones, and those of etcd's member list.

use super::member::Member;
use super::rpc_error::{RpcError, with_timeout};
use crate::address::{LocalIp, is_localhost};
use crate::error::BuildError;
use crate::runtime::isolated::in_current_span;
use crate::runtime::lock::Lock;
use etcd_client::ClusterClient;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// See the [module](self).
#[derive(Debug, Clone)]
pub(crate) struct Members {
    pub(super) configured: Arc<[Member]>,
    synced: Option<Arc<MemberList>>,
}

/// The members of etcd's member list. Shared by all clones of an [`Etcd`](super::Etcd).
#[derive(Debug)]
pub(super) struct MemberList {
    interval: Duration,
    /// Those that the last list named.
    found: Lock<Arc<[Member]>>,
}

const SHORTEST: Duration = Duration::from_secs(1);
/// No cluster has more; etcd recommends seven at most.
const MOST: usize = 64;

// === impl Members ===

impl Members {
    pub(super) fn new(configured: Vec<Member>, synced: Option<Arc<MemberList>>) -> Self {
        Self {
            configured: configured.into(),
            synced,
        }
    }

    /// The members of the last list, and the configured ones, each once.
    pub(super) fn all(&self) -> Vec<Member> {
        let found = self.synced.as_ref().map(|list| list.found.lock().to_vec());
        let mut all = found.unwrap_or_default();
        for member in &*self.configured {
            if !all.iter().any(|other| other.shown() == member.shown()) {
                all.push(member.clone());
            }
        }
        all
    }

    /// The member for attempt number `index`. Consecutive numbers go through all members; each
    /// round uses another address of each.
    pub(super) fn at(&self, index: usize) -> Member {
        let mut all = self.all();
        let count = all.len();
        all.swap_remove(index % count).in_round(index / count)
    }

    /// How many members there are now.
    pub(crate) fn len(&self) -> usize {
        self.all().len()
    }

    /// The members there are now, as logs and errors show them.
    #[cfg(feature = "introspection")]
    pub(crate) fn shown(&self) -> Vec<Arc<str>> {
        let all = self.all().into_iter();
        all.map(|member| member.shown().clone()).collect()
    }

    /// Whether every member is certainly on another machine: given by an address that is not one of
    /// `ours`. A name may mean any machine, also this one.
    pub(crate) fn are_remote(&self, ours: &[LocalIp]) -> bool {
        let is_ours = |ip: IpAddr| ip.is_loopback() || ours.iter().any(|local| local.ip == ip);
        self.configured
            .iter()
            .all(|member| match member.host().parse::<IpAddr>() {
                Ok(ip) => !is_ours(ip.to_canonical()),
                Err(_) => false,
            })
    }

    /// Whether any member is given by a name other than `localhost`.
    pub(crate) fn have_names(&self) -> bool {
        let is_name = |host: &str| host.parse::<IpAddr>().is_err() && !is_localhost(host);
        self.configured.iter().any(|member| is_name(member.host()))
    }

    /// Whether `what` is true for the shown name of any member.
    pub(crate) fn any(&self, what: impl Fn(&Arc<str>) -> bool) -> bool {
        self.all().iter().any(|member| what(member.shown()))
    }

    /// Reads the list through `cluster` now and after every interval, until the result is dropped. `None`: the list
    /// is not to be read.
    pub(super) fn sync(
        &self,
        cluster: impl FnOnce() -> ClusterClient,
        endpoint: &Arc<str>,
        limit: Duration,
    ) -> Option<JoinSet<()>> {
        let list = self.synced.clone()?;
        let syncing = list.sync(cluster(), endpoint.clone(), self.configured.clone(), limit);
        let mut task = JoinSet::new();
        task.spawn(in_current_span(syncing));
        Some(task)
    }
}

// === impl MemberList ===

impl MemberList {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            found: Lock::new([].into()),
        }
    }

    /// Refuses an interval that is too short.
    pub(super) fn check(&self) -> Result<(), BuildError> {
        match self.interval < SHORTEST {
            true => Err(BuildError::Setting {
                name: "sync_members",
                reason: format!(
                    "every {:?} is too often for a list that hardly changes: give it 1 min",
                    self.interval
                ),
            }),
            false => Ok(()),
        }
    }

    /// Never ends.
    async fn sync(
        self: Arc<Self>,
        mut cluster: ClusterClient,
        endpoint: Arc<str>,
        configured: Arc<[Member]>,
        limit: Duration,
    ) {
        loop {
            let reading = async {
                let reply = cluster.member_list().await;
                reply.map_err(|error| RpcError::from_client(&endpoint, &error))
            };
            match with_timeout(limit, &endpoint, reading).await {
                Ok(reply) => {
                    let members = reply.members().iter().filter(|member| !member.is_learner());
                    let urls = members.flat_map(|member| member.client_urls());
                    self.replace(urls.map(|url| &**url), &configured);
                }
                // Users of the connection notice when it fails.
                Err(error) => {
                    crate::runtime::logging::debug!(%error, "the member list was not read")
                }
            }
            tokio::time::sleep(self.interval).await;
        }
    }

    /// Replaces the members by those of a list. A list without a usable member changes nothing.
    fn replace<'a>(&self, urls: impl Iterator<Item = &'a str>, configured: &[Member]) {
        let mut members: Vec<_> = urls.filter_map(|url| usable(url, configured)).collect();
        members.sort_unstable_by(|a, b| a.shown().cmp(b.shown()));
        members.dedup_by(|a, b| a.shown() == b.shown());
        members.truncate(MOST);
        if members.is_empty() {
            return;
        }
        let mut found = self.found.lock();
        let shown = |members: &[Member]| {
            members
                .iter()
                .map(|m| m.shown().clone())
                .collect::<Vec<_>>()
        };
        if shown(&found) != shown(&members) {
            let now = shown(&members);
            *found = members.into();
            drop(found);
            crate::runtime::logging::info!(members = ?now, "the members of etcd");
        }
    }
}

/// The member at a client URL of the list, if it is usable: valid, and with the scheme of a configured endpoint,
/// so that TLS stays on.
///
/// A member often advertises the default, `http://localhost:2379`. Unless a configured endpoint is on this
/// machine, that is another etcd, or none.
fn usable(url: &str, configured: &[Member]) -> Option<Member> {
    let member = Member::parse(url, false).ok()?;
    let same_scheme = |other: &Member| other.uri().scheme() == member.uri().scheme();
    let is_here = |member: &Member| match member.host().parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => is_localhost(member.host()),
    };
    let ip = member.host().parse::<IpAddr>();
    let works = !ip.is_ok_and(|ip| ip.is_unspecified())
        && configured.iter().any(same_scheme)
        && (!is_here(&member) || configured.iter().any(is_here));
    works.then_some(member)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::Etcd;

    fn found(configured: &[&str], urls: &[&str]) -> Vec<String> {
        let members = Etcd::new(configured).check().unwrap().members;
        let list = MemberList::new(Duration::from_secs(60));
        list.replace(urls.iter().copied(), &members.configured);
        let found = list.found.lock();
        found.iter().map(|m| m.shown().to_string()).collect()
    }

    #[test]
    fn only_urls_that_a_user_could_have_given_are_taken() {
        for (url, taken) in [
            ("http://10.0.0.2:2379", true),
            ("http://etcd-2.example:2379", true),
            ("https://10.0.0.2:2379", false),
            ("http://127.0.0.1:2379", false),
            ("http://localhost:2379", false),
            ("http://[::1]:2379", false),
            ("http://0.0.0.0:2379", false),
            ("http://[::]:2379", false),
            ("unix://10.0.0.2:2379", false),
            ("http://10.0.0.2", false),
            ("http://me:secret@10.0.0.2:2379", false),
            ("", false),
        ] {
            let expected: Vec<_> = taken.then(|| url.to_owned()).into_iter().collect();
            assert_eq!(found(&["http://10.0.0.1:2379"], &[url]), expected, "{url}");
        }
        let here = found(&["http://localhost:2379"], &["http://127.0.0.1:2380"]);
        assert_eq!(here, ["http://127.0.0.1:2380"]);
    }

    #[test]
    fn a_member_is_remote_only_if_that_is_certain() {
        let ours = ["127.0.0.1", "10.0.0.1"].map(|ip| LocalIp {
            interface: "eth0".to_owned(),
            ip: ip.parse().unwrap(),
        });
        for (endpoint, remote) in [
            ("http://10.0.0.2:2379", true),
            ("http://10.0.0.1:2379", false),
            ("http://[::1]:2379", false),
            ("http://127.0.0.5:2379", false),
            ("http://localhost:2379", false),
            ("http://etcd:2379", false),
        ] {
            let members = Etcd::new([endpoint]).check().unwrap().members;
            assert_eq!(members.are_remote(&ours), remote, "{endpoint}");
            assert_eq!(members.have_names(), endpoint == "http://etcd:2379");
        }
    }

    #[test]
    fn an_interval_is_a_second_at_least() {
        let built = |interval| {
            Etcd::new(["http://10.0.0.1:1"])
                .sync_members(interval)
                .check()
        };
        for interval in [Duration::ZERO, Duration::from_millis(999)] {
            let error = built(interval).unwrap_err().to_string();
            assert!(error.starts_with("sync_members: "), "{error}");
        }
        for interval in [SHORTEST, Duration::MAX] {
            built(interval).unwrap();
        }
    }

    #[test]
    fn an_empty_list_leaves_the_last_one() {
        let configured = ["http://10.0.0.1:2379"];
        let members = Etcd::new(configured)
            .sync_members(Duration::from_secs(60))
            .check()
            .unwrap()
            .members;
        let list = members.synced.clone().unwrap();
        list.replace(
            ["http://10.0.0.2:1", "http://10.0.0.2:1"].into_iter(),
            &members.configured,
        );
        for nothing in [&[][..], &["https://10.0.0.3:1"]] {
            list.replace(nothing.iter().copied(), &members.configured);
            let all = members.all();
            let shown: Vec<_> = all.iter().map(|m| &**m.shown()).collect();
            assert_eq!(shown, ["http://10.0.0.2:1", "http://10.0.0.1:2379"]);
        }
        list.replace(["http://10.0.0.1:2379"].into_iter(), &members.configured);
        assert_eq!(members.len(), 1, "each once");
    }

    #[test]
    fn each_round_through_the_members_begins_at_another_address_of_each() {
        let etcd = Etcd::new(["http://a:1", "http://b:1"]);
        let members = etcd.check().unwrap().members;
        let tried = [4, 5, 6, 7].map(|index| {
            let member = members.at(index);
            (member.host().to_owned(), member.turn())
        });
        let expected = [("a", 2), ("b", 2), ("a", 3), ("b", 3)];
        assert_eq!(tried, expected.map(|(host, turn)| (host.to_owned(), turn)));
    }
}
