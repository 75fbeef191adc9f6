//! Rules for single requests: how the next request of a kind is handled.

use crate::record::Rpc;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tonic::Code;

/// How to handle a request. "Applied" means that it has its effect, whether or not it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::enum_variant_names,
    reason = "what is dropped is the reply; `Drop` would say another thing"
)]
pub enum Reply {
    /// As if there were no script; useful to skip some requests before the one that matters.
    Normal,
    /// Applied at once, answered after this time.
    Delay(Duration),
    /// Applied only after that time, even if the caller has given up by then; then answered.
    Late(Duration),
    /// Not applied, and answered with this code and text. Ends the stream that the request came on.
    Error(Code, &'static str),
    /// Applied, never answered.
    DropReply,
    /// Not applied, never answered.
    Never,
    /// Not applied; the connection is cut.
    Reset,
    /// Applied; then the connection is cut instead of an answer.
    ApplyThenReset,
    /// A renewal: not applied, and answered as for an unknown lease. A grant: applied, answered with TTL 0.
    TtlZero,
    /// Applied, answered with another lease id.
    WrongId,
    /// A watch: created and cancelled at once, with this reason. Anything else: as `Normal`.
    Cancel(&'static str),
}

impl Reply {
    /// The error of etcd for a user without the permission.
    pub const DENIED: Self = Self::Error(Code::PermissionDenied, "etcdserver: permission denied");
}

/// The rules in force.
#[derive(Debug, Default)]
pub(crate) struct Scripts {
    rules: BTreeMap<(Rpc, Option<String>), Rules>,
}

#[derive(Debug, Default)]
struct Rules {
    once: VecDeque<Reply>,
    always: Option<Reply>,
}

impl Scripts {
    /// For one request, after those that are queued already. No member means any.
    pub(crate) fn once(&mut self, rpc: Rpc, member: Option<String>, reply: Reply) {
        let rules = self.rules.entry((rpc, member)).or_default();
        rules.once.push_back(reply);
    }

    /// For every request that has no rule of its own.
    pub(crate) fn always(&mut self, rpc: Rpc, member: Option<String>, reply: Reply) {
        let rules = self.rules.entry((rpc, member)).or_default();
        rules.always = Some(reply);
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    /// One-shot rules come before standing ones; those for this member before those for all.
    pub(crate) fn next(&mut self, rpc: Rpc, member: &str) -> Reply {
        let scopes = [(rpc, Some(member.to_owned())), (rpc, None)];
        for scope in &scopes {
            let queue = self.rules.get_mut(scope).map(|rules| &mut rules.once);
            if let Some(reply) = queue.and_then(VecDeque::pop_front) {
                return reply;
            }
        }
        let mut standing = scopes.iter().filter_map(|scope| self.rules.get(scope));
        let standing = standing.find_map(|rules| rules.always.clone());
        standing.unwrap_or(Reply::Normal)
    }
}
