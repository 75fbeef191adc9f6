//! [`RegistrationStats`]: the state of a registration at one moment, for polling.

use crate::observe::member_stats::{MemberState, MemberStats};
use crate::observe::status::RegistrationStatus;
use crate::observe::timestamp::Timestamp;
use crate::runtime::lock::Lock;
use std::sync::Arc;

/// The state of a registration when [`Registration::stats`](crate::Registration::stats) was called.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RegistrationStats {
    /// The names of the service, one for each instance.
    pub services: Vec<String>,
    /// The status.
    pub status: RegistrationStatus,
    /// Since when the status has been of this kind.
    pub since: Timestamp,
    /// The reason of each [`Pause`](crate::Pause).
    pub pauses: Vec<Arc<str>>,
    /// The requests in flight, as [`Registration::in_flight`](crate::Registration::in_flight) counts them.
    pub in_flight: usize,
    /// The keys that are in etcd, or were last.
    pub keys: Arc<[Arc<str>]>,
    /// The names of the formats in which every instance is written.
    pub formats: Vec<String>,
    /// The revision of etcd at which the newest key was written, if the keys are known to be in etcd.
    pub revision: Option<i64>,
    /// The lease and the connection of the registrar, which all its registrations share.
    pub etcd: EtcdStats,
}

/// The lease of a registrar, and its connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdStats {
    /// The current lease, or the last one if it may still live.
    pub lease: Option<i64>,
    /// When a renewal of the lease was last sent.
    pub renewal_sent: Option<Timestamp>,
    /// When the last acknowledged renewal was sent. The lease lives for at least one TTL after that.
    pub renewal_acknowledged: Option<Timestamp>,
    /// When the next renewal is due.
    pub renewal_due: Option<Timestamp>,
    /// The member of etcd to which the registrar is connected.
    pub endpoint: Option<Arc<str>>,
    /// The last error of any member, and its time.
    pub last_error: Option<(Timestamp, Arc<str>)>,
    /// The members of etcd that were tried. Removed members are left out.
    pub members: Vec<MemberStats>,
}

/// Where a registrar keeps its [`EtcdStats`]: one for all registrations. `endpoint` is derived from the members.
#[derive(Debug, Default)]
pub(crate) struct EtcdStatsCell(Lock<EtcdStats>);

// === impl EtcdStatsCell ===

impl EtcdStatsCell {
    pub(crate) fn get(&self) -> EtcdStats {
        let mut stats = self.0.lock().clone();
        let is_connected = |member: &&MemberStats| member.state == MemberState::Connected;
        let connected = stats.members.iter().find(is_connected);
        stats.endpoint = connected.map(|member| member.endpoint.clone());
        stats
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut EtcdStats)) {
        change(&mut self.0.lock());
    }
}
