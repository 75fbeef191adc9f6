//! `registryctl watch`: shows the registered servers and every change, until ctrl-c.

use crate::failure::Failure;
use crate::follow::{Update, follow};
use crate::registry::{Change, Registry};
use crate::scope::Scope;
use crate::screen::{Lines, Outage, Screen, Sink, View};
use crate::source::{Event, Source, Ttls};
use futures_util::FutureExt as _;
use futures_util::future::select_all;
use std::collections::BTreeSet;
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
/// The most different reasons of one outage.
const REASONS: usize = 8;

pub(crate) async fn run(source: Source, scope: Scope) -> Result<(), Failure> {
    let stop = stopped()?;
    let mut view = View::new(scope);
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if stdout().is_terminal() && !dumb {
        let screen = Screen::enter()?;
        let shown = show(source, &mut view, &screen, stop).await;
        screen.leave(&view)?;
        Ok(shown?)
    } else {
        Ok(show(source, &mut view, &Lines::new(), stop).await?)
    }
}

/// Shows the watch until a signal, or until the reader closes the pipe.
async fn show(
    source: Source,
    view: &mut View,
    sink: &impl Sink,
    mut stop: impl Future<Output = ()> + Unpin,
) -> io::Result<()> {
    let (sender, mut updates) = mpsc::channel(AT_ONCE);
    let (wanted, leases) = watch::channel(vec![]);
    let follower = tokio::spawn(follow(source, sender, leases));
    let _follower = AbortOnDropHandle::new(follower);
    let mut resized = signal(SignalKind::window_change())?;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut batch = vec![];
    loop {
        wanted.send_replace(sink.draw(view)?);
        tokio::select! {
            biased;
            () = &mut stop => break,
            count = updates.recv_many(&mut batch, AT_ONCE) => if count == 0 { break },
            _ = resized.recv() => {}
            _ = tick.tick() => {}
        }
        for update in batch.drain(..) {
            view.take(update, sink)?;
        }
    }
    Ok(())
}

// === impl View ===

impl View {
    fn new(scope: Scope) -> Self {
        let (registry, ttls) = (Registry::default(), Ttls::new());
        Self {
            scope,
            registry,
            ttls,
            endpoint: None,
            outage: None,
        }
    }

    fn take(&mut self, update: Update, sink: &impl Sink) -> io::Result<()> {
        let now = Instant::now();
        match update {
            Update::Listed { endpoint, entries } => {
                if let Some(outage) = self.outage.take() {
                    sink.recovered(&outage, &endpoint)?;
                }
                self.endpoint = Some(endpoint);
                for change in self.registry.listed(entries, now) {
                    sink.changed(&change, &self.scope)?;
                }
            }
            Update::Happened(events) => {
                for event in events {
                    let change: Option<Change> = match event {
                        Event::Put(entry) => Some(self.registry.put(entry, now)),
                        Event::Delete(key) => self.registry.delete(&key),
                    };
                    if let Some(change) = change {
                        sink.changed(&change, &self.scope)?;
                    }
                }
            }
            Update::Left(ttls) => self.ttls = ttls,
            Update::Outage(why) => {
                // The remaining times are not known any more: etcd may extend leases, or not come back.
                self.ttls.clear();
                let outage = self.outage.get_or_insert_with(|| Outage {
                    since: now,
                    why: String::new(),
                    whys: BTreeSet::new(),
                });
                outage.why = why.clone();
                if outage.whys.len() < REASONS && outage.whys.insert(why) {
                    sink.on_outage(outage)?;
                }
            }
        }
        Ok(())
    }
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
