//! [`MemberStats`]: the state of one member of etcd, as a registrar sees it. No decision depends on it.

use crate::etcd::{RpcError, RpcErrorKind};
use crate::observe::timestamp::Timestamp;
use crate::runtime::escaped::Escaped;
use std::sync::Arc;

/// One member of etcd, as its registrar sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberStats {
    /// Its client URL, without user and password.
    pub endpoint: Arc<str>,
    /// Whether there is a connection, and if not, why.
    pub state: MemberState,
    /// The last error of the member, and its time: one line, escaped, of at most 200 bytes. It is kept when the member works
    /// again.
    pub last_error: Option<(Timestamp, Arc<str>)>,
    /// The state after the end of the connection.
    next: MemberState,
}

/// The state of one member of etcd, as a registrar sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberState {
    /// There is a connection to it.
    Connected,
    /// Its connection was closed because it was no longer needed.
    Idle,
    /// It cannot be reached, does not answer, or ended the connection.
    Failing {
        /// The first failure since it last worked.
        since: Timestamp,
    },
    /// It answers, and denies user, password or permission. It is not tried again for 30 s.
    Refusing {
        /// The first refusal since it last worked.
        since: Timestamp,
    },
}

// === impl MemberStats ===

impl MemberStats {
    fn new(endpoint: &Arc<str>) -> Self {
        Self {
            endpoint: endpoint.clone(),
            state: MemberState::Idle,
            last_error: None,
            next: MemberState::Idle,
        }
    }

    fn on_error(&mut self, error: &RpcError, now: Timestamp) {
        let text = Escaped::new(&error.reason()).to_string();
        self.last_error = Some((now, text.into()));
        // Only the last error can end an open connection.
        let since = self.state.since().unwrap_or(now);
        self.next = match error.kind() {
            RpcErrorKind::Denied => MemberState::Refusing { since },
            RpcErrorKind::Broken | RpcErrorKind::Unreachable | RpcErrorKind::Timeout => {
                MemberState::Failing { since }
            }
            // These concern one request or token, not the member.
            RpcErrorKind::Unauthenticated
            | RpcErrorKind::LeaseGone
            | RpcErrorKind::LeaseExists
            | RpcErrorKind::Compacted
            | RpcErrorKind::TooLarge
            | RpcErrorKind::TooManyOps
            | RpcErrorKind::ResourceExhausted
            | RpcErrorKind::Busy => self.next,
        };
        // The next event shows whether the connection stays open.
        if self.state != MemberState::Connected {
            self.state = self.next;
        }
    }
}

// === impl MemberState ===

impl MemberState {
    /// Since when it does not work.
    pub(crate) fn since(self) -> Option<Timestamp> {
        match self {
            Self::Failing { since } | Self::Refusing { since } => Some(since),
            Self::Connected | Self::Idle => None,
        }
    }
}

/// There is a connection to `endpoint`.
pub(crate) fn connected(members: &mut Vec<MemberStats>, endpoint: &Arc<str>) {
    let member = entry(members, endpoint);
    (member.state, member.next) = (MemberState::Connected, MemberState::Idle);
}

/// There is no connection any more.
pub(crate) fn disconnected(members: &mut [MemberStats]) {
    let connected = |member: &&mut MemberStats| member.state == MemberState::Connected;
    for member in members.iter_mut().filter(connected) {
        member.state = member.next;
    }
}

/// A request failed at a member. Members for which `exists` is false and that are not connected are removed.
pub(crate) fn failed(
    members: &mut Vec<MemberStats>,
    error: &RpcError,
    now: Timestamp,
    exists: impl Fn(&str) -> bool,
) {
    entry(members, error.endpoint()).on_error(error, now);
    let is_connected = |member: &MemberStats| member.state == MemberState::Connected;
    members.retain(|member| is_connected(member) || exists(&member.endpoint));
}

fn entry<'a>(members: &'a mut Vec<MemberStats>, endpoint: &Arc<str>) -> &'a mut MemberStats {
    let at = members.binary_search_by(|member| member.endpoint.cmp(endpoint));
    let at = at.unwrap_or_else(|at| {
        members.insert(at, MemberStats::new(endpoint));
        at
    });
    &mut members[at]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn each_member_has_its_own_state_and_last_error() {
        let [a, b]: [Arc<str>; 2] = ["http://a:1".into(), "http://b:1".into()];
        let mut members = vec![];
        let start = Timestamp::now();
        let at = |secs| start.checked_add(Duration::from_secs(secs)).unwrap();
        let fail = |members: &mut Vec<_>, kind, endpoint, secs| {
            let error = RpcError::new(kind, endpoint, format!("no\x1b {}", "x".repeat(1000)));
            failed(members, &error, at(secs), |_| true);
        };
        let states =
            |members: &[MemberStats]| members.iter().map(|it| it.state).collect::<Vec<_>>();
        use MemberState::{Connected, Failing, Idle, Refusing};
        use RpcErrorKind::{Denied, LeaseGone, Timeout, Unreachable};

        fail(&mut members, Unreachable, &b, 1);
        fail(&mut members, Denied, &a, 2);
        fail(&mut members, Timeout, &b, 3);
        let [refusing, failing] = [Refusing { since: at(2) }, Failing { since: at(1) }];
        assert_eq!(states(&members), [refusing, failing], "since the first one");
        let (when, text) = members[1].last_error.clone().unwrap();
        assert_eq!(
            (when, text.len() <= 200, text.contains('\x1b')),
            (at(3), true, false)
        );

        connected(&mut members, &b);
        assert_eq!(states(&members), [refusing, Connected]);
        assert!(members[1].last_error.is_some(), "it stays");
        // The lease is gone, and the member works; then the connection is not needed any more.
        fail(&mut members, LeaseGone, &b, 4);
        assert_eq!(states(&members), [refusing, Connected]);
        disconnected(&mut members);
        assert_eq!(states(&members), [refusing, Idle]);
        connected(&mut members, &b);
        fail(&mut members, Timeout, &b, 5);
        disconnected(&mut members);
        assert_eq!(states(&members), [refusing, Failing { since: at(5) }]);

        // It refused a write, and the connection stayed open.
        connected(&mut members, &b);
        fail(&mut members, Denied, &b, 6);
        fail(&mut members, Timeout, &b, 9);
        disconnected(&mut members);
        assert_eq!(states(&members)[1], Failing { since: at(9) });

        let error = RpcError::new(Timeout, &b, "no");
        failed(&mut members, &error, at(10), |shown| shown == &*b);
        assert_eq!(
            states(&members),
            [Failing { since: at(9) }],
            "a is no member any more"
        );
    }
}
