//! [`isolated`]: calls the application's code from our tasks. [`in_current_span`]: runs our tasks in its spans.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use tracing::Span;

/// A span of the application.
///
/// A subscriber may write a line whenever a span is entered, left or closed, and may panic each time. With
/// tracing's own `Instrumented` such a panic ends the task. In its drop it aborts the
/// process.
#[derive(Debug)]
pub(crate) struct IsolatedSpan {
    /// `None` only while it is dropped.
    span: Option<Span>,
    has_panicked: AtomicBool,
}

/// Runs `call`, which writes a log line or wakes a reader, and catches a panic in it.
///
/// Subscribers and executors are the application's code. tracing-subscriber's default writer panics
/// at each line once stderr is closed (`server 2>&1 | head -3`). Our tasks must
/// not end because of that, nor start again at each line.
pub(crate) fn isolated(call: impl FnOnce()) {
    // Ignored: it could only be reported in another log line.
    let _panicked = catch_unwind(AssertUnwindSafe(call));
}

/// Runs `task` in the current span. Cancel safe if `task` is.
pub(crate) fn in_current_span<F: Future>(task: F) -> impl Future<Output = F::Output> {
    IsolatedSpan::current().instrument(task)
}

// === impl IsolatedSpan ===

impl IsolatedSpan {
    pub(crate) fn current() -> Arc<Self> {
        static NO_SPAN: LazyLock<Arc<IsolatedSpan>> = LazyLock::new(|| IsolatedSpan::of(None));

        let mut span = None;
        isolated(|| span = Some(Span::current()).filter(|span| !span.is_none()));
        match span {
            // Shared, to save memory with ten thousand registrations.
            None => NO_SPAN.clone(),
            span => Self::of(span),
        }
    }

    fn of(span: Option<Span>) -> Arc<Self> {
        let has_panicked = AtomicBool::new(false);
        Arc::new(Self { span, has_panicked })
    }

    /// Runs `task` in it. Cancel safe if `task` is.
    pub(crate) async fn instrument<F: Future>(self: Arc<Self>, task: F) -> F::Output {
        let mut task = pin!(task);
        poll_fn(|context| self.in_scope(|| task.as_mut().poll(context))).await
    }

    /// Runs `call` in it, or without it once its subscriber has panicked. Panics only if `call` does.
    pub(crate) fn in_scope<T>(&self, call: impl FnOnce() -> T) -> T {
        let has_panicked = self.has_panicked.load(Ordering::Relaxed);
        let Some(span) = self.span.as_ref().filter(|_| !has_panicked) else {
            return call();
        };
        let entered = catch_unwind(AssertUnwindSafe(|| span.enter()));
        if entered.is_err() {
            // Do not enter it again: tower would otherwise do so for each request.
            self.has_panicked.store(true, Ordering::Relaxed);
            isolated(|| {
                span.with_subscriber(|(id, subscriber)| subscriber.exit(id));
            });
        }
        let result = catch_unwind(AssertUnwindSafe(call));
        isolated(|| drop(entered.ok()));
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for IsolatedSpan {
    fn drop(&mut self) {
        isolated(|| drop(self.span.take()));
    }
}
