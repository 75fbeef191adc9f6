//! [`Rotation`]: which member is used, and after a failure which one is next, and when. Pure.

use super::endpoints::Endpoints;
use super::member::Member;
use super::rpc_error::{DENIED_RETRY, RpcError, RpcErrorKind};
use crate::runtime::backoff::Backoff;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Rotation {
    index: usize,
    pub(crate) retry: Backoff,
    /// The members that denied a request, and when each may be tried again.
    denied: BTreeMap<Arc<str>, Instant>,
    /// The last error of each endpoint that failed since one last worked.
    failures: BTreeMap<Arc<str>, String>,
}

/// The most endpoints in an error text, and the longest reason of each.
const NAMED: usize = 8;
const LENGTH: usize = 300;

impl Rotation {
    /// Begins with any member.
    pub(crate) fn new(retry: Backoff, rng: &mut fastrand::Rng) -> Self {
        Self {
            index: rng.usize(..),
            retry,
            denied: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }

    /// The current member.
    pub(crate) fn member(&self, endpoints: &Endpoints) -> Member {
        endpoints.at(self.index)
    }

    /// Moves to the next member.
    pub(crate) fn advance(&mut self) {
        self.index = self.index.wrapping_add(1);
    }

    /// A connection that had worked for `worked` failed with `error`. Moves to the member
    /// to try next, and returns how long to wait before that: at most `refused` if the connection was refused,
    /// at most `limit` after another failure.
    ///
    /// A member that denied a request is not tried again for [`DENIED_RETRY`]. That causes a wait only when every
    /// member has denied it: one may have no users, or another password, while the next one works.
    pub(crate) fn failed(
        &mut self,
        error: &RpcError,
        endpoints: &Endpoints,
        worked: Duration,
        (refused, limit): (Duration, Duration),
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Duration {
        self.note(error, endpoints, worked);
        let pause = self.pause(error, worked, (refused, limit), now, rng);
        match error.kind() {
            // The member works: try it again, with another token or from another revision.
            RpcErrorKind::Unauthenticated | RpcErrorKind::Compacted => pause,
            _ => self.turn(endpoints, now).unwrap_or(pause),
        }
    }

    /// How long to wait before the next attempt: see [`failed`](Self::failed).
    pub(crate) fn pause(
        &mut self,
        error: &RpcError,
        worked: Duration,
        (refused, limit): (Duration, Duration),
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Duration {
        match error.kind() {
            RpcErrorKind::Timeout => Duration::ZERO,
            RpcErrorKind::Denied => {
                let again = now + DENIED_RETRY.mul_f64(0.75 + rng.f64() / 4.0);
                self.denied.insert(error.endpoint().clone(), again);
                self.retry.failed_after(worked, refused, rng)
            }
            RpcErrorKind::Unreachable => self.retry.failed_after(worked, refused, rng),
            _ => self.retry.failed_after(worked, limit, rng),
        }
    }

    /// The member other than `ours` that is `steps` ahead, and its place. One that denied a request is skipped if another has not.
    pub(crate) fn ahead(
        &self,
        steps: usize,
        ours: &Member,
        endpoints: &Endpoints,
        now: Instant,
    ) -> (usize, Member) {
        let count = endpoints.len();
        // Each round skips the current member, and uses another address of each. An only member has other addresses.
        let places = (1..).map(|step| self.index.wrapping_add(step));
        let is_other = |place: &usize| endpoints.members.at(*place).shown() != ours.shown();
        let others = places.take(count * (steps + 2));
        let others = others.filter(|place| count == 1 || is_other(place));
        let mut places = others.skip(steps.saturating_sub(1)).take(count);
        let first = places.clone().next().unwrap_or(self.index);
        let is_usable = |place: &usize| !self.is_denied(endpoints.members.at(*place).shown(), now);
        let place = places.find(is_usable).unwrap_or(first);
        (place, endpoints.members.at(place))
    }

    /// Moves to the member at a place that [`ahead`](Self::ahead) returned.
    pub(crate) fn move_to(&mut self, place: usize) {
        self.index = place;
    }

    fn is_denied(&self, shown: &Arc<str>, now: Instant) -> bool {
        self.denied.get(shown).is_some_and(|again| *again > now)
    }

    /// Why no member works: the endpoints that failed since one last worked, with their errors.
    pub(crate) fn failures(&self) -> String {
        let named = self.failures.values().take(NAMED);
        let mut text = named.map(|text| &**text).collect::<Vec<_>>().join("; ");
        if let more @ 1.. = self.failures.len().saturating_sub(NAMED) {
            text = format!("{text}; and {more} more");
        }
        text
    }

    /// Notes why a member does not work. `worked`: for how long the connection had worked.
    pub(crate) fn note(&mut self, error: &RpcError, endpoints: &Endpoints, worked: Duration) {
        if !worked.is_zero() {
            self.failures.clear();
        }
        // Members may have been removed from the member list.
        self.failures.retain(|endpoint, _| endpoints.has(endpoint));
        let mut text = error.to_string();
        if let Some((end, _)) = text.char_indices().nth(LENGTH) {
            text.truncate(end);
            text.push_str("..");
        }
        self.failures.insert(error.endpoint().clone(), text);
    }

    /// Whether a member other than `ours` has not denied a request yet.
    pub(crate) fn has_other(&self, ours: &Member, endpoints: &Endpoints, now: Instant) -> bool {
        let is_other = |shown: &Arc<str>| shown != ours.shown() && !self.is_denied(shown, now);
        endpoints.members.any(is_other)
    }

    /// Moves to the next member that has not denied a request. If all have, moves to the one that may be tried
    /// again first, and returns how long to wait.
    fn turn(&mut self, endpoints: &Endpoints, now: Instant) -> Option<Duration> {
        self.denied.retain(|_, again| *again > now);
        let mut first = None;
        for _ in 0..endpoints.len() {
            self.advance();
            let again = *self.denied.get(self.member(endpoints).shown())?;
            if first.is_none_or(|(at, _)| again < at) {
                first = Some((again, self.index));
            }
        }
        let (again, index) = first?;
        self.index = index;
        Some(again - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::Etcd;

    const LIMITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(600));

    fn failed(rotation: &mut Rotation, endpoints: &Endpoints, kind: RpcErrorKind) -> Duration {
        let error = RpcError::new(kind, rotation.member(endpoints).shown(), "no");
        let mut rng = fastrand::Rng::with_seed(1);
        rotation.failed(
            &error,
            endpoints,
            Duration::ZERO,
            LIMITS,
            Instant::now(),
            &mut rng,
        )
    }

    fn rotation(members: &[&str]) -> (Rotation, Endpoints) {
        let retry = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let mut rotation = Rotation::new(retry, &mut fastrand::Rng::with_seed(1));
        rotation.index = 0;
        (rotation, Etcd::new(members).check().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_refuses_is_left_and_waited_for_only_when_all_refuse() {
        let (mut rotation, endpoints) = rotation(&["a:1", "b:1"]);
        let host = |rotation: &Rotation| rotation.member(&endpoints).host().to_owned();
        assert!(rotation.has_other(&rotation.member(&endpoints), &endpoints, Instant::now()));
        assert!(failed(&mut rotation, &endpoints, RpcErrorKind::Denied) <= LIMITS.0);
        assert_eq!(host(&rotation), "b");
        assert!(!rotation.has_other(&rotation.member(&endpoints), &endpoints, Instant::now()));
        // An unreachable member is tried again; one that denied a request is not.
        for _ in 0..20 {
            assert!(failed(&mut rotation, &endpoints, RpcErrorKind::Unreachable) <= LIMITS.0);
            assert_eq!(host(&rotation), "b");
        }
        tokio::time::advance(Duration::from_secs(10)).await;
        let pause = failed(&mut rotation, &endpoints, RpcErrorKind::Denied);
        assert_eq!(host(&rotation), "a", "it refused first");
        assert!(
            pause >= DENIED_RETRY.mul_f64(0.75) - Duration::from_secs(10),
            "{pause:?}"
        );
        assert!(pause <= DENIED_RETRY - Duration::from_secs(10), "{pause:?}");
        // b may not be tried again yet when a denies again.
        tokio::time::advance(pause).await;
        let pause = failed(&mut rotation, &endpoints, RpcErrorKind::Denied);
        assert_eq!(host(&rotation), "b");
        assert!(pause > Duration::ZERO && pause <= DENIED_RETRY, "{pause:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn every_endpoint_that_was_tried_is_named_with_its_reason() {
        let (mut rotation, endpoints) = rotation(&["a:1", "b:1"]);
        failed(&mut rotation, &endpoints, RpcErrorKind::Timeout);
        assert_eq!(rotation.failures(), "http://a:1: no");
        for _ in 0..3 {
            failed(&mut rotation, &endpoints, RpcErrorKind::Timeout);
        }
        assert_eq!(rotation.failures(), "http://a:1: no; http://b:1: no");
        // After b has worked, the error of a is out of date.
        let error = RpcError::new(
            RpcErrorKind::Timeout,
            &"http://b:1".into(),
            "x".repeat(1000),
        );
        let (worked, mut rng) = (Duration::from_secs(1), fastrand::Rng::with_seed(1));
        let now = Instant::now();
        rotation.failed(&error, &endpoints, worked, LIMITS, now, &mut rng);
        let text = rotation.failures();
        assert!(
            text.starts_with("http://b:1: xxx") && text.len() == LENGTH + 2,
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_cluster_is_named_in_part() {
        let members: Vec<_> = (0..20).map(|i| format!("m{i:02}:1")).collect();
        let members: Vec<_> = members.iter().map(|member| &**member).collect();
        let (mut rotation, endpoints) = rotation(&members);
        for _ in 0..20 {
            failed(&mut rotation, &endpoints, RpcErrorKind::Timeout);
        }
        let text = rotation.failures();
        assert!(text.ends_with("http://m07:1: no; and 12 more"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_member_that_denies_is_tried_every_half_minute() {
        let (mut rotation, endpoints) = rotation(&["a:1"]);
        for _ in 0..3 {
            let pause = failed(&mut rotation, &endpoints, RpcErrorKind::Denied);
            assert!(
                pause >= DENIED_RETRY.mul_f64(0.75) && pause <= DENIED_RETRY,
                "{pause:?}"
            );
            tokio::time::advance(pause).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_token_is_tried_where_the_last_one_was_refused() {
        let (mut rotation, endpoints) = rotation(&["a:1", "b:1"]);
        let pause = failed(&mut rotation, &endpoints, RpcErrorKind::Unauthenticated);
        assert_eq!(pause, Duration::ZERO, "the first one after it worked");
        assert_eq!(rotation.member(&endpoints).host(), "a");
        failed(&mut rotation, &endpoints, RpcErrorKind::Timeout);
        assert_eq!(rotation.member(&endpoints).host(), "b");
    }
}
