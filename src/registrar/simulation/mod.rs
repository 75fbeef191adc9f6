//! The reconciler and a model of etcd, in random order: no gRPC, no runtime, no real time.
//!
//! A seed draws a configuration and then events:
//!
//! * requests that arrive, are lost, are answered late, or are applied after they were given up;
//! * renewals that are late while reads of the lease are answered;
//! * time that passes, and a process that is frozen;
//! * other clients that change keys and leases;
//! * an etcd that hangs, denies, is full, forgets tokens, loses its data or is restored;
//! * handles that register, announce, change and leave;
//! * a key that passes from one entry to another in one event, and entries that want the same key;
//! * a worker that panics.
//!
//! The invariants of `check.rs` are checked after each event. Between the faults there are quiet periods,
//! after which etcd must have the desired state. Each run ends with a stop.
//!
//! `make simulate EVENTS=10000000 SEED=0` runs many seeds; `make simulate EVENTS=0 SEED=7` runs one
//! seed again, and prints all events before a violation.
//!
//! # Bugs that it found when they were put back
//!
//! Each bug was put into the code. The debug build ran from seed 0 for at most 300,000 events (1,200,000 for the
//! five bugs about pauses). The seed is the first one that failed. The soak had found the first ten
//! (`tests/fast/soak/`). Late renewals, and later keys
//! that pass to another entry and addresses that change, changed the run of every seed: the seeds of the last four bugs are
//! from after that. The bug at 58632 was looked for from seed 50,000 on, the one at 1071 in every 16th seed, in which all
//! values are equal.
//!
//! | the bug | seed | what was violated |
//! |---|---|---|
//! | entries that leave wait for the revoke of those that leave later | 10 | I8 |
//! | a stop while a grant is under way takes half a revoke timeout more | 4294967472 | I10 |
//! | a write that was given up is not expected to be applied any more | 7 | I1 |
//! | a rewrite is due before the lease is confirmed | 7 | I8 |
//! | a lease that exists already counts as granted just now | 2 | I6 |
//! | a key that may not be read is forgotten and not deleted | 32 | I2 |
//! | a key at an unknown revision is forgotten and not deleted | 82 | I1 |
//! | a key at an unknown revision counts as lost | 6 | I2 |
//! | the end of a lease also ends the connection | 0 | I8 |
//! | a lease that could not be revoked is forgotten | 0 | I7 |
//! | the expiry of the lease is handled after an answer, not before | 146 | I6 |
//! | a panic of the worker forgets the lease | 3 | I5 |
//! | a lease id that another client has counts as ours at the first request | 3 | I6 |
//! | health is not waited for before the key goes | 0 | health |
//! | an entry counts as registered by the key of the one before it | 61 | I1 |
//! | a key that may not be read is still yielded | 4294967557 | I1 |
//! | a key whose deletion is under way counts as held | 1035 | I1 |
//! | a key whose deletion was given up counts as held before it is read | 4294967397 | I1 |
//! | a pause is published, and the key stays | 1 | I4 |
//! | health is not waited for before the key goes in a pause | 1 | I13 |
//! | a key that is being written when its entry is paused is forgotten and not deleted | 1 | I1 |
//! | a read of the lease counts for the whole TTL, not for its remaining time | 0 | I6 |
//! | an entry that finds its key taken does not wait for it | 53 | I4 |
//! | an entry counts as registered by the write of the one that had the key | 353 | I1 |
//! | keys that were deleted are not read again after a lost connection, and a restored etcd has them | 173 | I1 |
//! | a key that was deleted, is desired again and is read as absent counts as deleted by others | 58632 | I1 |
//! | a put under way, of the value that the next entry desires, is not repeated for it | 1071 | I1 |
//! | a check of the watch that was denied is not repeated | 4294967431 | I1 |
//! | an attempt beside is given up when the late request is answered, and begun again for another one | 0 | I8 |
//!
//! Not handled, and left out here:
//!
//! * after a restore another client writes the key under our own lease, at a revision that we have seen before;
//! * a watch that was denied is not requested again on the same connection.

mod chaos;
mod check;
mod drive;
mod etcd;
mod world;
