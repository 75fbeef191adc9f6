//! Ids that no other process draws: from the kernel, each time.
//!
//! fastrand goes on from what is in memory, so that two virtual machines that were started from one
//! snapshot would draw the same. The kernel mixes in anew what differs (Linux 5.18 and later: at once, as
//! the hypervisor tells it of the snapshot). fastrand is for jitter and for choices between endpoints.

#[cfg(feature = "test-util")]
thread_local!(static IS_REPEATABLE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });

/// From now on, ids that this thread draws come from [fastrand](https://docs.rs/fastrand), so that a test
/// which seeds it can run again.
///
/// Without it they come from the kernel. With several threads a runtime decides who draws what: it is for
/// current-thread runtimes.
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
    // No system that tokio runs on has no randomness; and a registration is worth more than a good id.
    getrandom::u64().unwrap_or_else(|_| seeded())
}
