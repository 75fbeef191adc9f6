//! [`ask`]: sends a request again after a while, beside those that are not answered yet.
//!
//! A follower sends a renewal or a grant to the leader. If that is dead, it gives up after 7 s, which is more than a TTL,
//! while a request that comes after the election is answered at once. So with several members a request is repeated on
//! the same connection: that costs a busy etcd little.

use crate::etcd::{RpcError, RpcErrorKind};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::sleep;

/// A call under way.
pub(super) type Call<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The first answer to `first` and the requests after it, the next one `again` after it; then that time
/// doubles. An error of the kind
/// `answer` is an answer too; any other counts if no request is left.
pub(super) async fn ask<T>(
    first: Call<Result<T, RpcError>>,
    again: Option<Duration>,
    answer: RpcErrorKind,
    request: impl Fn() -> Call<Result<T, RpcError>>,
) -> Result<T, RpcError> {
    let mut waiting = FuturesUnordered::from_iter([first]);
    for doublings in 0_u32.. {
        let doublings = doublings.min(8);
        let wait = again.map(|wait| sleep(wait.saturating_mul(1 << doublings)));
        let mut wait = std::pin::pin!(some(wait));
        loop {
            tokio::select! {
                biased;
                Some(result) = waiting.next() => match result {
                    Err(error) if error.kind() != answer && !waiting.is_empty() => {}
                    answered => return answered,
                },
                () = &mut wait => break,
            }
        }
        waiting.push(request());
    }
    std::future::pending().await
}

/// Awaits a future, if there is one. Cancel safe if the future is.
pub(super) async fn some<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::time::Instant;

    const MS: Duration = Duration::from_millis(1);

    fn failed(kind: RpcErrorKind) -> Result<u32, RpcError> {
        Err(RpcError::new(kind, &"http://etcd:2379".into(), "no"))
    }

    fn after(wait: Duration, result: Result<u32, RpcError>) -> Call<Result<u32, RpcError>> {
        Box::pin(async move {
            sleep(wait).await;
            result
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_after_the_election_is_answered_before_the_first() {
        let (start, sent) = (Instant::now(), AtomicU32::new(0));
        let request = || {
            let number = sent.fetch_add(1, Ordering::Relaxed) + 1;
            let is_elected = start.elapsed() >= MS * 1500;
            after(MS * if is_elected { 1 } else { 7000 }, Ok(number))
        };
        let first = after(MS * 7000, Ok(0));
        let answer = ask(first, Some(MS * 600), RpcErrorKind::LeaseGone, request).await;
        assert_eq!((answer.unwrap(), start.elapsed()), (2, MS * 1801));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_to_the_first_request_is_used() {
        let request = || after(MS * 9000, Ok(1));
        let first = after(MS * 2000, Ok(0));
        let answer = ask(first, Some(MS * 600), RpcErrorKind::LeaseGone, request).await;
        assert_eq!(answer.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_counts_when_no_other_request_is_waited_for() {
        let request = || after(MS * 1000, Ok(1));
        for (kind, after_ms, answered) in [
            (RpcErrorKind::Broken, 100, false),
            (RpcErrorKind::Broken, 700, true),
            (RpcErrorKind::LeaseGone, 700, false),
        ] {
            let first = after(MS * after_ms, failed(kind));
            let answer = ask(first, Some(MS * 600), RpcErrorKind::LeaseGone, request).await;
            assert_eq!(answer.is_ok(), answered, "{kind:?} after {after_ms} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_only_member_is_asked_once() {
        let request = || -> Call<Result<u32, RpcError>> { panic!("asked again") };
        let first = after(MS * 60_000, Ok(0));
        let answer = ask(first, None, RpcErrorKind::LeaseGone, request).await;
        assert_eq!(answer.unwrap(), 0);
    }
}
