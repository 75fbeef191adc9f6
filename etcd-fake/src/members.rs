//! The faults of each member. A member is the host of the address that a client dials.
//!
//! All members serve the same keys: the fake is one cluster with as many members as clients name. A member can fail while
//! the cluster continues. When all of them fail *as processes* ([`Mode::Down`], [`Mode::Hung`]), the cluster stops too.

use crate::pipe::{Link, Mode, Pace};
use std::collections::BTreeMap;
use std::sync::Arc;

/// All members and their connections.
#[derive(Debug, Default)]
pub(crate) struct Members {
    everywhere: Mode,
    own: BTreeMap<String, Mode>,
    pace: Option<Pace>,
    links: Vec<Arc<Link>>,
    connections: u64,
}

// === impl Members ===

impl Members {
    pub(crate) fn mode(&self, member: &str) -> Mode {
        self.own.get(member).copied().unwrap_or(self.everywhere)
    }

    /// Whether the cluster as such makes progress: leases expire, changes are applied.
    pub(crate) fn cluster_runs(&self) -> bool {
        !matches!(self.everywhere, Mode::Down | Mode::Hung)
    }

    pub(crate) fn is_down(&self) -> bool {
        self.everywhere == Mode::Down
    }

    /// Sets the mode of one member, or of all members, which overrides those of single ones.
    pub(crate) fn set(&mut self, member: Option<&str>, mode: Mode) {
        match member {
            Some(member) => {
                self.own.insert(member.to_owned(), mode);
            }
            None => {
                self.own.clear();
                self.everywhere = mode;
            }
        }
        for link in &self.links {
            link.set(self.mode(&link.member));
        }
    }

    /// All links, also later ones.
    pub(crate) fn slow_down(&mut self, pace: Pace) {
        self.pace = Some(pace);
        for link in &self.links {
            link.slow_down(self.pace);
        }
    }

    pub(crate) fn pace(&self) -> Option<Pace> {
        self.pace
    }

    /// The number of the next connection.
    pub(crate) fn next_connection(&mut self) -> u64 {
        self.connections += 1;
        self.connections
    }

    pub(crate) fn connected(&mut self, link: Arc<Link>) {
        self.links.retain(|link| link.is_open());
        self.links.push(link);
    }

    /// The connections that are open, to one member or to all.
    pub(crate) fn links(&self, member: Option<&str>) -> impl Iterator<Item = &Arc<Link>> {
        let open = self.links.iter().filter(|link| link.is_open());
        open.filter(move |link| member.is_none_or(|member| link.member == member))
    }
}
