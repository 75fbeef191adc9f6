//! The signals that stop the process: the first one gracefully, the second one without waits.

use crate::error::BuildError;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Starts a task that cancels the first token on the first signal, and the second on the second.
pub(crate) fn cancel_on_signals(tokens: [CancellationToken; 2]) -> Result<(), BuildError> {
    let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
    let mut signals = Signals::new().map_err(|source| BuildError::Signals { source })?;
    runtime.spawn(forward(move |cx| signals.poll_recv(cx), tokens));
    Ok(())
}

/// Only signals are counted. The first signal does not skip the waits of a shutdown that the application began,
/// such as in a hook that runs before the orchestrator's SIGTERM.
async fn forward<F>(mut next: F, tokens: [CancellationToken; 2])
where
    F: FnMut(&mut Context<'_>) -> Poll<&'static str>,
{
    let what = ["shutting down", "shutting down without waiting"];
    for (token, what) in tokens.into_iter().zip(what) {
        let signal = poll_fn(&mut next).await;
        crate::logging::info!(signal, "{what}");
        token.cancel();
    }
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        if let Poll::Ready(Some(())) = self.terminate.poll_recv(cx) {
            return Poll::Ready("SIGTERM");
        }
        match self.interrupt.poll_recv(cx) {
            Poll::Ready(Some(())) => Poll::Ready("SIGINT"),
            _ => Poll::Pending,
        }
    }
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn new() -> io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        match self.0.poll_recv(cx) {
            Poll::Ready(Some(())) => Poll::Ready("Ctrl-C"),
            _ => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;
    use tokio::time::{Duration, sleep};

    #[tokio::test(start_paused = true)]
    async fn the_first_signal_cancels_one_token_and_the_second_the_other() {
        // The application's own shutdown is no signal.
        for began_before in [false, true] {
            let tokens = [CancellationToken::new(), CancellationToken::new()];
            let [first, second] = tokens.clone();
            let (send, mut receive) = mpsc::unbounded_channel();
            let next = move |cx: &mut Context<'_>| match receive.poll_recv(cx) {
                Poll::Ready(Some(signal)) => Poll::Ready(signal),
                _ => Poll::Pending,
            };
            let forwarding = tokio::spawn(forward(next, tokens));
            if began_before {
                first.cancel();
            }
            let wait = || sleep(Duration::from_secs(1));
            wait().await;
            assert_eq!(first.is_cancelled(), began_before);
            send.send("SIGTERM").unwrap();
            wait().await;
            assert!(first.is_cancelled() && !second.is_cancelled());
            send.send("SIGINT").unwrap();
            forwarding.await.unwrap();
            assert!(second.is_cancelled());
        }
    }
}
