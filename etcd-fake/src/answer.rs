//! [`Answer`]: what the handling of requests needs to know about an answer, of any kind.

use crate::model::watch::refused;
use crate::script::Reply;
use etcd_client::proto as pb;
use tonic::Status;

/// An answer of etcd.
pub(crate) trait Answer: Send + Sized + 'static {
    /// Its header.
    fn header(&mut self) -> &mut Option<pb::PbResponseHeader>;

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
}

macro_rules! answers {
    ($($answer:ident { $($method:item)* })*) => { $(
        impl Answer for pb::$answer {
            fn header(&mut self) -> &mut Option<pb::PbResponseHeader> {
                &mut self.header
            }

            $($method)*
        }
    )* };
}

answers! {
    PbAuthenticateResponse {}
    PbCompactionResponse {}
    PbDeleteResponse {}
    PbLeaseLeasesResponse {}
    PbLeaseRevokeResponse {}
    PbLeaseTimeToLiveResponse {}
    PbMemberListResponse {}
    PbPutResponse {}
    PbRangeResponse {}
    PbTxnResponse {}

    PbLeaseGrantResponse {
        fn spoil(&mut self, reply: &Reply) {
            match reply {
                Reply::TtlZero => self.ttl = 0,
                Reply::WrongId => self.id += 1,
                _ => {}
            }
        }
    }

    PbLeaseKeepAliveResponse {
        /// The caller fills in the id: an unknown lease is answered with its own id and TTL 0.
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

    PbWatchResponse {
        /// A watch without permission is created and cancelled at once, and the reason is a Go error's text.
        fn refused(status: Status) -> Result<Self, Status> {
            let (code, text) = (status.code(), status.message());
            Ok(refused(format!("rpc error: code = {code:?} desc = {text}")))
        }

        fn spoil(&mut self, reply: &Reply) {
            if let Reply::Cancel(reason) = reply {
                self.canceled = true;
                self.cancel_reason = (*reason).to_owned();
            }
        }
    }
}
