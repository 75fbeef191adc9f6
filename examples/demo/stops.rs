//! [`Stops`]: the tokens that SIGTERM cancels.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The tokens that SIGTERM cancels.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stops {
    /// Stops the server: the application's own shutdown token.
    pub(crate) server: CancellationToken,
    /// The demo is about to send SIGTERM to itself.
    pub(crate) server_only: Arc<AtomicBool>,
    /// Stops the demo.
    pub(crate) demo: CancellationToken,
}

// === impl Stops ===

impl Stops {
    pub(crate) fn listen(&self) -> std::io::Result<()> {
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        tokio::spawn(self.clone().sort(interrupt, terminate));
        Ok(())
    }

    async fn sort(self, mut interrupt: Signal, mut terminate: Signal) {
        loop {
            tokio::select! {
                _ = interrupt.recv() => self.demo.cancel(),
                _ = terminate.recv() => match self.server_only.swap(false, Ordering::AcqRel) {
                    true => self.server.cancel(),
                    false => self.demo.cancel(),
                },
            }
        }
    }
}
