//! Completes the header of an answer of any kind, and changes the answer by a script.

use etcd_client::proto::{
    PbAuthenticateResponse, PbCompactionResponse, PbDeleteResponse, PbLeaseGrantResponse,
    PbLeaseKeepAliveResponse, PbLeaseLeasesResponse, PbLeaseRevokeResponse,
    PbLeaseTimeToLiveResponse, PbMemberListResponse, PbPutResponse, PbRangeResponse,
    PbResponseHeader, PbTxnResponse, PbWatchResponse,
};
use tonic::Status;

use super::model::watch::refused;
use super::script::Reply;
use super::state::State;

/// The cluster id is fixed: etcd's stays the same, too, when the data is wiped and the configuration is not.
const CLUSTER: u64 = 0xcafe;

/// An answer of etcd.
pub(super) trait Answer: Send + Sized + 'static {
    /// Its header.
    fn header(&mut self) -> &mut Option<PbResponseHeader>;

    /// The answer to a request without permission: an error, except for watches.
    fn refused(status: Status) -> Result<Self, Status> {
        Err(status)
    }

    /// The answer of a script *instead* of applying the request.
    fn instead(_reply: &Reply) -> Option<Self> {
        None
    }

    /// Whether the request has changed anything.
    fn effective(&self) -> bool {
        true
    }

    /// Changes the answer by the script, after the request was applied.
    fn spoil(&mut self, _reply: &Reply) {}

    /// Who answers, and at which revision.
    fn complete_header(&mut self, state: &State, member: &str) {
        let revision = state.keyspace.store.revision();
        *self.header() = Some(PbResponseHeader {
            cluster_id: CLUSTER,
            member_id: member_id(member),
            revision,
            raft_term: state.term,
        });
    }
}

/// Stable, never zero, different for different names (FNV-1a).
fn member_id(member: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    member.bytes().fold(0xcbf2_9ce4_8422_2325, step) | 1
}

macro_rules! plain_answers {
    ($($answer:ty),* $(,)?) => { $(
        impl Answer for $answer {
            fn header(&mut self) -> &mut Option<PbResponseHeader> {
                &mut self.header
            }
        }
    )* };
}

plain_answers! {
    PbAuthenticateResponse, PbCompactionResponse, PbDeleteResponse, PbLeaseLeasesResponse,
    PbLeaseRevokeResponse, PbLeaseTimeToLiveResponse, PbMemberListResponse, PbPutResponse, PbRangeResponse, PbTxnResponse,
}

impl Answer for PbLeaseGrantResponse {
    fn header(&mut self) -> &mut Option<PbResponseHeader> {
        &mut self.header
    }

    fn spoil(&mut self, reply: &Reply) {
        match reply {
            Reply::TtlZero => self.ttl = 0,
            Reply::WrongId => self.id += 1,
            _ => {}
        }
    }
}

impl Answer for PbLeaseKeepAliveResponse {
    fn header(&mut self) -> &mut Option<PbResponseHeader> {
        &mut self.header
    }

    /// The id is the asker's to fill in: an unknown lease is answered with its own id and TTL 0.
    fn instead(reply: &Reply) -> Option<Self> {
        matches!(reply, Reply::TtlZero).then(Self::default)
    }

    fn effective(&self) -> bool {
        self.ttl > 0
    }

    fn spoil(&mut self, reply: &Reply) {
        if matches!(reply, Reply::WrongId) {
            self.id += 1;
        }
    }
}

impl Answer for PbWatchResponse {
    fn header(&mut self) -> &mut Option<PbResponseHeader> {
        &mut self.header
    }

    /// A watch without permission is created and cancelled at once, and the reason is a Go error's text.
    fn refused(status: Status) -> Result<Self, Status> {
        Ok(refused(format!(
            "rpc error: code = {:?} desc = {}",
            status.code(),
            status.message()
        )))
    }

    fn spoil(&mut self, reply: &Reply) {
        if let Reply::Cancel(reason) = reply {
            self.canceled = true;
            self.cancel_reason = (*reason).to_owned();
        }
    }
}
