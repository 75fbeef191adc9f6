//! [`Lock`]: a mutex that is not poisoned by a panic.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic of the holder changes nothing for the next one. The guarded data is consistent after each statement, and
/// a registration must survive a panic, which may come from the application's code.
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
