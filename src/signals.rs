//! The signals that stop the process: the first one gracefully, the second one without waits.

use crate::error::BuildError;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Starts a task that cancels the first token on the first signal, and the second on the second.
pub(crate) fn cancel_on_signals(tokens: [CancellationToken; 2]) -> Result<(), BuildError> {
    let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
    let signals = Signals::new().map_err(|source| BuildError::Signals { source })?;
    // Made here and not in the task, because a runtime may end before it has polled the task once.
    let rest = Rest(tokens.into_iter().zip(ACTIONS).collect());
    runtime.spawn(forward(signals, rest));
    Ok(())
}

/// The signals that are still waited for: each cancels a token.
///
/// tokio's handlers stay when a runtime ends, and nobody would read them: the process would ignore SIGTERM. So a
/// thread takes over then.
struct Rest(VecDeque<(CancellationToken, &'static str)>);

const ACTIONS: [&str; 2] = ["shutting down", "shutting down without waiting"];

async fn forward(mut signals: Signals, rest: Rest) {
    forward_from(move |cx| signals.poll_recv(cx), rest).await;
}

/// Only signals are counted. The first signal does not skip the waits of a shutdown that the application began,
/// such as in a hook that runs before the orchestrator's SIGTERM.
async fn forward_from<F>(mut next: F, mut rest: Rest)
where
    F: FnMut(&mut Context<'_>) -> Poll<&'static str>,
{
    while !rest.0.is_empty() {
        let signal = poll_fn(&mut next).await;
        if let Some((token, what)) = rest.0.pop_front() {
            crate::logging::info!(signal, "{what}");
            token.cancel();
        }
    }
}

// === impl Rest ===

impl Drop for Rest {
    fn drop(&mut self) {
        let rest = std::mem::take(&mut self.0);
        if rest.iter().any(|(token, _)| !token.is_cancelled()) {
            let thread = std::thread::Builder::new().name("tonic-etcd-signals".to_owned());
            let _no_thread = thread.spawn(move || forward_here(rest));
        }
    }
}

fn forward_here(mut rest: VecDeque<(CancellationToken, &'static str)>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let Ok(runtime) = builder.enable_all().build() else {
        return;
    };
    runtime.block_on(async {
        if let Ok(signals) = Signals::new() {
            forward(signals, Rest(std::mem::take(&mut rest))).await;
        }
    });
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
            let rest = Rest(tokens.into_iter().zip(ACTIONS).collect());
            let forwarding = tokio::spawn(forward_from(next, rest));
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

    #[cfg(unix)]
    #[test]
    fn signals_are_not_swallowed_once_the_runtime_has_ended() {
        let tokens = [CancellationToken::new(), CancellationToken::new()];
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let enter = runtime.enter();
        cancel_on_signals(tokens.clone()).unwrap();
        drop(enter);
        drop(runtime);
        let interrupt = format!("kill -INT {}; sleep 0.1", std::process::id());
        for _ in 0..200 {
            // The thread may not listen yet.
            let mut shell = std::process::Command::new("sh");
            assert!(shell.args(["-c", &interrupt]).status().unwrap().success());
            if tokens.iter().all(CancellationToken::is_cancelled) {
                return;
            }
        }
        panic!("{tokens:?}");
    }
}
