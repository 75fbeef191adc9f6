//! Ids that no other process draws: from the kernel, each time.
//!
//! fastrand goes on from what is in memory, so that two virtual machines that were started from one
//! snapshot would draw the same. The kernel mixes in anew what differs (Linux 5.18 and later: at once, as
//! the hypervisor tells it of the snapshot). fastrand is for jitter and for choices between endpoints.

use std::cell::Cell;

thread_local!(static IS_REPEATABLE: Cell<bool> = const { Cell::new(false) });

/// Only for tests that run a seed again: ids that this thread draws come from fastrand.
#[doc(hidden)]
pub fn repeatable_in_this_thread() {
    IS_REPEATABLE.set(true);
}

/// 64 random bits for an id; from `seeded` where ids are to be repeatable.
pub(crate) fn id(seeded: impl FnOnce() -> u64) -> u64 {
    let random = (!IS_REPEATABLE.get()).then(|| getrandom::u64().ok());
    // No system that tokio runs on has no randomness; and a registration is worth more than a good id.
    random.flatten().unwrap_or_else(seeded)
}
