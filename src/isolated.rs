//! [`isolated`]: the application's code, called by our tasks. [`in_current_span`]: our tasks, in its spans.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use tracing::Span;

/// A span of the application's.
///
/// A subscriber may write a line whenever a span is entered, left or closed, and panic each time as with
/// every other line. Of tracing's own `Instrumented` that ends the task, and aborts the process when it is
/// dropped.
#[derive(Debug)]
pub(crate) struct IsolatedSpan {
    /// There until it is dropped.
    span: Option<Span>,
    has_panicked: AtomicBool,
}

/// Runs `call`, which writes a log line or wakes a reader, and survives a panic in it.
///
/// Subscribers and executors are the application's code. tracing-subscriber's default writer panics
/// when nobody reads stderr any more (`server 2>&1 | head -3`), and does so at each line from then
/// on: a task that keeps something true must outlive that without starting over each time.
pub(crate) fn isolated(call: impl FnOnce()) {
    // There is nothing to do about it, and nowhere to say so but in another line.
    let _panicked = catch_unwind(AssertUnwindSafe(call));
}

/// Runs `task` in the span of now. Cancel safe if `task` is.
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
            // Shared: each of ten thousand registrations would have one of its own.
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
            // It counts as entered all the same, and tower would enter it again for each request.
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
