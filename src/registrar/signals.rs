//! The signals that stop the process: the first one gracefully, the second one without waits, the third one as without
//! a handler.
//!
//! Signals within [`SAME_REQUEST`] are one request. A stop of a process group often sends a signal twice, to the process and to
//! its group (GNU `timeout`), or SIGINT and then SIGTERM (Ctrl-C to a group, whose leader then stops its children). docker,
//! systemd and Kubernetes send one SIGTERM, and SIGKILL after their own time limit.
//!
//! A thread of its own waits for signals: they must stop the process also when the runtime of the application has ended, or
//! when handlers block every thread of it.

use crate::error::BuildError;
use crate::runtime::isolated::isolated;
use crate::runtime::lock::Lock;
use std::future::poll_fn;
use std::io;
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread::Builder;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What the signals of this process stop.
static STOPS: Lock<Stops> = Lock::new(Stops::new(SAME_REQUEST));

#[derive(Debug)]
struct Stops {
    stops: Vec<Stop>,
    is_started: bool,
    same_request: Duration,
    /// When the last request came.
    last: Option<Instant>,
}

/// The tokens of one registrar, and how many of them a signal has cancelled.
#[derive(Debug)]
struct Stop {
    tokens: [CancellationToken; 2],
    signals: usize,
}

/// What a signal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It begins a stop, or skips its waits.
    Stops(&'static str),
    /// Nothing is left to stop: it ends the process.
    Ends,
}

/// Signals that come within this time of the first one are one request.
const SAME_REQUEST: Duration = Duration::from_millis(200);
const EFFECTS: [&str; 2] = ["shutting down", "shutting down without waiting"];
/// How long a subscriber that blocks may delay a stop.
const LOG_LIMIT: Duration = Duration::from_millis(100);

/// The first request from now on cancels the first token, and the second request the second one. A request that cancels
/// no token any more ends the process.
pub(crate) fn cancel_on_signals(tokens: [CancellationToken; 2]) -> Result<(), BuildError> {
    let mut stops = STOPS.lock();
    if !stops.is_started {
        start().map_err(|source| BuildError::Signals { source })?;
        stops.is_started = true;
    }
    stops.add(tokens);
    Ok(())
}

/// Starts the thread. Returns once the handlers are installed.
fn start() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::new()?
    };
    let forward = async move {
        loop {
            let signal = poll_fn(|cx| signals.poll_recv(cx)).await;
            if !STOPS.lock().is_request(Instant::now()) {
                continue;
            }
            match STOPS.lock().effect() {
                Effect::Stops(what) => log(signal, what),
                Effect::Ends => end(signal),
            }
            // Not under the lock: tasks that wait for a token are woken here.
            let tokens = STOPS.lock().take();
            for token in tokens {
                isolated(|| token.cancel());
            }
            // The line above may have taken 100 ms. What came meanwhile came with the signal.
            STOPS.lock().last = Some(Instant::now());
        }
    };
    let thread = Builder::new().name("signals".to_owned());
    thread.spawn(move || runtime.block_on(forward)).map(drop)
}

/// Logs, in a thread of its own: a subscriber whose writer blocks must not keep the signals from working.
fn log(signal: Signal, what: &'static str) {
    let (logged, wait) = mpsc::channel::<()>();
    let line = move || {
        let _logged = logged;
        crate::runtime::logging::info!(signal = signal.name(), "{what}");
    };
    if Builder::new().spawn(line).is_ok() {
        // It is disconnected once the line is written.
        let _ = wait.recv_timeout(LOG_LIMIT);
    }
}

// === impl Stops ===

impl Stops {
    const fn new(same_request: Duration) -> Self {
        Self {
            stops: vec![],
            is_started: false,
            same_request,
            last: None,
        }
    }

    fn add(&mut self, tokens: [CancellationToken; 2]) {
        let stop = Stop { tokens, signals: 0 };
        self.stops.push(stop);
    }

    /// Whether a signal that comes now is a request of its own.
    fn is_request(&mut self, now: Instant) -> bool {
        let is_same = |last| now.saturating_duration_since(last) < self.same_request;
        if self.last.is_some_and(is_same) {
            return false;
        }
        self.last = Some(now);
        true
    }

    /// What the next request does.
    ///
    /// Only signals are counted. The first signal does not skip the waits of a shutdown that the application began,
    /// such as in a hook that runs before the orchestrator's SIGTERM.
    fn effect(&self) -> Effect {
        let signals = self.stops.iter().map(|stop| stop.signals).min();
        match signals.and_then(|count| EFFECTS.get(count)) {
            Some(what) => Effect::Stops(what),
            None => Effect::Ends,
        }
    }

    /// The tokens that a request cancels.
    fn take(&mut self) -> Vec<CancellationToken> {
        let tokens = self.stops.iter_mut().map(|stop| {
            stop.signals += 1;
            stop.tokens[stop.signals - 1].clone()
        });
        let tokens = tokens.collect();
        self.stops.retain(|stop| stop.signals < EFFECTS.len());
        tokens
    }
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    #[cfg(unix)]
    Terminate,
    Interrupt,
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

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        if let Poll::Ready(Some(())) = self.terminate.poll_recv(cx) {
            return Poll::Ready(Signal::Terminate);
        }
        match self.interrupt.poll_recv(cx) {
            Poll::Ready(Some(())) => Poll::Ready(Signal::Interrupt),
            _ => Poll::Pending,
        }
    }
}

#[cfg(unix)]
impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }
}

/// Ends the process by the signal, as if it had no handler.
#[cfg(unix)]
fn end(signal: Signal) {
    use tokio::signal::unix::SignalKind;
    let kind = match signal {
        Signal::Terminate => SignalKind::terminate(),
        Signal::Interrupt => SignalKind::interrupt(),
    };
    let _ = signal_hook::low_level::emulate_default_handler(kind.as_raw_value());
    // It failed.
    signal_hook::low_level::exit(128 + kind.as_raw_value());
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn new() -> io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        match self.0.poll_recv(cx) {
            Poll::Ready(Some(())) => Poll::Ready(Signal::Interrupt),
            _ => Poll::Pending,
        }
    }
}

#[cfg(windows)]
impl Signal {
    fn name(self) -> &'static str {
        "Ctrl-C"
    }
}

/// Ends the process with the code of Ctrl-C, `STATUS_CONTROL_C_EXIT`.
#[cfg(windows)]
fn end(_: Signal) {
    std::process::exit(0xC000_013A_u32 as i32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Stops {
        Stops::new(SAME_REQUEST)
    }

    fn cancel(stops: &mut Stops) {
        stops.take().iter().for_each(CancellationToken::cancel);
    }

    fn tokens() -> [CancellationToken; 2] {
        [CancellationToken::new(), CancellationToken::new()]
    }

    #[test]
    fn each_of_the_first_two_signals_cancels_its_token_and_the_third_ends() {
        // The application's own shutdown is no signal.
        for began_before in [false, true] {
            let mut stops = none();
            let [first, second] = tokens();
            stops.add([first.clone(), second.clone()]);
            if began_before {
                first.cancel();
            }
            for (effect, is_second) in EFFECTS.into_iter().zip([false, true]) {
                assert_eq!(stops.effect(), Effect::Stops(effect));
                cancel(&mut stops);
                assert!(first.is_cancelled());
                assert_eq!(second.is_cancelled(), is_second);
            }
            for _ in 0..2 {
                assert_eq!(stops.effect(), Effect::Ends);
                cancel(&mut stops);
            }
        }
    }

    #[test]
    fn signals_within_200_ms_are_one_request() {
        let (mut stops, start) = (none(), Instant::now());
        for (ms, is_request) in [
            (0, true),
            (0, false),
            (100, false),
            (199, false),
            (200, true),
            (399, false),
            (400, true),
            (60_000, true),
        ] {
            let now = start + Duration::from_millis(ms);
            assert_eq!(stops.is_request(now), is_request, "{ms} ms");
        }
    }

    /// The runtime in which the registrar was built may end before the process does.
    #[cfg(unix)]
    #[test]
    fn signals_are_not_swallowed_once_the_runtime_has_ended() {
        STOPS.lock().same_request = Duration::ZERO;
        let built_in = tokio::runtime::Runtime::new().unwrap();
        let tokens = tokens();
        built_in
            .block_on(async { cancel_on_signals(tokens.clone()) })
            .unwrap();
        drop(built_in);
        let waiting = tokio::runtime::Runtime::new().unwrap();
        // Not one more: the third signal ends the process.
        for token in tokens {
            signal_hook::low_level::raise(signal_hook::consts::SIGINT).unwrap();
            let cancelled = async { tokio::time::timeout(LIMIT, token.cancelled()).await };
            waiting.block_on(cancelled).unwrap();
        }
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_registrar_made_after_a_stop_is_stopped_by_the_next_signals() {
        let mut stops = none();
        stops.add(tokens());
        cancel(&mut stops);
        cancel(&mut stops);
        let [first, second] = tokens();
        stops.add([first.clone(), second.clone()]);
        assert_eq!(stops.effect(), Effect::Stops(EFFECTS[0]));
        cancel(&mut stops);
        assert!(first.is_cancelled() && !second.is_cancelled());
        stops.add(tokens());
        assert_eq!(stops.effect(), Effect::Stops(EFFECTS[0]));
        cancel(&mut stops);
        assert!(second.is_cancelled());
        assert_eq!(stops.effect(), Effect::Stops(EFFECTS[1]));
        cancel(&mut stops);
        assert_eq!(stops.effect(), Effect::Ends);
        assert!(stops.stops.is_empty());
    }
}
