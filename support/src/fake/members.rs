//! The faults of each member. A member is the host of the address that a client dials.
//!
//! All members serve the same keys: the fake is one cluster with as many members as clients name. A member can be shut while
//! the cluster goes on behind it; shutting all of them *as a process* ([`Mode::Down`], [`Mode::Hung`]) also stops the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::wire::{Link, Pace, Traffic};

/// How a member treats its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Serves.
    #[default]
    Up,
    /// The process is gone: connections are cut, new ones refused.
    Down,
    /// The process is frozen: connects succeed, requests arrive, nothing happens; it happens when the process goes on.
    Hung,
    /// The network drops everything, both ways: connects are not answered either.
    BlackHole,
    /// The network drops the answers: requests are applied, and no reply arrives.
    NoReplies,
}

/// All members and their connections.
#[derive(Debug, Default)]
pub(super) struct Members {
    everywhere: Mode,
    own: BTreeMap<String, Mode>,
    pace: Option<Pace>,
    links: Vec<Arc<Link>>,
    connections: u64,
}

/// What happens to a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnConnect {
    Open,
    Refused,
    /// No answer until something changes.
    Silent,
}

impl Mode {
    pub(super) fn traffic(self) -> Traffic {
        Traffic {
            deaf: matches!(self, Self::BlackHole),
            mute: matches!(self, Self::Hung | Self::BlackHole | Self::NoReplies),
        }
    }

    pub(super) fn on_connect(self) -> OnConnect {
        match self {
            Self::Up | Self::Hung => OnConnect::Open,
            Self::Down => OnConnect::Refused,
            Self::BlackHole | Self::NoReplies => OnConnect::Silent,
        }
    }
}

impl Members {
    pub(super) fn mode(&self, member: &str) -> Mode {
        self.own.get(member).copied().unwrap_or(self.everywhere)
    }

    /// Whether the cluster as such makes progress: leases expire, changes are applied.
    pub(super) fn cluster_runs(&self) -> bool {
        !matches!(self.everywhere, Mode::Down | Mode::Hung)
    }

    pub(super) fn is_down(&self) -> bool {
        self.everywhere == Mode::Down
    }

    /// Sets the mode of one member, or of all members, which overrides those of single ones.
    pub(super) fn set(&mut self, member: Option<&str>, mode: Mode) {
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
            match self.mode(&link.member) {
                Mode::Down => link.cut(),
                other => link.steer(other.traffic()),
            }
        }
    }

    /// All links, also later ones.
    pub(super) fn slow_down(&mut self, pace: Pace) {
        self.pace = Some(pace);
        for link in &self.links {
            link.slow_down(self.pace);
        }
    }

    pub(super) fn pace(&self) -> Option<Pace> {
        self.pace
    }

    /// The number of the next connection.
    pub(super) fn next_connection(&mut self) -> u64 {
        self.connections += 1;
        self.connections
    }

    pub(super) fn connected(&mut self, link: Arc<Link>) {
        self.links.retain(|link| link.is_open());
        self.links.push(link);
    }

    /// The connections that are open, to one member or to all.
    pub(super) fn links(&self, member: Option<&str>) -> impl Iterator<Item = &Arc<Link>> {
        let open = self.links.iter().filter(|link| link.is_open());
        open.filter(move |link| member.is_none_or(|member| link.member == member))
    }
}
