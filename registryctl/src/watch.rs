//! `registryctl watch`: shows the registered servers and every change, until ctrl-c.

use crate::failure::Failure;
use crate::follow::follow;
use crate::output::print;
use crate::scope::Scope;
use crate::screen::Screen;
use crate::source::Source;
use crate::view::View;
use futures_util::FutureExt as _;
use futures_util::future::select_all;
use std::io::{self, IsTerminal, stdout};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

/// How often ages and remaining times are redrawn without changes.
const TICK: Duration = Duration::from_secs(1);
/// How many pending updates are applied before the next redraw.
const AT_ONCE: usize = 64;

pub(crate) async fn run(source: Source, scope: Scope) -> Result<(), Failure> {
    let stop = stopped()?;
    let mut view = View::new(scope);
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let wants_screen = stdout().is_terminal() && !dumb;
    let screen = wants_screen.then(Screen::enter).transpose()?;
    let shown = show(source, &mut view, screen.as_ref(), stop).await;
    if let Some(screen) = screen {
        screen.leave(&view)?;
    }
    Ok(shown?)
}

/// Shows the watch until a signal, or until the reader closes the pipe: on the screen, or a line for each change.
async fn show(
    source: Source,
    view: &mut View,
    screen: Option<&Screen>,
    mut stop: impl Future<Output = ()> + Unpin,
) -> io::Result<()> {
    let start = Instant::now();
    let (sender, mut updates) = mpsc::channel(AT_ONCE);
    let (wanted, leases) = watch::channel(vec![]);
    let follower = tokio::spawn(follow(source, sender, leases));
    let _follower = AbortOnDropHandle::new(follower);
    let mut resized = signal(SignalKind::window_change())?;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut batch = vec![];
    loop {
        if let Some(screen) = screen {
            wanted.send_replace(screen.draw(view)?);
        }
        tokio::select! {
            biased;
            () = &mut stop => break,
            count = updates.recv_many(&mut batch, AT_ONCE) => if count == 0 { break },
            _ = resized.recv() => {}
            _ = tick.tick() => {}
        }
        for update in batch.drain(..) {
            let lines = view.apply(update, Instant::now());
            if screen.is_none() {
                let at = start.elapsed().as_secs_f64();
                let lines = lines.into_iter();
                print(lines.map(|(sign, text)| format!("{at:>10.3} {sign} {text}")))?;
            }
        }
    }
    Ok(())
}

/// Resolves at the first signal that ends a watch.
fn stopped() -> io::Result<impl Future<Output = ()> + Unpin> {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let signals: Vec<_> = kinds.into_iter().map(signal).collect::<io::Result<_>>()?;
    let received = |mut signal: Signal| Box::pin(async move { signal.recv().await });
    Ok(select_all(signals.into_iter().map(received)).map(drop))
}
