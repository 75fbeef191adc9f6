//! Ids that no other process draws: each comes from the kernel.
//!
//! fastrand continues from a state in memory, so two virtual machines that were started from one
//! snapshot would draw the same ids. The kernel adds new entropy, on Linux 5.18 and later as soon as
//! the hypervisor notifies it of the snapshot. fastrand is for jitter and for choices between endpoints.

#[cfg(feature = "test-util")]
thread_local!(static IS_REPEATABLE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });

/// From now on, ids that this thread draws come from [fastrand](https://docs.rs/fastrand), so that a test
/// that seeds fastrand can be repeated.
///
/// Otherwise ids come from the kernel. It is for current-thread runtimes, because with several threads the
/// order of draws is not fixed.
#[cfg(feature = "test-util")]
pub fn repeatable_ids() {
    IS_REPEATABLE.set(true);
}

/// 64 random bits for an id; from `seeded` where ids are to be repeatable.
pub(crate) fn id(seeded: impl FnOnce() -> u64) -> u64 {
    #[cfg(feature = "test-util")]
    if IS_REPEATABLE.get() {
        return seeded();
    }
    // Every system that tokio supports has randomness. Without it, a weak id is better than no registration.
    getrandom::u64().unwrap_or_else(|_| seeded())
}
