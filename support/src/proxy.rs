//! A bad network: a TCP proxy on loopback whose behaviour changes at run time.
//!
//! ```text
//! client -> [accept] -> reader -> (due, bytes) -> writer -> etcd
//!                       writer <- (due, bytes) <- reader <-
//! ```
//!
//! Bytes are held back, never lost, as with TCP when a network comes back. So the bytes that
//! `BlackHole` and `DropReplies` have held back arrive on the return to `Forward`.

mod pump;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::ports;
pub use pump::Mode;
use pump::{Counts, Steering, connection};

/// A proxy in front of one address. Dropping it closes everything.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    steering: watch::Sender<Steering>,
    counts: Arc<Counts>,
    task: AbortHandle,
}

impl Proxy {
    /// A proxy that forwards to `upstream`.
    pub async fn start(upstream: SocketAddr) -> Self {
        let (port, listener) = bind_somewhere().await;
        let steering = watch::Sender::new(Steering::default());
        let counts = Arc::<Counts>::default();
        let proxy = accept(listener, upstream, steering.subscribe(), counts.clone());
        let task = tokio::spawn(proxy).abort_handle();
        Self {
            port,
            steering,
            counts,
            task,
        }
    }

    /// A proxy in front of a port on loopback.
    pub async fn to_port(port: u16) -> Self {
        Self::start(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
    }

    /// What clients dial, `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Changes what the network does, from now on, for all connections.
    pub fn set(&self, mode: Mode) {
        self.steering.send_modify(|steering| {
            steering.mode = mode;
            if mode == Mode::Refuse {
                steering.resets += 1;
            }
        });
    }

    /// Resets the existing connections, once.
    pub fn reset(&self) {
        self.steering.send_modify(|steering| steering.resets += 1);
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }

    /// Connections that have ever been accepted.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// Bytes delivered to the server so far.
    pub fn bytes_up(&self) -> u64 {
        self.counts.up.load(Ordering::Relaxed)
    }

    /// Bytes delivered to the client so far.
    pub fn bytes_down(&self) -> u64 {
        self.counts.down.load(Ordering::Relaxed)
    }
}

/// The connections end when their control channel is dropped.
impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens, except while connections are to be refused.
async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    mut steering: watch::Receiver<Steering>,
    counts: Arc<Counts>,
) {
    let own = listener.local_addr();
    let own = own.unwrap_or_else(|e| panic!("a listener without an address: {e}"));
    let mut listener = Some(listener);
    loop {
        let refuse = steering.borrow_and_update().mode == Mode::Refuse;
        match (&listener, refuse) {
            (Some(_), true) => listener = None,
            (None, false) => listener = Some(bind_again(own).await),
            _ => {}
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // First: a connection that came after `Refuse` must not get in.
            biased;
            changed = steering.changed() => if changed.is_err() { return },
            Ok((client, _)) = accepted => {
                counts.accepted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(connection(client, upstream, steering.clone(), counts.clone()));
            }
        }
    }
}

async fn bind_somewhere() -> (u16, TcpListener) {
    for _ in 0..20 {
        let addr = ports::free_addr();
        if let Ok(listener) = TcpListener::bind(addr).await {
            return (addr.port(), listener);
        }
    }
    panic!("the proxy found no port to bind")
}

/// The port is ours, but a connection that is being reset may hold it for a moment.
async fn bind_again(addr: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(addr).await {
            Ok(listener) => return listener,
            Err(_in_use) => sleep(Duration::from_millis(5)).await,
        }
    }
}
