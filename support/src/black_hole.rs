//! A network that drops everything, on loopback: a listener with a full backlog answers no connect.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// An address at which a connect gets no answer, not even a refusal.
#[derive(Debug)]
pub struct BlackHole {
    listener: TcpListener,
    queued: Vec<TcpStream>,
}

impl BlackHole {
    /// Needs the real clock.
    pub async fn open() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        let bound = socket.bind((Ipv4Addr::LOCALHOST, 0).into());
        bound.expect("a free port");
        let listener = socket.listen(1).expect("a listener");
        let mut hole = Self {
            listener,
            queued: Vec::new(),
        };
        let enough = Duration::from_millis(300);
        while let Ok(connected) = timeout(enough, TcpStream::connect(hole.addr())).await {
            hole.queued.push(connected.expect("a place in the queue"));
        }
        hole
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address")
    }
}
