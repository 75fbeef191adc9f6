//! Free loopback ports, outside the range the kernel hands out by itself.
//!
//! [`free`] returns a port that nobody listens on *now*. Another process can still take it before the bind. So the range is
//! wide, the choice is random, and callers retry with another port (see `Etcd::start`). Within this process a port is
//! returned only once.
//!
//! Why not port 0: Linux chooses from 32768-60999, and uses the same range for the source ports of outgoing connections.
//! A server that is killed and must come back on the same port would sometimes find it in use by a client.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Below what the kernel uses on its own, above what well-known servers use.
pub const RANGE: Range<u16> = 20_000..32_000;

/// What this process has handed out already; a port is never handed out twice.
static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A loopback port that nobody listens on, reserved within this process.
///
/// # Panics
/// When a thousand random picks were all in use.
pub fn free() -> u16 {
    for _ in 0..1000 {
        let port = fastrand::u16(RANGE);
        if reserve(port) && is_free(port) {
            return port;
        }
    }
    panic!(
        "no free port between {} and {}: are there leftover processes?",
        RANGE.start, RANGE.end
    )
}

/// A loopback address with a [`free`] port.
pub fn free_addr() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free()))
}

/// A loopback port on which nothing will listen while this process lives: connections to it are refused.
pub fn closed() -> u16 {
    free()
}

fn reserve(port: u16) -> bool {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    taken.get_or_insert_default().insert(port)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
